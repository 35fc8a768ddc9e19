"""API keys: who gets in, and to whose data."""

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from apikit import Api, assert_problem
from callskit import with_keys

from api.exposure import is_loopback
from shared.errors import ConfigError
from shared.runconfig import load

KEY, OTHER = "k-first-0123456789", "k-second-0123456789"


@pytest.fixture
def locked(redis_url: str, key_prefix: str) -> Api:
    return Api.on(redis_url, key_prefix, with_keys(**{KEY: "default", OTHER: "other"}))


@pytest.mark.parametrize(
    ("header", "challenge"),
    [
        (None, 'Bearer realm="turnstone"'),
        ("", 'Bearer realm="turnstone"'),
        ("Bearer", 'Bearer realm="turnstone"'),
        (f"Basic {KEY}", 'Bearer realm="turnstone"'),
        ("Bearer wrong", 'Bearer realm="turnstone", error="invalid_token"'),
        (f"Bearer {KEY}x", 'Bearer realm="turnstone", error="invalid_token"'),
        (f"Bearer {KEY[:-1]}", 'Bearer realm="turnstone", error="invalid_token"'),
        ("Bearer \xe9\xe9", 'Bearer realm="turnstone", error="invalid_token"'),
    ],
)
def test_a_request_without_a_key_of_the_config_is_unauthorized(locked: Api, header: str | None, challenge: str) -> None:
    headers = {} if header is None else {"Authorization": header}

    for path in ("/v1/models", "/v1/agents", "/v1/nothing", "/v1/health/other"):
        answer = locked.client.get(path, headers=headers)
        problem = assert_problem(answer, 401, "invalid_api_key")
        assert answer.headers["WWW-Authenticate"] == challenge
        assert "wrong" not in problem["detail"] and KEY not in answer.text
        assert answer.headers["X-Request-Id"]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_key_of_the_config_gets_in(locked: Api, scheme: str) -> None:
    assert locked.client.get("/v1/models", headers={"Authorization": f"{scheme} {KEY}"}).status_code == 200


def test_health_and_the_documentation_are_open(locked: Api) -> None:
    for path in ("/v1/health", "/v1/health/live", "/openapi/openapi.json", "/openapi/swagger"):
        assert locked.client.get(path).status_code == 200, path
    assert locked.client.get("/openapi", follow_redirects=True).status_code == 200


def test_a_key_opens_its_tenants_data_and_no_others(locked: Api) -> None:
    mine, others = ({"Authorization": f"Bearer {key}"} for key in (KEY, OTHER))
    made = locked.client.post("/v1/agents", json={"agent_config": {"model": "m"}}, headers=mine).json
    path = f"/v1/agents/{made['agent_id']}"

    assert locked.client.get(path, headers=mine).status_code == 200
    assert_problem(locked.client.get(path, headers=others), 404)
    assert_problem(locked.client.delete(path, headers=others), 404)
    assert_problem(locked.client.post(f"{path}/session", json={"session_name": "s"}, headers=others), 404)
    assert locked.client.get("/v1/agents", headers=others).json["data"] == []


def test_a_turn_belongs_to_the_tenant_of_its_key(locked: Api) -> None:
    locked.client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {OTHER}"
    turn = locked.turn()

    assert locked.client.get(turn).status_code == 200
    assert locked.client.get(f"{turn}/events", headers={"Accept": "application/json"}).status_code == 200
    locked.client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {KEY}"
    assert_problem(locked.client.get(turn), 404)
    assert_problem(locked.client.post(f"{turn}/cancel"), 404)


def test_no_key_is_in_any_log_line_nor_in_a_repr(locked: Api, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for key in (KEY, "a-wrong-key-0123"):
            locked.client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})

    assert KEY not in caplog.text and "a-wrong-key" not in caplog.text
    assert KEY not in repr(locked.services)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[{key: k, tenant: 'a/b'}]", "api_keys[0].tenant: use at most 64 letters"),
        ("[{key: k, tenant: 'a{b'}]", "api_keys[0].tenant: use at most 64 letters"),
        ("[k, {key: k, tenant: b}]", "api_keys: each key once"),
        ("['']", "must not be empty"),
    ],
)
def test_keys_that_could_not_be_told_apart_are_refused_at_start(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "turnstone.yaml"
    file.write_text(f"api_keys: {text}\n")

    with pytest.raises(ConfigError, match=re.escape(problem)):
        load(file, {})


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("example.org", False),
    ],
)
def test_only_loopback_is_this_machine_alone(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(("keys", "warned"), [("", True), ("api_keys: [k]\n", False)])
def test_a_host_for_others_without_keys_warns_loudly_at_start(
    tmp_path: Path, redis_url: str, keys: str, warned: bool
) -> None:
    file = tmp_path / "turnstone.yaml"
    file.write_text(f"{keys}providers: {{}}\n")
    code = (
        "import logging; from types import SimpleNamespace; from api import gunicorn_conf;"
        "gunicorn_conf.on_starting(SimpleNamespace(log=logging.getLogger('gunicorn.error')))"
    )
    environ = {"TURNSTONE_REDIS_URL": redis_url, "TURNSTONE_CONFIG": str(file), "TURNSTONE_HOST": "0.0.0.0"}
    environ["TURNSTONE_LOG_LEVEL"] = "CRITICAL"

    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert ("listens on 0.0.0.0 without api_keys" in done.stderr) is warned
