"""`InMemoryStorage`: the default, and the storage of hosts' unit tests. Its transactions are real, in one process."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from heapq import merge
from typing import Self
from uuid import UUID

from uuid_utils.compat import uuid7 as stdlib_uuid7

from actionengine.concurrency.run_sync import Mode
from actionengine.context import Tenant
from actionengine.storage.clock import steady_now
from actionengine.storage.closing import CloseCallbacks
from actionengine.storage.lookups import ACTIVE_SCHEDULES, OPEN_APPROVALS, PENDING_APPROVALS, TRIGGER_DOCUMENTS
from actionengine.storage.memory.claims import Expiries
from actionengine.storage.memory.counters import CounterKey
from actionengine.storage.memory.outbox import MemoryOutbox, Queues
from actionengine.storage.memory.transaction import TenantData
from actionengine.storage.memory.unit_of_work import MemoryUnitOfWork
from actionengine.storage.memory.versions import Document, visible
from actionengine.storage.outbox import EVENTS, MAX_COUNTED_LAG, TRIGGERS, WORKFLOWS
from actionengine.storage.pages import page_of, page_size, page_start
from actionengine.storage.records import APPROVALS, time_of_id
from actionengine.storage.rows import MAX_BACKLOG, Backlog, IdempotentResult, StoredEvent
from actionengine.storage.tenants import check_tenant, slug_taken


class InMemoryStorage:
    """Storage in this process's memory, safe for threads and tasks. Its state lasts as long as the object."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tenants: dict[str, Tenant] = {}
        self._tenants_by_id: dict[UUID, Tenant] = {}
        self._slugs: list[str] = []
        self._expiries = Expiries[TenantData]()
        self._data: dict[UUID, TenantData] = {}
        self._queues = Queues()
        self._further_queues = {queue: Queues() for queue in (WORKFLOWS, TRIGGERS)}
        self._close_callbacks = CloseCallbacks()

    def unit_of_work(self, tenant: Tenant, action_id: str, mode: Mode, read_only: bool = False) -> MemoryUnitOfWork:
        """Return a unit of work of one tenant."""
        return MemoryUnitOfWork(self._data.get(tenant.id) or self._tenant_data(tenant.id), mode, read_only)

    def access_version(self, tenant_id: UUID) -> int:
        """Return the number of commits to the tenant's roles."""
        data = self._data.get(tenant_id)
        return data.access_version if data else 0

    async def find_tenant(self, slug: str, mode: Mode) -> Tenant | None:
        """Return the tenant of this slug."""
        tenant = self._tenants.get(slug)
        return None if tenant is None or self._is_deleted(tenant) else tenant

    async def find_tenant_by_id(self, id: UUID, mode: Mode) -> Tenant | None:
        """Return the tenant of this id."""
        tenant = self._tenants_by_id.get(id)
        return None if tenant is None or self._is_deleted(tenant) else tenant

    def create_tenant(self, *, slug: str, name: str) -> Tenant:
        """Create a tenant. Raise `ActionError`: `conflict` for a taken slug, `invalid_input` for a slug that is not
        lower-case letters, digits and hyphens (63 at most), or for an empty name."""
        check_tenant(slug, name)
        with self._lock:
            if slug in self._tenants:
                raise slug_taken(slug)
            tenant = self._tenants[slug] = Tenant(stdlib_uuid7(), slug)
            self._tenants_by_id[tenant.id] = tenant
            insort(self._slugs, slug)
        return tenant

    async def create_tenant_async(self, *, slug: str, name: str) -> Tenant:
        """Do the same under an event loop."""
        return self.create_tenant(slug=slug, name=name)

    def delete_tenant(self, *, slug: str) -> bool:
        """Close a tenant; return whether there was one."""
        tenant = self._tenants.get(slug)
        if tenant is None:
            return False
        data = self._tenant_data(tenant.id)
        with data.lock:
            was_there, data.is_deleted = not data.is_deleted, True
        if was_there:
            with self._lock:
                del self._slugs[bisect_left(self._slugs, slug)]
        return was_there

    async def delete_tenant_async(self, *, slug: str) -> bool:
        """Do the same under an event loop."""
        return self.delete_tenant(slug=slug)

    def list_tenants(self, *, after: str | None = None, limit: int | None = None) -> Sequence[Tenant]:
        """Return all tenants by slug, or a page of them: up to `limit` (1 000 at most) after the slug `after`."""
        after = page_start(after)
        with self._lock:
            start = bisect_right(self._slugs, after or "")
            end = len(self._slugs) if limit is None else start + page_size(limit)
            return [self._tenants[slug] for slug in self._slugs[start:end]]

    async def list_tenants_async(self, *, after: str | None = None, limit: int | None = None) -> Sequence[Tenant]:
        """Do the same under an event loop."""
        return self.list_tenants(after=after, limit=limit)

    def read_events(
        self, tenant: Tenant, *, after: int = 0, limit: int = 1000, types: Sequence[str] | None = None
    ) -> Sequence[StoredEvent]:
        """Return the tenant's events after a position, of these types or of all, in commit order."""
        start, size = max(0, after), page_size(limit)
        data = self._tenant_data(tenant.id)
        positions: Iterable[int] = range(start + 1, len(data.events) + 1)
        if types is not None:
            positions = merge(*(_after(start, data.positions.get(type, ())) for type in dict.fromkeys(types)))
        events = (StoredEvent(position, data.events[position - 1]) for position in positions)
        return list(page_of(((stored, len(stored.event.payload)) for stored in events), size, lambda _: ""))

    async def read_events_async(
        self, tenant: Tenant, *, after: int = 0, limit: int = 1000, types: Sequence[str] | None = None
    ) -> Sequence[StoredEvent]:
        """Do the same under an event loop."""
        return self.read_events(tenant, after=after, limit=limit, types=types)

    def count_events(
        self, tenant: Tenant, *, after: int = 0, limit: int = MAX_COUNTED_LAG, types: Sequence[str] | None = None
    ) -> int:
        """Return the number of the tenant's events after a position, of these types or of all; `limit` stands for that
        many or more."""
        data, start = self._tenant_data(tenant.id), max(0, after)
        if types is None:
            return min(limit, max(0, len(data.events) - start))
        each = (data.positions.get(type, []) for type in dict.fromkeys(types))
        return min(limit, sum(len(positions) - bisect_right(positions, start) for positions in each))

    async def count_events_async(
        self, tenant: Tenant, *, after: int = 0, limit: int = MAX_COUNTED_LAG, types: Sequence[str] | None = None
    ) -> int:
        """Do the same under an event loop."""
        return self.count_events(tenant, after=after, limit=limit, types=types)

    def outbox(self, mode: Mode, queue: str = EVENTS) -> MemoryOutbox:
        """Return a queue of the outbox, for one relay or operator."""
        return MemoryOutbox(self._queues if queue == EVENTS else self._further_queues[queue], mode, queue)

    async def backlog(self, mode: Mode) -> Backlog:
        """Return the work that waits for people or for its time, over all tenants."""
        now = OPEN_APPROVALS + steady_now().isoformat(timespec="microseconds")
        open: list[str] = []
        schedules = 0
        for data in list(self._data.values()):
            with data.lock:
                for id in data.index.ids((APPROVALS, PENDING_APPROVALS), None, False):
                    document = visible(data.collections[APPROVALS].get(id), data.sequence)
                    keys = document.keys if type(document) is Document else ()
                    if any(key.startswith(OPEN_APPROVALS) and key > now for key in keys):
                        open.append(id)
                for id in data.index.ids((TRIGGER_DOCUMENTS, ACTIVE_SCHEDULES), None, False):
                    document = visible(data.collections[TRIGGER_DOCUMENTS].get(id), data.sequence)
                    schedules += type(document) is Document and ACTIVE_SCHEDULES in document.keys
        oldest = time_of_id(min(open)) if open else None
        return Backlog(min(len(open), MAX_BACKLOG), oldest, min(schedules, MAX_BACKLOG))

    def purge_expired_keys(self, *, limit: int = 1000) -> int:
        """Delete up to `limit` expired idempotency keys and counters of budgets; return their number."""
        now = steady_now()
        purged = 0
        while purged < limit and (expired := self._expiries.next(now)) is not None:
            data, key = expired
            with data.lock:
                if type(key) is CounterKey:
                    purged += _purge_counter(data, key, now)
                    continue
                entry = data.claims.get(key)
                # A key that was claimed again has a new result, which expires later.
                if isinstance(entry, IdempotentResult) and entry.expires_at <= now:
                    del data.claims[key]
                    purged += 1
        return purged

    async def purge_expired_keys_async(self, *, limit: int = 1000) -> int:
        """Do the same under an event loop."""
        return self.purge_expired_keys(limit=limit)

    def call_on_close(self, callback: Callable[[], None]) -> None:
        """Register a bound method, called at each close as long as its object exists."""
        self._close_callbacks.call_on_close(callback)

    def close(self) -> None:
        """End the background work on this storage. The state stays."""
        self._close_callbacks.run()

    async def aclose(self) -> None:
        """Do the same under an event loop."""
        await self._close_callbacks.run_off_loop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    def _is_deleted(self, tenant: Tenant) -> bool:
        data = self._data.get(tenant.id)
        return data is not None and data.is_deleted

    def _tenant_data(self, tenant_id: UUID) -> TenantData:
        with self._lock:
            data = TenantData(tenant_id, self._queues, self._further_queues, self._expiries)
            return self._data.setdefault(tenant_id, data)


def _purge_counter(data: TenantData, key: CounterKey, now: datetime) -> bool:
    """Delete a counter if its window has ended. One that a unit of work uses is left to a later purge."""
    state = data.counters.get(key)
    if state is None or state.counter is None or state.counter.expires_at > now:
        return False
    if state.holds:
        data.expiries.add(now + timedelta(seconds=1), data, key)
        return False
    del data.counters[key]
    return True


def _after(start: int, positions: Sequence[int]) -> Iterator[int]:
    for index in range(bisect_right(positions, start), len(positions)):
        yield positions[index]
