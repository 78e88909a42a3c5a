"""The savepoints of a transaction, and the session that works inside them.

A savepoint is made in the database only once a statement follows it. While the handler has a session, the session makes
it, so that SQLAlchemy knows which objects a rollback affects.
"""

from __future__ import annotations

import logging
import threading
from abc import abstractmethod
from collections.abc import Sequence
from secrets import token_hex
from typing import Any, cast

from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session, SessionTransaction

from actionengine.concurrency.run_sync import Mode
from actionengine.context import Tenant
from actionengine.errors import ActionError, ErrorCode
from actionengine.storage.captured import WriteJournal
from actionengine.storage.errors import StorageError
from actionengine.storage.scopes import Scope
from actionengine.storage.sql.bridge import on_loop
from actionengine.storage.sql.captured_statements import CapturedStatements
from actionengine.storage.sql.database import Database
from actionengine.storage.sql.pools import UNIT_OF_WORK
from actionengine.storage.sql.session import AsyncUnitOfWorkSession, UnitOfWorkConnection, UnitOfWorkSession
from actionengine.storage.sql.transaction import Transaction

logger = logging.getLogger("actionengine")

_creating_session = threading.Lock()


class Savepoint:
    """A savepoint; `nested` is the session's transaction inside it, if the session has made it."""

    __slots__ = ("name", "nested", "read_only", "scope")

    def __init__(self, name: str, read_only: bool, scope: Scope) -> None:
        self.name = name
        self.read_only = read_only
        self.scope = scope
        self.nested: SessionTransaction | None = None


class SavepointTransaction(Transaction):
    """A transaction with savepoints and a session."""

    _session: UnitOfWorkSession | None = None
    _async_session: AsyncUnitOfWorkSession | None = None
    _read_only_savepoints = 0
    _captured: CapturedStatements | None = None

    def __init__(self, database: Database, tenant: Tenant, action_id: str, mode: Mode, read_only: bool) -> None:
        super().__init__(database, tenant, action_id, mode, read_only)
        self._unmade: list[Savepoint] = []
        self._made: list[Savepoint] = []

    # The port

    @property
    def session(self) -> Session:
        """The session of this transaction, for `def` handlers."""
        self._check_open()
        if self._session is None:
            if self._mode == "async":
                return self.async_session.sync_session
            with _creating_session:
                if self._session is None:
                    self._session = UnitOfWorkSession(self, **self.database.session_options)
        return self._session

    @property
    def async_session(self) -> AsyncUnitOfWorkSession:
        """The session of this transaction, for `async def` handlers."""
        self._check_open()
        if self._async_session is None:
            with _creating_session:
                if self._async_session is None:
                    session = AsyncUnitOfWorkSession(unit_of_work=self, **self.database.session_options)
                    self._session = cast("UnitOfWorkSession", session.sync_session)
                    self._async_session = session
        return self._async_session

    async def savepoint(self, read_only: bool = False) -> object:
        """Return a savepoint, to roll back to or to release."""
        self._check_open()
        savepoint = None
        if self._session is None and self._exclusive.enter_now():
            try:
                if self._session is None:
                    savepoint = self._new_savepoint(read_only)
                    self._unmade.append(savepoint)
            finally:
                self._exclusive.leave()
        if savepoint is None:
            savepoint = await self.run(self._make_savepoint, read_only)
        savepoint.scope.step_in()
        return savepoint

    async def rollback_to(self, savepoint: object) -> None:
        """Undo what was written since the savepoint."""
        assert isinstance(savepoint, Savepoint)
        try:
            if self._session is not None or not self._forget_unmade(savepoint):
                self._check_open()
                await self._in_mode(self._alone, False, self._undo_to, savepoint)
        finally:
            savepoint.scope.step_out()

    async def release(self, savepoint: object) -> None:
        """Forget a savepoint. What was written since stays."""
        assert isinstance(savepoint, Savepoint)
        if self._session is not None or not self._forget_unmade(savepoint):
            await self.run(self._release_savepoint, savepoint)
        savepoint.scope.step_out()

    def capture_sql(self, journal: WriteJournal) -> None:
        """Add each write of the session to the journal from now on."""
        if self._captured is None:
            self._captured = CapturedStatements()
            if self._connection is not None:
                self._captured.listen(self._connection, self._session)
        self._captured.add(journal)

    async def flushed_subjects(self) -> Sequence[str]:
        """Flush the session; return a subject for each row that it has changed."""
        if self._session is None and self._exclusive.is_free():
            return ()
        # Other tasks of the handler finish their statements first.
        return await self.run(self._take_subjects)

    # For the collections and the session

    def query(self, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Return the rows of a statement."""
        self.make_savepoints()
        if self._session is not None and self._session.in_nested_transaction():
            # SQLAlchemy makes a handler's savepoint at the session's next statement, which would be after ours.
            self._session.connection()
        return self.execute(statement, parameters)

    def session_connection(self) -> Connection:
        """Return the connection of the session. Open the transaction if it is not open."""
        self._check_open()
        if self._mode == "sync":
            return self._alone(True, self._connect_session)
        connection: Connection = on_loop(self._alone, True, self._connect_session)
        return connection

    def make_savepoints(self) -> None:
        """Open the transaction, and make the savepoints that do not exist in the database yet."""
        if self._pooled is None:
            self._open(None, 0.0)
        while self._unmade:
            savepoint = self._unmade.pop(0)
            self._mark(f"SAVEPOINT {savepoint.name}")
            self._made.append(savepoint)
            if savepoint.read_only:
                self._forbid_writes()

    # For each backend

    def _mark(self, statement: str) -> None:
        """Make or end a savepoint."""
        self.execute(statement, ())

    @abstractmethod
    def _allow_writes(self, allow: bool) -> None:
        """Allow or forbid writes, until the latest savepoint ends."""

    # The session

    def _connect_session(self) -> Connection:
        self.make_savepoints()
        if self._connection is None:
            assert self._engine is not None
            assert self._pooled is not None
            self._pooled.info[UNIT_OF_WORK] = self
            self._connection = UnitOfWorkConnection(self._engine, self._pooled, self)
            if self._captured is not None:
                self._captured.listen(self._connection, self._session)
            self._connection.begin()
            protection = self.database.protection
            if not protection.is_complete:
                protection.watch(self._connection, self.database.pools.name)
        if self._session is not None:
            # When a flush fails, SQLAlchemy undoes what the session is part of: in a nested action, no more than that.
            self._session.join_transaction_mode = "create_savepoint" if self._made else "rollback_only"
        return self._connection

    def _take_subjects(self) -> list[str]:
        self._flush()
        return self.subjects.take()

    def _flush(self) -> None:
        if self._session is None:
            return
        try:
            self._session.flush()
        except Exception as error:
            translated = self.translate_error(error)
            if isinstance(translated, (ActionError, StorageError)):
                raise translated from error
            logger.exception("flushing the session of a handler raised (execution %s)", self._action_id)
            raise ActionError(
                ErrorCode.HANDLER_ERROR,
                f"flushing the session raised {type(error).__name__}",
                {"action_id": self._action_id},
            ) from error

    def _forget_session(self) -> None:
        assert self._session is not None
        Session.rollback(self._session)
        self._session.expunge_all()

    # Making savepoints

    def _new_savepoint(self, read_only: bool) -> Savepoint:
        scope = self._scopes.enter()
        # SQL that knew the name could make another savepoint of that name, and a rollback would go to that one only.
        return Savepoint(f"ae_{token_hex(8)}", read_only and not self._read_only, scope)

    def _make_savepoint(self, read_only: bool) -> Savepoint:
        if self._session is None:
            savepoint = self._new_savepoint(read_only)
            self._unmade.append(savepoint)
            return savepoint
        # The session sends its statements by itself, so the savepoints must exist before them.
        self.make_savepoints()
        nested = Session.begin_nested(self._session)
        # SQLAlchemy would make it at the session's next statement; ours may come first.
        self._session.connection()
        savepoint = self._new_savepoint(read_only)
        savepoint.nested = nested
        if savepoint.read_only:
            self._forbid_writes()
        return savepoint

    def _forbid_writes(self) -> None:
        self._read_only_savepoints += 1
        self._allow_writes(False)

    def _permit_writes(self) -> None:
        self._read_only_savepoints -= 1
        if not self._read_only_savepoints:
            self._allow_writes(True)

    # Ending savepoints

    def _forget_unmade(self, savepoint: Savepoint) -> bool:
        """Forget a savepoint that no statement has followed. Return whether it is one, and no other thread is at it."""
        if savepoint not in self._unmade or not self._exclusive.enter_now():
            return False
        try:
            if savepoint not in self._unmade:
                return False
            self._drop_unmade(savepoint)
            return True
        finally:
            self._exclusive.leave()

    def _drop_unmade(self, savepoint: Savepoint) -> None:
        del self._unmade[self._unmade.index(savepoint) :]
        self._scopes.leave(savepoint.scope)

    def _undo_to(self, savepoint: Savepoint) -> None:
        self._scopes.leave(savepoint.scope)
        savepoint.scope.step_out()
        self.subjects.take()
        if self._failed is not None:
            raise self._failed
        if savepoint in self._unmade:
            del self._unmade[self._unmade.index(savepoint) :]
            if self._session is not None:
                # It was opened after this savepoint and has sent nothing: what is pending in it is undone too.
                self._forget_session()
            return
        self._unmade.clear()
        if savepoint.read_only:
            self._permit_writes()
        if savepoint.nested is not None:
            savepoint.nested.rollback()
            return
        if self._session is not None:
            # It was opened after this savepoint: everything that it knows is undone.
            self._forget_session()
        self._mark(f"ROLLBACK TO SAVEPOINT {savepoint.name}")
        del self._made[self._made.index(savepoint) + 1 :]

    def _release_savepoint(self, savepoint: Savepoint) -> None:
        if savepoint in self._unmade:
            if self._session is None or not self._session.has_pending():
                self._drop_unmade(savepoint)
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
