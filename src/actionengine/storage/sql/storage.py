"""What the storages on SQLAlchemy share: pools, the calls outside a unit of work, errors."""

from __future__ import annotations

import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar
from uuid import UUID

from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm.exc import StaleDataError
from uuid_utils.compat import uuid7

from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.context import Tenant
from actionengine.errors import ActionError, ConfigurationError, ErrorCode
from actionengine.storage.closing import CloseCallbacks
from actionengine.storage.errors import StorageError, StorageUnavailable
from actionengine.storage.outbox import EVENTS, MAX_COUNTED_LAG, Outbox
from actionengine.storage.pages import Page, page_size, page_start
from actionengine.storage.records import time_of_id
from actionengine.storage.rows import Backlog, Record, StoredEvent
from actionengine.storage.sql.bridge import run
from actionengine.storage.sql.declared_protection import DeclaredProtection
from actionengine.storage.sql.documents import DocumentStatements, Listing
from actionengine.storage.sql.pools import Pools
from actionengine.storage.sql.rows import RowsDialect
from actionengine.storage.sql.unit_of_work import SQLUnitOfWork
from actionengine.storage.tenants import check_tenant, slug_taken

T = TypeVar("T")


class SQLStorage(ABC):
    """A storage in a SQL database, for hosts of both modes. Its connections are opened when they are first used.

    Close it with `close` (or `aclose`, under an event loop), or use it as a context manager; opened that way it checks
    at once what it would otherwise check at its first use (`check`).
    """

    documents: ClassVar[DocumentStatements]
    rows: ClassVar[RowsDialect]

    def __init__(
        self,
        pools: Pools,
        session_options: Mapping[str, Any] | None,
        protection: DeclaredProtection,
    ) -> None:
        self.pools = pools
        self.session_options = dict(session_options or {})
        self.protection = protection
        self.is_checked = False
        self._stamps: dict[UUID, int] = {}
        self._stamps_lock = threading.Lock()
        self._close_callbacks = CloseCallbacks()
        _ALL.add(self)

    def drop_caches(self) -> None:
        """Start anew in a forked process: connections and locks are the parent's."""
        self._stamps_lock = threading.Lock()
        self.pools.forget()

    # The port

    @abstractmethod
    def unit_of_work(self, tenant: Tenant, action_id: str, mode: Mode, read_only: bool = False) -> SQLUnitOfWork:
        """A unit of work of one tenant. Takes a connection when it is first used."""

    def access_version(self, tenant_id: UUID) -> int:
        """How many commits of this process have touched the tenant's roles."""
        return self._stamps.get(tenant_id, 0)

    def access_changed(self, tenant_id: UUID) -> None:
        """Count such a commit."""
        with self._stamps_lock:
            self._stamps[tenant_id] = self._stamps.get(tenant_id, 0) + 1

    async def find_tenant(self, slug: str, mode: Mode) -> Tenant | None:
        """The tenant of this slug."""
        return await self._run(mode, self._find_tenant, slug, mode)

    async def find_tenant_by_id(self, id: UUID, mode: Mode) -> Tenant | None:
        """The tenant of this id."""
        return await self._run(mode, self._find_tenant_by_id, id, mode)

    def create_tenant(self, *, slug: str, name: str) -> Tenant:
        """Make a tenant. Raises `ActionError`: `conflict` for a taken slug, `invalid_input` for one that is not
        lower-case letters, digits and hyphens (63 at most), or for an empty name."""
        return run_sync(self._create("sync", slug, name))

    async def create_tenant_async(self, *, slug: str, name: str) -> Tenant:
        """The same."""
        return await self._create("async", slug, name)

    def delete_tenant(self, *, slug: str) -> bool:
        """Close a tenant; whether there was one. Its rows stay."""
        return run_sync(self._run("sync", self._delete_tenant, slug, "sync"))

    async def delete_tenant_async(self, *, slug: str) -> bool:
        """The same."""
        return await self._run("async", self._delete_tenant, slug, "async")

    def list_tenants(self, *, after: str | None = None, limit: int | None = None) -> Sequence[Tenant]:
        """All tenants, by slug; or a page of them: up to `limit` (1 000 at most) after the slug `after`."""
        return run_sync(self._run("sync", self._list_tenants, "sync", page_start(after), _page_size(limit)))

    async def list_tenants_async(self, *, after: str | None = None, limit: int | None = None) -> Sequence[Tenant]:
        """The same."""
        return await self._run("async", self._list_tenants, "async", page_start(after), _page_size(limit))

    def read_events(
        self, tenant: Tenant, *, after: int = 0, limit: int = 1000, types: Sequence[str] | None = None
    ) -> Sequence[StoredEvent]:
        """The tenant's events after a position, of these types or of all, in commit order."""
        return run_sync(self._events("sync", tenant, after, limit, types))

    async def read_events_async(
        self, tenant: Tenant, *, after: int = 0, limit: int = 1000, types: Sequence[str] | None = None
    ) -> Sequence[StoredEvent]:
        """The same."""
        return await self._events("async", tenant, after, limit, types)

    async def backlog(self, mode: Mode) -> Backlog:
        """Return what waits for people, and for its time, over all tenants."""
        approvals, oldest, schedules = await self._run(mode, self._backlog, mode)
        return Backlog(approvals, time_of_id(oldest) if oldest is not None else None, schedules)

    def count_events(
        self, tenant: Tenant, *, after: int = 0, limit: int = MAX_COUNTED_LAG, types: Sequence[str] | None = None
    ) -> int:
        """Return how many of the tenant's events there are after a position, of these types or of all; `limit` stands
        for that many or more. No payload is read."""
        return run_sync(
            self._run(
                "sync", self._count_events, tenant, min(max(0, after), _LAST_POSITION), limit, _once(types), "sync"
            )
        )

    async def count_events_async(
        self, tenant: Tenant, *, after: int = 0, limit: int = MAX_COUNTED_LAG, types: Sequence[str] | None = None
    ) -> int:
        """The same."""
        return await self._run(
            "async", self._count_events, tenant, min(max(0, after), _LAST_POSITION), limit, _once(types), "async"
        )

    @abstractmethod
    def outbox(self, mode: Mode, queue: str = EVENTS) -> Outbox:
        """A queue of the outbox, for one relay or operator. Does no work until it is used."""

    def purge_expired_keys(self, *, limit: int = 1000) -> int:
        """Forget up to `limit` expired idempotency keys; how many there were."""
        return run_sync(self._run("sync", self._purge_expired_keys, limit, "sync"))

    async def purge_expired_keys_async(self, *, limit: int = 1000) -> int:
        """The same."""
        return await self._run("async", self._purge_expired_keys, limit, "async")

    # Opening and closing

    def check(self) -> None:
        """Make sure that this database can be worked with. Raises `ConfigurationError`, which says what to do, and
        `StorageUnavailable`."""
        run_sync(self._run("sync", self._check, "sync"))

    async def check_async(self) -> None:
        """The same."""
        await self._run("async", self._check, "async")

    def call_on_close(self, callback: Callable[[], None]) -> None:
        """Call a bound method before each close, as long as its object exists."""
        self._close_callbacks.call_on_close(callback)

    def close(self) -> None:
        """Close the connections. Used again, the storage opens new ones."""
        self._close_callbacks.run()
        self.pools.close()

    async def aclose(self) -> None:
        """Close the connections, those of this event loop too."""
        await self._close_callbacks.run_off_loop()
        await self.pools.aclose()

    async def limit_idle(self) -> None:
        """Keep few idle connections in this event loop: for one of several that use the storage now and then. It is
        called before the loop uses the storage."""
        await self.pools.limit_idle()

    async def aclose_loop(self) -> None:
        """Close the connections of this event loop only: for one of several that use the storage, at its end."""
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

    # For the units of work

    def translate_error(self, error: Exception) -> Exception:
        """An error of the driver or of SQLAlchemy as one of the port's; any other as it is."""
        if isinstance(error, ConfigurationError):
            return StorageError(str(error))
        if isinstance(error, PoolTimeout):
            return StorageUnavailable("no connection became free in time: the pool is exhausted")
        if isinstance(error, StaleDataError):
            return ActionError(ErrorCode.CONFLICT, "a row has changed since it was read: read it again")
        original = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(original, Exception):
            known = self._to_storage_error(original)
            if known is not None:
                return known
        if isinstance(error, InvalidRequestError) and "greenlet" in str(error):
            return StorageError(f"the session was used in the wrong world: {error}")
        return error

    @abstractmethod
    def _to_storage_error(self, error: Exception) -> Exception | None:
        """What an error of the driver is in terms of the port; None for one that is the handler's own."""

    @abstractmethod
    def bind_id(self, id: UUID) -> Any:
        """A tenant's id as the driver takes it."""

    @abstractmethod
    def bind_time(self, time: datetime) -> Any:
        """A time as the driver takes it."""

    @abstractmethod
    def load_time(self, time: Any) -> datetime:
        """A time as the driver gave it, in UTC."""

    @abstractmethod
    def list_documents(self, unit_of_work: SQLUnitOfWork, collection: str, listing: Listing) -> Page[Record]:
        """Documents by id."""

    # What each backend has of its own

    @abstractmethod
    def _find_tenant(self, slug: str, mode: Mode) -> Tenant | None: ...

    @abstractmethod
    def _find_tenant_by_id(self, id: UUID, mode: Mode) -> Tenant | None: ...

    @abstractmethod
    def _create_tenant(self, tenant: Tenant, name: str, mode: Mode) -> bool: ...

    @abstractmethod
    def _delete_tenant(self, slug: str, mode: Mode) -> bool: ...

    @abstractmethod
    def _list_tenants(self, mode: Mode, after: str | None, limit: int | None) -> Sequence[Tenant]: ...

    @abstractmethod
    def _read_events(
        self, tenant: Tenant, after: int, limit: int, types: Sequence[str] | None, mode: Mode
    ) -> Sequence[StoredEvent]: ...

    @abstractmethod
    def _backlog(self, mode: Mode) -> tuple[int, str | None, int]: ...

    @abstractmethod
    def _count_events(self, tenant: Tenant, after: int, limit: int, types: Sequence[str] | None, mode: Mode) -> int: ...

    @abstractmethod
    def _purge_expired_keys(self, limit: int, mode: Mode) -> int: ...

    @abstractmethod
    def _check(self, mode: Mode) -> None: ...

    # What is shared of it

    async def _create(self, mode: Mode, slug: str, name: str) -> Tenant:
        check_tenant(slug, name)
        tenant = Tenant(uuid7(), slug)
        if not await self._run(mode, self._create_tenant, tenant, name, mode):
            raise slug_taken(slug)
        return tenant

    async def _events(
        self, mode: Mode, tenant: Tenant, after: int, limit: int, types: Sequence[str] | None
    ) -> Sequence[StoredEvent]:
        first = min(max(0, after), _LAST_POSITION)
        return await self._run(mode, self._read_events, tenant, first, page_size(limit), _once(types), mode)

    async def _run(self, mode: Mode, function: Callable[..., T], *arguments: Any) -> T:
        try:
            return await run(mode, function, *arguments)
        except (ActionError, ConfigurationError, StorageError):
            raise
        except Exception as error:
            translated = self.translate_error(error)
            if translated is error:
                raise
            raise translated from error


_LAST_POSITION = 2**63 - 1


def _once(types: Sequence[str] | None) -> Sequence[str] | None:
    """Return the types, each of them once."""
    return None if types is None else tuple(dict.fromkeys(types))


def _page_size(limit: int | None) -> int | None:
    return None if limit is None else page_size(limit)


_ALL: weakref.WeakSet[SQLStorage] = weakref.WeakSet()


def _drop_all_caches() -> None:
    for storage in list(_ALL):
        storage.drop_caches()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_all_caches)
