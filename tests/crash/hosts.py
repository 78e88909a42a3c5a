"""Hosts as the tests see them: their databases, their start and end, and their journals."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import psycopg
from examples.embedded_postgres import Database

from actionengine import PostgresStorage, SQLiteStorage, Tenant
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.sql.storage import SQLStorage
from tests.crash.host import Order
from tests.programs import Program
from tests.waiting import wait_until


class SQLDatabase(ABC):
    """A database that hosts work on."""

    url: str

    @abstractmethod
    def storage(self) -> SQLStorage:
        """Return a new storage."""

    @abstractmethod
    def settle(self, name: str) -> None:
        """Wait until the database has ended the work of a killed host, and check that it is intact."""


class SQLiteBackend(SQLDatabase):
    """A file."""

    def __init__(self, path: Path) -> None:
        self.url = f"sqlite:///{path}"

    def storage(self) -> SQLiteStorage:
        return SQLiteStorage(self.url, busy_timeout=60.0)

    def settle(self, name: str) -> None:
        with self.storage() as storage:
            unit = storage.unit_of_work(Tenant(uuid4(), "nobody"), "", "sync", read_only=True)
            assert unit.query("PRAGMA main.integrity_check", ()) == [("ok",)]
            run_sync(unit.rollback())


class PostgresBackend(SQLDatabase):
    """A database of a server."""

    def __init__(self, database: Database) -> None:
        self.url = database.app_url

    def storage(self) -> PostgresStorage:
        return PostgresStorage(self.url)

    def settle(self, name: str) -> None:
        # The server may still run the last statement of the host.
        statement = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
        with psycopg.connect(self.url, autocommit=True) as connection:
            wait_until(lambda: connection.execute(statement, (name,)).fetchone() == (0,))


class Journal(NamedTuple):
    """The requests of a host, with their results and failures."""

    asked: list[str]
    acknowledged: dict[str, Any]
    failed: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Journal:
        journal = cls([], {}, {})
        for line in path.read_text().splitlines() if path.exists() else ():
            word, key, *rest = json.loads(line)
            if word == "asked":
                journal.asked.append(key)
            else:
                (journal.acknowledged if word == "acknowledged" else journal.failed)[key] = rest[0]
        return journal


class HostStarter:
    """Starts one host after the other, in processes of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program = Program("tests.crash.host", folder)

    def start(self, order: Order) -> int:
        """Start a host; return its process id."""
        return int(self._program.ask(order))

    def journal_path(self) -> Path:
        """Return a path for the journal of the next host. Its name is also the host's, for the database."""
        return self._folder / f"host-{uuid4().hex}"

    def see_it_killed(self) -> None:
        """Wait for the end of the host, which must be by SIGKILL."""
        ended = self._program.hear()
        assert ended == -signal.SIGKILL, f"the host ended with {ended}: {self._program.errors()}"

    def close(self) -> None:
        self._program.close()


def kill_in_the_middle(pid: int, journal: Path, dice: random.Random) -> None:
    """Kill a host at some moment while it works."""
    wait_until(lambda: journal.exists() and b"acknowledged" in journal.read_bytes())
    time.sleep(dice.uniform(0.0, 0.06))
    os.kill(pid, signal.SIGKILL)
