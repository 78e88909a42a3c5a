"""The engines of a storage: one for sync mode, one for each event loop, each opened when first used."""

from __future__ import annotations

import asyncio
import re
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Protocol

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, Connection, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from actionengine.concurrency.run_sync import Mode
from actionengine.errors import ConfigurationError
from actionengine.storage.errors import StorageError

_LOOKUP_POOL = {"pool_size": 2, "max_overflow": 0}


class ConnectionStack:
    """Connections of one engine that were given back last, kept at hand: a pool's own check-out and check-in cost more
    than a statement. Where somebody waits for the pool, they go back to it."""

    def __init__(self, engine: Engine, size: int) -> None:
        self.engine = engine
        self._size = size
        self._lock = threading.Lock()
        self._idle: list[PoolProxiedConnection] = []
        self._asking = 0

    def take(self) -> PoolProxiedConnection:
        """A connection: the one given back last, or one of the pool's."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
            self._asking += 1
        try:
            return self.engine.raw_connection()
        finally:
            with self._lock:
                self._asking -= 1

    def release(self, pooled: PoolProxiedConnection) -> None:
        """Keep a connection that is as it was when it was taken."""
        with self._lock:
            is_awaited = self._asking > 0
            if not is_awaited and len(self._idle) < self._size:
                self._idle.append(pooled)
                return
        if not is_awaited:
            # The pool would keep as many again as are at hand here.
            pooled.invalidate()
        pooled.close()

    def clear(self) -> None:
        """Give all back to the pool."""
        with self._lock:
            idle, self._idle = self._idle, []
        for pooled in idle:
            pooled.close()

    def forget(self) -> None:
        """Keep all for ever: what is left of the parent process in a forked one is not even to be cleaned up."""
        _INHERITED.extend(self._idle)


_INHERITED: list[PoolProxiedConnection] = []

DRIVER = "actionengine"
"""Where a connection's `info` has what the library speaks to the database with, where that is not SQLAlchemy."""


class Heard(Protocol):
    """What speaks to the database, and knows when it was heard of last."""

    heard: float

    def begin_opening(self) -> None:
        """Bound the waiting of a host's own engine that opens the connection, which closes it where that fails."""

    def end_opening(self) -> None:
        """Leave the waiting of the host's own statements to the host."""


class Pools:
    """Where a storage gets its connections from.

    Connections are bound to the event loop that opened them, so that each loop has pools of its own. There is a second,
    small pool for look-ups: what an execution asks while it holds a connection already must not wait for one that other
    executions hold, which may be asking the same.

    An `engine` or `async_engine` of the host's is used as it is, and never closed. `async_connect` opens a connection
    of the driver's for an event loop, where the driver's own way will not do. `new_driver` makes what bounds the
    waiting in a new connection, before anything is sent in it; `before_connecting` gets the arguments of each new one.
    """

    def __init__(
        self,
        url: URL,
        async_driver: str,
        options: dict[str, Any],
        engine: Engine | None = None,
        async_engine: AsyncEngine | None = None,
        async_connect: Callable[..., Awaitable[Any]] | None = None,
        *,
        new_driver: Callable[[Any, Mode], Heard] | None = None,
        before_connecting: Callable[..., None] | None = None,
    ) -> None:
        self._url = url
        self._async_url = url.set(drivername=async_driver)
        self._options = {False: options, True: {**options, **_LOOKUP_POOL}}
        self._async_connect = {} if async_connect is None else {"async_creator_fn": async_connect}
        self._given = engine
        self._given_async = async_engine
        self._lock = threading.Lock()
        self._doubted_since = 0.0
        self._new_driver = new_driver
        self._before_connecting = before_connecting
        self._initializes = new_driver is not None and engine is None and async_engine is None
        self._stacks: dict[bool, ConnectionStack] = {}
        self._idle_limited: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._async_engines: dict[bool, weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncEngine]] = {
            False: weakref.WeakKeyDictionary(),
            True: weakref.WeakKeyDictionary(),
        }
        for given in (engine, async_engine.sync_engine if async_engine is not None else None):
            if given is not None:
                if not event.contains(given, "handle_error", _record_lost):
                    listen(given)
                if new_driver is not None:
                    watch(given, new_driver, is_own=False)

    @property
    def name(self) -> str:
        """The database's name, or its file."""
        return self._url.database or ""

    def engine(self, mode: Mode, lookup: bool = False) -> Engine:
        """The engine of a world; under an event loop, the synchronous side of that loop's."""
        if mode == "sync":
            return self._given or self._stack(lookup).engine
        if self._given_async is not None:
            return self._given_async.sync_engine
        loop = asyncio.get_running_loop()
        return (self._async_engines[lookup].get(loop) or self._open_async(loop, lookup)).sync_engine

    def take(self, mode: Mode, lookup: bool = False) -> tuple[Engine, PoolProxiedConnection]:
        """A connection, and its engine."""
        stack = self._stack(lookup) if mode == "sync" and self._given is None else None
        engine = stack.engine if stack is not None else self.engine(mode, lookup)
        # Read before, so that a pool that is replaced meanwhile counts as given up.
        pool = engine.pool
        pooled = stack.take() if stack is not None else _take(engine)
        while self._doubted_since and self._is_doubted(pooled):
            pooled.invalidate()
            pooled.close()
            pooled = stack.take() if stack is not None else _take(engine)
        if self._initializes and engine.dialect.server_version_info is None:
            _initialize(engine, pooled)
        pooled.info.setdefault(_POOL, pool)
        return engine, pooled

    def release(self, engine: Engine, pooled: PoolProxiedConnection, lookup: bool = False) -> None:
        """Give back a connection that is as it was when it was taken."""
        stack = self._stacks.get(lookup)
        if is_orphaned(engine, pooled):
            pooled.invalidate()
            pooled.close()
        elif stack is not None and stack.engine is engine:
            stack.release(pooled)
        else:
            pooled.close()

    def doubt(self, since: float) -> None:
        """Trust no idle connection, of any pool of this storage, that was not heard of since then (`time.monotonic`):
        one of them was found silent, or lost. Each is replaced when somebody takes it."""
        with self._lock:
            self._doubted_since = max(self._doubted_since, since)

    def _is_doubted(self, pooled: PoolProxiedConnection) -> bool:
        driver: Heard | None = pooled.info.get(DRIVER)
        return driver is not None and driver.heard < self._doubted_since

    def close(self) -> None:
        """Close sync mode's connections, and let go of those of event loops."""
        with self._lock:
            stacks = list(self._stacks.values())
            others = [other for each in self._async_engines.values() for other in each.values()]
            self._release_all()
        for stack in stacks:
            stack.clear()
            stack.engine.dispose()
        for other in others:
            other.sync_engine.dispose(close=False)

    async def aclose(self) -> None:
        """Close this event loop's connections, and what `close` closes."""
        await self.aclose_loop()
        self.close()

    async def limit_idle(self) -> None:
        """Keep one idle connection in each pool of the running event loop, for a loop that has few executions."""
        self._idle_limited.add(asyncio.get_running_loop())

    async def aclose_loop(self) -> None:
        """Close this event loop's connections, and no others."""
        loop = asyncio.get_running_loop()
        with self._lock:
            own = [engine for each in self._async_engines.values() if (engine := each.pop(loop, None)) is not None]
        for engine in own:
            await engine.dispose()

    def forget(self) -> None:
        """Leave all connections to the parent process: those of a child must be its own."""
        self._lock = threading.Lock()
        for stack in self._stacks.values():
            stack.forget()
            stack.engine.dispose(close=False)
        self._release_all()

    def _release_all(self) -> None:
        self._stacks.clear()
        for each in self._async_engines.values():
            each.clear()

    def _stack(self, lookup: bool) -> ConnectionStack:
        return self._stacks.get(lookup) or self._open(lookup)

    def _open(self, lookup: bool) -> ConnectionStack:
        if self._given_async is not None:
            raise ConfigurationError(
                "this storage was given an async_engine only: give it an engine too, for def hosts and execute_action"
            )
        with self._lock:
            stack = self._stacks.get(lookup)
            if stack is None:
                engine = create_engine(self._url, **self._options[lookup])
                stack = self._stacks[lookup] = ConnectionStack(engine, self._options[lookup]["pool_size"])
                self._prepare(engine)
            return stack

    def _open_async(self, loop: asyncio.AbstractEventLoop, lookup: bool) -> AsyncEngine:
        if self._given is not None:
            raise ConfigurationError(
                "this storage was given an engine only: give it an async_engine too, for execute_action_async"
            )
        with self._lock:
            engine = self._async_engines[lookup].get(loop)
            if engine is None:
                options = dict(self._options[lookup])
                options["connect_args"] = options.get("connect_args", {}) | self._async_connect
                if loop in self._idle_limited and options["max_overflow"] >= 0:
                    options["max_overflow"] += options["pool_size"] - 1
                    options["pool_size"] = 1
                engine = create_async_engine(self._async_url, **options)
                self._prepare(engine.sync_engine)
                self._async_engines[lookup][loop] = engine
            return engine

    def _prepare(self, engine: Engine) -> None:
        listen(engine)
        if self._before_connecting is not None:
            event.listen(engine, "do_connect", self._before_connecting)
        if self._new_driver is not None:
            watch(engine, self._new_driver, is_own=True)
            engine.dialect.initialize = _initialize_later  # type: ignore[method-assign]


IS_TAKING: ContextVar[bool] = ContextVar("IS_TAKING", default=False)
"""Whether a connection is being taken for a unit of work: a host's own engine may ask the server for that, to ping it
say."""


def _take(engine: Engine) -> PoolProxiedConnection:
    taking = IS_TAKING.set(True)
    try:
        return engine.raw_connection()
    finally:
        IS_TAKING.reset(taking)


def watch(engine: Engine, new_driver: Callable[[Any, Mode], Heard], is_own: bool) -> None:
    """Bound the waiting in each new connection of an engine, before anything is sent in it.

    In one of a host's own engine it is bounded until that is open, and then while a unit of work uses it.
    """
    mode: Mode = "async" if engine.dialect.is_async else "sync"
    make = weakref.WeakMethod(new_driver)

    def begin(connection: Any, record: ConnectionPoolEntry) -> None:
        driver = make()
        if driver is not None and DRIVER not in record.info:
            made = record.info[DRIVER] = driver(record.driver_connection, mode)
            if not is_own:
                made.begin_opening()

    def end(connection: Any, record: ConnectionPoolEntry) -> None:
        driver: Heard | None = record.info.get(DRIVER)
        if driver is not None:
            driver.end_opening()

    event.listen(engine, "connect", begin, insert=True)
    if not is_own:
        event.listen(engine, "connect", end)


def _initialize_later(connection: Connection) -> None:
    """Do nothing: SQLAlchemy would ask the server under a lock, one caller after the other."""


def _initialize(engine: Engine, pooled: PoolProxiedConnection) -> None:
    """Let SQLAlchemy ask the server what it needs to know, in the caller's connection. Where that fails, it is closed,
    and the next caller's is asked."""
    dialect = engine.dialect
    try:
        connection = Connection(engine, pooled)
        type(dialect).initialize(dialect, connection)
        connection.rollback()
    except BaseException:
        dialect.server_version_info = None
        if pooled.is_valid:
            pooled.invalidate()
        pooled.close()
        raise


_POOL = "actionengine.pool"


def is_orphaned(engine: Engine, pooled: PoolProxiedConnection) -> bool:
    """Return whether a connection is of a pool that was given up meanwhile: nobody would ever close it."""
    return pooled.info.get(_POOL) is not engine.pool


UNIT_OF_WORK = "actionengine.unit_of_work"
"""Where a connection's `info` has the unit of work that holds it."""


def listen(engine: Engine) -> None:
    """Watch the statements of the sessions of units of work: one that ends the transaction is refused, and errors are
    told to the unit of work, since a handler may catch them."""
    event.listen(engine, "handle_error", _record_lost)
    event.listen(engine, "before_cursor_execute", _refuse_end)


_END = re.compile(
    r"(?:\s|;|--[^\n]*\n|/\*.*?\*/)*"
    r"(commit|end|abort|prepare\s+transaction|rollback(?!\s+(?:(?:work|transaction)\s+)?to\b))\b",
    re.IGNORECASE | re.DOTALL,
)


def _refuse_end(
    connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
) -> None:
    """Raise `StorageError` for a statement of a handler's that begins with one that ends the transaction. The last look
    of the unit of work finds the others, once they have been run."""
    end = _END.match(statement)
    if end is not None and connection.info.get(UNIT_OF_WORK) is not None:
        raise StorageError(
            f"a handler's SQL cannot end the transaction, and {end[1].upper()!r} does: the pipeline ends it. Use "
            f"session.flush() for rows that you need now, or session.begin_nested() for a part"
        )


def _record_lost(context: ExceptionContext) -> None:
    connection = context.connection
    unit_of_work = connection.info.get(UNIT_OF_WORK) if connection is not None else None
    if unit_of_work is not None and isinstance(context.original_exception, Exception):
        unit_of_work.record_error(unit_of_work.translate_error(context.original_exception))
