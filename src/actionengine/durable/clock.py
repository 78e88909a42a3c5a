"""The durable engine's timers by the clock of its database. DBOS uses the clock of each process: a timer of one process
would be early or late in another one."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.engine import Connection

from actionengine.storage.clock import steady_now


def now_in(connection: Connection) -> int:
    """Return the time in milliseconds, by the clock of the database; for a SQLite file, by that of the machine."""
    if connection.dialect.name == "sqlite":
        return int(steady_now().timestamp() * 1000)
    return int(connection.execute(select(func.extract("epoch", func.clock_timestamp()) * 1000)).scalar_one())


def release_due(database: Any) -> None:
    """Put executions whose delay is over on their queues; `database` is DBOS's system database."""
    table = database.tables.workflow_status.c
    with database.engine.begin() as connection:
        is_due = (table.status == "DELAYED") & (table.delay_until_epoch_ms <= now_in(connection))
        connection.execute(update(database.tables.workflow_status).where(is_due).values(status="ENQUEUED"))
