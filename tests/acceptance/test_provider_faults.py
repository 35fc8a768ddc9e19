"""Everything that can go wrong at an inference provider, as the user of a turn sees it: what, where, and what to do."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from fake_upstream import Failure, FakeUpstream, Raw, Reply, Stream, call_piece, calls, event, text
from stack import Json, Stack, running

SECRET = "sk-fault-0123456789abcdef"
TOOL = {"name": "look", "description": "Look.", "parameters": [{"name": "at", "parameter_type": "str"}]}
HTML = Failure(status=200, body=f"<html><h1>Welcome</h1>{SECRET}</html>", content_type="text/html")


def said(status: int, **headers: str) -> Failure:
    """A refusal whose body gives the key away."""
    return Failure(status=status, body={"error": {"message": f"refused for {SECRET}"}}, headers=headers)


@dataclass(frozen=True)
class Fault:
    """What the provider does, and what the turn then says."""

    replies: tuple[Reply, ...]
    code: str
    message: str


FAULTS = {
    "timeout": Fault(
        (Stream(pieces=[], hang_before_head=True),),
        "provider_timeout",
        "Provider 'up' sent no first token within 1 s (`first_token_timeout_s`).",
    ),
    "silence": Fault(
        (text("Hel", end="hang"),),
        "provider_timeout",
        "Provider 'up' sent nothing for 1 s in the middle of its answer (`token_timeout_s`).",
    ),
    "401": Fault(
        (said(401),),
        "provider_auth",
        "Provider 'up' does not accept the credentials (401): check `api_key` of provider 'up'. "
        "It said: refused for ***",
    ),
    "429": Fault(
        (said(429, **{"retry-after": "1"}), said(429, **{"retry-after": "1"})),
        "provider_rate_limited",
        "Provider 'up' limits its rate (429): lower the load, or try again later. It said: refused for ***",
    ),
    "500": Fault(
        (said(500), said(500)),
        "provider_error",
        "Provider 'up' failed (500): look into the log of the server at HOST. It said: refused for ***",
    ),
    "400": Fault(
        (said(400),), "provider_bad_request", "Provider 'up' refuses the request (400). It said: refused for ***"
    ),
    "a web page": Fault(
        (HTML,),
        "provider_bad_response",
        "Provider 'up' answered with text/html instead of an event stream: is the server at HOST OpenAI-compatible, "
        "and `url` right? It sent: Welcome ***",
    ),
    "garbage": Fault(
        (Stream(pieces=[event("]nonsense[")]),),
        "provider_bad_response",
        "Provider 'up' answered with an event that is no chat completion chunk: is the server at HOST "
        "OpenAI-compatible, and `url` right? It sent: ]nonsense[",
    ),
    "not HTTP": Fault(
        (Raw(data=b"SSH-2.0-OpenSSH_9.6\r\n"),),
        "provider_bad_response",
        "Provider 'up' answered with something that is not HTTP: is the server at HOST OpenAI-compatible, and `url` "
        "right?",
    ),
    "cut before the answer": Fault(
        (Raw(), Raw()),
        "provider_interrupted",
        "Provider 'up' cut the connection in the middle of its answer: look into the log of the server at HOST.",
    ),
    "cut in mid-token": Fault(
        (text("Hel", end="cut"),),
        "provider_interrupted",
        "Provider 'up' cut the connection in the middle of its answer: look into the log of the server at HOST.",
    ),
    "an error in mid-answer": Fault(
        (Stream(pieces=[*text("Hel", end="cut").pieces, event({"error": {"message": f"out of memory {SECRET}"}})]),),
        "provider_error",
        "Provider 'up' broke off its answer with an error. It said: out of memory ***",
    ),
}
BEGUN = {"silence", "cut in mid-token", "an error in mid-answer"}


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, upstream: FakeUpstream) -> Iterator[Stack]:
    """A stack with `upstream`, and an instance `gone` whose server has ended since it listed its model."""
    waits = {"first_token_timeout_s": 1, "token_timeout_s": 1, "max_retries": 1}
    with ExitStack() as lifetime:
        gone = lifetime.enter_context(FakeUpstream(models=("lost",)))
        config = {
            "providers": {
                "inference": [
                    {
                        "provider_id": provider_id,
                        "provider_type": "remote::openai",
                        "config": {"url": server.url, "api_key": SECRET, **waits},
                    }
                    for provider_id, server in (("up", upstream), ("gone", gone))
                ]
            }
        }
        with running(tmp_path_factory.mktemp("faults"), config) as stack:
            lifetime.close()
            yield stack
            assert SECRET not in stack.process.output


def asked(stack: Stack, *, model: str = "m", **config: object) -> tuple[Json, str]:
    """A turn that has ended, and its whole log as text."""
    session = stack.new_session(model=model, **config)
    turn = stack.finished(session, stack.submit(session, "Hello"))
    return turn, repr(stack.log(turn))


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_provider_fails_the_turn_with_a_reason_and_no_secret(
    stack: Stack, upstream: FakeUpstream, name: str
) -> None:
    fault = FAULTS[name]
    upstream.script(*fault.replies)

    turn, log = asked(stack)

    message = fault.message.replace("HOST", f"127.0.0.1:{upstream.port}")
    assert turn["status"] == "failed"
    assert turn["error"] == {"code": fault.code, "message": message, "provider_id": "up"}
    assert ("Hel" in log.replace("Hello", "")) == (name in BEGUN)
    assert SECRET not in log


def test_a_server_that_is_not_there_any_more_is_said_to_be_so(stack: Stack) -> None:
    turn, _ = asked(stack, model="lost")

    assert turn["error"]["code"] == "provider_unreachable"
    assert turn["error"]["message"].startswith("Provider 'gone' cannot be reached: connection refused.")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_by_itself_is_not_seen_at_all(stack: Stack, upstream: FakeUpstream, status: int) -> None:
    upstream.script(said(status, **{"retry-after": "0"}), text("All", " well"))

    turn, log = asked(stack)

    assert (turn["status"], turn["output_message"]["content"]) == ("completed", "All well")
    assert "refused" not in log


def test_a_tool_call_that_is_no_json_goes_back_to_the_model_which_may_mend_it(
    stack: Stack, upstream: FakeUpstream
) -> None:
    upstream.script(
        calls(call_piece(0, id="c1", name="look", arguments='{"at": "the')), text("I", " should", " not", " have")
    )

    turn, _ = asked(stack, client_tools=[TOOL])

    assert turn["status"] == "completed"
    assert turn["output_message"]["content"] == "I should not have"
    kinds = [step["step_type"] for step in turn["steps"]]
    assert kinds == ["inference", "tool_execution", "inference"]
    call = turn["steps"][0]["model_response"]["tool_calls"][0]
    assert (call["tool_name"], call["arguments"]) == ("look", '{"at": "the')
    told = upstream.requests[-1].json["messages"][-1]
    assert (told["role"], told["tool_call_id"]) == ("tool", "c1")
    assert turn["steps"][1]["tool_responses"][0]["content"] == told["content"]
    assert "JSON" in told["content"]
