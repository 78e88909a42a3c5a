"""The Alembic operations `protect_table` and `unprotect_table`."""

from __future__ import annotations

from typing import Any

from alembic.operations import MigrateOperation, Operations

from actionengine.storage.sql.protection import protect, protection, unprotect, unprotection


@Operations.register_operation("protect_table")
class ProtectTable(MigrateOperation):
    """The protection of a table. See `actionengine.protect_table`.

    `again` means that the table was protected before, so that the downgrade protects it too.
    """

    def __init__(
        self, name: str, tenant_column: str, app_role: str | None, schema: str | None = None, again: bool = False
    ) -> None:
        self.name = name
        self.tenant_column = tenant_column
        self.app_role = app_role
        self.schema = schema
        self.again = again

    @classmethod
    def protect_table(
        cls,
        operations: Operations,
        name: str,
        *,
        schema: str | None = None,
        tenant_column: str = "tenant_id",
        app_role: str | None = None,
    ) -> Any:
        """Protect an existing table with its partitions. Run it again to protect later partitions."""
        return operations.invoke(cls(name, tenant_column, app_role, schema))

    def reverse(self) -> MigrateOperation:
        """Return the operation that undoes it."""
        if self.again:
            return self
        return UnprotectTable(self.name, self.schema, self.tenant_column, self.app_role)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return it as `alembic check` shows it."""
        return ("protect_table", self.schema, self.name, self.tenant_column)


@Operations.register_operation("unprotect_table")
class UnprotectTable(MigrateOperation):
    """The removal of a table's protection."""

    def __init__(
        self, name: str, schema: str | None = None, tenant_column: str = "tenant_id", app_role: str | None = None
    ) -> None:
        self.name = name
        self.schema = schema
        self.tenant_column = tenant_column
        self.app_role = app_role

    @classmethod
    def unprotect_table(cls, operations: Operations, name: str, *, schema: str | None = None) -> Any:
        """Remove the protection of a table."""
        return operations.invoke(cls(name, schema))

    def reverse(self) -> MigrateOperation:
        """Return the operation that undoes it."""
        return ProtectTable(self.name, self.tenant_column, self.app_role, self.schema)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return it as `alembic check` shows it."""
        return ("unprotect_table", self.schema, self.name)


@Operations.implementation_for(ProtectTable)
def _protect(operations: Operations, operation: ProtectTable) -> None:
    context = operations.get_context()
    arguments = (operation.tenant_column, operation.app_role)
    if context.as_sql:
        _print(operations, protection(operation.name, context.dialect.name, *arguments, schema=operation.schema))
    else:
        protect(operations.get_bind(), operation.name, operation.schema, *arguments)


@Operations.implementation_for(UnprotectTable)
def _unprotect(operations: Operations, operation: UnprotectTable) -> None:
    context = operations.get_context()
    if context.as_sql:
        _print(operations, unprotection(operation.name, context.dialect.name, schema=operation.schema))
    else:
        unprotect(operations.get_bind(), operation.name, operation.schema)


def _print(operations: Operations, statements: list[str]) -> None:
    for statement in statements:
        operations.get_context().impl.static_output(f"{statement};\n")
