"""The session that a handler gets: SQLAlchemy's own, in the connection and the transaction of its unit of work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from actionengine.storage.port import StorageError


class UnitOfWorkSession(Session):
    """A session that leaves the end of the transaction to the pipeline.

    It asks for its connection before each statement, so that a unit of work that is over refuses. What is pending in it
    is flushed when the handler is done.
    """

    def __init__(self, connect: Callable[[], Connection], **options: Any) -> None:
        super().__init__(**{**options, "join_transaction_mode": "rollback_only", "expire_on_commit": False})
        self._connect = connect

    def get_bind(self, mapper: Any = None, **arguments: Any) -> Connection:
        """The unit of work's connection, whatever is asked about."""
        return self._connect()

    def commit(self) -> NoReturn:
        """Refused: raises `StorageError`."""
        raise StorageError("the pipeline commits, after the handler: use session.flush() for rows that you need now")

    def rollback(self) -> NoReturn:
        """Refused: raises `StorageError`."""
        raise StorageError(
            "the pipeline rolls back when the handler fails: return a Failure, or use session.begin_nested() for a part"
        )


class AsyncUnitOfWorkSession(AsyncSession):
    """The same for `async def` handlers."""

    sync_session_class = UnitOfWorkSession
