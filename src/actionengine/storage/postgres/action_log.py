"""The action log as a transaction on PostgreSQL reads it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import Any
from uuid import UUID

from actionengine.storage.postgres import statements as sql
from actionengine.storage.postgres.rows import array, log_row
from actionengine.storage.rows import EmittedEvent, LogRow
from actionengine.storage.sql.action_log import Examined, LogWalks, WalkStatements
from actionengine.storage.sql.rows import names_in
from actionengine.storage.sql.transaction import Transaction

_WALKS = WalkStatements(sql.FIND_LOG, sql.FIND_LOG_BESIDE, sql.COUNT_LOG)


class PostgresLog(LogWalks):
    """The statements that read the action log."""

    def __init__(self, transaction: Transaction) -> None:
        super().__init__(transaction, _WALKS, _same, _examined)

    def having(self, column: str, value: str, ids: Sequence[UUID]) -> list[UUID]:
        """Return those of the rows that have a subject, or a word of the reason."""
        return [id for (id,) in self._query(sql.LOG_WITH[column], (array(ids), self._tenant_id, value))]

    def read(self, ids: Sequence[UUID]) -> list[tuple[LogRow, int]]:
        """Return the rows with these ids, newest first, with their bytes, up to those of a page."""
        rows = self._query(sql.READ_LOG, (array(ids), self._tenant_id))
        return [(log_row(tuple(row)), bytes) for *row, bytes in rows]

    def read_upwards(self, ids: Sequence[str]) -> list[tuple[LogRow, int]]:
        """Return the rows with these ids, oldest first, with their bytes, up to those of a page."""
        rows = self._query(sql.READ_LOG_UPWARDS, (array(ids), self._tenant_id))
        return [(log_row(tuple(row)), bytes) for *row, bytes in rows]

    def linked(self, link: str, values: Sequence[str], limit: int) -> list[str]:
        """Return the ids of rows by a column, oldest first."""
        rows = self._query(sql.FIND_LINKED[link], (array(values), self._tenant_id, limit, limit))
        return [str(id) for (id,) in rows]

    def emitted(self, link: str, values: Sequence[str], limit: int) -> list[EmittedEvent]:
        """Return events by a column, oldest first."""
        rows = self._query(sql.FIND_EMITTED[link], (array(values), self._tenant_id, limit, limit))
        return [_emitted(*row) for row in rows]


def _same(id: UUID) -> UUID:
    return id


def _examined(*columns: Any) -> Examined:
    *others, chain = columns
    row = Examined._make((*others, names_in(chain)))
    return row if row.parent_id is None else row._replace(parent_id=str(row.parent_id))


def _emitted(*columns: Any) -> EmittedEvent:
    event = EmittedEvent(*columns)
    return event._replace(
        id=str(event.id), action_id=str(event.action_id), occurred_at=event.occurred_at.astimezone(UTC)
    )
