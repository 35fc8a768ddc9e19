"""Those who put documents into memory: they send insert jobs, follow and cancel them, and make a bank anew."""

import asyncio
import random
import time
from collections.abc import Sequence
from uuid import uuid4

from chaos.clients import Clients
from chaos.evidence import Evidence, Inserted, Renewal
from chaos.memory_plans import MEANINGS, PASSING, WORDS, JobPlan, bank

_GONE = b"memory_bank_not_found"


class Inserts:
    """The insert jobs of a run, sent and followed by means of its `clients`."""

    def __init__(self, *, clients: Clients, evidence: Evidence, seed: int) -> None:
        self._clients = clients
        self._evidence = evidence
        self._chance = random.Random(f"inserts {seed}")

    async def open(self) -> None:
        """Register the banks."""
        for name in (MEANINGS, WORDS, PASSING):
            await self._make(name)

    async def burst(self, plans: Sequence[JobPlan]) -> None:
        """Jobs that are sent at once, until all of them have ended in the eyes of their readers."""
        await asyncio.gather(*(self._job(plan) for plan in plans))

    async def renew(self) -> None:
        """Delete the bank that passes, and make it anew."""
        renewal = Renewal(bank_id=PASSING, delete_asked=time.time())
        self._evidence.renewals.append(renewal)
        # One that is asked for again, since its answer was lost, finds that it is done.
        await self._clients.answered("DELETE", f"/v1/memory-banks/{PASSING}", fine=(204, 404))
        renewal.deleted = time.time()
        await asyncio.sleep(self._chance.choice((0.0, 0.2, 1.0)))
        renewal.make_asked = time.time()
        await self._make(PASSING)
        renewal.made = time.time()

    async def _make(self, name: str) -> None:
        await self._clients.answered("POST", "/v1/memory-banks", body=bank(name))

    async def _job(self, plan: JobPlan) -> None:
        await asyncio.sleep(self._chance.choice((0.0, 0.0, 0.1, 0.4)))
        job, key = Inserted(key=plan.key, turn_id="", at=0.0, tries=0, bank_id=plan.bank_id, documents=[]), uuid4().hex
        tries: list[int] = []
        job.turn_id = await self._sent(plan, key, tries)
        job.at, job.tries = time.time(), len(tries)
        # Of documents with one id the last one counts.
        job.documents = list({document.document_id: document.as_json() for document in plan.documents}.values())
        self._evidence.jobs.append(job)
        self._clients.active[job.turn_id] = job
        doings = self._clients.readers(job)
        if self._chance.random() < 0.12:
            doings.append(self._clients.cancel(job))
        if self._chance.random() < 0.2:
            doings.append(self._send_again(plan, key, job))
        await asyncio.gather(*doings)

    async def _sent(self, plan: JobPlan, key: str, tries: list[int]) -> str:
        """The job's id. While its bank is being made anew there is nobody to take it: then it is sent again."""
        later = _GONE if plan.bank_id == PASSING else None
        reply = await self._clients.answered(
            "POST", "/v1/memory/insert", body=plan.body(), key=key, tries=tries, later=later
        )
        job_id: str = reply.json()["job_id"]
        return job_id

    async def _send_again(self, plan: JobPlan, key: str, job: Inserted) -> None:
        await asyncio.sleep(self._chance.uniform(0.0, 4.0))
        job.again.append(await self._sent(plan, key, []))
