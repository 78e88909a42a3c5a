"""Subjects of the action log for a host's own tables: the rows of protected tables that a session has changed.

A row's subject is `table/key`. The key is the primary key without the tenant's column, with commas between its parts.
`table/*` stands for rows without a subject of their own: rows that a statement has changed, and those beyond
`MAX_FLUSHED_SUBJECTS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from sqlalchemy import Table, inspect
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Mapper, Session, UOWTransaction

from actionengine.storage.rows import MAX_FLUSHED_SUBJECTS, UNNAMED_ROWS
from actionengine.storage.sql.protection import declaration_of


class FlushedSubjects:
    """The subjects that a session has recorded since they were last taken, each once, oldest first."""

    __slots__ = ("_recorded",)

    def __init__(self) -> None:
        self._recorded: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._recorded)

    def take(self) -> list[str]:
        """Return the recorded subjects, and forget them."""
        recorded, self._recorded = self._recorded, {}
        return list(recorded)

    def undo_to(self, count: int) -> None:
        """Forget the subjects after the first `count`: the changes were rolled back."""
        while len(self._recorded) > count:
            self._recorded.popitem()

    def record_flush(self, session: Session, flush: UOWTransaction) -> None:
        """Record the rows that a flush has written."""
        for state, (is_deleted, is_listed_only) in flush.states.items():
            row = state.obj()
            if is_listed_only or row is None or not (tables := _named_tables(state.mapper)):
                continue
            before = state.key[1] if state.key is not None else None
            if before is not None and not is_deleted and not session.is_modified(row, include_collections=False):
                continue
            after = before if is_deleted else state.mapper.primary_key_from_instance(row)
            for table in tables:
                for values in filter(None, dict.fromkeys((tuple(before or ()), tuple(after or ())))):
                    self._record(table, _key(table, state.mapper.primary_key, values))

    def record_statement(self, statement: Any, result: Any) -> None:
        """Record the rows of an INSERT, UPDATE or DELETE: one row if its key is known, otherwise `table/*`."""
        table = getattr(statement, "table", None)
        if not isinstance(table, Table) or not _is_named(table):
            return
        key = UNNAMED_ROWS
        with suppress(AttributeError, InvalidRequestError, TypeError):
            values = tuple(result.inserted_primary_key)
            if values and None not in values:
                key = _key(table, table.primary_key.columns, values)
        self._record(table, key)

    def record_bulk(self, mapper_or_rows: Any) -> None:
        """Record the rows of one of the session's bulk methods: those of a mapper, or objects."""
        given = [mapper_or_rows] if isinstance(mapper_or_rows, (type, Mapper)) else map(type, mapper_or_rows)
        for each in dict.fromkeys(given):
            for table in _named_tables(inspect(each).mapper):
                self._record(table, UNNAMED_ROWS)

    def _record(self, table: Table, key: str) -> None:
        subject = f"{table.fullname}/{key}"
        if subject not in self._recorded and len(self._recorded) >= MAX_FLUSHED_SUBJECTS:
            subject = f"{table.fullname}/{UNNAMED_ROWS}"
        self._recorded.setdefault(subject)


def _named_tables(mapper: Mapper[Any]) -> list[Table]:
    return [table for table in mapper.tables if isinstance(table, Table) and _is_named(table)]


def _is_named(table: Table) -> bool:
    declaration = declaration_of(table)
    return declaration is not None and declaration.subjects


def _key(table: Table, columns: Iterable[Any], values: Iterable[Any]) -> str:
    declaration = declaration_of(table)
    assert declaration is not None
    parts = list(zip((column.name for column in columns), values, strict=False))
    own = [value for name, value in parts if name != declaration.tenant_column]
    return ",".join(_texts(own or (value for _, value in parts)))


def _texts(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        yield value.hex() if isinstance(value, bytes) else str(value)
