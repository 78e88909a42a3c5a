"""A unit of work on a SQL database, but for its statements: when it opens, how it ends, savepoints, sessions."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Engine
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.pool import PoolProxiedConnection

from actionengine.context import Tenant
from actionengine.driving import drive
from actionengine.errors import ActionException, ErrorCode, failing
from actionengine.storage.port import (
    ACCESS_COLLECTIONS,
    Claim,
    ClaimAnswer,
    LogQuery,
    LogRow,
    Mode,
    Recording,
    SerializationFailure,
    StorageError,
    StorageUnavailable,
)
from actionengine.storage.sql.bridge import greenlet_spawn, in_greenlet, on_loop, run, run_beside_loop, uninterrupted
from actionengine.storage.sql.documents import SQLRecords
from actionengine.storage.sql.pools import UNIT_OF_WORK, is_left_over
from actionengine.storage.sql.rows import SQLRows
from actionengine.storage.sql.session import AsyncUnitOfWorkSession, UnitOfWorkSession
from actionengine.storage.tables import Table

if TYPE_CHECKING:
    from actionengine.storage.sql.storage import SQLStorage

T = TypeVar("T")

logger = logging.getLogger("actionengine")


_SLACK = 0.5
"""Seconds that a database has to answer beyond the deadline of an execution: its own limits come first."""


class Savepoint:
    """A savepoint: made in the database only once something is done after it; by the session, where there is one."""

    __slots__ = ("name", "nested", "read_only")

    def __init__(self, name: str, read_only: bool) -> None:
        self.name = name
        self.read_only = read_only
        self.nested: SessionTransaction | None = None


class SQLUnitOfWork(ABC):
    """One transaction of one tenant, in one connection, which it takes when it is first used.

    The methods with an underscore are plain functions; `_run` brings them into the world of the unit of work.
    """

    def __init__(self, storage: SQLStorage, tenant: Tenant, action_id: str, mode: Mode, read_only: bool) -> None:
        self.storage = storage
        self.tenant = tenant
        self._action_id = action_id
        self._mode = mode
        self._read_only = read_only
        # Roles are looked up outside any action, by an execution that may hold a connection already.
        self._is_lookup = read_only and not action_id
        self._ended = False
        self._abandoned = False
        self._failed: Exception | None = None
        self._deadline: float | None = None
        self._engine: Engine | None = None
        self._pooled: PoolProxiedConnection | None = None
        self._connection: Connection | None = None
        self._session: Session | None = None
        self._async_session: AsyncUnitOfWorkSession | None = None
        self._recordings: list[Recording] = []
        self._savepoints = 0
        self._unmade: list[Savepoint] = []
        self._made: list[Savepoint] = []
        self._touched_access = False
        self._read_only_savepoints = 0

    # The port

    async def claim(self, claim: Claim, wait: float) -> ClaimAnswer:
        """Claim a key, waiting up to `wait` seconds for another unit of work that holds it."""
        return await self._run(self._claim, claim, wait)

    def records(self, collection: str) -> SQLRecords:
        """The collection as this transaction sees it."""
        return SQLRecords(self, collection)

    def rows(self, table: Table) -> SQLRows:
        """The rows of one of the library's own tables, as this transaction sees them."""
        return SQLRows(self, table)

    async def read_log(self, query: LogQuery) -> Sequence[LogRow]:
        """Rows of the action log, committed ones, newest first."""
        return await self._run(self._read_log, query)

    @property
    def session(self) -> Session:
        """The session of this transaction, for `def` handlers."""
        self._check_open()
        if self._session is None:
            if self._mode == "sync":
                self._session = UnitOfWorkSession(self._session_connection, **self.storage.session_options)
            else:
                self._session = self.async_session.sync_session
        return self._session

    @property
    def async_session(self) -> AsyncUnitOfWorkSession:
        """The session of this transaction, for `async def` handlers."""
        self._check_open()
        if self._async_session is None:
            options = self.storage.session_options
            self._async_session = AsyncUnitOfWorkSession(connect=self._session_connection, **options)
            self._session = self._async_session.sync_session
        return self._async_session

    async def savepoint(self, read_only: bool = False) -> object:
        """A point to roll back to."""
        self._check_open()
        self._savepoints += 1
        savepoint = Savepoint(f"ae_{self._savepoints}", read_only and not self._read_only)
        if self._session is None:
            self._unmade.append(savepoint)
        else:
            # The session's statements go past this unit of work, so that the savepoint has to be there before them.
            await self._run(self._make_nested, savepoint)
        return savepoint

    async def rollback_to(self, savepoint: object) -> None:
        """Undo what was written since."""
        assert isinstance(savepoint, Savepoint)
        if savepoint in self._unmade:
            del self._unmade[self._unmade.index(savepoint) :]
            if self._session is not None:
                # It was opened after this savepoint, and has done nothing yet: what is pending in it is undone too.
                await self._run(self._forget_session)
        else:
            self._unmade.clear()
            await self._run(self._rollback_to, savepoint)

    async def release(self, savepoint: object) -> None:
        """Forget a savepoint, keeping what was written since."""
        assert isinstance(savepoint, Savepoint)
        if savepoint in self._unmade and not self._has_pending():
            del self._unmade[self._unmade.index(savepoint) :]
        else:
            await self._run(self._release_savepoint, savepoint)

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
        if self._mode == "sync":
            self._rollback()
        elif in_greenlet():
            on_loop(self._rollback)
        else:
            await uninterrupted(greenlet_spawn(self._rollback))

    def limit(self, seconds: float) -> None:
        """The database has to answer within this time; then it counts as out of reach."""
        self._deadline = monotonic() + seconds + _SLACK

    def abandon(self) -> bool:
        """It cannot: the handler may be in the middle of a statement."""
        self._ended = self._abandoned = True
        return False

    async def call(self, function: Any, *arguments: Any) -> Any:
        """Run a `def` handler where its use of the session works."""
        if self._mode == "sync" or in_greenlet():
            return function(*arguments)
        return await greenlet_spawn(function, *arguments)

    def beside_loop(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, made to work in a thread of its own."""
        if self._mode == "sync":
            return function
        loop = asyncio.get_running_loop()

        def bridged(*arguments: Any) -> Any:
            return run_beside_loop(loop, self._check_open, function, arguments)

        return bridged

    def drive(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of this unit of work to its end, in the greenlet of a `def` handler."""
        return drive(coroutine)

    def translated(self, error: Exception) -> Exception:
        """An error of the driver or of SQLAlchemy as one of the port's; any other as it is."""
        return self.storage.translated(error)

    # For the collections

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a plain function in this unit of work's world, in its transaction."""
        return await self._run(function, *arguments)

    def touch(self, collection: str) -> None:
        """Note a write. Raises `ActionException(internal)` for a read-only unit of work."""
        if self._read_only:
            raise failing(ErrorCode.INTERNAL, f"a read-only action cannot write to {collection!r}")
        if collection in ACCESS_COLLECTIONS:
            self._touched_access = True

    def query(self, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        """The rows of a statement."""
        self.make_savepoints()
        if self._session is not None and self._session.in_nested_transaction():
            # SQLAlchemy makes a handler's savepoint at the session's next statement; ours comes before that.
            self._session.connection()
        return self.execute(statement, parameters)

    def write_later(self, statement: str, parameters: Sequence[Any]) -> None:
        """Run a statement that nobody needs an answer of: at the latest before whatever comes next."""
        self.query(statement, parameters)

    def make_savepoints(self) -> None:
        """Open the transaction, and make the savepoints that were only noted so far."""
        if self._pooled is None:
            self._open(None, 0.0)
        while self._unmade:
            savepoint = self._unmade.pop(0)
            self.execute(f"SAVEPOINT {savepoint.name}", ())
            self._made.append(savepoint)
            if savepoint.read_only:
                self._forbid_writes()

    # What each backend has of its own

    @abstractmethod
    def execute(self, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Run a statement at the level of the driver."""

    @abstractmethod
    def _claim_in_transaction(self, claim: Claim, wait: float) -> ClaimAnswer:
        """Claim a key in a transaction that has begun."""

    @abstractmethod
    def _read_log(self, query: LogQuery) -> list[LogRow]:
        """`read_log`."""

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

    def _conditions(self, query: LogQuery, mark: str, subjects: str, before: Any) -> tuple[str, list[Any]]:
        """A question to the action log as SQL: what follows the tenant's condition, and its parameters.

        `mark` is the driver's placeholder, `subjects` the table of subjects, `before` the id as the driver takes it.
        """
        time = self.storage.time_in
        operator = self.storage.rows.operator
        conditions: list[str] = []
        values: list[Any] = []
        for column, relation, value in (
            ("action", "=", query.action),
            ("actor_id", "=", query.actor_id),
            ("actor_type", "=", query.actor_type),
            ("outcome", "=", query.outcome),
            ("started_at", ">=", query.since and time(query.since)),
            ("started_at", "<", query.until and time(query.until)),
            ("id", "<", before),
        ):
            if value is not None:
                conditions.append(f"{column} {operator.format(relation)} {mark}")
                values.append(value)
        if query.subject is not None:
            equals = operator.format("=")
            about = f"SELECT log_id FROM {subjects} WHERE tenant_id {equals} {mark} AND subject {equals} {mark}"
            conditions.append(self._any_of("id", about))
            values += (self.storage.id_in(self.tenant.id), query.subject)
        return "".join(f"\n    AND {condition}" for condition in conditions), values

    def _any_of(self, column: str, query: str) -> str:
        """Return the condition that a column is one of a query's rows."""
        return f"{column} IN ({query})"

    # How it opens and ends

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        self._check_open()
        try:
            return await run(self._mode, function, *arguments)
        except Exception as error:
            translated = self.storage.translated(error)
            self.note(translated)
            if translated is error:
                raise
            raise translated from error

    def note(self, error: Exception) -> None:
        """An error that this transaction has met. One of the database's own is not to be got over: whoever catches it
        must not commit the rest."""
        if isinstance(error, (SerializationFailure, StorageUnavailable)) and self._failed is None:
            self._failed = error

    def _check_open(self) -> None:
        if self._ended:
            raise StorageError("this execution is over, and its unit of work with it")

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
                self._let_go()
            raise
        if self._ended:
            self._let_go()
            self._check_open()
        return answer

    def _let_go(self) -> None:
        if self._pooled is not None:
            self._release(broken=True)
        else:
            self._released()

    @abstractmethod
    def _take_connection(self, claim: Claim | None, wait: float) -> ClaimAnswer | None:
        """Take a connection and begin in it."""

    def _session_connection(self) -> Connection:
        self._check_open()
        if self._mode == "sync":
            return self._connect_session()
        return on_loop(self._connect_session)

    def _connect_session(self) -> Connection:
        self.make_savepoints()
        if self._connection is None:
            assert self._engine is not None
            assert self._pooled is not None
            self._pooled.info[UNIT_OF_WORK] = self
            self._connection = Connection(self._engine, self._pooled)
            self._connection.begin()
            if not self.storage.protection.is_complete:
                self.storage.protection.watch(self._connection, self.storage.pools.name)
        if self._session is not None:
            # Where a flush fails, SQLAlchemy undoes what the session is part of: in a nested action, no more than that.
            self._session.join_transaction_mode = "create_savepoint" if self._made else "rollback_only"
        return self._connection

    def _make_nested(self, savepoint: Savepoint) -> None:
        assert self._session is not None
        self.make_savepoints()
        savepoint.nested = self._session.begin_nested()
        # SQLAlchemy would make it at the session's next statement; ours may come first.
        self._session.connection()
        if savepoint.read_only:
            self._forbid_writes()

    def _has_pending(self) -> bool:
        """Whether there is something in the session that was not written yet."""
        session = self._session
        return session is not None and bool(session.new or session.dirty or session.deleted)

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
        if savepoint.read_only:
            self._permit_writes()
        if savepoint.nested is not None:
            savepoint.nested.rollback()
            return
        if self._session is not None:
            # It was opened after this savepoint: all that it knows is gone.
            self._forget_session()
        self.execute(f"ROLLBACK TO SAVEPOINT {savepoint.name}", ())
        del self._made[self._made.index(savepoint) + 1 :]

    def _release_savepoint(self, savepoint: Savepoint) -> None:
        if savepoint in self._unmade:
            self.make_savepoints()
        self._unmade.clear()
        if savepoint.read_only:
            self._flush()
            self._permit_writes()
        if savepoint.nested is not None:
            savepoint.nested.commit()
            return
        self._flush()
        if self._session is not None:
            Session.commit(self._session)
        self.execute(f"RELEASE SAVEPOINT {savepoint.name}", ())
        del self._made[self._made.index(savepoint) :]

    def _flush(self) -> None:
        if self._session is None:
            return
        try:
            self._session.flush()
        except Exception as error:
            translated = self.storage.translated(error)
            if isinstance(translated, (ActionException, StorageError)):
                raise translated from error
            logger.exception("flushing the session of a handler raised (execution %s)", self._action_id)
            raise failing(
                ErrorCode.HANDLER_ERROR,
                f"flushing the session raised {type(error).__name__}",
                action_id=self._action_id,
            ) from error

    def _commit(self) -> None:
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
        if self._abandoned:
            with suppress(Exception):
                self._interrupt()
        try:
            self._undo()
        except BaseException as error:
            logger.debug("a rollback failed, its connection is closed: %r", error)
            self._release(broken=True)
            if not isinstance(error, Exception):
                raise
            return
        self._release(broken=self._abandoned)

    def _release(self, broken: bool = False) -> None:
        """Give the connection back, or close it where nobody should have it again."""
        pooled, self._pooled = self._pooled, None
        session, connection = self._session, self._connection
        if pooled is None:
            return
        try:
            if connection is None and not broken:
                assert self._engine is not None
                self.storage.pools.give_back(self._engine, pooled, self._is_lookup)
                return
            pooled.info.pop(UNIT_OF_WORK, None)
            if broken or (self._engine is not None and is_left_over(self._engine, pooled)):
                pooled.invalidate()
            with suppress(Exception):
                if session is not None:
                    session.close()
                if connection is not None:
                    connection.close()
            pooled.close()
        except Exception as error:
            logger.debug("a connection could not be given back: %r", error)
        finally:
            self._released()

    def _released(self) -> None:  # noqa: B027 - a backend need not have anything to do
        """What is to be done once the connection is given back."""
