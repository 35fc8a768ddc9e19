"""Takes turns in, and ends them on request: everything that happens before a turn's answer begins."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from api.configs import check_config, readable_documents, turn_config
from api.file_checks import require_files
from api.services import Services
from shared.clock import now_iso
from shared.errors import ConfigError, Conflict, InvalidRequest, StoreError, Unavailable
from shared.events import Json, TurnCreated
from shared.fold import TurnState
from shared.ids import SessionRef, TurnRef, new_turn_id
from shared.log.turn_log import Accepted, Terms
from shared.types.turns import CreateTurn

logger = logging.getLogger(__name__)

_ACCEPT_AGAIN_S = (0.05, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What a client submits, and by which marks a repetition of it is known. `digest` names the body."""

    agent_id: str
    turn: CreateTurn
    digest: str
    idempotency_key: str | None
    keyless_retry: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """An accepted turn. `turn` is what clients get of it, None where it was accepted by an earlier request."""

    ref: TurnRef
    turn: Json | None


def submit(services: Services, session: SessionRef, submission: Submission) -> Submitted:
    """Accept a turn and have a worker look at it. Raises InvalidRequest, NotFound, Conflict, QueueFull and Unavailable.

    It costs one round trip to the store, and one to the broker.
    """
    terms = _terms(services, submission.turn)
    config = _config(services, session.tenant, submission)
    ref = TurnRef(session.tenant, session.session_id, new_turn_id(session.session_id))
    event = _event(services, ref, submission)
    accepted = take_in(
        services,
        ref,
        event=event,
        config=config,
        digest=submission.digest,
        terms=terms,
        idempotency_key=submission.idempotency_key,
        keyless_retry=submission.keyless_retry,
    )
    if accepted.repeated:
        return Submitted(ref=TurnRef(ref.tenant, ref.session_id, accepted.turn_id), turn=None)
    state = TurnState()
    state.apply(event)
    return Submitted(ref=ref, turn=state.as_turn())


def take_in(
    services: Services,
    ref: TurnRef,
    *,
    event: TurnCreated,
    config: Json,
    digest: str,
    terms: Terms,
    idempotency_key: str | None = None,
    keyless_retry: bool = False,
) -> Accepted:
    """Accept a turn within the bounds, have a worker look at it, and wait until it is as safe as `durability` asks.

    Raises what `TurnLog.accept` raises, and Unavailable.
    """
    require_durable(services)
    with services.bounds.place(ref.tenant, event.agent_id) as place:
        accepted = until_answered(
            services.log.accept,
            ref,
            event=event,
            config=config,
            digest=digest,
            idempotency_key=idempotency_key,
            keyless_retry=keyless_retry,
            terms=replace(terms, counted=services.bounds.any, refusal=place.refusal),
        )
        place.taken = not accepted.repeated
    taken = TurnRef(ref.tenant, ref.session_id, accepted.turn_id)
    if accepted.is_head:
        services.hints.send(taken)
    confirm(services, taken)
    return accepted


def until_answered(accept: Callable[..., Accepted], ref: TurnRef, **turn: Any) -> Accepted:
    """Accept, again where the store's reply was lost: with the same id it is the same turn, whatever was done before.

    Without it a client that sends no key would get a 503 for a turn that runs.
    """
    for pause_s in (*_ACCEPT_AGAIN_S, None):
        try:
            accepted = accept(ref, **turn)
        except StoreError as error:
            if pause_s is None:
                raise
            logger.warning("turn %s is submitted to the store again: %s", ref.turn_id, error)
            time.sleep(pause_s)
        else:
            return replace(accepted, repeated=accepted.repeated and accepted.turn_id != ref.turn_id)
    raise AssertionError("unreachable")


def confirm(services: Services, ref: TurnRef) -> None:
    """Return when what was written to a turn is as safe as `durability` asks for, or raise Unavailable."""
    try:
        confirmed = services.log.confirm(ref)
    except StoreError as error:
        logger.error("%s", error.message)
        confirmed = False
    if not confirmed:
        raise Unavailable(
            f"The turn '{ref.turn_id}' is accepted and not yet safe: no replica of the store has confirmed it. Send the"
            " same request again with the same Idempotency-Key: it finds this turn.",
            code="not_replicated",
            retry_after=2,
            facts={"turn_id": ref.turn_id},
        )


def require_durable(services: Services) -> None:
    """Raise Unavailable unless the store is as safe as the run config promises."""
    try:
        services.store_check.require()
    except ConfigError as error:
        logger.error("no turn is accepted: %s", error.message)
        detail = "The store is not set up for the durability that is promised here; the log of the API says how to."
        raise Unavailable(detail, code="store_not_durable", retry_after=5) from error


def cancel(services: Services, ref: TurnRef) -> tuple[str, str | None]:
    """As `TurnLog.cancel`; a worker looks at the session's next turn."""
    outcome, detail = services.log.cancel(ref, reason="Canceled on request.")
    if outcome == "ended" and detail is not None:
        services.hints.send(TurnRef(ref.tenant, ref.session_id, detail))
    return outcome, detail


def end_as_failed(services: Services, ref: TurnRef, reason: str | None) -> None:
    """End a turn, or an insert job, as an operator asks to; a worker looks at the session's next turn.

    Raises Conflict where it has ended already.
    """
    what = "job" if ref.is_job else "turn"
    message = f"An operator ended this {what}{'.' if reason is None else f': {reason}'}"
    outcome, detail = services.log.fail(ref, code="failed_by_operator", message=message)
    if outcome == "terminal":
        raise Conflict(f"{what.title()} '{ref.turn_id}' has ended already: it is {detail}.", code="already_ended")
    if outcome == "ended" and detail is not None:
        services.hints.send(TurnRef(ref.tenant, ref.session_id, detail))


def _terms(services: Services, turn: CreateTurn) -> Terms:
    most = services.turns
    return Terms(
        strategy=turn.multitask_strategy,
        queue_ttl_s=_within(turn.queue_ttl_s, most.queue_ttl_s, "queue_ttl_s"),
        deadline_s=_within(turn.deadline_s, most.deadline_s, "deadline_s"),
    )


def _within(given: float | None, most: float | None, name: str) -> float | None:
    """What holds for a turn: what it asks for, as long as the run config allows that."""
    if given is None or most is None or given <= most:
        return most if given is None else given
    raise InvalidRequest(
        f"A turn may ask for at most {most:g} s here, and this one asks for {given:g}. Ask for less, or raise"
        f" turns.{name} in the run config.",
        param=name,
        code="invalid_fields",
    )


def _config(services: Services, tenant: str, submission: Submission) -> Json:
    agent = services.lookup.known_agent(tenant, submission.agent_id)
    config = turn_config(agent.agent_config, submission.turn)
    services.served.look(tenant, lambda registry: check_config(config, registry))
    return config


def _event(services: Services, ref: TurnRef, submission: Submission) -> TurnCreated:
    turn, most = submission.turn, services.limits.messages
    if len(turn.messages) > most:
        raise InvalidRequest(
            f"A turn takes at most {most} messages, and these are {len(turn.messages)}. Send fewer, or raise"
            " limits.messages in the run config.",
            param="messages",
            code="too_many_messages",
        )
    documents = readable_documents(turn.documents)
    require_files(services, ref.tenant, documents)
    return TurnCreated(
        turn_id=ref.turn_id,
        session_id=ref.session_id,
        agent_id=submission.agent_id,
        input_messages=[message.model_dump(exclude_none=True) for message in turn.messages],
        documents=documents,
        created_at=now_iso(),
    )
