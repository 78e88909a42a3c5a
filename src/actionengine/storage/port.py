"""The storage ports: what the pipeline asks of a backend.

A backend implements `Storage` and `UnitOfWork`; the suite in `actionengine.testing` says whether it does so rightly.
The coroutines of a unit of work in the mode `"sync"` never suspend: the pipeline drives them without an event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar
from uuid import UUID

from actionengine.concurrency.run_sync import Mode
from actionengine.context import Tenant
from actionengine.storage.outbox import EVENTS, MAX_COUNTED_LAG, Outbox
from actionengine.storage.pages import Page
from actionengine.storage.records import StoredRecords
from actionengine.storage.rows import Backlog, Claim, ClaimAnswer, LogQuery, LogRow, Recording, StoredEvent
from actionengine.storage.tables import AsyncRows, Table

T = TypeVar("T")


class UnitOfWork(Protocol):
    """One transaction for one tenant. Its first use opens it; after `commit` or `rollback` it refuses.

    The threads and tasks of a handler may use it at once, for the first time too. All of them work in the one
    transaction, or are refused with a `StorageError`; and where one of them is inside a savepoint, what others would
    write, and would lose with it, is refused.
    """

    async def now(self) -> datetime:
        """Return the time, in UTC, by the one clock that all processes of this storage share: the database's, where
        there is one. What comes to an end at a stored time is compared with this, and was stored by it."""

    async def claim(self, claim: Claim, wait: float) -> ClaimAnswer:
        """Claim an idempotency key, waiting up to `wait` seconds for another unit of work that holds it."""

    def records(self, collection: str) -> StoredRecords:
        """The collection as this transaction sees it."""

    def rows(self, table: Table) -> AsyncRows:
        """The rows of one of the library's own tables, as this transaction sees them."""

    async def read_log(self, query: LogQuery) -> Page[LogRow]:
        """Rows of the action log, committed ones, newest first. A page also ends once its rows have 4 MiB of JSON, and
        once as many rows were looked at as the backend bounds; its `next` is the `before` of the following page."""

    async def last_position(self) -> int:
        """Return the position of the tenant's last event that has committed, as this transaction sees it; 0 where there
        is none."""

    @property
    def session(self) -> Any:
        """The SQLAlchemy session, where there is one; raises `StorageError` where not."""

    @property
    def async_session(self) -> Any:
        """The SQLAlchemy async session, where there is one; raises `StorageError` where not."""

    async def savepoint(self, read_only: bool = False) -> object:
        """A point to roll back to. After one that is `read_only` nothing is written until it is rolled back or
        released, not by a handler's own SQL either."""

    async def rollback_to(self, savepoint: object) -> None:
        """Undo what was written since."""

    async def release(self, savepoint: object) -> None:
        """Forget a savepoint, keeping what was written since."""

    async def flushed_subjects(self) -> Sequence[str]:
        """Write what is pending in the session; return a subject (`table/key`) for each row of a host's own tables that
        it has changed since this was last called, without those that were rolled back. Where there is no session, there
        are none."""

    async def record(self, recording: Recording) -> None:
        """Write log rows, events (with their outbox rows) and idempotent results."""

    async def commit(self) -> None:
        """Make it so. Raises `SerializationFailure` or `StorageUnavailable`; then nothing was written."""

    async def rollback(self) -> None:
        """Undo everything. Never raises, may be called again."""

    def set_deadline(self, seconds: float) -> None:
        """The execution has this long; a backend that would wait longer for its database gives up then, as
        `StorageUnavailable`."""

    def abandon(self) -> bool:
        """A handler was left behind in a thread of its own, at its deadline: whether the transaction can go on without
        it. Where it cannot, whatever is still asked for is refused, and a rollback follows."""

    async def call(self, function: Any, *arguments: Any) -> Any:
        """Run a `def` handler where its use of the session works."""

    def for_worker_thread(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A `def` handler, made to work in a thread of its own, so that it can be left behind."""

    def translate_error(self, error: Exception) -> Exception:
        """An exception out of a handler: what it means in terms of this port, where it is the backend's; or itself."""

    def run_sync(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of this unit of work to its end from inside a `def` handler."""


class Storage(Protocol):
    """A backend."""

    def unit_of_work(self, tenant: Tenant, action_id: str, mode: Mode, read_only: bool = False) -> UnitOfWork:
        """A unit of work of one tenant. Does no work until it is used."""

    def access_version(self, tenant_id: UUID) -> int:
        """A number that changes when this process commits to the tenant's roles. Cheap: asked for each execution."""

    async def find_tenant(self, slug: str, mode: Mode) -> Tenant | None:
        """The tenant of this slug."""

    async def find_tenant_by_id(self, id: UUID, mode: Mode) -> Tenant | None:
        """The tenant of this id, in one look-up."""

    def create_tenant(self, *, slug: str, name: str) -> Tenant:
        """Make a tenant. Raises `ActionError`: `conflict` for a taken slug, `invalid_input` for one that is not
        lower-case letters, digits and hyphens."""

    async def create_tenant_async(self, *, slug: str, name: str) -> Tenant:
        """The same."""

    def delete_tenant(self, *, slug: str) -> bool:
        """Close a tenant; whether there was one. From now on it is not found, its slug stays taken, and its executions
        are refused as `not_found`. Its rows stay: what is to become of them is the operator's decision."""

    async def delete_tenant_async(self, *, slug: str) -> bool:
        """The same."""

    def list_tenants(self, *, after: str | None = None, limit: int | None = None) -> Sequence[Tenant]:
        """All tenants, by slug; or a page of them: up to `limit` (1 000 at most) after the slug `after`."""

    async def list_tenants_async(self, *, after: str | None = None, limit: int | None = None) -> Sequence[Tenant]:
        """The same."""

    def read_events(
        self, tenant: Tenant, *, after: int = 0, limit: int = 1000, types: Sequence[str] | None = None
    ) -> Sequence[StoredEvent]:
        """The tenant's events after a position, of these types or of all, in commit order. A page, of 1 000 at most,
        also ends once its payloads have 4 MiB: only after the last page comes an empty one."""

    async def read_events_async(
        self, tenant: Tenant, *, after: int = 0, limit: int = 1000, types: Sequence[str] | None = None
    ) -> Sequence[StoredEvent]:
        """The same."""

    def count_events(
        self, tenant: Tenant, *, after: int = 0, limit: int = MAX_COUNTED_LAG, types: Sequence[str] | None = None
    ) -> int:
        """Return how many of the tenant's events there are after a position, of these types or of all; `limit` stands
        for that many or more. No payload is read."""

    async def count_events_async(
        self, tenant: Tenant, *, after: int = 0, limit: int = MAX_COUNTED_LAG, types: Sequence[str] | None = None
    ) -> int:
        """The same."""

    def outbox(self, mode: Mode, queue: str = EVENTS) -> Outbox:
        """A queue of the outbox, for one relay or operator. Does no work until it is used."""

    async def backlog(self, mode: Mode) -> Backlog:
        """Return what waits for people, and for its time, over all tenants: for operators and relays."""

    def purge_expired_keys(self, *, limit: int = 1000) -> int:
        """Forget up to `limit` expired idempotency keys; how many there were."""

    async def purge_expired_keys_async(self, *, limit: int = 1000) -> int:
        """The same."""
