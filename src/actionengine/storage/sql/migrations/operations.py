"""Alembic operations for a host's own tables: `op.protect_table("jobs")` and `op.unprotect_table("jobs")`."""

from __future__ import annotations

from typing import Any

from alembic.operations import MigrateOperation, Operations

from actionengine.storage.sql.protection import protection, unprotection


@Operations.register_operation("protect_table")
class ProtectTable(MigrateOperation):
    """Rows of its tenant only, and writes only in an action. See `actionengine.protect_table`."""

    def __init__(self, name: str, tenant_column: str, app_role: str | None) -> None:
        self.name = name
        self.tenant_column = tenant_column
        self.app_role = app_role

    @classmethod
    def protect_table(
        cls, operations: Operations, name: str, *, tenant_column: str = "tenant_id", app_role: str | None = None
    ) -> Any:
        """Protect a table that is there."""
        return operations.invoke(cls(name, tenant_column, app_role))

    def reverse(self) -> MigrateOperation:
        """What undoes it."""
        return UnprotectTable(self.name)


@Operations.register_operation("unprotect_table")
class UnprotectTable(MigrateOperation):
    """The opposite of `ProtectTable`."""

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def unprotect_table(cls, operations: Operations, name: str) -> Any:
        """Protect a table no more."""
        return operations.invoke(cls(name))


@Operations.implementation_for(ProtectTable)
def _protect(operations: Operations, operation: ProtectTable) -> None:
    dialect = operations.get_context().dialect.name
    _run(operations, protection(operation.name, dialect, operation.tenant_column, operation.app_role))


@Operations.implementation_for(UnprotectTable)
def _unprotect(operations: Operations, operation: UnprotectTable) -> None:
    _run(operations, unprotection(operation.name, operations.get_context().dialect.name))


def _run(operations: Operations, statements: list[str]) -> None:
    context = operations.get_context()
    for statement in statements:
        if context.as_sql:
            context.impl.static_output(f"{statement};\n")
        else:
            operations.get_bind().execution_options(no_parameters=True).exec_driver_sql(statement)
