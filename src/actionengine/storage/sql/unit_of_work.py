"""A unit of work on a SQL database, but for its statements: when it opens, how it ends, savepoints, sessions."""

from __future__ import annotations

import asyncio
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import datetime
from math import inf
from secrets import token_hex
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.pool import PoolProxiedConnection

from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.context import Tenant
from actionengine.errors import ActionError, ErrorCode
from actionengine.storage.errors import SerializationFailure, StorageError, StorageUnavailable
from actionengine.storage.pages import Page
from actionengine.storage.records import ROLE_COLLECTIONS
from actionengine.storage.rows import Claim, ClaimAnswer, LogQuery, LogRow, Recording
from actionengine.storage.scopes import Scope, Scopes
from actionengine.storage.sql.action_log import Examined, Walk, read_page
from actionengine.storage.sql.bridge import (
    await_,
    greenlet_spawn,
    in_greenlet,
    on_loop,
    run,
    run_off_loop,
    uninterrupted,
)
from actionengine.storage.sql.documents import SQLRecords
from actionengine.storage.sql.exclusive import Exclusive
from actionengine.storage.sql.pools import UNIT_OF_WORK, is_orphaned
from actionengine.storage.sql.rows import SQLRows
from actionengine.storage.sql.session import AsyncUnitOfWorkSession, UnitOfWorkConnection, UnitOfWorkSession
from actionengine.storage.sql.subjects import FlushedSubjects
from actionengine.storage.tables import Table

if TYPE_CHECKING:
    from actionengine.storage.sql.storage import SQLStorage

T = TypeVar("T")

logger = logging.getLogger("actionengine")


_ANSWER_TIMEOUT = 0.5
"""Seconds that a database has to answer beyond the deadline of an execution: its own limits come first."""

_STOP_INTERVAL = 0.05
_STOP_TIMEOUT = 5.0
"""Seconds between two tries to stop what another thread or task does in the connection, and for all of them."""

_INTERRUPTED = (
    "a statement of this execution was interrupted, by a cancellation or a timeout of the handler's own, or its "
    "connection was given up: the transaction was rolled back and cannot go on"
)

_creating_session = threading.Lock()

Made = TypeVar("Made")


class Savepoint:
    """A savepoint: made in the database only once something is done after it; by the session, where there is one."""

    __slots__ = ("name", "nested", "read_only", "scope")

    def __init__(self, name: str, read_only: bool, scope: Scope) -> None:
        self.name = name
        self.read_only = read_only
        self.scope = scope
        self.nested: SessionTransaction | None = None


class SQLUnitOfWork(ABC):
    """One transaction of one tenant, in one connection, which it takes when it is first used.

    The methods with an underscore are plain functions; `_run` brings them into the world of the unit of work, one at a
    time: the threads and tasks of a handler may use it at once.
    """

    def __init__(self, storage: SQLStorage, tenant: Tenant, action_id: str, mode: Mode, read_only: bool) -> None:
        self.storage = storage
        self.tenant = tenant
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
        self._engine: Engine | None = None
        self._pooled: PoolProxiedConnection | None = None
        self._connection: Connection | None = None
        self._session: UnitOfWorkSession | None = None
        self._async_session: AsyncUnitOfWorkSession | None = None
        self.subjects = FlushedSubjects()
        self._recordings: list[Recording] = []
        self._unmade: list[Savepoint] = []
        self._made: list[Savepoint] = []
        self._touched_access = False
        self._read_only_savepoints = 0

    # The port

    async def now(self) -> datetime:
        """Return the time by the database's clock."""
        self._check_open()
        return self._clock() if self._pooled is not None else await self._run(self.time)

    async def claim(self, claim: Claim, wait: float) -> ClaimAnswer:
        """Claim a key, waiting up to `wait` seconds for another unit of work that holds it."""
        return await self._run(self._claim, claim, wait)

    def records(self, collection: str) -> SQLRecords:
        """The collection as this transaction sees it."""
        return SQLRecords(self, collection)

    def rows(self, table: Table) -> SQLRows:
        """The rows of one of the library's own tables, as this transaction sees them."""
        return SQLRows(self, table)

    async def read_log(self, query: LogQuery) -> Page[LogRow]:
        """Rows of the action log, committed ones, newest first."""
        return await self._run(self._read_log, query)

    async def last_position(self) -> int:
        """Return the position of the tenant's last event that has committed; 0 where there is none."""
        return await self._run(self._last_position)

    @property
    def session(self) -> Session:
        """The session of this transaction, for `def` handlers."""
        self._check_open()
        if self._session is None:
            if self._mode == "sync":
                with _creating_session:
                    if self._session is None:
                        self._session = UnitOfWorkSession(self, **self.storage.session_options)
            else:
                return self.async_session.sync_session
        return self._session

    @property
    def async_session(self) -> AsyncUnitOfWorkSession:
        """The session of this transaction, for `async def` handlers."""
        self._check_open()
        if self._async_session is None:
            with _creating_session:
                if self._async_session is None:
                    session = AsyncUnitOfWorkSession(unit_of_work=self, **self.storage.session_options)
                    self._session = cast("UnitOfWorkSession", session.sync_session)
                    self._async_session = session
        return self._async_session

    async def savepoint(self, read_only: bool = False) -> object:
        """A point to roll back to."""
        self._check_open()
        savepoint = None
        if self._session is None and self._exclusive.enter_now():
            try:
                # Made in the database only once something is done after it.
                if self._session is None:
                    savepoint = self._new_savepoint(read_only)
                    self._unmade.append(savepoint)
            finally:
                self._exclusive.leave()
        if savepoint is None:
            savepoint = await self._run(self._make_savepoint, read_only)
        savepoint.scope.step_in()
        return savepoint

    async def rollback_to(self, savepoint: object) -> None:
        """Undo what was written since."""
        assert isinstance(savepoint, Savepoint)
        try:
            if self._session is not None or not self._forget_unmade(savepoint):
                self._check_open()
                await self._in_mode(self._rollback_to, savepoint)
        finally:
            savepoint.scope.step_out()

    async def release(self, savepoint: object) -> None:
        """Forget a savepoint, keeping what was written since."""
        assert isinstance(savepoint, Savepoint)
        if self._session is not None or not self._forget_unmade(savepoint):
            await self._run(self._release_savepoint, savepoint)
        savepoint.scope.step_out()

    async def flushed_subjects(self) -> Sequence[str]:
        """Write what is pending in the session; return a subject for each row that it has changed."""
        if self._session is None and self._exclusive.is_free():
            return ()
        # What other tasks of the handler are in the middle of comes first.
        return await self._run(self._take_subjects)

    async def record(self, recording: Recording) -> None:
        """Keep what is to be written with the commit."""
        self._check_open()
        self._recordings.append(recording)

    async def commit(self) -> None:
        """Write what was recorded and make everything visible at once."""
        try:
            await self._run(self._commit)
        finally:
            # Even where nobody knows whether it has committed: better read the roles once more than too few times.
            if self._touched_access:
                self.storage.access_changed(self.tenant.id)

    async def rollback(self) -> None:
        """Undo everything."""
        if self._ended and self._pooled is None:
            return
        self._ended = True
        self._scopes.leave()
        if self._mode == "sync":
            self._rollback()
        elif in_greenlet():
            on_loop(self._rollback)
        else:
            await uninterrupted(greenlet_spawn(self._rollback))

    def set_deadline(self, seconds: float) -> None:
        """The database has to answer within this time; then it counts as out of reach."""
        self._deadline = monotonic() + seconds + _ANSWER_TIMEOUT

    def abandon(self) -> bool:
        """It cannot: the handler may be in the middle of a statement."""
        self._ended = self._abandoned = True
        return False

    async def call(self, function: Any, *arguments: Any) -> Any:
        """Run a `def` handler where its use of the session works."""
        if self._mode == "sync" or in_greenlet():
            return function(*arguments)
        return await greenlet_spawn(function, *arguments)

    def for_worker_thread(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, made to work in a thread of its own."""
        if self._mode == "sync":
            return function
        loop = asyncio.get_running_loop()

        def bridged(*arguments: Any) -> Any:
            return run_off_loop(loop, self._check_not_over, function, arguments)

        return bridged

    def run_sync(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of this unit of work to its end, in the greenlet of a `def` handler."""
        return run_sync(coroutine)

    def translate_error(self, error: Exception) -> Exception:
        """An error of the driver or of SQLAlchemy as one of the port's; any other as it is."""
        return self.storage.translate_error(error)

    # For the session, and for what is made of it

    def alone(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a plain function while no other thread or task uses this unit of work.

        Raises `StorageError` where the caller cannot wait for that, and as `check_usable` does. Where the function is
        interrupted, nobody knows how far its statement has come: the unit of work is given up.
        """
        self._check_open()
        if self._mode == "async" and not in_greenlet():
            raise StorageError(
                "this unit of work belongs to an event loop: use the async session there, or the context in the "
                "handler's own thread"
            )
        return self._alone(True, function, *arguments)

    def alone_among_threads(self, function: Callable[[], object]) -> None:
        """Do the same for what needs no database. Under an event loop there is nobody to wait for."""
        if self._mode == "sync":
            self._alone(False, function)
        else:
            function()

    def begin_own_savepoint(self, begin: Callable[[], Made], has_ended: Callable[[Made], bool]) -> Made:
        """Make a savepoint for a handler, with what makes SQLAlchemy's; not for SQLAlchemy itself, in the middle of
        something."""
        if self._exclusive.is_mine():
            return begin()

        def made() -> tuple[Made, Scope]:
            transaction = begin()
            return transaction, self._scopes.enter(has_ended=lambda: has_ended(transaction))

        transaction, scope = self.alone(made)
        scope.step_in()
        return transaction

    def session_connection(self) -> Connection:
        """The connection of the session, opened with the unit of work."""
        self._check_open()
        if self._mode == "sync":
            return self._alone(True, self._connect_session)
        connection: Connection = on_loop(self._alone, True, self._connect_session)
        return connection

    def check_usable(self) -> None:
        """Raise `StorageError` where the unit of work is over, or somebody else is inside a savepoint of it."""
        self._check_open()
        self._scopes.check()

    def break_off(self) -> None:
        """Give the connection up at once, and all that was written: it was interrupted, or is lost."""
        self._is_broken_off = True
        if self._failed is None:
            self._failed = StorageError(_INTERRUPTED)
        if self._pooled is None:
            return
        if self._mode == "sync":
            self._give_up()
        elif in_greenlet():
            await_(self._give_up_uninterrupted())

    async def _give_up_uninterrupted(self) -> None:
        # What is made here is awaited here: the caller's thread may have been left behind.
        await uninterrupted(greenlet_spawn(self._give_up))

    # For the collections

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a plain function in this unit of work's world, in its transaction."""
        return await self._run(function, *arguments)

    def track_write(self, collection: str) -> None:
        """Note a write. Raises `ActionError(internal)` for a read-only unit of work."""
        if self._read_only:
            raise ActionError(ErrorCode.INTERNAL, f"a read-only action cannot write to {collection!r}")
        if collection in ROLE_COLLECTIONS:
            self._touched_access = True

    def query(self, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        """The rows of a statement."""
        self.make_savepoints()
        if self._session is not None and self._session.in_nested_transaction():
            # SQLAlchemy makes a handler's savepoint at the session's next statement; ours comes before that.
            self._session.connection()
        return self.execute(statement, parameters)

    def time(self) -> datetime:
        """Return the time by the database's clock, in UTC. It is known since the transaction was opened."""
        if self._pooled is None:
            self._open(None, 0.0)
        return self._clock()

    def queue_write(self, statement: str, parameters: Sequence[Any]) -> None:
        """Run a statement that nobody needs an answer of: at the latest before whatever comes next."""
        self.query(statement, parameters)

    def make_savepoints(self) -> None:
        """Open the transaction, and make the savepoints that were only noted so far."""
        if self._pooled is None:
            self._open(None, 0.0)
        while self._unmade:
            savepoint = self._unmade.pop(0)
            self._mark(f"SAVEPOINT {savepoint.name}")
            self._made.append(savepoint)
            if savepoint.read_only:
                self._forbid_writes()

    # What each backend has of its own

    @abstractmethod
    def execute(self, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Run a statement at the level of the driver."""

    def _mark(self, statement: str) -> None:
        """Make or end a savepoint."""
        self.execute(statement, ())

    @abstractmethod
    def _claim_in_transaction(self, claim: Claim, wait: float) -> ClaimAnswer:
        """Claim a key in a transaction that has begun."""

    def _read_log(self, query: LogQuery) -> Page[LogRow]:
        return read_page(query, self._find_log, self._read_log_rows)

    @abstractmethod
    def _find_log(self, walk: Walk, limit: int) -> list[Examined]:
        """Walk over so many rows of the action log, newest first."""

    @abstractmethod
    def _read_log_rows(self, ids: Sequence[UUID]) -> list[tuple[LogRow, int]]:
        """Read the rows of the action log with these ids, newest first, with their bytes, up to those of a page."""

    @abstractmethod
    def _last_position(self) -> int:
        """Return what `last_position` does."""

    @abstractmethod
    def _allow_writes(self, allow: bool) -> None:
        """Let this transaction write, or not, until the savepoint that was made last is gone."""

    @abstractmethod
    def _finish(self) -> None:
        """Write what was recorded, and commit."""

    @abstractmethod
    def _undo(self) -> None:
        """Roll back."""

    @abstractmethod
    def _interrupt(self) -> None:
        """Stop a statement of another thread in this connection."""

    @abstractmethod
    def _abort(self) -> None:
        """Stop a statement that runs in this connection, and free all that the transaction holds."""

    # How it opens and ends

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        self._check_open()
        return await self._in_mode(self._alone, True, function, *arguments)

    async def _in_mode(self, function: Callable[..., T], *arguments: Any) -> T:
        if self._mode == "async" and not in_greenlet():
            self._check_loop()
        try:
            return await run(self._mode, function, *arguments)
        except Exception as error:
            translated = self.storage.translate_error(error)
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
            # Nothing can be awaited here: the rollback does the rest.
            self._is_broken_off = True
            raise
        except BaseException:
            if self._pooled is not None:
                self.break_off()
            raise
        finally:
            self._exclusive.leave()

    def record_error(self, error: Exception) -> None:
        """An error that this transaction has met. One of the database's own is not to be got over: whoever catches it
        must not commit the rest."""
        if isinstance(error, (SerializationFailure, StorageUnavailable)) and self._failed is None:
            self._failed = error

    def _check_not_over(self) -> None:
        if self._ended:
            raise StorageError("this execution has ended, and its unit of work with it")

    def _check_open(self) -> None:
        if self._is_broken_off:
            raise self._failed or StorageError(_INTERRUPTED)
        self._check_not_over()

    def _claim(self, claim: Claim, wait: float) -> ClaimAnswer:
        if self._pooled is None:
            answer = self._open(claim, wait)
            assert answer is not None
            return answer
        self.make_savepoints()
        return self._claim_in_transaction(claim, wait)

    def _open(self, claim: Claim | None, wait: float) -> ClaimAnswer | None:
        """Take a connection and begin in it; unless the execution has ended meanwhile, in another thread or task, which
        then has found nothing to end."""
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

    @abstractmethod
    def _clock(self) -> datetime:
        """Return the time by the database's clock, in an open transaction."""

    @abstractmethod
    def _take_connection(self, claim: Claim | None, wait: float) -> ClaimAnswer | None:
        """Take a connection and begin in it."""

    def _connect_session(self) -> Connection:
        self.make_savepoints()
        if self._connection is None:
            assert self._engine is not None
            assert self._pooled is not None
            self._pooled.info[UNIT_OF_WORK] = self
            self._connection = UnitOfWorkConnection(self._engine, self._pooled, self)
            self._connection.begin()
            if not self.storage.protection.is_complete:
                self.storage.protection.watch(self._connection, self.storage.pools.name)
        if self._session is not None:
            # Where a flush fails, SQLAlchemy undoes what the session is part of: in a nested action, no more than that.
            self._session.join_transaction_mode = "create_savepoint" if self._made else "rollback_only"
        return self._connection

    def _new_savepoint(self, read_only: bool) -> Savepoint:
        scope = self._scopes.enter()
        # SQL that knew the name could make another savepoint of that name, and only that one would be rolled back to.
        return Savepoint(f"ae_{token_hex(8)}", read_only and not self._read_only, scope)

    def _make_savepoint(self, read_only: bool) -> Savepoint:
        if self._session is None:
            savepoint = self._new_savepoint(read_only)
            self._unmade.append(savepoint)
            return savepoint
        # The session's statements go past this unit of work, so that the savepoint has to be there before them.
        self.make_savepoints()
        nested = Session.begin_nested(self._session)
        # SQLAlchemy would make it at the session's next statement; ours may come first.
        self._session.connection()
        savepoint = self._new_savepoint(read_only)
        savepoint.nested = nested
        if savepoint.read_only:
            self._forbid_writes()
        return savepoint

    def _forget_unmade(self, savepoint: Savepoint) -> bool:
        """Forget a savepoint after which nothing was done; whether that is so, and nobody else is at it."""
        if savepoint not in self._unmade or not self._exclusive.enter_now():
            return False
        try:
            if savepoint not in self._unmade:
                return False
            del self._unmade[self._unmade.index(savepoint) :]
            self._scopes.leave(savepoint.scope)
            return True
        finally:
            self._exclusive.leave()

    def _take_subjects(self) -> list[str]:
        self._flush()
        return self.subjects.take()

    def _has_pending(self) -> bool:
        return self._session is not None and self._session.has_pending()

    def _forget_session(self) -> None:
        assert self._session is not None
        Session.rollback(self._session)
        self._session.expunge_all()

    def _forbid_writes(self) -> None:
        self._read_only_savepoints += 1
        self._allow_writes(False)

    def _permit_writes(self) -> None:
        self._read_only_savepoints -= 1
        if not self._read_only_savepoints:
            self._allow_writes(True)

    def _rollback_to(self, savepoint: Savepoint) -> None:
        self._alone(False, self._undo_to, savepoint)

    def _undo_to(self, savepoint: Savepoint) -> None:
        self._scopes.leave(savepoint.scope)
        savepoint.scope.step_out()
        self.subjects.take()
        if self._failed is not None:
            raise self._failed
        if savepoint in self._unmade:
            del self._unmade[self._unmade.index(savepoint) :]
            if self._session is not None:
                # It was opened after this savepoint, and has done nothing yet: what is pending in it is undone too.
                self._forget_session()
            return
        self._unmade.clear()
        if savepoint.read_only:
            self._permit_writes()
        if savepoint.nested is not None:
            savepoint.nested.rollback()
            return
        if self._session is not None:
            # It was opened after this savepoint: all that it knows is gone.
            self._forget_session()
        self._mark(f"ROLLBACK TO SAVEPOINT {savepoint.name}")
        del self._made[self._made.index(savepoint) + 1 :]

    def _release_savepoint(self, savepoint: Savepoint) -> None:
        if savepoint in self._unmade:
            if not self._has_pending():
                del self._unmade[self._unmade.index(savepoint) :]
                self._scopes.leave(savepoint.scope)
                return
            self.make_savepoints()
        self._unmade.clear()
        self._keep_savepoint(savepoint)
        self._scopes.leave(savepoint.scope)

    def _keep_savepoint(self, savepoint: Savepoint) -> None:
        if savepoint.read_only:
            self._flush()
            self._permit_writes()
        if savepoint.nested is not None:
            savepoint.nested.commit()
            return
        self._flush()
        if self._session is not None:
            Session.commit(self._session)
        self._mark(f"RELEASE SAVEPOINT {savepoint.name}")
        del self._made[self._made.index(savepoint) :]

    def _flush(self) -> None:
        if self._session is None:
            return
        try:
            self._session.flush()
        except Exception as error:
            translated = self.storage.translate_error(error)
            if isinstance(translated, (ActionError, StorageError)):
                raise translated from error
            logger.exception("flushing the session of a handler raised (execution %s)", self._action_id)
            raise ActionError(
                ErrorCode.HANDLER_ERROR,
                f"flushing the session raised {type(error).__name__}",
                {"action_id": self._action_id},
            ) from error

    def _commit(self) -> None:
        if self._failed is None:
            self._flush()
        if self._failed is not None:
            raise self._failed
        self._unmade.clear()
        if self._recordings and self._pooled is None:
            self._open(None, 0.0)
        if self._pooled is not None:
            self._finish()
            self._release()
        self._ended = True

    def _rollback(self) -> None:
        """Never raises: a connection that cannot be rolled back is closed."""
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
        """Stop what another thread or task of the handler does in the connection, for good: it may be in the middle of
        a statement, or about to send one."""
        until = monotonic() + _STOP_TIMEOUT
        while monotonic() < until:
            with suppress(Exception):
                self._interrupt()
            if self._exclusive.enter(_STOP_INTERVAL):
                self._exclusive.leave()
                return

    def _give_up(self) -> None:
        """Undo and close: nobody knows what still goes on in the connection."""
        try:
            self._abort()
        except Exception as error:
            logger.debug("a transaction could not be ended in an orderly way: %r", error)
        finally:
            self._release(broken=True)

    def _release(self, broken: bool = False) -> None:
        """Give the connection back, or close it where nobody should have it again."""
        pooled, self._pooled = self._pooled, None
        session, connection = self._session, self._connection
        if pooled is None:
            return
        try:
            if connection is None and not broken:
                assert self._engine is not None
                self.storage.pools.release(self._engine, pooled, self._is_lookup)
                return
            pooled.info.pop(UNIT_OF_WORK, None)
            if broken or (self._engine is not None and is_orphaned(self._engine, pooled)):
                pooled.invalidate()
            with suppress(Exception):
                if session is not None:
                    Session.close(session)
            pooled.close()
        except Exception as error:
            logger.debug("a connection could not be given back: %r", error)
        finally:
            self._released()

    def _released(self) -> None:  # noqa: B027 - a backend need not have anything to do
        """What is to be done once the connection is given back."""


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
