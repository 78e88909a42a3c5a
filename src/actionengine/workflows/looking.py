"""Looks at documents from outside of any action: what the publisher and the agenda know of runs and triggers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from uuid_utils import uuid7

from actionengine.context import Tenant
from actionengine.storage.port import AsyncRecords, Mode, Record, Storage

_PAGE = 1000


async def find(storage: Storage, tenant: Tenant, collection: str, id: str, mode: Mode) -> Record | None:
    """A tenant's document, or None."""
    async with _opened(storage, tenant, collection, mode) as records:
        return await records.get(id)


async def find_all(
    storage: Storage, tenant: Tenant, collection: str, filter: Mapping[str, Any], mode: Mode
) -> AsyncIterator[Record]:
    """A tenant's documents that are as the filter says, by id. Between two pages nothing is held open."""
    after: str | None = None
    while True:
        async with _opened(storage, tenant, collection, mode) as records:
            page = await records.list(filter, _PAGE, after)
        for record in page:
            yield record
        if len(page) < _PAGE:
            return
        after = page[-1].id


@asynccontextmanager
async def _opened(storage: Storage, tenant: Tenant, collection: str, mode: Mode) -> AsyncIterator[AsyncRecords]:
    unit_of_work = storage.unit_of_work(tenant, str(uuid7()), mode, read_only=True)
    try:
        yield unit_of_work.records(collection)
    finally:
        await unit_of_work.rollback()
