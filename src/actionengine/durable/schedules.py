"""Rows of schedules in DBOS's table, and one row that changes with them, by which a reader notices changes."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

SCHEDULES = "actionengine.schedules"
"""The application of the schedules for DBOS. DBOS serves only those of another application by itself."""

_MARK = "actionengine.mark"
"""The name of the row that changes with each schedule. It is never active, and so not a schedule itself."""


def replace_schedule(
    database: Any, name: str, function: str, cron: str, timezone: str | None, context: Any, queue: str
) -> None:
    """Add a schedule, or replace the one of the same name."""
    schedule: Any = {
        "schedule_id": str(uuid4()),
        "schedule_name": name,
        "workflow_name": function,
        "workflow_class_name": None,
        "schedule": cron,
        "status": "ACTIVE",
        "context": database.serializer.serialize(context),
        "cron_timezone": timezone,
        "queue_name": queue,
        "application_name": SCHEDULES,
    }
    with database.engine.begin() as connection:
        database.delete_schedule(name, connection)
        database.create_schedule(schedule, connection)
        _change_mark(database, connection)


def remove_schedule(database: Any, name: str) -> None:
    """Remove a schedule if it exists."""
    table = database.tables.workflow_schedules
    with database.engine.begin() as connection:
        if connection.execute(delete(table).where(table.c.schedule_name == name)).rowcount:
            _change_mark(database, connection)


def read_mark(database: Any) -> str | None:
    """Return a text that differs after each change of a schedule; None before the first change."""
    table = database.tables.workflow_schedules.c
    with database.engine.connect() as connection:
        mark: str | None = connection.execute(select(table.context).where(table.schedule_name == _MARK)).scalar()
    return mark


def _change_mark(database: Any, connection: Connection) -> None:
    values = {"context": str(uuid4())}
    row = {
        "schedule_id": _MARK,
        "schedule_name": _MARK,
        "workflow_name": _MARK,
        "schedule": "",
        "status": "PAUSED",
        "application_name": SCHEDULES,
        **values,
    }
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(database.tables.workflow_schedules).values(row)
    connection.execute(statement.on_conflict_do_update(index_elements=["schedule_name"], set_=values))
