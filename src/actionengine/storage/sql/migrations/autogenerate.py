"""The part of Alembic's autogenerate, and of `alembic check`, for tables that are declared protected.

Autogenerate writes `op.protect_table` for a table of the target metadata that `protect_table` was called with, if it
creates the table, or if the database has it without its protection. On SQLite it also does so if it alters the table,
because a table that is rebuilt in a batch loses its triggers; on PostgreSQL, if it adds a column or an index over an
expression, of which the planner would keep statistics.
"""

from __future__ import annotations

import logging

from alembic.autogenerate import comparators, renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import (
    AddColumnOp,
    CreateIndexOp,
    CreateTableOp,
    DropTableOp,
    MigrateOperation,
    ModifyTableOps,
    UpgradeOps,
)
from alembic.util import DispatchPriority
from sqlalchemy import Column, Connection, Table

from actionengine.storage.sql.migrations.protect_operations import ProtectTable, UnprotectTable
from actionengine.storage.sql.protection import declaration_of
from actionengine.storage.sql.verification import Comparison, Declared, declarations, query_of
from actionengine.storage.sql.verification_postgresql import compare_postgresql
from actionengine.storage.sql.verification_sqlite import compare_sqlite

_IMPORT = "import actionengine.storage.sql.migrations.operations  # op.protect_table"

logger = logging.getLogger("alembic.autogenerate.protection")


# After the comparison of tables: a table is created before it is protected.
@comparators.dispatch_for("schema", priority=DispatchPriority.LAST)
def _compare(context: AutogenContext, operations: UpgradeOps, schemas: set[str | None]) -> None:
    assert context.connection is not None
    tables = [
        table
        for table in context.sorted_tables
        if declaration_of(table) is not None and context.run_object_filters(table, table.name, "table", False, None)
    ]
    comparison = compare(context.connection, declarations(tables))
    default = context.dialect.default_schema_name
    created, altered = _touched(operations, default, context.dialect.name == "sqlite")
    differing = {difference.key for difference in comparison.differences if difference.is_structural}
    for table in tables:
        key = (_schema(table.schema, default), table.name)
        if key in created:
            operations.ops.append(_protect(table))
        elif (table.schema, table.name) in differing:
            logger.info("Detected a table that is not protected as declared: %r", table.fullname)
            operations.ops.append(_protect(table))
        elif key in altered:
            if context.dialect.name == "sqlite":
                # The downgrade has the opposite order.
                operations.ops.insert(0, _protect(table, again=True))
            operations.ops.append(_protect(table, again=True))
    _unprotect_dropped(operations, comparison, default)
    declared = {(table.schema, table.name) for table in tables}
    for table_name in {each.table for each in comparison.differences if each.key not in declared}:
        logger.warning("%s carries a part of its protection only: run `actionengine db check`", table_name)


def _unprotect_dropped(operations: UpgradeOps, comparison: Comparison, default: str | None) -> None:
    """Unprotect a table before it is dropped, so that the downgrade protects the table again."""
    carrying = {(_schema(each.schema, default), each.name): each for each in comparison.carrying}
    for position, op in reversed(list(enumerate(operations.ops))):
        if isinstance(op, DropTableOp):
            table = carrying.get((_schema(op.schema, default), op.table_name))
            if table is not None:
                unprotect = UnprotectTable(op.table_name, op.schema, table.tenant_column)
                operations.ops.insert(position, unprotect)


def compare(connection: Connection, declared: list[Declared]) -> Comparison:
    """Compare a database with the declarations, as the role that owns it."""
    if connection.dialect.name == "sqlite":
        return compare_sqlite(query_of(connection), declared)
    return compare_postgresql(query_of(connection), declared, is_strong=True)


def _protect(table: Table, again: bool = False) -> ProtectTable:
    declaration = declaration_of(table)
    assert declaration is not None
    return ProtectTable(table.name, declaration.tenant_column, declaration.app_role, table.schema, again)


def _touched(
    operations: UpgradeOps, default: str | None, is_sqlite: bool
) -> tuple[set[tuple[str | None, str]], set[tuple[str | None, str]]]:
    created = {(_schema(op.schema, default), op.table_name) for op in operations.ops if isinstance(op, CreateTableOp)}
    altered = {
        (_schema(op.schema, default), op.table_name)
        for op in operations.ops
        if isinstance(op, ModifyTableOps) and (is_sqlite or any(map(_has_statistics, op.ops)))
    }
    return created, altered


def _has_statistics(op: MigrateOperation) -> bool:
    if isinstance(op, CreateIndexOp):
        return not all(isinstance(each, (str, Column)) for each in op.columns)
    return isinstance(op, AddColumnOp)


def _schema(name: str | None, default: str | None) -> str | None:
    return None if name == default else name


@renderers.dispatch_for(ProtectTable)
def _render_protect(context: AutogenContext, operation: ProtectTable) -> str:
    context.imports.add(_IMPORT)
    arguments = [repr(str(operation.name))]
    if operation.schema is not None:
        arguments.append(f"schema={str(operation.schema)!r}")
    if operation.tenant_column != "tenant_id":
        arguments.append(f"tenant_column={str(operation.tenant_column)!r}")
    if operation.app_role is not None:
        arguments.append(f"app_role={operation.app_role!r}")
    return f"op.protect_table({', '.join(arguments)})"


@renderers.dispatch_for(UnprotectTable)
def _render_unprotect(context: AutogenContext, operation: UnprotectTable) -> str:
    context.imports.add(_IMPORT)
    schema = "" if operation.schema is None else f", schema={str(operation.schema)!r}"
    return f"op.unprotect_table({str(operation.name)!r}{schema})"
