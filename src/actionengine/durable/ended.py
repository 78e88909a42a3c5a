"""Executions that have ended, by the time of their end. DBOS lists them by the time of their creation: to find the few
old ones, it reads all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import literal_column, select

_FAILED = ("ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
_ENDED = ("SUCCESS", *_FAILED)


class Purged(NamedTuple):
    """The number of executions that were removed. Of their functions, none is left that ended until `up_to`, in
    milliseconds of the database's clock."""

    number: int
    up_to: int


def purge_ended(database: Any, functions: Sequence[str], age: float, limit: int, up_to: int = 0) -> Purged:
    """Remove executions of these functions from DBOS's system database that ended longer than `age` seconds ago: at
    most `limit`, the oldest first. `up_to` is that of an earlier call."""
    ended = database.tables.workflow_status.c
    with database.engine.connect() as connection:
        before = int(connection.execute(select(database._now_ms_sql())).scalar_one() - age * 1000)
        if before < up_to:
            # The clock was set back: later ends have earlier times.
            up_to = 0
        old = (ended.completed_at > up_to) & (ended.completed_at <= before)
        question = select(ended.workflow_uuid, ended.completed_at).where(
            old, ended.name.in_(functions), ended.status.in_(_ENDED)
        )
        found = connection.execute(question.order_by(ended.completed_at).limit(limit)).all()
    if found:
        database.delete_workflows([id for id, _ in found])
    # Other executions may have ended in the same millisecond as the last one.
    return Purged(len(found), found[-1][1] - 1 if len(found) == limit else max(before, 0))


def find_cancelled(database: Any, executor: str) -> set[str]:
    """Return the ids of executions that were cancelled after an executor had taken them."""
    ended = database.tables.workflow_status.c
    # In the words of the index of failed executions, so that a database without statistics uses it.
    has_failed = ended.status.in_([literal_column(f"'{status}'") for status in _FAILED])
    question = select(ended.workflow_uuid).where(has_failed, ended.status == "CANCELLED", ended.executor_id == executor)
    with database.engine.connect() as connection:
        return set(connection.execute(question).scalars())
