"""The transactions of `InMemoryStorage`, and the data of a tenant that they read and write.

A transaction reads a snapshot (the versions that were committed when it first read) and buffers its writes. A write
locks its document until the end. It is refused at once, as `conflict`, when another transaction holds the lock or has
committed since the snapshot. So the first writer wins, no transaction waits for a document, and no deadlock is
possible. Only locks on rows are waited for, for a bounded time.

Multi-version reads after Bernstein, Hadzilacos, Goodman, "Concurrency Control and Recovery in Database Systems", ch. 5.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice
from math import inf
from time import monotonic
from typing import NamedTuple, TypeVar
from uuid import UUID

from actionengine.concurrency.one_shot_event import OneShotEvent
from actionengine.concurrency.run_sync import Mode
from actionengine.errors import ActionError, ErrorCode
from actionengine.storage.clock import steady_now
from actionengine.storage.counters import MAX_WAIT, Counter, Reservation, waited_too_long
from actionengine.storage.errors import SerializationFailure, StorageError
from actionengine.storage.memory.claims import ClaimHolder, Expiries
from actionengine.storage.memory.counters import CounterKey, CounterState, Hold
from actionengine.storage.memory.index import Index, Place
from actionengine.storage.memory.outbox import Queues
from actionengine.storage.memory.row_index import TABLES, Stored, entries_of, id_of
from actionengine.storage.memory.versions import Document, Item, Key, Version, visible
from actionengine.storage.records import ROLE_COLLECTIONS
from actionengine.storage.rows import EventRow, IdempotentResult, LogRow
from actionengine.storage.scopes import Scopes
from actionengine.storage.tables import Table
from actionengine.storage.tenants import tenant_deleted

T = TypeVar("T")

_LOCK_TIMEOUT = 10.0
"""Seconds that a transaction waits for the locks of others on rows."""


class LetterKey(NamedTuple):
    """A queue of the outbox, and the id of the event of a dead letter."""

    queue: str
    id: str


@dataclass(slots=True, eq=False)
class TenantData:
    """All data of one tenant. A unit of work holds its own tenant's, and so cannot reach another's."""

    id: UUID
    queues: Queues
    further_queues: Mapping[str, Queues]
    expiries: Expiries[TenantData]
    lock: threading.RLock = field(default_factory=threading.RLock)
    is_deleted: bool = False
    sequence: int = 0
    access_version: int = 0
    collections: dict[str, dict[str, Version]] = field(default_factory=dict)
    index: Index = field(default_factory=Index)
    tombstones: list[Key] = field(default_factory=list)
    locks: dict[Key, MemoryTransaction] = field(default_factory=dict)
    snapshots: dict[MemoryTransaction, int] = field(default_factory=dict)
    counters: dict[CounterKey, CounterState[MemoryTransaction]] = field(default_factory=dict)
    claims: dict[Key, ClaimHolder | IdempotentResult] = field(default_factory=dict)
    log: list[LogRow] = field(default_factory=list)
    """Ordered by id."""
    events: list[EventRow] = field(default_factory=list)
    """The position of an event is its index here, counted from 1."""
    positions: dict[str, list[int]] = field(default_factory=dict)
    """The positions of the events of each type."""


class MemoryTransaction:
    """The reads and writes of one transaction of one tenant. The unit of work ends it."""

    __slots__ = (
        "_data",
        "_deadline",
        "_ended",
        "_holds",
        "_is_driven",
        "_journal",
        "_letters",
        "_locked",
        "_mode",
        "_read_at",
        "_read_only",
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
        self._deadline = inf
        self._is_driven = False
        self._waits_for: MemoryTransaction | None = None
        self._read_at: int | None = None
        self._locked: list[Key] = []
        self._waiters: list[Callable[[], object]] = []
        self._writes: dict[Key, Item | None] = {}
        self._journal: list[tuple[Key, bool, Item | None]] = []
        self._holds: list[Hold] = []
        self._letters: dict[LetterKey, str | None] = {}
        """The dead letters to redrive (None), or to skip for a reason."""
        self._scopes = Scopes()

    @property
    def alone(self) -> AbstractContextManager[object]:
        """Return a lock that keeps the handler's other threads out of a step. The holder never waits."""
        return self._data.lock

    def read(self, key: Key) -> Item | None:
        """Return a document in the snapshot, with this transaction's own writes on top."""
        with self._data.lock:
            self._check_usable()
            snapshot = self._snapshot()
            if key in self._writes:
                return self._writes[key]
            return visible(self._data.collections.get(key[0], {}).get(key[1]), snapshot)

    def listed(
        self, collection: str, key: str | None, size: int, after: str | None, descending: bool
    ) -> list[tuple[str, Document]]:
        """Return up to `size` documents of a collection by id, all or those under a key, each as `read` would return
        it."""
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
            found = ((id, writes.get((collection, id)) or visible(versions.get(id), snapshot)) for id in ids)
            wanted = ((id, document) for id, document in found if document and (key is None or key in document.keys))
            return list(islice(wanted, size))

    def rows_at(
        self,
        table: Table,
        key: str | None,
        after: str | None,
        before: str | None,
        size: int | None,
        is_wanted: Callable[[Stored], bool],
    ) -> list[Stored]:
        """Return up to `size` rows of a table in the order of their entries, all or those under a key, after one entry
        and before another, each as `read` would return it."""
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
                        row = visible(versions.get(id_of(table, entry)), snapshot)
                        if row is None or (key, entry) not in entries_of(name, row):
                            continue
                    if is_wanted(row):
                        yield row

            return list(islice(rows(), size))

    def check_writable(self, collection: str) -> None:
        """Raise `ActionError(internal)` for a read-only unit of work."""
        if self._read_only:
            raise ActionError(ErrorCode.INTERNAL, f"a read-only action cannot write to {collection!r}")

    def lock(self, key: Key) -> Item | None:
        """Lock a document for writing; return its newest state. Raise `conflict` while another transaction holds the
        lock."""
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
        """Lock all that `find` finds in the newest committed state, which becomes this transaction's snapshot. While
        other transactions hold some of it, wait for them, and find again.

        Raise `conflict` when the time is up, or at once for a `def` handler in a task, which cannot wait; and
        `SerializationFailure` when two transactions would wait for each other.
        """
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
                ended = self._wait_for(holder, collection)
            remaining = deadline - monotonic()
            if remaining <= 0 or self._is_driven:
                raise ActionError(ErrorCode.CONFLICT, f"another execution holds a lock in {collection!r}: try again")
            await ended.wait(remaining)

    async def reserve(self, reservations: Sequence[Reservation]) -> Sequence[Reservation]:
        """Hold amounts in counters until the end. Return those for which there is no room; then none is held.

        Wait for other transactions while only what they hold leaves no room; raise as `lock_together` does.
        """
        self.check_writable("budgets")
        deadline = min(monotonic() + MAX_WAIT, self._deadline)
        while True:
            with self._data.lock:
                self._check_usable()
                self._waits_for = None
                now = steady_now()
                states = [
                    (self._data.counters.get(CounterKey(*each[:2])) or CounterState[MemoryTransaction](), each)
                    for each in reservations
                ]
                full = [(state, each) for state, each in states if state.room(each, now) < state.held()]
                over = [each for state, each in full if state.room(each, now) < state.held(self)]
                if not full:
                    for state, each in states:
                        self._hold(state, Hold(CounterKey(*each[:2]), each.amount, now, each.window))
                if over or not full:
                    return over
                holder = full[0][0].other_holder(self)
                assert holder is not None
                ended = self._wait_for(holder, "budgets")
            remaining = deadline - monotonic()
            if remaining <= 0 or self._is_driven:
                raise waited_too_long()
            await ended.wait(remaining)

    def counters(self, keys: Sequence[tuple[str, str]]) -> list[Counter | None]:
        """Return counters, by budget and scope, with what this transaction holds; None for one without amounts."""
        with self._data.lock:
            self._check_usable()
            states = (self._data.counters.get(CounterKey(*key)) for key in keys)
            return [None if state is None else state.seen_by(self) for state in states]

    def is_waiting_for(self, other: MemoryTransaction) -> bool:
        """Return whether this transaction waits for another one, directly or through others."""
        holder = self._waits_for
        while holder is not None and holder is not other:
            holder = holder._waits_for
        return holder is other

    def write(self, key: Key, document: Item | None) -> None:
        """Buffer a write (None deletes) to a document that `lock` has locked."""
        self._journal.append((key, key in self._writes, self._writes.get(key)))
        self._writes[key] = document

    def change_letter(self, key: LetterKey, reason: str | None) -> None:
        """Buffer the redrive of a dead letter, or its skip for a reason. Raise as `lock` does."""
        self.lock(("ae_outbox", f"{key.queue}/{key.id}"))
        self._journal.append((key, key in self._letters, self._letters.get(key)))
        self._letters[key] = reason

    @property
    def mark(self) -> int:
        """Return the length of the journal."""
        return len(self._journal)

    def undo_to(self, mark: int) -> None:
        """Undo the writes after this length of the journal."""
        while len(self._journal) > mark:
            key, was_written, before = self._journal.pop()
            if type(key) is CounterKey:
                self._release_hold(self._holds.pop())
            elif type(key) is LetterKey:
                if was_written:
                    self._letters[key] = before
                else:
                    del self._letters[key]
            elif was_written:
                self._writes[key] = before
            else:
                del self._writes[key]

    def _wait_for(self, holder: MemoryTransaction, collection: str) -> OneShotEvent:
        """Return the event that ends the wait for another transaction."""
        if holder.is_waiting_for(self):
            raise SerializationFailure(f"two executions wait for each other in {collection!r}")
        self._waits_for = holder
        ended = OneShotEvent(self._mode)
        holder._waiters.append(ended.set)
        return ended

    def _hold(self, state: CounterState[MemoryTransaction], hold: Hold) -> None:
        self._data.counters[hold.key] = state
        state.holds.append((self, hold))
        self._holds.append(hold)
        self._journal.append((hold.key, True, None))

    def _release_hold(self, hold: Hold) -> None:
        state = self._data.counters[hold.key]
        state.holds.remove((self, hold))
        if state.counter is None and not state.holds:
            del self._data.counters[hold.key]

    def _lock_all(self, keys: Collection[Key]) -> MemoryTransaction | None:
        """Lock all keys, or none: then return a transaction that holds one of them."""
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
            raise StorageError("this execution has ended, and its unit of work with it")
        if self._data.is_deleted:
            raise tenant_deleted()

    def _check_usable(self) -> None:
        self._check_open()
        self._scopes.check()

    def _snapshot(self) -> int:
        if self._read_at is None:
            self._read_at = self._data.snapshots[self] = self._data.sequence
        return self._read_at

    def _count(self) -> None:
        """Add what is held to its counters."""
        data = self._data
        for hold in self._holds:
            state = data.counters[hold.key]
            if state.commit(hold) and state.counter is not None:
                data.expiries.add(state.counter.expires_at, data, hold.key)

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
            keys_before = before.keys if before is not None else None
            row_before = before.document if before is not None else None
            if type(document) is dict or type(row_before) is dict:
                data.index.move_row(
                    collection, entries_of(collection, row_before), entries_of(collection, document), data.sequence
                )
            elif type(document) is Document:
                data.index.move(collection, id, keys_before, document.keys, data.sequence)
            elif keys_before is not None:
                data.index.move(collection, id, keys_before, None, data.sequence)
            version.prune(oldest_read)
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

    def _release(self) -> None:
        """End the transaction, its snapshot and its locks."""
        data = self._data
        self._ended = True
        self._scopes.leave()
        if self._read_at is not None:
            data.snapshots.pop(self, None)
        for key in self._locked:
            del data.locks[key]
        for hold in self._holds:
            self._release_hold(hold)
        for wake in self._waiters:
            wake()


def _exists(data: TenantData, place: Place, id: str) -> bool:
    """Return whether the newest state of a document or of a row is at this place."""
    collection, key = place
    table = TABLES.get(collection)
    version = data.collections[collection].get(id_of(table, id) if table is not None else id)
    if table is not None:
        return version is not None and (key, id) in entries_of(collection, version.document)
    keys = version.keys if version is not None else None
    return keys is not None and key in (None, *keys)
