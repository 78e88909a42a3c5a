"""The storage ports: the pipeline's requests to a backend.

A backend implements `Storage` and `UnitOfWork`; the suite in `actionengine.testing` tests it. The coroutines of a unit
of work in the mode `"sync"` never suspend: the pipeline runs them without an event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar
from uuid import UUID

from actionengine.concurrency.run_sync import Mode
from actionengine.context import Tenant
from actionengine.storage.captured import WriteJournal
from actionengine.storage.counters import Counter, Reservation
from actionengine.storage.outbox import EVENTS, MAX_COUNTED_LAG, DeadLetter, Outbox, QueueStatus
from actionengine.storage.pages import Page
from actionengine.storage.records import StoredRecords
from actionengine.storage.rows import (
    Backlog,
    Claim,
    ClaimAnswer,
    EmittedEvent,
    EventLink,
    LogLink,
    LogQuery,
    LogRow,
    Recording,
    StoredEvent,
)
from actionengine.storage.tables import AsyncRows, Table

T = TypeVar("T")


class UnitOfWork(Protocol):
    """One transaction for one tenant. Its first use opens it; after `commit` or `rollback` it refuses all use.

    The threads and tasks of a handler may use it at once, also for its first use. They all work in the one transaction,
    or are refused with a `StorageError`. While one of them is inside a savepoint, the writes of the others, which a
    rollback would undo, are refused.
    """

    async def now(self) -> datetime:
        """Return the time in UTC by the clock that all processes of this storage share: the database's, where there is
        one. Stored times of expiry come from this clock, and are compared with it."""

    async def claim(self, claim: Claim, wait: float) -> ClaimAnswer:
        """Claim an idempotency key, waiting up to `wait` seconds for another unit of work that holds it."""

    def announce(self, reservations: Sequence[Reservation]) -> None:
        """Name the reservations that follow the next `claim` if it is successful. A backend can make them with it, and
        so save a round trip; `reserve` is called with them nevertheless."""

    async def reserve(self, reservations: Sequence[Reservation]) -> Sequence[Reservation]:
        """Add amounts, each at most its limit, to counters of budgets, each counter once, in their order. Return those
        without room.

        Wait for other units of work that have added to the same counters: no sum ever exceeds a limit, however many
        there are. The window of a counter begins and ends by the clock of `now`. If one has no room, the caller rolls
        back, to a savepoint from before the call or entirely.
        """

    async def read_counters(self, counters: Sequence[tuple[str, str]]) -> Sequence[Counter | None]:
        """Return counters, by budget and scope, as this transaction sees them; None for one without amounts."""

    def records(self, collection: str) -> StoredRecords:
        """Return the collection as this transaction sees it."""

    def rows(self, table: Table) -> AsyncRows:
        """Return the rows of one of the library's own tables as this transaction sees them."""

    async def read_log(self, query: LogQuery) -> Page[LogRow]:
        """Return committed rows of the action log, newest first. A page also ends at 4 MiB of JSON, and when the
        backend's bound of examined rows is reached; its `next` is the `before` of the following page."""

    async def find_log(self, link: LogLink, values: Sequence[str], limit: int) -> Page[LogRow]:
        """Return committed rows of the action log by any of these values of a column, the oldest first: at most `limit`
        of each value, and of all. A page also ends at 4 MiB of JSON. It has a `next` where more may follow."""

    async def find_events(self, link: EventLink, values: Sequence[str], limit: int) -> Page[EmittedEvent]:
        """Return committed events by any of these values of a column, in commit order, up to a limit as in `find_log`.
        A page has a `next` where more may follow."""

    async def last_position(self) -> int:
        """Return the position of the tenant's last committed event that this transaction sees; 0 without events."""

    async def outbox_status(self) -> Sequence[QueueStatus]:
        """Return the number of undelivered events of the tenant in each queue, in the order of `QUEUES`."""

    async def dead_letters(
        self, queue: str, *, after: str | None = None, limit: int = 100, skipped: bool = True
    ) -> Page[DeadLetter]:
        """Return the tenant's dead letters in a queue by event id, with the `skipped` events or without, those after
        the id `after`; at most 1 000, and up to 4 MiB of payloads."""

    async def redrive(self, queue: str, ids: Sequence[str]) -> Sequence[str]:
        """Deliver the tenant's dead letters with these event ids again from the commit on, skipped ones too. Return
        the ids of those that it has in this queue."""

    async def skip(self, queue: str, ids: Sequence[str], reason: str) -> Sequence[str]:
        """Give up the tenant's dead letters with these event ids from the commit on. Return the ids of those that it
        has in this queue and that were not skipped before."""

    @property
    def session(self) -> Any:
        """Return the SQLAlchemy session. Raise `StorageError` in a backend without one."""

    @property
    def async_session(self) -> Any:
        """Return the SQLAlchemy async session. Raise `StorageError` in a backend without one."""

    async def savepoint(self, read_only: bool = False) -> object:
        """Return a new savepoint. After a `read_only` one, all writes are refused until it is rolled back or released,
        also those of a handler's own SQL."""

    async def rollback_to(self, savepoint: object) -> None:
        """Undo the writes since the savepoint."""

    async def release(self, savepoint: object) -> None:
        """Release a savepoint and keep the writes since."""

    async def flushed_subjects(self) -> Sequence[str]:
        """Flush the session. Return a subject (`table/key`) for each row of a host's own tables that it has changed
        since the last call, without those that were rolled back; none where there is no session."""

    def capture_sql(self, journal: WriteJournal) -> None:
        """Add each write of a handler's own SQL to the journal from now on, and remove those that a savepoint undoes.
        A second call with the same journal changes nothing. A backend without SQL has nothing to do."""

    async def record(self, recording: Recording) -> None:
        """Write log rows, events (with their outbox rows) and idempotent results."""

    async def commit(self) -> None:
        """Commit the transaction. Raise `SerializationFailure` or `StorageUnavailable` when nothing was written."""

    async def rollback(self) -> None:
        """Undo everything. Never raise; may be called again."""

    def set_deadline(self, seconds: float) -> None:
        """Bound the execution. A backend that would wait longer for its database raises `StorageUnavailable` then."""

    def abandon(self) -> bool:
        """Return whether the transaction can continue without a handler whose thread was abandoned at the deadline. If
        not, all further use is refused, and a rollback follows."""

    async def call(self, function: Any, *arguments: Any) -> Any:
        """Run a `def` handler in a place where it can use the session."""

    def for_worker_thread(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a `def` handler in a form that runs in a thread of its own, which can be abandoned."""

    def translate_error(self, error: Exception) -> Exception:
        """Return the storage error for a handler's exception that came from the backend; any other exception as it
        is."""

    def run_sync(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of this unit of work to its end from inside a `def` handler."""


class Storage(Protocol):
    """A backend."""

    def unit_of_work(self, tenant: Tenant, action_id: str, mode: Mode, read_only: bool = False) -> UnitOfWork:
        """Return a unit of work of one tenant. It does no work until it is used."""

    def access_version(self, tenant_id: UUID) -> int:
        """Return a number that changes when this process commits to the tenant's roles. Cheap: each execution asks for
        it."""

    async def find_tenant(self, slug: str, mode: Mode) -> Tenant | None:
        """Return the tenant of this slug."""

    async def find_tenant_by_id(self, id: UUID, mode: Mode) -> Tenant | None:
        """Return the tenant of this id, in one look-up."""

    def create_tenant(self, *, slug: str, name: str) -> Tenant:
        """Create a tenant. Raise `ActionError`: `conflict` for a taken slug, `invalid_input` for a slug that is not
        lower-case letters, digits and hyphens."""

    async def create_tenant_async(self, *, slug: str, name: str) -> Tenant:
        """Do the same under an event loop."""

    def delete_tenant(self, *, slug: str) -> bool:
        """Close a tenant; return whether there was one. The tenant is then no longer found, its slug stays taken, and
        its executions are refused as `not_found`. Its rows stay, for the operator to remove."""

    async def delete_tenant_async(self, *, slug: str) -> bool:
        """Do the same under an event loop."""

    def list_tenants(self, *, after: str | None = None, limit: int | None = None) -> Sequence[Tenant]:
        """Return all tenants by slug, or a page of them: up to `limit` (1 000 at most) after the slug `after`."""

    async def list_tenants_async(self, *, after: str | None = None, limit: int | None = None) -> Sequence[Tenant]:
        """Do the same under an event loop."""

    def read_events(
        self, tenant: Tenant, *, after: int = 0, limit: int = 1000, types: Sequence[str] | None = None
    ) -> Sequence[StoredEvent]:
        """Return the tenant's events after a position, of these types or of all, in commit order. A page has at most 1
        000 events, and also ends at 4 MiB of payloads: only the page after the last event is empty."""

    async def read_events_async(
        self, tenant: Tenant, *, after: int = 0, limit: int = 1000, types: Sequence[str] | None = None
    ) -> Sequence[StoredEvent]:
        """Do the same under an event loop."""

    def count_events(
        self, tenant: Tenant, *, after: int = 0, limit: int = MAX_COUNTED_LAG, types: Sequence[str] | None = None
    ) -> int:
        """Return the number of the tenant's events after a position, of these types or of all; `limit` stands for that
        many or more. No payload is read."""

    async def count_events_async(
        self, tenant: Tenant, *, after: int = 0, limit: int = MAX_COUNTED_LAG, types: Sequence[str] | None = None
    ) -> int:
        """Do the same under an event loop."""

    def outbox(self, mode: Mode, queue: str = EVENTS) -> Outbox:
        """Return a queue of the outbox, for one relay or operator. It does no work until it is used."""

    async def backlog(self, mode: Mode) -> Backlog:
        """Return the work that waits for people or for its time, over all tenants, for operators and relays."""

    def purge_expired_keys(self, *, limit: int = 1000) -> int:
        """Delete up to `limit` expired idempotency keys, and counters of budgets whose window has ended; return their
        number."""

    async def purge_expired_keys_async(self, *, limit: int = 1000) -> int:
        """Do the same under an event loop."""
