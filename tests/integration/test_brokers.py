"""Redis and RabbitMQ as brokers of real rooms: whatever becomes of the broker, turns are accepted, run and end."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import pytest
import redis
from amqp.exceptions import NotFound
from logkit import running_server
from rooms import DEADLINE_S, Rooms
from stack_process import free_port
from stalling_proxy import StallingProxy
from waiting import wait_for

from shared.cli.binaries import find_binary
from shared.hints import Hints, celery_app
from shared.ids import TurnRef, new_session_id, new_turn_id
from shared.queues import QUEUES, broker_name

Json = dict[str, Any]

AMQP_URL = os.environ.get("TURNSTONE_TEST_AMQP_URL", "")
RABBITMQ = pytest.param("amqp", marks=pytest.mark.skipif(not AMQP_URL, reason="TURNSTONE_TEST_AMQP_URL is not set"))
BROKERS = ["redis", RABBITMQ]
BOTH = pytest.mark.parametrize("broker", BROKERS, indirect=True)

RULES = [
    {"match": "^quick", "text": "Here you are."},
    {"match": "^slow", "text": " ".join(f"word{n}" for n in range(40)), "token_ms": 50},
    {"match": "^endless", "text": " ".join(f"word{n}" for n in range(3000)), "token_ms": 200},
]
CONFIG = {
    "providers": {
        "inference": [{"provider_id": "script", "provider_type": "inline::scripted", "config": {"rules": RULES}}]
    },
    "turns": {"lease_s": 2},
}


@dataclass(frozen=True, kw_only=True)
class Broker:
    """A broker, past any proxy, with the queues of one installation."""

    url: str
    prefix: str

    @property
    def is_redis(self) -> bool:
        return self.url.startswith("redis")

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 5672

    def through(self, port: int) -> str:
        """The URL by which a proxy's port leads to the broker."""
        parts = urlsplit(self.url)
        host = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        return urlunsplit(parts._replace(netloc=f"{host}127.0.0.1:{port}"))

    def waiting(self, queue: str = "turns") -> int:
        """How many messages nobody has been given; -1: there is no such queue."""
        name = broker_name(queue, self.prefix)
        if self.is_redis:
            with redis.Redis.from_url(self.url) as client:
                return client.llen(name)  # type: ignore[return-value]
        with self._channel() as channel:
            try:
                return int(channel.queue_declare(name, passive=True).message_count)
            except NotFound:
                return -1

    def consumers(self) -> int:
        """How many consumers RabbitMQ knows of the queue of hints at turns."""
        with self._channel() as channel:
            try:
                return int(channel.queue_declare(broker_name("turns", self.prefix), passive=True).consumer_count)
            except NotFound:
                return 0

    def wipe(self) -> None:
        """Make the broker forget everything: a Redis of the test's own as a whole, at RabbitMQ the queues."""
        if self.is_redis:
            with redis.Redis.from_url(self.url) as client:
                client.flushall()
            return
        with self._channel() as channel:
            for queue in QUEUES:
                channel.queue_delete(broker_name(queue, self.prefix))

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        app = celery_app(self.url, prefix=self.prefix)
        with app.connection_for_write() as connection:
            yield connection.default_channel
        app.close()


@pytest.fixture
def broker(request: pytest.FixtureRequest, key_prefix: str) -> Iterator[Broker]:
    if request.param == "amqp":
        broker = Broker(url=AMQP_URL, prefix=key_prefix)
        yield broker
        broker.wipe()
        return
    port = free_port()
    with running_server(find_binary(), "--port", str(port), "--bind", "127.0.0.1"):
        yield Broker(url=f"redis://127.0.0.1:{port}/0", prefix=key_prefix)


@dataclass(kw_only=True)
class Bench:
    """Rooms on a broker, and the turns that a client has submitted."""

    rooms: Rooms
    broker: Broker
    http: httpx.Client
    turns: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        agent = self.http.post("/agents", json={"agent_config": {"model": "scripted", "instructions": "Be brief."}})
        self.sessions = f"/agents/{agent.json()['agent_id']}/session"

    def submit(self, words: str) -> str:
        """A turn in a session of its own, accepted with 202."""
        session = self.http.post(self.sessions, json={"session_name": words}).json()["session_id"]
        messages = [{"role": "user", "content": words}]
        reply = self.http.post(f"{self.sessions}/{session}/turn", json={"messages": messages})
        assert reply.status_code == 202, reply.text
        turn = f"{self.sessions}/{session}/turn/{reply.json()['turn_id']}"
        self.turns.append(turn)
        return turn

    def turn(self, path: str) -> Json:
        return dict(self.http.get(path, timeout=DEADLINE_S).json())

    def until(self, path: str, condition: Callable[[Json], bool], what: str) -> None:
        wait_for(lambda: condition(self.turn(path)), f"{what}: {path}", seconds=DEADLINE_S)

    def until_begun(self, path: str) -> None:
        self.until(path, lambda turn: bool(turn["steps"]), "the turn runs")

    def until_all_end(self) -> list[Json]:
        for path in self.turns:
            self.until(path, lambda turn: turn["completed_at"] is not None, "the turn ends")
        return [self.turn(path) for path in self.turns]

    def owner(self, path: str) -> str:
        """The name of the worker that runs the turn, or ran it last."""
        return self.owners()[path.rpartition("/")[2]]

    def owners(self) -> dict[str, str]:
        """The worker of each turn, by the turn's id."""
        with self.rooms.store() as store:
            keys = [key.decode() for key in store.scan_iter(f"{self.rooms.key_prefix}:*:turn:*", _type="HASH")]
            return {key.rpartition(":")[2]: (store.hget(key, "worker") or b"").decode() for key in keys}


@contextmanager
def benched(
    folder: Path, broker: Broker, *, port: int | None = None, workers: int = 2, concurrency: int = 1000
) -> Iterator[Bench]:
    """Rooms that reach the broker by `port`."""
    url = broker.through(port or broker.port)
    with Rooms(folder, CONFIG, broker_url=url, key_prefix=broker.prefix) as rooms:
        api = rooms.api()
        for _ in range(workers):
            rooms.worker(environ={"TURNSTONE_CONCURRENCY": str(concurrency)})
        rooms.until_healthy()
        # Its patience is what a submit may take at most, whatever the broker does.
        with httpx.Client(base_url=f"{api.url}/v1", timeout=5) as http:
            yield Bench(rooms=rooms, broker=broker, http=http)


@BOTH
def test_a_turn_is_taken_over_from_a_worker_that_is_killed(tmp_path: Path, broker: Broker) -> None:
    with benched(tmp_path, broker) as bench:
        turn = bench.submit("slow")
        bench.until_begun(turn)
        first = next(room for room in bench.rooms.rooms if room.worker_name == bench.owner(turn))

        first.kill()
        [ended] = bench.until_all_end()

        assert (ended["status"], ended["attempts"]) == ("completed", 2)
        assert bench.owner(turn) != first.worker_name


@BOTH
def test_turns_go_on_without_a_broker_and_begin_again_with_it(tmp_path: Path, broker: Broker) -> None:
    with StallingProxy(broker.port) as proxy, benched(tmp_path, broker, port=proxy.port) as bench:
        running = bench.submit("slow")
        bench.until_begun(running)

        proxy.refuse(True)
        assert proxy.cut() > 0
        for number in range(20):
            bench.submit(f"quick {number}")
        bench.until(running, lambda turn: turn["completed_at"] is not None, "the turn ends without a broker")
        proxy.refuse(False)
        ended = bench.until_all_end()

        assert {turn["status"] for turn in ended} == {"completed"}
        assert bench.turn(running)["attempts"] == 1


@BOTH
def test_a_broker_that_does_not_answer_keeps_no_submit_and_no_turn_waiting(tmp_path: Path, broker: Broker) -> None:
    with StallingProxy(broker.port) as proxy, benched(tmp_path, broker, port=proxy.port) as bench:
        running = bench.submit("slow")
        bench.until_begun(running)

        proxy.stall()
        for number in range(50):
            bench.submit(f"quick {number}")
        bench.until(running, lambda turn: turn["completed_at"] is not None, "the turn ends without a broker")
        proxy.flow()
        ended = bench.until_all_end()

        assert {turn["status"] for turn in ended} == {"completed"}
        assert bench.turn(running)["attempts"] == 1


@BOTH
def test_all_turns_end_though_the_broker_forgets_everything_again_and_again(tmp_path: Path, broker: Broker) -> None:
    with benched(tmp_path, broker) as bench:
        for number in range(120):
            bench.submit(f"slow {number}" if number % 2 else f"quick {number}")
            if number % 20 == 10:
                broker.wipe()
        ended = bench.until_all_end()

        assert {turn["status"] for turn in ended} == {"completed"}
        assert {turn["attempts"] for turn in ended} == {1}


@pytest.mark.parametrize("broker", [RABBITMQ], indirect=True)
def test_workers_declare_anew_a_queue_that_was_deleted_and_go_on_reading_it(tmp_path: Path, broker: Broker) -> None:
    with benched(tmp_path, broker) as bench:
        wait_for(lambda: broker.consumers() == 2, "both workers read", seconds=DEADLINE_S)

        broker.wipe()
        wait_for(lambda: broker.consumers() == 2, "both workers read again", seconds=DEADLINE_S)
        bench.submit("quick")
        bench.until_all_end()

        assert broker.waiting() == 0
        assert all(room.alive for room in bench.rooms.rooms)


@BOTH
def test_a_burst_of_turns_is_run_by_all_workers(tmp_path: Path, broker: Broker) -> None:
    with benched(tmp_path, broker) as bench:
        for number in range(300):
            bench.submit(f"quick {number}")
        ended = bench.until_all_end()

        assert {(turn["status"], turn["attempts"]) for turn in ended} == {("completed", 1)}
        owners = Counter(bench.owners().values())
        assert len(owners) == 2, owners
        assert min(owners.values()) > 30, owners


@BOTH
def test_a_full_worker_leaves_hints_to_others(tmp_path: Path, broker: Broker) -> None:
    with benched(tmp_path, broker, workers=1, concurrency=10) as bench:
        for number in range(10):
            bench.until_begun(bench.submit(f"endless {number}"))
        held = 1 if broker.is_redis else 4

        # At turns that are not there, so that the reaper repeats none.
        app = celery_app(broker.url, prefix=broker.prefix)
        hints = Hints(app=app)
        for number, sent in ((50, 50), (1, 51)):
            for _ in range(number):
                session = new_session_id()
                hints.send(TurnRef("default", session, new_turn_id(session)))
            left = sent - held
            wait_for(lambda left=left: broker.waiting() == left, f"{left} hints wait")  # type: ignore[misc]
        app.close()

        other = bench.rooms.worker()
        wait_for(lambda: broker.waiting() == 0, "another takes them", seconds=DEADLINE_S)
        turn = bench.submit("quick")
        bench.until(turn, lambda turn: turn["completed_at"] is not None, "the turn ends")
        assert bench.owner(turn) == other.worker_name


@pytest.mark.parametrize("broker", [RABBITMQ], indirect=True)
def test_a_queue_of_another_kind_is_said_clearly_and_stops_the_worker(tmp_path: Path, broker: Broker) -> None:
    name = broker_name("turns", broker.prefix)
    with broker._channel() as channel:
        channel.queue_declare(name, durable=True, auto_delete=False)
    with Rooms(tmp_path, CONFIG, broker_url=broker.url, key_prefix=broker.prefix) as rooms:
        worker = rooms.worker()

        assert worker.wait() == os.EX_CONFIG
        assert "is of another kind" in worker.written()
        assert name in worker.written()
