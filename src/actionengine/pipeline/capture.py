"""The capture of one execution: its clock, its ids, and all that it writes.

A preview, and an execution that has to equal one, has a capture; no other execution pays for it. Its unit of work is
wrapped, so that each write of documents and of the library's own rows passes here. The backend reports the writes of a
handler's own SQL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from itertools import count
from os import urandom
from typing import Any

from pydantic_core import to_json

from actionengine.pipeline.secrets import Secrets
from actionengine.storage.captured import CapturedWrite, WriteJournal, WriteKind, captured_json
from actionengine.storage.errors import SerializationFailure
from actionengine.storage.port import UnitOfWork
from actionengine.storage.records import StoredRecords
from actionengine.storage.rows import Record
from actionengine.storage.tables import AsyncRows, Row, Table


@dataclass(frozen=True, slots=True)
class NeededApproval:
    """An approval that an execution needs: the action whose policy applies, the permission of the approver, and the
    resource of the action, if it names one."""

    action: str
    permission: str
    resource: str | None = None


class Ids:
    """Ids that a time and a seed determine: UUIDs of version 7, which sort in their order. They `are_new` if the seed
    has just been made, so that no stored id can equal one."""

    __slots__ = ("_counter", "_milliseconds", "_seed", "are_new")

    def __init__(self, now: datetime, seed: str, are_new: bool = False) -> None:
        self.are_new = are_new
        self._milliseconds = int(now.timestamp() * 1000)
        self._seed = seed
        self._counter = count()

    def new(self) -> str:
        """Return the next id."""
        number = next(self._counter)
        milliseconds = self._milliseconds + (number >> 12)
        random = int.from_bytes(sha256(f"{self._seed}/{number}".encode()).digest()[:8]) & (1 << 62) - 1
        digits = f"{milliseconds << 80 | 7 << 76 | (number & 0xFFF) << 64 | 2 << 62 | random:032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class Capture:
    """The capture of one execution and of those that it executes.

    `now` and `seed` determine the times and ids that handlers get. A capture that `rehearses` belongs to an execution
    that is rolled back; `outer` is the capture of an execution around it, which gets the same writes.
    """

    def __init__(
        self, now: datetime, seed: str | None = None, *, rehearses: bool = False, outer: Capture | None = None
    ) -> None:
        self.now = now
        self.seed = urandom(16).hex() if seed is None else seed
        self.rehearses = rehearses
        self.journal = WriteJournal()
        self.approvals: list[NeededApproval] = []
        self.secrets: list[Secrets] = []
        self._outer = outer
        self._ids = Ids(now, self.seed, are_new=seed is None)
        self._over: tuple[UnitOfWork, UnitOfWork] | None = None

    def reset(self) -> None:
        """Drop the writes of a lost attempt, and begin the ids anew."""
        self.journal = WriteJournal()
        self.approvals.clear()
        self._ids = Ids(self.now, self.seed, self._ids.are_new)
        self._over = None

    def new_id(self) -> str:
        """Return the next id."""
        return self._ids.new()

    def over(self, unit_of_work: UnitOfWork) -> UnitOfWork:
        """Return the unit of work in a form that captures its writes."""
        over = self._over
        if over is None or over[0] is not unit_of_work:
            inner = unit_of_work if self._outer is None else self._outer.over(unit_of_work)
            unit_of_work.capture_sql(self.journal)
            capturing: Any = CapturingUnitOfWork(inner, self.journal, self._ids)
            over = self._over = unit_of_work, capturing
        return over[1]


class CapturingUnitOfWork:
    """A unit of work whose writes are captured. All else passes to the unit of work inside.

    It does not refer to its capture, so that both are freed as soon as the execution ends.
    """

    def __init__(self, inner: UnitOfWork, journal: WriteJournal, ids: Ids) -> None:
        self._inner = inner
        self._journal = journal
        self._ids = ids
        # Each call of a `def` handler asks for it.
        self.run_sync = inner.run_sync

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def records(self, collection: str) -> CapturingRecords:
        """Return the collection as this transaction sees it."""
        return CapturingRecords(self._inner.records(collection), collection, self._journal, self._ids)

    def rows(self, table: Table) -> CapturingRows:
        """Return the rows of one of the library's own tables as this transaction sees them."""
        return CapturingRows(self._inner.rows(table), table, self._journal)

    async def redrive(self, queue: str, ids: Sequence[str]) -> Sequence[str]:
        """Deliver dead letters of the tenant again from the commit on. Return the ids of those that there are."""
        with self._journal.writing():
            found = await self._inner.redrive(queue, ids)
            self._add_letters(queue, found, {"dead": True}, {"dead": False})
        return found

    async def skip(self, queue: str, ids: Sequence[str], reason: str) -> Sequence[str]:
        """Give up dead letters of the tenant from the commit on. Return the ids of those that there are."""
        with self._journal.writing():
            found = await self._inner.skip(queue, ids, reason)
            self._add_letters(queue, found, {"skipped": False}, {"skipped": True, "reason": reason})
        return found

    def _add_letters(self, queue: str, ids: Sequence[str], before: Row, after: Row) -> None:
        for id in ids:
            states = captured_json(before), captured_json(after)
            self._journal.add(CapturedWrite("update", "ae_outbox", f"{queue}/{id}", *states))

    async def savepoint(self, read_only: bool = False) -> object:
        """Return a new savepoint, with the number of writes before it."""
        savepoint = await self._inner.savepoint(read_only)
        return savepoint, len(self._journal)

    async def rollback_to(self, savepoint: tuple[object, int]) -> None:
        """Undo the writes since the savepoint."""
        inner, mark = savepoint
        await self._inner.rollback_to(inner)
        self._journal.undo_to(mark)

    async def release(self, savepoint: tuple[object, int]) -> None:
        """Release a savepoint and keep the writes since."""
        await self._inner.release(savepoint[0])


class CapturingRecords:
    """A collection whose writes are captured."""

    __slots__ = ("_collection", "_ids", "_inner", "_journal", "get", "list", "lock")

    def __init__(self, inner: StoredRecords, collection: str, journal: WriteJournal, ids: Ids) -> None:
        self._inner = inner
        self._collection = collection
        self._journal = journal
        self._ids = ids
        self.get, self.list, self.lock = inner.get, inner.list, inner.lock

    async def insert(self, data: Mapping[str, Any], id: str | None = None, is_new: bool = False) -> Record:
        """Add a document. Without an `id` it gets the next one of the capture."""
        with self._journal.writing():
            if id is None:
                id, is_new = self._ids.new(), self._ids.are_new
            record = await self._inner.insert(data, id, is_new)
            self._journal.add(CapturedWrite("insert", self._collection, record.id, None, to_json(record.data)))
        return record

    async def update(self, id: str, data: Mapping[str, Any], expected_version: int) -> Record:
        """Replace a document that is at `expected_version`. The lock keeps the state before it from changing."""
        with self._journal.writing():
            before = await self._inner.lock(id, expected_version)
            record = await self._inner.update(id, data, expected_version)
            states = to_json(before.data), to_json(record.data)
            self._journal.add(CapturedWrite("update", self._collection, id, *states))
        return record

    async def delete(self, id: str, expected_version: int) -> None:
        """Remove a document that is at `expected_version`."""
        with self._journal.writing():
            before = await self._inner.lock(id, expected_version)
            await self._inner.delete(id, expected_version)
            self._journal.add(CapturedWrite("delete", self._collection, id, to_json(before.data)))


class CapturingRows:
    """The rows of one of the library's own tables, whose writes are captured."""

    __slots__ = ("_inner", "_journal", "_table", "find")

    def __init__(self, inner: AsyncRows, table: Table, journal: WriteJournal) -> None:
        self._inner = inner
        self._table = table
        self._journal = journal
        self.find = inner.find

    async def insert(self, rows: Sequence[Row]) -> None:
        """Add rows."""
        with self._journal.writing():
            await self._inner.insert(rows)
            for row in rows:
                self._add("insert", None, row)

    async def update(self, rows: Sequence[Row]) -> None:
        """Change rows, found by their key. The lock keeps the state before it from changing."""
        with self._journal.writing():
            keys = {name: tuple(dict.fromkeys(row[name] for row in rows)) for name in self._table.key}
            before = {self._key(row): row for row in await self._inner.find(keys, lock=True)} if rows else {}
            await self._inner.update(rows)
            for row in rows:
                found = before[self._key(row)]
                before[self._key(row)] = {**found, **row}
                self._add("update", found, {**found, **row})

    async def delete(self, where: Mapping[str, Any]) -> int:
        """Remove rows; return their number."""
        with self._journal.writing():
            before = await self._inner.find(where, lock=True)
            deleted = await self._inner.delete(where)
            if deleted != len(before):
                raise SerializationFailure(f"rows of {self._table.name} have changed while they were deleted")
            for row in before:
                self._add("delete", row, None)
        return deleted

    def _add(self, kind: WriteKind, before: Row | None, after: Row | None) -> None:
        key = self._key(after or before or {})
        id = ",".join(map(str, key))
        self._journal.add(CapturedWrite(kind, self._table.name, id, _json(before), _json(after), key=key))

    def _key(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(row[name] for name in self._table.key)


def _json(value: Mapping[str, Any] | None) -> bytes | None:
    return None if value is None else captured_json(value)
