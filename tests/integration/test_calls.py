"""Calls: asked by the API, answered by a worker, and gone without a trace."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from redis import Redis
from waiting import wait_for

from shared import calls as calls_module
from shared.calls import Calls
from shared.errors import Conflict, InvalidRequest, NotFound, ProviderError, StoreError, TurnstoneError, Unavailable
from shared.hints import CALL, celery_app
from shared.log.keys import Keys
from shared.redis_client import connect
from worker.calls import CallServer, Operation

Json = dict[str, Any]


class Bench:
    """A caller, and a worker whose operations a test names."""

    def __init__(self, client: Redis, prefix: str) -> None:
        self.client = client
        self.keys = Keys(prefix)
        self.operations: dict[str, Operation] = {"echo": lambda payload: {"said": payload}}
        self.server = CallServer(client=client, keys=self.keys, operations=self.operations)
        self.calls = Calls(client=client, keys=self.keys, app=celery_app("memory://", prefix="ts"))
        self.hinted: list[str] = []
        self.threads: list[threading.Thread] = []
        self.hint_with(self.server.run)

    def hint_with(self, hint: Any) -> None:
        def hinted(call_id: str) -> None:
            self.hinted.append(call_id)
            hint(call_id)

        self.calls._hint = hinted  # type: ignore[method-assign]

    def in_a_thread(self, call_id: str) -> None:
        self.threads.append(threading.Thread(target=self.server.run, args=(call_id,)))
        self.threads[-1].start()

    def left(self) -> list[bytes]:
        """The keys that there still are."""
        return list(self.client.scan_iter(f"{self.keys.prefix}:*"))


@pytest.fixture
def bench(redis_url: str, key_prefix: str) -> Iterator[Bench]:
    with connect(redis_url) as client:
        bench = Bench(client, key_prefix)
        yield bench
        for thread in bench.threads:
            thread.join(20)
        client.connection_pool.disconnect()


def test_a_call_gets_the_operations_result_and_leaves_nothing(bench: Bench) -> None:
    assert bench.calls.call("echo", {"n": 1}) == {"said": {"n": 1}}
    assert bench.left() == []


def test_a_message_that_comes_twice_or_late_does_nothing(bench: Bench) -> None:
    done: list[Json] = []
    bench.operations["note"] = lambda payload: done.append(payload) or {}  # type: ignore[func-returns-value]
    bench.hint_with(lambda call_id: [bench.server.run(call_id) for _ in range(2)])

    bench.calls.call("note", {"n": 1})
    bench.server.run(bench.hinted[-1])

    assert done == [{"n": 1}]
    assert bench.left() == []


def test_without_a_worker_a_call_is_unavailable_and_says_when_to_come_back(bench: Bench) -> None:
    bench.hint_with(lambda call_id: None)

    with pytest.raises(Unavailable) as refusal:
        bench.calls.call("echo", {}, timeout_s=0.1)

    assert refusal.value.code == "no_calls_worker"
    assert refusal.value.retry_after > 0
    assert bench.left() == []


def test_a_call_that_was_given_up_is_not_made_later(bench: Bench) -> None:
    done: list[Json] = []
    bench.operations["note"] = lambda payload: done.append(payload) or {}  # type: ignore[func-returns-value]
    bench.hint_with(lambda call_id: None)
    with pytest.raises(Unavailable):
        bench.calls.call("note", {}, timeout_s=0.1)

    bench.server.run(bench.hinted[-1])

    assert done == []


def test_a_broker_that_is_away_is_said_at_once(redis_url: str, key_prefix: str) -> None:
    with connect(redis_url) as client:
        calls = Calls(client=client, keys=Keys(key_prefix), app=celery_app("redis://127.0.0.1:1/0", prefix="ts"))

        with pytest.raises(Unavailable) as refusal:
            calls.call("echo", {})

        assert refusal.value.code == "broker_unavailable"
        assert not list(client.scan_iter(f"{key_prefix}:*"))


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("Wrong.", param="a.b", code="some_code"),
        NotFound("tool", "t", listing="GET /v1/tools"),
        Conflict("There.", code="already_registered", lasting=False),
        Unavailable("Not now.", code="later", retry_after=7),
        ProviderError("Provider 'p' refuses.", provider_id="p", code="c", status=429, retryable=True, retry_after=1.5),
    ],
)
def test_an_error_reaches_the_caller_as_it_was(bench: Bench, error: TurnstoneError) -> None:
    def fail(payload: Json) -> Json:
        raise error

    bench.operations["fail"] = fail

    with pytest.raises(type(error)) as raised:
        bench.calls.call("fail", {})

    assert vars(raised.value) == vars(error)
    assert bench.left() == []


def test_a_fault_of_the_workers_own_tells_nothing_but_where_to_look(bench: Bench) -> None:
    def fail(payload: Json) -> Json:
        raise ValueError("the secret is s3cr3t")

    bench.operations["fail"] = fail

    with pytest.raises(ProviderError) as raised:
        bench.calls.call("fail", {})

    assert raised.value.code == "internal_error"
    assert "s3cr3t" not in raised.value.message


def test_an_operation_of_another_release_is_not_there(bench: Bench) -> None:
    with pytest.raises(Unavailable, match="another release"):
        bench.calls.call("nothing", {})


def test_a_slow_operation_is_waited_for_as_long_as_its_worker_shows_life(bench: Bench) -> None:
    go = threading.Event()
    bench.operations["wait"] = lambda payload: {"done": go.wait(20)}
    bench.hint_with(bench.in_a_thread)
    answers: list[Json] = []
    caller = threading.Thread(target=lambda: answers.append(bench.calls.call("wait", {}, timeout_s=0.5)))
    caller.start()
    wait_for(lambda: bool(bench.server._running), "the worker is at work")
    (keys,) = bench.server._running

    def beat() -> bool:
        bench.server._add(keys, calls_module.BEAT, b"")
        return time.monotonic() > begun + 1.5

    begun = time.monotonic()
    wait_for(beat, "three times the silence has passed")
    go.set()
    caller.join(20)

    assert answers == [{"done": True}]


def test_a_worker_that_falls_silent_is_given_up(bench: Bench) -> None:
    go = threading.Event()
    bench.operations["wait"] = lambda payload: {"done": go.wait(20)}
    bench.hint_with(bench.in_a_thread)

    with pytest.raises(Unavailable) as refusal:
        bench.calls.call("wait", {}, timeout_s=0.3)
    go.set()

    assert refusal.value.code == "calls_worker_lost"


def test_a_stream_gives_its_items_in_order_and_leaves_nothing(bench: Bench) -> None:
    bench.operations["count"] = lambda payload: ({"n": n} for n in range(payload["to"]))

    items = [item for item in bench.calls.stream("count", {"to": 300}) if item is not None]

    assert items == [b'{"n":%d}' % n for n in range(300)]
    assert bench.left() == []


def test_a_stream_that_fails_gives_what_came_before(bench: Bench) -> None:
    def count(payload: Json) -> Any:
        yield {"n": 0}
        raise ProviderError("Cut.", provider_id="p", code="provider_interrupted")

    bench.operations["count"] = count
    stream = bench.calls.stream("count", {})

    assert next(stream) == b'{"n":0}'
    with pytest.raises(ProviderError, match="Cut"):
        next(stream)
    assert bench.left() == []


def test_a_stream_that_its_reader_leaves_ends_the_operation(bench: Bench) -> None:
    ended, asked = threading.Event(), threading.Event()

    def forever(payload: Json) -> Any:
        try:
            n = 0
            while True:
                asked.wait(0.01)
                yield {"n": (n := n + 1)}
        finally:
            ended.set()

    bench.operations["forever"] = forever
    bench.hint_with(bench.in_a_thread)
    stream = bench.calls.stream("forever", {})
    next(stream)

    stream.close()

    assert ended.wait(20)
    assert bench.left() == []


def test_many_threads_call_at_once_and_each_gets_its_own_answer(bench: Bench) -> None:
    bench.hint_with(bench.in_a_thread)
    answers: dict[int, Json] = {}
    callers = [
        threading.Thread(target=lambda n=n: answers.update({n: bench.calls.call("echo", {"n": n})}))  # type: ignore[misc]
        for n in range(20)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(20)

    assert answers == {n: {"said": {"n": n}} for n in range(20)}
    wait_for(lambda: bench.left() == [], "nothing is left")


def test_a_worker_that_ends_answers_what_it_was_at(bench: Bench) -> None:
    def at_work(call_id: str) -> None:
        """The worker is told to end while it is at the call."""
        working = gevent.spawn(bench.server.run, call_id)
        gevent.sleep(0.05)
        bench.server.drain(0.05)
        working.join(20)

    bench.operations["wait"] = lambda payload: gevent.sleep(60) or {}
    bench.hint_with(at_work)

    with pytest.raises(Unavailable, match="restarts"):
        bench.calls.call("wait", {})
    bench.hint_with(bench.server.run)
    with pytest.raises(Unavailable) as refusal:
        bench.calls.call("echo", {}, timeout_s=0.1)
    assert refusal.value.code == "no_calls_worker"


def test_a_store_that_is_away_is_a_store_error(key_prefix: str) -> None:
    with connect("redis://127.0.0.1:1/0") as nobody:
        calls = Calls(client=nobody, keys=Keys(key_prefix), app=celery_app("memory://", prefix="ts"))

        with pytest.raises(StoreError):
            calls.call("echo", {})


def test_the_hint_is_a_message_of_the_calls_queue(redis_url: str, key_prefix: str) -> None:
    sent: list[tuple[Any, ...]] = []
    app = celery_app("memory://", prefix="ts")
    app.send_task = lambda name, **options: sent.append((name, options["queue"]))
    with connect(redis_url) as client, pytest.raises(Unavailable):
        Calls(client=client, keys=Keys(key_prefix), app=app).call("echo", {}, timeout_s=0.05)

    assert sent == [(CALL, "calls")]
