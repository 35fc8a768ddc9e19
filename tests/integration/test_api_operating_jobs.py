"""Insert jobs in the hands of an operator: listed, explained, run again and ended."""

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from apikit import REGISTRY, Api, Json, assert_problem
from redis import Redis
from werkzeug.test import TestResponse

from shared.clock import now_iso
from shared.errors import Fenced
from shared.events import StepProgress, StepStart, TurnFailed
from shared.fold import fold
from shared.ids import TurnRef, new_step_id, new_token
from shared.log.keys import Keys
from shared.log.turn_log import Write
from shared.queues import MEMORY_QUEUE
from shared.redis_client import connect
from shared.status import TurnStatus
from shared.types.memory import Job, JobList
from shared.types.operating import WhyJob

NOWHERE = "job_07_0123456789abcdef01234567"
DOCUMENTS: list[Json] = [
    {"document_id": "a", "content": "some words", "metadata": {"n": 1, "none": None}},
    {
        "document_id": "b",
        "content": {"uri": "data:text/plain,more%20words"},
        "mime_type": "text/plain",
        "metadata": {},
    },
]


class Owner:
    """The worker of one job, who does what the test says."""

    def __init__(self, api: Api, ref: TurnRef) -> None:
        self.api, self.ref, self.token = api, ref, new_token()
        claim = api.services.log.claim(ref, token=self.token, worker="test")
        self.last, self.private_last = claim.last, claim.private_last

    def write(self, *events: Any) -> Write:
        return Write(ref=self.ref, token=self.token, last=self.last, private_last=self.private_last, events=events)

    def progress(self, done: int, *, documents: int = 2) -> None:
        step_id = new_step_id()
        metadata = {"memory_bank_id": "b", "documents": documents}
        failure = {"document_id": "diary", "code": "malformed_document", "message": "It is broken."}
        delta = {"type": "progress", "done": done, "chunks": 3, "failures": [failure]}
        written = self.api.services.log.append(
            self.write(
                StepStart(step_type="memory_insert", step_id=step_id, started_at=now_iso(), metadata=metadata),
                StepProgress(step_type="memory_insert", step_id=step_id, delta=delta),
            )
        )
        self.last = written.last

    def fail(self) -> None:
        error = {"code": "memory_full", "message": "There is no space left."}
        end = TurnFailed(turn_id=self.ref.turn_id, error=error, completed_at=now_iso())
        state = fold(self.api.services.reader.all_entries(self.ref))
        state.apply(end)
        snapshot = orjson.dumps(state.as_turn())
        self.api.services.log.finish(self.write(end), status=TurnStatus.FAILED, snapshot=snapshot)


def failed(api: Api, *documents: Json, **body: Any) -> TurnRef:
    """A job that its worker could not finish."""
    ref = api.job(*documents, **body)
    Owner(api, ref).fail()
    return ref


def told(api: Api, ref: TurnRef) -> Json:
    answer = api.client.get(f"/v1/jobs/{ref.turn_id}/why")
    assert answer.status_code == 200, answer.text
    WhyJob.model_validate(answer.json)
    body: Json = answer.json
    return body


def act(api: Api, ref: TurnRef, what: str, body: Any = None, **headers: str) -> TestResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return api.client.post(f"/v1/jobs/{ref.turn_id}/{what}", json=body, headers=named)


def listed(api: Api, **query: Any) -> list[str]:
    answer = api.client.get("/v1/jobs", query_string=query)
    assert answer.status_code == 200, answer.text
    JobList.model_validate(answer.json)
    return [one["job_id"] for one in answer.json["data"]]


def work_of(api: Api, ref: TurnRef) -> Json:
    """What a job is to insert, as its worker reads it."""
    config: Json = orjson.loads(api.services.reader.private(ref)[0].payload)
    work: Json = config["insert"]
    return work


def made(api: Api, answer: TestResponse) -> TurnRef:
    assert answer.status_code == 202, answer.text
    Job.model_validate(answer.json)
    ref, _ = api.services.lookup.job("default", answer.json["job_id"])
    assert answer.headers["Location"] == f"/v1/jobs/{ref.turn_id}"
    return ref


def store(api: Api) -> Redis:
    return connect(api.services.settings.redis_url)


# Why


def test_why_of_a_job_that_waits_says_that_no_worker_serves_its_queue(api: Api) -> None:
    job = api.job()
    api.services.registry.alive("w1")  # one for turns does not help it

    alone = told(api, job)
    api.services.registry.alive("m1", queue=MEMORY_QUEUE)
    served = told(api, job)

    assert (alone["workers_alive"], alone["next"]["code"]) == (0, "waits_for_worker")
    assert alone["next"]["message"].endswith("none is alive: start one (turnstone worker --queue memory).")
    assert (served["workers_alive"], served["next"]["code"]) == (1, "waits_for_worker")
    assert "the next hint is due" in served["next"]["message"]
    assert (alone["job_id"], alone["bank_id"], alone["bank_there"]) == (job.turn_id, "b", True)
    assert alone["progress"] == {"documents": None, "done": 0, "chunks": 0, "failed": 0}
    assert alone["url"] == f"/v1/jobs/{job.turn_id}"


def test_why_of_a_job_whose_bank_is_gone_says_so(api: Api) -> None:
    job = api.job()
    api.services.registry.publish(replace(REGISTRY, memory_banks=[]))
    api.services.served.registry("default", fresh=True)

    found = told(api, job)

    assert (found["next"]["code"], found["bank_there"]) == ("bank_gone", False)
    assert "Its bank 'b' is gone" in found["next"]["message"]


def test_why_of_a_job_that_runs_names_its_worker_and_how_far_it_is_and_nothing_of_its_documents(api: Api) -> None:
    job = api.job(*DOCUMENTS)
    Owner(api, job).progress(1)

    found = told(api, job)

    assert (found["next"]["code"], found["lease"]["worker"]) == ("running", "test")
    assert found["progress"] == {"documents": 2, "done": 1, "chunks": 3, "failed": 1}
    text = orjson.dumps(found).decode()
    assert "words" not in text and "diary" not in text


def test_why_of_a_job_that_has_failed_says_how(api: Api) -> None:
    message = told(api, failed(api))["next"]["message"]
    assert message == "It failed: memory_full. There is no space left. To run it again, requeue it."


@pytest.mark.parametrize("what", ["why", "requeue", "fail"])
def test_what_is_no_job_is_answered_with_the_call_that_lists_them(api: Api, what: str) -> None:
    method = api.client.get if what == "why" else api.client.post
    turn_id = api.turn().rpartition("/")[2]
    for name in (NOWHERE, "job_1", turn_id):
        assert "GET /v1/jobs" in assert_problem(method(f"/v1/jobs/{name}/{what}"), 404)["detail"]


# Requeue


def test_a_failed_job_is_run_again_with_the_same_documents(api: Api) -> None:
    old = failed(api, *DOCUMENTS)

    answer = act(api, old, "requeue")
    new = made(api, answer)

    assert new != old and new.session_id != old.session_id
    assert work_of(api, new) == work_of(api, old)
    assert work_of(api, new)["documents"] == DOCUMENTS
    assert (answer.json["retry_of"], answer.json["status"]) == (old.turn_id, "queued")
    assert told(api, new)["retry_of"] == old.turn_id
    shown = {one["job_id"]: one for one in api.client.get("/v1/jobs").json["data"]}
    assert shown[new.turn_id]["retry_of"] == old.turn_id and "retry_of" not in shown[old.turn_id]
    assert told(api, new)["next"]["code"] == "waits_for_worker"


def test_a_job_that_was_canceled_is_run_again(api: Api) -> None:
    old = api.job(*DOCUMENTS)
    assert act(api, old, "cancel").status_code == 200

    new = made(api, act(api, old, "requeue"))

    assert work_of(api, new)["documents"] == DOCUMENTS


def test_documents_that_were_to_go_after_a_time_have_that_time_again(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    old = failed(api, ttl_seconds=3600)
    at = time.time() + 3000
    monkeypatch.setattr("api.requeueing.time", SimpleNamespace(time=lambda: at))

    new = made(api, act(api, old, "requeue"))

    assert work_of(api, new)["expires_at"] == at + 3600


def test_a_job_whose_documents_are_large_is_run_again(api: Api) -> None:
    large = [{"document_id": "large", "content": "words " * 40_000}]

    new = made(api, act(api, failed(api, *large), "requeue"))

    assert work_of(api, new)["documents"] == [{**large[0], "metadata": {}}]


def test_each_requeue_makes_another_job_unless_it_has_the_same_key(api: Api) -> None:
    old, other = failed(api), failed(api)

    plain = [act(api, old, "requeue") for _ in range(2)]
    keyed = [act(api, old, "requeue", Idempotency_Key="once") for _ in range(2)]
    elsewhere = act(api, other, "requeue", Idempotency_Key="once")

    assert len({answer.json["job_id"] for answer in (*plain, *keyed)}) == 3
    assert keyed[0].json == keyed[1].json
    assert "Idempotent-Replayed" not in keyed[0].headers
    assert keyed[1].headers["Idempotent-Replayed"] == "true"
    assert_problem(elsewhere, 422, "idempotency_key_reused")


def test_what_has_been_run_again_may_be_run_again(api: Api) -> None:
    second = made(api, act(api, failed(api, *DOCUMENTS), "requeue"))
    Owner(api, second).fail()

    third = made(api, act(api, second, "requeue"))

    assert work_of(api, third)["documents"] == DOCUMENTS
    assert told(api, third)["retry_of"] == second.turn_id


def test_a_job_that_has_not_ended_is_not_run_again(api: Api) -> None:
    job = api.job()
    answer = act(api, job, "requeue")
    assert_problem(answer, 409, "not_ended")
    assert f"Job '{job.turn_id}' has not ended: it is queued." in answer.json["detail"]


@pytest.mark.parametrize("part", ["events", "private"])
def test_a_job_that_ended_so_long_ago_that_its_documents_are_gone_is_not_run_again(api: Api, part: str) -> None:
    old = failed(api)
    store(api).delete(getattr(Keys(api.services.settings.key_prefix).turn(old), part))

    problem = assert_problem(act(api, old, "requeue"), 409, "input_expired")

    assert "Insert its documents anew." in problem["detail"]


def test_a_job_whose_bank_is_gone_is_not_run_again(api: Api) -> None:
    old = failed(api)
    api.services.registry.publish(replace(REGISTRY, memory_banks=[]))
    fresh = Api.on(api.services.settings.redis_url, api.services.settings.key_prefix, registry=None)

    assert_problem(act(fresh, old, "requeue"), 400, "memory_bank_not_found")
    assert listed(api) == [old.turn_id]


# Fail


def test_an_operator_ends_a_job_that_waits(api: Api) -> None:
    job = api.job()

    answer = act(api, job, "fail", {"reason": "Nobody needs it."})

    assert answer.status_code == 200, answer.text
    Job.model_validate(answer.json)
    assert answer.json["status"] == "failed"
    assert answer.json["error"] == {
        "code": "failed_by_operator",
        "message": "An operator ended this job: Nobody needs it.",
    }
    problem = assert_problem(act(api, job, "fail"), 409, "already_ended")
    assert problem["detail"].startswith(f"Job '{job.turn_id}' has ended already: it is failed.")


def test_an_operator_ends_a_job_that_a_worker_runs_and_fences_it(api: Api) -> None:
    job = api.job(*DOCUMENTS)
    owner = Owner(api, job)
    owner.progress(1)

    ended = act(api, job, "fail").json

    assert (ended["error"]["message"], ended["done"]) == ("An operator ended this job.", 1)
    with pytest.raises(Fenced):
        owner.progress(2)


# Lists


def test_jobs_are_listed_by_status_and_by_bank(api: Api) -> None:
    waiting, broken = api.job(), failed(api)

    assert listed(api) == [broken.turn_id, waiting.turn_id]
    assert listed(api, status="failed") == [broken.turn_id]
    assert listed(api, status="queued,in_progress") == [waiting.turn_id]
    assert listed(api, bank_id="b", status="failed") == [broken.turn_id]
    assert listed(api, bank_id="other") == []
    refused = api.client.get("/v1/jobs", query_string={"status": "lost"})
    assert assert_problem(refused, 422, "invalid_fields")["error"]["param"] == "status"
