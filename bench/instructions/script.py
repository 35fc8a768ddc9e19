"""Counts what a store spends on one `append`: the whole of it, from the socket to the socket."""

import signal
import subprocess
import tempfile
import time
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from bench.instructions import callgrind
from bench.systems.processes import free_port
from shared.cli.binaries import find_binary
from shared.events import StepProgress, TurnCreated
from shared.ids import SessionRef, TurnRef
from shared.log.keys import Keys
from shared.log.sessions import Session, SessionStore
from shared.log.turn_log import TurnLog, Write
from shared.redis_client import connect

UNITS = 500
AT = "2026-01-01T00:00:00.000000Z"
START_S = 60.0


def count_append() -> int:
    """Instructions of the server per batch of one token."""
    once, twice = (_instructions(units) for units in (UNITS, 2 * UNITS))
    return round((twice - once) / UNITS)


def _instructions(units: int) -> int:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="instructions-") as folder:
        log = Path(folder) / "valgrind.log"
        command = [*callgrind.command(f"--log-file={log}"), str(find_binary().path),
                   "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "",
                   # Nothing that goes by the clock: it would be counted too.
                   "--hz", "1", "--dynamic-hz", "no", "--activerehashing", "no", "--io-threads", "1"]  # fmt: skip
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with connect(f"redis://127.0.0.1:{port}/0", socket_timeout=START_S) as client:
                _until_up(client)
                _append(client, units)
            server.send_signal(signal.SIGTERM)
            server.wait(START_S)
        finally:
            server.kill()
            server.wait()
        return callgrind.collected(log.read_text(), "append")


def _append(client: Redis, units: int) -> None:
    """A turn of so many tokens, each a batch. Ids are the same in each run: so is what is sent."""
    keys, session = Keys("ts"), SessionRef("default", "sess_07_0123456789abcdef01234567")
    ref = TurnRef(session.tenant, session.session_id, "turn_07_0123456789abcdef01234567")
    log = TurnLog(client=client, keys=keys)
    SessionStore(client=client, keys=keys, log=log).create(
        session, Session(session_id=ref.session_id, agent_id="agent_a", session_name="", started_at=AT)
    )
    created = TurnCreated(
        turn_id=ref.turn_id,
        session_id=ref.session_id,
        agent_id="agent_a",
        input_messages=[],
        documents=[],
        created_at=AT,
    )
    log.accept(ref, event=created, config={}, digest="")
    claim = log.claim(ref, token="0" * 16, worker="w1")
    text = StepProgress(step_type="inference", step_id="step_0", delta={"type": "text", "text": " word"})
    for last in range(claim.last, claim.last + units):
        log.append(Write(ref=ref, token=claim.token, last=last, private_last=claim.private_last, events=[text]))


def _until_up(client: Redis) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            client.ping()
            return
        except RedisError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
