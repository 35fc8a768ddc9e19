"""Everything a worker process holds, and the turns that it runs."""

import logging
import os
import socket
from functools import partial

import gevent
from celery import Celery
from redis.exceptions import RedisError

from shared import logs
from shared.clock import now_iso
from shared.errors import ConfigError, SchemaTooNew, StoreError, Unwritable
from shared.files import FileLimits, Files, RedisFiles
from shared.hints import Hints
from shared.ids import TurnRef, is_job, new_token
from shared.log.archive import RedisArchive
from shared.log.durability import StoreCheck
from shared.log.keys import Keys
from shared.log.reader import LogReader
from shared.log.sessions import SessionStore
from shared.log.turn_log import Claim, NotClaimable, TurnLog
from shared.queues import MEMORY_QUEUE
from shared.redis_client import connect
from shared.registrations import RegistrationStore
from shared.registry import RegistryStore
from shared.runconfig import RunConfig
from shared.settings import Settings
from worker.documents.addresses import Allowed
from worker.documents.reader import DocumentReader
from worker.drain import Drain
from worker.fleet import build_fleet
from worker.heartbeat import Heartbeat
from worker.history import History
from worker.interrupts import CancelAsked, Draining, Interrupt, Interrupts, LeaseLost
from worker.journal import Journal
from worker.memory.contents import Contents
from worker.memory.embedding import Embedder
from worker.memory.inserting import Inserter
from worker.memory.looking import Looking
from worker.memory.retrieving import Retriever
from worker.memory.session_banks import SessionBanks
from worker.outage import Outage
from worker.reaper import Reaper
from worker.registrar import Registrar
from worker.shields import Shields
from worker.toolbox import Toolbox
from worker.turn import TurnRun, TurnTools
from worker.vital import spawn_vital
from worker.watching import build_observer

logger = logging.getLogger(__name__)

_CLAIM_RETRY_S = (0.1, 0.5, 1.0)
_CHECK_AGAIN_S = 2.0
_RELEASE_S = 5.0
"""For turns and hints to be given back, on a machine that is busy."""
_FAREWELL_S = 1.0


class Runtime:
    """One per process. `start` before the first hint, `run` per hint, `begin_drain` at the end.

    Insert jobs are turns to all of this: they have a queue of their own, so that they run in processes of their own.
    Only who serves turns publishes what is served; who serves which queue says that it is alive there.

    Raises ConfigError for providers that cannot be built, metrics that cannot be served, and a store that is not as
    safe as the run config promises.
    """

    def __init__(self, *, settings: Settings, config: RunConfig, app: Celery) -> None:
        self.drain = Drain(grace_s=settings.drain_s)
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._queue = settings.queue
        self._client = connect(settings.redis_url)
        self._keys = Keys(settings.key_prefix)
        self._observer = build_observer(settings)
        self._files = RedisFiles(client=self._client, keys=self._keys, limits=FileLimits.of(config.limits))
        self._contents = _contents(config, self._files, is_needed=settings.queue == MEMORY_QUEUE)
        registrations = RegistrationStore(client=self._client, keys=self._keys)
        self._fleet = build_fleet(config, registrations, observer=self._observer, files=self._files)
        turns = config.turns
        log = TurnLog(
            client=self._client,
            keys=self._keys,
            lease_s=turns.lease_s,
            max_attempts=turns.max_attempts,
            input_timeout_s=turns.input_timeout_s,
            events_ttl_s=turns.events_ttl_s,
            durability=config.durability,
            confirming=connect(settings.redis_url),
        )
        self._session_banks = SessionBanks(
            client=self._client,
            keys=self._keys,
            memory=self._fleet.memory,
            banks=self._fleet.banks,
            config=config.documents,
        )
        self._store_check = StoreCheck(client=self._client, durability=config.durability)
        self._check_store()
        reader = LogReader(client=self._client, keys=self._keys)
        self._sessions = SessionStore(client=self._client, keys=self._keys, log=log)
        hints = Hints(app=app)
        self._journal = Journal(log=log, observer=self._observer)
        self._tools = TurnTools(
            log=log,
            reader=reader,
            journal=self._journal,
            history=History(sessions=self._sessions, archive=RedisArchive(reader=reader)),
            router=self._fleet.router,
            shields=Shields(find=self._fleet.catalog.shield),
            toolbox=Toolbox(find=self._fleet.catalog.tools),
            looking=Looking(
                retriever=Retriever(memory=self._fleet.searching, router=self._fleet.router),
                banks=self._session_banks,
                read=self._contents,
                context_tokens=config.documents.context_tokens,
                sessions=self._sessions,
                log=log,
                reader=reader,
                hints=hints,
                job_ttl_s=turns.session_ttl_s,
            ),
            inserter=Inserter(
                find=self._fleet.catalog.memory_bank,
                sessions=self._session_banks,
                embedder=Embedder(router=self._fleet.router),
                read=self._contents,
                observer=self._observer,
            )
            if self._contents is not None and settings.queue == MEMORY_QUEUE
            else None,
            hints=hints,
            observer=self._observer,
        )
        self._heartbeat = Heartbeat(
            redis_url=settings.redis_url,
            key_prefix=settings.key_prefix,
            lease_s=turns.lease_s,
            on_notice=self._on_notice,
        )
        self._reaper = Reaper(
            client=self._client,
            keys=self._keys,
            log=log,
            reader=reader,
            sessions=self._sessions,
            hints=hints,
            lease_s=turns.lease_s,
            observer=self._observer,
        )
        self._registry = RegistryStore(client=self._client, keys=self._keys, digest=config.digest)
        self._registrar = Registrar(
            sources=self._fleet.sources,
            store=self._registry,
            worker=self.name,
            queue=settings.queue,
            on_registry=self._fleet.catalog.update,
        )
        self._fleet.router.balancer.watch(self._registrar.look_again)
        self._running: dict[str, Interrupts] = {}
        self._signs_of_life: gevent.Greenlet | None = None

    def start(self) -> None:
        self._heartbeat.start()
        self._journal.start()
        self._signs_of_life = spawn_vital("registrar", self._registrar.run)
        spawn_vital("reaper", self._reaper.run)
        spawn_vital("store check", self._until_checked)
        spawn_vital("control", self._listen)
        if self._tools.inserter is not None:
            is_there = self._sessions.is_there
            spawn_vital("session banks", partial(self._session_banks.sweep_for_ever, is_there))

    def _check_store(self) -> bool:
        """Whether the store could be asked if it is as safe as the run config promises. Raises ConfigError."""
        try:
            self._store_check.require()
        except StoreError as error:
            logger.warning("durability is not checked yet: %s", error)
            return False
        return True

    def _until_checked(self) -> None:
        """What was away at the start is asked as soon as it answers."""
        try:
            while not self._check_store():
                gevent.sleep(_CHECK_AGAIN_S)
        except ConfigError as error:
            logger.critical("%s", error.message)
            logging.shutdown()
            os._exit(os.EX_CONFIG)

    def run(self, member: str) -> None:
        """Look at a turn: run it if it is there to be claimed, else forget the hint."""
        self._heartbeat.wait_ready()
        if member in self._running or is_job(member) != (self._tools.inserter is not None):
            return
        if self.drain.on:
            self.drain.give_back(partial(self._tools.hints.send, TurnRef.parse(member)))
            return
        # Before the claim: what is asked of the turn from now on finds it, and so does a second hint.
        interrupts = self._running[member] = Interrupts()
        ref = TurnRef.parse(member)
        try:
            with logs.bound(turn=ref.turn_id):
                self._look(ref, interrupts)
        finally:
            del self._running[member]

    def _look(self, ref: TurnRef, interrupts: Interrupts) -> None:
        try:
            claim = self._claim(ref)
        except (NotClaimable, StoreError) as refused:
            logger.debug("hint for turn %s: %s", ref.turn_id, refused)
            return
        self._heartbeat.hold(ref, claim.token)
        try:
            run = TurnRun(claim=claim, tools=self._tools, interrupts=interrupts)
            self._observer.claimed(claim, run.writer.state)
            try:
                run.run()
            finally:
                self._observer.left(claim)
        except (SchemaTooNew, Interrupt) as reason:
            self._give_back(claim, reason)
        except Unwritable as never:
            # Nor given back, or it would come again at once: its lease lapses, and that is counted.
            logger.error("turn %s cannot be read: %s", ref.turn_id, never)
        finally:
            self._heartbeat.drop(ref)

    def _give_back(self, claim: Claim, reason: BaseException) -> None:
        """Of a turn that could not even be begun."""
        logger.warning("turn %s goes back: %r", claim.ref.turn_id, reason)
        try:
            self._tools.log.release(claim.ref, token=claim.token)
        except StoreError as error:
            logger.warning("turn %s not released: %s", claim.ref.turn_id, error)
            return
        if isinstance(reason, Draining):
            self._tools.hints.send(claim.ref)

    def _claim(self, ref: TurnRef) -> Claim:
        """Claim, again with the same token where the reply was lost."""
        token, claimed_at = new_token(), now_iso()
        for pause in (*_CLAIM_RETRY_S, None):
            try:
                return self._tools.log.claim(ref, token=token, worker=self.name, claimed_at=claimed_at)
            except StoreError as error:
                logger.warning("claim of turn %s waits for the store: %s", ref.turn_id, error)
                if pause is None:
                    raise
                gevent.sleep(pause)
        raise AssertionError("unreachable")

    def interrupt(self, member: str, reason: Interrupt) -> None:
        """Stop a turn, if it runs here."""
        interrupts = self._running.get(member)
        if interrupts is not None:
            interrupts.ask(reason)

    def begin_drain(self) -> None:
        """Claim nothing any more, let each turn go at its next boundary or after the grace, and end the process."""
        for interrupts in list(self._running.values()):
            interrupts.ask_to_leave()
        self.drain.begin(self._leave)

    def _leave(self) -> None:
        self._say_farewell()
        if not self.drain.wait(self._is_idle, self.drain.grace_s):
            for interrupts in list(self._running.values()):
                interrupts.ask(Draining())
            self.drain.wait(self._is_idle, _RELEASE_S)
        self.drain.settle()
        self._tools.hints.flush(_RELEASE_S)
        with gevent.Timeout(_FAREWELL_S, False):
            self._heartbeat.stop()
            self._fleet.close()
            if self._contents is not None:
                self._contents.close()

    def _is_idle(self) -> bool:
        return not self._running

    def _say_farewell(self) -> None:
        """Turns that come from now on wait for others."""
        if self._signs_of_life is not None:
            self._signs_of_life.kill()
        try:
            with gevent.Timeout(_FAREWELL_S, False):
                self._registry.gone(self.name, queue=self._queue)
        except StoreError as error:
            logger.info("no farewell to the store: %s", error)

    def _on_notice(self, member: str, what: str) -> None:
        self.interrupt(member, LeaseLost() if what == "lost" else CancelAsked())

    def _listen(self) -> None:
        """Hear of cancels at once; what is missed while the store is away comes with the next renewal."""
        outage = Outage("cancel notices wait")
        while True:
            try:
                with self._client.pubsub(ignore_subscribe_messages=True) as pubsub:  # type: ignore[no-untyped-call]
                    pubsub.subscribe(self._keys.control)
                    outage.passed()
                    while True:
                        message = pubsub.get_message(timeout=4)
                        if message is not None:
                            self.interrupt(message["data"].decode(), CancelAsked())
            except (RedisError, OSError) as error:
                outage.failed(error)
                gevent.sleep(1)


def _contents(config: RunConfig, files: Files, *, is_needed: bool) -> Contents | None:
    """What reads documents; None where the libraries for it are missing, unless it is needed. Raises ConfigError."""
    try:
        return Contents(reader=DocumentReader(), files=files, allowed=Allowed.of(*config.fetching.allow))
    except ConfigError:
        if is_needed:
            raise
        return None
