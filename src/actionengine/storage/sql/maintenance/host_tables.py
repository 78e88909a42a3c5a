"""The rows of a tenant in the host's own protected tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Column, Connection, MetaData, Table, Uuid, and_, bindparam, delete, inspect, select, text

from actionengine.storage.sql.grants import quoted
from actionengine.storage.sql.maintenance.leaving import Removed, batches
from actionengine.storage.sql.maintenance.work import Maintenance, act_for
from actionengine.storage.sql.protection import declaration_of
from actionengine.storage.sql.verification import query_of
from actionengine.storage.sql.verification_postgresql import compare_postgresql
from actionengine.storage.sql.verification_sqlite import compare_sqlite


class HostTable(NamedTuple):
    """A protected table of the host, and the column of its tenant."""

    schema: str | None
    name: str
    column: str

    def __str__(self) -> str:
        return self.name if self.schema is None else f"{self.schema}.{self.name}"


def protected_tables(connection: Connection) -> list[HostTable]:
    """Return the tables of the host that carry our protection in the database."""
    compare = compare_sqlite if connection.dialect.name == "sqlite" else compare_postgresql
    found = compare(query_of(connection), ()).carrying
    return sorted(HostTable(each.schema, each.name, each.tenant_column) for each in found)


def count_host_rows(
    maintenance: Maintenance, tenant: UUID, tables: Sequence[HostTable], signing_key: str | None
) -> list[Removed]:
    """Return the number of a tenant's rows in each of these tables that has any."""
    counts = []
    with maintenance.begin() as connection:
        act_for(connection, tenant, signing_key)
        for table in tables:
            name = quoted(table.name) if table.schema is None else f"{quoted(table.schema)}.{quoted(table.name)}"
            # The id is a UUID or a text, with or without hyphens.
            condition = f"replace(CAST({quoted(table.column)} AS text), '-', '') = :tenant"
            rows = connection.execute(text(f"SELECT count(*) FROM {name} WHERE {condition}"), {"tenant": tenant.hex})
            counts.append(Removed(str(table), int(rows.scalar_one())))
    return [each for each in counts if each.rows]


def declared_tables(connection: Connection, metadata: MetaData) -> list[Table]:
    """Return the protected tables of a metadata that the database has, in an order in which they can be emptied."""
    inspector = inspect(connection)
    return [
        table
        for table in reversed(metadata.sorted_tables)
        if declaration_of(table) is not None and inspector.has_table(table.name, schema=table.schema)
    ]


def delete_host_rows(
    maintenance: Maintenance, slug: str, tenant: UUID, tables: Sequence[Table], size: int, signing_key: str | None
) -> Iterator[Removed]:
    """Delete the rows of a tenant from the host's tables. Yield each batch once it is committed."""
    for table in tables:
        work = partial(_delete_batch, tenant=tenant, table=table, size=size, signing_key=signing_key)
        yield from batches(maintenance, slug, table.name, work)


def _delete_batch(connection: Connection, *, tenant: UUID, table: Table, size: int, signing_key: str | None) -> int:
    declaration = declaration_of(table)
    assert declaration is not None
    act_for(connection, tenant, signing_key)
    column: Column[Any] = next(each for each in table.columns if each.name == declaration.tenant_column)
    id: UUID | str = tenant if isinstance(column.type, Uuid) and column.type.as_uuid else str(tenant)
    keys = list(table.primary_key.columns)
    if not keys:
        return connection.execute(delete(table).where(column == id)).rowcount
    found = connection.execute(select(*keys).where(column == id).order_by(*keys).limit(size)).fetchall()
    if found:
        gone = delete(table).where(and_(*(key == bindparam(f"key_{at}") for at, key in enumerate(keys))))
        connection.execute(gone, [{f"key_{at}": value for at, value in enumerate(row)} for row in found])
    return len(found)
