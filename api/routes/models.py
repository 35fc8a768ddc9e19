"""Models that can be used."""

from flask import Response
from pydantic import BaseModel

from api.answers import answer
from api.routing import Routes, services
from shared.errors import NotFound
from shared.events import Json
from shared.registry import RegisteredModel
from shared.types import catalog as types

routes = Routes("models", about="What the providers really serve.")


class ModelPath(BaseModel):
    """A model, also `provider_id/identifier`. It may hold slashes."""

    model_id: str


@routes.on("GET", "/v1/models", answers={200: types.ModelList}, problems=(503,))
def list_models() -> Response:
    """List the models that are served."""
    models = [_entry(model) for model in services().served.registry().models]
    return answer({"data": models, "object": "list"})


@routes.on("GET", "/v1/models/<path:model_id>", answers={200: types.ModelEntry}, problems=(404, 503))
def get_model(path: ModelPath) -> Response:
    """Get a model."""
    model = services().served.registry().model(path.model_id)
    if model is None:
        raise NotFound("model", path.model_id, listing="GET /v1/models")
    return answer(_entry(model))


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
