"""Retention: rows that are older than a time are deleted, in batches of one transaction each."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from actionengine.storage.sql.maintenance.rows import LOG, delete_by_key, delete_log_rows, deleting, tenants_of
from actionengine.storage.sql.maintenance.unread import readers
from actionengine.storage.sql.maintenance.work import Maintenance, bound_id, slug_of, table_name

EVENTS = "ae_events"
MAX_BATCH = 10_000
"""The most rows of one transaction."""


class Batch(NamedTuple):
    """The rows of a tenant that one transaction has deleted, or would delete. `kept` are rows that are old enough, and
    still needed."""

    table: str
    tenant_id: UUID
    rows: int
    kept: int


def delete_old_log(maintenance: Maintenance, before: datetime, size: int, dry_run: bool) -> Iterator[Batch]:
    """Delete the rows of the action log from before a time, with their subjects, principals and words. Yield each batch
    once it is committed."""
    yield from _each_tenant(maintenance, LOG, before, size, dry_run, ())


def delete_old_events(
    maintenance: Maintenance, before: datetime, size: int, dry_run: bool, ignored: Collection[str] = ()
) -> Iterator[Batch]:
    """Delete the events from before a time that all queues have delivered and all projections have read, except for the
    projections named in `ignored`. Yield each batch once it is committed."""
    yield from _each_tenant(maintenance, EVENTS, before, size, dry_run, ignored)


def count_expired_keys(connection: Connection) -> int:
    """Return the number of idempotency keys and of budgets' counters that have expired."""
    now = "now()" if connection.dialect.name != "sqlite" else ":now"
    values = (
        {} if connection.dialect.name != "sqlite" else {"now": datetime.now(UTC).isoformat(timespec="microseconds")}
    )
    counts = (
        connection.execute(
            text(f"SELECT count(*) FROM {table_name(connection, table)} WHERE expires_at <= {now}"), values
        ).scalar_one()
        for table in ("ae_idempotency_keys", "ae_budget_counters")
    )
    return sum(map(int, counts))


def _each_tenant(
    maintenance: Maintenance, table: str, before: datetime, size: int, dry_run: bool, ignored: Collection[str]
) -> Iterator[Batch]:
    details = {"of": table, "before": before.isoformat()}
    tenant: Any = None
    while True:
        with maintenance.begin() as connection:
            tenant = next(tenants_of(connection, table, tenant), None)
            if tenant is None:
                return
            slug = slug_of(connection, tenant)
        after: Any = None
        rows = 0
        while True:
            with maintenance.begin() as connection:
                if table == LOG:
                    batch, after = _log_batch(connection, tenant, before, size, dry_run, after)
                else:
                    batch, after = _events_batch(connection, tenant, before, size, dry_run, ignored, after)
                if batch.rows and not rows and not dry_run:
                    maintenance.record(connection, "retention.begin", slug, details)
            rows += batch.rows
            if batch.rows or batch.kept:
                yield batch
            if after is None:
                break
        if rows and not dry_run:
            with maintenance.begin() as connection:
                maintenance.record(connection, "retention", slug, {**details, "rows": rows})


def _log_batch(
    connection: Connection, tenant: Any, before: datetime, size: int, dry_run: bool, after: Any
) -> tuple[Batch, Any]:
    # Ids begin with their time, in milliseconds.
    end = UUID(int=max(0, int(before.timestamp() * 1000)) << 80)
    rows = connection.execute(
        text(
            "SELECT id, CAST(subjects AS text), CAST(on_behalf_of AS text), reason"
            f" FROM {table_name(connection, LOG)}"
            " WHERE tenant_id = :tenant AND id > :after AND id < :end ORDER BY id LIMIT :size"
        ),
        {
            "tenant": tenant,
            "after": after if after is not None else bound_id(connection, UUID(int=0)),
            "end": bound_id(connection, end),
            "size": size,
        },
    ).fetchall()
    if not dry_run and rows:
        delete_log_rows(connection, tenant, [row[0] for row in rows], [row[1:] for row in rows])
    return Batch(LOG, UUID(str(tenant)), len(rows), 0), rows[-1][0] if len(rows) == size else None


def _events_batch(
    connection: Connection,
    tenant: Any,
    before: datetime,
    size: int,
    dry_run: bool,
    ignored: Collection[str],
    after: Any,
) -> tuple[Batch, Any]:
    rows = connection.execute(
        text(
            f"SELECT position, occurred_at FROM {table_name(connection, EVENTS)}"
            " WHERE tenant_id = :tenant AND position > :after ORDER BY position LIMIT :size"
        ),
        {"tenant": tenant, "after": after if after is not None else 0, "size": size},
    ).fetchall()
    old = [position for position, occurred_at in rows if _time(occurred_at) < before]
    needed: set[int] = set()
    if old:
        unread = min((each.position for each in readers(connection, ignored, str(tenant))), default=old[-1])
        waiting = connection.execute(
            text(
                f"SELECT DISTINCT position FROM {table_name(connection, 'ae_outbox')} WHERE tenant_id = :tenant"
                " AND position >= :first AND position <= :last AND NOT skipped"
            ),
            {"tenant": tenant, "first": old[0], "last": old[-1]},
        )
        needed = {position for (position,) in waiting} | {position for position in old if position > unread}
    gone = [{"tenant_id": tenant, "position": position} for position in old if position not in needed]
    if gone and not dry_run:
        with deleting(connection, [EVENTS]):
            delete_by_key(connection, EVENTS, gone)
        # What is left of them in the outbox are skipped dead letters.
        delete_by_key(connection, "ae_outbox", gone)
    # Positions are in the order of the commits, so that events after a whole batch of new ones are new too.
    next = rows[-1][0] if len(rows) == size and old else None
    return Batch(EVENTS, UUID(str(tenant)), len(gone), len(needed)), next


def _time(value: Any) -> datetime:
    time = datetime.fromisoformat(value) if isinstance(value, str) else value
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
