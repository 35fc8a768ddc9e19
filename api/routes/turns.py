"""Turns: submit, cancel, resume."""

from typing import Annotated

from flask import Response
from pydantic import Field

from api.answers import answer
from api.idempotency import digest_of
from api.routes.parts import CreationHeaders, SessionPath, TurnPath
from api.routing import Query, Routes, Streamed, body_as_sent, services, tenant
from api.submitting import Submission, cancel, confirm, submit
from api.turn_answers import answer_as_asked, turn_url
from api.waiting import current
from shared.clock import now_iso
from shared.errors import Conflict
from shared.events import TurnResumed
from shared.status import TurnStatus
from shared.types import turns as types

routes = Routes("turns", about="One exchange with an agent: submitted, run by a worker, followed from anywhere.")

_TURN = "/v1/agents/<agent_id>/session/<session_id>/turn/<turn_id>"
_ENDED = "The turn, at rest, or its events."


class SubmitHeaders(CreationHeaders):
    """Headers of a submit."""

    prefer: Annotated[
        str | None,
        Field(alias="Prefer", description="`wait=N` with `stream: false`: 202 with the unfinished turn after N s."),
    ] = None
    retry_count: Annotated[
        str | None,
        Field(alias="x-stainless-retry-count", description="Sent by official clients when they send a request again."),
    ] = None

    @property
    def is_retry(self) -> bool:
        """Whether an official client sends the request again."""
        count = self.retry_count or ""
        return count.isascii() and count.isdigit() and count.strip("0") != ""


class ResumeHeaders(Query):
    """Headers of a resume."""

    prefer: Annotated[str | None, Field(alias="Prefer", description="As with a submit.")] = None


@routes.on(
    "POST",
    "/v1/agents/<agent_id>/session/<session_id>/turn",
    answers={
        202: types.Turn,
        200: Streamed(types.Turn, _ENDED),
    },
    problems=(404, 409, 413, 415, 422, 429, 503),
)
def create_turn(path: SessionPath, body: types.CreateTurn, header: SubmitHeaders) -> Response:
    """Submit a turn.

    Without `stream` the answer is 202 at once: poll or tail the turn at its `Location`. `stream: true` follows it
    with server-sent events; `stream: false` waits until it has ended or waits for input. A client that goes away
    changes nothing for the turn. `multitask_strategy` says what becomes of the session's unfinished turns.
    """
    session = services().lookup.place_of_session(tenant(), path.agent_id, path.session_id)
    submission = Submission(
        agent_id=path.agent_id,
        turn=body,
        digest=digest_of(body_as_sent(), without="stream"),
        idempotency_key=header.idempotency_key,
        keyless_retry=header.is_retry,
    )
    submitted = submit(services(), session, submission)
    headers = {"Location": turn_url(path.agent_id, submitted.ref)}
    if submitted.turn is None:
        headers["Idempotent-Replayed"] = "true"
    return answer_as_asked(
        services(), submitted.ref, stream=body.stream, prefer=header.prefer, headers=headers, turn=submitted.turn
    )


@routes.on("POST", f"{_TURN}/cancel", answers={200: types.Turn, 202: types.Turn}, problems=(404, 409, 503))
def cancel_turn(path: TurnPath) -> Response:
    """Cancel a turn.

    200: it has ended as canceled. 202: a worker runs it and was told; it ends shortly. 409 where it has ended
    otherwise.
    """
    ref = services().lookup.turn(tenant(), path.agent_id, path.session_id, path.turn_id)
    outcome, detail = cancel(services(), ref)
    if outcome == "terminal" and detail != TurnStatus.CANCELED:
        raise Conflict(f"Turn '{ref.turn_id}' has ended already: it is {detail}.", code="already_ended")
    return answer(current(services(), ref), 202 if outcome == "asked" else 200)


@routes.on(
    "POST",
    f"{_TURN}/resume",
    answers={
        202: types.Turn,
        200: Streamed(types.Turn, _ENDED),
    },
    problems=(404, 409, 413, 415, 422, 503),
)
def resume_turn(path: TurnPath, body: types.ResumeTurn, header: ResumeHeaders) -> Response:
    """Answer the calls of client tools that a turn waits for. `stream` as with a submit."""
    ref = services().lookup.turn(tenant(), path.agent_id, path.session_id, path.turn_id)
    responses = [response.model_dump(exclude_none=True) for response in body.tool_responses]
    seq = services().log.resume(
        ref,
        event=TurnResumed(turn_id=ref.turn_id, tool_responses=responses, resumed_at=now_iso()),
        call_ids=[response.call_id for response in body.tool_responses],
        digest=digest_of(body_as_sent(), without="stream"),
    )
    services().hints.send(ref)
    confirm(services(), ref)
    headers = {"Location": turn_url(path.agent_id, ref)}
    return answer_as_asked(services(), ref, stream=body.stream, prefer=header.prefer, headers=headers, after_seq=seq)
