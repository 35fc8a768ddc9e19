"""The real turn loop on a real store: a scripted model, shields by a denylist, and tools that keep a record."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import gevent
from celery import Celery
from logkit import LogKit, opened

from shared.clock import now_iso
from shared.events import TurnResumed
from shared.files import FileLimits, RedisFiles
from shared.hints import Hints
from shared.ids import TurnRef, new_token
from shared.log.archive import RedisArchive
from shared.registry import RegisteredModel, Registry
from shared.runconfig import SessionDocuments
from worker.attachments import Attachments
from worker.catalog import Catalog
from worker.documents.reader import DocumentReader
from worker.history import History
from worker.interrupts import Interrupts
from worker.journal import Journal
from worker.memory.banks import Banks
from worker.memory.contents import Contents
from worker.memory.embedding import Embedder
from worker.memory.looking import Looking
from worker.memory.retrieving import Retriever
from worker.memory.service import Memory
from worker.memory.session_banks import SessionBanks
from worker.providers.memory import MemoryProvider
from worker.providers.safety_denylist import DenylistConfig, DenylistSafety
from worker.providers.scripted import ScriptedConfig, ScriptedInference
from worker.providers.tools import Replay, Tool, ToolGroup, ToolProvider, ToolResult
from worker.registrar import APIS
from worker.router import Router
from worker.shields import Shields
from worker.sources import SafetySource, ToolSource
from worker.toolbox import Toolbox
from worker.turn import TurnRun, TurnTools

Json = dict[str, Any]

LOOK = {"name": "look", "parameters": [{"name": "at", "parameter_type": "str", "required": True}]}
RULES = [
    {"match": "use both", "tool_calls": [{"tool_name": "look", "arguments": {"at": "x"}}] * 2},
    {"match": "use unknown", "tool_calls": [{"tool_name": "nothing", "arguments": {}}]},
    {"match": "there is no tool", "role": "tool", "text": "I am sorry."},
    {"match": "seen", "role": "tool", "text": "I have seen it."},
    {"match": "use look", "tool_calls": [{"tool_name": "look", "arguments": {"at": "x", "depth": 3}}]},
    {"match": "break", "error": {"status": 500, "message": "out of order"}},
    {"match": "slowly", "text": "one two three four five", "token_ms": 200},
    {"match": "book", "role": "user", "tool_calls": [{"tool_name": "book", "arguments": {"seat": "4a"}}]},
    {
        "match": "read twice",
        "role": "user",
        "tool_calls": [{"tool_name": "read", "arguments": {"seat": "4a"}}, {"tool_name": "read", "arguments": {}}],
    },
    {
        "match": "mix",
        "role": "user",
        "tool_calls": [
            {"tool_name": "look", "arguments": {"at": "x"}},
            {"tool_name": "book", "arguments": {"seat": "1"}},
        ],
    },
    {"match": "", "role": "tool", "text": "Told."},
    {"match": "say the bad word", "text": "It is blue moon."},
]
SHIELD = {"shield_id": "words", "patterns": ["blue moon"], "message": "Let us talk of something else."}
SEAT = {"type": "object", "properties": {"seat": {"type": "string"}}, "required": ["seat"]}


class NoHints(Hints):
    """Counts hints in place of a broker: what is tested here sends them to nobody."""

    def __init__(self) -> None:
        super().__init__(app=Celery())
        self.sent: list[TurnRef] = []

    def send(self, ref: TurnRef) -> None:
        self.sent.append(ref)


@dataclass
class RecordedTools(ToolProvider):
    """`book` (not to be repeated) and `read` (safe), every call on record. `during` runs inside each call; `gives` is
    what each gives in place of the usual text."""

    provider_id: str = "tools"
    provider_type: str = "test::recorded"
    calls: list[tuple[str, Json, str]] = field(default_factory=list)
    during: Callable[[], None] = lambda: None
    gives: ToolResult | None = None

    def list_toolgroups(self) -> list[ToolGroup]:
        return [ToolGroup(identifier="seats")]

    def list_tools(self, toolgroup_id: str) -> list[Tool]:
        return [
            Tool(name="book", toolgroup_id=toolgroup_id, input_schema=SEAT),
            Tool(name="read", toolgroup_id=toolgroup_id, input_schema=SEAT, replay=Replay.SAFE),
        ]

    def register_toolgroup(self, group: ToolGroup) -> ToolGroup:
        return group

    def unregister_toolgroup(self, toolgroup_id: str) -> None:
        pass

    def invoke(self, tool: Tool, arguments: Json, *, idempotency_key: str) -> ToolResult:
        self.calls.append((tool.name, arguments, idempotency_key))
        self.during()
        return self.gives or ToolResult(content=f"{tool.name} {arguments['seat']}")

    def close(self) -> None:
        pass


@dataclass
class Bench:
    """A worker's parts, and what a test does with them."""

    kit: LogKit
    tools: TurnTools
    hints: NoHints
    seats: RecordedTools
    catalog: Catalog
    files: RedisFiles

    def config(self, **extra: Any) -> Json:
        return {"model": "scripted", "instructions": "", "max_infer_iters": 10, "client_tools": [LOOK], **extra}

    def run(self, ref: TurnRef) -> TurnRun:
        turn = self.claim(ref)
        turn.run()
        return turn

    def claim(self, ref: TurnRef) -> TurnRun:
        claim = self.tools.log.claim(ref, token=new_token(), worker="w")
        return TurnRun(claim=claim, tools=self.tools, interrupts=Interrupts())

    def turn(self, ref: TurnRef) -> Json:
        return self.kit.reader.state(ref).as_turn()

    def answer(self, ref: TurnRef, call: Json, content: str) -> None:
        response = {"call_id": call["call_id"], "tool_name": call["tool_name"], "content": content}
        event = TurnResumed(turn_id=ref.turn_id, tool_responses=[response], resumed_at=now_iso())
        self.tools.log.resume(ref, event=event, call_ids=[call["call_id"]], digest="d")

    def submit(self, text: str, **config: Any) -> TurnRef:
        return self.kit.accept(text=text, config=self.config(**config))


@contextmanager
def turn_bench(
    redis_url: str, key_prefix: str, *, memory: Mapping[str, MemoryProvider] | None = None
) -> Iterator[Bench]:
    """A bench on a store, under keys of its own. `memory` are the providers that may keep documents of sessions."""
    limits = FileLimits(file_bytes=100_000, tenant_bytes=150_000, ttl_s=3600)
    with opened(redis_url, key_prefix) as kit, ExitStack() as stack:
        files = RedisFiles(client=kit.client, keys=kit.keys, limits=limits)  # type: ignore[arg-type]
        contents = stack.enter_context(closing(Contents(reader=DocumentReader(), files=files)))
        journal, hints, seats = Journal(log=kit.log_with(now_us=None)), NoHints(), RecordedTools()
        denylist = DenylistSafety(provider_id="deny", config=DenylistConfig.model_validate({"shields": [SHIELD]}))
        shields = SafetySource(provider=denylist, config={}).ask().shields
        groups = ToolSource(provider=seats, config={}).ask().toolgroups
        attachments = Attachments(files=files)
        catalog = Catalog(safety={"deny": denylist}, tools={"tools": seats}, attachments=attachments)
        catalog.update(Registry(shields=shields, toolgroups=groups), asked=APIS)
        router = _router()
        searching = Memory(find=catalog.memory_bank, embedder=Embedder(router=router))
        looking = Looking(
            retriever=Retriever(memory=searching, router=router),
            banks=SessionBanks(
                client=kit.client,
                keys=kit.keys,
                memory=memory or {},
                banks=Banks(catalog=catalog, embedder=Embedder(router=router)),
                config=SessionDocuments(context_tokens=100),
            ),
            read=contents,
            context_tokens=100,
            sessions=kit.sessions,
            log=kit.log_with(now_us=None),
            reader=kit.reader,
            hints=hints,
            job_ttl_s=60,
        )
        tools = TurnTools(
            log=kit.log_with(now_us=None),
            reader=kit.reader,
            journal=journal,
            history=History(sessions=kit.sessions, archive=RedisArchive(reader=kit.reader)),
            router=router,
            looking=looking,
            shields=Shields(find=catalog.shield),
            toolbox=Toolbox(find=catalog.tools),
            hints=hints,
        )
        journal.start()
        yield Bench(kit, tools, hints, seats, catalog, files)
        journal.stop()
        denylist.close()


def _router() -> Router:
    script = ScriptedConfig.model_validate({"models": ["scripted"], "rules": RULES})
    router = Router(providers={"play": ScriptedInference(provider_id="play", config=script, sleep=gevent.sleep)})
    model = RegisteredModel(
        identifier="scripted", model_type="llm", provider_ids=["play"], resource_ids={"play": "scripted"}
    )
    router.update([model], complete=True)
    return router
