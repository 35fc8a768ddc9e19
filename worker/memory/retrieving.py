"""The look into memory that precedes a turn's first reply: a question made of its messages, an answer with sources."""

from contextlib import closing
from dataclasses import dataclass

from shared.events import Json
from worker.inference import Reply, take
from worker.memory.context import Context, context_of
from worker.memory.query import MAX_CHUNKS, MAX_TOKENS_IN_CONTEXT, Query, default_text, prompt_for
from worker.memory.service import Asked, Memory
from worker.providers.inference import ChatRequest
from worker.router import Router


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What was asked of which banks, and what came of it."""

    query: str
    bank_ids: list[str]
    context: Context


class Retriever:
    """Looks into an agent's banks. One per worker process; every method raises ProviderError."""

    def __init__(self, *, memory: Memory, router: Router) -> None:
        self._memory = memory
        self._router = router

    def look(self, config: Json, messages: list[Json], *, tenant: str) -> Retrieved:
        """`config` is an agent's `memory`: the banks, how the query is made, and how much may come of it."""
        text = self._question(config.get("query_generator_config") or {}, messages, tenant)
        most = config.get("max_chunks") or MAX_CHUNKS
        asked = [_asked(bank, text, most) for bank in config["memory_bank_configs"]]
        hits = self._memory.search(asked, tenant=tenant)
        max_tokens = config.get("max_tokens_in_context") or MAX_TOKENS_IN_CONTEXT
        return Retrieved(text, [one.bank_id for one in asked], context_of(hits, max_tokens=max_tokens))

    def _question(self, config: Json, messages: list[Json], tenant: str) -> str:
        kind = config.get("type") or "default"
        if kind == "custom":
            return str(config["query"])
        return self._asked_of_model(config, messages, tenant) if kind == "llm" else default_text(messages, config)

    def _asked_of_model(self, config: Json, messages: list[Json], tenant: str) -> str:
        request = ChatRequest(
            model=config["model"], messages=[{"role": "user", "content": prompt_for(messages, config)}]
        )
        reply = Reply()
        with closing(self._router.chat(request, tenant=tenant)) as deltas:  # type: ignore[type-var]
            for delta in deltas:
                take(reply, delta)
        return "".join(reply.text).strip() or default_text(messages, config)


def _asked(bank: Json, text: str, most: int) -> Asked:
    query = Query(
        text=text,
        max_chunks=most,
        mode=bank.get("mode"),
        filters=bank.get("filters") or {},
        keys=bank.get("keys") or (),
        entities=bank.get("entities") or (),
        depth=bank.get("depth") or 1,
    )
    return Asked(bank["bank_id"], query)
