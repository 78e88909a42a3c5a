"""An in-memory storage that suspends wherever a database would, as async backends do."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from actionengine import InMemoryStorage, Tenant
from actionengine.concurrency.run_sync import Mode
from actionengine.storage.memory.transaction import TenantData
from actionengine.storage.memory.unit_of_work import MemoryUnitOfWork
from actionengine.storage.rows import Claim, ClaimAnswer, Recording

T = TypeVar("T")


class SuspendingStorage(InMemoryStorage):
    """A storage that suspends; `units` contains all units of work that were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.units: list[SuspendingUnitOfWork] = []

    def unit_of_work(self, tenant: Tenant, action_id: str, mode: Mode, read_only: bool = False) -> MemoryUnitOfWork:
        unit = SuspendingUnitOfWork(self._tenant_data(tenant.id), mode, read_only)
        self.units.append(unit)
        return unit

    @property
    def left_open(self) -> int:
        """Return the number of used and unfinished units of work: each would keep a connection."""
        return sum(unit.used and not unit._ended for unit in self.units)


class SuspendingUnitOfWork(MemoryUnitOfWork):
    """A unit of work that lets other tasks run wherever a database would."""

    def __init__(self, data: TenantData, mode: Mode, read_only: bool) -> None:
        super().__init__(data, mode, read_only)
        self.used = False
        self._suspends = mode == "async"

    async def claim(self, claim: Claim, wait: float) -> ClaimAnswer:
        await self._give_way()
        answer = await super().claim(claim, wait)
        await self._give_way()
        return answer

    async def savepoint(self, read_only: bool = False) -> object:
        await self._give_way()
        return await super().savepoint(read_only)

    async def rollback_to(self, savepoint: object) -> None:
        await self._give_way()
        await super().rollback_to(savepoint)

    async def release(self, savepoint: object) -> None:
        await self._give_way()
        await super().release(savepoint)

    async def record(self, recording: Recording) -> None:
        await self._give_way()
        await super().record(recording)
        await self._give_way()

    async def commit(self) -> None:
        await self._give_way()
        await super().commit()
        await self._give_way()

    def run_sync(self, coroutine: Coroutine[Any, Any, T]) -> T:
        suspended, self._suspends = self._suspends, False
        try:
            return super().run_sync(coroutine)
        finally:
            self._suspends = suspended

    async def _give_way(self) -> None:
        self.used = True
        if self._suspends:
            await asyncio.sleep(0)
