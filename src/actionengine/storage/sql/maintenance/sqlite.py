"""Maintenance on SQLite: transactions in which the triggers that refuse changes are gone."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from actionengine.storage.sql.grants import quoted

_TRIGGERS = "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger'"


@contextmanager
def without_triggers(connection: Connection, tables: Collection[str]) -> Iterator[None]:
    """Drop the triggers of tables, and create them again after the block. No other transaction sees them missing."""
    triggers = [row for row in connection.exec_driver_sql(_TRIGGERS) if row[1] in tables]
    for name, _, _ in triggers:
        connection.exec_driver_sql(f"DROP TRIGGER {quoted(name)}")
    yield
    for *_, statement in triggers:
        connection.execution_options(no_parameters=True).exec_driver_sql(statement)
