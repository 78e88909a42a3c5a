"""Statements at the level of the driver, in both worlds: psycopg's own connections, without SQLAlchemy between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actionengine.storage.port import Mode
from actionengine.storage.sql.bridge import await_

Row = tuple[Any, ...]
Statement = tuple[str, Sequence[Any]]


def execute(cursor: Any, mode: Mode, statement: str, parameters: Sequence[Any], prepare: bool) -> list[Row]:
    """The rows of a statement."""
    if mode == "async":
        awaited: list[Row] = await_(_execute(cursor, statement, parameters, prepare))
        return awaited
    cursor.execute(statement, parameters, prepare=prepare)
    rows: list[Row] = cursor.fetchall() if cursor.description is not None else []
    return rows


def execute_together(connection: Any, mode: Mode, statements: Sequence[Statement], prepare: bool) -> list[Row]:
    """The rows of the last of several statements, which go out in one round trip. Where one fails, those after it are
    not run."""
    if mode == "async":
        awaited: list[Row] = await_(_execute_together(connection, statements, prepare))
        return awaited
    with connection.pipeline():
        for statement, parameters in statements:
            cursor = connection.cursor()
            cursor.execute(statement, parameters, prepare=prepare)
    rows: list[Row] = cursor.fetchall() if cursor.description is not None else []
    return rows


def wait_for(outcome: Any, mode: Mode) -> None:
    """Wait for what a method of the connection has returned."""
    if mode == "async":
        await_(outcome)


def milliseconds(seconds: float) -> str:
    """A time as PostgreSQL's settings take it; never 0, which would mean for ever."""
    return str(max(1, int(seconds * 1000)))


async def _execute(cursor: Any, statement: str, parameters: Sequence[Any], prepare: bool) -> list[Row]:
    await cursor.execute(statement, parameters, prepare=prepare)
    rows: list[Row] = await cursor.fetchall() if cursor.description is not None else []
    return rows


async def _execute_together(connection: Any, statements: Sequence[Statement], prepare: bool) -> list[Row]:
    async with connection.pipeline():
        for statement, parameters in statements:
            cursor = connection.cursor()
            await cursor.execute(statement, parameters, prepare=prepare)
    rows: list[Row] = await cursor.fetchall() if cursor.description is not None else []
    return rows
