"""The entries of rows in the index: the lookups of the library's own tables in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

from actionengine.storage.memory.index import Entry
from actionengine.storage.tables import CHANGE_CONTROL_TABLES, Table

Stored = Mapping[str, Any]
"""A row as it is stored: its JSON is encoded, so that no two readers share an object. Never changed in place."""


class Lookup(NamedTuple):
    """A way to find rows: by the texts in the columns `equal`, in this order."""

    equal: tuple[str, ...]
    order: tuple[str, ...]

    def key_of(self, values: Mapping[str, Any]) -> str | None:
        """Return the key in the index of the rows with these values; None for all rows of the table."""
        return "\0".join((*self.equal, *(values[name] for name in self.equal))) if self.equal else None

    def sorted_by(self, table: Table) -> tuple[str, ...]:
        """Return the columns whose values make an entry: the order, and the key of the row."""
        return self.order if self.order == table.key else (*self.order, *table.key)


_BY_ID, _BY_KEY = ("id",), ("key",)
_LOOKUPS: Mapping[str, tuple[Lookup, ...]] = {
    "ae_projects": (Lookup(("name",), _BY_ID),),
    "ae_record_types": (
        Lookup(("project_id",), _BY_KEY),
        Lookup(("project_id", "status"), _BY_KEY),
        Lookup(("project_id", "base_type"), _BY_KEY),
        Lookup(_BY_KEY, _BY_ID),
        Lookup(("name",), _BY_ID),
    ),
    "ae_changes": (
        Lookup(("project_id",), _BY_ID),
        Lookup(("status",), _BY_ID),
        Lookup(("project_id", "status"), _BY_ID),
    ),
    "ae_change_targets": (Lookup(("change_id",), _BY_ID),),
    "ae_patch_ops": (
        Lookup(("change_id",), _BY_ID),
        Lookup(("project_id", "record_type_key"), _BY_ID),
        Lookup(("project_id", "record_type_key"), ("applied_version", "position")),
    ),
    "ae_snapshots": (
        Lookup(("change_id",), ("change_id", "record_type_key")),
        Lookup(("project_id", "record_type_key"), ("change_id", "record_type_key")),
        Lookup(("project_id", "record_type_key"), ("version",)),
    ),
}
"""The queries of change control, by table. Other conditions of a query are compared with the rows found."""

TABLES: Mapping[str, Table] = {table.name: table for table in CHANGE_CONTROL_TABLES}


def entries_of(table: str, row: Any) -> Set[Entry]:
    """Return the entries of a row in the index; none for an item that is no row."""
    declared = TABLES.get(table)
    if declared is None or row is None:
        return frozenset()
    return {
        (lookup.key_of(row), joined(lookup.sorted_by(declared), row))
        for lookup in _lookups_of(declared)
        if all(isinstance(row[name], str) for name in lookup.equal)
    }


def id_of(table: Table, entry: str) -> str:
    """Return the id of the row that has this entry."""
    return "\0".join(entry.split("\0")[-len(table.key) :])


def lookup_for(table: Table, where: Mapping[str, Any], order: tuple[str, ...]) -> Lookup:
    """Return the lookup that finds the fewest rows; of two, the one that has them in order."""
    usable = (each for each in _lookups_of(table) if all(isinstance(where.get(name), str) for name in each.equal))
    return max(usable, key=lambda lookup: (len(lookup.equal), lookup.order == order))


def bounds(equal: Any, above: Any) -> tuple[str | None, str | None]:
    """Return the entries between which the rows lie whose first sorted column equals `equal`, or is above `above`."""
    numbers = [each for each in (equal if isinstance(equal, tuple) else (equal,)) if isinstance(each, int)]
    if numbers:
        return _sortable(min(numbers)), _sortable(max(numbers) + 1)
    return (_sortable(above + 1) if isinstance(above, int) else above), None


def joined(columns: Sequence[str], row: Stored) -> str:
    """Return the values of these columns in one text. No value contains NUL."""
    return "\0".join(_sortable(row[name]) for name in columns)


def _lookups_of(table: Table) -> tuple[Lookup, ...]:
    return (Lookup((), table.key), *_LOOKUPS[table.name])


def _sortable(value: Any) -> str:
    """Return a text that sorts as the value does: numbers by their size, and None last."""
    return f"{value:020}" if isinstance(value, int) else "~" if value is None else str(value)
