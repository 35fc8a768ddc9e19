"""Shields: listed by their providers, or registered; and run by themselves."""

from flask import Response
from pydantic import BaseModel

from api.answers import answer, nothing
from api.idempotency import digest_of
from api.registering import one_of, register, unregister
from api.routes.parts import CreationHeaders
from api.routing import Routes, body_as_sent, services, tenant
from shared.events import Json
from shared.registrations import Kind
from shared.registry import RegisteredShield, Registry
from shared.types import catalog as types
from shared.types import direct
from shared.types.registering import RegisterShield

routes = Routes("shields", about="What looks at the input and output of turns, and at messages by themselves.")


class ShieldPath(BaseModel):
    """A shield. Its name may hold slashes."""

    identifier: str


@routes.on("GET", "/v1/shields", answers={200: types.ShieldList}, problems=(503,))
def list_shields() -> Response:
    """List the shields."""
    return answer({"data": [_entry(shield) for shield in services().served.registry(tenant()).shields]})


@routes.on("POST", "/v1/shields", answers={200: types.ShieldEntry}, problems=(409, 413, 415, 422, 500, 502, 503))
def register_shield(body: RegisterShield, header: CreationHeaders) -> Response:
    """Register a shield with its provider, which may refuse it. It stays until it is deleted."""

    def entry(registry: Registry) -> Json | None:
        found = registry.shield(body.shield_id)
        return None if found is None else _entry(found)

    return register(
        services(),
        tenant(),
        Kind.SHIELD,
        body.model_dump(),
        entry,
        idempotency_key=header.idempotency_key,
        digest=digest_of(body_as_sent()),
    )


@routes.on("GET", "/v1/shields/<path:identifier>", answers={200: types.ShieldEntry}, problems=(404, 503))
def get_shield(path: ShieldPath) -> Response:
    """Get a shield."""
    found = services().served.look(
        tenant(),
        lambda registry: one_of(registry, Kind.SHIELD, path.identifier, lambda known: known.shield(path.identifier)),
    )
    return answer(_entry(found))


@routes.on("DELETE", "/v1/shields/<path:identifier>", answers={204: None}, problems=(404, 409, 503))
def unregister_shield(path: ShieldPath) -> Response:
    """Take back the registration of a shield. 409 for one that its provider lists by itself."""
    unregister(services(), tenant(), Kind.SHIELD, path.identifier, lambda registry: registry.shield(path.identifier))
    return nothing()


@routes.on(
    "POST", "/v1/safety/run-shield", answers={200: direct.ShieldVerdict}, problems=(413, 415, 422, 500, 502, 503)
)
def run_shield(body: direct.RunShield) -> Response:
    """Have a shield look at messages."""
    services().served.look(tenant(), lambda registry: registry.require_shields([body.shield_id], param="shield_id"))
    messages = [message.model_dump(exclude_none=True) for message in body.messages]
    payload = {"tenant": tenant(), "shield_id": body.shield_id, "messages": messages, "params": body.params}
    return answer(services().calls.call("run_shield", payload))


def _entry(shield: RegisteredShield) -> Json:
    return {
        "identifier": shield.identifier,
        "provider_resource_id": shield.resource_id,
        "provider_id": shield.provider_id,
        "type": "shield",
        "params": shield.params,
    }
