"""Triggers that are kept when Alembic rebuilds a table on SQLite (`op.batch_alter_table`).

A batch copies the rows into a table of another name, drops the old table with its triggers, and renames the new table.
The protecting triggers move to the new table once the old one is dropped: the copy itself is not an action of a tenant.
"""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import Connection, Table, event, inspect

from actionengine.storage.sql.grants import quoted
from actionengine.storage.sql.protection import SQLITE_PREFIX

_KEPT = "actionengine.triggers"


@event.listens_for(Table, "before_drop")
def _keep(table: Table, connection: Connection, **options: Any) -> None:
    if connection is None or connection.dialect.name != "sqlite":
        return
    successor = f"_alembic_tmp_{table.name}"[:50]
    if successor == table.name or not inspect(connection).has_table(successor, schema=table.schema):
        return
    columns = {column["name"] for column in inspect(connection).get_columns(successor, schema=table.schema)}
    rows = connection.exec_driver_sql(
        f"SELECT name, sql FROM {quoted(table.schema or 'main')}.sqlite_master"
        " WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE",
        (table.name,),
    )
    table.info[_KEPT] = [
        re.sub(
            r"(?s)( BEFORE (?:INSERT|UPDATE|DELETE) ON ).*?(?=\nWHEN )", rf"\g<1>{_escaped(successor)}", sql, count=1
        )
        for name, sql in rows
        if name.startswith(SQLITE_PREFIX) and _columns(sql) <= columns
    ]


@event.listens_for(Table, "after_drop")
def _move(table: Table, connection: Connection, **options: Any) -> None:
    for sql in table.info.pop(_KEPT, ()):
        connection.execution_options(no_parameters=True).exec_driver_sql(_in_schema(sql, table.schema))


def _columns(sql: str) -> set[str]:
    return {name.replace('""', '"') for name in re.findall(r'replace\((?:new|old)\."((?:[^"]|"")+)"', sql)}


def _escaped(name: str) -> str:
    return quoted(name).replace("\\", "\\\\")


def _in_schema(sql: str, schema: str | None) -> str:
    return sql if schema is None else sql.replace("CREATE TRIGGER ", f"CREATE TRIGGER {quoted(schema)}.", 1)
