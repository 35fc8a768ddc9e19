"""What the service says about itself: health, routes, version, the OpenAPI document and its page."""

import re
from importlib.metadata import version

import pytest
from apikit import REGISTRY, Api

from shared.queues import MEMORY_QUEUE


def test_health_waits_for_the_first_registry_of_this_config(redis_url: str, key_prefix: str) -> None:
    api = Api.on(redis_url, key_prefix, registry=None)

    before = api.client.get("/v1/health")
    api.services.registry.publish(REGISTRY)
    api.services.registry.alive("worker-1")
    api.services.registry.alive("worker-2", queue=MEMORY_QUEUE)
    after = api.client.get("/v1/health")
    api.services.registry.gone("worker-1")
    api.services.registry.gone("worker-2", queue=MEMORY_QUEUE)

    assert (before.status_code, before.json["status"]) == (503, "Error")
    assert "No worker" in before.json["detail"]
    assert (after.status_code, after.json) == (200, {"status": "OK", "workers": 1, "memory_workers": 1})
    assert api.client.get("/v1/health").json == {"status": "OK", "workers": 0, "memory_workers": 0}


def test_version_is_the_releases(api: Api) -> None:
    assert api.client.get("/v1/version").json == {"version": version("turnstone")}


def test_every_route_is_inspectable_and_documented(api: Api) -> None:
    document = api.client.get("/openapi/openapi.json").json
    documented = {(path, method.upper()) for path, item in document["paths"].items() for method in item}

    routes = {(entry["route"], entry["method"]) for entry in api.client.get("/v1/inspect/routes").json["data"]}

    assert routes == documented
    assert ("/v1/agents/{agent_id}/session/{session_id}/turn/{turn_id}/resume", "POST") in routes


def test_every_operation_says_what_it_does_and_how_it_fails(api: Api) -> None:
    document = api.client.get("/openapi/openapi.json").json

    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert operation["summary"].endswith("."), (method, path)
            problem = operation["responses"]["400"]["content"]["application/problem+json"]
            assert problem == {"schema": {"$ref": "#/components/schemas/Problem"}}
            if "requestBody" in operation:
                assert {"413", "415", "422"} <= operation["responses"].keys()
            if "{" in path:
                assert "404" in operation["responses"]


def test_every_reference_of_the_document_leads_somewhere(api: Api) -> None:
    text = api.client.get("/openapi/openapi.json").text
    names = api.client.get("/openapi/openapi.json").json["components"]["schemas"]

    references = set(re.findall(r'"\$ref":\s*"([^"]+)"', text))

    assert references
    assert {ref.removeprefix("#/components/schemas/") for ref in references} <= names.keys()


def test_null_is_documented_wherever_it_counts_as_absent(api: Api) -> None:
    schemas = api.client.get("/openapi/openapi.json").json["components"]["schemas"]

    for name in ("AgentConfig", "CreateTurn", "ResumeTurn", "ToolDef", "SamplingParams"):
        schema = schemas[name]
        for field, about in schema["properties"].items():
            required = field in schema.get("required", ())
            assert required or {"type": "null"} in about["anyOf"], f"{name}.{field}"


@pytest.mark.parametrize("page", ["/openapi/swagger"])
def test_the_page_needs_nothing_from_the_internet(api: Api, page: str) -> None:
    text = api.client.get(page).text

    wanted = [link.strip() for link in re.findall(r'(?:src|href)="([^"]+)"', text)]
    assert not [link for link in wanted if link.startswith(("http:", "https:", "//"))]
    for link in wanted:
        if not link.startswith("data:"):
            with api.client.get(f"/openapi/{link}") as answer:
                assert answer.status_code == 200, link


def test_the_page_is_found_without_its_last_slash(api: Api) -> None:
    for address in ("/openapi", "/openapi/"):
        assert "swagger-ui" in api.client.get(address, follow_redirects=True).text


def test_an_answer_carries_the_requests_id_or_a_new_one(api: Api) -> None:
    given = api.client.get("/v1/version", headers={"X-Request-Id": "abc"})
    strange = api.client.get("/v1/version", headers={"X-Request-Id": "a b"})

    assert given.headers["X-Request-Id"] == "abc"
    assert re.fullmatch(r"[0-9a-f]{32}", strange.headers["X-Request-Id"])
