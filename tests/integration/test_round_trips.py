"""Round trips that are shared: each caller gets its own replies, and whatever becomes of the others."""

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import ResponseError
from waiting import wait_for

from shared.redis_client import Store, connect
from shared.round_trips import RoundTrips


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    with connect(redis_url, socket_timeout=0.5) as store:
        yield store


def blocked(store: Store, key: str, seconds: float) -> threading.Thread:
    """Somebody whose round trip takes so long; returned once it is under way."""

    def ask() -> None:
        try:
            store.together([("BLPOP", key, seconds)])
        except NoConnection as error:
            ended.append(error)

    ended: list[Exception] = []
    thread = threading.Thread(target=ask)
    thread.start()
    wait_for(lambda: store.info("clients")["blocked_clients"] >= 1, "it waits")
    return thread


def test_many_callers_get_each_its_own_replies_in_few_trips(
    store: Store, key_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trips = []
    plain = RoundTrips._travel

    def counted(self: RoundTrips, loads: Sequence[Any]) -> None:
        trips.append(len(loads))
        plain(self, loads)

    monkeypatch.setattr(RoundTrips, "_travel", counted)
    waits = blocked(store, key_prefix, 0.3)

    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda n: store.together([("ECHO", f"{n}"), ("ECHO", f"{n}!")]), range(40)))

    waits.join()
    assert answers == [[b"%d" % n, b"%d!" % n] for n in range(40)]
    assert sum(trips) == 41
    assert len(trips) <= 12, "one that was under way, and a few for all that came meanwhile"


def test_a_refused_command_is_an_error_of_its_own_caller(store: Store, key_prefix: str) -> None:
    waits = blocked(store, key_prefix, 0.3)

    with ThreadPoolExecutor(2) as pool:
        wrong = pool.submit(store.together, [("NO-SUCH-COMMAND",), ("ECHO", "on")])
        right = pool.submit(store.together, [("ECHO", "fine")])

    waits.join()
    refused, on = wrong.result()
    assert isinstance(refused, ResponseError)
    assert on == b"on"
    assert right.result() == [b"fine"]


def test_what_cannot_be_sent_fails_its_caller_and_nobody_else(store: Store, key_prefix: str) -> None:
    waits = blocked(store, key_prefix, 0.3)

    with ThreadPoolExecutor(2) as pool:
        wrong = pool.submit(store.together, [("ECHO", "\ud800")])
        right = pool.submit(store.together, [("ECHO", "fine")])

    waits.join()
    assert isinstance(wrong.exception(), UnicodeError)
    assert right.result() == [b"fine"]


def test_who_waited_behind_a_cut_connection_goes_on_with_another(store: Store, redis_url: str, key_prefix: str) -> None:
    waits = blocked(store, key_prefix, 0.4)
    with ThreadPoolExecutor(5) as pool, connect(redis_url) as killer:
        answers = [pool.submit(store.together, [("ECHO", f"{n}")]) for n in range(5)]
        blocking = [c["id"] for c in killer.client_list() if c["cmd"] == "blpop"]
        killer.client_kill_filter(_id=blocking[0])
        assert [answer.result() for answer in answers] == [[b"%d" % n] for n in range(5)]
    waits.join()


def test_who_waited_behind_a_server_that_does_not_answer_is_told_at_once(store: Store, key_prefix: str) -> None:
    waits = blocked(store, key_prefix, 5)  # longer than the socket's timeout

    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(store.together, [("ECHO", "late")]) for _ in range(5)]
        wait_for(lambda: all(answer.done() for answer in answers), "all were told", seconds=2)

    waits.join()
    assert all(isinstance(answer.exception(), NoConnection) for answer in answers)
    assert store.together([("ECHO", "again")]) == [b"again"]


KILLS = """
from gevent import monkey; monkey.patch_all()
import sys, gevent
from redis.exceptions import ConnectionError as NoConnection
from shared.redis_client import connect

store, key = connect(sys.argv[1]), sys.argv[2]
leader = gevent.spawn(store.together, [("BLPOP", key, 3)])
gevent.sleep(0.1)
waiting = gevent.spawn(store.together, [("SET", key + ":a", "1")])
behind = gevent.spawn(store.together, [("SET", key + ":b", "1")])
gevent.sleep(0.1)
waiting.kill()
leader.kill()
behind.join(2)
print(behind.value, store.together([("EXISTS", key + ":a"), ("EXISTS", key + ":b")]))

leader = gevent.spawn(store.together, [("BLPOP", key, 3)])
gevent.sleep(0.1)
first = gevent.spawn(store.together, [("BLPOP", key, 3)])
along = gevent.spawn(store.together, [("ECHO", "x")])
gevent.sleep(0.1)
leader.kill()
gevent.sleep(0.1)
first.kill()  # it travels for both by now
along.join(2)
print(isinstance(along.exception, NoConnection), store.together([("ECHO", "on")]))
"""


def test_greenlets_that_are_killed_leave_the_way_free(redis_url: str, key_prefix: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLS, redis_url, key_prefix], capture_output=True, text=True, timeout=20, check=False
    )

    assert done.stdout.splitlines() == ["[b'OK'] [0, 1]", "True [b'on']"], done.stderr
