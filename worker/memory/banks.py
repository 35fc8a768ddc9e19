"""Completes banks that are to be registered: which model embeds for them, and in how many dimensions."""

from dataclasses import replace

from shared.errors import InvalidRequest, ProviderError
from shared.events import Json
from shared.ids import DEFAULT_TENANT
from shared.runconfig import StaticMemoryBank
from worker.catalog import Catalog
from worker.memory.embedding import Embedder
from worker.providers.memory import Bank, BankKind

CHUNK_TOKENS = 512
_OVERLAP_PART = 8
"""Neighbouring chunks share an eighth where nobody says how much: what a cut tears apart is whole in one of them."""


class Banks:
    """One per worker process."""

    def __init__(self, *, catalog: Catalog, embedder: Embedder) -> None:
        self._catalog = catalog
        self._embedder = embedder

    def completed(self, given: Json, *, tenant: str) -> Bank:
        """The bank that `given` asks for, `{memory_bank_id, type, provider_memory_bank_id?, embedding_model?,
        embedding_dimension?, chunk_size_in_tokens?, overlap_size_in_tokens?}`. A model's dimension is asked of it.

        Raises InvalidRequest where no model can be chosen or its dimension is another one, and ProviderError where it
        does not answer.
        """
        kind = BankKind(given["type"])
        model = self._model(given.get("embedding_model"), tenant) if kind is BankKind.VECTOR else None
        dimension = None if model is None else self._dimension(model, given.get("embedding_dimension"), tenant)
        size = given.get("chunk_size_in_tokens") or CHUNK_TOKENS
        overlap = given.get("overlap_size_in_tokens")
        return Bank(
            identifier=given["memory_bank_id"],
            resource_id=_resource_id(tenant, given.get("provider_memory_bank_id") or given["memory_bank_id"]),
            kind=kind,
            embedding_model=model,
            embedding_dimension=dimension,
            chunk_size_in_tokens=size,
            overlap_size_in_tokens=size // _OVERLAP_PART if overlap is None else overlap,
        )

    def for_session(self, identifier: str, *, resource_id: str, model: str | None, tenant: str) -> Bank:
        """A bank for a session's documents: searched by meaning where `model` is given, or one model alone embeds; by
        words else. Raises ProviderError, also where `model` is not served."""
        if model is None:
            served = self._embedding_models(tenant)
            model = served[0] if len(served) == 1 else None
        kind = BankKind.KEYWORD if model is None else BankKind.VECTOR
        given = {"memory_bank_id": identifier, "type": kind, "embedding_model": model}
        return replace(self._required(given, tenant=tenant, provider_id=""), resource_id=resource_id)

    def static(self, given: StaticMemoryBank) -> Bank:
        """A bank of the run config. Raises ProviderError, also where no model can be chosen (yet)."""
        return self._required(given.model_dump(), tenant=DEFAULT_TENANT, provider_id=given.provider_id or "")

    def _required(self, given: Json, *, tenant: str, provider_id: str) -> Bank:
        """As `completed`, for what no client has asked for: a fault is the provider's."""
        try:
            return self.completed(given, tenant=tenant)
        except InvalidRequest as error:
            raise ProviderError(error.message, provider_id=provider_id, code=error.code) from error

    def _dimension(self, model: str, wanted: int | None, tenant: str) -> int:
        dimension = self._embedder.dimension(model, tenant=tenant)
        if wanted not in (None, dimension):
            problem = f"The model '{model}' gives embeddings of {dimension} dimensions, not of {wanted}."
            raise InvalidRequest(
                f"{problem} Leave embedding_dimension out.",
                param="embedding_dimension",
                code="embedding_dimension_mismatch",
            )
        return dimension

    def _model(self, name: str | None, tenant: str) -> str:
        if name is not None:
            registry = self._catalog.current(tenant, "inference")
            registry.require_model(name, "embedding", param="embedding_model")
            return name
        served = self._embedding_models(tenant)
        if len(served) == 1:
            return served[0]
        problem = f"Name the model of a vector bank in embedding_model. Served: {', '.join(served) or 'none'}."
        raise InvalidRequest(problem, param="embedding_model", code="embedding_model_not_named")

    def _embedding_models(self, tenant: str) -> list[str]:
        models = self._catalog.current(tenant, "inference").models
        return sorted(model.identifier for model in models if model.model_type == "embedding")


def _resource_id(tenant: str, name: str) -> str:
    """Banks of several tenants meet in one provider instance, and names may hold slashes; ids of tenants hold none."""
    return name if tenant == DEFAULT_TENANT and "/" not in name else f"{tenant}/{name}"
