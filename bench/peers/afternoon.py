"""What somebody would write in an afternoon instead of taking Turnstone: one Celery task per turn.

The task reads the model's reply with the openai SDK and adds each token to a Redis stream; each client of the API
reads that stream with a blocking XREAD of its own. Nothing here outlives a killed worker, and nothing is ever run
twice or taken up again; that is what makes it short.

    celery -A afternoon worker -c 64
    gunicorn -k gevent --worker-connections 10000 afternoon:web

REDIS_URL says where broker and streams lie, OPENAI_BASE_URL where the model is.
"""

import json
import os
import uuid
from collections.abc import Iterator
from typing import Any

from celery import Celery
from flask import Flask, Response, request
from openai import OpenAI
from redis import Redis

KEEP_S = 3600
WAIT_MS = 2000  # less than the five seconds after which redis-py gives up a connection

redis_url = os.environ["REDIS_URL"]
tasks = Celery("afternoon", broker=redis_url)
tasks.conf.update(task_ignore_result=True, worker_prefetch_multiplier=1)
streams = Redis.from_url(redis_url, max_connections=20_000)
web = Flask(__name__)
model = OpenAI(api_key="none")


@tasks.task
def run_turn(turn_id: str, messages: list[dict[str, Any]]) -> None:
    key = f"turn:{turn_id}"
    for chunk in model.chat.completions.create(model="bench", messages=messages, stream=True):
        if chunk.choices and chunk.choices[0].delta.content:
            streams.xadd(key, {"token": chunk.choices[0].delta.content})
    streams.xadd(key, {"end": "1"})
    streams.expire(key, KEEP_S)


@web.post("/turns")
def submit() -> tuple[dict[str, str], int]:
    turn_id = uuid.uuid4().hex
    run_turn.delay(turn_id, request.json["messages"])
    return {"turn_id": turn_id}, 202


@web.get("/turns/<turn_id>/events")
def events(turn_id: str) -> Response:
    return Response(_events(f"turn:{turn_id}"), mimetype="text/event-stream")


def _events(key: str) -> Iterator[str]:
    last = "0"
    while True:
        for _, entries in streams.xread({key: last}, block=WAIT_MS):
            for entry_id, fields in entries:
                last = entry_id
                if b"end" in fields:
                    yield "event: end\ndata: {}\n\n"
                    return
                yield f"data: {json.dumps({'token': fields[b'token'].decode()})}\n\n"
