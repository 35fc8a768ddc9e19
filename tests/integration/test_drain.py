"""Workers that are told to stop: what they are at is finished, what follows runs elsewhere, and nothing is lost."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from fake_tools import FakeTools
from fake_upstream import FakeUpstream, Stream, call_piece, calls, text
from rooms import Room, Rooms
from waiting import wait_for

from shared.hints import Hints, celery_app
from shared.ids import DEFAULT_TENANT, TurnRef, new_token
from shared.log.keys import Keys
from shared.queues import QUEUES, TURNS_QUEUE, broker_name

Json = dict[str, Any]

AMQP_URL = os.environ.get("TURNSTONE_TEST_AMQP_URL", "")
RABBITMQ = pytest.param(
    AMQP_URL, id="amqp", marks=pytest.mark.skipif(not AMQP_URL, reason="TURNSTONE_TEST_AMQP_URL is not set")
)

pytestmark = pytest.mark.timeout(400)

DEADLINE_S = 120.0
LEASE_S = 1000
"""Longer than a test may last: a turn that had to wait for a lease would not end."""
LOOK = call_piece(0, id="c1", name="look", arguments="{}")
TERMINAL = {"turn_complete", "turn_failed", "turn_canceled"}


@dataclass
class Bench:
    """Rooms whose model and tool are HTTP servers of the test's own."""

    rooms: Rooms
    upstream: FakeUpstream
    tools: FakeTools
    apis: list[Room] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.keys = Keys(self.rooms.key_prefix)
        self.apis.append(self.rooms.api())

    def workers(self, count: int = 2, *, drain_s: int = 1000) -> list[Room]:
        workers = [self.rooms.worker(environ={"TURNSTONE_DRAIN_S": str(drain_s)}) for _ in range(count)]
        self.rooms.until_healthy(*workers, *self.apis, seconds=DEADLINE_S)
        return workers

    def until_drains(self, worker: Room) -> None:
        """Return once the worker has said that it takes nothing more."""

        def gone() -> bool:
            with self.rooms.store() as store:
                return store.zscore(self.keys.workers(TURNS_QUEUE), worker.worker_name) is None

        wait_for(gone, "the worker drains", seconds=DEADLINE_S)

    def submit(self, words: str = "hello", **config: Any) -> "Turn":
        """A turn in a session of its own."""
        body = {"agent_config": {"model": "m", "instructions": "", **config}}
        sessions = f"/v1/agents/{self.post('/v1/agents', body)['agent_id']}/session"
        turns = f"{sessions}/{self.post(sessions, {'session_name': words})['session_id']}/turn"
        turn = self.post(turns, {"messages": [{"role": "user", "content": words}]})
        return Turn(self, f"{turns}/{turn['turn_id']}")

    def post(self, path: str, body: Json) -> Json:
        """As a client does it that knows all APIs: what one does not answer it asks of the next."""
        headers = {"Idempotency-Key": new_token()}
        for attempt in range(200):
            api = self.apis[-1 - attempt % len(self.apis)]
            try:
                reply = httpx.post(f"{api.url}{path}", json=body, headers=headers, timeout=DEADLINE_S)
            except httpx.TransportError:
                time.sleep(0.1)
                continue
            if reply.status_code == 503:
                time.sleep(float(reply.headers["retry-after"]))
                continue
            assert reply.status_code in (200, 202), reply.text
            return dict(reply.json())
        raise AssertionError(f"no API takes {path}")

    @property
    def asked(self) -> int:
        """How often the model was asked."""
        return sum(request.path.endswith("/chat/completions") for request in self.upstream.requests)

    @property
    def invoked(self) -> int:
        """How often the tool was called."""
        return sum(request.path == "/look" for request in self.tools.requests)


@dataclass
class Turn:
    bench: Bench
    path: str

    def __post_init__(self) -> None:
        parts = self.path.split("/")
        self.ref = TurnRef(DEFAULT_TENANT, parts[-3], parts[-1])

    def get(self) -> Json:
        return dict(httpx.get(f"{self.bench.apis[-1].url}{self.path}", timeout=DEADLINE_S).json())

    def events(self) -> list[tuple[int, str]]:
        """(seq, type) of each event in the store."""
        with self.bench.rooms.store() as store:
            entries: Any = store.xrange(self.bench.keys.turn(self.ref).events)
        return [(int(name.split(b"-")[0]), values[b"t"].decode()) for name, values in entries]

    def types(self) -> list[str]:
        return [kind for _, kind in self.events()]

    def row(self) -> dict[str, str]:
        with self.bench.rooms.store() as store:
            raw: Any = store.hgetall(self.bench.keys.turn(self.ref).turn)
        return {name.decode(): value.decode(errors="replace") for name, value in raw.items()}

    def until(self, condition: Callable[[], bool], what: str) -> None:
        wait_for(condition, f"{what}: {self.types()}", seconds=DEADLINE_S)

    def until_begun(self) -> None:
        self.until(lambda: "step_start" in self.types(), "the turn runs")

    def until_ended(self) -> Json:
        self.until(lambda: bool(TERMINAL & set(self.types())), "the turn ends")
        return self.get()


@pytest.fixture
def broker_url(request: pytest.FixtureRequest, key_prefix: str) -> Iterator[str | None]:
    """Another broker than the store, where a test wants one."""
    url = getattr(request, "param", None)
    yield url
    if url is not None:
        with celery_app(url, prefix=key_prefix).connection_for_write() as connection:
            for queue in QUEUES:
                connection.default_channel.queue_delete(broker_name(queue, key_prefix))


@pytest.fixture
def bench(tmp_path: Path, key_prefix: str, broker_url: str | None) -> Iterator[Bench]:
    with FakeUpstream() as upstream, FakeTools() as tools:
        model = {"provider_id": "up", "provider_type": "remote::openai", "config": {"url": upstream.url}}
        look = {"name": "look", "description": "Looks.", "url": f"{tools.root}/look", "timeout_s": 300}
        web = {"provider_id": "web", "provider_type": "remote::http", "config": {"tools": [look]}}
        config = {"providers": {"inference": [model], "tool_runtime": [web]}, "turns": {"lease_s": LEASE_S}}
        with Rooms(tmp_path, config, broker_url=broker_url, key_prefix=key_prefix) as rooms:
            yield Bench(rooms, upstream, tools)


def owner_and_other(turn: Turn, workers: list[Room]) -> list[Room]:
    owner = turn.row()["worker"]
    return sorted(workers, key=lambda worker: worker.worker_name != owner)


@pytest.mark.parametrize("broker_url", [pytest.param(None, id="redis"), RABBITMQ], indirect=True)
def test_a_step_that_runs_is_finished_and_the_next_one_runs_in_another_worker(bench: Bench) -> None:
    bench.tools.replies["/look"] = text_result("seen")
    gate = threading.Event()
    bench.upstream.script(calls(LOOK, gate=gate), text("Done."))
    workers = bench.workers()
    turn = bench.submit(toolgroups=["web"])
    bench.upstream.wait_for(lambda: bench.asked == 1, deadline_s=DEADLINE_S)
    first, second = owner_and_other(turn, workers)

    first.terminate()
    bench.until_drains(first)
    gate.set()
    assert first.wait() == 0
    ended = turn.until_ended()

    assert bench.asked == 2, "one request for each step: none was broken off"
    assert ended["output_message"]["content"] == "Done."
    assert [step["step_type"] for step in ended["steps"]] == ["inference", "tool_execution", "inference"]
    assert [kind for kind in turn.types() if kind != "step_progress"] == [
        *("turn_created", "turn_start", "step_start", "step_complete", "turn_recovered"),
        *("step_start", "step_complete", "step_start", "step_complete", "turn_complete"),
    ]
    assert turn.row()["worker"] == second.worker_name
    assert "lapses" not in turn.row(), "a drain counts against nobody"


def test_a_step_that_outlasts_the_grace_is_given_up_and_another_takes_its_place(bench: Bench) -> None:
    bench.upstream.script(text("never", hang_before_head=True), text("Done."))
    workers = bench.workers(drain_s=1)
    turn = bench.submit()
    bench.upstream.wait_for(lambda: bench.asked == 1, deadline_s=DEADLINE_S)
    first, second = owner_and_other(turn, workers)

    first.terminate()
    assert first.wait() == 0
    ended = turn.until_ended()

    bench.upstream.wait_for(lambda: bench.upstream.hangups >= 1)
    assert turn.types()[2:5] == ["step_start", "turn_recovered", "step_abandoned"]
    assert ended["output_message"]["content"] == "Done."
    assert (ended["attempts"], turn.row()["worker"]) == (2, second.worker_name)
    assert "lapses" not in turn.row(), "a drain counts against nobody"


def test_a_tool_that_must_not_run_twice_runs_once_and_its_outcome_counts(bench: Bench) -> None:
    gate = threading.Event()
    bench.tools.replies["/look"] = text_result("seen", gate=gate)
    bench.upstream.script(calls(LOOK), text("Done."))
    workers = bench.workers()
    turn = bench.submit(toolgroups=["web"])
    bench.tools.wait_for(lambda: bench.invoked == 1, deadline_s=DEADLINE_S)
    first, second = owner_and_other(turn, workers)

    first.terminate()
    bench.until_drains(first)
    first.terminate()  # which hurries nothing
    gate.set()
    assert first.wait() == 0
    ended = turn.until_ended()

    assert bench.invoked == 1
    assert ended["steps"][1]["tool_responses"][0]["content"] == "seen"
    assert ended["output_message"]["content"] == "Done."
    assert turn.row()["worker"] == second.worker_name


def test_a_turn_that_needs_no_more_than_its_end_is_ended_by_the_worker_that_leaves(bench: Bench) -> None:
    gate = threading.Event()
    bench.upstream.script(text("All ", "of ", "it.", gate=gate))
    [worker] = bench.workers(1)
    turn = bench.submit()
    bench.upstream.wait_for(lambda: bench.asked == 1, deadline_s=DEADLINE_S)

    worker.terminate()
    bench.until_drains(worker)
    gate.set()
    assert worker.wait() == 0

    assert turn.types()[-1] == "turn_complete"
    assert turn.get()["attempts"] == 1


def test_a_worker_that_drains_leaves_new_turns_to_others(bench: Bench) -> None:
    gate = threading.Event()
    bench.upstream.script(text("Late.", gate=gate))
    workers = bench.workers()
    held = bench.submit()
    bench.upstream.wait_for(lambda: bench.asked == 1, deadline_s=DEADLINE_S)
    first, second = owner_and_other(held, workers)

    first.terminate()
    bench.until_drains(first)
    turns = [bench.submit(f"turn {number}") for number in range(5)]
    ended = [turn.until_ended() for turn in turns]

    assert first.alive, "it is still at its step"
    assert {turn["status"] for turn in ended} == {"completed"}
    assert {turn.row()["worker"] for turn in turns} == {second.worker_name}
    gate.set()
    assert first.wait() == 0
    assert held.types()[-1] == "turn_complete"


def test_a_calls_worker_answers_what_it_has_and_leaves_the_rest_to_another(bench: Bench) -> None:
    gate = threading.Event()
    bench.tools.replies["/look"] = text_result("seen", gate=gate)
    bench.workers(1)
    first = bench.rooms.calls_worker()
    answers: list[Json] = []

    def invoke() -> None:
        answers.append(bench.post("/v1/tool-runtime/invoke", {"tool_name": "look", "kwargs": {}}))

    callers = [threading.Thread(target=invoke, daemon=True) for _ in range(2)]
    callers[0].start()
    bench.tools.wait_for(lambda: bench.invoked == 1, deadline_s=DEADLINE_S)
    bench.rooms.calls_worker()
    first.terminate()
    callers[1].start()
    bench.tools.wait_for(lambda: bench.invoked == 2, deadline_s=DEADLINE_S)
    gate.set()
    for caller in callers:
        caller.join(DEADLINE_S)

    assert first.wait() == 0
    assert [answer["content"] for answer in answers] == ["seen", "seen"]
    assert bench.invoked == 2, "neither was broken off and made again"


def test_a_hint_that_a_leaving_worker_still_got_is_in_the_queue_when_it_has_left(bench: Bench) -> None:
    [worker] = bench.workers(1)
    queue = broker_name(TURNS_QUEUE, bench.rooms.key_prefix)
    hints = Hints(app=celery_app(bench.rooms.redis_url, prefix=bench.rooms.key_prefix))
    hints.warm()
    hints.flush(DEADLINE_S)

    def handed_over_while_paused() -> bool:
        """Whether the store has handed a hint to the worker, which had asked for it and does not run now."""
        worker.pause()
        wait_for(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED, "the worker stands still")
        hints.send(TurnRef.parse("default/sess_00_nobody/turn_00_nothing"))
        assert hints.flush(DEADLINE_S)
        if store.llen(queue) == 0:
            return True
        worker.go_on()
        store.delete(queue)
        return False

    with bench.rooms.store() as store:
        wait_for(handed_over_while_paused, "the worker gets a hint", seconds=DEADLINE_S)
        worker.terminate()
        worker.go_on()
        assert worker.wait() == 0

        assert store.llen(queue) == 1


def test_workers_and_apis_are_replaced_one_by_one_under_load_and_nothing_is_lost(bench: Bench) -> None:
    bench.upstream.default = text(*(f"w{number} " for number in range(20)), between_s=0.1)
    bench.apis.append(bench.rooms.api())
    workers = bench.workers()
    load = Load(bench)

    with load:
        for worker in workers:
            bench.workers(1)
            worker.terminate()
            assert worker.wait() == 0
        for api in list(bench.apis):
            bench.apis.append(bench.rooms.api())
            bench.rooms.until_healthy(bench.apis[-1], seconds=DEADLINE_S)
            bench.apis.remove(api)
            api.terminate()
            assert api.wait() == 0
    ended = [turn.until_ended() for turn in load.turns]

    assert load.errors == []
    assert len(load.turns) >= 4  # there was a load; the faster the replacing goes, the less of it
    assert {turn["status"] for turn in ended} == {"completed"}
    assert {turn["output_message"]["content"] for turn in ended} == {"".join(f"w{number} " for number in range(20))}
    for turn in load.turns:
        log = turn.events()
        assert [seq for seq, _ in log] == list(range(1, len(log) + 1))
        assert "lapses" not in turn.row()
    assert all(load.tails[turn.path] == turn.events() for turn in load.turns)


@dataclass
class Load:
    """Clients that submit a turn each second, and tail it through whichever API answers."""

    bench: Bench
    turns: list[Turn] = field(default_factory=list)
    tails: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    errors: list[BaseException] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> None:
        self._begin(self._submit)

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(DEADLINE_S)

    def _begin(self, act: Callable[..., None], *args: Any) -> None:
        self.threads.append(threading.Thread(target=self._guarded, args=(act, *args), daemon=True))
        self.threads[-1].start()

    def _guarded(self, act: Callable[..., None], *args: Any) -> None:
        try:
            act(*args)
        except BaseException as error:
            self.errors.append(error)

    def _submit(self) -> None:
        while not self.stopped.wait(1):
            turn = self.bench.submit(f"turn {len(self.turns)}")
            self.turns.append(turn)
            self._begin(self._tail, turn)

    def _tail(self, turn: Turn) -> None:
        seen, last = self.tails.setdefault(turn.path, []), ""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline and not (seen and seen[-1][1] in TERMINAL):
            url = f"{self.bench.apis[-1].url}{turn.path}/events"
            try:
                with httpx.stream("GET", url, params={"after": last} if last else {}, timeout=DEADLINE_S) as reply:
                    for line in reply.iter_lines():
                        name, _, value = line.partition(": ")
                        if name == "id":
                            last = value
                        if name == "event":
                            seen.append((int(last.partition("-")[0]), value))
            except httpx.TransportError:
                time.sleep(0.1)


def text_result(words: str, **options: Any) -> Stream:
    """A tool's answer."""
    return Stream(pieces=[words.encode()], content_type="text/plain", **options)
