"""One transaction in one connection: from the first use of the connection to its release."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from math import inf
from time import monotonic
from typing import Any, TypeVar

from sqlalchemy import Engine
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session
from sqlalchemy.pool import PoolProxiedConnection

from actionengine.concurrency.run_sync import Mode
from actionengine.concurrency.uninterrupted import uninterrupted
from actionengine.context import Tenant
from actionengine.errors import ActionError, ErrorCode
from actionengine.storage.errors import SerializationFailure, StorageError, StorageUnavailable
from actionengine.storage.records import ROLE_COLLECTIONS
from actionengine.storage.rows import Claim, ClaimAnswer
from actionengine.storage.scopes import Scope, Scopes
from actionengine.storage.sql.bridge import await_, greenlet_spawn, in_greenlet, run
from actionengine.storage.sql.database import Database
from actionengine.storage.sql.exclusive import Exclusive
from actionengine.storage.sql.pools import UNIT_OF_WORK, is_orphaned
from actionengine.storage.sql.subjects import FlushedSubjects

T = TypeVar("T")
Made = TypeVar("Made")

logger = logging.getLogger("actionengine")

_STOP_INTERVAL = 0.05
_STOP_TIMEOUT = 5.0
"""Seconds between two attempts to stop another thread or task in the connection, and for all attempts together."""

_INTERRUPTED = (
    "a statement of this execution was interrupted, by a cancellation or a timeout of the handler's own, or its "
    "connection was given up: the transaction was rolled back and cannot go on"
)


class Transaction(ABC):
    """One transaction of one tenant, in one connection, which it takes when it is first used.

    The methods with an underscore are plain functions. `run` runs them in the mode of the transaction, one at a time,
    because the threads and tasks of a handler may use it at once.
    """

    def __init__(self, database: Database, tenant: Tenant, action_id: str, mode: Mode, read_only: bool) -> None:
        self.database = database
        self.tenant = tenant
        self.subjects = FlushedSubjects()
        self._action_id = action_id
        self._mode = mode
        self._read_only = read_only
        # Roles are looked up outside any action, by an execution that may hold a connection already.
        self._is_lookup = read_only and not action_id
        self._exclusive = Exclusive(mode)
        self._scopes = Scopes()
        self._loop = _running_loop() if mode == "async" else None
        self._ended = False
        self._abandoned = False
        self._is_broken_off = False
        self._failed: Exception | None = None
        self._deadline: float | None = None
        self._touched_roles = False
        self._engine: Engine | None = None
        self._pooled: PoolProxiedConnection | None = None
        # The same connection as the handler's session has it, and that session.
        self._connection: Connection | None = None
        self._session: Session | None = None

    # For the collections

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a plain function in the transaction's mode, while no other thread or task uses the transaction."""
        self._check_open()
        return await self._in_mode(self._alone, True, function, *arguments)

    def track_write(self, collection: str) -> None:
        """Record a write. Raise `ActionError(internal)` if the transaction is read-only."""
        if self._read_only:
            raise ActionError(ErrorCode.INTERNAL, f"a read-only action cannot write to {collection!r}")
        if collection in ROLE_COLLECTIONS:
            self._touched_roles = True

    @abstractmethod
    def query(self, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Return the rows of a statement."""

    def queue_write(self, statement: str, parameters: Sequence[Any]) -> None:
        """Run a statement whose rows are not needed, at the latest before the next statement."""
        self.query(statement, parameters)

    def time(self) -> datetime:
        """Return the time by the database's clock, in UTC. It is known once the transaction is open."""
        if self._pooled is None:
            self._open(None, 0.0)
        return self._clock()

    # For the session

    def alone(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a plain function while no other thread or task uses the transaction.

        Raise `StorageError` if the caller cannot wait for that, and as `check_usable` does. If the function is
        interrupted, the state of its statement is unknown, and the transaction is given up.
        """
        self._check_open()
        if self._mode == "async" and not in_greenlet():
            raise StorageError(
                "this unit of work belongs to an event loop: use the async session there, or the context in the "
                "handler's own thread"
            )
        return self._alone(True, function, *arguments)

    def alone_among_threads(self, function: Callable[[], object]) -> None:
        """Do the same for a function that needs no database. Under an event loop there are no other threads."""
        if self._mode == "sync":
            self._alone(False, function)
        else:
            function()

    def begin_own_savepoint(self, begin: Callable[[], Made], has_ended: Callable[[Made], bool]) -> Made:
        """Make a savepoint of the handler's with SQLAlchemy's `begin`. One that SQLAlchemy makes for itself, during a
        statement, is no scope of its own."""
        if self._exclusive.is_mine():
            return begin()

        def made() -> tuple[Made, Scope]:
            transaction = begin()
            return transaction, self._scopes.enter(has_ended=lambda: has_ended(transaction))

        transaction, scope = self.alone(made)
        scope.step_in()
        return transaction

    @abstractmethod
    def session_connection(self) -> Connection:
        """Return the connection of the session. Open the transaction if it is not open."""

    def check_usable(self) -> None:
        """Raise `StorageError` if the transaction is over, or another thread or task is inside a savepoint of it."""
        self._check_open()
        self._scopes.check()

    def break_off(self) -> None:
        """Give up the connection at once, with everything written in it: it was interrupted, or is lost."""
        self._is_broken_off = True
        if self._failed is None:
            self._failed = StorageError(_INTERRUPTED)
        if self._pooled is None:
            return
        if self._mode == "sync":
            self._give_up()
        elif in_greenlet():
            await_(self._give_up_uninterrupted())

    def translate_error(self, error: Exception) -> Exception:
        """Return the port's error for one of the driver or of SQLAlchemy; any other error unchanged."""
        return self.database.translate_error(error)

    def record_error(self, error: Exception) -> None:
        """Record an error of this transaction. After one of the database itself, nothing can be committed, even if the
        handler catches it."""
        if isinstance(error, (SerializationFailure, StorageUnavailable)) and self._failed is None:
            self._failed = error

    # For each backend

    @abstractmethod
    def execute(self, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Run a statement at the level of the driver."""

    @abstractmethod
    def _clock(self) -> datetime:
        """Return the time by the database's clock, in an open transaction."""

    @abstractmethod
    def _take_connection(self, claim: Claim | None, wait: float) -> ClaimAnswer | None:
        """Take a connection and begin in it."""

    @abstractmethod
    def _undo(self) -> None:
        """Roll back."""

    @abstractmethod
    def _interrupt(self) -> None:
        """Stop a statement of another thread in this connection."""

    @abstractmethod
    def _abort(self) -> None:
        """Stop a statement that runs in this connection, and free everything that the transaction holds."""

    # One user at a time

    async def _in_mode(self, function: Callable[..., T], *arguments: Any) -> T:
        if self._mode == "async" and not in_greenlet():
            self._check_loop()
        try:
            return await run(self._mode, function, *arguments)
        except Exception as error:
            translated = self.translate_error(error)
            self.record_error(translated)
            if translated is error:
                raise
            raise translated from error

    def _check_loop(self) -> None:
        running = _running_loop()
        if self._loop is None:
            self._loop = running
        if running is None or running is not self._loop:
            raise StorageError(
                "this unit of work belongs to an event loop: a thread or another loop that the handler has started "
                "cannot use it"
            )

    def _alone(self, checks: bool, function: Callable[..., T], *arguments: Any) -> T:
        if not self._exclusive.enter_now():
            seconds = inf if self._deadline is None else max(0.0, self._deadline - monotonic())
            if not self._exclusive.enter(seconds):
                raise StorageUnavailable("another thread or task of this handler has used the storage for too long")
        try:
            if checks:
                self.check_usable()
            return function(*arguments)
        except Exception:
            raise
        except GeneratorExit:
            # Nothing can be awaited here; the rollback gives up the connection.
            self._is_broken_off = True
            raise
        except BaseException:
            if self._pooled is not None:
                self.break_off()
            raise
        finally:
            self._exclusive.leave()

    def _check_not_over(self) -> None:
        if self._ended:
            raise StorageError("this execution has ended, and its unit of work with it")

    def _check_open(self) -> None:
        if self._is_broken_off:
            raise self._failed or StorageError(_INTERRUPTED)
        self._check_not_over()

    # Opening and ending

    def _open(self, claim: Claim | None, wait: float) -> ClaimAnswer | None:
        """Take a connection and begin in it. If another thread or task has ended the execution meanwhile, it found no
        connection to release: then release it here."""
        try:
            answer = self._take_connection(claim, wait)
        except BaseException:
            if self._ended:
                self._release_connection()
            raise
        if self._ended:
            self._release_connection()
            self._check_open()
        return answer

    def _release_connection(self) -> None:
        if self._pooled is not None:
            self._release(broken=True)
        else:
            self._released()

    def _rollback(self) -> None:
        """Roll back, without raising: a connection that cannot be rolled back is closed."""
        if self._pooled is None:
            return
        if self._abandoned or not self._exclusive.enter_now():
            self._stop_others()
            self._give_up()
            return
        try:
            self._undo()
            self._release()
        except BaseException as error:
            logger.debug("a rollback failed, its connection is closed: %r", error)
            self._release(broken=True)
            if not isinstance(error, Exception):
                raise
        finally:
            self._exclusive.leave()

    def _stop_others(self) -> None:
        """Stop another thread or task of the handler, which may be in the middle of a statement, or about to send
        one."""
        until = monotonic() + _STOP_TIMEOUT
        while monotonic() < until:
            with suppress(Exception):
                self._interrupt()
            if self._exclusive.enter(_STOP_INTERVAL):
                self._exclusive.leave()
                return

    async def _give_up_uninterrupted(self) -> None:
        # The coroutine is made where it is awaited: the caller's thread may have been abandoned.
        await uninterrupted(greenlet_spawn(self._give_up))

    def _give_up(self) -> None:
        """Undo, and close the connection: it may still be in use."""
        try:
            self._abort()
        except Exception as error:
            logger.debug("a transaction could not be ended in an orderly way: %r", error)
        finally:
            self._release(broken=True)

    def _release(self, broken: bool = False) -> None:
        """Return the connection to its pool, or close it if it cannot be used again."""
        pooled, self._pooled = self._pooled, None
        session, connection = self._session, self._connection
        if pooled is None:
            return
        try:
            if connection is None and not broken:
                assert self._engine is not None
                self.database.pools.release(self._engine, pooled, self._is_lookup)
                return
            pooled.info.pop(UNIT_OF_WORK, None)
            if broken or (self._engine is not None and is_orphaned(self._engine, pooled)):
                pooled.invalidate()
            with suppress(Exception):
                if session is not None:
                    Session.close(session)
            pooled.close()
        except Exception as error:
            logger.debug("a connection could not be released: %r", error)
        finally:
            self._released()

    def _released(self) -> None:  # noqa: B027 - a backend need not have anything to do
        """Do what follows the release of the connection."""


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
