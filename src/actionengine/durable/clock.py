"""The durable engine's timers by one clock, that of its database. DBOS goes by the clock of each process instead: a
timer of one process would be early or late in another one."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.engine import Connection

from actionengine.storage.clock import steady_now


def now_in(connection: Connection) -> int:
    """Return the time in milliseconds, by the clock of the database; a file has that of the machine."""
    if connection.dialect.name == "sqlite":
        return int(steady_now().timestamp() * 1000)
    return int(connection.execute(select(func.extract("epoch", func.clock_timestamp()) * 1000)).scalar_one())


def release_due(database: Any) -> None:
    """Put what was to wait until now on its queue; `database` is DBOS's system database."""
    table = database.tables.workflow_status.c
    with database.engine.begin() as connection:
        is_due = (table.status == "DELAYED") & (table.delay_until_epoch_ms <= now_in(connection))
        connection.execute(update(database.tables.workflow_status).where(is_due).values(status="ENQUEUED"))
