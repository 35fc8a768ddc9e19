"""The provider instances of a run config, and how what they serve is found."""

from dataclasses import dataclass
from typing import TypeVar

from shared.files import Files
from shared.registrations import RegistrationStore
from shared.runconfig import RunConfig, StaticMemoryBank, StaticModel, StaticShield, StaticToolGroup
from shared.runconfig.secrets import mask
from worker.attachments import Attachments
from worker.balancer import Balancer
from worker.catalog import Catalog
from worker.memory.banks import Banks
from worker.memory.embedding import Embedder
from worker.memory.rag_tools import PROVIDER_ID, RagTools
from worker.memory.service import Memory
from worker.observed import observed_inference, observed_memory, observed_safety, observed_tools
from worker.observer import Observer
from worker.providers.inference import InferenceProvider
from worker.providers.instances import build_inference, build_memory, build_safety, build_tools
from worker.providers.memory import MemoryProvider
from worker.providers.safety import SafetyProvider
from worker.providers.tools import ToolProvider
from worker.router import Router
from worker.sources import InferenceSource, MemorySource, SafetySource, Source, ToolSource

S = TypeVar("S", StaticModel, StaticShield, StaticMemoryBank, StaticToolGroup)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All provider instances by `provider_id`, in the config's order. One per worker process."""

    inference: dict[str, InferenceProvider]
    safety: dict[str, SafetyProvider]
    memory: dict[str, MemoryProvider]
    tools: dict[str, ToolProvider]
    banks: Banks
    searching: Memory
    catalog: Catalog
    router: Router
    sources: list[Source]

    def close(self) -> None:
        """Release all connections."""
        for providers in (self.inference, self.safety, self.memory, self.tools):
            for provider in providers.values():
                provider.close()


def build_fleet(
    config: RunConfig,
    registrations: RegistrationStore,
    *,
    observer: Observer | None = None,
    files: Files | None = None,
) -> Fleet:
    """Talks to nobody. `files` keeps those that tools return.

    Raises ConfigError for a wrong `config` of a provider, and for an entry without a provider.
    """
    told = observer or Observer()
    inference = {name: observed_inference(one, told) for name, one in build_inference(config).items()}
    memory = {name: observed_memory(one, told) for name, one in build_memory(config).items()}
    tools = {name: observed_tools(one, told) for name, one in build_tools(config).items()}
    # Guard models are asked through the router, which finds safety providers through the catalog: so those are
    # added last.
    safety: dict[str, SafetyProvider] = {}
    attachments = None if files is None else Attachments(files=files)
    catalog = Catalog(safety=safety, tools=tools, memory=memory, registrations=registrations, attachments=attachments)
    router = Router(providers=inference, catalog=catalog)
    embedder = Embedder(router=router)
    banks = Banks(catalog=catalog, embedder=embedder)
    searching = Memory(find=catalog.memory_bank, embedder=embedder)
    keeps = config.documents.provider_id
    if keeps is not None and keeps not in memory:
        known = f"there are: {', '.join(memory)}" if memory else "none is configured"
        raise config.origin.error(("documents", "provider_id"), f"name an instance of providers.memory; {known}.")
    if memory:
        tools[PROVIDER_ID] = RagTools(memory=searching)
    shields = build_safety(config, chat=router.chat, serves=router.serves)
    safety.update({name: observed_safety(one, told) for name, one in shields.items()})
    return Fleet(
        inference=inference,
        safety=safety,
        memory=memory,
        tools=tools,
        banks=banks,
        searching=searching,
        catalog=catalog,
        router=router,
        sources=_sources(config, inference, safety, memory, tools, balancer=router.balancer, banks=banks),
    )


def _sources(
    config: RunConfig,
    inference: dict[str, InferenceProvider],
    safety: dict[str, SafetyProvider],
    memory: dict[str, MemoryProvider],
    tools: dict[str, ToolProvider],
    *,
    balancer: Balancer,
    banks: Banks,
) -> list[Source]:
    shown = {instance.provider_id: mask(instance.config) for _, _, instance in config.providers.instances()}
    models = _assigned(config, "models", list(config.models), list(inference))
    shields = _assigned(config, "shields", list(config.shields), list(safety))
    kept = _assigned(config, "memory_banks", list(config.memory_banks), list(memory))
    own = [name for name in tools if name != PROVIDER_ID]
    groups = _assigned(config, "toolgroups", list(config.toolgroups), own)
    return [
        *(
            InferenceSource(provider=p, balancer=balancer, config=shown[i], models=models.get(i, []))
            for i, p in inference.items()
        ),
        *(SafetySource(provider=p, config=shown[i], shields=shields.get(i, [])) for i, p in safety.items()),
        *(
            MemorySource(provider=p, config=shown[i], banks=kept.get(i, []), made=banks.static)
            for i, p in memory.items()
        ),
        *(ToolSource(provider=p, config=shown.get(i, {}), toolgroups=groups.get(i, [])) for i, p in tools.items()),
    ]


def _assigned(config: RunConfig, section: str, entries: list[S], providers: list[str]) -> dict[str, list[S]]:
    """The static entries by provider; the only instance of an API need not be named."""
    assigned: dict[str, list[S]] = {}
    for index, entry in enumerate(entries):
        if entry.provider_id is None and len(providers) != 1:
            known = f"there are: {', '.join(providers)}" if providers else "none is configured"
            raise config.origin.error((section, index, "provider_id"), f"name the provider instance; {known}.")
        assigned.setdefault(entry.provider_id or providers[0], []).append(entry)
    return assigned
