"""Takes turns in: everything that happens before a turn's answer begins."""

from dataclasses import dataclass

from api.configs import check_config, text_documents, turn_config
from api.services import Services
from shared.clock import now_iso
from shared.errors import InvalidRequest
from shared.events import Json, TurnCreated
from shared.fold import TurnState
from shared.ids import SessionRef, TurnRef, new_turn_id
from shared.types.turns import CreateTurn


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
    """Accept a turn and have a worker look at it. Raises InvalidRequest, NotFound and Unavailable.

    A session that is known costs one round trip to the store, and one to the broker.
    """
    config = _config(services, session.tenant, submission)
    ref = TurnRef(session.tenant, session.session_id, new_turn_id(session.session_id))
    event = _event(services, ref, submission)
    accepted = services.log.accept(
        ref,
        event=event,
        config=config,
        digest=submission.digest,
        idempotency_key=submission.idempotency_key,
        keyless_retry=submission.keyless_retry,
    )
    if accepted.is_head:
        services.hints.send(TurnRef(ref.tenant, ref.session_id, accepted.turn_id))
    if accepted.repeated:
        return Submitted(ref=TurnRef(ref.tenant, ref.session_id, accepted.turn_id), turn=None)
    state = TurnState()
    state.apply(event)
    return Submitted(ref=ref, turn=state.as_turn())


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
    return TurnCreated(
        turn_id=ref.turn_id,
        session_id=ref.session_id,
        agent_id=submission.agent_id,
        input_messages=[message.model_dump(exclude_none=True) for message in turn.messages],
        documents=text_documents(turn.documents),
        created_at=now_iso(),
    )
