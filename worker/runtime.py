"""Everything a worker process holds, and the turns that it runs."""

import logging
import os
import socket
import time

import gevent
from celery import Celery
from redis.exceptions import RedisError

from shared.errors import SchemaTooNew, StoreError
from shared.hints import Hints
from shared.ids import TurnRef, new_token
from shared.log.archive import RedisArchive
from shared.log.keys import Keys
from shared.log.reader import LogReader
from shared.log.sessions import SessionStore
from shared.log.turn_log import Claim, NotClaimable, TurnLog
from shared.redis_client import connect
from shared.registry import RegistryStore
from shared.runconfig import RunConfig
from shared.runconfig.secrets import mask
from shared.settings import Settings
from worker.heartbeat import Heartbeat
from worker.history import History
from worker.interrupts import CancelAsked, Draining, Interrupt, LeaseLost
from worker.journal import Journal
from worker.providers.inference import InferenceProvider
from worker.reaper import Reaper
from worker.registrar import Registrar
from worker.router import Router
from worker.turn import TurnRun, TurnTools
from worker.vital import spawn_vital

logger = logging.getLogger(__name__)

_CLAIM_RETRY_S = (0.1, 0.5, 1.0)
_DRAIN_S = 3.0


class Runtime:
    """One per process. `start` before the first hint, `run` per hint, `drain` at the end."""

    def __init__(
        self, *, settings: Settings, config: RunConfig, providers: dict[str, InferenceProvider], app: Celery
    ) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._client = connect(settings.redis_url)
        self._keys = Keys(settings.key_prefix)
        self._providers = providers
        turns = config.turns
        log = TurnLog(
            client=self._client,
            keys=self._keys,
            lease_s=turns.lease_s,
            max_attempts=turns.max_attempts,
            input_timeout_s=turns.input_timeout_s,
            events_ttl_s=turns.events_ttl_s,
        )
        reader = LogReader(client=self._client, keys=self._keys)
        sessions = SessionStore(client=self._client, keys=self._keys, log=log)
        hints = Hints(app=app)
        router = Router(providers=providers)
        self._journal = Journal(log=log)
        self._tools = TurnTools(
            log=log,
            reader=reader,
            journal=self._journal,
            history=History(sessions=sessions, archive=RedisArchive(reader=reader)),
            router=router,
            hints=hints,
        )
        self._heartbeat = Heartbeat(
            redis_url=settings.redis_url,
            key_prefix=settings.key_prefix,
            lease_s=turns.lease_s,
            on_notice=self._on_notice,
        )
        self._reaper = Reaper(
            client=self._client, keys=self._keys, log=log, reader=reader, sessions=sessions, hints=hints
        )
        self._registry = RegistryStore(client=self._client, keys=self._keys, digest=config.digest)
        self._registrar = Registrar(
            providers=providers,
            configs={i.provider_id: mask(i.config) for i in config.providers.inference},
            store=self._registry,
            worker=self.name,
            on_models=router.update,
        )
        self._running: dict[str, tuple[gevent.Greenlet, TurnRun]] = {}
        self._draining = False

    def start(self) -> None:
        self._heartbeat.start()
        self._journal.start()
        spawn_vital("registrar", self._registrar.run)
        spawn_vital("reaper", self._reaper.run)
        spawn_vital("control", self._listen)

    def run(self, member: str) -> None:
        """Look at a turn: run it if it is there to be claimed, else forget the hint."""
        ref = TurnRef.parse(member)
        self._registrar.wait_until_known()
        if self._draining or member in self._running:
            return
        try:
            claim = self._claim(ref)
        except (NotClaimable, StoreError) as refused:
            logger.debug("hint for turn %s: %s", ref.turn_id, refused)
            return
        if self._draining:  # told so while the claim was on its way
            self._tools.log.release(ref, token=claim.token)
            return
        try:
            turn = TurnRun(claim=claim, tools=self._tools)
        except (StoreError, SchemaTooNew) as error:
            logger.warning("turn %s cannot be read, it goes back: %s", ref.turn_id, error)
            self._tools.log.release(ref, token=claim.token)
            return
        self._hold(turn, claim)

    def _hold(self, turn: TurnRun, claim: Claim) -> None:
        member = claim.ref.member
        self._running[member] = (gevent.getcurrent(), turn)
        self._heartbeat.hold(claim.ref, claim.token)
        turn.writer.on_cancel(lambda: self.interrupt(member, CancelAsked()))
        try:
            turn.run()
        except LeaseLost:
            logger.info("turn %s has another owner now, or has ended", claim.ref.turn_id)
        finally:
            self._heartbeat.drop(claim.ref)
            del self._running[member]

    def _claim(self, ref: TurnRef) -> Claim:
        """Claim, again with the same token where the reply was lost."""
        token = new_token()
        for pause in _CLAIM_RETRY_S:
            try:
                return self._tools.log.claim(ref, token=token, worker=self.name)
            except StoreError as error:
                logger.warning("claim of turn %s waits for the store: %s", ref.turn_id, error)
                gevent.sleep(pause)
        return self._tools.log.claim(ref, token=token, worker=self.name)

    def interrupt(self, member: str, reason: Interrupt) -> None:
        """Throw into a running turn, unless it is already writing its end."""
        greenlet, turn = self._running.get(member, (None, None))
        if greenlet is not None and turn is not None and turn.interruptible:
            greenlet.kill(reason, block=False)

    def drain(self) -> None:
        """Claim nothing any more, give the running turns back, and end the process."""
        self._draining = True
        for member in list(self._running):
            self.interrupt(member, Draining())
        gevent.spawn(self._leave)

    def _leave(self) -> None:
        """Not through Celery's own shutdown, which sits out a poll of two seconds; it has nothing to save for us."""
        deadline = time.monotonic() + _DRAIN_S
        while self._running and time.monotonic() < deadline:
            gevent.sleep(0.02)
        try:
            self._registry.gone(self.name)
        except StoreError as error:
            logger.info("no farewell to the store: %s", error)
        self._heartbeat.stop()
        for provider in self._providers.values():
            provider.close()
        logging.shutdown()
        os._exit(0)

    def _on_notice(self, member: str, what: str) -> None:
        self.interrupt(member, LeaseLost() if what == "lost" else CancelAsked())

    def _listen(self) -> None:
        """Hear of cancels at once; what is missed while the store is away comes with the next renewal."""
        while True:
            try:
                pubsub = self._client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
                pubsub.subscribe(self._keys.control)
                while True:
                    message = pubsub.get_message(timeout=4)
                    if message is not None:
                        self.interrupt(message["data"].decode(), CancelAsked())
            except (RedisError, OSError) as error:
                logger.warning("cancel notices wait for the store: %s", error)
                gevent.sleep(1)
