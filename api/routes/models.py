"""Models that can be used: listed by their providers, or registered."""

from flask import Response
from pydantic import BaseModel

from api.answers import answer, nothing
from api.idempotency import digest_of
from api.registering import one_of, register, unregister
from api.routes.parts import CreationHeaders
from api.routing import Routes, body_as_sent, services, tenant
from shared.events import Json
from shared.registrations import Kind
from shared.registry import RegisteredModel, Registry
from shared.types import catalog as types
from shared.types.registering import RegisterModel

routes = Routes("models", about="What the providers really serve, and what was registered with them.")


class ModelPath(BaseModel):
    """A model, also `provider_id/identifier`. It may hold slashes."""

    model_id: str


@routes.on("GET", "/v1/models", answers={200: types.ModelList}, problems=(503,))
def list_models() -> Response:
    """List the models that are served."""
    models = [_entry(model) for model in services().served.registry(tenant()).models]
    return answer({"data": models, "object": "list"})


@routes.on("POST", "/v1/models", answers={200: types.ModelEntry}, problems=(409, 413, 415, 422, 500, 502, 503))
def register_model(body: RegisterModel, header: CreationHeaders) -> Response:
    """Register a model with its provider, which may refuse it. It stays until it is deleted."""

    def entry(registry: Registry) -> Json | None:
        found = registry.exact_model(body.model_id)
        return None if found is None else _entry(found)

    return register(
        services(),
        tenant(),
        Kind.MODEL,
        body.model_dump(),
        entry,
        idempotency_key=header.idempotency_key,
        digest=digest_of(body_as_sent()),
    )


@routes.on("GET", "/v1/models/<path:model_id>", answers={200: types.ModelEntry}, problems=(404, 503))
def get_model(path: ModelPath) -> Response:
    """Get a model."""
    found = services().served.look(
        tenant(),
        lambda registry: one_of(registry, Kind.MODEL, path.model_id, lambda known: known.model(path.model_id)),
    )
    return answer(_entry(found))


@routes.on("DELETE", "/v1/models/<path:model_id>", answers={204: None}, problems=(404, 409, 503))
def unregister_model(path: ModelPath) -> Response:
    """Take back the registration of a model. 409 for one that its provider lists by itself."""
    unregister(services(), tenant(), Kind.MODEL, path.model_id, lambda registry: registry.model(path.model_id))
    return nothing()


def _entry(model: RegisteredModel) -> Json:
    first = model.provider_ids[0]
    return {
        "identifier": model.identifier,
        "provider_resource_id": model.resource_ids.get(first, model.identifier),
        "provider_id": first,
        "provider_ids": model.provider_ids,
        "type": "model",
        "model_type": model.model_type,
        "metadata": model.metadata,
        "id": model.identifier,
        "object": "model",
        "created": 0,  # providers do not say; OpenAI's clients require a number
        "owned_by": first,
    }
