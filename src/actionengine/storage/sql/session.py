"""The session that a handler gets: SQLAlchemy's own, in the connection and the transaction of its unit of work.

The unit of work owns the driver's connection. SQLAlchemy closes connections by itself, for example after an interrupted
statement, and lets callers close, detach or invalidate them. Here all these calls reach the unit of work, which gives
the connection up in an orderly way and refuses every later use.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial, wraps
from secrets import token_hex
from typing import Any, NoReturn, cast

from sqlalchemy import Engine, event
from sqlalchemy.engine import Connection, NestedTransaction
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction, UOWTransaction
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

from actionengine.storage.errors import StorageError
from actionengine.storage.sql.transaction import Transaction

_NO_COMMIT = "the pipeline commits, after the handler: use session.flush() for rows that you need now"
_NO_ROLLBACK = (
    "the pipeline rolls back when the handler fails: return a Failure, or use session.begin_nested() for a part"
)
_NO_DETACH = "the connection belongs to the unit of work, which ends it after the handler: it cannot be taken or closed"


class HeldConnection:
    """A pooled connection as SQLAlchemy gets it: usable while its unit of work is, and not closed by its users."""

    __slots__ = ("_pooled", "_unit_of_work")

    def __init__(self, pooled: PoolProxiedConnection, unit_of_work: Transaction) -> None:
        self._pooled = pooled
        self._unit_of_work = unit_of_work

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pooled, name)

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        """Return a cursor. Raise `StorageError` if the caller cannot use the unit of work any more."""
        self._unit_of_work.check_usable()
        return self._pooled.cursor(*arguments, **options)

    def invalidate(self, error: BaseException | None = None, soft: bool = False) -> None:
        """Give up the unit of work: nothing of it can be committed."""
        self._unit_of_work.break_off()

    def commit(self) -> NoReturn:
        """Raise `StorageError`. SQLAlchemy's own transactions commit here too."""
        raise StorageError(_NO_COMMIT)

    def close(self) -> NoReturn:
        """Raise `StorageError`."""
        raise StorageError(_NO_DETACH)

    def detach(self) -> NoReturn:
        """Raise `StorageError`."""
        raise StorageError(_NO_DETACH)


class UnitOfWorkConnection(Connection):
    """The connection of a session. It ends with the unit of work."""

    def __init__(self, engine: Engine, pooled: PoolProxiedConnection, unit_of_work: Transaction) -> None:
        super().__init__(engine, cast("PoolProxiedConnection", HeldConnection(pooled, unit_of_work)))
        self._unit_of_work = unit_of_work

    def invalidate(self, exception: BaseException | None = None) -> None:
        """Give up the unit of work: nothing of it can be committed."""
        self._unit_of_work.break_off()

    def begin_nested(self) -> NestedTransaction:
        """Make a savepoint, in which no other task or thread may write."""
        return self._unit_of_work.begin_own_savepoint(super().begin_nested, lambda savepoint: not savepoint.is_active)

    def _savepoint_impl(self, name: str | None = None) -> str:
        # SQLAlchemy counts them: see `SavepointTransaction._new_savepoint`.
        return super()._savepoint_impl(name or f"sa_{token_hex(8)}")

    def close(self) -> None:
        """Do nothing: a handler may use the connection in a `with` block, after which the unit of work continues."""

    def detach(self) -> NoReturn:
        """Raise `StorageError`."""
        raise StorageError(_NO_DETACH)

    def commit(self) -> NoReturn:
        """Raise `StorageError`."""
        raise StorageError(_NO_COMMIT)

    def rollback(self) -> NoReturn:
        """Raise `StorageError`."""
        raise StorageError(_NO_ROLLBACK)


class UnitOfWorkSession(Session):
    """A session that leaves the end of the transaction to the pipeline.

    One thread or task at a time works in it. It asks for its connection before each statement, so that a unit of work
    that has ended refuses the statement. Pending objects are flushed when the handler is done.
    """

    def __init__(self, unit_of_work: Transaction, **options: Any) -> None:
        super().__init__(**{**options, "join_transaction_mode": "rollback_only", "expire_on_commit": False})
        self._unit_of_work = unit_of_work
        self._marks: weakref.WeakKeyDictionary[SessionTransaction, int] = weakref.WeakKeyDictionary()

    def get_bind(self, mapper: Any = None, **arguments: Any) -> Connection:
        """Return the unit of work's connection, for every mapper."""
        return self._unit_of_work.session_connection()

    def begin_nested(self) -> SessionTransaction:
        """Make a savepoint, in which no other task or thread may write."""
        savepoint = self._unit_of_work.begin_own_savepoint(super().begin_nested, self._has_ended)
        self._marks[savepoint] = len(self._unit_of_work.subjects)
        return savepoint

    def _has_ended(self, savepoint: SessionTransaction) -> bool:
        # A savepoint also counts as inactive for a moment in each statement.
        current = self.get_nested_transaction()
        while current is not None and current is not savepoint:
            current = current.parent
        return current is None

    def add(self, instance: object, *, _warn: bool = True) -> None:
        """Add an object to the session."""
        self._unit_of_work.alone_among_threads(partial(super().add, instance, _warn=_warn))

    def has_pending(self) -> bool:
        """Return whether there are objects that are not flushed yet."""
        return bool(self.new or self.dirty or self.deleted)

    def commit(self) -> NoReturn:
        """Raise `StorageError`."""
        raise StorageError(_NO_COMMIT)

    def rollback(self) -> NoReturn:
        """Raise `StorageError`."""
        raise StorageError(_NO_ROLLBACK)

    def invalidate(self) -> NoReturn:
        """Raise `StorageError`."""
        raise StorageError(_NO_DETACH)

    def close(self) -> None:
        """Flush, and forget the objects. The transaction continues until the pipeline ends it."""
        if self.has_pending():
            self.flush()
        super().close()

    def reset(self) -> None:
        """Do as `close` does."""
        self.close()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self.close()
        else:
            super().close()


class AsyncUnitOfWorkSession(AsyncSession):
    """A session for `async def` handlers."""

    sync_session_class = UnitOfWorkSession

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            await super().__aexit__(kind, error, trace)
        else:
            await greenlet_spawn(Session.close, self.sync_session)


def _exclusive(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def alone(session: UnitOfWorkSession, *arguments: Any, **options: Any) -> Any:
        return session._unit_of_work.alone(partial(method, session, *arguments, **options))

    return alone


def _recording(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def recorded(session: UnitOfWorkSession, statement: Any, *arguments: Any, **options: Any) -> Any:
        result = method(session, statement, *arguments, **options)
        subjects = session._unit_of_work.subjects
        if method.__name__.startswith("bulk"):
            subjects.record_bulk(statement)
        elif getattr(statement, "is_dml", False):
            subjects.record_statement(statement, result)
        return result

    return recorded


@event.listens_for(UnitOfWorkSession, "after_flush")
def _record_flush(session: UnitOfWorkSession, flush: UOWTransaction) -> None:
    session._unit_of_work.subjects.record_flush(session, flush)


@event.listens_for(UnitOfWorkSession, "after_soft_rollback")
def _forget_subjects(session: UnitOfWorkSession, savepoint: SessionTransaction) -> None:
    mark = session._marks.pop(savepoint, None)
    if mark is not None:
        session._unit_of_work.subjects.undo_to(mark)


for _name in ("bulk_insert_mappings", "bulk_save_objects", "bulk_update_mappings", "execute", "scalar", "scalars"):
    setattr(UnitOfWorkSession, _name, _exclusive(_recording(getattr(Session, _name))))
for _name in ("connection", "delete", "delete_all", "flush", "get", "get_one", "merge", "merge_all", "refresh"):
    setattr(UnitOfWorkSession, _name, _exclusive(getattr(Session, _name)))
