"""Banks of sessions: where those documents of turns are searched that are too long for the context.

A session's bank is made with its first such document, is in no list, and goes with the session. What there is stands in
the store before the provider hears of it, and until the provider has deleted it: so none is forgotten, whatever dies.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, cast

import gevent
import orjson
from redis import Redis

from shared.errors import ProviderError, StoreError
from shared.ids import SessionRef
from shared.log.keys import Keys
from shared.redis_client import translated
from shared.registry import RegisteredMemoryBank
from shared.runconfig import SessionDocuments
from worker.catalog import kept_bank
from worker.memory.banks import Banks
from worker.outage import Outage
from worker.providers.memory import Bank, MemoryProvider
from worker.sources import registered_bank

logger = logging.getLogger(__name__)

_PAGE = 500
_SWEEP_S = 15.0


class SessionBanks:
    """One per worker process. Raises StoreError where the store cannot be reached."""

    def __init__(
        self,
        *,
        client: Redis,
        keys: Keys,
        memory: Mapping[str, MemoryProvider],
        banks: Banks,
        config: SessionDocuments,
    ) -> None:
        self._client = client
        self._key = keys.session_banks
        self._memory = memory
        self._banks = banks
        self._provider_id = config.provider_id or next(iter(memory), None)
        self._model = config.embedding_model

    @property
    def can_keep(self) -> bool:
        """Whether there is a provider for them."""
        return self._provider_id is not None

    def planned(self, ref: SessionRef) -> RegisteredMemoryBank:
        """The bank that a session without one is to get; asks its embedding model. Raises ProviderError."""
        resource_id = f"session:/{ref.tenant}/{ref.session_id}"  # no tenant's own bank is called so
        bank = self._banks.for_session(ref.session_id, resource_id=resource_id, model=self._model, tenant=ref.tenant)
        return registered_bank(bank, cast(str, self._provider_id))

    def known(self, ref: SessionRef) -> RegisteredMemoryBank | None:
        """The session's bank, if it has one."""
        with translated():
            raw = cast(bytes | None, self._client.hget(self._key, ref.member))
        return None if raw is None else RegisteredMemoryBank(**orjson.loads(raw))

    def note(self, ref: SessionRef, planned: RegisteredMemoryBank) -> RegisteredMemoryBank:
        """Note the session's bank before it is made; the one that stands there, where somebody was quicker."""
        with translated():
            self._client.hsetnx(self._key, ref.member, orjson.dumps(asdict(planned)).decode())
        return self.known(ref) or planned

    def make(self, noted: RegisteredMemoryBank) -> None:
        """Have the provider make it; repeating it is harmless. Raises ProviderError."""
        provider, bank = self.kept(noted)
        provider.register_memory_bank(bank)

    def kept(self, noted: RegisteredMemoryBank) -> tuple[MemoryProvider, Bank]:
        """The bank and the instance that keeps it. Raises ProviderError `memory_bank_not_found`."""
        provider = self._memory.get(noted.provider_id)
        if provider is None:
            problem = (
                f"The session's documents are kept by the provider '{noted.provider_id}', which is not configured any"
                " more. Configure it again, or send the documents again in another session."
            )
            raise ProviderError(problem, provider_id=noted.provider_id, code="memory_bank_not_found")
        return provider, kept_bank(noted)

    def find(self, ref: SessionRef) -> tuple[MemoryProvider, Bank]:
        """As `kept`, of a session."""
        noted = self.known(ref)
        if noted is None:
            problem = "The session has no memory bank (any more): it was deleted, or has expired."
            raise ProviderError(problem, provider_id="", code="memory_bank_not_found")
        return self.kept(noted)

    def sweep(self, is_there: Callable[[SessionRef], bool]) -> int:
        """Delete the banks of sessions that are gone; how many. What cannot be deleted now is tried the next time."""
        deleted = 0
        for member, noted in self._all():
            tenant, session_id, _ = member.split("/")
            if is_there(SessionRef(tenant, session_id)):
                continue
            try:
                provider, bank = self.kept(noted)
                provider.unregister_memory_bank(bank.resource_id)
            except ProviderError as error:
                logger.warning("the memory bank of session %s is not deleted yet: %s", session_id, error.message)
                continue
            with translated():
                self._client.hdel(self._key, member)
            deleted += 1
        return deleted

    def sweep_for_ever(self, is_there: Callable[[SessionRef], bool]) -> None:
        """Every worker of insert jobs does it: repeating it is harmless."""
        outage = Outage("the memory banks of sessions that are gone wait")
        while True:
            gevent.sleep(_SWEEP_S)
            try:
                self.sweep(is_there)
            except StoreError as error:
                outage.failed(error)
            else:
                outage.passed()

    def _all(self) -> Iterator[tuple[str, RegisteredMemoryBank]]:
        cursor = 0
        while True:
            with translated():
                cursor, page = cast(Any, self._client).hscan(self._key, cursor, count=_PAGE)
            for member, raw in page.items():
                yield member.decode(), RegisteredMemoryBank(**orjson.loads(raw))
            if not cursor:
                return
