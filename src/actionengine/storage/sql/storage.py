"""The part of a storage that SQLite and PostgreSQL share: its calls outside a unit of work, in both modes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

from uuid_utils.compat import uuid7

from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.context import Tenant
from actionengine.storage.closing import CloseCallbacks
from actionengine.storage.outbox import EVENTS, MAX_COUNTED_LAG, Outbox
from actionengine.storage.pages import page_size, page_start
from actionengine.storage.records import time_of_id
from actionengine.storage.rows import Backlog, StoredEvent
from actionengine.storage.sql.database import Database
from actionengine.storage.sql.unit_of_work import SQLUnitOfWork
from actionengine.storage.tenants import check_tenant, slug_taken

T = TypeVar("T")

_LAST_POSITION = 2**63 - 1


class SQLStorage(ABC):
    """A storage in a SQL database, for hosts of both modes. It opens a connection when one is first needed.

    Close it with `close` (or `aclose`, under an event loop), or use it as a context manager: then it checks the
    database at once (`check`), and not at its first use.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.pools = database.pools
        self._close_callbacks = CloseCallbacks()

    # The port

    @abstractmethod
    def unit_of_work(self, tenant: Tenant, action_id: str, mode: Mode, read_only: bool = False) -> SQLUnitOfWork:
        """Return a unit of work of one tenant. It takes a connection when it is first used."""

    @abstractmethod
    def outbox(self, mode: Mode, queue: str = EVENTS) -> Outbox:
        """Return a queue of the outbox, for one relay or operator. It does no work until it is used."""

    def access_version(self, tenant_id: UUID) -> int:
        """Return how many commits of this process have written to the tenant's roles."""
        return self.database.access_version(tenant_id)

    async def find_tenant(self, slug: str, mode: Mode) -> Tenant | None:
        """Return the tenant with this slug."""
        return await self._run(mode, self._find_tenant, slug)

    async def find_tenant_by_id(self, id: UUID, mode: Mode) -> Tenant | None:
        """Return the tenant with this id."""
        return await self._run(mode, self._find_tenant_by_id, id)

    def create_tenant(self, *, slug: str, name: str) -> Tenant:
        """Create a tenant. Raise `ActionError`: `conflict` for a taken slug, `invalid_input` for one that is not
        lower-case letters, digits and hyphens (63 at most), or for an empty name."""
        return run_sync(self._create("sync", slug, name))

    async def create_tenant_async(self, *, slug: str, name: str) -> Tenant:
        """Do the same in async mode."""
        return await self._create("async", slug, name)

    def delete_tenant(self, *, slug: str) -> bool:
        """Close a tenant. Return whether there was one. Its rows stay."""
        return run_sync(self._run("sync", self._delete_tenant, slug))

    async def delete_tenant_async(self, *, slug: str) -> bool:
        """Do the same in async mode."""
        return await self._run("async", self._delete_tenant, slug)

    def list_tenants(self, *, after: str | None = None, limit: int | None = None) -> Sequence[Tenant]:
        """Return all tenants, by slug; or a page of them: up to `limit` (1 000 at most) after the slug `after`."""
        return run_sync(self._tenants("sync", after, limit))

    async def list_tenants_async(self, *, after: str | None = None, limit: int | None = None) -> Sequence[Tenant]:
        """Do the same in async mode."""
        return await self._tenants("async", after, limit)

    def read_events(
        self, tenant: Tenant, *, after: int = 0, limit: int = 1000, types: Sequence[str] | None = None
    ) -> Sequence[StoredEvent]:
        """Return the tenant's events after a position, of these types or of all, in commit order."""
        return run_sync(self._events("sync", tenant, after, limit, types))

    async def read_events_async(
        self, tenant: Tenant, *, after: int = 0, limit: int = 1000, types: Sequence[str] | None = None
    ) -> Sequence[StoredEvent]:
        """Do the same in async mode."""
        return await self._events("async", tenant, after, limit, types)

    async def backlog(self, mode: Mode) -> Backlog:
        """Return the open approvals and active schedules of all tenants."""
        approvals, oldest, schedules = await self._run(mode, self._backlog)
        return Backlog(approvals, time_of_id(oldest) if oldest is not None else None, schedules)

    def count_events(
        self, tenant: Tenant, *, after: int = 0, limit: int = MAX_COUNTED_LAG, types: Sequence[str] | None = None
    ) -> int:
        """Return how many of the tenant's events follow a position, of these types or of all; `limit` stands for that
        many or more. No payload is read."""
        return run_sync(self._number_of_events("sync", tenant, after, limit, types))

    async def count_events_async(
        self, tenant: Tenant, *, after: int = 0, limit: int = MAX_COUNTED_LAG, types: Sequence[str] | None = None
    ) -> int:
        """Do the same in async mode."""
        return await self._number_of_events("async", tenant, after, limit, types)

    def purge_expired_keys(self, *, limit: int = 1000) -> int:
        """Delete up to `limit` expired idempotency keys and counters of budgets. Return how many were deleted."""
        return run_sync(self._run("sync", self._purge_expired_keys, limit))

    async def purge_expired_keys_async(self, *, limit: int = 1000) -> int:
        """Do the same in async mode."""
        return await self._run("async", self._purge_expired_keys, limit)

    # Opening and closing

    def check(self) -> None:
        """Make the database ready for use. Raise `ConfigurationError` if it is not, with the remedy, and
        `StorageUnavailable`."""
        run_sync(self._run("sync", self.database.check))

    async def check_async(self) -> None:
        """Do the same in async mode."""
        await self._run("async", self.database.check)

    def call_on_close(self, callback: Callable[[], None]) -> None:
        """Call a bound method before each close, as long as its object exists."""
        self._close_callbacks.call_on_close(callback)

    def close(self) -> None:
        """Close the connections. If the storage is used again, it opens new ones."""
        self._close_callbacks.run()
        self.pools.close()

    async def aclose(self) -> None:
        """Close the connections, also those of this event loop."""
        await self._close_callbacks.run_off_loop()
        await self.pools.aclose()

    async def limit_idle(self) -> None:
        """Keep few idle connections in this event loop, for one of several loops that use the storage now and then.
        Call it before the loop uses the storage."""
        await self.pools.limit_idle()

    async def aclose_loop(self) -> None:
        """Close the connections of this event loop only, for one of several loops that use the storage, at its end."""
        await self.pools.aclose_loop()

    def __enter__(self) -> Self:
        try:
            self.check()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        try:
            await self.check_async()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # For each backend

    @abstractmethod
    def _find_tenant(self, mode: Mode, slug: str) -> Tenant | None: ...

    @abstractmethod
    def _find_tenant_by_id(self, mode: Mode, id: UUID) -> Tenant | None: ...

    @abstractmethod
    def _create_tenant(self, mode: Mode, tenant: Tenant, name: str) -> bool: ...

    @abstractmethod
    def _delete_tenant(self, mode: Mode, slug: str) -> bool: ...

    @abstractmethod
    def _list_tenants(self, mode: Mode, after: str | None, limit: int | None) -> Sequence[Tenant]: ...

    @abstractmethod
    def _read_events(
        self, mode: Mode, tenant: Tenant, after: int, limit: int, types: Sequence[str] | None
    ) -> Sequence[StoredEvent]: ...

    @abstractmethod
    def _backlog(self, mode: Mode) -> tuple[int, str | None, int]: ...

    @abstractmethod
    def _count_events(self, mode: Mode, tenant: Tenant, after: int, limit: int, types: Sequence[str] | None) -> int: ...

    @abstractmethod
    def _purge_expired_keys(self, mode: Mode, limit: int) -> int: ...

    # For both modes

    async def _create(self, mode: Mode, slug: str, name: str) -> Tenant:
        check_tenant(slug, name)
        tenant = Tenant(uuid7(), slug)
        if not await self._run(mode, self._create_tenant, tenant, name):
            raise slug_taken(slug)
        return tenant

    async def _tenants(self, mode: Mode, after: str | None, limit: int | None) -> Sequence[Tenant]:
        return await self._run(mode, self._list_tenants, page_start(after), None if limit is None else page_size(limit))

    async def _events(
        self, mode: Mode, tenant: Tenant, after: int, limit: int, types: Sequence[str] | None
    ) -> Sequence[StoredEvent]:
        return await self._run(mode, self._read_events, tenant, _position(after), page_size(limit), _once(types))

    async def _number_of_events(
        self, mode: Mode, tenant: Tenant, after: int, limit: int, types: Sequence[str] | None
    ) -> int:
        return await self._run(mode, self._count_events, tenant, _position(after), limit, _once(types))

    async def _run(self, mode: Mode, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function of the backend, with the mode as its first argument."""
        return await self.database.run(mode, function, mode, *arguments)


def _position(after: int) -> int:
    return min(max(0, after), _LAST_POSITION)


def _once(types: Sequence[str] | None) -> Sequence[str] | None:
    """Return each of the types once."""
    return None if types is None else tuple(dict.fromkeys(types))
