"""Starts a worker with one of its safeguards switched off: `python mutants.py MUTANT`, in place of `python -m worker`.

An oracle that finds nothing proves nothing until it has been seen to find what is wrong. The safeguards are taken away
from outside: the text of scripts and modules is changed as they are loaded, methods are replaced. The product has no
switch for it.

- `fence`: no script asks whose token comes with a write, nor where its writer believes the log to end. The position
  alone stops nearly every stale owner: with only the token gone, one is let through where by chance it has as many
  events to write as its successor has written.
- `tail`: `append` does not ask where the writer believes the log to end.
- `renew`: no lease is ever extended, by `renew` or by `append`.
- `reap`: the reaper looks at nothing.

Of memory:

- `early`: an insert job tells of a batch before it is stored.
- `order`: whoever puts a document last wins, whichever job began later.
- `double`: whoever takes a job over begins with its first document, and chunks that the same job has put stay.
- `again`: what was found for a turn is read by the later turns of its session as well.
"""

import importlib.util
import sys
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha1
from pathlib import Path

MUTANTS = ("fence", "tail", "renew", "reap", "early", "order", "double", "again")
_HEARTBEAT = "heartbeat"

Edit = tuple[str, str]

_POSITION = "if turn.last ~= ARGV[{}] or turn.plast ~= ARGV[{}] then return {{'TAIL', turn.last, turn.plast}} end"

_FENCE: dict[str, list[Edit]] = {
    "append": [("turn.token ~= ARGV[3] or ", ""), (_POSITION.format(4, 5), "")],
    "pause": [("turn.token ~= ARGV[3] or ", ""), (_POSITION.format(4, 5), "")],
    "release": [("turn.token ~= ARGV[3] or ", "")],
    "renew": [("turn.token ~= ARGV[3] or ", "")],
    "finish": [("if turn.token ~= ARGV[4] then return {'FENCED'} end", ""), (_POSITION.format(5, 6), "")],
}
_TAIL: dict[str, list[Edit]] = {"append": [(_POSITION.format(4, 5), "")]}
_RENEW: dict[str, list[Edit]] = {
    "append": [
        ("'deadline', int(now + lease)", "'renewed', int(now + lease)"),
        ("redis.call('ZADD', KEYS[4], int(now + lease), ARGV[2])", ""),
    ],
    "renew": [("'deadline', deadline", "'renewed', deadline"), ("redis.call('ZADD', KEYS[2], deadline, ARGV[2])", "")],
}
EDITS: dict[str, dict[str, list[Edit]]] = {"fence": _FENCE, "tail": _TAIL, "renew": _RENEW, "reap": {}}
"""What changes in which script."""

_STORE = "self._store(provider, bank, stored, tenant=writer.ref.tenant, number=number)"
_EMIT = "writer.emit(StepProgress(step_type=step.step_type, step_id=step.step_id, delta=delta))"
_LOOP = 'while step.progress["done"] < len(documents):'
_FROM_THE_FIRST = """if begun and (had := step.progress["done"]):
            outcomes = self._prepared(bank, documents[:had], job.get("expires_at"))
            again = [outcome for outcome in outcomes if isinstance(outcome, Document)]
            self._store(provider, bank, again, tenant=writer.ref.tenant, number=step.writer)
        """
_NUMBER = "number = self._place(provider, bank, writer, interrupts, step)\n"
_OWN = "[document.document_id for document in own])\n"
_OF_OTHERS = """[
            document.document_id for document in own if connection.execute(
                "SELECT writer FROM documents WHERE bank = ? AND document_id = ?", (number, document.document_id)
            ).get != writer
        ])
"""
_INSERTING, _SQLITE = "worker.memory.inserting", "worker.providers.memory_sqlite"
MODULES: dict[str, dict[str, list[Edit]]] = {
    "early": {
        _INSERTING: [
            (_STORE, "pass"),
            (_EMIT, f"{_EMIT}\n            with interrupts.open():\n                {_STORE}"),
        ]
    },
    "order": {_SQLITE: [("WHERE d.writer > ?", "WHERE d.writer > ? AND FALSE")]},
    "double": {
        _INSERTING: [(_NUMBER, f"begun = step.writer is not None\n        {_NUMBER}"),
                     (_LOOP, _FROM_THE_FIRST + _LOOP)],
        _SQLITE: [
            (_OWN, _OF_OTHERS),
            ("VALUES (?, ?, ?, ?)\",\n        (number, document.document_id",
             "VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING\",\n        (number, document.document_id"),
            ("own = connection.last_insert_rowid()",
             'own = connection.execute("SELECT id FROM documents WHERE bank = ? AND document_id = ?",'
             " (number, document.document_id)).get"),
        ],
    },
    "again": {
        "worker.context": [
            ('turn_messages(turn["input_messages"], turn["steps"])',
             'turn_messages(with_context(turn["input_messages"], [step["inserted_context"] for step in turn["steps"]'
             ' if step.get("inserted_context")]), turn["steps"])'),
        ]
    },
}  # fmt: skip
"""What changes in which module."""


def launcher(mutant: str | None) -> tuple[str, ...] | None:
    """What starts a worker; None for one without a mutant."""
    return None if mutant is None else (sys.executable, str(Path(__file__)), mutant)


def change_modules(changes: Mapping[str, list[Edit]]) -> None:
    """Load modules with another text, before anybody else does. Raises ValueError as `edited`."""
    for name, edits in changes.items():
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None
        text = edited(Path(spec.origin).read_text(), edits)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        exec(compile(text, spec.origin, "exec"), module.__dict__)  # noqa: S102 - it is the project's own
        parent, _, last = name.rpartition(".")
        setattr(sys.modules[parent], last, module)


def mutate(mutant: str) -> None:
    """Change the scripts as this process loads them. Raises ValueError where one has no such line any more."""
    from shared.log import scripts

    edits = EDITS.get(mutant, {})
    whole = scripts._source

    @cache
    def source(name: str) -> tuple[str, str]:
        text = edited(whole(name)[0], edits.get(name, []))
        return text, sha1(text.encode(), usedforsecurity=False).hexdigest()

    scripts._source = source  # type: ignore[assignment]
    for name in edits:
        source(name)


def edited(text: str, edits: list[Edit]) -> str:
    """`text` with every edit made."""
    for old, new in edits:
        if old not in text:
            raise ValueError(f"there is nothing like {old!r} in the text: the mutant has to follow it")
        text = text.replace(old, new)
    return text


def _worker(mutant: str) -> None:
    from gevent import monkey

    monkey.patch_all()
    mutate(mutant)
    change_modules(MODULES.get(mutant, {}))
    import worker.heartbeat as heartbeat
    from worker.main import main
    from worker.reaper import Reaper

    if mutant == "reap":
        Reaper.look = lambda _: None  # type: ignore[method-assign]
    if mutant in EDITS:
        heartbeat.gsubprocess = _Children(heartbeat.gsubprocess.Popen, mutant)
    main()


class _Children:
    """Stands in for the module by which a worker starts its heartbeat: that gets the same mutant."""

    def __init__(self, popen: Callable[..., object], mutant: str) -> None:
        self._popen = popen
        self._mutant = mutant

    def Popen(self, command: list[str], **options: object) -> object:
        return self._popen([command[0], str(Path(__file__)), self._mutant, _HEARTBEAT], **options)


def main() -> None:
    here = sys.path.pop(0)
    if Path(here).resolve() != Path(__file__).resolve().parent:
        sys.path.insert(0, here)
    mutant, *rest = sys.argv[1:]
    sys.argv[1:] = []
    if rest != [_HEARTBEAT]:
        _worker(mutant)
        return
    mutate(mutant)
    from worker import heartbeat_process

    heartbeat_process.main()


if __name__ == "__main__":
    main()
