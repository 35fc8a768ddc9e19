"""Whether what is asked of a memory bank fits its kind. Pure."""

from shared.errors import InvalidRequest
from shared.events import Json
from shared.registry import RegisteredMemoryBank

_BY_TEXT = ("vector", "keyword")


def require_fitting(bank: RegisteredMemoryBank, asked: Json, *, at: str) -> None:
    """Raise InvalidRequest for what a bank of this kind would pass over: `mode`, `keys` and `entities` of `asked`.

    `at` begins the paths of these fields.
    """
    mode = asked.get("mode")
    if mode is not None and bank.kind != "vector" and mode != bank.kind:
        raise _misfit(bank, f"{at}mode", f"and is not searched by {_WAYS[mode]}: leave mode out")
    if asked.get("keys") and bank.kind != "keyvalue":
        raise _misfit(bank, f"{at}keys", "which has no keys: leave them out")
    if asked.get("entities") and bank.kind != "graph":
        raise _misfit(bank, f"{at}entities", "which has no entities: leave them out")


def require_question(bank: RegisteredMemoryBank, text: str, asked: Json, *, param: str) -> None:
    """Raise InvalidRequest where nothing is asked: no text, and neither keys nor entities in a bank that has them."""
    if text.strip() or (bank.kind not in _BY_TEXT and (asked.get("keys") or asked.get("entities"))):
        return
    instead = {"keyvalue": ", or name params.keys", "graph": ", or name params.entities"}.get(bank.kind, "")
    raise InvalidRequest(f"The query is empty. Say what to look for{instead}.", param=param, code="invalid_fields")


_WAYS = {"vector": "meaning", "keyword": "words", "hybrid": "meaning"}


def _misfit(bank: RegisteredMemoryBank, param: str, why: str) -> InvalidRequest:
    said = f"The memory bank '{bank.identifier}' is a {bank.kind} bank, {why}."
    return InvalidRequest(said, param=param, code="memory_bank_type")
