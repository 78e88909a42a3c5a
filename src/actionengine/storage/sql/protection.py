"""A host's own tables under the same rules as ours: rows of the tenant only, and writes only in an action."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, FromClause, Table, event

from actionengine.errors import ConfigurationError
from actionengine.storage.sql.migrations.grants import quoted

_POSTGRESQL = """
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
CREATE POLICY ae_read ON {table} FOR SELECT USING ({column} = (SELECT public.ae_tenant()));
CREATE POLICY ae_insert ON {table} FOR INSERT WITH CHECK ({column} = public.ae_writing_tenant());
CREATE POLICY ae_update ON {table} FOR UPDATE USING ({column} = (SELECT public.ae_writing_tenant()));
CREATE POLICY ae_delete ON {table} FOR DELETE USING ({column} = (SELECT public.ae_writing_tenant()));
CREATE TRIGGER ae_require_action BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION public.ae_require_action();
SELECT public.ae_set_statistics({regclass}, 0)
"""

# Numbers from a sequence that belongs to the table need a right of their own.
_GRANT = """
GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role}
----
DO $$
DECLARE
    owned text;
BEGIN
    FOR owned IN
        SELECT d.objid::regclass::text
        FROM pg_depend d
        JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S'
        WHERE d.refobjid = '{table}'::regclass AND d.deptype = 'a'
    LOOP
        EXECUTE 'GRANT USAGE ON SEQUENCE ' || owned || ' TO {role}';
    END LOOP;
END $$
"""

_UNPROTECT_POSTGRESQL = """
DROP TRIGGER ae_require_action ON {table};
DROP POLICY ae_read ON {table};
DROP POLICY ae_insert ON {table};
DROP POLICY ae_update ON {table};
DROP POLICY ae_delete ON {table};
ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY;
ALTER TABLE {table} DISABLE ROW LEVEL SECURITY;
SELECT public.ae_set_statistics({regclass}, -1)
"""

# SQLAlchemy writes a UUID without hyphens here.
_SQLITE_TRIGGER = """
CREATE TRIGGER {trigger} BEFORE {verb} ON {table}
WHEN {conditions}
BEGIN
    SELECT RAISE(ABORT, '{verb} on {name} outside an action of its tenant: go through the engine');
END
"""
_SQLITE_CONDITION = "replace({row}.{column}, '-', '') IS NOT replace(ae_writing_tenant(), '-', '')"
_SQLITE_VERBS = {"INSERT": ("new",), "UPDATE": ("old", "new"), "DELETE": ("old",)}


def protect_table(table: FromClause, *, tenant_column: str = "tenant_id", app_role: str | None = None) -> Table:
    """Have `create_all` protect a table when it creates it. The same table is returned.

    On PostgreSQL: row-level security on `tenant_column` (of the type `uuid`), enabled and forced, and a trigger that
    refuses each write outside an action; with `app_role`, the grants that a handler's session needs. On SQLite:
    triggers that refuse each write outside an action of the row's tenant.

    With Alembic, use `op.protect_table` instead (`actionengine.storage.sql.migrations.operations`). The actionengine
    schema has to be there first.

    `table` is a `Table`, or the `__table__` of a mapped class. Raises `ConfigurationError` for anything else, and where
    it has no such column.
    """
    if not isinstance(table, Table):
        raise ConfigurationError(f"a table is protected, not {table!r}: use the __table__ of a mapped class")
    if tenant_column not in table.columns:
        raise ConfigurationError(f"the table {table.name!r} has no column {tenant_column!r} that says whose a row is")

    def protect(target: Table, connection: Connection, **options: Any) -> None:
        name = f"{target.schema}.{target.name}" if target.schema else target.name
        for statement in protection(name, connection.dialect.name, tenant_column, app_role):
            connection.execution_options(no_parameters=True).exec_driver_sql(statement)

    event.listen(table, "after_create", protect)
    return table


def protection(name: str, dialect: str, tenant_column: str = "tenant_id", app_role: str | None = None) -> list[str]:
    """The statements that protect a table, `name` or `schema.name`."""
    table, column = _quoted(name), quoted(tenant_column)
    if dialect == "sqlite":
        return [
            _SQLITE_TRIGGER.format(
                trigger=quoted(f"ae_protect_{name}_{verb.lower()}"),
                verb=verb,
                table=table,
                name=name.replace("'", "''"),
                conditions=" OR ".join(_SQLITE_CONDITION.format(row=row, column=column) for row in rows),
            ).strip()
            for verb, rows in _SQLITE_VERBS.items()
        ]
    statements = _POSTGRESQL.format(table=table, column=column, regclass=_regclass(table)).split(";\n")
    if app_role is not None:
        statements += _GRANT.format(table=table, role=quoted(app_role)).split("----\n")
    return [statement.strip() for statement in statements]


def unprotection(name: str, dialect: str) -> list[str]:
    """The statements that undo `protection`."""
    if dialect == "sqlite":
        return [f"DROP TRIGGER {quoted(f'ae_protect_{name}_{verb.lower()}')}" for verb in _SQLITE_VERBS]
    table = _quoted(name)
    script = _UNPROTECT_POSTGRESQL.format(table=table, regclass=_regclass(table))
    return [statement.strip() for statement in script.split(";\n")]


def _quoted(name: str) -> str:
    return ".".join(quoted(part) for part in name.split("."))


def _regclass(table: str) -> str:
    escaped = table.replace("'", "''")
    return f"'{escaped}'::regclass"
