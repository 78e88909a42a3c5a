"""The engines of a storage: one for the synchronous world, one for each event loop, each opened when first used."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from actionengine.errors import ConfigurationError
from actionengine.storage.port import Mode

_LOOKUP_POOL = {"pool_size": 2, "max_overflow": 0}


class Pools:
    """Where a storage gets its connections from.

    Connections are bound to the event loop that opened them, so that each loop has pools of its own. There is a second,
    small pool for look-ups: what an execution asks while it holds a connection already must not wait for one that other
    executions hold, which may be asking the same.

    An `engine` or `async_engine` of the host's is used as it is, and never closed.
    """

    def __init__(
        self,
        url: URL,
        async_driver: str,
        options: dict[str, Any],
        engine: Engine | None = None,
        async_engine: AsyncEngine | None = None,
    ) -> None:
        self._url = url
        self._async_url = url.set(drivername=async_driver)
        self._options = {False: options, True: {**options, **_LOOKUP_POOL}}
        self._given = engine
        self._given_async = async_engine
        self._lock = threading.Lock()
        self._engines: dict[bool, Engine] = {}
        self._async_engines: dict[bool, weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncEngine]] = {
            False: weakref.WeakKeyDictionary(),
            True: weakref.WeakKeyDictionary(),
        }
        for given in (engine, async_engine.sync_engine if async_engine is not None else None):
            if given is not None and not event.contains(given, "handle_error", _note):
                listen(given)
        _ALL.add(self)

    @property
    def name(self) -> str:
        """The database's name, or its file."""
        return self._url.database or ""

    def engine(self, mode: Mode, lookup: bool = False) -> Engine:
        """The engine of a world; under an event loop, the synchronous side of that loop's."""
        if mode == "sync":
            return self._given or self._engines.get(lookup) or self._open(lookup)
        if self._given_async is not None:
            return self._given_async.sync_engine
        loop = asyncio.get_running_loop()
        return (self._async_engines[lookup].get(loop) or self._open_async(loop, lookup)).sync_engine

    def close(self) -> None:
        """Close the synchronous world's connections, and let go of those of event loops."""
        with self._lock:
            engines = list(self._engines.values())
            others = [other for each in self._async_engines.values() for other in each.values()]
            self._let_go()
        for engine in engines:
            engine.dispose()
        for other in others:
            other.sync_engine.dispose(close=False)

    async def aclose(self) -> None:
        """Close this event loop's connections, and what `close` closes."""
        loop = asyncio.get_running_loop()
        with self._lock:
            own = [engine for each in self._async_engines.values() if (engine := each.pop(loop, None)) is not None]
        for engine in own:
            await engine.dispose()
        self.close()

    def forget(self) -> None:
        """Leave all connections to the parent process: those of a child must be its own."""
        self._lock = threading.Lock()
        for engine in self._engines.values():
            engine.dispose(close=False)
        self._let_go()

    def _let_go(self) -> None:
        self._engines.clear()
        for each in self._async_engines.values():
            each.clear()

    def _open(self, lookup: bool) -> Engine:
        if self._given_async is not None:
            raise ConfigurationError(
                "this storage was given an async_engine only: give it an engine too, for def hosts and execute_action"
            )
        with self._lock:
            engine = self._engines.get(lookup)
            if engine is None:
                engine = self._engines[lookup] = create_engine(self._url, **self._options[lookup])
                listen(engine)
            return engine

    def _open_async(self, loop: asyncio.AbstractEventLoop, lookup: bool) -> AsyncEngine:
        if self._given is not None:
            raise ConfigurationError(
                "this storage was given an engine only: give it an async_engine too, for execute_action_async"
            )
        with self._lock:
            engine = self._async_engines[lookup].get(loop)
            if engine is None:
                engine = create_async_engine(self._async_url, **self._options[lookup])
                listen(engine.sync_engine)
                self._async_engines[lookup][loop] = engine
            return engine


UNIT_OF_WORK = "actionengine.unit_of_work"
"""Where a connection's `info` has the unit of work that holds it."""


def listen(engine: Engine) -> None:
    """Have units of work told of errors in their sessions, which a handler may catch."""
    event.listen(engine, "handle_error", _note)


def _note(context: ExceptionContext) -> None:
    connection = context.connection
    unit_of_work = connection.info.get(UNIT_OF_WORK) if connection is not None else None
    if unit_of_work is not None and isinstance(context.original_exception, Exception):
        unit_of_work.note(unit_of_work.translated(context.original_exception))


_ALL: weakref.WeakSet[Pools] = weakref.WeakSet()


def _forget_all() -> None:
    for pools in list(_ALL):
        pools.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
