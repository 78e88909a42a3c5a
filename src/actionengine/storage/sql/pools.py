"""The engines of a storage: one for sync mode, and one for each event loop. Each is opened when it is first used."""

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
    """The connections of one engine that were released last. A pool's own check-out and check-in cost more than a
    statement. While a caller waits for the pool, released connections go back to it."""

    def __init__(self, engine: Engine, size: int) -> None:
        self.engine = engine
        self._size = size
        self._lock = threading.Lock()
        self._idle: list[PoolProxiedConnection] = []
        self._asking = 0

    def take(self) -> PoolProxiedConnection:
        """Return the connection that was released last, or one of the pool."""
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
        """Keep a connection that is in the state in which it was taken."""
        with self._lock:
            is_awaited = self._asking > 0
            if not is_awaited and len(self._idle) < self._size:
                self._idle.append(pooled)
                return
        if not is_awaited:
            # The pool would keep as many connections again as are kept here.
            pooled.invalidate()
        pooled.close()

    def clear(self) -> None:
        """Release all connections to the pool."""
        with self._lock:
            idle, self._idle = self._idle, []
        for pooled in idle:
            pooled.close()

    def forget(self) -> None:
        """Keep all connections for ever: in a forked process they are the parent's, and may not be closed."""
        _INHERITED.extend(self._idle)


_INHERITED: list[PoolProxiedConnection] = []

DRIVER = "actionengine"
"""The key in a connection's `info` of the object below SQLAlchemy that talks to the database, if there is one."""


class Heard(Protocol):
    """An object that talks to the database, and knows when it last got an answer."""

    heard: float

    def begin_opening(self) -> None:
        """Bound the waits while a host's own engine opens the connection. If that fails, the engine closes it."""

    def end_opening(self) -> None:
        """Leave the waits for the host's own statements to the host."""


class Pools:
    """The pools of a storage.

    Connections are bound to the event loop that opened them, so each loop has pools of its own. A second, small pool is
    for look-ups: an execution that already holds a connection must not wait for one that other executions hold, which
    may be waiting for a look-up too.

    An `engine` or `async_engine` of the host is used as it is, and never closed. `async_connect` opens a driver's
    connection for an event loop, in place of the driver's own function. `new_driver` makes the object that bounds the
    waits in a new connection, before anything is sent in it; `before_connecting` gets the arguments of each new
    connection.
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
        """The name of the database, or its file."""
        return self._url.database or ""

    def engine(self, mode: Mode, lookup: bool = False) -> Engine:
        """Return the engine of a mode; under an event loop, the synchronous side of that loop's engine."""
        if mode == "sync":
            return self._given or self._stack(lookup).engine
        if self._given_async is not None:
            return self._given_async.sync_engine
        loop = asyncio.get_running_loop()
        return (self._async_engines[lookup].get(loop) or self._open_async(loop, lookup)).sync_engine

    def take(self, mode: Mode, lookup: bool = False) -> tuple[Engine, PoolProxiedConnection]:
        """Return a connection with its engine."""
        stack = self._stack(lookup) if mode == "sync" and self._given is None else None
        engine = stack.engine if stack is not None else self.engine(mode, lookup)
        # Read first, so that a pool that is replaced meanwhile counts as abandoned.
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
        """Release a connection that is in the state in which it was taken."""
        stack = self._stacks.get(lookup)
        if is_orphaned(engine, pooled):
            pooled.invalidate()
            pooled.close()
        elif stack is not None and stack.engine is engine:
            stack.release(pooled)
        else:
            pooled.close()

    def doubt(self, since: float) -> None:
        """Trust no idle connection of this storage whose last answer was before this time (`time.monotonic`), because
        another connection was found silent or lost. Each is replaced when it is next taken."""
        with self._lock:
            self._doubted_since = max(self._doubted_since, since)

    def _is_doubted(self, pooled: PoolProxiedConnection) -> bool:
        driver: Heard | None = pooled.info.get(DRIVER)
        return driver is not None and driver.heard < self._doubted_since

    def close(self) -> None:
        """Close the connections of sync mode, and abandon those of event loops."""
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
        """Close this event loop's connections, and those that `close` closes."""
        await self.aclose_loop()
        self.close()

    async def limit_idle(self) -> None:
        """Keep one idle connection in each pool of the running event loop, because it has few executions."""
        self._idle_limited.add(asyncio.get_running_loop())

    async def aclose_loop(self) -> None:
        """Close this event loop's connections, and no others."""
        loop = asyncio.get_running_loop()
        with self._lock:
            own = [engine for each in self._async_engines.values() if (engine := each.pop(loop, None)) is not None]
        for engine in own:
            await engine.dispose()

    def forget(self) -> None:
        """Leave all connections to the parent process: a child must open its own."""
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
"""True while a connection is taken for a unit of work. A host's own engine may send statements then, such as a ping."""


def _take(engine: Engine) -> PoolProxiedConnection:
    taking = IS_TAKING.set(True)
    try:
        return engine.raw_connection()
    finally:
        IS_TAKING.reset(taking)


def watch(engine: Engine, new_driver: Callable[[Any, Mode], Heard], is_own: bool) -> None:
    """Bound the waits in each new connection of an engine, before anything is sent in it.

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
    """Do nothing: SQLAlchemy would query the server under a lock, one caller after the other."""


def _initialize(engine: Engine, pooled: PoolProxiedConnection) -> None:
    """Let SQLAlchemy query the server for what it needs to know, in the caller's connection. If that fails, close the
    connection, and query in the next caller's."""
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
    """Return whether a connection belongs to a pool that was abandoned meanwhile, and that would never close it."""
    return pooled.info.get(_POOL) is not engine.pool


UNIT_OF_WORK = "actionengine.unit_of_work"
"""The key in a connection's `info` of the unit of work that holds it."""


def listen(engine: Engine) -> None:
    """Watch the statements of handlers' sessions: refuse one that ends the transaction, and report errors to the unit
    of work, since the handler may catch them."""
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
    """Raise `StorageError` for a handler's statement that begins by ending the transaction. The last check of the unit
    of work finds other such statements, after they have run."""
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
