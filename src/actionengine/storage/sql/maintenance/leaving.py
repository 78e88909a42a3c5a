"""A tenant that has left: all its rows are deleted, in batches of one transaction each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, inspect, text

from actionengine.errors import ActionError, ErrorCode
from actionengine.storage.sql.maintenance.rows import delete_by_key, deleting
from actionengine.storage.sql.maintenance.work import Maintenance, bound_id, table_name
from actionengine.storage.sql.migrations import schema_of

CHANGE_CONTROL = (
    "ae_snapshots",
    "ae_patch_ops",
    "ae_change_targets",
    "ae_changes",
    "ae_record_types",
    "ae_projects",
)
"""The tables of change control: each is referred to only by those before it."""

_UNREFERENCED = {
    "ae_changes": "NOT EXISTS (SELECT 1 FROM {table} o WHERE o.tenant_id = t.tenant_id AND o.compensates = t.id)",
    "ae_record_types": "NOT EXISTS (SELECT 1 FROM {table} o WHERE o.tenant_id = t.tenant_id"
    " AND o.project_id = t.project_id AND o.base_type = t.key)",
}
"""The condition under which no other row of the same table refers to a row."""

_KEPT = {"ae_tenants"}
"""The directory keeps the closed tenant, so that its slug stays taken and the command can be repeated."""


class Removed(NamedTuple):
    """The rows of a table that one transaction has deleted, or that there are."""

    table: str
    rows: int


def find_closed_tenant(connection: Connection, slug: str) -> UUID:
    """Return the id of a closed tenant. Raise `ActionError`: `not_found` if there is no tenant of that slug, `conflict`
    if it is open."""
    found = connection.execute(
        text(
            f"SELECT tenant_id, deleted_at IS NOT NULL FROM {table_name(connection, 'ae_tenants')} WHERE slug = :slug"
        ),
        {"slug": slug},
    ).fetchall()
    if not found:
        raise ActionError(ErrorCode.NOT_FOUND, f"there is no tenant {slug!r}")
    ((id, is_closed),) = found
    if not is_closed:
        raise ActionError(
            ErrorCode.CONFLICT, f"the tenant {slug!r} is open: close it first, with `actionengine tenant delete {slug}`"
        )
    return UUID(str(id))


def own_tables(connection: Connection) -> list[str]:
    """Return the library's tables with rows of tenants, also detached partitions, in an order in which they can be
    emptied."""
    inspector, schema = inspect(connection), schema_of(connection.dialect.name)
    attached = _attached(connection)
    found = {
        name
        for name in inspector.get_table_names(schema=schema)
        if name.startswith("ae_")
        and name not in _KEPT | attached
        and any(column["name"] == "tenant_id" for column in inspector.get_columns(name, schema=schema))
    }
    first = [name for name in CHANGE_CONTROL if name in found]
    return [*first, *sorted(found - set(first))]


def refuse_undelivered(connection: Connection, tenant: UUID) -> None:
    """Raise `ActionError(conflict)` if events of a tenant wait for their delivery."""
    number = connection.execute(
        text(f"SELECT count(*) FROM {table_name(connection, 'ae_outbox')} WHERE tenant_id = :tenant AND NOT skipped"),
        {"tenant": bound_id(connection, tenant)},
    ).scalar_one()
    if number:
        raise ActionError(
            ErrorCode.CONFLICT,
            f"{number} events of the tenant are not delivered: run a relay, and redrive or skip dead letters; or give "
            "--undelivered to delete them too",
        )


def count_rows(connection: Connection, tenant: UUID, table: str) -> int:
    """Return the rows of a tenant in one of the library's tables."""
    statement = text(f"SELECT count(*) FROM {table_name(connection, table)} WHERE tenant_id = :tenant")
    return int(connection.execute(statement, {"tenant": bound_id(connection, tenant)}).scalar_one())


def delete_own_rows(maintenance: Maintenance, slug: str, tenant: UUID, size: int) -> Iterator[Removed]:
    """Delete the rows of a tenant from the library's tables. Yield each batch once it is committed. It can be repeated
    after it was killed."""
    with maintenance.begin() as connection:
        tables = own_tables(connection)
    for table in tables:
        columns = _key(maintenance, table)

        def work(connection: Connection, table: str = table, columns: Sequence[str] = columns) -> int:
            return _delete_batch(connection, tenant, table, columns, size)

        yield from batches(maintenance, slug, table, work)


def batches(maintenance: Maintenance, slug: str, table: str, work: Callable[[Connection], int]) -> Iterator[Removed]:
    """Yield the rows that each transaction has deleted, until one finds none."""
    total = 0
    while True:
        with maintenance.begin() as connection:
            rows = work(connection)
            if rows and not total:
                maintenance.record(connection, "tenant.purge.begin", slug, {"of": table})
            elif total and not rows:
                maintenance.record(connection, "tenant.purge", slug, {"of": table, "rows": total})
        if not rows:
            return
        total += rows
        yield Removed(table, rows)


def _delete_batch(connection: Connection, tenant: UUID, table: str, columns: Sequence[str], size: int) -> int:
    name = table_name(connection, table)
    condition = f" AND {_UNREFERENCED[table].format(table=name)}" if table in _UNREFERENCED else ""
    key = ", ".join(f"t.{column}" for column in columns)
    rows = connection.execute(
        text(f"SELECT {key} FROM {name} t WHERE t.tenant_id = :tenant{condition} ORDER BY {key} LIMIT :size"),
        {"tenant": bound_id(connection, tenant), "size": size},
    ).fetchall()
    with deleting(connection, [table]):
        delete_by_key(connection, table, [dict(zip(columns, row, strict=True)) for row in rows])
    return len(rows)


def _key(maintenance: Maintenance, table: str) -> list[str]:
    with maintenance.begin() as connection:
        found = inspect(connection).get_pk_constraint(table, schema=schema_of(connection.dialect.name))
    # On SQLite, the key of events is their position alone.
    return list(dict.fromkeys(["tenant_id", *found["constrained_columns"]]))


def _attached(connection: Connection) -> set[str]:
    if connection.dialect.name == "sqlite":
        return set()
    return {
        name
        for (name,) in connection.exec_driver_sql(
            "SELECT relname FROM pg_catalog.pg_class WHERE relispartition AND relnamespace = 'public'::regnamespace"
        )
    }
