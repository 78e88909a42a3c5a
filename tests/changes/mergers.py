"""A program that starts processes which merge changes and can be killed, and the tests' side of it.

The program reads lines, each a list of jobs, and forks a process for each job. It prints their ids, and then how they
ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from returns.result import Success
from sqlalchemy.pool import PoolProxiedConnection

from actionengine import PostgresStorage, SQLiteStorage, Tenant
from actionengine.concurrency.run_sync import Mode
from actionengine.storage.postgres.database import PostgresDatabase
from actionengine.storage.postgres.driver import LibpqConnection, Row, Statement
from actionengine.storage.sql.storage import SQLStorage
from tests.changes.sync_harness import SyncHarness
from tests.programs import Program

LIFETIME = 600.0
"""Seconds after which a process that was not killed ends by itself."""


class Job(NamedTuple):
    """Changes that a process merges in some threads, each with its id as the idempotency key; the journal of its
    requests and answers; and the number of the statement at which it dies."""

    url: str
    tenant_id: str
    slug: str
    changes: Sequence[str]
    journal: str
    threads: int = 4
    dies_at: int | None = None


class Fuse:
    """A countdown that kills this process at the statement number `dies_at`, once that is set."""

    dies_at: int | None = None
    number: Iterator[int] = count(1)

    @classmethod
    def burn(cls) -> None:
        if cls.is_due():
            die()

    @classmethod
    def is_due(cls) -> bool:
        return cls.dies_at is not None and next(cls.number) == cls.dies_at


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class FusedDriver(LibpqConnection):
    """A connection that can die before each of the statements that are sent together."""

    __slots__ = ()

    def execute(
        self,
        *statements: Statement,
        until: float | None = None,
        first: Sequence[Statement] = (),
        last: Sequence[Statement] = (),
    ) -> list[Row]:
        for place in range(len(statements)):
            if Fuse.is_due():
                if place:
                    super().execute(*statements[:place], until=until, first=first)
                die()
        return super().execute(*statements, until=until, first=first, last=last)


class FusedDatabase(PostgresDatabase):
    def driver(self, pooled: PoolProxiedConnection, mode: Mode) -> LibpqConnection:
        driver = super().driver(pooled, mode)
        driver.__class__ = FusedDriver
        return driver


class Merger:
    """One process, which merges changes."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.storage = self._open()
        self.harness = SyncHarness(self.storage, Tenant(UUID(job.tenant_id), job.slug))
        self._journal = os.open(job.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def work(self) -> None:
        self._arm()
        with ThreadPoolExecutor(self.job.threads) as threads:
            list(threads.map(self._merge, self.job.changes))
        self.storage.close()

    def _open(self) -> SQLStorage:
        if self.job.url.startswith("sqlite"):
            return SQLiteStorage(self.job.url, busy_timeout=60.0)
        storage = PostgresStorage(self.job.url, application_name=Path(self.job.journal).name)
        storage.database.__class__ = FusedDatabase
        return storage

    def _arm(self) -> None:
        self.harness.do("projects.list")
        if self.job.dies_at is None:
            return
        if isinstance(self.storage, SQLiteStorage):
            _, pooled = self.storage.pools.take("sync")
            driver: Any = pooled.driver_connection
            # Called for each statement, and for each trigger that fires in the middle of one.
            driver.set_trace_callback(lambda statement: Fuse.burn())
            pooled.close()
        Fuse.dies_at = self.job.dies_at

    def _merge(self, change: str) -> None:
        self._note("asked", change)
        answer = self.harness.request("changes.merge", {"change_id": change}, key=change)
        Fuse.burn()
        if isinstance(answer, Success):
            self._note("acknowledged", change, answer.unwrap().applied_count)
        else:
            self._note("failed", change, str(answer.failure().code))

    def _note(self, *words: Any) -> None:
        os.write(self._journal, json.dumps(words).encode() + b"\n")


class Mergers:
    """The tests' side: starts processes, a few at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program = Program("tests.changes.mergers", folder)

    def start(self, *jobs: Job) -> list[int]:
        """Start a process for each job; return their ids."""
        pids: list[int] = self._program.ask(jobs)
        return pids

    def ends(self) -> list[int]:
        """Return how the last started processes have ended: 0, or the signal as a negative number."""
        ends: list[int] = self._program.hear()
        assert set(ends) <= {0, -signal.SIGKILL}, self._program.errors()
        return ends

    def journal_path(self) -> Path:
        """Return a path for the next process's journal; its name is also the application name for the database."""
        return self._folder / f"merger-{uuid4().hex}"

    def close(self) -> None:
        self._program.close()


def live(job: Job) -> None:
    """Run a job in this process."""
    timer = threading.Timer(LIFETIME, os._exit, (3,))
    timer.daemon = True
    timer.start()
    try:
        Merger(job).work()
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(4)


def fork(job: Job) -> int:
    child = os.fork()
    if child == 0:
        live(job)
    return child


def main() -> None:
    with closing(sys.stdin) as orders:
        for line in orders:
            children = [fork(Job(*job)) for job in json.loads(line)]
            print(json.dumps(children), flush=True)
            ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
            print(json.dumps(ends), flush=True)


if __name__ == "__main__":
    main()
