"""SQLite connections that free their locks at once."""

from __future__ import annotations

import asyncio
import sqlite3
import weakref
from contextlib import suppress
from time import monotonic
from typing import Any

_STOP_INTERVAL = 0.02
_STOP_TIMEOUT = 5.0
"""Seconds between two attempts to stop a statement, and for all attempts together."""


class ReleasingConnection(sqlite3.Connection):
    """A connection that closes its cursors before it ends a transaction.

    SQLite keeps a closed connection alive, with its transaction and its locks, until its last statement is finished.
    A cursor that a traceback or an unread result keeps is such a statement.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._cursors: weakref.WeakSet[sqlite3.Cursor] = weakref.WeakSet()

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        """Return a cursor."""
        cursor = super().cursor(*arguments, **options)
        self._cursors.add(cursor)
        return cursor

    def commit(self) -> None:
        """Commit. Unread rows of a result are lost."""
        self._close_cursors()
        super().commit()

    def rollback(self) -> None:
        """Roll back, also while statements are unfinished."""
        self._close_cursors()
        super().rollback()

    def close(self) -> None:
        """Close, and free all locks."""
        self._close_cursors()
        super().close()

    def __del__(self) -> None:
        # A task that is cancelled while aiosqlite opens a connection leaves one that nothing else closes.
        with suppress(sqlite3.Error):
            super().close()

    def _close_cursors(self) -> None:
        for cursor in list(self._cursors):
            # A cursor that another thread is using cannot be closed: its statement is interrupted.
            with suppress(sqlite3.Error):
                cursor.close()


def stop(connection: Any) -> None:
    """Stop a statement that another thread may be running in a connection, and roll back."""
    until = monotonic() + _STOP_TIMEOUT
    while True:
        try:
            connection.interrupt()
            connection.rollback()
            return
        except sqlite3.OperationalError:
            if monotonic() > until:
                raise


async def stop_async(connection: Any) -> None:
    """Do the same for a connection of aiosqlite, whose thread may not have started its statement yet."""
    until = monotonic() + _STOP_TIMEOUT
    while True:
        rolling_back = asyncio.ensure_future(connection.rollback())
        while not rolling_back.done() and monotonic() < until:
            await connection.interrupt()
            await asyncio.wait((rolling_back,), timeout=_STOP_INTERVAL)
        if not rolling_back.done():
            rolling_back.cancel()
            return
        if not isinstance(rolling_back.exception(), sqlite3.OperationalError) or monotonic() > until:
            rolling_back.result()
            return
