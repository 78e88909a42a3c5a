"""Rows of the library's own tables, on the SQL backends: one statement, and one parameter, for any number of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from pydantic_core import from_json, to_json

from actionengine.storage.records import encode_document, rows_gone
from actionengine.storage.sql.pages import PageQuery
from actionengine.storage.sql.transaction import Transaction
from actionengine.storage.tables import Kind, Row, Table

Column = tuple[str, Kind]
Condition = tuple[str, Kind, str]
"""A column, its kind, and its comparison with a parameter: `=`, `>`, `any`; or `null`; or a quoted value."""


@dataclass(frozen=True, slots=True, eq=False)
class RowsDialect:
    """The parts of a backend's statements over rows.

    `page` makes the statement of a page. `rows` makes a table `r` of the given rows (a parameter, `{"rows": […]}`),
    with the `{columns}` that `column` describes. `given`, `read` and `any_of` are forms for a `{name}`: a column taken
    from `r`, a column as it is read, and one that equals any item of a JSON array. `lock` ends a query that locks its
    rows. `operator` is the form of an operator, `sorted` that of a column in an order that no index serves, and `limit`
    the mark of a limit. `count` is the number of rows.
    """

    schema: str
    mark: str
    tenant: str
    rows: str
    column: Mapping[Kind, str]
    given: Mapping[Kind, str]
    read: Mapping[Kind, str]
    any_of: Mapping[Kind, str]
    lock: str
    operator: str
    sorted: str
    limit: str
    count: str
    page: Callable[[PageQuery], str]


KEY_GONE = "an idempotency key that this execution has claimed is gone: its result cannot be kept"


class SQLRows:
    """The rows of one table as one transaction sees them."""

    __slots__ = ("_dialect", "_load_time", "_table", "_tenant_id", "_transaction")

    def __init__(self, transaction: Transaction, table: Table, dialect: RowsDialect) -> None:
        self._transaction = transaction
        self._dialect = dialect
        self._load_time = transaction.database.load_time
        self._tenant_id = transaction.database.bind_id(transaction.tenant.id)
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
        """Return the rows that `where` and `above` match, in order."""
        if lock:
            self._transaction.track_write(self._table.name)
        if _matches_nothing(where):
            return []
        conditions, values = self._conditions(where, above)
        read = self._columns(columns or self._table.columns)
        limited = limit is not None
        # An order of at most one row would only tempt the planner to an index that has it, and to all rows of a tenant.
        order = () if self._finds_one(conditions) and not limited else tuple(order or self._table.key)
        if limit is not None and limit > 1 and not lock and any(kind == "json" for _, kind in read):
            # Its rows have one column more, for the bytes.
            statement = page_statement(self._dialect, self._table.name, read, conditions, order, descending)
        else:
            statement = find_statement(
                self._dialect, self._table.name, read, conditions, order, limited, lock, descending
            )
        if limited:
            values.append(limit)
        found = await self._transaction.run(self._transaction.query, statement, values)
        return [{name: self._out(kind, value) for (name, kind), value in zip(read, row, strict=False)} for row in found]

    async def insert(self, rows: Sequence[Row]) -> None:
        """Add rows."""
        self._transaction.track_write(self._table.name)
        if rows:
            columns = self._columns(self._table.columns)
            statement = insert_statement(self._dialect, self._table.name, columns)
            parameters = (self._encoded(rows, columns), self._tenant_id)
            await self._transaction.run(self._transaction.query, statement, parameters)

    async def update(self, rows: Sequence[Row]) -> None:
        """Change rows, found by their key."""
        self._transaction.track_write(self._table.name)
        if rows:
            columns = self._columns(rows[0])
            most = 1 << (len(rows) - 1).bit_length()
            statement = update_statement(self._dialect, self._table.name, columns, self._table.key, most)
            parameters = (self._encoded(rows, columns), self._tenant_id)
            changed = await self._transaction.run(self._transaction.query, statement, parameters)
            if len(changed) != len({tuple(row[name] for name in self._table.key) for row in rows}):
                raise rows_gone(self._table.name)

    async def delete(self, where: Mapping[str, Any]) -> int:
        """Remove rows. Return how many."""
        self._transaction.track_write(self._table.name)
        if _matches_nothing(where):
            return 0
        conditions, values = self._conditions(where, None)
        statement = delete_statement(self._dialect, self._table.name, conditions)
        return len(await self._transaction.run(self._transaction.query, statement, values))

    def _columns(self, names: Sequence[str] | Mapping[str, Any]) -> tuple[Column, ...]:
        return tuple((name, self._table.columns[name]) for name in names)

    def _finds_one(self, conditions: Sequence[Condition]) -> bool:
        equal = {name for name, _, relation in conditions if relation == "="}
        return any(equal.issuperset(unique) for unique in (self._table.key, *self._table.unique))

    def _conditions(
        self, where: Mapping[str, Any] | None, above: Mapping[str, Any] | None
    ) -> tuple[tuple[Condition, ...], list[Any]]:
        conditions: list[Condition] = []
        values: list[Any] = [self._tenant_id]
        for name, value in (where or {}).items():
            kind = self._table.columns[name]
            if value is None:
                conditions.append((name, kind, "null"))
            elif isinstance(value, str) and value in self._table.indexed_values.get(name, ()):
                conditions.append((name, kind, f"'{value}'"))
            elif isinstance(value, tuple) and len(value) > 1:
                conditions.append((name, kind, "any"))
                values.append(to_json([_in(each) for each in value]).decode())
            else:
                # For a tuple a planner expects ten values, even if it has one.
                conditions.append((name, kind, "="))
                values.append(_in(value[0] if isinstance(value, tuple) else value))
        for name, value in (above or {}).items():
            conditions.append((name, self._table.columns[name], ">"))
            values.append(_in(value))
        return tuple(conditions), values

    def _encoded(self, rows: Sequence[Row], columns: Sequence[Column]) -> str:
        given = [{name: _in(row[name]) for name, _ in columns} for row in rows]
        return encode_document(self._table.name, {"rows": given}).decode()

    def _out(self, kind: Kind, value: Any) -> Any:
        if value is None:
            return None
        if kind == "json":
            return from_json(value)
        if kind == "time":
            return self._load_time(value)
        return bool(value) if kind == "boolean" else value


def json_text(encoded: bytes | None) -> str | None:
    """Return JSON as the drivers take it."""
    return encoded.decode() if encoded is not None else None


def json_bytes(text: str | None) -> bytes | None:
    """Return JSON, read as text, in bytes."""
    return text.encode() if text is not None else None


def names_text(names: tuple[str, ...]) -> str | None:
    """Return names as the drivers take them, as JSON; None for none."""
    return to_json(names).decode() if names else None


def names_in(text: str | None) -> tuple[str, ...]:
    """Return the names in this JSON, read as text."""
    return tuple(from_json(text)) if text is not None else ()


def _matches_nothing(where: Mapping[str, Any] | None) -> bool:
    return any(value == () for value in (where or {}).values())


def _in(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return value


# The statements. Callers name tables and columns in a few combinations only, so that the texts are cached.


@cache
def find_statement(
    dialect: RowsDialect,
    table: str,
    columns: tuple[Column, ...],
    conditions: tuple[Condition, ...],
    order: tuple[str, ...],
    limited: bool,
    lock: bool,
    descending: bool = False,
) -> str:
    """Return the query with the parameters tenant, values of the conditions, and limit, if any."""
    selected = ", ".join(dialect.read[kind].format(name=name) for name, kind in columns)
    # If all rows are wanted, the conditions choose the index, not the order.
    ordered = _order(order if limited else map(dialect.sorted.format, order), descending)
    return (
        f"SELECT {selected}\n"
        f"FROM {dialect.schema}.{table}\n"
        f"WHERE {_where(dialect, conditions)}"
        + (f"\nORDER BY {ordered}" if order else "")
        + (f"\nLIMIT {dialect.limit}" if limited else "")
        + (dialect.lock if lock else "")
    )


@cache
def page_statement(
    dialect: RowsDialect,
    table: str,
    columns: tuple[Column, ...],
    conditions: tuple[Condition, ...],
    order: tuple[str, ...],
    descending: bool = False,
) -> str:
    """Return the query for a page, with the parameters of `find_statement`. A row's last column is its bytes."""
    return dialect.page(
        PageQuery(
            table=f"{dialect.schema}.{table}",
            columns=", ".join(dialect.read[kind].format(name=name) for name, kind in columns),
            keys=order,
            json=[name for name, kind in columns if kind == "json"],
            where=_where(dialect, conditions),
            order=_order(order, descending),
            limit=dialect.limit,
        )
    )


@cache
def insert_statement(dialect: RowsDialect, table: str, columns: tuple[Column, ...]) -> str:
    """Return the statement with the parameters rows and tenant."""
    names = ", ".join(name for name, _ in columns)
    return (
        f"{_given(dialect, columns)}\n"
        f"INSERT INTO {dialect.schema}.{table} (tenant_id, {names})\n"
        f"SELECT {dialect.tenant}, {names}\n"
        f"FROM given"
    )


@cache
def update_statement(
    dialect: RowsDialect, table: str, columns: tuple[Column, ...], key: tuple[str, ...], most: int
) -> str:
    """Return the statement with the parameters rows, `most` at most, and tenant. It returns a row for each changed
    row."""
    changed = ", ".join(f"{name} = given.{name}" for name, _ in columns if name not in key)
    equals = dialect.operator.format("=")
    found = " AND ".join(f"t.{name} {equals} given.{name}" for name in key)
    return (
        f"{_given(dialect, columns, most)}\n"
        f"UPDATE {dialect.schema}.{table} AS t\n"
        f"SET {changed}\n"
        f"FROM given\n"
        f"WHERE t.tenant_id {equals} {dialect.mark} AND {found}\n"
        f"RETURNING true"
    )


@cache
def delete_statement(dialect: RowsDialect, table: str, conditions: tuple[Condition, ...]) -> str:
    """Return the statement with the parameters tenant and values of the conditions. It returns a row for each deleted
    row."""
    return f"DELETE FROM {dialect.schema}.{table}\nWHERE {_where(dialect, conditions)}\nRETURNING true"


def _order(columns: Iterable[str], descending: bool) -> str:
    return ", ".join(f"{column} DESC" if descending else column for column in columns)


def _where(dialect: RowsDialect, conditions: Sequence[Condition]) -> str:
    said = [f"tenant_id {dialect.operator.format('=')} {dialect.mark}"]
    for name, kind, relation in conditions:
        if relation == "any":
            said.append(dialect.any_of[kind].format(name=name))
        elif relation.startswith("'"):
            said.append(f"{name} {dialect.operator.format('=')} {relation}")
        else:
            compared = f"{name} {dialect.operator.format(relation)} {dialect.mark}"
            said.append(f"{name} IS NULL" if relation == "null" else compared)
    return "\n    AND ".join(said)


def _given(dialect: RowsDialect, columns: Sequence[Column], most: int | None = None) -> str:
    # Materialized, because the given rows would be parsed again for each row of a table in the outer loop. The limit
    # tells the planner how many rows to expect: for its default of a hundred it reads all rows of a tenant.
    described = ", ".join(dialect.column[kind].format(name=name) for name, kind in columns)
    taken = ", ".join(dialect.given[kind].format(name=name) for name, kind in columns)
    limit = f"\n    LIMIT {most}" if most is not None else ""
    return (
        f"WITH given AS MATERIALIZED (\n    SELECT {taken}\n    FROM {dialect.rows.format(columns=described)}{limit}\n)"
    )
