"""What the API tells Prometheus and its log about requests, on a real store."""

import logging
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from apikit import HELLO, Api
from prometheus_client.parser import text_string_to_metric_families

from api.app import create_app
from api.metrics import SUBMIT
from api.services import build_services
from shared.queues import MEMORY_QUEUE
from shared.runconfig import FrontConfig
from shared.settings import Settings


def samples(api: Api) -> dict[str, float]:
    """Every sample at /metrics as `name{label=value}`."""
    answer = api.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/plain; version=")
    return {
        f"{sample.name}{{{','.join(f'{name}={value}' for name, value in sorted(sample.labels.items()))}}}": sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_requests_are_counted_by_the_template_of_their_route(api: Api) -> None:
    api.client.get("/v1/agents/one")
    api.client.get("/v1/agents/other")
    api.client.get("/nowhere/at/all")

    found = samples(api)
    assert found["turnstone_api_requests_total{method=GET,route=/v1/agents/<agent_id>,status=404}"] == 2
    assert found["turnstone_api_requests_total{method=GET,route=none,status=404}"] == 1
    assert found["turnstone_api_request_seconds_count{route=/v1/agents/<agent_id>}"] == 2
    assert "other" not in str(found) and "nowhere" not in str(found)


def test_a_method_that_nobody_knows_makes_no_label_of_its_own(api: Api) -> None:
    api.client.open("/v1/agents", method="BREW")

    assert not any("BREW" in name for name in samples(api))


def test_submits_are_counted_once_however_often_they_are_repeated(api: Api) -> None:
    session = api.session()
    for _ in range(3):
        assert api.post(f"{session}/turn", HELLO, Idempotency_Key="k").status_code == 202

    found = samples(api)
    assert found["turnstone_turns_submitted_total{how=new}"] == 1
    assert found["turnstone_turns_submitted_total{how=repeated}"] == 2


def test_the_route_whose_submits_are_counted_exists(api: Api) -> None:
    rules = {
        (method, rule.rule) for rule in create_app(api.services).url_map.iter_rules() for method in rule.methods or ()
    }

    assert SUBMIT in rules


def test_an_open_stream_is_counted_until_its_client_leaves(api: Api) -> None:
    turn = api.turn()
    stream = api.client.get(f"{turn}/events", buffered=False)
    first = next(iter(stream.response))  # type: ignore[call-overload]
    during = samples(api)
    stream.close()

    assert b"turn_created" in first
    assert during["turnstone_api_open_streams{}"] == 1
    assert samples(api)["turnstone_api_open_streams{}"] == 0


def test_a_head_request_leaves_no_stream_open(api: Api) -> None:
    api.client.head(f"{api.turn()}/events")

    assert samples(api)["turnstone_api_open_streams{}"] == 0


def test_the_stores_own_counts_are_there(api: Api) -> None:
    api.turn()
    running = api.turn()
    api.worker(running)
    api.services.registry.alive("w1")
    api.services.registry.alive("m1", queue=MEMORY_QUEUE)
    api.services.registry.alive("m2", queue=MEMORY_QUEUE)
    waiting, running = api.job(), api.job()
    api.services.log.claim(running, token="t", worker="m1")

    found = samples(api)
    assert found["turnstone_store_up{}"] == 1
    assert found["turnstone_turns_waiting{}"] == 1
    assert found["turnstone_turns_running{}"] == 1
    assert found["turnstone_workers_alive{}"] == 1
    assert found["turnstone_memory_workers_alive{}"] == 2
    assert found["turnstone_jobs_waiting{}"] == 1
    assert found["turnstone_jobs_running{}"] == 1
    assert api.services.facts.facts(waiting).hints == 0  # type: ignore[union-attr]
    assert found["turnstone_due_overdue_seconds{}"] >= 0


def test_a_store_that_is_away_costs_its_own_counts_only() -> None:
    settings = Settings(redis_url="redis://127.0.0.1:1/0", broker_url="memory://")
    services = build_services(settings, FrontConfig())
    client = create_app(services).test_client()

    text = client.get("/metrics").text

    assert "turnstone_store_up 0" in text
    assert "turnstone_workers_alive" not in text


def test_a_request_is_logged_with_its_ids_and_without_what_was_sent(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    session = api.session()
    with caplog.at_level(logging.DEBUG, logger="api.metrics"):
        body = {"messages": [{"role": "user", "content": "my diary"}]}
        turn = api.post(f"{session}/turn?after=diary", body, X_Request_Id="r1").headers["Location"]

    (record,) = [record for record in caplog.records if record.name == "api.metrics"]
    fields = record.__dict__["fields"]
    assert (fields["method"], fields["path"], fields["status"]) == ("POST", f"{session}/turn", 202)
    assert fields["turn"] == turn.rpartition("/")[2]
    assert "diary" not in str(fields)


def test_an_answer_of_the_servers_own_fault_is_an_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    services = build_services(Settings(redis_url="redis://127.0.0.1:1/0", broker_url="memory://"), FrontConfig())
    with caplog.at_level(logging.ERROR):
        create_app(services).test_client().get("/v1/agents")

    (record,) = [record for record in caplog.records if record.name == "api.metrics"]
    assert record.levelno == logging.ERROR
    assert record.__dict__["fields"]["status"] == 503


def test_a_process_that_has_only_just_begun_does_not_break_what_the_others_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "from prometheus_client import Counter; from api.metrics import AllProcesses;"
        "from prometheus_client import generate_latest; Counter('eggs', 'Eggs.').inc(3);"
        "print(generate_latest(AllProcesses()).decode())"
    )
    (tmp_path / "counter_1.db").touch()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    assert "eggs_total 3.0" in done.stdout, done.stderr


def test_folders_that_killed_servers_left_behind_go_and_those_in_use_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    make = "import tempfile; tempfile.tempdir = {!r}; from api import metrics_files; metrics_files.make();{}"
    ended = [sys.executable, "-c", make.format(str(tmp_path), "")]
    subprocess.run(ended, check=True, timeout=60)
    (left,) = tmp_path.iterdir()
    running = [sys.executable, "-c", make.format(str(tmp_path), "print('made', flush=True); input()")]
    with subprocess.Popen(running, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"made\n"
        (in_use,) = tmp_path.iterdir()
        subprocess.run(ended, check=True, timeout=60)
        assert in_use in tmp_path.iterdir()
        process.communicate(b"\n")

    assert not left.exists()


def test_a_redirect_is_not_logged_as_a_turn(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="api.metrics"):
        assert api.client.get("/openapi/").status_code == 302

    (record,) = [record for record in caplog.records if record.name == "api.metrics"]
    assert "turn" not in record.__dict__["fields"]
