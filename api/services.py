"""Everything that the routes need, built once per process."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from api.idempotency import Idempotency
from api.lookup import Lookup
from api.served import Served
from api.streams.hub import TailHub
from api.streams.tails import Tails
from api.streams.views import TurnViews
from shared.agents import AgentStore
from shared.hints import Hints, celery_app
from shared.log.census import Census, take_census
from shared.log.keys import Keys
from shared.log.reader import LogReader
from shared.log.sessions import SessionStore
from shared.log.turn_log import TurnLog
from shared.redis_client import connect
from shared.registry import RegistryStore
from shared.runconfig import FrontConfig, Limits
from shared.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the routes work with. Safe to share between greenlets and threads."""

    settings: Settings
    limits: Limits
    session_ttl_s: float
    """How long a session that does not persist lives after its last turn."""
    log: TurnLog
    reader: LogReader
    sessions: SessionStore
    agents: AgentStore
    lookup: Lookup
    registry: RegistryStore
    served: Served
    hints: Hints
    idempotency: Idempotency
    views: TurnViews
    tails: Tails
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
    )
    reader = LogReader(client=client, keys=keys)
    views = TurnViews(reader=reader)
    agents = AgentStore(client=client, keys=keys)
    sessions = SessionStore(client=client, keys=keys, log=log)
    registry = RegistryStore(client=client, keys=keys, digest=front.digest)
    return Services(
        settings=settings,
        limits=front.limits,
        session_ttl_s=front.turns.session_ttl_s,
        log=log,
        reader=reader,
        sessions=sessions,
        agents=agents,
        lookup=Lookup(agents=agents, sessions=sessions, reader=reader),
        registry=registry,
        served=Served(store=registry),
        hints=Hints(app=celery_app(settings.broker_url)),
        idempotency=Idempotency(client=client, keys=keys),
        views=views,
        tails=Tails(hub=TailHub(client=client, keys=keys, reader=reader), reader=reader, views=views),
        census=partial(take_census, client, keys),
    )
