"""Everything that the routes need, built once per process."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from api.auth import KeyRing
from api.bounds import Bounds
from api.idempotency import Idempotency
from api.lookup import Lookup
from api.served import Served
from api.streams.hub import TailHub
from api.streams.tails import Tails
from api.streams.views import TurnViews
from shared.agents import AgentStore
from shared.calls import Calls
from shared.files import FileLimits, Files, RedisFiles
from shared.hints import Hints, celery_app
from shared.log.census import Census, take_census
from shared.log.durability import StoreCheck
from shared.log.facts import FactReader
from shared.log.keys import Keys
from shared.log.listing import TurnListing
from shared.log.reader import LogReader
from shared.log.sessions import SessionStore
from shared.log.turn_log import TurnLog
from shared.redis_client import connect
from shared.registrations import RegistrationStore
from shared.registry import RegistryStore
from shared.runconfig import FrontConfig, Limits, Turns
from shared.settings import Settings

_WAITING_CALLS = 1000
"""How many clients of one process may wait for providers at once. Further ones wait for a place, then get a 503."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the routes work with. Safe to share between greenlets and threads."""

    settings: Settings
    limits: Limits
    turns: Turns
    log: TurnLog
    reader: LogReader
    store_check: StoreCheck
    bounds: Bounds
    sessions: SessionStore
    agents: AgentStore
    lookup: Lookup
    registry: RegistryStore
    registrations: RegistrationStore
    served: Served
    key_ring: KeyRing
    hints: Hints
    calls: Calls
    idempotency: Idempotency
    views: TurnViews
    tails: Tails
    listing: TurnListing
    jobs: TurnListing
    """As `listing`, of insert jobs."""
    facts: FactReader
    files: Files
    census: Callable[[], Census]
    """Counts turns, for those who watch the service."""


def build_services(settings: Settings, front: FrontConfig) -> Services:
    """The services that work on the store and the broker of `settings`. Connects when first used."""
    client, keys = connect(settings.redis_url), Keys(settings.key_prefix)
    log = TurnLog(
        client=client,
        keys=keys,
        lease_s=front.turns.lease_s,
        max_attempts=front.turns.max_attempts,
        input_timeout_s=front.turns.input_timeout_s,
        events_ttl_s=front.turns.events_ttl_s,
        durability=front.durability,
        confirming=connect(settings.redis_url, max_connections=_WAITING_CALLS),
    )
    reader = LogReader(client=client, keys=keys)
    views = TurnViews(reader=reader)
    agents = AgentStore(client=client, keys=keys)
    sessions = SessionStore(client=client, keys=keys, log=log)
    registry = RegistryStore(client=client, keys=keys, digest=front.digest)
    registrations = RegistrationStore(client=client, keys=keys)
    app = celery_app(settings.broker_url, prefix=settings.key_prefix)
    # Each call holds a connection for as long as it waits: with a pool of their own they take none from turns.
    waiting = connect(settings.redis_url, max_connections=_WAITING_CALLS)
    return Services(
        settings=settings,
        limits=front.limits,
        turns=front.turns,
        log=log,
        store_check=StoreCheck(client=client, durability=front.durability),
        bounds=Bounds(client=client, keys=keys, turns=front.turns),
        reader=reader,
        sessions=sessions,
        agents=agents,
        lookup=Lookup(agents=agents, sessions=sessions, reader=reader),
        registry=registry,
        registrations=registrations,
        key_ring=KeyRing(front.api_keys),
        served=Served(store=registry, registrations=registrations),
        hints=Hints(app=app),
        calls=Calls(client=waiting, keys=keys, app=app),
        idempotency=Idempotency(client=client, keys=keys),
        views=views,
        tails=Tails(
            hub=TailHub(client=connect(settings.redis_url, protocol=2), keys=keys, reader=reader),
            reader=reader,
            views=views,
        ),
        listing=TurnListing(client=client, keys=keys, reader=reader),
        jobs=TurnListing(client=client, keys=keys, reader=reader, jobs=True),
        facts=FactReader(client=client, keys=keys, reader=reader),
        files=RedisFiles(client=client, keys=keys, limits=FileLimits.of(front.limits)),
        census=partial(take_census, client, keys),
    )
