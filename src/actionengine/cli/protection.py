"""The part of `actionengine db check` that finds tables without their protection."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, MetaData, inspect

from actionengine.storage.sql.verification import declarations, describe, protecting_command, query_of
from actionengine.storage.sql.verification_own import own_problems
from actionengine.storage.sql.verification_postgresql import UNPROTECTED, compare_postgresql
from actionengine.storage.sql.verification_sqlite import compare_sqlite


def find_problems(connection: Connection, declared: MetaData | None, unprotected: Collection[str]) -> list[str]:
    """Return a line for each table that is not protected as declared, or that should probably be declared."""
    tables = declarations(() if declared is None else declared)
    is_sqlite = connection.dialect.name == "sqlite"
    comparison = (compare_sqlite if is_sqlite else compare_postgresql)(query_of(connection), tables)
    problems = describe(comparison.differences)
    problems += own_problems(query_of(connection), is_sqlite)
    problems += [
        f"{_name(each.schema, each.name)}: it is declared as protected, and this database lacks it. Run your migrations"
        for each in tables
        if each not in comparison.found
    ]
    known = {(each.schema, each.name) for each in (*comparison.carrying, *tables)}
    known |= {(None, name) for _, name in known}
    for schema, name in _tables_with_tenants(connection):
        if (schema, name) in known or {name, f"{schema}.{name}"} & set(unprotected):
            continue
        problems.append(
            f"{_name(schema, name)}: it has a column tenant_id and no protection, so each tenant reaches the rows of "
            f"all. Run {protecting_command(schema, name)}, or pass --unprotected {name} if that is intended"
        )
    return problems


def _tables_with_tenants(connection: Connection) -> list[tuple[str | None, str]]:
    if connection.dialect.name != "sqlite":
        return [(schema, name) for schema, name in connection.exec_driver_sql(UNPROTECTED)]
    inspector = inspect(connection)
    return [
        (None, name)
        for name in inspector.get_table_names()
        if not name.startswith("ae_") and "tenant_id" in {each["name"].lower() for each in inspector.get_columns(name)}
    ]


def _name(schema: str | None, name: str) -> str:
    return name if schema is None else f"{schema}.{name}"
