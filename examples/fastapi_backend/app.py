"""A FastAPI back end that has Turnstone run its agent turns; the same as the Flask one, without a thread per tail."""

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
from fastapi import FastAPI, Header, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

URL = os.environ.get("TURNSTONE_URL", "http://127.0.0.1:8321")
MODEL = os.environ.get("TURNSTONE_MODEL", "scripted")
KEY = os.environ.get("TURNSTONE_API_KEY")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    headers = {"Authorization": f"Bearer {KEY}"} if KEY else {}
    # As many connections as there are tails: httpx stops at a hundred by itself.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    async with httpx.AsyncClient(base_url=f"{URL}/v1", headers=headers, timeout=30, limits=limits) as client:
        app.state.turnstone = client
        yield


app = FastAPI(lifespan=lifespan)
# A real back end keeps these in its database, beside the user that each belongs to.
sessions: dict[str, str] = {}


class Message(BaseModel):
    """What a user says."""

    text: str


@app.post("/chats", status_code=201)
async def begin() -> dict[str, str]:
    """A new conversation."""
    config = {"model": MODEL, "instructions": "You answer customers of a shop. Be brief."}
    agent = await _call("POST", "/agents", json={"agent_config": config})
    path = f"/agents/{agent['agent_id']}/session"
    session = await _call("POST", path, json={"session_name": "chat"})
    number = secrets.token_urlsafe(8)
    sessions[number] = f"{path}/{session['session_id']}"
    return {"chat": number}


@app.post("/chats/{number}/messages", status_code=202)
async def say(number: str, message: Message, x_message_id: Annotated[str, Header()]) -> dict[str, str]:
    """Take a message, and answer before the agent does. `X-Message-Id` makes a retry safe: it finds the same turn."""
    turn = await _call(
        "POST",
        f"{_session(number)}/turn",
        json={"messages": [{"role": "user", "content": message.text}]},
        headers={"Idempotency-Key": x_message_id},
    )
    return {"turn": turn["turn_id"]}


@app.get("/chats/{number}/turns/{turn}")
async def read(number: str, turn: str) -> dict[str, Any]:
    """How the turn is, after ten seconds at the latest."""
    found = await _call("GET", f"{_session(number)}/turn/{turn}", params={"wait": 10})
    failed = found["error"]["message"] if found.get("error") else None
    return {"status": found["status"], "text": found["output_message"]["content"], "error": failed}


@app.get("/chats/{number}/turns/{turn}/events")
async def follow(number: str, turn: str, last_event_id: Annotated[str | None, Header()] = None) -> StreamingResponse:
    """The turn's events as they come, after `Last-Event-ID` if the browser sends one."""
    turnstone: httpx.AsyncClient = app.state.turnstone
    call = turnstone.build_request(
        "GET",
        f"{_session(number)}/turn/{turn}/events",
        headers={"Last-Event-ID": last_event_id} if last_event_id else {},
        timeout=httpx.Timeout(30, read=60),  # a silent stream pings every 15 s
    )
    upstream = await turnstone.send(call, stream=True)

    async def relay() -> AsyncIterator[bytes]:
        try:
            async for piece in upstream.aiter_raw():
                yield piece
        finally:
            await upstream.aclose()

    return StreamingResponse(
        relay(), status_code=upstream.status_code, media_type=upstream.headers.get("Content-Type", "text/plain")
    )


@app.post("/chats/{number}/turns/{turn}/cancel", status_code=202)
async def cancel(number: str, turn: str) -> dict[str, str]:
    """Stop the turn; what it has said so far stays."""
    found = await _call("POST", f"{_session(number)}/turn/{turn}/cancel")
    return {"status": found["status"]}


def _session(number: str) -> str:
    if number not in sessions:
        raise HTTPException(404, "There is no such chat.")
    return sessions[number]


async def _call(method: str, path: str, **request: Any) -> dict[str, Any]:
    reply = await app.state.turnstone.request(method, path, **request)
    if reply.is_error:
        # What Turnstone has to say about a refusal is meant for people: pass it on.
        raise HTTPException(reply.status_code, reply.json()["detail"])
    return reply.json()
