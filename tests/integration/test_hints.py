"""Hints: published where workers listen, and never in the way of what was accepted."""

import logging
from base64 import b64decode
from collections.abc import Iterator

import orjson
import pytest
from celery import Celery
from logkit import free_port, running_server
from redis import Redis
from stalling_proxy import StallingProxy

from shared.cli.binaries import find_binary
from shared.hints import RUN_TURN, Hints, celery_app
from shared.ids import DEFAULT_TENANT, TurnRef, new_session_id, new_turn_id
from shared.queues import CALLS_QUEUE, TURNS_QUEUE, broker_name
from shared.redis_client import connect
from shared.settings import kombu_url

DEADLINE_S = 60


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def app(redis_url: str, key_prefix: str) -> Iterator[Celery]:
    app = celery_app(kombu_url(redis_url), prefix=key_prefix)
    yield app
    app.close()


def a_turn() -> TurnRef:
    session_id = new_session_id()
    return TurnRef(DEFAULT_TENANT, session_id, new_turn_id(session_id))


def hinted(client: Redis, prefix: str) -> list[TurnRef]:
    """The turns of the hints that nobody has been given, the first one first."""
    raw = [orjson.loads(message) for message in client.lrange(broker_name(TURNS_QUEUE, prefix), 0, -1)]
    assert {message["headers"]["task"] for message in raw} <= {RUN_TURN}
    return [TurnRef.parse(orjson.loads(b64decode(message["body"]))[0][0]) for message in reversed(raw)]


def test_hints_name_their_turns_to_whoever_listens_in_their_order(app: Celery, client: Redis, key_prefix: str) -> None:
    turns = [a_turn() for _ in range(50)]
    hints = Hints(app=app)

    for turn in turns:
        hints.send(turn)

    assert hints.flush(DEADLINE_S)
    assert hinted(client, key_prefix) == turns


def test_installations_with_prefixes_of_their_own_share_a_broker(
    app: Celery, client: Redis, redis_url: str, key_prefix: str
) -> None:
    other = celery_app(kombu_url(redis_url), prefix=f"{key_prefix}-other")
    mine, theirs = a_turn(), a_turn()

    for owner, turn in ((app, mine), (other, theirs)):
        hints = Hints(app=owner)
        hints.send(turn)
        assert hints.flush(DEADLINE_S)
    other.close()

    assert hinted(client, key_prefix) == [mine]
    assert hinted(client, f"{key_prefix}-other") == [theirs]


def test_hints_that_nobody_takes_do_not_fill_the_broker(
    app: Celery, client: Redis, key_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.hints._MOST_AT_BROKER", 10)
    monkeypatch.setattr("shared.hints._COUNT_S", 0)
    hints, late = Hints(app=app), a_turn()

    for _ in range(40):
        hints.send(a_turn())
        assert hints.flush(DEADLINE_S)
    assert len(hinted(client, key_prefix)) == 10
    client.delete(broker_name(TURNS_QUEUE, key_prefix))
    hints.send(late)

    assert hints.flush(DEADLINE_S)
    assert hinted(client, key_prefix) == [late]


def test_hints_need_no_result_and_no_events(app: Celery) -> None:
    assert app.conf.task_ignore_result is True
    assert app.conf.task_acks_late is False
    assert app.conf.worker_send_task_events is False
    assert app.conf.accept_content == ["json"]


def test_rabbitmq_replicates_queues_and_waits_for_acknowledgements() -> None:
    app = celery_app("amqp://127.0.0.1:1//", prefix="p")

    queues = [app.amqp.queues[name] for name in (TURNS_QUEUE, CALLS_QUEUE)]

    assert [queue.name for queue in queues] == ["p.turns", "p.calls"]
    assert [queue.queue_arguments for queue in queues] == [{"x-queue-type": "quorum", "x-max-length": 50_000}] * 2
    assert [queue.no_ack for queue in queues] == [False, False]
    assert {queue.exchange.name for queue in queues} == {""}


def test_a_broker_that_is_away_is_said_once_and_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    app = celery_app(f"redis://127.0.0.1:{free_port()}/0", prefix="p")
    hints = Hints(app=app)

    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            hints.send(a_turn())
        assert hints.flush(DEADLINE_S)
    app.close()

    said = [record.getMessage() for record in caplog.records if record.name == "shared.hints"]
    assert len(said) == 1
    assert said[0].startswith("hints are not published (the reaper repeats them)")


def test_nobody_who_sends_a_hint_waits_for_a_broker_that_does_not_answer(key_prefix: str) -> None:
    port = free_port()
    with (
        running_server(find_binary(), "--port", str(port), "--bind", "127.0.0.1") as url,
        connect(url) as client,
        StallingProxy(port) as proxy,
    ):
        app = celery_app(f"redis://127.0.0.1:{proxy.port}/0", prefix=key_prefix)
        hints = Hints(app=app)
        hints.send(a_turn())
        assert hints.flush(DEADLINE_S)

        proxy.stall()
        for _ in range(500):
            hints.send(a_turn())
        assert not hints.flush(0.2), "the broker has been given them after all"
        proxy.flow()

        assert hints.flush(DEADLINE_S)
        assert len(hinted(client, key_prefix)) == 501
        app.close()
