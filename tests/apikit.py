"""What tests of the API share: the real application on a real store, and a hand that does a worker's part."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.app import create_app
from api.services import Services, build_services
from shared.clock import now_iso
from shared.events import Event, Json, StepComplete, StepStart, TurnAwaitingInput, TurnComplete, decode
from shared.fold import fold
from shared.ids import TurnRef, new_step_id, new_token
from shared.log.turn_log import Claim, Write
from shared.registry import (
    ProviderStatus,
    RegisteredMemoryBank,
    RegisteredModel,
    RegisteredShield,
    RegisteredTool,
    RegisteredToolGroup,
    Registry,
)
from shared.runconfig import FrontConfig
from shared.settings import Settings
from shared.status import TurnStatus

SEAT: Json = {"type": "object", "properties": {"seat": {"type": "string"}}, "required": ["seat"]}
REGISTRY = Registry(
    models=[
        RegisteredModel(identifier="meta/small", model_type="llm", provider_ids=["p1", "p2"], resource_ids={"p1": "s"}),
        RegisteredModel(identifier="m", model_type="llm", provider_ids=["p1"], resource_ids={"p1": "m"}),
        RegisteredModel(identifier="e", model_type="embedding", provider_ids=["p1"], resource_ids={"p1": "e"}),
    ],
    shields=[RegisteredShield(identifier="words", provider_id="deny", resource_id="words")],
    toolgroups=[
        RegisteredToolGroup(
            identifier="seats",
            provider_id="web",
            resource_id="seats",
            tools=[RegisteredTool(name="book", description="Books a seat.", input_schema=SEAT, replay="never")],
        )
    ],
    memory_banks=[
        RegisteredMemoryBank(
            identifier="b",
            provider_id="it",
            resource_id="b",
            kind="keyword",
            chunk_size_in_tokens=512,
            overlap_size_in_tokens=64,
        )
    ],
    providers=[
        ProviderStatus(
            api="inference", provider_id="p1", provider_type="inline::scripted", config={}, health={"status": "OK"}
        )
    ],
)
HELLO: Json = {"messages": [{"role": "user", "content": "hello"}]}


def settings_for(redis_url: str, key_prefix: str, *, port: int = 8321) -> Settings:
    """Settings with a broker inside this process: nobody reads it, and only the test takes turns up."""
    return Settings(redis_url=redis_url, broker_url="memory://", key_prefix=key_prefix, port=port)


@dataclass
class Api:
    """The application and its services."""

    services: Services
    client: FlaskClient

    @classmethod
    def on(
        cls, redis_url: str, key_prefix: str, front: FrontConfig | None = None, *, registry: Registry | None = REGISTRY
    ) -> "Api":
        services = build_services(settings_for(redis_url, key_prefix), front or FrontConfig())
        if registry is not None:
            services.registry.publish(registry)
        return cls(services, create_app(services).test_client())

    def post(self, path: str, body: Any, **headers: str) -> TestResponse:
        """POST `body` as JSON; underscores in the names of headers are dashes."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(path, json=body, headers=named)

    def agent(self, **config: Any) -> str:
        """A new agent's path."""
        answer = self.post("/v1/agents", {"agent_config": {"model": "m", **config}})
        assert answer.status_code == 200, answer.text
        return f"/v1/agents/{answer.json['agent_id']}"

    def session(self, agent: str | None = None) -> str:
        """A new session's path."""
        agent = agent or self.agent()
        answer = self.post(f"{agent}/session", {"session_name": "test"})
        assert answer.status_code == 200, answer.text
        return f"{agent}/session/{answer.json['session_id']}"

    def turn(self, session: str | None = None, **body: Any) -> str:
        """A new turn's path."""
        answer = self.post(f"{session or self.session()}/turn", {**HELLO, **body})
        assert answer.status_code == 202, answer.text
        return answer.headers["Location"]

    def job(self, *documents: Json, **body: Any) -> TurnRef:
        """A new insert job: for the bank `b`, with one document where none is given."""
        given = list(documents) or [{"document_id": "d", "content": "words"}]
        answer = self.post("/v1/memory/insert", {"bank_id": "b", "documents": given, **body})
        assert answer.status_code == 202, answer.text
        found, _ = self.services.lookup.job("default", answer.json["job_id"])
        return found

    def worker(self, turn: str) -> "Worker":
        return Worker.of(self.services, ref_of(turn))


def ref_of(turn: str) -> TurnRef:
    """The turn that a path names."""
    parts = turn.split("/")
    return TurnRef("default", parts[5], parts[7])


@dataclass
class Worker:
    """The owner of one turn, who does what the test says."""

    services: Services
    ref: TurnRef
    token: str
    claim: Claim
    last: int = field(init=False)
    private_last: int = field(init=False)

    def __post_init__(self) -> None:
        self.last, self.private_last = self.claim.last, self.claim.private_last

    @classmethod
    def of(cls, services: Services, ref: TurnRef) -> "Worker":
        token = new_token()
        return cls(services, ref, token, services.log.claim(ref, token=token, worker="test"))

    @property
    def config(self) -> Json:
        """The config that the turn runs with."""
        (record,) = self.services.reader.private(self.ref)
        config: Json = orjson.loads(record.payload)
        return config

    def write(self, *events: Event) -> Write:
        return Write(ref=self.ref, token=self.token, last=self.last, private_last=self.private_last, events=events)

    def say(self, text: str, *, calls: Sequence[Json] = ()) -> str:
        """A whole inference step; its id."""
        step_id, at = new_step_id(), now_iso()
        details = {
            "step_type": "inference",
            "step_id": step_id,
            "turn_id": self.ref.turn_id,
            "started_at": at,
            "completed_at": now_iso(),
            "model_response": {
                "role": "assistant",
                "content": text,
                "stop_reason": "end_of_message" if calls else "end_of_turn",
                "tool_calls": list(calls),
            },
        }
        written = self.services.log.append(
            self.write(
                StepStart(step_type="inference", step_id=step_id, started_at=at, metadata={}),
                StepComplete(step_type="inference", step_id=step_id, step_details=details),
            )
        )
        self.last = written.last
        return step_id

    def finish(self) -> None:
        """The turn ends as completed."""
        end = TurnComplete(turn_id=self.ref.turn_id, completed_at=now_iso())
        state = fold(self.services.reader.all_entries(self.ref))
        state.apply(end)
        snapshot = orjson.dumps(state.as_turn())
        self.services.log.finish(self.write(end), status=TurnStatus.COMPLETED, snapshot=snapshot)

    def ask(self, *call_ids: str) -> None:
        """The turn waits for the client's tools."""
        calls = [{"call_id": i, "tool_name": "add", "arguments": {}, "arguments_json": "{}"} for i in call_ids]
        self.say("", calls=calls)
        awaiting = TurnAwaitingInput(turn_id=self.ref.turn_id, tool_calls=calls)
        assert self.services.log.pause(self.write(awaiting), call_ids=call_ids)


def event_types(services: Services, ref: TurnRef) -> list[str]:
    """The types of a turn's events, in order."""
    return [decode(entry).event_type for entry in services.reader.all_entries(ref)]


def assert_problem(answer: TestResponse, status: int, code: str | None = None) -> Json:
    """`answer` is a problem document of this status; its body."""
    assert answer.status_code == status, answer.text
    assert answer.content_type == "application/problem+json"
    body: Json = orjson.loads(answer.data)
    assert body["status"] == status
    assert body["type"] and body["title"] and body["detail"]
    assert body["error"]["message"] == body["detail"]
    assert code in (None, body["error"]["code"]), body
    return body
