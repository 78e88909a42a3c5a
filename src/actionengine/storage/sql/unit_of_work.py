"""A unit of work on a SQL database: what the pipeline asks of a transaction."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from time import monotonic
from typing import Any, ClassVar, TypeVar

from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.concurrency.uninterrupted import uninterrupted
from actionengine.context import Tenant
from actionengine.storage.counters import Counter, Reservation
from actionengine.storage.outbox import DeadLetter, QueueStatus
from actionengine.storage.pages import Page, page_of, page_size
from actionengine.storage.records import FIRST_ID, event_id
from actionengine.storage.rows import Claim, ClaimAnswer, EmittedEvent, EventLink, LogLink, LogQuery, LogRow, Recording
from actionengine.storage.sql.action_log import LogReader, find_events, find_log, read_page
from actionengine.storage.sql.bridge import greenlet_spawn, in_greenlet, on_loop, run_off_loop
from actionengine.storage.sql.database import Database
from actionengine.storage.sql.documents import SQLRecords
from actionengine.storage.sql.rows import SQLRows
from actionengine.storage.sql.savepoints import SavepointTransaction
from actionengine.storage.tables import Table

T = TypeVar("T")

ANSWER_TIMEOUT = 0.5
"""Seconds that a database has to answer beyond the deadline of an execution: its own limits come first."""


class SQLUnitOfWork(SavepointTransaction):
    """One transaction of one tenant, as the pipeline uses it."""

    _records_type: ClassVar[type[SQLRecords]]

    def __init__(self, database: Database, tenant: Tenant, action_id: str, mode: Mode, read_only: bool) -> None:
        super().__init__(database, tenant, action_id, mode, read_only)
        self._recordings: list[Recording] = []

    # The port

    async def now(self) -> datetime:
        """Return the time by the database's clock."""
        self._check_open()
        return self._clock() if self._pooled is not None else await self.run(self.time)

    async def claim(self, claim: Claim, wait: float) -> ClaimAnswer:
        """Claim a key, waiting up to `wait` seconds for another unit of work that holds it."""
        return await self.run(self._claim, claim, wait)

    def announce(self, reservations: Sequence[Reservation]) -> None:
        """Do nothing."""

    async def reserve(self, reservations: Sequence[Reservation]) -> Sequence[Reservation]:
        """Add amounts to counters of budgets. Return those without room."""
        self.track_write("budgets")
        return await self.run(self._reserve, reservations)

    async def read_counters(self, counters: Sequence[tuple[str, str]]) -> Sequence[Counter | None]:
        """Return counters, by budget and scope, as this transaction sees them; None for one without amounts."""
        return await self.run(self._read_counters, counters)

    def records(self, collection: str) -> SQLRecords:
        """Return the collection as this transaction sees it."""
        return self._records_type(self, collection)

    def rows(self, table: Table) -> SQLRows:
        """Return the rows of one of the library's own tables, as this transaction sees them."""
        return SQLRows(self, table, self._records_type.dialect)

    async def read_log(self, query: LogQuery) -> Page[LogRow]:
        """Return rows of the action log, committed ones, newest first."""
        return await self.run(read_page, query, self._log_reader())

    async def find_log(self, link: LogLink, values: Sequence[str], limit: int) -> Page[LogRow]:
        """Return committed rows of the action log by a column, the oldest first."""
        return await self.run(find_log, self._log_reader(), link, values, limit)

    async def find_events(self, link: EventLink, values: Sequence[str], limit: int) -> Page[EmittedEvent]:
        """Return committed events by a column, in commit order."""
        return await self.run(find_events, self._log_reader(), link, values, limit)

    async def last_position(self) -> int:
        """Return the position of the tenant's last committed event; 0 if there is none."""
        return await self.run(self._last_position)

    async def outbox_status(self) -> Sequence[QueueStatus]:
        """Return the number of undelivered events of the tenant in each queue."""
        return await self.run(self._outbox_status)

    async def dead_letters(
        self, queue: str, *, after: str | None = None, limit: int = 100, skipped: bool = True
    ) -> Page[DeadLetter]:
        """Return dead letters of the tenant by event id, with the skipped events or without."""
        later_than = event_id(after) if after is not None else FIRST_ID
        letters = await self.run(self._dead_letters, queue, later_than, page_size(limit), skipped)
        return page_of(((each, len(each.event.payload)) for each in letters), limit, lambda each: each.event.id)

    async def redrive(self, queue: str, ids: Sequence[str]) -> Sequence[str]:
        """Deliver dead letters of the tenant again from the commit on. Return the ids of those that there are."""
        self.track_write("the outbox")
        return await self.run(self._redrive, queue, list(map(event_id, ids)))

    async def skip(self, queue: str, ids: Sequence[str], reason: str) -> Sequence[str]:
        """Give up dead letters of the tenant from the commit on. Return the ids of those that there are."""
        self.track_write("the outbox")
        return await self.run(self._skip, queue, list(map(event_id, ids)), reason)

    async def record(self, recording: Recording) -> None:
        """Keep rows that the commit writes."""
        self._check_open()
        self._recordings.append(recording)

    async def commit(self) -> None:
        """Write what was recorded and make everything visible at once."""
        try:
            await self.run(self._commit)
        finally:
            # Also if it is unknown whether the commit succeeded: reading the roles once too often does no harm.
            if self._touched_roles:
                self.database.access_changed(self.tenant.id)

    async def rollback(self) -> None:
        """Undo everything."""
        if self._ended and self._pooled is None:
            return
        self._ended = True
        self._scopes.leave()
        if self._mode == "sync":
            self._rollback()
        elif in_greenlet():
            on_loop(self._rollback)
        else:
            await uninterrupted(greenlet_spawn(self._rollback))

    def set_deadline(self, seconds: float) -> None:
        """Count the database as out of reach if it has not answered within this time."""
        self._deadline = monotonic() + seconds + ANSWER_TIMEOUT

    def abandon(self) -> bool:
        """Return False: the handler may be in the middle of a statement, so the transaction cannot be left to it."""
        self._ended = self._abandoned = True
        return False

    async def call(self, function: Any, *arguments: Any) -> Any:
        """Run a `def` handler where its session works."""
        if self._mode == "sync" or in_greenlet():
            return function(*arguments)
        return await greenlet_spawn(function, *arguments)

    def for_worker_thread(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, made to work in a thread of its own."""
        if self._mode == "sync":
            return function
        loop = asyncio.get_running_loop()

        def bridged(*arguments: Any) -> Any:
            return run_off_loop(loop, self._check_not_over, function, arguments)

        return bridged

    def run_sync(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of this unit of work to its end, in the greenlet of a `def` handler."""
        return run_sync(coroutine)

    # For each backend

    @abstractmethod
    def _claim_in_transaction(self, claim: Claim, wait: float) -> ClaimAnswer:
        """Claim a key in a transaction that has begun."""

    @abstractmethod
    def _reserve(self, reservations: Sequence[Reservation]) -> Sequence[Reservation]:
        """Add amounts to counters. Return those without room."""

    @abstractmethod
    def _read_counter(self, budget: str, scope: str) -> Counter | None:
        """Return a counter; None for one without amounts."""

    @abstractmethod
    def _log_reader(self) -> LogReader:
        """Return the statements that read the action log."""

    @abstractmethod
    def _last_position(self) -> int:
        """Return the position of the tenant's last committed event."""

    @abstractmethod
    def _outbox_status(self) -> list[QueueStatus]:
        """Count the undelivered events of the tenant in each queue."""

    @abstractmethod
    def _dead_letters(self, queue: str, later_than: str, limit: int, skipped: bool) -> list[DeadLetter]:
        """Return dead letters of the tenant by event id, up to those that fill a page."""

    @abstractmethod
    def _redrive(self, queue: str, ids: Sequence[str]) -> list[str]:
        """Make dead letters of the tenant pending. Return their ids."""

    @abstractmethod
    def _skip(self, queue: str, ids: Sequence[str], reason: str) -> list[str]:
        """Mark dead letters of the tenant as skipped. Return their ids."""

    @abstractmethod
    def _finish(self) -> None:
        """Write what was recorded, and commit."""

    def _claim(self, claim: Claim, wait: float) -> ClaimAnswer:
        if self._pooled is None:
            answer = self._open(claim, wait)
            assert answer is not None
            return answer
        self.make_savepoints()
        return self._claim_in_transaction(claim, wait)

    def _read_counters(self, counters: Sequence[tuple[str, str]]) -> list[Counter | None]:
        return [self._read_counter(budget, scope) for budget, scope in counters]

    def _commit(self) -> None:
        if self._failed is None:
            self._flush()
        if self._failed is not None:
            raise self._failed
        self._unmade.clear()
        if self._recordings and self._pooled is None:
            self._open(None, 0.0)
        if self._pooled is not None:
            self._finish()
            self._release()
        self._ended = True
