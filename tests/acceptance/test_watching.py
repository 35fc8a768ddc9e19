"""What operators see of a running stack: its log and its metrics, with several API processes."""

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from stack import DEADLINE_S, Json, Stack, running, scripted
from stack_process import free_port
from waiting import wait_for

DIARY = "a page of my diary"
SECRET = "sk-never-to-be-seen"


@pytest.fixture(scope="module")
def metrics_port() -> int:
    """A free port, above which the next is free too: the calls worker takes that."""
    while True:
        port = free_port()
        with suppress(OSError, OverflowError), socket.create_server(("127.0.0.1", port + 1)):
            return port


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, metrics_port: int) -> Iterator[Stack]:
    """A stack of two API processes that logs everything there is, as JSON."""
    config = scripted({"match": "^fail$", "error": {"status": 500, "message": "out of order"}})
    # Nobody is there: the registrar says so, and must not say with which key it asked.
    unreachable = {"url": "http://127.0.0.1:1/v1", "api_key": SECRET}
    config["providers"]["inference"].append(
        {"provider_id": "away", "provider_type": "remote::openai", "config": unreachable}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TURNSTONE_LOG", "json")
        patch.setenv("TURNSTONE_LOG_LEVEL", "DEBUG")
        patch.setenv("TURNSTONE_API_PROCESSES", "2")
        patch.setenv("TURNSTONE_METRICS_PORT", str(metrics_port))
        with running(tmp_path_factory.mktemp("watched"), config) as stack:
            yield stack


def lines(stack: Stack) -> list[Json]:
    """The lines that API and workers have logged."""
    found = []
    for line in stack.process.output.splitlines():
        name, _, text = line.partition(" | ")
        if name.strip() in ("api", "worker-1", "calls"):
            assert text.startswith("{"), f"no JSON: {line}"
            found.append({"process": name.strip(), **json.loads(text)})
    return found


def samples(url: str) -> dict[str, float]:
    """Every sample at `url` as `name{label=value}`."""
    return {
        f"{sample.name}{{{','.join(f'{name}={value}' for name, value in sorted(sample.labels.items()))}}}": sample.value
        for family in text_string_to_metric_families(httpx.get(url, timeout=DEADLINE_S).text)
        for sample in family.samples
    }


def api_processes(stack: Stack) -> list[psutil.Process]:
    (parent,) = [p for p in psutil.Process(stack.process.process.pid).children() if "gunicorn" in " ".join(p.cmdline())]
    return parent.children()


def test_every_line_is_json_and_those_of_a_turn_carry_its_id(stack: Stack) -> None:
    session = stack.new_session()
    submitted = stack.submit(session, "fail")
    turn = stack.finished(session, submitted)
    of_turn: list[Json] = []

    def told() -> bool:
        of_turn[:] = [line for line in lines(stack) if line.get("turn") == turn["turn_id"]]
        return {"turn ended", "POST", "GET"} <= {line.get("method", line["message"]) for line in of_turn}

    wait_for(told, "the end and the requests are logged", seconds=DEADLINE_S)
    (ended,) = [line for line in of_turn if line["message"] == "turn ended"]
    assert (ended["process"], ended["level"], ended["status"]) == ("worker-1", "INFO", "failed")
    assert (ended["error_code"], ended["provider"], ended["steps"]) == (turn["error"]["code"], "script", 1)
    assert all(line["request"] for line in of_turn if line["process"] == "api")


def test_nothing_that_was_said_and_no_key_is_in_the_log(stack: Stack) -> None:
    session = stack.new_session(instructions=DIARY)
    stack.finished(session, stack.submit(session, DIARY))
    with stack.http() as http:
        http.post(f"{session}/turn", json={"messages": [{"role": DIARY, "content": DIARY}]})

    wait_for(lambda: stack.process.output.count("turn ended") > 0, "the end is logged", seconds=DEADLINE_S)
    assert "DEBUG" in stack.process.output
    assert DIARY not in stack.process.output
    assert SECRET not in stack.process.output


def test_the_metrics_of_all_api_processes_are_added_up(stack: Stack) -> None:
    before = samples(f"{stack.url}/metrics")
    for _ in range(20):
        # A connection each, so that both processes get some.
        httpx.get(f"{stack.url}/v1/health")
    name = "turnstone_api_requests_total{method=GET,route=/v1/health,status=200}"

    assert samples(f"{stack.url}/metrics")[name] == before[name] + 20
    assert before["turnstone_store_up{}"] == before["turnstone_workers_alive{}"] == 1


def test_a_killed_api_process_leaves_its_counts_and_no_open_stream(stack: Stack) -> None:
    session = stack.new_session()
    turn = stack.submit(session, "Hello")
    stack.finished(session, turn)
    health = "turnstone_api_requests_total{method=GET,route=/v1/health,status=200}"
    counted = samples(f"{stack.url}/metrics")[health]
    old = api_processes(stack)
    for process in old:
        process.send_signal(signal.SIGKILL)
    wait_for(
        lambda: len(now := api_processes(stack)) == 2 and not {p.pid for p in old} & {p.pid for p in now},
        "gunicorn has started others",
        seconds=DEADLINE_S,
    )

    def open_streams() -> float:
        return samples(f"{stack.url}/metrics").get("turnstone_api_open_streams{}", 0.0)

    wait_for(lambda: open_streams() == 0, "no stream is open", seconds=DEADLINE_S)
    assert samples(f"{stack.url}/metrics")[health] >= counted


@pytest.mark.parametrize(("place", "queue"), [(0, "turns"), (1, "calls")])
def test_each_worker_process_serves_its_metrics_on_a_port_of_its_own(
    stack: Stack, metrics_port: int, place: int, queue: str
) -> None:
    session = stack.new_session()
    stack.finished(session, stack.submit(session, "Hello"))

    found = samples(f"http://127.0.0.1:{metrics_port + place}/metrics")
    assert any(name.startswith("turnstone_build_info") and f"queue={queue}" in name for name in found)
    if queue == "turns":
        assert found["turnstone_turns_ended_total{code=,status=completed}"] >= 1
        assert found["turnstone_first_token_seconds_count{provider=script}"] >= 1
        assert found["turnstone_journal_flush_seconds_count{}"] >= 1
        assert found["turnstone_provider_errors_total{api=inference,code=provider_unreachable,provider=away}"] >= 1
        assert found["process_resident_memory_bytes{}"] > 0
