"""Serves the page, and stands between it and Turnstone.

A browser must not talk to Turnstone itself: it would need the API key, and could read every conversation. This proxy
knows which turns belong to whom (here: to whoever has the link) and lets nothing else through.
"""

import os
import secrets
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import httpx
from flask import Flask, Response, abort, request, send_file

MODEL = os.environ.get("TURNSTONE_MODEL", "scripted")
KEY = os.environ.get("TURNSTONE_API_KEY")
# Many platforms cut answers that last: the page does not mind. Set it to 1 to see that.
CUT_AFTER_S = float(os.environ.get("CUT_AFTER_S", "inf"))

app = Flask(__name__)
turnstone = httpx.Client(
    base_url=os.environ.get("TURNSTONE_URL", "http://127.0.0.1:8321") + "/v1",
    headers={"Authorization": f"Bearer {KEY}"} if KEY else {},
    timeout=30,
)
# By random names; a real back end keeps them in its database, beside the user that each belongs to.
turns: dict[str, str] = {}


@app.get("/")
def page() -> Response:
    return send_file(Path(__file__).with_name("index.html"))


@app.post("/ask")
def ask() -> tuple[dict[str, str], int]:
    """Submit a turn; the name under which its events are found."""
    config = {"model": MODEL, "instructions": "Be brief."}
    agent = _answered(turnstone.post("/agents", json={"agent_config": config}))["agent_id"]
    session = _answered(turnstone.post(f"/agents/{agent}/session", json={"session_name": "page"}))["session_id"]
    path = f"/agents/{agent}/session/{session}/turn"
    body = {"messages": [{"role": "user", "content": request.get_json()["text"]}]}
    turn = _answered(turnstone.post(path, json=body))["turn_id"]
    name = secrets.token_urlsafe(12)
    turns[name] = f"{path}/{turn}"
    return {"turn": name}, 202


@app.get("/events/<name>")
def events(name: str) -> Response:
    """The turn's events. A browser that comes back sends the last id that it saw, by itself; 204 tells it to stop."""
    path = turns.get(name) or abort(404)
    after = request.headers.get("Last-Event-ID")
    call = turnstone.build_request(
        "GET",
        f"{path}/events",
        headers={"Last-Event-ID": after} if after else {},
        timeout=httpx.Timeout(30, read=60),  # a silent stream pings every 15 s
    )
    upstream = turnstone.send(call, stream=True)

    if upstream.status_code != HTTPStatus.OK:
        upstream.close()
        return Response(status=upstream.status_code)

    def relay() -> Iterator[bytes]:
        ends = time.monotonic() + CUT_AFTER_S
        yield b"retry: 500\n\n"  # ms until the browser comes back
        try:
            for piece in upstream.iter_raw():
                yield piece
                if time.monotonic() > ends:
                    return
        except httpx.HTTPError:
            return  # Turnstone restarts: the browser comes back, and goes on where it was
        finally:
            upstream.close()

    # X-Accel-Buffering is for a proxy in front of this one.
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return Response(relay(), mimetype="text/event-stream", headers=headers)


def _answered(reply: httpx.Response) -> dict:
    if reply.is_error:
        abort(Response(reply.content, status=reply.status_code, content_type=reply.headers["Content-Type"]))
    return reply.json()
