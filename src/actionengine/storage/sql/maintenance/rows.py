"""Rows of one tenant, deleted by their keys in the order of the key: no statement depends on what the planner knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from pydantic_core import from_json
from sqlalchemy import Connection, text

from actionengine.storage.sql.maintenance.sqlite import without_triggers
from actionengine.storage.sql.maintenance.work import bound_id, table_name
from actionengine.storage.words import words_of

LOG = "ae_action_log"
SIDES = {"ae_action_log_subjects": "subject", "ae_action_log_principals": "principal", "ae_action_log_words": "word"}
"""The tables beside the log, each with its column."""

_NO_ID = UUID(int=0)


@contextmanager
def deleting(connection: Connection, tables: Sequence[str]) -> Iterator[None]:
    """Allow the block to delete rows of tables that refuse it otherwise. On PostgreSQL, all maintenance may."""
    if connection.dialect.name == "sqlite":
        with without_triggers(connection, tables):
            yield
    else:
        yield


def tenants_of(connection: Connection, table: str, after: Any = None) -> Iterator[Any]:
    """Yield the ids of the tenants that have rows in a table, in order; they need not be in the directory."""
    last = bound_id(connection, _NO_ID) if after is None else after
    statement = text(
        f"SELECT tenant_id FROM {table_name(connection, table)} WHERE tenant_id > :last ORDER BY tenant_id LIMIT 1"
    )
    while (last := connection.execute(statement, {"last": last}).scalar()) is not None:
        yield last


def delete_by_key(connection: Connection, table: str, rows: Sequence[Mapping[str, Any]]) -> int:
    """Delete the rows with these keys. Return how many there were."""
    if not rows:
        return 0
    condition = " AND ".join(f"{column} = :{column}" for column in rows[0])
    return connection.execute(
        text(f"DELETE FROM {table_name(connection, table)} WHERE {condition}"), [dict(row) for row in rows]
    ).rowcount


def delete_log_rows(connection: Connection, tenant: Any, ids: Sequence[Any], found: Sequence[Any]) -> int:
    """Delete rows of the log with their subjects, principals and words. `found` has these, as JSON, for each id."""
    beside: dict[str, list[dict[str, Any]]] = {table: [] for table in SIDES}
    for id, (subjects, principals, reason) in zip(ids, found, strict=True):
        names = {
            "ae_action_log_subjects": _names(subjects),
            "ae_action_log_principals": _names(principals),
            "ae_action_log_words": words_of(reason) if reason else (),
        }
        for table, column in SIDES.items():
            beside[table] += [{"tenant_id": tenant, column: name, "log_id": id} for name in names[table]]
    with deleting(connection, [LOG, *SIDES]):
        for table, rows in beside.items():
            delete_by_key(connection, table, rows)
        return delete_by_key(connection, LOG, [{"tenant_id": tenant, "id": id} for id in ids])


def _names(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(dict.fromkeys(from_json(value) if isinstance(value, str) else value))
