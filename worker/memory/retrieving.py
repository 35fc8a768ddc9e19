"""The look into memory that precedes a turn's first reply: a question made of its messages, an answer with sources."""

from contextlib import closing

from shared.events import Json
from worker.inference import Reply, take
from worker.memory.query import MAX_CHUNKS, Query, default_text, prompt_for
from worker.memory.service import Asked, Hit, Memory
from worker.providers.inference import ChatRequest
from worker.router import Router


class Retriever:
    """Looks into an agent's banks. One per worker process; every method raises ProviderError."""

    def __init__(self, *, memory: Memory, router: Router) -> None:
        self._memory = memory
        self._router = router

    def question(self, config: Json, messages: list[Json], *, tenant: str) -> str:
        """The query that an agent's `memory` makes of a turn's messages."""
        generator: Json = config.get("query_generator_config") or {}
        kind = generator.get("type") or "default"
        if kind == "custom":
            return str(generator["query"])
        if kind == "llm":
            return self._asked_of_model(generator, messages, tenant)
        return default_text(messages, generator)

    def asked(self, config: Json, text: str) -> list[Asked]:
        """What is asked of the banks that an agent's `memory` names."""
        most = config.get("max_chunks") or MAX_CHUNKS
        return [_asked(bank, text, most) for bank in config.get("memory_bank_configs") or ()]

    def search(self, asked: list[Asked], *, tenant: str) -> list[Hit]:
        """The best of all banks."""
        return self._memory.search(asked, tenant=tenant)

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
