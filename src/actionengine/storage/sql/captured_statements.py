"""The writes of a handler's own SQL, captured at the connection of its session.

All SQL of a session passes its connection: what a flush sends, Core statements, texts. A flush of mapped objects is
captured row by row, any other statement by its text and its parameters. The rows that a statement changes are read and
locked before it, so that they are the rows which it does change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from secrets import token_hex
from typing import Any

from sqlalchemy import Column, Delete, Insert, Select, Table, Update, bindparam, event, select, tuple_
from sqlalchemy.engine import Connection, CursorResult
from sqlalchemy.exc import InvalidRequestError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, ColumnElement, TextClause
from sqlalchemy.sql.operators import eq
from sqlalchemy.sql.selectable import SelectBase
from sqlalchemy.sql.visitors import iterate

from actionengine.storage.captured import CapturedWrite, WriteJournal, WriteKind, captured_json
from actionengine.storage.errors import SerializationFailure
from actionengine.storage.sql.protection import declaration_of

MAX_IMAGES = 1000
"""Rows of one statement that are read before and after it, at most. A larger one is captured by its text only."""

Row = dict[str, Any]
Rows = list[Row]
Names = tuple[str, ...]
Parameters = Mapping[str, Any]

_READ = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*(?:SELECT|VALUES|TABLE|SHOW|EXPLAIN|WITH|PRAGMA|SAVEPOINT|RELEASE|ROLLBACK)\b",
    re.IGNORECASE | re.DOTALL,
)
_WRITE = re.compile(
    r"\b(?:(?:INSERT|REPLACE|MERGE)(?:\s+OR\s+\w+)?\s+INTO|DELETE\s+FROM"
    r"|(?<!FOR\s)(?<!KEY\s)UPDATE(?:\s+OR\s+\w+)?)\s+(?:ONLY\s+)?(?!OF\b)([\w.\"]+)",
    re.IGNORECASE,
)


class CapturedStatements:
    """Reports the writes of one connection to journals."""

    def __init__(self) -> None:
        self._journals: list[WriteJournal] = []
        self._marks: dict[str, list[int]] = {}
        self._session: Session | None = None
        self._is_reading = False
        self._before: Rows | None = None
        self._expected: int | None = None
        # Rows that the statement has sent or changed, by the driver.
        self._sent = 0
        # Keys that the database has made, by column and value, each with a name that two runs share.
        self._made: dict[tuple[Column[Any], Any], str] = {}

    def add(self, journal: WriteJournal) -> None:
        """Report to a journal too, from now on."""
        if not any(each is journal for each in self._journals):
            self._journals.append(journal)

    def listen(self, connection: Connection, session: Session | None) -> None:
        """Capture what the connection of this session sends."""
        self._session = session
        event.listen(connection, "before_execute", self._before_execute, retval=True)
        event.listen(connection, "after_execute", self._after_execute)
        event.listen(connection, "before_cursor_execute", self._before_cursor_execute)
        event.listen(connection, "after_cursor_execute", self._after_cursor_execute)
        event.listen(connection, "savepoint", self._savepoint)
        event.listen(connection, "rollback_savepoint", self._rollback_savepoint)

    # Savepoints

    def _savepoint(self, connection: Connection, name: str) -> None:
        self._marks[name] = [len(journal) for journal in self._journals]

    def _rollback_savepoint(self, connection: Connection, name: str, context: object) -> None:
        for journal, mark in zip(self._journals, self._marks.get(name, ()), strict=False):
            journal.undo_to(mark)

    # Statements on tables

    def _before_execute(
        self, connection: Connection, statement: Any, many: Sequence[Parameters], one: Parameters, options: object
    ) -> tuple[Any, Sequence[Parameters], Parameters]:
        if self._is_reading or not _is_on_table(statement):
            return statement, many, one
        self._check_open()
        given = list(many) or [one]
        columns: Sequence[ColumnElement[Any]] = list(statement.table.primary_key)
        if isinstance(statement, Insert):
            keys = _inserted_keys(statement, given)
        else:
            columns, keys = _compared_keys(statement, given)
        self._before, self._expected, self._sent = None, None, 0
        if keys is not None:
            self._before = self._read(connection, statement.table, columns, keys, isinstance(statement, Delete))
            if self._before is not None and len(set(keys)) < len(keys):
                # Each repetition of a row counts as a changed row.
                self._expected = -1
        elif len(given) == 1 and not isinstance(statement, Insert):
            self._before = self._find(connection, statement, given[0])
            if self._before and _reads_other_rows(statement):
                # Other transactions may change these, and with them the rows that match.
                key = list(statement.table.primary_key)
                statement = statement.where(_is_among(key, [tuple(row[c.name] for c in key) for row in self._before]))
        if self._before is not None and self._expected is None:
            self._expected = len(self._before)
        return statement, many, one

    def _after_execute(
        self,
        connection: Connection,
        statement: Any,
        many: Sequence[Parameters],
        one: Parameters,
        options: object,
        result: CursorResult[Any],
    ) -> None:
        if self._is_reading or not _is_on_table(statement):
            return
        before, self._before = self._before, None
        table, is_flush = statement.table, self._session is not None and self._session._flushing
        sent: Sequence[Parameters] = result.context.compiled_parameters or [{}]
        if isinstance(statement, Insert):
            writes = self._inserted(table, sent, result) if is_flush else None
            rows = None if writes is not None or before is not None else _sent_rows(table, statement, sent)
            after = rows if before is None else self._reread(connection, table, statement, many, one)
        else:
            # SQLite counts rows of RETURNING when they are fetched. It has one writer at a time.
            count = -1 if result.returns_rows and connection.dialect.name == "sqlite" else result.rowcount
            if before is not None and -1 not in (count, self._expected) and count != self._expected:
                # A handler may catch this, and then its writes must equal those of no plan.
                self._add(CapturedWrite("statement", table.fullname, None, statement=f"unknown rows {token_hex(8)}"))
                raise SerializationFailure(f"rows of {table.fullname} have changed while a statement changed them")
            after = self._after(connection, statement, before, sent, is_flush)
            moves = isinstance(statement, Update) and any(each.key in sent[0] for each in table.primary_key)
            writes = self._changed(table, before, after) if is_flush and before is not None and not moves else None
        if writes is None:
            writes = [
                CapturedWrite(
                    "statement",
                    table.fullname,
                    None,
                    captured_json(before) if before is not None else None,
                    captured_json(after if after is not None else {"rows": self._sent}),
                    str(result.context.statement),
                    captured_json(sent[0] if len(sent) == 1 else sent),
                    _generated_by_update(table),
                )
            ]
        for write in writes:
            self._add(write)

    def _after(
        self, connection: Connection, statement: Any, before: Rows | None, sent: Sequence[Parameters], is_flush: bool
    ) -> Rows | None:
        if before is None or isinstance(statement, Delete):
            return None if before is None else []
        table = statement.table
        if is_flush and not statement._values and len(sent) == len(before) == 1:
            return [{**before[0], **{each.name: sent[0][each.key] for each in table.c if each.key in sent[0]}}]
        keys = [tuple(row[column.name] for column in table.primary_key) for row in before]
        return self._read(connection, table, list(table.primary_key), keys, locks=None)

    def _reread(
        self, connection: Connection, table: Table, statement: Insert, many: Sequence[Parameters], one: Parameters
    ) -> Rows | None:
        keys = _inserted_keys(statement, list(many) or [one])
        return self._read(connection, table, list(table.primary_key), keys, locks=None) if keys is not None else None

    def _read(
        self,
        connection: Connection,
        table: Table,
        columns: Sequence[ColumnElement[Any]],
        keys: Sequence[tuple[Any, ...]],
        locks: bool | None,
    ) -> Rows | None:
        """Return the rows with these values in these columns, locked for a deletion, for another change, or (None) not
        at all."""
        if not keys or len(keys) > MAX_IMAGES:
            return [] if not keys else None
        if len(keys) == 1:
            return self._rows(
                connection,
                table,
                _one_row(table, locks),
                {f"key_{number}": value for number, value in enumerate(keys[0])},
            )
        query = select(*table.c).where(_is_among(columns, keys)).order_by(*table.primary_key)
        return self._rows(connection, table, _locked(query, locks))

    def _find(self, connection: Connection, statement: Any, parameters: Parameters) -> Rows | None:
        """Return the rows that a statement will change, locked; None where there are too many, or the table has no
        key."""
        table = statement.table
        if not table.primary_key.columns:
            return None
        query = select(*table.c).order_by(*table.primary_key).limit(MAX_IMAGES + 1)
        if statement.whereclause is not None:
            query = query.where(statement.whereclause)
        query = query.with_for_update(of=table, key_share=isinstance(statement, Update))
        rows = self._rows(connection, table, query, parameters)
        # A condition on several tables may find a row more than once.
        return list({_key(table, row): row for row in rows}.values()) if len(rows) <= MAX_IMAGES else None

    def _rows(self, connection: Connection, table: Table, query: Any, parameters: Parameters | None = None) -> Rows:
        self._is_reading = True
        try:
            found = connection.execute(query, dict(parameters or {}))
            names = [column.name for column in table.c]
            return [dict(zip(names, row, strict=True)) for row in found]
        finally:
            self._is_reading = False

    # Rows

    def _inserted(
        self, table: Table, sent: Sequence[Parameters], result: CursorResult[Any]
    ) -> list[CapturedWrite] | None:
        """Return the rows that a flush has added; None where their keys are not known."""
        try:
            keys = [tuple(key or ()) for key in result.inserted_primary_key_rows]
        except (InvalidRequestError, AttributeError, TypeError):
            keys = []
        writes = []
        for number, values in enumerate(sent):
            row = {column.name: values[column.key] for column in table.c if column.key in values}
            generated = tuple(column.name for column in table.c if column.key not in values)
            for column, value in zip(table.primary_key, keys[number] if number < len(keys) else (), strict=False):
                row[column.name] = value
                if column.name in generated and value is not None:
                    self._made[column, value] = f"new {table.fullname}.{column.name} {len(self._made)}"
            if not table.primary_key.columns or any(row.get(each.name) is None for each in table.primary_key):
                return None
            writes.append(self._write("insert", table, None, row, generated))
        return writes

    def _changed(self, table: Table, before: Rows, after: Rows | None) -> list[CapturedWrite]:
        changed = {_key(table, row): row for row in after or ()}
        generated = _generated_by_update(table)
        kind: WriteKind = "update" if changed else "delete"
        return [self._write(kind, table, row, changed.get(_key(table, row)), generated) for row in before]

    def _write(
        self, kind: WriteKind, table: Table, before: Row | None, after: Row | None, generated: Names
    ) -> CapturedWrite:
        row = before if before is not None else after or {}
        first, last = (captured_json(each) if each is not None else None for each in (before, after))
        made = {each.name: label for each in table.c if (label := self._name_of(each, row.get(each.name)))}
        made_id = _key(table, {**row, **made}) if made else None
        return CapturedWrite(
            kind,
            table.fullname,
            _key(table, row),
            first,
            last,
            generated=generated,
            made=tuple(made.items()),
            made_id=made_id,
            key=tuple(row[column.name] for column in table.primary_key),
        )

    def _name_of(self, column: Column[Any], value: Any) -> str | None:
        """Return the name of a key that the database has made, for its column or one that refers to it."""
        if not self._made or value is None:
            return None
        name = self._made.get((column, value))
        for reference in column.foreign_keys:
            with suppress(SQLAlchemyError):
                name = name or self._made.get((reference.column, value))
        return name

    # Texts

    def _before_cursor_execute(
        self, connection: Connection, cursor: object, sql: str, parameters: Any, context: Any, many: bool
    ) -> None:
        if self._is_text_write(sql, context):
            self._check_open()

    def _after_cursor_execute(
        self, connection: Connection, cursor: Any, sql: str, parameters: Any, context: Any, many: bool
    ) -> None:
        if not self._is_reading:
            self._sent += cursor.rowcount
        if self._is_text_write(sql, context):
            given = context.compiled_parameters if context is not None and context.compiled is not None else parameters
            given = given[0] if isinstance(given, list) and len(given) == 1 else given
            named = _WRITE.search(sql)
            target = named[1].replace('"', "") if named is not None else "sql"
            rows = captured_json({"rows": cursor.rowcount}) if named is not None else None
            self._add(CapturedWrite("statement", target, None, None, rows, sql, captured_json(given)))

    def _is_text_write(self, sql: str, context: Any) -> bool:
        if self._is_reading:
            return False
        compiled = context.compiled if context is not None else None
        if compiled is not None and _is_on_table(compiled.statement):
            return False
        return _READ.match(sql) is None or _WRITE.search(sql) is not None

    def _add(self, write: CapturedWrite) -> None:
        for journal in self._journals:
            journal.add_sql(write)

    def _check_open(self) -> None:
        for journal in self._journals:
            journal.check_sql_open()


@lru_cache(maxsize=256)
def _one_row(table: Table, locks: bool | None) -> Select[Any]:
    """Return the query of the row with a key. To make it costs more than to run it."""
    key = [column == bindparam(f"key_{number}") for number, column in enumerate(table.primary_key)]
    return _locked(select(*table.c).where(*key), locks)


def _locked(query: Select[Any], locks: bool | None) -> Select[Any]:
    return query if locks is None else query.with_for_update(key_share=not locks)


def _is_among(columns: Sequence[ColumnElement[Any]], keys: Sequence[tuple[Any, ...]]) -> ColumnElement[bool]:
    if len(columns) == 1:
        return columns[0].in_([key[0] for key in keys])
    return tuple_(*columns).in_(list(keys))


def _reads_other_rows(statement: Any) -> bool:
    """Return whether the condition of a statement may depend on more than the columns of its own row."""
    return any(
        isinstance(each, SelectBase | TextClause)
        or (isinstance(each, Column) and getattr(each.table, "fullname", None) != statement.table.fullname)
        for each in iterate(statement.whereclause)
    )


def _is_on_table(statement: Any) -> bool:
    return isinstance(statement, Insert | Update | Delete) and isinstance(statement.table, Table)


def _compared_keys(
    statement: Any, given: Sequence[Parameters]
) -> tuple[list[Column[Any]], list[tuple[Any, ...]] | None]:
    """Return the columns of a key that a condition of equal columns names, and its values for each set of parameters;
    None for other conditions. With many sets, as a flush of rows with versions has, it may name more columns."""
    key = list(statement.table.primary_key)
    if not key or statement.whereclause is None:
        return key, None
    binds: dict[str, BindParameter[Any]] = {}
    clauses = getattr(statement.whereclause, "clauses", [statement.whereclause])
    for clause in clauses:
        if not isinstance(clause, BinaryExpression) or clause.operator is not eq:
            return key, None
        if not isinstance(clause.right, BindParameter) or not isinstance(clause.left, Column):
            return key, None
        binds[clause.left.name] = clause.right
    names = {column.name for column in key}
    if not names <= binds.keys() or (len(given) == 1 and names != binds.keys()):
        return key, None
    columns = [*key, *(column for column in statement.table.c if column.name in binds and not column.primary_key)]
    return columns, [tuple(_bound(binds[column.name], values) for column in columns) for values in given]


def _inserted_keys(statement: Insert, given: Sequence[Parameters]) -> list[tuple[Any, ...]] | None:
    """Return the keys of an INSERT that may change rows which exist (ON CONFLICT); None for others."""
    if getattr(statement, "_post_values_clause", None) is None:
        return None
    values = {getattr(name, "key", name): value for name, value in (getattr(statement, "_values", None) or {}).items()}
    keys = []
    for each in given:
        found = [each.get(column.key, values.get(column.key)) for column in statement.table.primary_key]
        key = tuple(value.value if isinstance(value, BindParameter) else value for value in found)
        if None in key or not key:
            return None
        keys.append(key)
    return keys


def _bound(bind: BindParameter[Any], values: Parameters) -> Any:
    return values.get(bind.key, bind.value)


def _sent_rows(table: Table, statement: Insert, sent: Sequence[Parameters]) -> Rows | None:
    if getattr(statement, "_multi_values", None) or getattr(statement, "select", None) is not None:
        return None
    return [{column.name: values[column.key] for column in table.c if column.key in values} for values in sent]


def _generated_by_update(table: Table) -> tuple[str, ...]:
    return tuple(
        column.name
        for column in table.c
        if column.server_onupdate is not None or (column.onupdate is not None and column.onupdate.is_clause_element)
    )


def _key(table: Table, row: Mapping[str, Any]) -> str:
    """Return the key of a row as the action log's subjects have it: without the tenant's column."""
    declaration = declaration_of(table)
    values = {column.name: row.get(column.name) for column in table.primary_key}
    own = [value for name, value in values.items() if declaration is None or name != declaration.tenant_column]
    return ",".join(value.hex() if isinstance(value, bytes) else str(value) for value in own or values.values())
