"""A program that starts hosts for tests to kill. A host is a process that executes transfers, in threads or in tasks,
and records its requests and their results.

The program reads orders, one a line. For each it forks a host, prints its process id, and later its exit code.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from random import uniform
from typing import Any, NamedTuple
from uuid import UUID

from returns.result import Success

from actionengine import ErrorCode, PostgresStorage, SQLiteStorage, Tenant
from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.storage.postgres.driver import Statement
from actionengine.storage.postgres.unit_of_work import PostgresUnitOfWork
from actionengine.storage.rows import Claim, ClaimAnswer
from actionengine.storage.sql.storage import SQLStorage
from actionengine.storage.sql.unit_of_work import SQLUnitOfWork
from actionengine.storage.sqlite.statements import WRITE_EVENT
from actionengine.storage.sqlite.unit_of_work import SQLiteUnitOfWork
from tests.crash.ledger import execute_transfer, ledger_engine

POINTS = (
    "after the claim",
    "in the handler",
    "before the commit",
    "while recording",
    "during the commit",
    "after the commit",
)
"""The points where a host can die, in the order in which an execution reaches them."""

WORKERS = 4
LIFETIME = 600.0
"""Seconds after which a host that was not killed ends by itself."""


class Order(NamedTuple):
    """The task of a host: work on `url` for a tenant, with keys that begin with `run`, and, if a `point` is named, die
    when it reaches the point for the time `number`."""

    url: str
    mode: Mode
    tenant_id: str
    slug: str
    run: str
    journal: str
    point: str | None = None
    number: int = 1

    @property
    def tenant(self) -> Tenant:
        return Tenant(UUID(self.tenant_id), self.slug)


class Fuse:
    """A fuse that kills this process when it reaches its point often enough."""

    def __init__(self, point: str | None, number: int) -> None:
        self.point = point
        self._number = number
        self._times = count(1)

    def reach(self, point: str) -> None:
        if self.is_due(point):
            die()

    def is_due(self, point: str) -> bool:
        return point == self.point and next(self._times) == self._number


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_soon() -> None:
    """Die within the next 2 ms, somewhere in the next steps of this process."""

    def wait_and_die() -> None:
        time.sleep(uniform(0.0, 0.002))
        die()

    threading.Thread(target=wait_and_die).start()


def has_result(unit: SQLUnitOfWork) -> bool:
    """Return whether a unit of work is about to commit a success, and not the log of a failure."""
    return any(recording.results for recording in unit._recordings)


class Fused(SQLUnitOfWork):
    """A unit of work that can be killed at these points."""

    fuse: Fuse

    async def claim(self, claim: Claim, wait: float) -> ClaimAnswer:
        answer = await super().claim(claim, wait)
        self.fuse.reach("after the claim")
        return answer

    async def commit(self) -> None:
        if not has_result(self):
            return await super().commit()
        self.fuse.reach("before the commit")
        if self.fuse.is_due("during the commit"):
            die_soon()
        await super().commit()
        self.fuse.reach("after the commit")
        return None


class FusedPostgresUnitOfWork(Fused, PostgresUnitOfWork):
    def _send_last(self, *statements: Statement, first: Sequence[Statement] = ()) -> None:
        recording = statements[: statements.index(("COMMIT", ()))] if ("COMMIT", ()) in statements else ()
        # A read-only action commits with nothing to record.
        if recording and self.fuse.is_due("while recording"):
            self._driver.execute(*recording)
            die()
        super()._send_last(*statements, first=first)


class FusedSQLiteUnitOfWork(Fused, SQLiteUnitOfWork):
    def execute(self, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        if statement == WRITE_EVENT:
            self.fuse.reach("while recording")
        return super().execute(statement, parameters)


class FusedPostgresStorage(PostgresStorage):
    fuse: Fuse

    def unit_of_work(
        self, tenant: Tenant, action_id: str, mode: Mode, read_only: bool = False
    ) -> FusedPostgresUnitOfWork:
        unit = FusedPostgresUnitOfWork(self.database, tenant, action_id, mode, read_only)
        unit.fuse = self.fuse
        return unit


class FusedSQLiteStorage(SQLiteStorage):
    fuse: Fuse

    def unit_of_work(
        self, tenant: Tenant, action_id: str, mode: Mode, read_only: bool = False
    ) -> FusedSQLiteUnitOfWork:
        unit = FusedSQLiteUnitOfWork(self.database, tenant, action_id, mode, read_only)
        unit.fuse = self.fuse
        return unit


class Host:
    """A host, whose workers execute one transfer after the other until it is killed."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self._journal = os.open(order.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        fuse = Fuse(order.point, order.number)
        self.engine = ledger_engine(fused_storage(order, fuse), fuse.reach)

    def work(self) -> None:
        if self.order.mode == "async":
            asyncio.run(self._work_in_tasks())
            return
        threads = [threading.Thread(target=self._work_in_thread, args=(number,)) for number in range(WORKERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    async def _work_in_tasks(self) -> None:
        await asyncio.gather(*(self._work(number) for number in range(WORKERS)))

    def _work_in_thread(self, worker: int) -> None:
        run_sync(self._work(worker))

    async def _work(self, worker: int) -> None:
        for number in count():
            key = f"{self.order.run}/{worker}/{number}"
            self._note("asked", key)
            while not isinstance(
                answer := await execute_transfer(self.engine, self.order.mode, self.order.tenant, key), Success
            ):
                if answer.failure().code is not ErrorCode.CONFLICT:
                    self._note("failed", key, str(answer.failure().code))
                    break
            else:
                self._note("acknowledged", key, answer.unwrap())

    def _note(self, *words: Any) -> None:
        os.write(self._journal, json.dumps(words).encode() + b"\n")


def fused_storage(order: Order, fuse: Fuse) -> SQLStorage:
    storage: FusedPostgresStorage | FusedSQLiteStorage
    if order.url.startswith("sqlite"):
        storage = FusedSQLiteStorage(order.url, busy_timeout=60.0)
    else:
        storage = FusedPostgresStorage(order.url, application_name=Path(order.journal).name)
    storage.fuse = fuse
    return storage


def live(order: Order) -> None:
    """Run a host, and end the process."""
    timer = threading.Timer(LIFETIME, os._exit, (3,))
    timer.daemon = True
    timer.start()
    try:
        Host(order).work()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(4)


def main() -> None:
    for line in sys.stdin:
        order = Order(*json.loads(line))
        child = os.fork()
        if child == 0:
            live(order)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
