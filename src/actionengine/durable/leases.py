"""Leases: each executor renews its own in the durable engine's database, and takes over the work of dead executors.

A lease is over if it was not renewed in time, or if its process on this machine is gone. Times are those of the
database, so the clocks of machines need not agree.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import BigInteger, Column, Engine, MetaData, String, Table, delete, inspect, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from actionengine.durable.clock import now_in
from actionengine.durable.urls import SCHEMA


class Lease(NamedTuple):
    """The lease of an executor that was alive at `seen_at`, in milliseconds of the database's clock."""

    executor_id: str
    machine: str
    pid: int
    seen_at: int


class Leases:
    """The leases of all executors in a database, for one of them."""

    def __init__(self, engine: Engine, executor_id: str) -> None:
        self._engine = engine
        self._executor_id = executor_id
        self._machine = this_machine()
        self._is_sqlite = engine.dialect.name == "sqlite"
        self._table = leases_table(None if self._is_sqlite else SCHEMA)

    def has_table(self) -> bool:
        """Return whether the table exists."""
        return inspect(self._engine).has_table(self._table.name, self._table.schema)

    def create_table(self) -> None:
        """Create the table if it does not exist. This needs the right to create tables."""
        try:
            self._table.create(self._engine, checkfirst=True)
        except DBAPIError:
            # Another process may have created it at the same time.
            if not self.has_table():
                raise

    def renew(self) -> None:
        """Renew the lease of this executor."""
        dialect = sqlite if self._is_sqlite else postgresql
        with self._engine.begin() as connection:
            now = self._now(connection)
            values = {"machine": self._machine, "pid": os.getpid(), "seen_at": now}
            statement = dialect.insert(self._table).values(executor_id=self._executor_id, **values)
            connection.execute(statement.on_conflict_do_update(index_elements=["executor_id"], set_=values))

    def lapsed(self, seconds: float | None) -> Sequence[Lease]:
        """Return the leases that are over: those given up, those of processes of this machine that are gone,
        and, unless `seconds` is None, those not renewed for that long."""
        with self._engine.connect() as connection:
            oldest = 1 if seconds is None else self._now(connection) - int(seconds * 1000)
            rows = connection.execute(select(self._table).where(self._table.c.executor_id != self._executor_id))
            leases = [Lease(*row) for row in rows]
        return [each for each in leases if each.seen_at < oldest or self._is_gone(each)]

    def end(self, lease: Lease) -> None:
        """Delete a lease, unless it was renewed since."""
        same = (self._table.c.executor_id == lease.executor_id) & (self._table.c.seen_at == lease.seen_at)
        with self._engine.begin() as connection:
            connection.execute(delete(self._table).where(same))

    def give_up(self) -> None:
        """End the lease of this executor, so that others take over its work."""
        with self._engine.begin() as connection:
            own = self._table.c.executor_id == self._executor_id
            connection.execute(update(self._table).where(own).values(seen_at=0))

    def _is_gone(self, lease: Lease) -> bool:
        if lease.machine != self._machine:
            return False
        try:
            os.kill(lease.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        # This process has another executor now: the id differs.
        return lease.pid == os.getpid()

    def _now(self, connection: Connection) -> int:
        if not self._is_sqlite:
            return now_in(connection)
        # Processes that started before and after a change of the machine's clock must agree on living executors.
        milliseconds = text("SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)")
        return int(connection.execute(milliseconds).scalar_one())


def leases_table(schema: str | None) -> Table:
    """Return the table of leases, which is in the schema of the durable engine."""
    return Table(
        "actionengine_executors",
        MetaData(),
        Column("executor_id", String, primary_key=True),
        Column("machine", String, nullable=False),
        Column("pid", BigInteger, nullable=False),
        Column("seen_at", BigInteger, nullable=False),
        schema=schema,
    )


def this_machine() -> str:
    """Return an id of the place in which process numbers are unique: one boot of a machine, and one container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return socket.gethostname()
