"""Executions that have ended, found by when they did. DBOS lists them by when they were made: it reads all that it
keeps, to find the few that are old."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import literal_column, select

_FAILED = ("ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
_ENDED = ("SUCCESS", *_FAILED)


class Purged(NamedTuple):
    """How many executions were removed; none of these functions is left that ended until `up_to`, in milliseconds of
    the database's clock."""

    number: int
    up_to: int


def purge_ended(database: Any, functions: Sequence[str], age: float, limit: int, up_to: int = 0) -> Purged:
    """Remove what DBOS's system database keeps of executions of these functions that ended longer than `age` seconds
    ago: `limit` at most, the oldest first. `up_to` says where an earlier call came to."""
    ended = database.tables.workflow_status.c
    with database.engine.connect() as connection:
        before = int(connection.execute(select(database._now_ms_sql())).scalar_one() - age * 1000)
        if before < up_to:
            # The clock was set back. What ended since then counts as earlier.
            up_to = 0
        old = (ended.completed_at > up_to) & (ended.completed_at <= before)
        question = select(ended.workflow_uuid, ended.completed_at).where(
            old, ended.name.in_(functions), ended.status.in_(_ENDED)
        )
        found = connection.execute(question.order_by(ended.completed_at).limit(limit)).all()
    if found:
        database.delete_workflows([id for id, _ in found])
    # Others may have ended in the same millisecond as the last one.
    return Purged(len(found), found[-1][1] - 1 if len(found) == limit else max(before, 0))


def find_cancelled(database: Any, executor: str) -> set[str]:
    """Return the ids of what was cancelled after an executor had taken it."""
    ended = database.tables.workflow_status.c
    # As the index of those that have failed says it, so that a database without statistics takes that.
    has_failed = ended.status.in_([literal_column(f"'{status}'") for status in _FAILED])
    question = select(ended.workflow_uuid).where(has_failed, ended.status == "CANCELLED", ended.executor_id == executor)
    with database.engine.connect() as connection:
        return set(connection.execute(question).scalars())
