"""A turn's events, followed by curl and by polling: what readers get is the log, however often they are cut off."""

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

import httpx
import psutil
import pytest
from stack import (
    DEADLINE_S,
    STREAM_END,
    Frame,
    Json,
    Stack,
    answered,
    seqs,
    sse_frames,
    user_turn,
    without_turn,
)
from waiting import wait_for

STORY = "tell a story"
CURL = shutil.which("curl")
needs_curl = pytest.mark.skipif(CURL is None, reason="there is no curl on PATH")


@pytest.fixture
def session(shared_stack: Stack) -> str:
    return shared_stack.new_session()


@contextmanager
def curl(url: str, *, after: str | None = None) -> Iterator["subprocess.Popen[str]"]:
    """The curl that follows `url`; it is killed with the block."""
    command = ["curl", "--silent", "--show-error", "--no-buffer", "--max-time", str(int(DEADLINE_S)), url]
    command += ["--header", f"Last-Event-ID: {after}"] if after else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        try:
            yield process
        finally:
            process.kill()


def curled(url: str, *, after: str | None = None, upto: int | None = None) -> list[Frame]:
    """The events that curl gets from `url` until the stream ends, or until it is cut after `upto` events."""
    frames = []
    with curl(url, after=after) as process:
        assert process.stdout is not None
        for frame in sse_frames(process.stdout):
            frames.append(frame)
            if len(frames) == upto:
                break
    return frames


def polled(stack: Stack, session: str, turn: Json) -> list[Frame]:
    """The events that a client gets by asking again and again."""
    frames: list[Frame] = []
    url = f"{session}/turn/{turn['turn_id']}/events"
    with stack.http() as http:
        while not frames or frames[-1].type not in STREAM_END:
            params = {"after": frames[-1].id if frames else "", "wait": 10, "limit": 7}
            page = answered(http.get(url, params=params, headers={"Accept": "application/json"}))
            for item in page["data"]:
                payload = item["event"]["payload"]
                assert item["id"].startswith(f"{item['seq']}-")
                frames.append(Frame(item["id"], payload["event_type"], payload))
            assert page["last_id"] == (frames[-1].id if frames else "0")
    return frames


def streamed(url: str, **options: object) -> list[Frame]:
    """The events of a stream that ends by itself."""
    with httpx.stream("GET", url, timeout=DEADLINE_S, **options) as reply:  # type: ignore[arg-type]
        assert reply.status_code == 200, reply.read()
        return list(sse_frames(reply.iter_lines()))


# Cut and resumed


@needs_curl
def test_a_tail_cut_after_event_5_and_resumed_gives_exactly_the_events_of_the_log(
    shared_stack: Stack, session: str
) -> None:
    turn = shared_stack.submit(session, "tell a long story")  # long enough to be cut in mid-turn on a busy machine
    url = shared_stack.events_url(session, turn)

    first = curled(url, upto=5)
    running = shared_stack.turn(session, turn)["status"]
    rest = curled(url, after=first[-1].id)

    log = shared_stack.log(turn)
    assert running == "in_progress"
    assert len(first) == 5
    assert without_turn(first + rest) == log
    assert seqs(log) == list(range(1, len(log) + 1))
    assert rest[-1].payload["turn"] == shared_stack.turn(session, turn)


@needs_curl
def test_a_tail_cut_after_every_event_misses_and_repeats_nothing(shared_stack: Stack, session: str) -> None:
    turn = shared_stack.submit(session, "one two three")
    url = shared_stack.events_url(session, turn)

    frames = curled(url, upto=1)
    while frames[-1].type not in STREAM_END:
        frames += curled(url, after=frames[-1].id, upto=1)

    assert without_turn(frames) == shared_stack.log(turn)


def test_polling_gives_the_same_events_as_the_log(shared_stack: Stack, session: str) -> None:
    turn = shared_stack.submit(session, STORY)

    frames = polled(shared_stack, session, turn)

    assert without_turn(frames) == shared_stack.log(turn)
    assert frames[-1].payload["turn"]["status"] == "completed"


@needs_curl
def test_a_finished_turn_is_read_again_from_its_beginning(shared_stack: Stack, session: str) -> None:
    turn = shared_stack.submit(session, "be quick")
    shared_stack.finished(session, turn)

    frames = curled(shared_stack.events_url(session, turn))

    assert without_turn(frames) == shared_stack.log(turn)


def test_many_readers_of_one_turn_all_get_the_whole_log(shared_stack: Stack, session: str) -> None:
    turn = shared_stack.submit(session, STORY)
    url = shared_stack.events_url(session, turn)

    with ThreadPoolExecutor(8) as pool:
        readers = list(pool.map(lambda _: streamed(url), range(8)))

    log = shared_stack.log(turn)
    assert all(without_turn(frames) == log for frames in readers)


# Cursors


@pytest.fixture(scope="module")
def told(shared_stack: Stack) -> tuple[str, Json]:
    """A session and a finished turn of it, for reading only."""
    session = shared_stack.new_session()
    turn = shared_stack.submit(session, "one two three")
    return session, shared_stack.finished(session, turn)


def test_after_takes_an_id_as_the_header_does(shared_stack: Stack, told: tuple[str, Json]) -> None:
    log = shared_stack.log(told[1])

    frames = streamed(shared_stack.events_url(*told), params={"after": log[2].id})

    assert without_turn(frames) == log[3:]


def test_a_bare_seq_is_taken_as_it_is(shared_stack: Stack, told: tuple[str, Json]) -> None:
    frames = streamed(shared_stack.events_url(*told), params={"after": "3"})

    assert without_turn(frames) == shared_stack.log(told[1])[3:]


@pytest.mark.parametrize("cursor", ["3-1", "9999", "9999-1764000000000000"], ids=["unknown", "beyond", "both"])
def test_a_cursor_of_another_story_gets_a_reset_with_the_turn_so_far(
    shared_stack: Stack, told: tuple[str, Json], cursor: str
) -> None:
    frames = streamed(shared_stack.events_url(*told), headers={"Last-Event-ID": cursor})

    log = shared_stack.log(told[1])
    assert [frame.type for frame in frames] == ["reset", "turn_complete"]
    assert frames[0].id == log[-2].id
    assert frames[0].payload["turn"]["turn_id"] == told[1]["turn_id"]
    assert frames[0].payload["turn"]["steps"] == told[1]["steps"]
    assert frames[1].payload["turn"] == told[1]


def test_a_reset_of_a_running_turn_is_followed_by_all_that_comes_after(shared_stack: Stack, session: str) -> None:
    turn = shared_stack.submit(session, STORY)
    shared_stack.wait_for_events(turn, 8)

    frames = streamed(shared_stack.events_url(session, turn), params={"after": "2-1"})

    log = shared_stack.log(turn)
    (at,) = seqs(frames[:1])
    assert frames[0].type == "reset"
    assert without_turn(frames[1:]) == log[at:]


def test_polling_with_an_unknown_cursor_gets_a_reset_and_goes_on_from_it(
    shared_stack: Stack, told: tuple[str, Json]
) -> None:
    with shared_stack.http() as http:
        url = f"{told[0]}/turn/{told[1]['turn_id']}/events"
        accept = {"Accept": "application/json"}
        reset = answered(http.get(url, params={"after": "3-1"}, headers=accept))
        rest = answered(http.get(url, params={"after": reset["last_id"]}, headers=accept))

    assert [item["event"]["payload"]["event_type"] for item in reset["data"]] == ["reset"]
    assert [item["event"]["payload"]["event_type"] for item in rest["data"]] == ["turn_complete"]


def test_a_reader_that_has_everything_is_told_so(shared_stack: Stack, told: tuple[str, Json]) -> None:
    url, last = shared_stack.events_url(*told), shared_stack.log(told[1])[-1].id

    by_stream = httpx.get(url, headers={"Last-Event-ID": last})
    by_poll = httpx.get(url, params={"after": last, "wait": "10"}, headers={"Accept": "application/json"})

    assert by_stream.status_code == 204
    assert (by_poll.json()["data"], by_poll.json()["has_more"]) == ([], False)


@pytest.mark.parametrize("cursor", ["x", "-1", "1-", "3-x"])
def test_what_is_no_cursor_is_refused(shared_stack: Stack, told: tuple[str, Json], cursor: str) -> None:
    reply = httpx.get(shared_stack.events_url(*told), params={"after": cursor})

    assert reply.status_code in (400, 422)
    assert reply.headers["content-type"] == "application/problem+json"


# Quiet and lost connections


@needs_curl
def test_a_quiet_tail_gets_a_comment_that_no_client_takes_for_an_event(shared_stack: Stack) -> None:
    session = shared_stack.new_session(client_tools=[{"name": "add", "description": "Add.", "parameters": []}])
    turn = shared_stack.submit(session, "add")  # rests until a client answers

    lines = []
    with curl(shared_stack.events_url(session, turn)) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if line.startswith(":"):
                with shared_stack.http() as http:
                    http.post(f"{session}/turn/{turn['turn_id']}/cancel")

    at = lines.index(": ping\n")
    assert lines[at + 1].startswith("id: ")
    assert without_turn(sse_frames(lines)) == shared_stack.log(turn)


def established(stack: Stack) -> int:
    """How many connections the API holds to clients."""
    return sum(
        connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == stack.port
        for process in stack.process.note_processes()
        if process.is_running()
        for connection in process.net_connections("tcp")
    )


@needs_curl
def test_a_client_that_hangs_up_changes_nothing_and_costs_nothing_afterwards(shared_stack: Stack, session: str) -> None:
    turn = shared_stack.submit(session, STORY)
    url = shared_stack.events_url(session, turn)
    wait_for(lambda: established(shared_stack) == 0, "earlier clients are gone", seconds=DEADLINE_S)

    for _ in range(3):
        assert curled(url, upto=2)

    wait_for(lambda: established(shared_stack) == 0, "the server let go of its clients", seconds=DEADLINE_S)
    assert shared_stack.finished(session, turn)["status"] == "completed"
    assert seqs(curled(url)) == list(range(1, len(shared_stack.log(turn)) + 1))


def test_a_client_that_leaves_its_own_post_stream_does_not_stop_the_turn(shared_stack: Stack, session: str) -> None:
    with shared_stack.http() as http:
        body = {**user_turn(STORY), "stream": True}
        with http.stream("POST", f"{session}/turn", json=body) as reply:
            start = next(frame for frame in sse_frames(reply.iter_lines()) if frame.payload)
        turn = {"turn_id": start.payload["turn_id"], "session_id": session.rpartition("/")[2]}

    assert shared_stack.finished(session, turn)["status"] == "completed"


# The order of a session's turns


class Submitted(NamedTuple):
    """A turn that was accepted, and when the request left and the answer was there."""

    turn_id: str
    sent: float
    answered: float


def in_microseconds(time: str) -> int:
    """A turn's time as a whole number of µs since 1970."""
    return round(datetime.fromisoformat(time).timestamp() * 1_000_000)


def test_50_concurrent_submits_run_one_by_one_in_the_order_of_their_202s(shared_stack: Stack, session: str) -> None:
    begin = threading.Barrier(50)
    with shared_stack.http() as http, ThreadPoolExecutor(50) as pool:

        def submit(_: int) -> Submitted:
            begin.wait(DEADLINE_S)
            sent = time.monotonic()
            reply = http.post(f"{session}/turn", json=user_turn("be quick"))
            assert reply.status_code == 202, reply.text
            return Submitted(reply.json()["turn_id"], sent, time.monotonic())

        submitted = list(pool.map(submit, range(50)))
    for one in submitted:
        shared_stack.finished(session, {"turn_id": one.turn_id})

    with shared_stack.http() as http:
        turns = answered(http.get(session))["turns"]
    place = {turn["turn_id"]: number for number, turn in enumerate(turns)}
    starts = [
        next(int(f.id.partition("-")[2]) for f in shared_stack.log(turn) if f.type == "turn_start") for turn in turns
    ]
    ends = [in_microseconds(turn["completed_at"]) for turn in turns]
    assert len(place) == 50
    assert all(turn["status"] == "completed" for turn in turns)
    assert all(
        place[one.turn_id] < place[other.turn_id]
        for one in submitted
        for other in submitted
        if one.answered < other.sent
    )
    assert starts == sorted(starts)  # the epoch of a start is the store's time of the claim
    assert all(end <= start for end, (_, start) in zip(ends, pairwise(starts), strict=False))
