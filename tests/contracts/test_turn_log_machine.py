"""Any order of operations, against a model of what they mean; after each step the log's invariants hold.

`now` is injected, and the clock may step back. Examples are derandomised, so that CI runs the same ones each time;
HYPOTHESIS_EXAMPLES asks for more of them, drawn anew.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from logkit import INPUT_TIMEOUT_S, LEASE_S, MAX_ATTEMPTS, SECOND, LogKit, Owner, delta, fresh_prefix, text_step

from shared.errors import Conflict, Fenced, InvalidRequest, NotFound, QueueFull, TailMismatch
from shared.ids import SessionRef, TurnRef
from shared.log.turn_log import PLAIN, NotClaimable, Terms
from shared.redis_client import connect
from shared.status import TERMINAL, TurnStatus

EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", "0"))

# Drawn evenly from all turns and owners, nearly every operation would be refused, and a story never get far.
TURN = st.tuples(st.integers(0, 1), st.sampled_from(["head", "head", "head", "last", "any"]), st.integers(0, 20))
OWNERS = ["live", "live", "live", "live", "last", "any"]
OWNER = st.tuples(st.integers(0, 1), st.sampled_from(OWNERS), st.integers(0, 20))
TERMS = st.builds(
    Terms,
    strategy=st.sampled_from([None, None, None, None, "reject", "interrupt", "rollback"]),
    queue_ttl_s=st.sampled_from([None, None, 1, 20]),
    deadline_s=st.sampled_from([None, None, 30, 200]),
    counted=st.booleans(),
    refusal=st.sampled_from(["", "", "", "", "as many wait as may"]),
)
Pick = tuple[int, str, int]
Operation = Callable[..., None]

OPERATIONS: list[tuple[Operation, dict[str, st.SearchStrategy[Any]]]] = []


def operation(weight: int = 1, **drawn: st.SearchStrategy[Any]) -> Callable[[Operation], Operation]:
    """Something that may happen. As rules of their own, Hypothesis would leave most of them out of an example."""

    def register(method: Operation) -> Operation:
        OPERATIONS.extend([(method, drawn)] * weight)
        return method

    return register


@dataclass
class Model:
    """What a turn should be."""

    session: SessionRef
    status: TurnStatus = TurnStatus.QUEUED
    events: list[str] = field(default_factory=lambda: ["turn_created"])
    token: str | None = None
    deadline: int = 0
    attempts: int = 0
    lapses: int = 0
    lapsed: bool = False
    released: bool = False
    cancel: bool = False
    pending: tuple[str, ...] = ()
    resumed: dict[str, int] = field(default_factory=dict)
    input_due: int = 0
    start_by: int | None = None
    end_by: int | None = None
    counted: bool = False
    rolled_back: bool = False

    @property
    def ended(self) -> bool:
        return self.status in TERMINAL

    def end(self, status: TurnStatus) -> None:
        """Its owner keeps a token that ended it itself; see `lose`."""
        self.status, self.pending, self.cancel = status, (), False
        event = {TurnStatus.COMPLETED: "turn_complete", TurnStatus.FAILED: "turn_failed"}
        self.events.append(event.get(status, "turn_canceled"))

    def lose(self, status: TurnStatus) -> None:
        """Ended by a script."""
        self.end(status)
        self.token = None

    def past(self, now: int) -> str | None:
        """Which of its limits has passed."""
        if self.end_by is not None and self.end_by <= now:
            return "deadline_exceeded"
        late = not self.attempts and self.start_by is not None and self.start_by <= now
        return "queue_timeout" if late else None


class TurnLogMachine(RuleBasedStateMachine):
    """Sessions with turns; owners keep acting long after they lost theirs."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.kit = LogKit(client=connect(self.url), prefix=fresh_prefix())
        self.models: dict[TurnRef, Model] = {}
        self.owners: list[Owner] = []
        self.deleted: set[SessionRef] = set()
        self.calls = 0

    def teardown(self) -> None:
        keys = self.kit.everything()
        for key in keys:
            self.kit.client.delete(key)
        self.kit.client.close()

    @initialize()
    def sessions(self) -> None:
        self.open = [self.kit.session(), self.kit.session(idle_ttl_s=100)]
        for which in (0, 0, 1):
            self._accept(which)
        self._claim(self.turn((0, "head", 0)))

    # The model's own questions

    def head(self, session: SessionRef) -> TurnRef | None:
        return next(iter(self.alive(session)), None)

    def alive(self, session: SessionRef) -> list[TurnRef]:
        return [ref for ref, model in self.models.items() if model.session == session and not model.ended]

    def turn(self, pick: Pick) -> TurnRef:
        which, what, number = pick
        turns = list(self.models)
        if what == "head":
            return self.head(self.open[which]) or turns[-1]
        return turns[-1] if what == "last" else turns[number % len(turns)]

    def owner(self, pick: Pick) -> Owner:
        which, what, number = pick
        if what == "live":
            tokens = {model.token for model in self.models.values() if model.session == self.open[which]}
            live = [owner for owner in self.owners if owner.token in tokens and not self.models[owner.ref].ended]
            return live[-1] if live else self.owners[-1]
        return self.owners[-1] if what == "last" else self.owners[number % len(self.owners)]

    def next_after_end(self, ref: TurnRef, was_head: bool) -> str | None:
        head = self.head(ref.session)
        return head.turn_id if was_head and head else None

    def live(self, model: Model) -> bool:
        """Whether the lease lives; a deadline beyond one lease is one lease off."""
        model.deadline = min(model.deadline, self.kit.now + LEASE_S * SECOND)
        return model.token is not None and model.deadline > self.kit.now

    def outcome(self, owner: Owner, private: int = 1) -> type[Exception] | None:
        """What the log says to a write of this owner."""
        model = self.models[owner.ref]
        if model.token != owner.token or model.status is not TurnStatus.IN_PROGRESS:
            return Fenced
        if owner.last != len(model.events) or owner.private_last != private:
            return TailMismatch
        return None

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        method, drawn = data.draw(st.sampled_from(OPERATIONS))
        method(self, **{name: data.draw(strategy) for name, strategy in drawn.items()})

    # Time

    @operation(1, seconds=st.sampled_from([0.000001, 1, LEASE_S / 2, LEASE_S, 61, 90, INPUT_TIMEOUT_S]))
    def time_passes(self, seconds: float) -> None:
        self.kit.pass_time(seconds)

    @operation(1, seconds=st.sampled_from([1, LEASE_S, 3600]))
    def the_clock_steps_back(self, seconds: int) -> None:
        self.kit.pass_time(-seconds)

    # Clients

    @operation(4, which=st.integers(0, 1), terms=TERMS)
    def accept(self, which: int, terms: Terms) -> None:
        self._accept(which, terms)

    def _accept(self, which: int, terms: Terms = PLAIN) -> None:
        session = self.open[which]
        alive = self.alive(session)
        if len(alive) > 2 and terms.strategy is None:
            return
        ref = self.kit.new_turn(session)
        if (refusal := self._refusal(session, terms)) is not None:
            with pytest.raises(refusal):
                self.kit.submit(ref, terms=terms)
            return
        if terms.strategy in ("interrupt", "rollback"):
            for made_way in alive:
                self.models[made_way].lose(TurnStatus.CANCELED)
                self.models[made_way].rolled_back = terms.strategy == "rollback"
        accepted = self.kit.submit(ref, terms=terms)
        assert accepted.is_head == (self.head(session) is None)
        times = [None if s is None else self.kit.now + int(s * SECOND) for s in (terms.queue_ttl_s, terms.deadline_s)]
        self.models[ref] = Model(session, start_by=times[0], end_by=times[1], counted=terms.counted)

    def _refusal(self, session: SessionRef, terms: Terms) -> type[Exception] | None:
        if session in self.deleted:
            return NotFound
        if terms.strategy == "reject" and self.head(session) is not None:
            return Conflict
        return QueueFull if terms.refusal else None

    @operation(1, pick=TURN, terms=TERMS)
    def accept_again(self, pick: Pick, terms: Terms) -> None:
        ref = self.turn(pick)
        accepted = self.kit.submit(ref, terms=terms)
        assert (accepted.turn_id, accepted.repeated) == (ref.turn_id, True)

    @operation(1, pick=TURN, end_running=st.booleans())
    def cancel(self, pick: Pick, end_running: bool) -> None:
        ref = self.turn(pick)
        model, was_head = self.models[ref], self.head(ref.session) == ref
        answer = self.kit.log.cancel(ref, reason="no", end_running=end_running)
        if model.ended:
            assert answer == ("terminal", model.status)
        elif model.token is not None and model.deadline > self.kit.now and not end_running:
            assert answer == ("asked", None)
            model.cancel = True
        else:
            self._ended(ref, answer, was_head, TurnStatus.CANCELED)

    @operation(1, pick=TURN)
    def fail_by_hand(self, pick: Pick) -> None:
        ref = self.turn(pick)
        model, was_head = self.models[ref], self.head(ref.session) == ref
        answer = self.kit.log.fail(ref, code="stuck", message="It hung.")
        if model.ended:
            assert answer == ("terminal", model.status)
        else:
            self._ended(ref, answer, was_head, TurnStatus.FAILED)

    @operation(6, pick=TURN, exact=st.sampled_from([True, True, False]), digest=st.sampled_from(["d1", "d2"]))
    def resume(self, pick: Pick, exact: bool, digest: str) -> None:
        ref = self.turn(pick)
        model = self.models[ref]
        call_ids = model.pending if exact else ("other",)
        if model.status is TurnStatus.AWAITING_INPUT and exact:
            model.resumed[digest] = self.kit.resume(ref, *call_ids, digest=digest)
            model.status, model.pending = TurnStatus.QUEUED, ()
            model.events.append("turn_resumed")
            assert model.resumed[digest] == len(model.events)
        elif digest in model.resumed:
            assert self.kit.resume(ref, *call_ids, digest=digest) == model.resumed[digest]
        else:
            with pytest.raises(InvalidRequest if model.status is TurnStatus.AWAITING_INPUT else Conflict):
                self.kit.resume(ref, *call_ids, digest=digest)

    @operation(1, which=st.integers(0, 1))
    def delete_session(self, which: int) -> None:
        session = self.open[which]
        if len(self.models) < 8:
            return  # the longer stories come first
        alive = self.alive(session)
        assert self.kit.sessions.delete(session) == alive
        self.deleted.add(session)
        for ref in alive:
            self.models[ref].lose(TurnStatus.CANCELED)

    # Workers

    @operation(4, pick=TURN)
    def claim(self, pick: Pick) -> None:
        self._claim(self.turn(pick))

    @operation(2, which=st.integers(0, 1), reaped=st.booleans(), times=st.integers(1, MAX_ATTEMPTS))
    def workers_are_lost_and_others_take_over(self, which: int, reaped: bool, times: int) -> None:
        ref = self.turn((which, "head", 0))
        for _ in range(times):
            self.kit.pass_time(LEASE_S)
            if reaped:
                self._reap(ref)
            self._claim(ref)

    def _claim(self, ref: TurnRef) -> None:
        model = self.models[ref]
        reason = None
        if model.ended:
            reason = "ended"
        elif model.status is TurnStatus.AWAITING_INPUT:
            reason = "awaiting"
        elif self.live(model):
            reason = "busy"
        elif self.head(ref.session) != ref:
            reason = "not_head"
        elif model.past(self.kit.now):
            reason = "expired"
        if reason is not None:
            with pytest.raises(NotClaimable) as refusal:
                self.kit.claim(ref)
            assert refusal.value.reason == reason
            return
        lapsed = model.token is not None or model.lapsed
        kind = "start" if not model.attempts else "recovered" if lapsed or model.released else "resumed"
        owner = self.kit.claim(ref)
        assert owner.claim.kind == kind
        if kind != "resumed":
            model.attempts += 1
            model.events.append("turn_start" if kind == "start" else "turn_recovered")
        model.lapses += lapsed
        model.lapsed = model.released = False
        model.status, model.token = TurnStatus.IN_PROGRESS, owner.token
        model.deadline = self.kit.now + LEASE_S * SECOND
        assert (owner.claim.attempts, owner.last) == (model.attempts, len(model.events))
        self.owners.append(owner)

    @operation(1, pick=OWNER)
    def claim_again(self, pick: Pick) -> None:
        owner = self.owner(pick)
        model = self.models[owner.ref]
        if model.token == owner.token and model.status is TurnStatus.IN_PROGRESS and self.live(model):
            again = self.kit.claim(owner.ref, token=owner.token).claim
            assert (again.epoch, again.attempts) == (owner.claim.epoch, model.attempts)
            assert again.last == len(model.events)

    @operation(4, pick=OWNER, whole_step=st.booleans())
    def append(self, pick: Pick, whole_step: bool) -> None:
        owner = self.owner(pick)
        model = self.models[owner.ref]
        events = text_step("s1") if whole_step else [delta()]
        if self._refused(owner, lambda: owner.append(*events)):
            return
        assert self.answer.cancel == model.cancel
        model.events += [event.event_type for event in events]
        self._renewed_by_append(model)
        if whole_step:
            model.lapses = 0

    def _renewed_by_append(self, model: Model) -> None:
        """An append renews a lease that has less than half of it left, or more than all."""
        left, lease = model.deadline - self.kit.now, LEASE_S * SECOND
        if not lease / 2 <= left <= lease:
            model.deadline = self.kit.now + lease

    @operation(1, pick=OWNER)
    def append_whose_reply_is_lost(self, pick: Pick) -> None:
        owner = self.owner(pick)
        if self.outcome(owner) is None:
            self.kit.log.append(owner.batch(delta()))
            self.models[owner.ref].events.append("step_progress")
            self._renewed_by_append(self.models[owner.ref])
        with pytest.raises((TailMismatch, Fenced)) as doubt:
            self.kit.log.append(owner.batch(delta()))
        if isinstance(doubt.value, TailMismatch):
            owner.last = doubt.value.last

    @operation(1, pick=OWNER)
    def renew(self, pick: Pick) -> None:
        owner = self.owner(pick)
        model = self.models[owner.ref]
        renewed = owner.renew()
        if self.outcome(owner) is Fenced:
            assert renewed == "LOST"
        else:
            assert renewed == ("CANCEL" if model.cancel else "OK")
            model.deadline = self.kit.now + LEASE_S * SECOND

    @operation(1, pick=OWNER)
    def release(self, pick: Pick) -> None:
        owner = self.owner(pick)
        model = self.models[owner.ref]
        owner.release()
        if self.outcome(owner) is not Fenced:
            model.token, model.released = None, True

    @operation(2, pick=OWNER, step=st.booleans())
    def finish(self, pick: Pick, step: bool) -> None:
        owner = self.owner(pick)
        model, was_head = self.models[owner.ref], self.head(owner.ref.session) == owner.ref
        events = text_step("s1") if step else []
        if model.ended and model.token == owner.token:
            assert owner.finish(*events) == (model.status, None)
            return
        if self._refused(owner, lambda: owner.finish(*events), keep=True):
            return
        model.events += [event.event_type for event in events]
        model.end(TurnStatus.CANCELED if model.cancel else TurnStatus.COMPLETED)
        repeated, _ = owner.finish(*events)
        assert repeated == model.status
        assert self.answer == (model.status, self.next_after_end(owner.ref, was_head))

    @operation(2, pick=OWNER, calls=st.integers(1, 2))
    def pause(self, pick: Pick, calls: int) -> None:
        owner = self.owner(pick)
        model = self.models[owner.ref]
        if self.kit.hash(owner.ref).get("paused_by") == owner.token:
            assert owner.pause("again")
            return
        self.calls += 1
        call_ids = tuple(f"c{self.calls}_{number}" for number in range(calls))
        if self._refused(owner, lambda: owner.pause(*call_ids), keep=True):
            return
        assert self.answer is not model.cancel
        if self.answer:
            model.status, model.pending, model.token, model.lapses = TurnStatus.AWAITING_INPUT, call_ids, None, 0
            model.events.append("turn_awaiting_input")
            model.input_due = self.kit.now + INPUT_TIMEOUT_S * SECOND

    def _refused(self, owner: Owner, write: Callable[[], object], *, keep: bool = False) -> bool:
        """Whether the write was refused, as the model expects; else its answer is kept."""
        expected = self.outcome(owner)
        if expected is None:
            self.answer = write()
            return False
        with pytest.raises(expected):
            write()
        return True

    # The reaper

    @operation(1, pick=TURN)
    def reap(self, pick: Pick) -> None:
        self._reap(self.turn(pick))

    def _reap(self, ref: TurnRef) -> None:
        model, was_head, due = self.models[ref], self.head(ref.session) == ref, self.kit.due(ref)
        live = self.live(model)
        answer = self.kit.log.reap(ref)
        if model.ended or live:
            assert answer == ("nothing", None)
        elif model.token is not None and model.cancel:
            self._ended(ref, answer, was_head, TurnStatus.CANCELED)
        elif model.token is not None and model.lapses + 1 >= MAX_ATTEMPTS:
            self._ended(ref, answer, was_head, TurnStatus.FAILED)
        elif model.token is not None:
            assert answer == ("hint", None)
            model.token, model.lapsed = None, True
        elif model.status is TurnStatus.AWAITING_INPUT and model.input_due <= self.kit.now:
            self._ended(ref, answer, was_head, TurnStatus.FAILED)
        else:
            assert answer == ("hint" if was_head and due is not None and due <= self.kit.now else "nothing", None)

    def _ended(self, ref: TurnRef, answer: object, was_head: bool, status: TurnStatus) -> None:
        self.models[ref].lose(status)
        assert answer == ("ended", self.next_after_end(ref, was_head))

    @operation(3, pick=TURN)
    def expire(self, pick: Pick) -> None:
        ref = self.turn(pick)
        model, was_head = self.models[ref], self.head(ref.session) == ref
        past, asked = model.past(self.kit.now), model.cancel
        answer = self.kit.log.expire(ref)
        if model.ended or past is None:
            assert answer == ("nothing", None)
            return
        self._ended(ref, answer, was_head, TurnStatus.CANCELED if asked else TurnStatus.FAILED)
        assert asked or self.kit.reader.state(ref).as_turn()["error"]["code"] == past

    @operation(1, pick=TURN)
    def fold_what_ended(self, pick: Pick) -> None:
        ref = self.turn(pick)
        self.kit.log.keep_snapshot(ref, b"{}")

    # What always holds

    @invariant()
    def the_log_says_what_the_model_says(self) -> None:
        for ref, model in self.models.items():
            assert self.kit.types(ref) == model.events
            row = self.kit.reader.row(ref)
            assert row is not None
            assert (row.status, row.attempts) == (model.status, model.attempts)
            assert ref.turn_id in self.kit.queue(ref.session) or model.ended
            waits = model.status is TurnStatus.QUEUED and not model.attempts
            assert ("counted" in self.kit.hash(ref)) == (model.counted and waits)

    @invariant()
    def a_session_remembers_what_was_not_rolled_back(self) -> None:
        for session in getattr(self, "open", ()):
            turns = [ref for ref in self.models if ref.session == session]
            assert self.kit.sessions.turns(session) == turns
            assert self.kit.sessions.history(session) == [ref for ref in turns if not self.models[ref].rolled_back]

    @invariant()
    def the_store_does_not_contradict_itself(self) -> None:
        self.kit.check()


def test_any_order_of_operations_keeps_every_promise(log_url: str) -> None:
    machine = type("Machine", (TurnLogMachine,), {"url": log_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES or 30,
            stateful_step_count=40,
            deadline=None,
            derandomize=not EXAMPLES,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        ),
    )
