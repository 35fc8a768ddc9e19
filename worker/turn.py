"""The life of one claimed turn in this worker: from its claim to its end, rest or release."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from shared.clock import Stamps
from shared.errors import LogError, ProviderError, StoreError, TailMismatch, Unwritable
from shared.events import (
    Event,
    Json,
    OutputRetracted,
    StepAbandoned,
    StepComplete,
    StepStart,
    TurnAwaitingInput,
    TurnCanceled,
    TurnComplete,
    TurnFailed,
    TurnStart,
)
from shared.fold import OpenStep, TurnState, fold, withheld
from shared.hints import Hints
from shared.ids import TurnRef, new_step_id
from shared.job_view import INSERT
from shared.log.reader import LogReader
from shared.log.snapshots import pack
from shared.log.turn_log import Claim, TurnLog, Write
from shared.status import TurnStatus
from worker.context import chat_messages
from worker.decide import (
    ASSISTANT_OUTPUT,
    Abandon,
    AwaitClient,
    CompleteInsert,
    CompleteTools,
    Finish,
    Infer,
    Insert,
    OpenInsert,
    OpenTools,
    Retrieve,
    RunShields,
    RunTools,
    ShowReply,
    held_back,
    next_action,
    output_messages,
)
from worker.history import History
from worker.inference import run_inference, show_reply
from worker.interrupts import CancelAsked, Draining, Interrupts, LeaseLost
from worker.journal import Journal, TurnWriter
from worker.memory.inserting import Inserter
from worker.memory.looking import Looking
from worker.memory.turn_documents import kept_in
from worker.observer import Observer
from worker.providers.inference import ChatRequest
from worker.router import Router
from worker.shields import Shields
from worker.stored import until_stored
from worker.tool_calls import run_calls
from worker.toolbox import BoundTool, Toolbox

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

TOOLS = "tool_execution"
SHIELDS = "shield_call"
RETRIEVAL = "memory_retrieval"
INSERTION = "memory_insert"
_CLOSING = (CompleteTools, CompleteInsert, AwaitClient, Finish)
"""What only writes down that something is over: a turn that is asked to leave does it itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnTools:
    """What running a turn takes; one set per worker process."""

    log: TurnLog
    reader: LogReader
    journal: Journal
    history: History
    router: Router
    shields: Shields
    toolbox: Toolbox
    looking: Looking
    hints: Hints
    inserter: Inserter | None = None
    """Where insert jobs run; None where turns do."""
    observer: Observer = field(default_factory=Observer)


class TurnRun:
    """Runs one claimed turn. `run` returns when the turn has ended, rests or is somebody else's.

    The constructor reads the turn's log and raises SchemaTooNew, or an Interrupt that came meanwhile.
    """

    def __init__(self, *, claim: Claim, tools: TurnTools, interrupts: Interrupts) -> None:
        self._claim = claim
        self._tools = tools
        self._interrupts = interrupts
        self._state = until_stored(lambda: self._load(claim), interrupts)
        self.writer: TurnWriter = tools.journal.open(claim, self._state, interrupts)
        self._stamps = Stamps(after=self._state.last_time)
        self._past: list[Json] | None = None
        self._bound: dict[str, BoundTool] | None = None

    @property
    def ref(self) -> TurnRef:
        return self._claim.ref

    def run(self) -> None:
        try:
            self._run()
        finally:
            self.writer.close()

    def _run(self) -> None:
        try:
            while self._advance():
                pass
        except (LogError, LeaseLost) as lost:
            logger.info("turn %s is not this worker's any more: %s", self.ref.turn_id, lost)
            if self.writer.unwritable is not None:
                self._give_up(self.writer.unwritable)
        except CancelAsked:
            self._end(TurnStatus.CANCELED, self._canceled())
        except Draining:
            self._release()
        except ProviderError as error:
            self._end(TurnStatus.FAILED, self._failed(error.as_json()))
        except Exception:
            # The boundary of a turn: whatever is wrong in it must not take the worker down or stay unsaid.
            logger.exception("turn %s: unexpected fault", self.ref.turn_id)
            message = "An unexpected fault in the worker; its log has the details under this turn's id."
            self._end(TurnStatus.FAILED, self._failed({"code": "internal_error", "message": message}))

    def _load(self, claim: Claim) -> TurnState:
        """The state so far: from the claim's own reply for a fresh turn, else from the log."""
        if claim.kind == "start":
            state = fold(claim.first, claim.config)
            state.apply(TurnStart(turn_id=state.turn_id, attempt=claim.attempts, started_at=claim.claimed_at))
            return state
        return fold(self._tools.reader.all_entries(claim.ref), self._tools.reader.private(claim.ref))

    def _advance(self) -> bool:
        """Do what comes next; False when the turn rests or has ended."""
        self._interrupts.check()
        action = next_action(self._state, self._server_tools(), keeps_documents=self._keeps_documents)
        if not isinstance(action, _CLOSING):
            self._interrupts.boundary()
        match action:
            case Abandon(step):
                self.writer.emit(StepAbandoned(
                    step_type=step.step_type, step_id=step.step_id, reason="The worker that ran it was lost."
                ))  # fmt: skip
            case RunShields(touchpoint, shields, messages):
                self._run_shields(touchpoint, shields, messages)
            case Retrieve():
                self._retrieve()
            case OpenInsert():
                self._open_insert()
            case Insert(step):
                self._insert(step)
            case CompleteInsert(step):
                self._complete_insert(step)
            case Infer():
                self._infer()
            case ShowReply(held):
                self._show_reply(held["step_details"])
            case OpenTools():
                self.writer.emit(
                    StepStart(step_type=TOOLS, step_id=new_step_id(), started_at=self._stamps.next(), metadata={})
                )
            case RunTools(step, calls):
                self._run_tools(step, calls)
            case CompleteTools(step, calls, responses):
                self._complete_tools(step, calls, responses)
            case AwaitClient(calls):
                return self._await_client(calls)
            case Finish():
                self._end(TurnStatus.COMPLETED, self._completed())
                return False
        return True

    def _server_tools(self) -> dict[str, BoundTool]:
        if self._bound is None:
            tools = self._tools.toolbox.resolve(self._state.config.get("toolgroups") or [], tenant=self.ref.tenant)
            self._bound = self._tools.looking.in_session(tools, self.ref.session, self._kept_documents)
        return self._bound

    def _infer(self) -> None:
        config, done = self._state.config, len(self._state.inference_steps)
        history = self._history()
        with self._interrupts.open():
            request = ChatRequest(
                model=config["model"],
                messages=chat_messages(history, self._state),
                tools=[*(config.get("client_tools") or ()), *(b.described() for b in self._server_tools().values())],
                tool_choice=_tool_choice(config, first=done == 0),
                sampling_params=config.get("sampling_params") or {},
                response_format=config.get("response_format"),
            )
            run_inference(
                self.writer,
                deltas=self._tools.router.chat(request, tenant=self.ref.tenant),
                stamps=self._stamps,
                last_one=done + 1 >= config["max_infer_iters"],
                held=held_back(self._state),
            )

    def _retrieve(self) -> None:
        step = StepStart(step_type=RETRIEVAL, step_id=new_step_id(), started_at=self._stamps.next(), metadata={})
        self.writer.emit(step)
        found = self._tools.looking.step(
            self._state, self._history(), self._interrupts, ref=self.ref, step_id=step.step_id
        )
        details = self._details(RETRIEVAL, step.step_id, step.started_at) | found
        self.writer.emit(StepComplete(step_type=RETRIEVAL, step_id=step.step_id, step_details=details))

    def _open_insert(self) -> None:
        job = self._state.config[INSERT]
        metadata = {"memory_bank_id": job["bank_id"], "documents": len(job["documents"])}
        self.writer.emit(
            StepStart(step_type=INSERTION, step_id=new_step_id(), started_at=self._stamps.next(), metadata=metadata)
        )

    def _insert(self, step: OpenStep) -> None:
        if self._tools.inserter is None:
            raise Draining  # a worker of the memory queue goes on with it
        self._tools.inserter.run(self.writer, self._interrupts, step=step, job=self._state.config[INSERT])

    def _complete_insert(self, step: OpenStep) -> None:
        details = self._details(INSERTION, step.step_id, step.started_at) | step.metadata | step.progress
        self.writer.emit(StepComplete(step_type=INSERTION, step_id=step.step_id, step_details=details))

    def _object_to(self, shields: list[str], messages: list[Json]) -> Json | None:
        with self._interrupts.open():
            on_error = self._state.config.get("shield_on_error", "block")
            return self._tools.shields.run(shields, messages, tenant=self.ref.tenant, on_error=on_error)

    def _run_shields(self, touchpoint: str, shields: list[str], messages: list[Json]) -> None:
        """One step for all shields of a touch point."""
        shown = self._state.inference_steps[-1]["step_id"] if touchpoint == ASSISTANT_OUTPUT else None
        step = self._open_shield_step(touchpoint)
        try:
            violation = self._object_to(shields, messages)
        except ProviderError:
            if shown is not None:
                self.writer.emit(OutputRetracted(step_id=shown, reason="A shield could not look at it."))
            raise
        if violation is not None and shown is not None:
            self.writer.emit(OutputRetracted(step_id=shown, reason="A shield objected to it."))
        self._close_shield_step(step, violation)

    def _show_reply(self, details: Json) -> None:
        """Nothing of a held reply is written before its shields have looked at it.

        The two steps are emitted in one go and so land in one batch: no taker-over finds a reply that was passed, or
        withheld, without the verdict.
        """
        messages = output_messages(self._state, details["model_response"])
        violation = self._object_to(self._state.config["output_shields"], messages)
        show_reply(self.writer, details if violation is None else withheld(details))
        self._close_shield_step(self._open_shield_step(ASSISTANT_OUTPUT), violation)

    def _open_shield_step(self, touchpoint: str) -> StepStart:
        step = StepStart(
            step_type=SHIELDS,
            step_id=new_step_id(),
            started_at=self._stamps.next(),
            metadata={"touchpoint": touchpoint},
        )
        self.writer.emit(step)
        return step

    def _close_shield_step(self, step: StepStart, violation: Json | None) -> None:
        details = self._details(SHIELDS, step.step_id, step.started_at)
        details |= {"violation": violation, "metadata": step.metadata}
        self.writer.emit(StepComplete(step_type=SHIELDS, step_id=step.step_id, step_details=details))

    def _details(self, step_type: str, step_id: str, started_at: str) -> Json:
        """What every finished step has."""
        return {
            "step_type": step_type,
            "step_id": step_id,
            "turn_id": self.ref.turn_id,
            "started_at": started_at,
            "completed_at": self._stamps.next(),
        }

    def _keeps_documents(self) -> bool:
        """Whether earlier turns have left documents in the session's bank."""
        return self._claim.ordinal > 1 and bool(kept_in(self._history()))

    def _kept_documents(self) -> dict[str, str]:
        """What the session's bank holds for this turn: of earlier ones, and its own."""
        return kept_in([*self._history(), {"steps": self._state.steps}])

    def _history(self) -> list[Json]:
        if self._past is None:
            read = partial(self._tools.history.before, self.ref, self._claim.ordinal)
            self._past = until_stored(read, self._interrupts)
        return self._past

    def _run_tools(self, step: OpenStep, calls: list[Json]) -> None:
        confirm = partial(until_stored, self._confirm, self._interrupts)
        tools = self._server_tools()
        run_calls(self.writer, self._interrupts, step=step, calls=calls, tools=tools, confirm=confirm)

    def _confirm(self) -> None:
        if not self._tools.log.confirm(self.ref):
            raise StoreError("no replica of the store has confirmed what was written")

    def _complete_tools(self, step: OpenStep, calls: list[Json], responses: list[Json]) -> None:
        details = self._details(TOOLS, step.step_id, step.started_at)
        details |= {"tool_calls": calls, "tool_responses": responses}
        self.writer.emit(StepComplete(step_type=TOOLS, step_id=step.step_id, step_details=details))

    def _await_client(self, calls: list[Json]) -> bool:
        event = TurnAwaitingInput(turn_id=self.ref.turn_id, tool_calls=calls)
        call_ids = [call["call_id"] for call in calls]
        if not self._write_last(partial(self._tools.log.pause, call_ids=call_ids), event):
            raise CancelAsked
        return False

    def _end(self, status: TurnStatus, event: Event) -> None:
        try:
            self.writer.settle()
            self._state.apply(event)
            snapshot = pack(self._state.as_turn())
            finish = partial(self._tools.log.finish, status=status, snapshot=snapshot)
            stored, next_turn = self._write_last(finish, event)
        except Unwritable as never:
            self._give_up(never)
            return
        except LogError as lost:
            logger.info("turn %s ended elsewhere: %s", self.ref.turn_id, lost)
            return
        if stored is status:
            # Canceled in place of that, it has no snapshot yet: whoever folds it says that it has ended.
            self._tools.observer.ended(self._state)
        self._hint_at(next_turn)

    def _give_up(self, why: Unwritable) -> None:
        """End a turn whose log takes no more of it, past its own writes."""
        logger.error("turn %s is given up: %s", self.ref.turn_id, why)
        message = "The store refuses what the turn has to write; the worker's log has its words under this turn's id."
        try:
            _, next_turn = self._tools.log.fail(self.ref, code="store_refused", message=message)
        except StoreError as error:
            # Its lease lapses; after max_attempts of that the reaper ends it.
            logger.warning("turn %s not ended: %s", self.ref.turn_id, error)
        else:
            self._hint_at(next_turn)

    def _hint_at(self, next_turn: str | None) -> None:
        if next_turn is not None:
            self._tools.hints.send(TurnRef(self.ref.tenant, self.ref.session_id, next_turn))

    def _release(self) -> None:
        try:
            # A batch of nothing: whoever takes over shall find all that was paid for.
            self._write_last(self._tools.log.append)
            until_stored(lambda: self._tools.log.release(self.ref, token=self._claim.token))
            self._tools.hints.send(self.ref)
        except LogError as lost:
            logger.info("turn %s not released: %s", self.ref.turn_id, lost)

    def _write_last(self, store: Callable[[Write], Result], *events: Event) -> Result:
        """Store what ends this worker's part of the turn, behind all that it has written: also behind what the store
        has lost meanwhile."""
        while True:
            write = self.writer.last_write(*events)
            try:
                return until_stored(partial(store, write))
            except TailMismatch as short:
                self.writer.restore(short)

    def _canceled(self) -> TurnCanceled:
        return TurnCanceled(turn_id=self.ref.turn_id, reason="Canceled on request.", completed_at=self._stamps.next())

    def _completed(self) -> TurnComplete:
        return TurnComplete(turn_id=self.ref.turn_id, completed_at=self._stamps.next())

    def _failed(self, error: Json) -> TurnFailed:
        return TurnFailed(turn_id=self.ref.turn_id, error=error, completed_at=self._stamps.next())


def _tool_choice(config: Json, *, first: bool) -> str:
    """`required` or a tool's name hold for the first reply only: held on, the turn could never end."""
    choice = (config.get("tool_config") or {}).get("tool_choice") or config.get("tool_choice") or "auto"
    return choice if first or choice in ("auto", "none") else "auto"
