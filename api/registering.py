"""Registers with providers, through a worker, and takes back what was registered."""

from collections.abc import Callable
from typing import TypeVar

from flask import Response

from api.answers import answer
from api.services import Services
from shared.errors import Conflict, InvalidRequest, NotFound, Unavailable
from shared.events import Json
from shared.registrations import Kind, Registration
from shared.registry import Registry

T = TypeVar("T")


def register(
    services: Services,
    tenant: str,
    kind: Kind,
    payload: Json,
    entry: Callable[[Registry], Json | None],
    *,
    idempotency_key: str | None,
    digest: str,
) -> Response:
    """Have the provider accept it; the answer with the `entry` that it then has in the registry.

    Raises what the provider refuses it with, Conflict where the name is taken, and Unavailable.
    """

    def create() -> Json:
        return _register(services, tenant, kind, payload, entry)

    created, replayed = services.idempotency.once(
        create, tenant=tenant, route=f"{kind}s", key=idempotency_key, digest=digest
    )
    return answer(created, headers={"Idempotent-Replayed": "true"} if replayed else None)


def _register(
    services: Services, tenant: str, kind: Kind, payload: Json, entry: Callable[[Registry], Json | None]
) -> Json:
    services.calls.call(f"register_{kind}", {"tenant": tenant, **payload})
    found = entry(services.served.registry(tenant, fresh=True))
    if found is None:
        raise Unavailable(
            f"The {kind.words} was registered and is not there any more: somebody deleted it, or its provider left the"
            " run config.",
            code="registration_gone",
        )
    return found


def unregister(services: Services, tenant: str, kind: Kind, name: str, find: Callable[[Registry], object]) -> None:
    """Take back what was registered under `name`; a model also by `provider_id/identifier`.

    Raises Conflict for what a provider lists by itself, and NotFound.
    """
    registered = [one for one in services.registrations.of(tenant) if one.kind is kind and name in _names(one)]
    if registered:
        services.registrations.delete(tenant, registered)
        services.served.registry(tenant, fresh=True)
    elif find(services.served.registry(tenant, fresh=True)) is not None:
        raise Conflict(
            f"The {kind.words} '{name}' was not registered: its provider lists it by itself, or the run config does."
            " Remove it there.",
            code="not_registered",
        )
    else:
        raise NotFound(kind.words, name, listing=kind.listing)


def one_of(registry: Registry, kind: Kind, name: str, find: Callable[[Registry], T | None]) -> T:
    """What `find` finds. Raises NotFound."""
    found = find(registry)
    if found is None:
        raise NotFound(kind.words, name, listing=kind.listing)
    return found


def refuse_unserved(**fields: object) -> None:
    """Raise InvalidRequest for a field that is given and would be ignored."""
    for name, value in fields.items():
        if value is not None:
            raise InvalidRequest(f"This release does not know {name}: leave it out.", param=name, code="not_supported")


def _names(one: Registration) -> tuple[str, ...]:
    if one.kind is Kind.MODEL:
        return one.identifier, f"{one.provider_id}/{one.identifier}"
    return (one.identifier,)
