"""A storage in one mode: a test that is a coroutine runs without an event loop or under one.

In sync mode nothing suspends and concurrency means threads; in async mode it means tasks.
"""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar
from uuid import uuid4

from returns.result import Result

from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.context import RequestContext, Tenant
from actionengine.engine import Engine
from actionengine.errors import ActionError
from actionengine.storage.port import Storage, UnitOfWork
from actionengine.storage.rows import Record, StoredEvent

T = TypeVar("T")
P = ParamSpec("P")


def run_in_mode(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Decorate a coroutine function as a test. It runs in the mode of its `Backend` or `Harness` fixture."""

    @wraps(test)
    def run(*arguments: P.args, **fixtures: P.kwargs) -> None:
        candidates = (getattr(fixture, "backend", fixture) for fixture in fixtures.values())
        backend = next(candidate for candidate in candidates if isinstance(candidate, Backend))
        backend.run(test(*arguments, **fixtures))

    return run


class Event(Protocol):
    """A one-time signal between threads or tasks."""

    def set(self) -> None:
        """Set the event."""

    async def wait(self) -> None:
        """Wait until the event is set."""


class Backend(ABC):
    """A storage with two fresh tenants, in one mode."""

    mode: Mode

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.tenant = make_tenant()
        self.other_tenant = make_tenant()

    # Differs between the modes

    @abstractmethod
    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return the value of a coroutine."""

    @abstractmethod
    async def gather(self, *coroutines: Coroutine[Any, Any, T]) -> Sequence[T]:
        """Return the values of coroutines that run concurrently."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Pause this coroutine, in seconds."""

    @abstractmethod
    def event(self) -> Event:
        """Return a new event."""

    @abstractmethod
    async def execute(
        self, engine: Engine, service: str, action: str, payload: Any, context: RequestContext
    ) -> Result[Any, ActionError]:
        """Execute an action through the entry point of this mode."""

    @abstractmethod
    async def create_tenant(self, *, slug: str, name: str) -> Tenant:
        """`Storage.create_tenant`."""

    @abstractmethod
    async def delete_tenant(self, *, slug: str) -> bool:
        """`Storage.delete_tenant`."""

    @abstractmethod
    async def list_tenants(self, *, after: str | None = None, limit: int | None = None) -> Sequence[Tenant]:
        """`Storage.list_tenants`."""

    @abstractmethod
    async def read_events(
        self, tenant: Tenant, *, after: int = 0, limit: int = 1000, types: Sequence[str] | None = None
    ) -> Sequence[StoredEvent]:
        """`Storage.read_events`."""

    @abstractmethod
    async def purge_expired_keys(self, *, limit: int = 1000) -> int:
        """`Storage.purge_expired_keys`."""

    @abstractmethod
    def close(self) -> None:
        """Release the resources of this backend."""

    # The same in both modes

    def unit(self, tenant: Tenant | None = None, *, read_only: bool = False) -> UnitOfWork:
        """Return a new unit of work; `tenant` defaults to `self.tenant`."""
        return self.storage.unit_of_work(tenant or self.tenant, str(uuid4()), self.mode, read_only)

    @asynccontextmanager
    async def writing(self, tenant: Tenant | None = None) -> AsyncIterator[UnitOfWork]:
        """Open a unit of work. It commits at the end, or rolls back after an error."""
        unit = self.unit(tenant)
        try:
            yield unit
            await unit.commit()
        finally:
            await unit.rollback()

    @asynccontextmanager
    async def reading(self, tenant: Tenant | None = None) -> AsyncIterator[UnitOfWork]:
        """Open a read-only unit of work."""
        unit = self.unit(tenant, read_only=True)
        try:
            yield unit
        finally:
            await unit.rollback()

    async def put(
        self, collection: str, id: str, data: Mapping[str, Any] | None = None, tenant: Tenant | None = None
    ) -> Record:
        """Insert a document and commit."""
        async with self.writing(tenant) as unit:
            return await unit.records(collection).insert(data or {}, id)

    async def get(self, collection: str, id: str, tenant: Tenant | None = None) -> Record | None:
        """Return a document as a new unit of work sees it."""
        async with self.reading(tenant) as unit:
            return await unit.records(collection).get(id)

    async def ids(self, collection: str, tenant: Tenant | None = None) -> list[str]:
        """Return the ids of a collection as a new unit of work sees them."""
        async with self.reading(tenant) as unit:
            return [record.id for record in await unit.records(collection).list(limit=1000)]


class SyncBackend(Backend):
    """No event loop; concurrency means threads."""

    mode: Mode = "sync"

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return the value of a coroutine, which must not suspend."""
        return run_sync(coroutine)

    async def gather(self, *coroutines: Coroutine[Any, Any, T]) -> Sequence[T]:
        """Return the values of coroutines, each run in its own thread."""
        start = threading.Barrier(len(coroutines))

        def work(coroutine: Coroutine[Any, Any, T]) -> T:
            start.wait()
            return run_sync(coroutine)

        with ThreadPoolExecutor(len(coroutines)) as threads:
            return list(threads.map(work, coroutines))

    async def sleep(self, seconds: float) -> None:
        """Block this thread, in seconds."""
        time.sleep(seconds)  # noqa: ASYNC251 - there is no event loop here

    def event(self) -> Event:
        """Return a new event for threads."""
        return _ThreadEvent()

    async def execute(
        self, engine: Engine, service: str, action: str, payload: Any, context: RequestContext
    ) -> Result[Any, ActionError]:
        """`Engine.execute_action`."""
        return engine.execute_action(service, action, payload, context)

    async def create_tenant(self, *, slug: str, name: str) -> Tenant:
        """`Storage.create_tenant`."""
        return self.storage.create_tenant(slug=slug, name=name)

    async def delete_tenant(self, *, slug: str) -> bool:
        """`Storage.delete_tenant`."""
        return self.storage.delete_tenant(slug=slug)

    async def list_tenants(self, *, after: str | None = None, limit: int | None = None) -> Sequence[Tenant]:
        """`Storage.list_tenants`."""
        return self.storage.list_tenants(after=after, limit=limit)

    async def read_events(
        self, tenant: Tenant, *, after: int = 0, limit: int = 1000, types: Sequence[str] | None = None
    ) -> Sequence[StoredEvent]:
        """`Storage.read_events`."""
        return self.storage.read_events(tenant, after=after, limit=limit, types=types)

    async def purge_expired_keys(self, *, limit: int = 1000) -> int:
        """`Storage.purge_expired_keys`."""
        return self.storage.purge_expired_keys(limit=limit)

    def close(self) -> None:
        """Do nothing: the storage's own fixture closes the storage."""


class AsyncBackend(Backend):
    """One event loop; concurrency means tasks."""

    mode: Mode = "async"

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage)
        self._runner = asyncio.Runner()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return the value of a coroutine."""
        return self._runner.run(coroutine)

    async def gather(self, *coroutines: Coroutine[Any, Any, T]) -> Sequence[T]:
        """Return the values of coroutines, each run in its own task."""
        return await asyncio.gather(*coroutines)

    async def sleep(self, seconds: float) -> None:
        """Suspend this task, in seconds."""
        await asyncio.sleep(seconds)

    def event(self) -> Event:
        """Return a new event for tasks."""
        return _TaskEvent()

    async def execute(
        self, engine: Engine, service: str, action: str, payload: Any, context: RequestContext
    ) -> Result[Any, ActionError]:
        """`Engine.execute_action_async`."""
        return await engine.execute_action_async(service, action, payload, context)

    async def create_tenant(self, *, slug: str, name: str) -> Tenant:
        """`Storage.create_tenant_async`."""
        return await self.storage.create_tenant_async(slug=slug, name=name)

    async def delete_tenant(self, *, slug: str) -> bool:
        """`Storage.delete_tenant`."""
        return await self.storage.delete_tenant_async(slug=slug)

    async def list_tenants(self, *, after: str | None = None, limit: int | None = None) -> Sequence[Tenant]:
        """`Storage.list_tenants_async`."""
        return await self.storage.list_tenants_async(after=after, limit=limit)

    async def read_events(
        self, tenant: Tenant, *, after: int = 0, limit: int = 1000, types: Sequence[str] | None = None
    ) -> Sequence[StoredEvent]:
        """`Storage.read_events_async`."""
        return await self.storage.read_events_async(tenant, after=after, limit=limit, types=types)

    async def purge_expired_keys(self, *, limit: int = 1000) -> int:
        """`Storage.purge_expired_keys_async`."""
        return await self.storage.purge_expired_keys_async(limit=limit)

    def close(self) -> None:
        """Close the connections that the storage has opened in this loop, then the loop."""
        aclose: Callable[[], Awaitable[None]] | None
        aclose = getattr(self.storage, "aclose_loop", getattr(self.storage, "aclose", None))

        async def close_storage() -> None:
            if aclose is not None:
                await aclose()

        self._runner.run(close_storage())
        self._runner.close()


class _ThreadEvent:
    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        assert self._event.wait(90), "the event was not set within 90 s"


class _TaskEvent:
    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await asyncio.wait_for(self._event.wait(), 90)


def make_tenant() -> Tenant:
    """Return a tenant with a new id and slug."""
    id = uuid4()
    return Tenant(id, f"tenant-{id.hex}")
