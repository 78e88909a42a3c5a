"""Callers with keys, in threads and in tasks, while the network fails at random: each key acts once."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from examples.embedded_postgres import Database
from returns.result import Result, Success

from actionengine import ActionContext, Engine, PostgresStorage, Tenant
from actionengine.testing import SyncBackend
from tests.crash.ledger import request_of
from tests.crash.notes import notes_engine
from tests.crash.silent import GUARD, storage_through
from tests.faulty_proxy import CommitPoint, FaultyProxy

CALLERS = 3
POINTS: tuple[CommitPoint, ...] = ("before", "half", "after", "late")
HONEST = {"unavailable", "timeout", "conflict", "idempotency_in_progress"}


@pytest.fixture
def proxy(postgres_database: Database) -> Iterator[FaultyProxy]:
    with FaultyProxy.before_postgres(postgres_database.app_url) as proxy:
        yield proxy


@pytest.mark.soak
@pytest.mark.parametrize("faults", [4, 200])
def test_each_key_acts_once_while_the_network_fails(
    proxy: FaultyProxy, postgres_database: Database, faults: int
) -> None:
    dice = random.Random(faults)
    storage = storage_through(proxy, postgres_database, answer_timeout=2.0)
    callers = Callers(notes_engine(storage, put=keep), storage, SyncBackend(storage).tenant)
    with ThreadPoolExecutor(CALLERS + 1) as threads:
        work = [threads.submit(callers.in_thread, number) for number in range(CALLERS)]
        work.append(threads.submit(lambda: asyncio.run(callers.in_tasks())))
        try:
            for _ in range(faults):
                fail(proxy, dice)
                time.sleep(dice.uniform(0.0, 0.8))
                proxy.heal()
                time.sleep(dice.uniform(0.0, 0.3))
        finally:
            proxy.heal()
            callers.is_over.set()
        for each in work:
            each.result(4 * GUARD)
    storage.close()

    assert set(callers.codes) <= HONEST
    assert callers.slowest < GUARD
    with PostgresStorage(postgres_database.app_url) as direct:
        kept = Counter(keys_of(direct, callers.tenant))
    assert kept == Counter(callers.done)


def keep(data: dict[str, str], ctx: ActionContext) -> Result[None, Any]:
    ctx.records("notes").insert(data)
    return Success(None)


def keys_of(storage: PostgresStorage, tenant: Tenant) -> list[str]:
    backend = SyncBackend(storage)

    async def read() -> list[str]:
        keys: list[str] = []
        after = None
        async with backend.reading(tenant) as unit:
            while page := await unit.records("notes").list(limit=1000, after=after):
                keys += [record.data["key"] for record in page]
                after = page[-1].id
        return keys

    return backend.run(read())


class Callers:
    """Callers that each repeat a request until it succeeds, and then make the next one."""

    def __init__(self, engine: Engine, storage: PostgresStorage, tenant: Tenant) -> None:
        self.tenant = tenant
        self.done: list[str] = []
        self.codes: Counter[str] = Counter()
        self.slowest = 0.0
        self.is_over = threading.Event()
        self._engine = engine
        self._storage = storage

    def in_thread(self, number: int) -> None:
        while not self.is_over.is_set():
            key = f"thread {number} {uuid4()}"
            while True:
                begun = time.monotonic()
                answer = self._engine.execute_action("notes", "put", {"key": key}, self._request(key))
                if self._note(key, answer, begun):
                    break
                time.sleep(0.02)

    async def in_tasks(self) -> None:
        await asyncio.gather(*(self._in_task(number) for number in range(CALLERS)))
        await self._storage.aclose_loop()

    async def _in_task(self, number: int) -> None:
        while not self.is_over.is_set():
            key = f"task {number} {uuid4()}"
            while True:
                begun = time.monotonic()
                answer = await self._engine.execute_action_async("notes", "put", {"key": key}, self._request(key))
                if self._note(key, answer, begun):
                    break
                await asyncio.sleep(0.02)

    def _request(self, key: str) -> Any:
        return request_of(self.tenant, key)

    def _note(self, key: str, answer: Result[Any, Any], begun: float) -> bool:
        """Record an answer; return whether it is a success."""
        self.slowest = max(self.slowest, time.monotonic() - begun)
        if isinstance(answer, Success):
            self.done.append(key)
            return True
        self.codes[answer.failure().code.value] += 1
        return False


def fail(proxy: FaultyProxy, dice: random.Random) -> None:
    match dice.randrange(6):
        case 0:
            proxy.swallow(hang_ups_pass=dice.random() < 0.5)
        case 1:
            proxy.cut()
        case 2:
            proxy.refuse_new()
            proxy.cut()
        case 3:
            proxy.swallow_new("after login")
            proxy.swallow()
        case 4:
            proxy.delay = 0.05
        case _:
            point = dice.choice(POINTS)
            proxy.at_commit(
                point, "cut" if dice.random() < 0.5 else "swallow", hang_ups_pass=dice.random() < 0.5, delay=1.0
            )
