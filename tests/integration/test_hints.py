"""Hints: published where workers listen, and never in the way of what was accepted."""

import logging
from base64 import b64decode
from collections.abc import Iterator

import orjson
import pytest
from celery import Celery
from logkit import free_port
from redis import Redis

from shared.hints import RUN_TURN, TURNS_QUEUE, Hints, celery_app
from shared.ids import DEFAULT_TENANT, TurnRef, new_session_id, new_turn_id
from shared.redis_client import connect


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def app(redis_url: str, key_prefix: str) -> Iterator[Celery]:
    """An application whose queues are the test's own."""
    app = celery_app(redis_url.replace("unix://", "redis+socket://"))
    app.conf.broker_transport_options = {**app.conf.broker_transport_options, "global_keyprefix": f"{key_prefix}:"}
    yield app
    app.close()


def a_turn() -> TurnRef:
    session_id = new_session_id()
    return TurnRef(DEFAULT_TENANT, session_id, new_turn_id(session_id))


def test_a_hint_names_its_turn_to_whoever_listens(app: Celery, client: Redis, key_prefix: str) -> None:
    turn = a_turn()

    Hints(app=app).send(turn)

    [raw] = client.lrange(f"{key_prefix}:{TURNS_QUEUE}", 0, -1)
    message = orjson.loads(raw)
    assert message["headers"]["task"] == RUN_TURN
    assert TurnRef.parse(orjson.loads(b64decode(message["body"]))[0][0]) == turn


def test_hints_need_no_result_and_no_events(app: Celery) -> None:
    assert app.conf.task_ignore_result is True
    assert app.conf.task_acks_late is False
    assert app.conf.worker_send_task_events is False
    assert app.conf.accept_content == ["json"]


def test_a_broker_that_is_away_is_logged_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    app = celery_app(f"redis://127.0.0.1:{free_port()}/0")
    turn = a_turn()

    with caplog.at_level(logging.WARNING):
        Hints(app=app).send(turn)

    assert turn.turn_id in caplog.text
    app.close()
