"""One test, two worlds: the same coroutine runs without an event loop and under one.

In the sync world nothing suspends and concurrency means threads; in the async world it means tasks.
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
    """Make a test function of a coroutine function: it runs in the world that is among its fixtures."""

    @wraps(test)
    def run(*arguments: P.args, **fixtures: P.kwargs) -> None:
        backend = next(fixture for fixture in fixtures.values() if isinstance(fixture, Backend))
        backend.run(test(*arguments, **fixtures))

    return run


class Event(Protocol):
    """Something that one side says once and another side waits for."""

    def set(self) -> None:
        """Say it."""

    async def wait(self) -> None:
        """Wait until it is said."""


class Backend(ABC):
    """A storage with two fresh tenants, in one mode."""

    mode: Mode

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.tenant = a_tenant()
        self.other_tenant = a_tenant()

    # What differs

    @abstractmethod
    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """A coroutine's value."""

    @abstractmethod
    async def gather(self, *coroutines: Coroutine[Any, Any, T]) -> Sequence[T]:
        """The coroutines' values, all of them started together."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Let others go on for a while."""

    @abstractmethod
    def event(self) -> Event:
        """A new signal."""

    @abstractmethod
    async def execute(
        self, engine: Engine, service: str, action: str, payload: Any, context: RequestContext
    ) -> Result[Any, ActionError]:
        """Execute an action through the entry point of this world."""

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
        """Give back what this world has opened."""

    # What does not

    def unit(self, tenant: Tenant | None = None, *, read_only: bool = False) -> UnitOfWork:
        """A new unit of work; of `self.tenant`, where none is named."""
        return self.storage.unit_of_work(tenant or self.tenant, str(uuid4()), self.mode, read_only)

    @asynccontextmanager
    async def writing(self, tenant: Tenant | None = None) -> AsyncIterator[UnitOfWork]:
        """A unit of work that commits at the end, or rolls back where something is raised."""
        unit = self.unit(tenant)
        try:
            yield unit
            await unit.commit()
        finally:
            await unit.rollback()

    @asynccontextmanager
    async def reading(self, tenant: Tenant | None = None) -> AsyncIterator[UnitOfWork]:
        """A read-only unit of work."""
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
        """A document as a new unit of work sees it."""
        async with self.reading(tenant) as unit:
            return await unit.records(collection).get(id)

    async def ids(self, collection: str, tenant: Tenant | None = None) -> list[str]:
        """The ids of a collection as a new unit of work sees them."""
        async with self.reading(tenant) as unit:
            return [record.id for record in await unit.records(collection).list(limit=1000)]


class SyncBackend(Backend):
    """No event loop; concurrency means threads."""

    mode: Mode = "sync"

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """A coroutine's value; it must not suspend."""
        return run_sync(coroutine)

    async def gather(self, *coroutines: Coroutine[Any, Any, T]) -> Sequence[T]:
        """The coroutines' values, each driven by a thread of its own."""
        start = threading.Barrier(len(coroutines))

        def work(coroutine: Coroutine[Any, Any, T]) -> T:
            start.wait()
            return run_sync(coroutine)

        with ThreadPoolExecutor(len(coroutines)) as threads:
            return list(threads.map(work, coroutines))

    async def sleep(self, seconds: float) -> None:
        """Let other threads go on for a while."""
        time.sleep(seconds)  # noqa: ASYNC251 - there is no event loop here

    def event(self) -> Event:
        """A signal between threads."""
        return _ThreadSignal()

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
        """Nothing to do: the storage's own fixture closes the storage."""


class AsyncBackend(Backend):
    """One event loop; concurrency means tasks."""

    mode: Mode = "async"

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage)
        self._runner = asyncio.Runner()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """A coroutine's value."""
        return self._runner.run(coroutine)

    async def gather(self, *coroutines: Coroutine[Any, Any, T]) -> Sequence[T]:
        """The coroutines' values, each in a task of its own."""
        return await asyncio.gather(*coroutines)

    async def sleep(self, seconds: float) -> None:
        """Let other tasks go on for a while."""
        await asyncio.sleep(seconds)

    def event(self) -> Event:
        """A signal between tasks."""
        return _TaskSignal()

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
        """Close the loop, and before it what the storage has opened in it."""
        aclose: Callable[[], Awaitable[None]] | None = getattr(self.storage, "aclose", None)

        async def close_storage() -> None:
            if aclose is not None:
                await aclose()

        self._runner.run(close_storage())
        self._runner.close()


class _ThreadSignal:
    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        assert self._event.wait(90), "nobody has said it"


class _TaskSignal:
    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await asyncio.wait_for(self._event.wait(), 90)


def a_tenant() -> Tenant:
    """A tenant that nobody else has."""
    id = uuid4()
    return Tenant(id, f"tenant-{id.hex}")
