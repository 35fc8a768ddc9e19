"""Provider instances, as the workers see them."""

from flask import Response
from pydantic import BaseModel

from api.answers import answer
from api.routing import Routes, services, tenant
from shared.errors import NotFound
from shared.types import catalog as types

routes = Routes("providers", about="The provider instances of the run config.")


class ProviderPath(BaseModel):
    """A provider instance."""

    provider_id: str


@routes.on("GET", "/v1/providers", answers={200: types.ProviderList}, problems=(503,))
def list_providers() -> Response:
    """List the provider instances. Their config is shown without secrets."""
    return answer({"data": services().served.registry(tenant()).providers})


@routes.on("GET", "/v1/providers/<provider_id>", answers={200: types.ProviderEntry}, problems=(404, 503))
def get_provider(path: ProviderPath) -> Response:
    """Get a provider instance."""
    for provider in services().served.registry(tenant()).providers:
        if provider.provider_id == path.provider_id:
            return answer(provider)
    raise NotFound("provider", path.provider_id, listing="GET /v1/providers")
