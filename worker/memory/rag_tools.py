"""Memory as a tool that the model may call: `builtin::rag/knowledge_search`, by the names of Llama Stack.

It is there where a memory provider is. An agent names its banks once, in the group's arguments (`{name:
"builtin::rag/knowledge_search", args: {vector_db_ids: [...]}}`), and the model asks. Documents of the session's turns
that were too long to be shown are looked into as well.
"""

from functools import partial
from typing import Any

from shared.errors import ProviderError
from shared.ids import DEFAULT_TENANT
from worker.memory.context import context_of
from worker.memory.kept_documents import KeptDocuments
from worker.memory.query import MAX_CHUNKS, MAX_TOKENS_IN_CONTEXT, MOST_CHUNKS, Query
from worker.memory.service import Asked, Memory
from worker.providers.tools import Replay, TenantTools, Tool, ToolGroup, ToolResult
from worker.stored import until_stored

Json = dict[str, Any]

PROVIDER_ID = "builtin-rag"
GROUP = "builtin::rag"
_NOTHING = "Nothing was found."
_NOWHERE = "Error: there are no documents in this conversation, so name the memory banks to look into in vector_db_ids."
_SCHEMA: Json = {
    "type": "object",
    "properties": {
        "query": {"type": "string", "minLength": 1, "description": "What to look for."},
        "vector_db_ids": {
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
            "description": "The memory banks to look into, besides the documents of this conversation.",
        },
        "max_chunks": {
            "type": "integer",
            "minimum": 1,
            "maximum": MOST_CHUNKS,
            "description": f"How many pieces of documents at the most, {MAX_CHUNKS} by default.",
        },
    },
    "required": ["query"],
}


class RagTools(TenantTools):
    """Searches the banks of one tenant."""

    provider_id = PROVIDER_ID
    provider_type = "inline::rag-runtime"

    def __init__(self, *, memory: Memory, tenant: str = DEFAULT_TENANT, session: KeptDocuments | None = None) -> None:
        self._memory = memory
        self._tenant = tenant
        self._session = session

    def of(self, tenant: str) -> "RagTools":
        return RagTools(memory=self._memory, tenant=tenant)

    def in_session(self, kept: KeptDocuments) -> "RagTools":
        """The same tools in a turn: they look into the session's documents too, wherever else."""
        return RagTools(memory=self._memory, tenant=self._tenant, session=kept)

    def list_toolgroups(self) -> list[ToolGroup]:
        return [ToolGroup(identifier=GROUP)]

    def list_tools(self, toolgroup_id: str) -> list[Tool]:
        return [
            Tool(
                name="knowledge_search",
                toolgroup_id=GROUP,
                description="Search for information in documents.",
                input_schema=_SCHEMA,
                replay=Replay.SAFE,
            )
        ]

    def register_toolgroup(self, group: ToolGroup) -> ToolGroup:
        problem = f"'{PROVIDER_ID}' has the one group '{GROUP}' and takes no other."
        raise ProviderError(problem, provider_id=PROVIDER_ID, code="not_supported")

    def unregister_toolgroup(self, toolgroup_id: str) -> None:
        """It never has one that was registered."""

    def invoke(self, tool: Tool, arguments: Json, *, idempotency_key: str) -> ToolResult:
        most = int(arguments.get("max_chunks") or MAX_CHUNKS)
        query = Query(text=arguments["query"], max_chunks=most)
        asked = [Asked(bank_id, query) for bank_id in arguments.get("vector_db_ids") or ()]
        if self._session is not None:
            asked += until_stored(partial(self._session.asked, query.text, max_chunks=most))
        if not asked:
            return ToolResult(content=_NOWHERE, error=True)
        hits = self._memory.search(asked, tenant=self._tenant)
        if self._session is not None:
            hits = self._session.named(hits)
        context = context_of(hits, max_tokens=MAX_TOKENS_IN_CONTEXT)
        metadata = {"document_ids": [one["document_id"] for one in context.citations], "citations": context.citations}
        return ToolResult(content=context.text or _NOTHING, metadata=metadata)

    def close(self) -> None:
        """It holds nothing."""
