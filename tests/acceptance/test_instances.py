"""Several instances of one provider type on a running stack: who answers, and who notices that one is killed."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from fake_upstream import FakeUpstream
from stack import DEADLINE_S, Json, Stack, answered, running
from waiting import wait_for

FAKE_UPSTREAM = Path(__file__).parents[1] / "fake_upstream.py"
TOKENS = 60
STORY = "".join(f" w{number}" for number in range(TOKENS))
BATCH = 16


@contextmanager
def upstream_process(*, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """An inference server of a process of its own, and its URL: the first token comes late, the others slowly."""
    pace = ("--tokens", str(TOKENS), "--first-ms", "2500", "--token-ms", "100")
    command = [sys.executable, str(FAKE_UPSTREAM), "--port", str(port), *pace, "--models", "shared"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def instance(provider_id: str, url: str) -> Json:
    return {"provider_id": provider_id, "provider_type": "remote::openai", "config": {"url": url}}


def providers(*instances: Json) -> Json:
    return {"providers": {"inference": list(instances)}}


def submitted(stack: Stack, count: int) -> list[tuple[str, Json]]:
    """Turns for the shared model, each in a session of its own."""

    def one(number: int) -> tuple[str, Json]:
        session = stack.new_session(model="shared")
        return session, stack.submit(session, f"story {number}")

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, range(count)))


def has_begun(stack: Stack, turn: Json) -> bool:
    """Whether anything of the answer was written."""
    return any(frame.type == "step_progress" for frame in stack.log(turn))


def is_asked(stack: Stack, turn: Json) -> bool:
    return any(frame.type == "step_start" for frame in stack.log(turn))


def health(stack: Stack, provider_id: str) -> Json:
    with stack.http() as http:
        found: Json = answered(http.get(f"/providers/{provider_id}"))["health"]
    return found


def wait_for_health(stack: Stack, provider_id: str, status: str) -> None:
    wait_for(
        lambda: health(stack, provider_id)["status"] == status,
        f"the health of '{provider_id}' is {status}",
        seconds=DEADLINE_S,
    )


def test_each_instance_of_a_type_serves_its_own_models_and_a_shared_one_can_be_pinned(tmp_path: Path) -> None:
    with FakeUpstream(models=("one", "both")) as first, FakeUpstream(models=("two", "both")) as second:
        config = providers(instance("first", first.url), instance("second", second.url))
        with running(tmp_path, config) as stack:
            with stack.http() as http:
                models = {model["identifier"]: model for model in answered(http.get("/models"))["data"]}
            for model in ("one", "two", "second/both", "first/both", "both", "both"):
                session = stack.new_session(model=model)
                assert stack.finished(session, stack.submit(session, "Hello"))["status"] == "completed"

    def asked(upstream: FakeUpstream) -> list[str]:
        return [request.json["model"] for request in upstream.requests if request.method == "POST"]

    assert set(models) == {"one", "two", "both"}
    assert (models["one"]["provider_id"], models["two"]["provider_id"]) == ("first", "second")
    assert (asked(first), asked(second)) == (["one", "both", "both"], ["two", "both", "both"])


def test_an_instance_killed_under_load_fails_no_turn_that_has_not_begun_its_answer(tmp_path: Path) -> None:
    with upstream_process() as (killed, url), upstream_process() as (_, other):
        with running(tmp_path, providers(instance("a", url), instance("b", other))) as stack:
            speaking = submitted(stack, BATCH)
            for _, turn in speaking:
                wait_for(lambda turn=turn: has_begun(stack, turn), "all speak", seconds=DEADLINE_S)
            waiting = submitted(stack, BATCH)
            for _, turn in waiting:
                wait_for(lambda turn=turn: is_asked(stack, turn), "all are asked", seconds=DEADLINE_S)
            begun = {turn["turn_id"] for _, turn in [*speaking, *waiting] if has_begun(stack, turn)}

            killed.kill()
            killed.wait()
            later = submitted(stack, BATCH)
            wait_for_health(stack, "a", "Error")
            message = health(stack, "a")["message"]
            ended = {turn["turn_id"]: stack.finished(path, turn) for path, turn in [*speaking, *waiting, *later]}

            port = int(url.rpartition(":")[2].removesuffix("/v1"))
            with upstream_process(port=port):
                wait_for_health(stack, "a", "OK")
                session = stack.new_session(model="a/shared")
                back = stack.finished(session, stack.submit(session, "Hello"))

    failed = {turn_id: turn for turn_id, turn in ended.items() if turn["status"] != "completed"}
    figures = {"turns": len(ended), "begun": len(begun), "waiting": len(ended) - len(begun), "failed": len(failed)}
    print(figures)  # noqa: T201
    assert failed.keys() <= begun, figures
    assert failed, "nobody was being answered by the instance as it was killed"
    for turn in failed.values():
        assert turn["error"]["code"] == "provider_interrupted"
        assert turn["error"]["provider_id"] == "a"
    for turn_id in ended.keys() - failed.keys():
        assert ended[turn_id]["output_message"]["content"] == STORY
    assert "Provider 'a'" in message
    assert back["status"] == "completed"
