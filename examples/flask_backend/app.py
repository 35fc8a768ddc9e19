"""A Flask back end that has Turnstone run its agent turns.

No view waits for a model. What a browser gets to know of a conversation is its number here; the ids of Turnstone stay
on the server.
"""

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
from flask import Flask, Response, abort, request

MODEL = os.environ.get("TURNSTONE_MODEL", "scripted")
KEY = os.environ.get("TURNSTONE_API_KEY")

app = Flask(__name__)
turnstone = httpx.Client(
    base_url=os.environ.get("TURNSTONE_URL", "http://127.0.0.1:8321") + "/v1",
    headers={"Authorization": f"Bearer {KEY}"} if KEY else {},
    timeout=30,
)


@dataclass(frozen=True)
class Chat:
    """A conversation: the path of its session in Turnstone."""

    session: str


# A real back end keeps these in its database, beside the user that each belongs to.
chats: dict[str, Chat] = {}


@app.post("/chats")
def begin() -> tuple[dict[str, str], int]:
    """A new conversation."""
    config = {"model": MODEL, "instructions": "You answer customers of a shop. Be brief."}
    agent = _answered(turnstone.post("/agents", json={"agent_config": config}))["agent_id"]
    session = _answered(turnstone.post(f"/agents/{agent}/session", json={"session_name": "chat"}))["session_id"]
    number = secrets.token_urlsafe(8)
    chats[number] = Chat(session=f"/agents/{agent}/session/{session}")
    return {"chat": number}, 201


@app.post("/chats/<number>/messages")
def say(number: str) -> tuple[dict[str, str], int]:
    """Take a message, and answer before the agent does. `X-Message-Id` makes a retry safe: it finds the same turn."""
    message = {"role": "user", "content": request.get_json()["text"]}
    reply = turnstone.post(
        f"{_chat(number).session}/turn",
        json={"messages": [message]},
        headers={"Idempotency-Key": request.headers["X-Message-Id"]},
    )
    return {"turn": _answered(reply)["turn_id"]}, 202


@app.get("/chats/<number>/turns/<turn>")
def read(number: str, turn: str) -> dict[str, object]:
    """How the turn is. Waits up to ten seconds for its end, so that a page which asks again and again asks seldom."""
    found = _answered(turnstone.get(f"{_chat(number).session}/turn/{turn}", params={"wait": 10}))
    failed = found["error"]["message"] if found.get("error") else None
    return {"status": found["status"], "text": found["output_message"]["content"], "error": failed}


@app.get("/chats/<number>/turns/<turn>/events")
def follow(number: str, turn: str) -> Response:
    """The turn's events as they come, after `Last-Event-ID` if the browser sends one."""
    after = request.headers.get("Last-Event-ID")
    call = turnstone.build_request(
        "GET",
        f"{_chat(number).session}/turn/{turn}/events",
        headers={"Last-Event-ID": after} if after else {},
        timeout=httpx.Timeout(30, read=60),  # a silent stream pings every 15 s
    )
    upstream = turnstone.send(call, stream=True)

    def relay() -> Iterator[bytes]:
        try:
            yield from upstream.iter_raw()
        finally:
            upstream.close()

    headers = {"Content-Type": upstream.headers.get("Content-Type", "text/plain"), "Cache-Control": "no-cache"}
    return Response(relay(), status=upstream.status_code, headers=headers)


@app.post("/chats/<number>/turns/<turn>/cancel")
def cancel(number: str, turn: str) -> tuple[dict[str, str], int]:
    """Stop the turn; what it has said so far stays."""
    found = _answered(turnstone.post(f"{_chat(number).session}/turn/{turn}/cancel"))
    return {"status": found["status"]}, 202


def _chat(number: str) -> Chat:
    return chats.get(number) or abort(404)


def _answered(reply: httpx.Response) -> dict:
    """The body of an answer. What Turnstone has to say about a refusal is meant for people: pass it on."""
    if reply.is_error:
        abort(Response(reply.content, status=reply.status_code, content_type=reply.headers["Content-Type"]))
    return reply.json()
