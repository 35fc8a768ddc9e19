"""Keeps the tools of registered groups as their servers list them: those of the run config the registrar lists."""

import logging
from collections.abc import Collection
from dataclasses import asdict, replace

import gevent

from shared.errors import ProviderError, StoreError
from shared.registrations import Kind, Registration, RegistrationStore
from shared.registry import RegisteredToolGroup
from worker.catalog import Catalog
from worker.sources import registered_tool

REFRESH_S = 60.0

logger = logging.getLogger(__name__)


class ToolRefresher:
    """Asks again for the tools of every group that one of `tenants` has registered. One per installation is enough."""

    def __init__(self, *, catalog: Catalog, registrations: RegistrationStore, tenants: Collection[str]) -> None:
        self._catalog = catalog
        self._registrations = registrations
        self._tenants = tenants

    def run(self) -> None:
        """For the life of the worker."""
        while True:
            gevent.sleep(REFRESH_S)
            self.refresh()

    def refresh(self) -> None:
        """Ask once. A group whose server does not answer keeps the tools that it had."""
        for tenant in self._tenants:
            try:
                registry = self._catalog.current(tenant, "tool_runtime")
                registered = self._registrations.of(tenant)
            except StoreError as error:
                logger.warning("tools of registered groups not listed: %s", error)
                return
            for one in registered:
                group = registry.toolgroup(one.identifier) if one.kind is Kind.TOOLGROUP else None
                # Its provider may have left the config, or list a group of that name itself.
                if group is not None and group.resource_id == one.resource_id:
                    self._renew(tenant, one, group)

    def _renew(self, tenant: str, one: Registration, group: RegisteredToolGroup) -> None:
        try:
            provider = self._catalog.provider_of(tenant, group)
            tools = [asdict(registered_tool(tool)) for tool in provider.list_tools(one.resource_id)]
            if tools != one.details["tools"]:
                self._registrations.renew(tenant, one, replace(one, details={**one.details, "tools": tools}))
        except (ProviderError, StoreError) as error:
            logger.warning("tools of the registered group '%s' not listed: %s", one.identifier, error)
