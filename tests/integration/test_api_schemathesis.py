"""schemathesis against the OpenAPI document: whatever it generates gets the documented answers, and never a 500."""

import secrets
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
import schemathesis
from apikit import Api, settings_for
from callskit import with_calls
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from api.app import create_app
from api.jobs import accepted_job
from api.services import build_services
from shared.files import NewFile
from shared.ids import TurnRef, new_file_id
from shared.insert_jobs import Insertion
from shared.runconfig import FrontConfig

EXAMPLES = 20

# The document is the same whatever the services are; those of the tests come with each call.
document = schemathesis.openapi.from_wsgi(
    "/openapi/openapi.json",
    create_app(build_services(settings_for("redis://127.0.0.1:1", "none"), FrontConfig())),
    config=schemathesis.Config.from_dict({"generation": {"max-examples": EXAMPLES, "deterministic": True}}),
)


@pytest.fixture(scope="module")
def prefix() -> str:
    return f"t{secrets.token_hex(6)}"


@pytest.fixture(scope="module")
def quiet(redis_url: str, prefix: str) -> Api:
    """The API without a worker, for setting things up."""
    api = Api.on(redis_url, prefix)
    with_calls(api)
    return api


@pytest.fixture(scope="module")
def api(redis_url: str, prefix: str) -> Iterator[Api]:
    """The API with a worker that cancels whatever it is told to look at: so every answer comes to an end.

    Calls are answered by the real operations.
    """
    api = Api.on(redis_url, prefix)
    with_calls(api)

    def cancel(ref: TurnRef) -> None:
        api.services.log.cancel(ref, reason="A test.")

    api.services.hints.send = cancel  # type: ignore[method-assign]
    yield api
    api.services.tails.close()


@document.parametrize()
def test_any_request_gets_an_answer_of_the_document(case: schemathesis.Case, api: Api) -> None:
    # What is served depends on the store, so a request that the document allows may well be refused.
    case.call_and_validate(app=api.client.application, excluded_checks=[positive_data_acceptance])


@document.parametrize()
def test_a_request_to_what_is_there_gets_an_answer_of_the_document(
    case: schemathesis.Case, api: Api, quiet: Api
) -> None:
    aim(case, quiet)

    # These two look at what was generated, and not at what was then aimed.
    aimed = [positive_data_acceptance, negative_data_rejection]
    case.call_and_validate(app=api.client.application, excluded_checks=aimed)


def aim(case: schemathesis.Case, api: Api) -> None:
    """Point a generated request at an agent, a session, a turn and a step that are there."""
    turn = api.turn()
    api.worker(turn).ask("c1")
    parts = dict(zip(("agent_id", "session_id", "turn_id"), turn.split("/")[3::2], strict=True))
    parts |= {"step_id": api.client.get(turn).json["steps"][0]["step_id"], "model_id": "one/m", "provider_id": "one"}
    parts |= {"identifier": "words", "toolgroup_id": "seats", "tool_name": "book", "bank_id": "nowhere"}
    if "file_id" in case.path_parameters:
        parts["file_id"] = uploaded_file(api)
    if "job_id" in case.path_parameters:
        parts["job_id"] = ended_job(api)
    for name in case.path_parameters:
        case.path_parameters[name] = parts[name]
    if case.path.endswith(("/events", "/turn", "/requeue")):
        # A tail of a turn that waits for input goes on for ever, and so does a turn that is queued behind it. Only what
        # has ended is run again.
        api.client.post(f"{turn}/cancel")
    if isinstance(case.body, dict):
        aim_body(case.body)


def ended_job(api: Api) -> str:
    """An insert job that has ended: one that waits would be waited for."""
    job = Insertion(bank_id="b", documents=[], digest="d")
    ref = accepted_job(api.services, "default", job)
    api.services.log.cancel(ref, reason="A test.")
    return ref.turn_id


def uploaded_file(api: Api) -> str:
    """A file that is there."""
    new = NewFile(file_id=new_file_id(), filename="a.txt", mime_type="text/plain", purpose="assistants", size=5)
    return api.services.files.put("default", new, BytesIO(b"hello")).file_id


def aim_body(body: dict[str, Any]) -> None:
    """Ask for what is served, where the shape of the request leaves room for it."""
    for config in (body, body.get("agent_config")):
        if isinstance(config, dict) and "model" in config:
            config |= {"model": "m", "toolgroups": [], "input_shields": [], "output_shields": []}
            config |= {"tool_choice": None, "tool_config": None}
    served = {"model_id": "m", "shield_id": "words", "toolgroup_id": "seats", "tool_name": "book"}
    body |= {name: value for name, value in served.items() if name in body}
    responses = body.get("tool_responses")
    if isinstance(responses, list) and responses and isinstance(responses[0], dict):
        body["tool_responses"] = [{**responses[0], "call_id": "c1"}]
