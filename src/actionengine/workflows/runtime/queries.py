"""Reads of a tenant's documents outside of any action, for the publisher, the scheduler and the executor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from uuid_utils import uuid7

from actionengine.concurrency.run_sync import Mode
from actionengine.context import Tenant
from actionengine.pipeline.pending_approval import find_approval
from actionengine.storage.port import Storage, UnitOfWork
from actionengine.storage.records import APPROVALS
from actionengine.storage.rows import Record

_PAGE_SIZE = 1000


class Queries:
    """Reads of a storage in one mode."""

    def __init__(self, storage: Storage, mode: Mode) -> None:
        self._storage = storage
        self._mode = mode

    async def find(self, tenant: Tenant, collection: str, id: str) -> Record | None:
        """Return a document, or None."""
        async with self._open(tenant) as unit_of_work:
            return await unit_of_work.records(collection).get(id)

    async def find_all(self, tenant: Tenant, collection: str, filter: Mapping[str, Any]) -> AsyncIterator[Record]:
        """Yield the documents that match the filter, by id. Between two pages no transaction is open."""
        after: str | None = None
        while True:
            async with self._open(tenant) as unit_of_work:
                page = await unit_of_work.records(collection).list(filter, _PAGE_SIZE, after)
            for record in page:
                yield record
            if page.next is None:
                return
            after = page.next

    async def now(self, tenant: Tenant) -> datetime:
        """Return the time by the storage's clock."""
        async with self._open(tenant) as unit_of_work:
            return await unit_of_work.now()

    async def seconds_left(self, tenant: Tenant, approval_id: str) -> float | None:
        """Return the seconds until an approval expires, by the storage's clock; None if it is not pending."""
        async with self._open(tenant) as unit_of_work:
            pending = await find_approval(unit_of_work.records(APPROVALS), approval_id)
            if pending is None or pending.status != "pending":
                return None
            return max(0.0, (pending.expires_at - await unit_of_work.now()).total_seconds())

    @asynccontextmanager
    async def _open(self, tenant: Tenant) -> AsyncIterator[UnitOfWork]:
        unit_of_work = self._storage.unit_of_work(tenant, str(uuid7()), self._mode, read_only=True)
        try:
            yield unit_of_work
        finally:
            await unit_of_work.rollback()
