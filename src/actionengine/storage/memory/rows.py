"""Rows of the library's own tables, in memory: versions of the same kind as documents, under the table's name.

Beside the rows of a table there is a collection for each of its unique constraints, from what is taken to the key of
the row that has it: so it is committed, rolled back, and fought over as documents are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic_core import from_json, to_json

from actionengine.errors import ActionError, ErrorCode
from actionengine.storage.memory.index import Entry
from actionengine.storage.pages import page_of
from actionengine.storage.records import encode_document, rows_gone
from actionengine.storage.tables import CHANGE_CONTROL_TABLES, Row, Table

if TYPE_CHECKING:
    from actionengine.storage.memory.storage import Key, MemoryUnitOfWork

Stored = Mapping[str, Any]
"""A row as it is kept: its JSON encoded, so that no two readers share an object. Nobody changes it."""

Condition = Callable[[Any], bool]


class _Lookup(NamedTuple):
    """Rows that are found by texts that these columns have, in this order."""

    equal: tuple[str, ...]
    order: tuple[str, ...]

    def sorted_by(self, table: Table) -> tuple[str, ...]:
        """Return the columns whose values an entry is made of: the order, and the key of the row."""
        return self.order if self.order == table.key else (*self.order, *table.key)


_BY_ID, _BY_KEY = ("id",), ("key",)
_LOOKUPS: Mapping[str, tuple[_Lookup, ...]] = {
    "ae_projects": (_Lookup(("name",), _BY_ID),),
    "ae_record_types": (
        _Lookup(("project_id",), _BY_KEY),
        _Lookup(("project_id", "status"), _BY_KEY),
        _Lookup(("project_id", "base_type"), _BY_KEY),
        _Lookup(_BY_KEY, _BY_ID),
        _Lookup(("name",), _BY_ID),
    ),
    "ae_changes": (
        _Lookup(("project_id",), _BY_ID),
        _Lookup(("status",), _BY_ID),
        _Lookup(("project_id", "status"), _BY_ID),
    ),
    "ae_change_targets": (_Lookup(("change_id",), _BY_ID),),
    "ae_patch_ops": (
        _Lookup(("change_id",), _BY_ID),
        _Lookup(("project_id", "record_type_key"), _BY_ID),
        _Lookup(("project_id", "record_type_key"), ("applied_version", "position")),
    ),
    "ae_snapshots": (
        _Lookup(("change_id",), ("change_id", "record_type_key")),
        _Lookup(("project_id", "record_type_key"), ("change_id", "record_type_key")),
        _Lookup(("project_id", "record_type_key"), ("version",)),
    ),
}
"""What change control asks of its tables. What else a question says is compared with what was found."""

TABLES: Mapping[str, Table] = {table.name: table for table in CHANGE_CONTROL_TABLES}


class MemoryRows:
    """The rows of one table as one transaction sees them."""

    __slots__ = ("_table", "_unit_of_work")

    def __init__(self, unit_of_work: MemoryUnitOfWork, table: Table) -> None:
        self._unit_of_work = unit_of_work
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
        """Rows that are as `where` and `above` say, in order."""
        order = tuple(order or self._table.key)

        def found() -> dict[Key, Stored]:
            rows = self._matching(where, above, order, None if descending else limit)
            rows.sort(key=lambda row: [(row[name] is None, row[name]) for name in order], reverse=descending)
            return {self._key(row): row for row in rows[:limit]}

        if lock:
            rows = await self._unit_of_work.lock_together(self._table.name, found)
        else:
            rows = list(found().values())
        read = columns or self._table.columns
        if limit is None or lock:
            return [self._row(row, read) for row in rows]
        # As in SQL: a page is bounded by the bytes of its JSON, too.
        json = [name for name in read if self._table.columns[name] == "json"]
        sized = ((self._row(row, read), sum(len(row[name] or b"") for name in json)) for row in rows)
        return list(page_of(sized, limit, lambda row: ""))

    async def insert(self, rows: Sequence[Row]) -> None:
        """Add rows."""
        with self._all_or_nothing():
            for row in [self._stored(row, self._table.columns) for row in rows]:
                key = self._key(row)
                if self._unit_of_work.lock(key) is not None:
                    raise self._taken(self._table.key, row)
                for columns in self._unique(row):
                    self._take(columns, row)
                self._unit_of_work.write(key, row)

    async def update(self, rows: Sequence[Row]) -> None:
        """Change rows, found by their key."""
        with self._all_or_nothing():
            for changed in [self._stored(row, row) for row in rows]:
                key = self._key(changed)
                before = self._unit_of_work.lock(key)
                if before is None:
                    raise rows_gone(self._table.name)
                after = {**before, **changed}
                for columns in self._unique(before, but=after):
                    self._release(columns, before)
                for columns in self._unique(after, but=before):
                    self._take(columns, after)
                self._unit_of_work.write(key, after)

    async def delete(self, where: Mapping[str, Any]) -> int:
        """Remove rows; how many there were."""
        with self._all_or_nothing():
            rows = self._matching(where)
            for row in rows:
                key = self._key(row)
                self._unit_of_work.lock(key)
                for columns in self._unique(row):
                    self._release(columns, row)
                self._unit_of_work.write(key, None)
        return len(rows)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """What is written in it is undone where something is raised, as what one statement has written."""
        self._unit_of_work.check_writable(self._table.name)
        with self._unit_of_work.alone:
            mark = self._unit_of_work.mark
            try:
                yield
            except Exception:
                self._unit_of_work.undo_to(mark)
                raise

    def _matching(
        self,
        where: Mapping[str, Any] | None,
        above: Mapping[str, Any] | None = None,
        order: tuple[str, ...] = (),
        limit: int | None = None,
    ) -> list[Stored]:
        """Return all rows that are as is said; or the first ones, where a lookup has them in this order."""
        conditions = list(_conditions(where, above))

        def is_wanted(row: Stored) -> bool:
            return all(condition(row[name]) for name, condition in conditions)

        where = where or {}
        if all(isinstance(where.get(name), str) for name in self._table.key):
            row = self._unit_of_work.read(self._key(where))
            return [row] if row is not None and is_wanted(row) else []
        lookup = _lookup_for(self._table, where, order)
        key = _key_of(lookup, where)
        if lookup.order != order:
            return self._unit_of_work.rows_at(self._table, key, None, None, None, is_wanted)
        after, before = _bounds(where.get(order[0]), (above or {}).get(order[0]))
        return self._unit_of_work.rows_at(self._table, key, after, before, limit, is_wanted)

    def _unique(self, row: Stored, but: Stored | None = None) -> list[tuple[str, ...]]:
        """Return the columns whose values no other row has together with these; with `but`, those that differ from
        another version of the row."""
        conditional = [(name, column) for name, column, value in self._table.unique_while if row[column] == value]
        return [
            columns
            for columns in (*self._table.unique, *conditional)
            # As in SQL, rows with a null in a unique column are not in each other's way.
            if not any(row[name] is None for name in columns)
            and (but is None or any(row[name] != but[name] for name in columns))
        ]

    def _take(self, columns: tuple[str, ...], row: Stored) -> None:
        key = self._unique_key(columns, row)
        if self._unit_of_work.lock(key) is not None:
            raise self._taken(columns, row)
        self._unit_of_work.write(key, self._key(row)[1])

    def _release(self, columns: tuple[str, ...], row: Stored) -> None:
        key = self._unique_key(columns, row)
        self._unit_of_work.lock(key)
        self._unit_of_work.write(key, None)

    def _key(self, row: Stored) -> Key:
        return (self._table.name, _joined(self._table.key, row))

    def _unique_key(self, columns: tuple[str, ...], row: Stored) -> Key:
        return (f"{self._table.name} by {', '.join(columns)}", _joined(columns, row))

    def _taken(self, columns: Sequence[str], row: Stored) -> ActionError:
        taken = {name: row[name] for name in columns}
        named = ", ".join(f"{name} {value!r}" for name, value in taken.items())
        return ActionError(ErrorCode.CONFLICT, f"{self._table.name} has a row of {named} already", taken)

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


def entries_of(table: str, row: Any) -> Set[Entry]:
    """Return under which keys a row is found, and what it is sorted by there; nothing for what is no row."""
    declared = TABLES.get(table)
    if declared is None or row is None:
        return frozenset()
    lookups = (_all_of(declared), *_LOOKUPS[table])
    return {
        (_key_of(lookup, row), _joined(lookup.sorted_by(declared), row))
        for lookup in lookups
        if all(isinstance(row[name], str) for name in lookup.equal)
    }


def id_of(table: Table, entry: str) -> str:
    """Return the id of the row that has this entry."""
    return "\0".join(entry.split("\0")[-len(table.key) :])


def _all_of(table: Table) -> _Lookup:
    return _Lookup((), table.key)


def _lookup_for(table: Table, where: Mapping[str, Any], order: tuple[str, ...]) -> _Lookup:
    """Return the lookup that finds the fewest rows; of two, the one that has them in order."""
    lookups = (_all_of(table), *_LOOKUPS[table.name])
    usable = (each for each in lookups if all(isinstance(where.get(name), str) for name in each.equal))
    return max(usable, key=lambda lookup: (len(lookup.equal), lookup.order == order))


def _key_of(lookup: _Lookup, values: Mapping[str, Any]) -> str | None:
    return "\0".join((*lookup.equal, *(values[name] for name in lookup.equal))) if lookup.equal else None


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


def _bounds(equal: Any, above: Any) -> tuple[str | None, str | None]:
    """Return after which entry, and before which one, rows lie whose first sorted column is as is said."""
    numbers = [each for each in (equal if isinstance(equal, tuple) else (equal,)) if isinstance(each, int)]
    if numbers:
        return _sortable(min(numbers)), _sortable(max(numbers) + 1)
    return (_sortable(above + 1) if isinstance(above, int) else above), None


def _joined(columns: Sequence[str], row: Stored) -> str:
    # No text has this character in it.
    return "\0".join(_sortable(row[name]) for name in columns)


def _sortable(value: Any) -> str:
    """Return a text that sorts as the value does: numbers by their size, and nothing after them."""
    return f"{value:020}" if isinstance(value, int) else "~" if value is None else str(value)
