"""The units of work of `InMemoryStorage`: transactions, with idempotency keys, log rows and events."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from datetime import datetime
from operator import attrgetter
from time import monotonic
from typing import Any, TypeVar

from actionengine.concurrency.one_shot_event import OneShotEvent
from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.storage.captured import WriteJournal
from actionengine.storage.clock import steady_now
from actionengine.storage.counters import Counter, Reservation
from actionengine.storage.errors import SerializationFailure, StorageError
from actionengine.storage.memory.claims import ClaimHolder, can_claim, to_answer
from actionengine.storage.memory.outbox import Queues
from actionengine.storage.memory.records import MemoryRecords
from actionengine.storage.memory.rows import MemoryRows
from actionengine.storage.memory.transaction import LetterKey, MemoryTransaction, TenantData
from actionengine.storage.memory.versions import Key
from actionengine.storage.outbox import EVENTS, QUEUES, DeadLetter, QueueStatus
from actionengine.storage.pages import Page, page_of, page_size
from actionengine.storage.records import FIRST_ID, event_id
from actionengine.storage.rows import (
    CLAIMED,
    Claim,
    ClaimAnswer,
    EmittedEvent,
    EventLink,
    EventRow,
    IdempotentResult,
    LogLink,
    LogQuery,
    LogRow,
    Recording,
    stored_values,
)
from actionengine.storage.scopes import Scope
from actionengine.storage.tables import Table

T = TypeVar("T")


class MemoryUnitOfWork(MemoryTransaction):
    """One transaction of one tenant."""

    __slots__ = ("_claims", "_recordings")

    def __init__(self, data: TenantData, mode: Mode, read_only: bool) -> None:
        super().__init__(data, mode, read_only)
        self._recordings: list[Recording] = []
        self._claims: list[Key] = []

    async def now(self) -> datetime:
        """Return the time by the clock of this process."""
        self._check_open()
        return steady_now()

    async def claim(self, claim: Claim, wait: float) -> ClaimAnswer:
        """Claim a key, waiting up to `wait` seconds for another unit of work that holds it."""
        key = (claim.action, claim.key)
        data = self._data
        deadline = 0.0
        while True:
            with data.lock:
                self._check_open()
                entry = data.claims.get(key)
                if not isinstance(entry, ClaimHolder):
                    if entry is not None and not can_claim(entry, claim):
                        return to_answer(entry, claim)
                    data.claims[key] = ClaimHolder(self, entry)
                    self._claims.append(key)
                    return CLAIMED
                if not deadline:
                    deadline = monotonic() + wait
                remaining = deadline - monotonic()
                if remaining <= 0 or entry.owner is self:
                    return ClaimAnswer("in_progress")
                ended = OneShotEvent(self._mode)
                entry.waiters.append(ended.set)
            await ended.wait(remaining)

    def announce(self, reservations: Sequence[Reservation]) -> None:
        """Do nothing: there are no round trips."""

    async def read_counters(self, counters: Sequence[tuple[str, str]]) -> Sequence[Counter | None]:
        """Return counters, by budget and scope, as this transaction sees them; None for one without amounts."""
        return self.counters(counters)

    def records(self, collection: str) -> MemoryRecords:
        """Return the collection as this transaction sees it."""
        return MemoryRecords(self, collection)

    def rows(self, table: Table) -> MemoryRows:
        """Return the rows of one of the library's own tables as this transaction sees them."""
        return MemoryRows(self, table)

    async def read_log(self, query: LogQuery) -> Page[LogRow]:
        """Return committed rows of the action log, newest first."""
        query = query.normal()
        data = self._data
        with data.lock:
            self._check_open()
            end = len(data.log) if query.before is None else bisect_left(data.log, query.before, key=attrgetter("id"))
            rows = (data.log[number] for number in range(end - 1, -1, -1))
            about = (row for row in rows if query.subject is None or query.subject in row.subjects)
            found = (row for row in filter(query.matches, about) if query.has_words(row.reason))
            return page_of(map(_sized, found), query.limit, attrgetter("id"))

    async def find_log(self, link: LogLink, values: Sequence[str], limit: int) -> Page[LogRow]:
        """Return committed rows of the action log by a column, the oldest first."""
        wanted = set(stored_values(link, values))
        with self._data.lock:
            self._check_open()
            found = (row for row in self._data.log if not wanted.isdisjoint(_values_of(row, link)))
            return page_of(map(_sized, found), limit, attrgetter("id"))

    async def find_events(self, link: EventLink, values: Sequence[str], limit: int) -> Page[EmittedEvent]:
        """Return committed events by a column, in commit order."""
        wanted = set(stored_values(link, values))
        with self._data.lock:
            self._check_open()
            events = enumerate(self._data.events, 1)
            found = ((_emitted(position, event), 0) for position, event in events if getattr(event, link) in wanted)
            return page_of(found, limit, attrgetter("id"))

    async def last_position(self) -> int:
        """Return the position of the tenant's last committed event; 0 without events."""
        with self._data.lock:
            self._check_open()
            return len(self._data.events)

    async def outbox_status(self) -> Sequence[QueueStatus]:
        """Return the number of undelivered events of the tenant in each queue. What this transaction has redriven or
        skipped holds back others until the commit."""
        with self._data.lock:
            self._check_open()
            return [self._status_of(queue) for queue in QUEUES]

    async def dead_letters(
        self, queue: str, *, after: str | None = None, limit: int = 100, skipped: bool = True
    ) -> Page[DeadLetter]:
        """Return dead letters of the tenant by event id, with the skipped events or without."""
        later_than = event_id(after) if after is not None else FIRST_ID
        with self._data.lock:
            self._check_open()
            letters = [each for each in self._letters_of(queue, later_than) if skipped or not each.skipped]
        return page_of(
            ((each, len(each.event.payload)) for each in letters), page_size(limit), lambda each: each.event.id
        )

    async def redrive(self, queue: str, ids: Sequence[str]) -> Sequence[str]:
        """Deliver dead letters of the tenant again from the commit on. Return the ids of those that there are."""
        return self._change_letters(queue, ids, None)

    async def skip(self, queue: str, ids: Sequence[str], reason: str) -> Sequence[str]:
        """Give up dead letters of the tenant from the commit on. Return the ids of those that there are."""
        return self._change_letters(queue, ids, reason)

    @property
    def session(self) -> Any:
        """Raise `StorageError`: there is no session."""
        raise StorageError("InMemoryStorage has no SQL session: use ctx.records, or SQLiteStorage or PostgresStorage")

    @property
    def async_session(self) -> Any:
        """Raise `StorageError`: there is no session."""
        return self.session

    async def savepoint(self, read_only: bool = False) -> object:
        """Return a new savepoint. There is no SQL, and the contexts of read-only executions refuse writes."""
        with self._data.lock:
            self._check_open()
            scope = self._scopes.enter(len(self._journal))
        scope.step_in()
        return scope

    async def rollback_to(self, savepoint: object) -> None:
        """Undo the writes since the savepoint."""
        assert isinstance(savepoint, Scope)
        with self._data.lock:
            self.undo_to(savepoint.mark)
            self._scopes.leave(savepoint)
        savepoint.step_out()

    async def release(self, savepoint: object) -> None:
        """Keep the writes since the savepoint. Savepoints around it can still undo them."""
        assert isinstance(savepoint, Scope)
        with self._data.lock:
            self._scopes.leave(savepoint)
        savepoint.step_out()

    async def flushed_subjects(self) -> Sequence[str]:
        """Return nothing: there is no session."""
        return ()

    def capture_sql(self, journal: WriteJournal) -> None:
        """Do nothing: there is no SQL."""

    async def record(self, recording: Recording) -> None:
        """Keep a recording until the commit."""
        self._check_open()
        self._recordings.append(recording)

    async def commit(self) -> None:
        """Make all writes visible at once."""
        data = self._data
        with data.lock:
            self._check_open()
            if self._letters:
                self._change_outbox()
            if self._writes:
                self._publish()
            if self._holds:
                self._count()
            for recording in self._recordings:
                for row in recording.log:
                    if not data.log or data.log[-1].id < row.id:
                        data.log.append(row)
                    else:
                        insort(data.log, row, key=attrgetter("id"))
                for event in recording.events:
                    data.events.append(event)
                    data.positions.setdefault(event.type, []).append(len(data.events))
                    data.queues.add(len(data.events), event)
                    for route in recording.routes:
                        if route.takes(event):
                            data.further_queues[route.queue].add(len(data.events), event)
                for result in recording.results:
                    self._end_claim((result.claim.action, result.claim.key), result)
            self._end()

    async def rollback(self) -> None:
        """Undo everything."""
        if not self._ended:
            with self._data.lock:
                self._end()

    def set_deadline(self, seconds: float) -> None:
        """Bound the waits for counters. No other wait exceeds its own bound."""
        self._deadline = monotonic() + seconds

    def abandon(self) -> bool:
        """Return True: the context of an abandoned handler refuses all further use."""
        return True

    async def call(self, function: Any, *arguments: Any) -> Any:
        """Run a `def` handler in the caller's thread."""
        return function(*arguments)

    def for_worker_thread(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function as it is."""
        return function

    def translate_error(self, error: Exception) -> Exception:
        """Return the error as it is."""
        return error

    def run_sync(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of this unit of work to its end."""
        was_driven, self._is_driven = self._is_driven, self._mode == "async"
        try:
            return run_sync(coroutine)
        finally:
            self._is_driven = was_driven

    def _queues(self, queue: str) -> Queues:
        return self._data.queues if queue == EVENTS else self._data.further_queues[queue]

    def _letters_of(self, queue: str, later_than: str) -> list[DeadLetter]:
        queues = self._queues(queue)
        with queues.lock:
            committed = [entry.letter(queue) for entry in queues.letters_of(self._data.id, later_than)]
        letters = []
        for letter in committed:
            key = LetterKey(queue, letter.event.id)
            reason = self._letters.get(key)
            if reason is not None:
                letters.append(letter._replace(reason=f"{letter.reason}; skipped: {reason}", skipped=True))
            elif key not in self._letters:
                letters.append(letter)
        return letters

    def _status_of(self, queue: str) -> QueueStatus:
        queues = self._queues(queue)
        with queues.lock:
            status = queues.status_of(self._data.id, queue)
        if not any(key.queue == queue for key in self._letters):
            return status
        letters = self._letters_of(queue, FIRST_ID)
        skipped = sum(letter.skipped for letter in letters)
        pending = status.pending + status.dead + status.skipped - len(letters)
        return status._replace(pending=pending, dead=len(letters) - skipped, skipped=skipped)

    def _change_letters(self, queue: str, ids: Sequence[str], reason: str | None) -> list[str]:
        self.check_writable("the outbox")
        named = sorted(set(map(event_id, ids)))
        with self._data.lock:
            self._check_usable()
            letters = {each.event.id: each for each in self._letters_of(queue, FIRST_ID)}
            found = [id for id in named if id in letters and (reason is None or not letters[id].skipped)]
            for id in found:
                self.change_letter(LetterKey(queue, id), reason)
        return found

    def _change_outbox(self) -> None:
        """Redrive and skip dead letters. Raise `SerializationFailure`, with nothing changed, if an operator has changed
        one meanwhile."""
        with ExitStack() as locks:
            for queue in QUEUES:
                locks.enter_context(self._queues(queue).lock)
            for (queue, id), reason in self._letters.items():
                entry = self._queues(queue).dead.get(id)
                if entry is None or (reason is not None and entry.skipped):
                    raise SerializationFailure(f"the dead letter {id} of the queue {queue!r} has changed meanwhile")
            for (queue, id), reason in self._letters.items():
                if reason is None:
                    self._queues(queue).redrive([id])
                else:
                    self._queues(queue).skip([id], reason)

    def _end(self) -> None:
        self._release()
        for key in self._claims:
            held = self._data.claims.get(key)
            if isinstance(held, ClaimHolder) and held.owner is self:
                self._end_claim(key, held.before)

    def _end_claim(self, key: Key, result: IdempotentResult | None) -> None:
        held = self._data.claims.pop(key, None)
        if result is not None:
            self._data.claims[key] = result
            self._data.expiries.add(result.expires_at, self._data, key)
        if isinstance(held, ClaimHolder):
            for wake in held.waiters:
                wake()


def _sized(row: LogRow) -> tuple[LogRow, int]:
    return row, sum(len(each or b"") for each in (row.input, row.output, row.error))


def _values_of(row: LogRow, link: LogLink) -> tuple[Any, ...]:
    return row.subjects if link == "subject" else (getattr(row, link),)


def _emitted(position: int, event: EventRow) -> EmittedEvent:
    fields = EmittedEvent._fields[1:]
    return EmittedEvent(position, *(getattr(event, field) for field in fields))
