"""Looks at documents from outside of any action: what the publisher and the agenda know of runs and triggers."""

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

_PAGE = 1000


async def find(storage: Storage, tenant: Tenant, collection: str, id: str, mode: Mode) -> Record | None:
    """A tenant's document, or None."""
    async with _opened(storage, tenant, mode) as unit_of_work:
        return await unit_of_work.records(collection).get(id)


async def load_now(storage: Storage, tenant: Tenant, mode: Mode) -> datetime:
    """Return the time by the storage's clock."""
    async with _opened(storage, tenant, mode) as unit_of_work:
        return await unit_of_work.now()


async def seconds_left(storage: Storage, tenant: Tenant, approval_id: str, mode: Mode) -> float | None:
    """Return the seconds until an approval expires, by the storage's clock; None for one that is not pending."""
    async with _opened(storage, tenant, mode) as unit_of_work:
        pending = await find_approval(unit_of_work.records(APPROVALS), approval_id)
        if pending is None or pending.status != "pending":
            return None
        return max(0.0, (pending.expires_at - await unit_of_work.now()).total_seconds())


async def find_all(
    storage: Storage, tenant: Tenant, collection: str, filter: Mapping[str, Any], mode: Mode
) -> AsyncIterator[Record]:
    """A tenant's documents that are as the filter says, by id. Between two pages nothing is held open."""
    after: str | None = None
    while True:
        async with _opened(storage, tenant, mode) as unit_of_work:
            page = await unit_of_work.records(collection).list(filter, _PAGE, after)
        for record in page:
            yield record
        if page.next is None:
            return
        after = page.next


@asynccontextmanager
async def _opened(storage: Storage, tenant: Tenant, mode: Mode) -> AsyncIterator[UnitOfWork]:
    unit_of_work = storage.unit_of_work(tenant, str(uuid7()), mode, read_only=True)
    try:
        yield unit_of_work
    finally:
        await unit_of_work.rollback()
