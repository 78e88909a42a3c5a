"""`InMemoryStorage`: the default, and what hosts run their unit tests on.

Real transactions, kept in one process. A unit of work reads a snapshot (the versions that were committed when it
first read) and buffers its writes; a write locks its document until the end, and refuses at once, as `conflict`, where
another unit of work holds the lock or has committed since. So the first writer wins, nobody waits for a document, and
no deadlock is possible. Two things are waited for, for a bounded time: an idempotency key that is being used, and rows
that are to be locked before they are read.

Multi-version reads after Bernstein, Hadzilacos, Goodman, "Concurrency Control and Recovery in Database Systems", ch. 5.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heappop, heappush, merge
from itertools import count, islice
from operator import attrgetter
from time import monotonic
from typing import Any, NamedTuple, Self, TypeVar
from uuid import UUID

from uuid_utils import uuid7
from uuid_utils.compat import uuid7 as stdlib_uuid7

from actionengine.concurrency.one_shot_event import OneShotEvent
from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.context import Tenant
from actionengine.errors import ActionError, ErrorCode
from actionengine.storage.clock import steady_now
from actionengine.storage.closing import CloseCallbacks
from actionengine.storage.errors import SerializationFailure, StorageError
from actionengine.storage.lookups import (
    ACTIVE_SCHEDULES,
    LOOKUPS,
    OPEN_APPROVALS,
    PENDING_APPROVALS,
    TRIGGER_DOCUMENTS,
    key_of_filter,
    keys_of,
)
from actionengine.storage.memory.index import Index, Keys, Place
from actionengine.storage.memory.outbox import MemoryOutbox, Queues
from actionengine.storage.memory.rows import TABLES, MemoryRows, Stored, entries_of, id_of
from actionengine.storage.outbox import EVENTS, MAX_COUNTED_LAG, TRIGGERS, WORKFLOWS
from actionengine.storage.pages import MAX_PAGE, Page, page_of, page_size, page_start
from actionengine.storage.records import (
    APPROVALS,
    ROLE_COLLECTIONS,
    check_id,
    decode_document,
    encode_document,
    id_conflict,
    matches,
    normal_filter,
    not_found,
    time_of_id,
    version_conflict,
)
from actionengine.storage.rows import (
    CLAIMED,
    MAX_BACKLOG,
    Backlog,
    Claim,
    ClaimAnswer,
    EventRow,
    IdempotentResult,
    LogQuery,
    LogRow,
    Record,
    Recording,
    StoredEvent,
)
from actionengine.storage.scopes import Scope, Scopes
from actionengine.storage.tables import Table
from actionengine.storage.tenants import check_tenant, slug_taken, tenant_deleted

T = TypeVar("T")

Key = tuple[str, str]
"""(collection, id) of a document, or (action, key) of a claim."""

Item = Any
"""What a collection has under an id: a `Document`; in the library's own tables a row. Nobody changes it."""

_LOCK_TIMEOUT = 10.0
"""Seconds that somebody who locks rows waits for whoever has locked them."""


class Document(NamedTuple):
    """A document as stored: JSON, so that no two readers share an object. It is found under its `keys`."""

    version: int
    data: bytes
    created_at: datetime
    updated_at: datetime
    keys: Keys = ()


class Version:
    """One committed state of a document (None: deleted), and the one before it while somebody may still read that."""

    __slots__ = ("document", "previous", "sequence")

    def __init__(self, sequence: int, document: Item | None, previous: Version | None) -> None:
        self.sequence = sequence
        self.document = document
        self.previous = previous


class ClaimHolder:
    """A key that a running unit of work has claimed; whoever waits for it is called when it ends."""

    __slots__ = ("before", "owner", "waiters")

    def __init__(self, owner: MemoryUnitOfWork, before: IdempotentResult | None) -> None:
        self.owner = owner
        self.before = before
        self.waiters: list[Callable[[], object]] = []


class Expiries:
    """When the used keys of all tenants expire."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: list[tuple[datetime, int, TenantData, Key]] = []
        self._number = count()

    def add(self, at: datetime, data: TenantData, key: Key) -> None:
        """Note when a key expires."""
        with self._lock:
            heappush(self._times, (at, next(self._number), data, key))

    def next(self, now: datetime) -> tuple[TenantData, Key] | None:
        """Take out the key that has expired first; None where none has."""
        with self._lock:
            if not self._times or self._times[0][0] > now:
                return None
            _, _, data, key = heappop(self._times)
        return data, key


@dataclass(slots=True, eq=False)
class TenantData:
    """All that one tenant has. A unit of work holds its own tenant's, and so can reach no other's."""

    queues: Queues
    further_queues: Mapping[str, Queues]
    expiries: Expiries
    lock: threading.RLock = field(default_factory=threading.RLock)
    is_deleted: bool = False
    sequence: int = 0
    access_version: int = 0
    collections: dict[str, dict[str, Version]] = field(default_factory=dict)
    index: Index = field(default_factory=Index)
    tombstones: list[Key] = field(default_factory=list)
    locks: dict[Key, MemoryUnitOfWork] = field(default_factory=dict)
    snapshots: dict[MemoryUnitOfWork, int] = field(default_factory=dict)
    claims: dict[Key, ClaimHolder | IdempotentResult] = field(default_factory=dict)
    # By id.
    log: list[LogRow] = field(default_factory=list)
    # The position of an event in its tenant's log is its index here, counted from 1.
    events: list[EventRow] = field(default_factory=list)
    # Those of each type.
    positions: dict[str, list[int]] = field(default_factory=dict)


class InMemoryStorage:
    """Storage in this process's memory, safe under threads and tasks. It keeps everything until it is dropped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tenants: dict[str, Tenant] = {}
        self._tenants_by_id: dict[UUID, Tenant] = {}
        self._slugs: list[str] = []
        self._expiries = Expiries()
        self._data: dict[UUID, TenantData] = {}
        self._queues = Queues()
        self._further_queues = {queue: Queues() for queue in (WORKFLOWS, TRIGGERS)}
        self._close_callbacks = CloseCallbacks()

    def unit_of_work(self, tenant: Tenant, action_id: str, mode: Mode, read_only: bool = False) -> MemoryUnitOfWork:
        """A unit of work of one tenant."""
        return MemoryUnitOfWork(self._data.get(tenant.id) or self._tenant_data(tenant.id), mode, read_only)

    def access_version(self, tenant_id: UUID) -> int:
        """How many commits have touched the tenant's roles."""
        data = self._data.get(tenant_id)
        return data.access_version if data else 0

    async def find_tenant(self, slug: str, mode: Mode) -> Tenant | None:
        """The tenant of this slug."""
        tenant = self._tenants.get(slug)
        return None if tenant is None or self._is_deleted(tenant) else tenant

    async def find_tenant_by_id(self, id: UUID, mode: Mode) -> Tenant | None:
        """The tenant of this id."""
        tenant = self._tenants_by_id.get(id)
        return None if tenant is None or self._is_deleted(tenant) else tenant

    def create_tenant(self, *, slug: str, name: str) -> Tenant:
        """Make a tenant. Raises `ActionError`: `conflict` for a taken slug, `invalid_input` for one that is not
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
        """The same."""
        return self.create_tenant(slug=slug, name=name)

    def delete_tenant(self, *, slug: str) -> bool:
        """Close a tenant; whether there was one."""
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
        """The same."""
        return self.delete_tenant(slug=slug)

    def list_tenants(self, *, after: str | None = None, limit: int | None = None) -> Sequence[Tenant]:
        """All tenants, by slug; or a page of them: up to `limit` (1 000 at most) after the slug `after`."""
        after = page_start(after)
        with self._lock:
            start = bisect_right(self._slugs, after or "")
            end = len(self._slugs) if limit is None else start + page_size(limit)
            return [self._tenants[slug] for slug in self._slugs[start:end]]

    async def list_tenants_async(self, *, after: str | None = None, limit: int | None = None) -> Sequence[Tenant]:
        """The same."""
        return self.list_tenants(after=after, limit=limit)

    def read_events(
        self, tenant: Tenant, *, after: int = 0, limit: int = 1000, types: Sequence[str] | None = None
    ) -> Sequence[StoredEvent]:
        """The tenant's events after a position, of these types or of all, in commit order."""
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
        """The same."""
        return self.read_events(tenant, after=after, limit=limit, types=types)

    def count_events(
        self, tenant: Tenant, *, after: int = 0, limit: int = MAX_COUNTED_LAG, types: Sequence[str] | None = None
    ) -> int:
        """Return how many of the tenant's events there are after a position, of these types or of all; `limit` stands
        for that many or more."""
        data, start = self._tenant_data(tenant.id), max(0, after)
        if types is None:
            return min(limit, max(0, len(data.events) - start))
        each = (data.positions.get(type, []) for type in dict.fromkeys(types))
        return min(limit, sum(len(positions) - bisect_right(positions, start) for positions in each))

    async def count_events_async(
        self, tenant: Tenant, *, after: int = 0, limit: int = MAX_COUNTED_LAG, types: Sequence[str] | None = None
    ) -> int:
        """The same."""
        return self.count_events(tenant, after=after, limit=limit, types=types)

    def outbox(self, mode: Mode, queue: str = EVENTS) -> MemoryOutbox:
        """A queue of the outbox, for one relay or operator."""
        return MemoryOutbox(self._queues if queue == EVENTS else self._further_queues[queue], mode, queue)

    async def backlog(self, mode: Mode) -> Backlog:
        """Return what waits for people, and for its time, over all tenants."""
        now = OPEN_APPROVALS + steady_now().isoformat(timespec="microseconds")
        open: list[str] = []
        schedules = 0
        for data in list(self._data.values()):
            with data.lock:
                for id in data.index.ids((APPROVALS, PENDING_APPROVALS), None, False):
                    document = _visible(data.collections[APPROVALS].get(id), data.sequence)
                    keys = document.keys if type(document) is Document else ()
                    if any(key.startswith(OPEN_APPROVALS) and key > now for key in keys):
                        open.append(id)
                for id in data.index.ids((TRIGGER_DOCUMENTS, ACTIVE_SCHEDULES), None, False):
                    document = _visible(data.collections[TRIGGER_DOCUMENTS].get(id), data.sequence)
                    schedules += type(document) is Document and ACTIVE_SCHEDULES in document.keys
        oldest = time_of_id(min(open)) if open else None
        return Backlog(min(len(open), MAX_BACKLOG), oldest, min(schedules, MAX_BACKLOG))

    def purge_expired_keys(self, *, limit: int = 1000) -> int:
        """Forget up to `limit` expired idempotency keys; how many there were."""
        now = steady_now()
        purged = 0
        while purged < limit and (expired := self._expiries.next(now)) is not None:
            data, key = expired
            with data.lock:
                entry = data.claims.get(key)
                # Where the key was claimed again meanwhile, its new result expires later.
                if isinstance(entry, IdempotentResult) and entry.expires_at <= now:
                    del data.claims[key]
                    purged += 1
        return purged

    async def purge_expired_keys_async(self, *, limit: int = 1000) -> int:
        """The same."""
        return self.purge_expired_keys(limit=limit)

    def call_on_close(self, callback: Callable[[], None]) -> None:
        """Call a bound method at each close, as long as its object exists."""
        self._close_callbacks.call_on_close(callback)

    def close(self) -> None:
        """End what works on the storage in the background. The state stays."""
        self._close_callbacks.run()

    async def aclose(self) -> None:
        """The same under an event loop."""
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
            return self._data.setdefault(tenant_id, TenantData(self._queues, self._further_queues, self._expiries))


class MemoryUnitOfWork:
    """One transaction of one tenant."""

    __slots__ = (
        "_claims",
        "_data",
        "_ended",
        "_is_driven",
        "_journal",
        "_locked",
        "_mode",
        "_read_at",
        "_read_only",
        "_recordings",
        "_scopes",
        "_waiters",
        "_waits_for",
        "_writes",
    )

    def __init__(self, data: TenantData, mode: Mode, read_only: bool) -> None:
        self._data = data
        self._mode = mode
        self._read_only = read_only
        self._ended = False
        self._is_driven = False
        self._waits_for: MemoryUnitOfWork | None = None
        self._read_at: int | None = None
        self._recordings: list[Recording] = []
        self._claims: list[Key] = []
        self._locked: list[Key] = []
        self._waiters: list[Callable[[], object]] = []
        self._writes: dict[Key, Item | None] = {}
        self._journal: list[tuple[Key, bool, Item | None]] = []
        self._scopes = Scopes()

    # Idempotency keys

    async def now(self) -> datetime:
        """Return the time by the clock of this process."""
        self._check_open()
        return steady_now()

    async def claim(self, claim: Claim, wait: float) -> ClaimAnswer:
        """Claim a key, waiting up to `wait` seconds for another unit of work that holds it."""
        key = (claim.action, claim.key)
        data = self._data
        deadline = 0.0
        while True:
            with data.lock:
                self._check_open()
                entry = data.claims.get(key)
                if not isinstance(entry, ClaimHolder):
                    if entry is not None and not _can_claim(entry, claim):
                        return _answer(entry, claim)
                    data.claims[key] = ClaimHolder(self, entry)
                    self._claims.append(key)
                    return CLAIMED
                if not deadline:
                    deadline = monotonic() + wait
                remaining = deadline - monotonic()
                if remaining <= 0 or entry.owner is self:
                    return ClaimAnswer("in_progress")
                ended = OneShotEvent(self._mode)
                entry.waiters.append(ended.set)
            await ended.wait(remaining)

    # Documents and rows

    def records(self, collection: str) -> MemoryRecords:
        """The collection as this transaction sees it."""
        return MemoryRecords(self, collection)

    def rows(self, table: Table) -> MemoryRows:
        """The rows of one of the library's own tables, as this transaction sees them."""
        return MemoryRows(self, table)

    @property
    def alone(self) -> AbstractContextManager[object]:
        """A lock that keeps the handler's other threads out while a step is done in one piece. Nothing waits inside."""
        return self._data.lock

    def read(self, key: Key) -> Item | None:
        """A document as of the snapshot, with this transaction's own writes on top."""
        with self._data.lock:
            self._check_usable()
            snapshot = self._snapshot()
            if key in self._writes:
                return self._writes[key]
            return _visible(self._data.collections.get(key[0], {}).get(key[1]), snapshot)

    def listed(
        self, collection: str, key: str | None, size: int, after: str | None, descending: bool
    ) -> list[tuple[str, Document]]:
        """Return up to `size` documents of a collection, all or those under a key, by id, as `read` would see each."""
        data, writes = self._data, self._writes
        with data.lock:
            self._check_usable()
            snapshot = self._snapshot()
            versions = data.collections.get(collection, {})
            own = sorted(
                id
                for (written_in, id), document in writes.items()
                if written_in == collection and document is not None
                if not after or (id < after if descending else id > after)
            )
            listed = data.index.ids((collection, key), after, descending)
            committed = (id for id in listed if (collection, id) not in writes)
            ids = merge(committed, own[::-1] if descending else own, reverse=descending)
            found = ((id, writes.get((collection, id)) or _visible(versions.get(id), snapshot)) for id in ids)
            wanted = ((id, document) for id, document in found if document and (key is None or key in document.keys))
            return list(islice(wanted, size))

    def scan(self, collection: str) -> dict[str, Item]:
        """All documents or rows of a collection, by id, as `read` would see each."""
        with self._data.lock:
            self._check_usable()
            snapshot = self._snapshot()
            versions = list(self._data.collections.get(collection, {}).items())
            found = {id: document for id, version in versions if (document := _visible(version, snapshot))}
            for (written_in, id), written in self._writes.items():
                if written_in == collection:
                    found.pop(id, None)
                    if written is not None:
                        found[id] = written
        return found

    def rows_at(
        self,
        table: Table,
        key: str | None,
        after: str | None,
        before: str | None,
        size: int | None,
        is_wanted: Callable[[Stored], bool],
    ) -> list[Stored]:
        """Return up to `size` rows of a table, all or those under a key, in the order of their entries, after one and
        before another, as `read` would see each."""
        data, writes, name = self._data, self._writes, table.name
        with data.lock:
            self._check_usable()
            snapshot = self._snapshot()
            versions = data.collections.get(name, {})
            own = {
                entry: row
                for (written_in, _), row in writes.items()
                if written_in == name and row is not None
                for entry_key, entry in entries_of(name, row)
                if entry_key == key and (after is None or entry > after)
            }

            def rows() -> Iterator[Stored]:
                committed = data.index.ids((name, key), after, False)
                entries = ((entry, id_of(table, entry)) for entry in committed)
                listed = (entry for entry, id in entries if (name, id) not in writes)
                for entry in merge(listed, sorted(own)):
                    if before is not None and entry >= before:
                        return
                    row = own.get(entry)
                    if row is None:
                        row = _visible(versions.get(id_of(table, entry)), snapshot)
                        if row is None or (key, entry) not in entries_of(name, row):
                            continue
                    if is_wanted(row):
                        yield row

            return list(islice(rows(), size))

    def check_writable(self, collection: str) -> None:
        """Raises `ActionError(internal)` for a read-only unit of work."""
        if self._read_only:
            raise ActionError(ErrorCode.INTERNAL, f"a read-only action cannot write to {collection!r}")

    def lock(self, key: Key) -> Item | None:
        """Lock a document for writing and give its newest state. Raises `conflict` while another holds the lock."""
        self.check_writable(key[0])
        with self._data.lock:
            self._check_usable()
            if self._lock_all([key]) is not None:
                raise ActionError(
                    ErrorCode.CONFLICT, f"{key[0]}/{key[1]} is being changed by another execution: try again"
                )
            if key in self._writes:
                return self._writes[key]
            version = self._data.collections.get(key[0], {}).get(key[1])
            if version is not None and self._read_at is not None and version.sequence > self._read_at:
                raise ActionError(
                    ErrorCode.CONFLICT, f"{key[0]}/{key[1]} has changed since this execution first read: try again"
                )
            return version.document if version else None

    async def lock_together(self, collection: str, find: Callable[[], dict[Key, T]]) -> list[T]:
        """Lock what `find` finds in the newest committed state, all of it at once, which becomes this transaction's
        snapshot. Where others hold some of it, this waits for them, and finds anew.

        Raises `conflict` in the end, and at once for a `def` handler in a task, where nothing can wait; and
        `SerializationFailure` where two would wait for each other."""
        self.check_writable(collection)
        deadline = monotonic() + _LOCK_TIMEOUT
        while True:
            with self._data.lock:
                self._check_usable()
                self._waits_for = None
                self._read_at = self._data.snapshots[self] = self._data.sequence
                found = find()
                holder = self._lock_all(found)
                if holder is None:
                    return list(found.values())
                if holder.is_waiting_for(self):
                    raise SerializationFailure(f"two executions wait for each other in {collection!r}")
                self._waits_for = holder
                ended = OneShotEvent(self._mode)
                holder._waiters.append(ended.set)
            remaining = deadline - monotonic()
            if remaining <= 0 or self._is_driven:
                raise ActionError(ErrorCode.CONFLICT, f"another execution holds a lock in {collection!r}: try again")
            await ended.wait(remaining)

    def is_waiting_for(self, other: MemoryUnitOfWork) -> bool:
        """Return whether this transaction waits for another one, directly or through others."""
        holder = self._waits_for
        while holder is not None and holder is not other:
            holder = holder._waits_for
        return holder is other

    def write(self, key: Key, document: Item | None) -> None:
        """Buffer a write (None deletes) to a document that `lock` has locked."""
        self._journal.append((key, key in self._writes, self._writes.get(key)))
        self._writes[key] = document

    # The action log

    async def read_log(self, query: LogQuery) -> Page[LogRow]:
        """Rows of the action log, committed ones, newest first."""
        data = self._data
        with data.lock:
            self._check_open()
            end = len(data.log) if query.before is None else bisect_left(data.log, query.before, key=attrgetter("id"))
            rows = (data.log[number] for number in range(end - 1, -1, -1))
            json = ((row, (row.input, row.output, row.error)) for row in rows if _matches_query(row, query))
            sized = ((row, sum(len(each or b"") for each in values)) for row, values in json)
            return page_of(sized, query.limit, attrgetter("id"))

    async def last_position(self) -> int:
        """Return the position of the tenant's last event that has committed; 0 where there is none."""
        with self._data.lock:
            self._check_open()
            return len(self._data.events)

    # SQL

    @property
    def session(self) -> Any:
        """There is none: raises `StorageError`."""
        raise StorageError("InMemoryStorage has no SQL session: use ctx.records, or a storage on SQLAlchemy")

    @property
    def async_session(self) -> Any:
        """There is none: raises `StorageError`."""
        return self.session

    # The transaction

    async def savepoint(self, read_only: bool = False) -> object:
        """A point to roll back to. The contexts of read-only executions refuse writes, and there is no SQL."""
        with self._data.lock:
            self._check_open()
            scope = self._scopes.enter(len(self._journal))
        scope.step_in()
        return scope

    async def rollback_to(self, savepoint: object) -> None:
        """Undo what was written since."""
        assert isinstance(savepoint, Scope)
        with self._data.lock:
            self.undo_to(savepoint.mark)
            self._scopes.leave(savepoint)
        savepoint.step_out()

    async def release(self, savepoint: object) -> None:
        """Keep what was written since: the journal stays for the savepoints around this one."""
        assert isinstance(savepoint, Scope)
        with self._data.lock:
            self._scopes.leave(savepoint)
        savepoint.step_out()

    @property
    def mark(self) -> int:
        """The progress of the journal."""
        return len(self._journal)

    def undo_to(self, mark: int) -> None:
        """Undo what was written since the journal was there."""
        while len(self._journal) > mark:
            key, was_written, before = self._journal.pop()
            if was_written:
                self._writes[key] = before
            else:
                del self._writes[key]

    async def flushed_subjects(self) -> Sequence[str]:
        """There is no session: none."""
        return ()

    async def record(self, recording: Recording) -> None:
        """Keep what is to be written with the commit."""
        self._check_open()
        self._recordings.append(recording)

    async def commit(self) -> None:
        """Make everything visible at once."""
        data = self._data
        with data.lock:
            self._check_open()
            if self._writes:
                self._publish()
            for recording in self._recordings:
                for row in recording.log:
                    if not data.log or data.log[-1].id < row.id:
                        data.log.append(row)
                    else:
                        insort(data.log, row, key=attrgetter("id"))
                for event in recording.events:
                    data.events.append(event)
                    data.positions.setdefault(event.type, []).append(len(data.events))
                    data.queues.add(len(data.events), event)
                    for route in recording.routes:
                        if route.takes(event):
                            data.further_queues[route.queue].add(len(data.events), event)
                for result in recording.results:
                    self._end_claim((result.claim.action, result.claim.key), result)
            self._end()

    async def rollback(self) -> None:
        """Undo everything."""
        if not self._ended:
            with self._data.lock:
                self._end()

    def set_deadline(self, seconds: float) -> None:
        """Nothing here waits longer than it was asked to."""

    def abandon(self) -> bool:
        """It can: all that a handler has of it is fenced by its context."""
        return True

    async def call(self, function: Any, *arguments: Any) -> Any:
        """Run a `def` handler: here, wherever the caller is."""
        return function(*arguments)

    def for_worker_thread(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as it is."""
        return function

    def translate_error(self, error: Exception) -> Exception:
        """The error as it is."""
        return error

    def run_sync(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of this unit of work to its end."""
        was_driven, self._is_driven = self._is_driven, self._mode == "async"
        try:
            return run_sync(coroutine)
        finally:
            self._is_driven = was_driven

    def _lock_all(self, keys: Collection[Key]) -> MemoryUnitOfWork | None:
        """Lock these; or none of them, where another unit of work holds one: that one."""
        locks = self._data.locks
        for key in keys:
            if locks.get(key, self) is not self:
                return locks[key]
        for key in keys:
            if key not in locks:
                locks[key] = self
                self._locked.append(key)
        return None

    def _check_open(self) -> None:
        if self._ended:
            raise StorageError("this execution is over, and its unit of work with it")
        if self._data.is_deleted:
            raise tenant_deleted()

    def _check_usable(self) -> None:
        self._check_open()
        self._scopes.check()

    def _snapshot(self) -> int:
        if self._read_at is None:
            self._read_at = self._data.snapshots[self] = self._data.sequence
        return self._read_at

    def _publish(self) -> None:
        data = self._data
        data.sequence += 1
        data.snapshots.pop(self, None)
        oldest_read = min(data.snapshots.values(), default=data.sequence)
        touched_access = False
        for (collection, id), document in self._writes.items():
            versions = data.collections.setdefault(collection, {})
            before = versions.get(id)
            version = versions[id] = Version(data.sequence, document, before)
            keys_before = None if before is None else _keys(before)
            row_before = before.document if before is not None else None
            if type(document) is dict or type(row_before) is dict:
                data.index.move_row(
                    collection, entries_of(collection, row_before), entries_of(collection, document), data.sequence
                )
            elif type(document) is Document:
                data.index.move(collection, id, keys_before, document.keys, data.sequence)
            elif keys_before is not None:
                data.index.move(collection, id, keys_before, None, data.sequence)
            _prune(version, oldest_read)
            if document is None:
                data.tombstones.append((collection, id))
            touched_access = touched_access or collection in ROLE_COLLECTIONS
        if data.index.left:
            data.index.tidy(oldest_read, lambda place, id_: _exists(data, place, id_))
        if touched_access:
            data.access_version += 1
        if data.tombstones and not data.snapshots:
            for collection, id in data.tombstones:
                dead = data.collections[collection].get(id)
                if dead is not None and dead.document is None:
                    del data.collections[collection][id]
            data.tombstones.clear()

    def _end(self) -> None:
        data = self._data
        self._ended = True
        self._scopes.leave()
        if self._read_at is not None:
            data.snapshots.pop(self, None)
        for key in self._locked:
            del data.locks[key]
        for wake in self._waiters:
            wake()
        for key in self._claims:
            held = data.claims.get(key)
            if isinstance(held, ClaimHolder) and held.owner is self:
                self._end_claim(key, held.before)

    def _end_claim(self, key: Key, result: IdempotentResult | None) -> None:
        held = self._data.claims.pop(key, None)
        if result is not None:
            self._data.claims[key] = result
            self._data.expiries.add(result.expires_at, self._data, key)
        if isinstance(held, ClaimHolder):
            for wake in held.waiters:
                wake()


class MemoryRecords:
    """A collection as one transaction sees it."""

    __slots__ = ("_collection", "_unit_of_work")

    def __init__(self, unit_of_work: MemoryUnitOfWork, collection: str) -> None:
        self._unit_of_work = unit_of_work
        self._collection = collection

    async def insert(self, data: Mapping[str, Any], id: str | None = None) -> Record:
        """Add a document."""
        if id is None:
            id = str(uuid7())
        else:
            check_id(self._collection, id)
        encoded = encode_document(self._collection, data)
        key = (self._collection, id)
        with self._unit_of_work.alone:
            if self._unit_of_work.lock(key) is not None:
                raise id_conflict(*key)
            now = steady_now()
            return self._write(key, Document(1, encoded, now, now, self._keys(encoded)))

    async def get(self, id: str) -> Record | None:
        """The document, or None."""
        document = self._unit_of_work.read((self._collection, id))
        return _record(id, document) if document else None

    async def lock(self, id: str, expected_version: int) -> Record:
        """Return the document, which nobody else changes until this transaction ends."""
        with self._unit_of_work.alone:
            return _record(id, self._lock_version((self._collection, id), expected_version))

    async def update(self, id: str, data: Mapping[str, Any], expected_version: int) -> Record:
        """Replace a document."""
        encoded = encode_document(self._collection, data)
        key = (self._collection, id)
        with self._unit_of_work.alone:
            current = self._lock_version(key, expected_version)
            version, keys = current.version + 1, self._keys(encoded)
            return self._write(key, Document(version, encoded, current.created_at, steady_now(), keys))

    async def delete(self, id: str, expected_version: int) -> None:
        """Remove a document."""
        key = (self._collection, id)
        with self._unit_of_work.alone:
            self._lock_version(key, expected_version)
            self._unit_of_work.write(key, None)

    async def list(
        self,
        filter: Mapping[str, Any] | None = None,
        limit: int = 100,
        after: str | None = None,
        descending: bool = False,
    ) -> Page[Record]:
        """Documents by id."""
        limit, after = page_size(limit), page_start(after)
        wanted = normal_filter(self._collection, filter)
        key = key_of_filter(self._collection, wanted)

        def found() -> Iterator[tuple[Record, int]]:
            start = after
            while True:
                size = MAX_PAGE if wanted and key is None else limit
                listed = self._unit_of_work.listed(self._collection, key, size, start, descending)
                for id, document in listed:
                    record = _record(id, document)
                    if matches(record.data, wanted):
                        yield record, len(document.data)
                if len(listed) < size:
                    return
                start = listed[-1][0]

        return page_of(found(), limit, attrgetter("id"))

    def _lock_version(self, key: Key, expected_version: int) -> Document:
        current: Document | None = self._unit_of_work.lock(key)
        if current is None:
            raise not_found(*key)
        if current.version != expected_version:
            raise version_conflict(*key, expected_version, current.version)
        return current

    def _keys(self, data: bytes) -> Keys:
        return keys_of(self._collection, decode_document(data)) if self._collection in LOOKUPS else ()

    def _write(self, key: Key, document: Document) -> Record:
        self._unit_of_work.write(key, document)
        return _record(key[1], document)


def _can_claim(entry: IdempotentResult, claim: Claim) -> bool:
    if entry.approval_id is not None and entry.approval_id == claim.replaces:
        return True
    return entry.expires_at <= steady_now()


def _answer(entry: IdempotentResult, claim: Claim) -> ClaimAnswer:
    if entry.claim.fingerprint != claim.fingerprint:
        return ClaimAnswer("mismatch")
    return ClaimAnswer("replay", entry.result, entry.approval_id, entry.asked)


def _after(start: int, positions: Sequence[int]) -> Iterator[int]:
    for index in range(bisect_right(positions, start), len(positions)):
        yield positions[index]


def _keys(version: Version | None) -> Keys | None:
    """Return the keys of a document; None where there is none, and for a row of a table."""
    document = version.document if version is not None else None
    return document.keys if type(document) is Document else None


def _exists(data: TenantData, place: Place, id: str) -> bool:
    """Return whether the newest state of a document or of a row is at this place."""
    collection, key = place
    table = TABLES.get(collection)
    version = data.collections[collection].get(id_of(table, id) if table is not None else id)
    if table is not None:
        return version is not None and (key, id) in entries_of(collection, version.document)
    keys = _keys(version)
    return keys is not None and key in (None, *keys)


def _visible(version: Version | None, snapshot: int) -> Item | None:
    while version is not None and version.sequence > snapshot:
        version = version.previous
    return version.document if version else None


def _prune(version: Version, oldest_read: int) -> None:
    """Cut off the versions that no snapshot can reach: those behind the newest that the oldest snapshot reads."""
    link: Version | None = version
    while link is not None and link.sequence > oldest_read:
        link = link.previous
    if link is not None:
        link.previous = None


def _record(id: str, document: Document) -> Record:
    return Record(id, document.version, decode_document(document.data), document.created_at, document.updated_at)


def _matches_query(row: LogRow, query: LogQuery) -> bool:
    return (query.subject is None or query.subject in row.subjects) and query.matches(row)
