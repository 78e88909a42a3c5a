"""Rows of the library's own tables, as one transaction of `InMemoryStorage` sees them.

Rows have versions, as documents do, under the table's name. Each unique constraint of a table is a further collection,
from the unique values to the key of their row: it is committed, rolled back and locked as documents are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from pydantic_core import from_json, to_json

from actionengine.errors import ActionError, ErrorCode
from actionengine.storage.memory.row_index import Stored, bounds, joined, lookup_for
from actionengine.storage.memory.transaction import MemoryTransaction
from actionengine.storage.memory.versions import Key
from actionengine.storage.pages import page_of
from actionengine.storage.records import encode_document, rows_gone
from actionengine.storage.tables import Row, Table

Condition = Callable[[Any], bool]


class MemoryRows:
    """The rows of one table as one transaction sees them."""

    __slots__ = ("_table", "_transaction")

    def __init__(self, transaction: MemoryTransaction, table: Table) -> None:
        self._transaction = transaction
        self._table = table

    async def find(
        self,
        where: Mapping[str, Any] | None = None,
        *,
        above: Mapping[str, Any] | None = None,
        columns: Sequence[str] | None = None,
        order: Sequence[str] | None = None,
        limit: int | None = None,
        lock: bool = False,
        descending: bool = False,
    ) -> list[Row]:
        """Return the rows that match `where` and `above`, in order."""
        order = tuple(order or self._table.key)

        def found() -> dict[Key, Stored]:
            rows = self._matching(where, above, order, None if descending else limit)
            rows.sort(key=lambda row: [(row[name] is None, row[name]) for name in order], reverse=descending)
            return {self._key(row): row for row in rows[:limit]}

        if lock:
            rows = await self._transaction.lock_together(self._table.name, found)
        else:
            rows = list(found().values())
        read = columns or self._table.columns
        if limit is None or lock:
            return [self._row(row, read) for row in rows]
        # As in SQL, the bytes of its JSON bound a page, too.
        json = [name for name in read if self._table.columns[name] == "json"]
        sized = ((self._row(row, read), sum(len(row[name] or b"") for name in json)) for row in rows)
        return list(page_of(sized, limit, lambda row: ""))

    async def insert(self, rows: Sequence[Row]) -> None:
        """Add rows."""
        with self._all_or_nothing():
            for row in [self._stored(row, self._table.columns) for row in rows]:
                key = self._key(row)
                if self._transaction.lock(key) is not None:
                    raise self._taken(self._table.key, row)
                for columns in self._unique(row):
                    self._take(columns, row)
                self._transaction.write(key, row)

    async def update(self, rows: Sequence[Row]) -> None:
        """Change rows, found by their key."""
        with self._all_or_nothing():
            for changed in [self._stored(row, row) for row in rows]:
                key = self._key(changed)
                before = self._transaction.lock(key)
                if before is None:
                    raise rows_gone(self._table.name)
                after = {**before, **changed}
                for columns in self._unique(before, but=after):
                    self._release(columns, before)
                for columns in self._unique(after, but=before):
                    self._take(columns, after)
                self._transaction.write(key, after)

    async def delete(self, where: Mapping[str, Any]) -> int:
        """Remove rows; return their number."""
        with self._all_or_nothing():
            rows = self._matching(where)
            for row in rows:
                key = self._key(row)
                self._transaction.lock(key)
                for columns in self._unique(row):
                    self._release(columns, row)
                self._transaction.write(key, None)
        return len(rows)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Undo the writes inside it if one of them is refused, as a database undoes one statement."""
        self._transaction.check_writable(self._table.name)
        with self._transaction.alone:
            mark = self._transaction.mark
            try:
                yield
            except Exception:
                self._transaction.undo_to(mark)
                raise

    def _matching(
        self,
        where: Mapping[str, Any] | None,
        above: Mapping[str, Any] | None = None,
        order: tuple[str, ...] = (),
        limit: int | None = None,
    ) -> list[Stored]:
        """Return all matching rows, or the first ones when a lookup has them in this order."""
        conditions = list(_conditions(where, above))

        def is_wanted(row: Stored) -> bool:
            return all(condition(row[name]) for name, condition in conditions)

        where = where or {}
        if all(isinstance(where.get(name), str) for name in self._table.key):
            row = self._transaction.read(self._key(where))
            return [row] if row is not None and is_wanted(row) else []
        lookup = lookup_for(self._table, where, order)
        key = lookup.key_of(where)
        if lookup.order != order:
            return self._transaction.rows_at(self._table, key, None, None, None, is_wanted)
        after, before = bounds(where.get(order[0]), (above or {}).get(order[0]))
        return self._transaction.rows_at(self._table, key, after, before, limit, is_wanted)

    def _unique(self, row: Stored, but: Stored | None = None) -> list[tuple[str, ...]]:
        """Return the sets of columns that are unique in the table; with `but`, those that differ from another version
        of the row."""
        conditional = [(name, column) for name, column, value in self._table.unique_while if row[column] == value]
        return [
            columns
            for columns in (*self._table.unique, *conditional)
            # As in SQL, rows with a null in a unique column do not conflict.
            if not any(row[name] is None for name in columns)
            and (but is None or any(row[name] != but[name] for name in columns))
        ]

    def _take(self, columns: tuple[str, ...], row: Stored) -> None:
        key = self._unique_key(columns, row)
        if self._transaction.lock(key) is not None:
            raise self._taken(columns, row)
        self._transaction.write(key, self._key(row)[1])

    def _release(self, columns: tuple[str, ...], row: Stored) -> None:
        key = self._unique_key(columns, row)
        self._transaction.lock(key)
        self._transaction.write(key, None)

    def _key(self, row: Stored) -> Key:
        return (self._table.name, joined(self._table.key, row))

    def _unique_key(self, columns: tuple[str, ...], row: Stored) -> Key:
        return (f"{self._table.name} by {', '.join(columns)}", joined(columns, row))

    def _taken(self, columns: Sequence[str], row: Stored) -> ActionError:
        taken = {name: row[name] for name in columns}
        named = ", ".join(f"{name} {value!r}" for name, value in taken.items())
        return ActionError(ErrorCode.CONFLICT, f"{self._table.name} already has a row with {named}", taken)

    def _stored(self, row: Row, columns: Mapping[str, Any]) -> Stored:
        given = {name: row[name] for name in columns}
        encode_document(self._table.name, given)
        return {name: self._kept(name, value) for name, value in given.items()}

    def _kept(self, name: str, value: Any) -> Any:
        if value is None:
            return None
        if self._table.columns[name] == "json":
            return to_json(value)
        return value.astimezone(UTC) if isinstance(value, datetime) else value

    def _row(self, row: Stored, columns: Sequence[str] | Mapping[str, Any]) -> Row:
        return {
            name: from_json(value)
            if (value := row[name]) is not None and self._table.columns[name] == "json"
            else value
            for name in columns
        }


def _conditions(where: Mapping[str, Any] | None, above: Mapping[str, Any] | None) -> Iterator[tuple[str, Condition]]:
    for name, value in (where or {}).items():
        yield name, _any_of(value) if isinstance(value, tuple) else _equal(value)
    for name, value in (above or {}).items():
        yield name, _greater(value)


def _any_of(wanted: tuple[Any, ...]) -> Condition:
    values = frozenset(wanted) - {None}
    return lambda value: value in values


def _equal(wanted: Any) -> Condition:
    return lambda value: value == wanted


def _greater(bound: Any) -> Condition:
    return lambda value: value is not None and value > bound
