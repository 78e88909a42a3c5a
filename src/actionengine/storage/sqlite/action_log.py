"""The action log as a transaction on SQLite reads it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic_core import to_json

from actionengine.storage.rows import EmittedEvent, LogRow
from actionengine.storage.sql.action_log import Examined, LogWalks, WalkStatements
from actionengine.storage.sql.rows import names_in
from actionengine.storage.sql.transaction import Transaction
from actionengine.storage.sqlite import statements as sql
from actionengine.storage.sqlite.rows import log_row

_WALKS = WalkStatements(sql.FIND_LOG, sql.FIND_LOG_BESIDE, sql.COUNT_LOG)


class SQLiteLog(LogWalks):
    """The statements that read the action log."""

    def __init__(self, transaction: Transaction) -> None:
        super().__init__(transaction, _WALKS, str, _examined)

    def having(self, column: str, value: str, ids: Sequence[UUID]) -> list[UUID]:
        """Return those of the rows that have a subject, or a word of the reason."""
        return [UUID(id) for (id,) in self._query(sql.LOG_WITH[column], (self._tenant_id, value, _array(ids)))]

    def read(self, ids: Sequence[UUID]) -> list[tuple[LogRow, int]]:
        """Return the rows with these ids, newest first, with their bytes, up to those of a page."""
        rows = self._query(sql.READ_LOG, (self._tenant_id, _array(ids), len(ids)))
        return [(log_row(row), bytes) for *row, bytes in rows]

    def read_upwards(self, ids: Sequence[str]) -> list[tuple[LogRow, int]]:
        """Return the rows with these ids, oldest first, with their bytes, up to those of a page."""
        rows = self._query(sql.READ_LOG_UPWARDS, (self._tenant_id, _array(ids), len(ids)))
        return [(log_row(row), bytes) for *row, bytes in rows]

    def linked(self, link: str, values: Sequence[str], limit: int) -> list[str]:
        """Return the ids of rows by a column, oldest first."""
        rows = self._query(sql.FIND_LINKED[link], (_array(values), *(self._tenant_id,) * 2, limit, limit))
        return [id for (id,) in rows]

    def emitted(self, link: str, values: Sequence[str], limit: int) -> list[EmittedEvent]:
        """Return events by a column, oldest first."""
        rows = self._query(sql.FIND_EMITTED[link], (_array(values), *(self._tenant_id,) * 2, limit, limit))
        return [EmittedEvent(*row)._replace(occurred_at=datetime.fromisoformat(row[-1])) for row in rows]


def _array(items: Iterable[object]) -> str:
    return to_json(list(map(str, items))).decode()


def _examined(*columns: Any) -> Examined:
    id, *others, chain = columns
    row = Examined._make((UUID(id), *others, names_in(chain)))
    # All but the id are missing where a row of the log is.
    started_at = columns[Examined._fields.index("started_at")]
    return row._replace(started_at=datetime.fromisoformat(started_at) if started_at else None)
