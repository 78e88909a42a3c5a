"""The protection of a host's own tables: rows of the tenant only, and writes only in an action.

`protect_table` declares it, on the `Table` itself. The storages, `actionengine db check` and Alembic's autogenerate
compare the declaration with the database (`verification`).
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, FromClause, Table, event
from sqlalchemy.sql.elements import quoted_name

from actionengine.errors import ConfigurationError
from actionengine.storage.sql.grants import quoted

POLICIES = ("ae_read", "ae_insert", "ae_update", "ae_delete")

# A statement can name a partition, or a table that inherits. Then its parent's policies and triggers do not apply.
_EACH_TABLE = """
    FOR part IN
        WITH RECURSIVE tree AS (
            SELECT root::oid AS id
            UNION
            SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN tree ON i.inhparent OPERATOR(pg_catalog.=) tree.id
        )
        SELECT c.oid FROM tree JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) tree.id
        WHERE c.relkind IN ('r', 'p')
    LOOP"""

_PROTECT = """
DECLARE
    root   CONSTANT regclass := {table};
    tenant CONSTANT text := {column};
    app    CONSTANT text := {role};
    part   regclass;
    owned  regclass;
BEGIN{each_table}
        EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', part);
        EXECUTE pg_catalog.format('DROP POLICY IF EXISTS ae_read ON %s', part);
        EXECUTE pg_catalog.format('DROP POLICY IF EXISTS ae_insert ON %s', part);
        EXECUTE pg_catalog.format('DROP POLICY IF EXISTS ae_update ON %s', part);
        EXECUTE pg_catalog.format('DROP POLICY IF EXISTS ae_delete ON %s', part);
        EXECUTE pg_catalog.format('CREATE POLICY ae_read ON %s FOR SELECT'
            ' USING (%I OPERATOR(pg_catalog.=) (SELECT public.ae_tenant()))', part, tenant);
        EXECUTE pg_catalog.format('CREATE POLICY ae_insert ON %s FOR INSERT'
            ' WITH CHECK (%I OPERATOR(pg_catalog.=) public.ae_writing_tenant())', part, tenant);
        EXECUTE pg_catalog.format('CREATE POLICY ae_update ON %s FOR UPDATE'
            ' USING (%I OPERATOR(pg_catalog.=) (SELECT public.ae_writing_tenant()))', part, tenant);
        EXECUTE pg_catalog.format('CREATE POLICY ae_delete ON %s FOR DELETE'
            ' USING (%I OPERATOR(pg_catalog.=) (SELECT public.ae_writing_tenant()))', part, tenant);
        EXECUTE pg_catalog.format('DROP TRIGGER IF EXISTS ae_require_action ON %s', part);
        EXECUTE pg_catalog.format('CREATE TRIGGER ae_require_action BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s'
            ' FOR EACH STATEMENT EXECUTE FUNCTION public.ae_require_action()', part);
        -- TRUNCATE ignores policies, and a trigger or a foreign key of one role runs in the transactions of all.
        EXECUTE pg_catalog.format('REVOKE TRUNCATE, REFERENCES, TRIGGER ON %s FROM PUBLIC', part);
        IF app IS NOT NULL THEN
            EXECUTE pg_catalog.format('REVOKE TRUNCATE, REFERENCES, TRIGGER ON %s FROM %I', part, app);
        END IF;
    END LOOP;
    IF NOT FOUND THEN
        RAISE EXCEPTION '% is no table that can be protected: only tables have row-level security', root;
    END IF;
    -- This covers the partitions too.
    PERFORM public.ae_set_statistics(root, 0);
    IF app IS NOT NULL THEN
        EXECUTE pg_catalog.format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %I', root, app);
        -- The sequences that belong to the table need a right of their own.
        FOR owned IN
            SELECT d.objid FROM pg_catalog.pg_depend d
            JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) d.objid AND c.relkind = 'S'
            WHERE d.refobjid OPERATOR(pg_catalog.=) root::oid AND d.deptype = 'a'
        LOOP
            EXECUTE pg_catalog.format('GRANT USAGE ON SEQUENCE %s TO %I', owned, app);
        END LOOP;
    END IF;
END """

_UNPROTECT = """
DECLARE
    root CONSTANT regclass := {table};
    part regclass;
BEGIN{each_table}
        EXECUTE pg_catalog.format('DROP TRIGGER IF EXISTS ae_require_action ON %s', part);
        EXECUTE pg_catalog.format('DROP POLICY IF EXISTS ae_read ON %s', part);
        EXECUTE pg_catalog.format('DROP POLICY IF EXISTS ae_insert ON %s', part);
        EXECUTE pg_catalog.format('DROP POLICY IF EXISTS ae_update ON %s', part);
        EXECUTE pg_catalog.format('DROP POLICY IF EXISTS ae_delete ON %s', part);
        EXECUTE pg_catalog.format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY', part);
    END LOOP;
    PERFORM public.ae_set_statistics(root, -1);
END """

# SQLAlchemy writes a UUID without hyphens here.
_SQLITE_TRIGGER = """
CREATE TRIGGER {trigger} BEFORE {verb} ON {table}
WHEN {conditions}
BEGIN
    SELECT RAISE(ABORT, '{verb} on {name} outside an action of its tenant: go through the engine');
END
"""
_SQLITE_CONDITION = "replace({row}.{column}, '-', '') IS NOT replace(ae_writing_tenant(), '-', '')"
SQLITE_VERBS = {"INSERT": ("new",), "UPDATE": ("old", "new"), "DELETE": ("old",)}
SQLITE_PREFIX = "ae_protect_"
"""The beginning of the names of the triggers."""


@dataclass(frozen=True, eq=False)
class Declaration:
    """The protection that the code declares for a table: the column as the database names it, and the role of hosts.

    It is stored as a listener of `create_all`: a copy of the table keeps it, and Alembic does not write it into
    revisions, as it would do with `Table.info`.
    """

    tenant_column: str
    app_role: str | None
    subjects: bool = True

    def __call__(self, table: Table, connection: Connection, **options: Any) -> None:
        """Protect a table that `create_all` has created."""
        protect(connection, table.name, connection.schema_for_object(table), self.tenant_column, self.app_role)


def protect_table(
    table: FromClause, *, tenant_column: str = "tenant_id", app_role: str | None = None, subjects: bool = True
) -> Table:
    """Declare that a table is protected, and make `create_all` protect it. Return the same table.

    On PostgreSQL: row-level security on `tenant_column` (of the type `uuid`), enabled and forced, and a trigger that
    refuses each write outside an action, for the table and each of its partitions; with `app_role`, the grants that a
    handler's session needs. On SQLite: triggers that refuse each write outside an action of the row's tenant.

    The actionengine schema must exist first. Alembic's autogenerate writes `op.protect_table` for a declared table
    (`actionengine.storage.sql.migrations.operations`). A storage, and `actionengine db check --metadata`, refuse a
    database that has the table without its protection.

    The rows that a handler's session changes are subjects of its execution in the action log (`table/key`), unless
    `subjects=False`.

    `table` is a `Table`, or the `__table__` of a mapped class. Raise `ConfigurationError` for anything else, and if the
    table has no such column.
    """
    if not isinstance(table, Table):
        raise ConfigurationError(f"protect_table takes a Table, not {table!r}: use the __table__ of a mapped class")
    # The column's name in the database; a Table may have another key for it.
    names = {column.name: column.name for column in table.columns}
    names = {column.key: column.name for column in table.columns} | names
    if tenant_column not in names:
        raise ConfigurationError(f"the table {table.name!r} has no column {tenant_column!r} that says whose a row is")
    former = declaration_of(table)
    if former is not None:
        event.remove(table, "after_create", former)
    event.listen(table, "after_create", Declaration(names[tenant_column], app_role, subjects), propagate=True)
    with _LOCK:
        _DECLARED.add(table)
        _Count.value += 1
    return table


def declaration_of(table: Table) -> Declaration | None:
    """Return the protection that is declared for a table, or None."""
    return next((listener for listener in table.dispatch.after_create if isinstance(listener, Declaration)), None)


def declared_tables() -> list[Table]:
    """Return the tables of this process for which `protect_table` was called."""
    with _LOCK:
        return list(_DECLARED)


def declaration_count() -> int:
    """Return how often `protect_table` was called in this process. It grows when a table is declared."""
    return _Count.value


class _Count:
    value = 0


_DECLARED: weakref.WeakSet[Table] = weakref.WeakSet()
_LOCK = threading.Lock()


def protect(
    connection: Connection,
    name: str,
    schema: str | None = None,
    tenant_column: str = "tenant_id",
    app_role: str | None = None,
) -> None:
    """Protect an existing table. For a table that is protected already, this adds its later partitions."""
    dialect = connection.dialect.name
    suffix = ""
    if dialect == "sqlite":
        unprotect(connection, name, schema)
        # A renamed table has kept triggers whose names contain its old name.
        taken = {trigger.lower() for trigger, _ in _sqlite_triggers(connection, schema)}
        while any(_trigger_name(name, verb, suffix).lower() in taken for verb in SQLITE_VERBS):
            suffix += "_"
    _run(connection, protection(name, dialect, tenant_column, app_role, schema=schema, suffix=suffix))


def unprotect(connection: Connection, name: str, schema: str | None = None) -> None:
    """Remove the protection of a table, if it has any."""
    if connection.dialect.name != "sqlite":
        _run(connection, unprotection(name, connection.dialect.name, schema=schema))
        return
    triggers = [trigger for trigger, table in _sqlite_triggers(connection, schema) if table.lower() == name.lower()]
    _run(connection, [f"DROP TRIGGER {_qualified(schema, trigger)}" for trigger in triggers])


def protection(
    name: str,
    dialect: str,
    tenant_column: str = "tenant_id",
    app_role: str | None = None,
    *,
    schema: str | None = None,
    suffix: str = "",
) -> list[str]:
    """Return the statements that protect a table. `suffix` ends the names of triggers on SQLite."""
    if dialect == "sqlite":
        return [
            _SQLITE_TRIGGER.format(
                # In another schema, the trigger's name is qualified and its table's is not.
                trigger=_qualified(schema, _trigger_name(name, verb, suffix)),
                verb=verb,
                table=quoted(name),
                name=name.replace("'", "''"),
                conditions=sqlite_conditions(verb, tenant_column),
            ).strip()
            for verb in SQLITE_VERBS
        ]
    settings = {
        "table": _literal(_qualified(*(_as_postgresql(each) for each in (schema, name)))),
        "column": _literal(_as_postgresql(tenant_column)),
        "role": "NULL" if app_role is None else _literal(app_role),
    }
    return [_block(_PROTECT.format(**settings, each_table=_EACH_TABLE))]


def unprotection(name: str, dialect: str, *, schema: str | None = None) -> list[str]:
    """Return the statements that undo `protection`."""
    if dialect == "sqlite":
        return [f"DROP TRIGGER IF EXISTS {_qualified(schema, _trigger_name(name, verb))}" for verb in SQLITE_VERBS]
    table = _literal(_qualified(*(_as_postgresql(each) for each in (schema, name))))
    return [_block(_UNPROTECT.format(table=table, each_table=_EACH_TABLE))]


def sqlite_conditions(verb: str, tenant_column: str) -> str:
    """Return the condition under which the trigger of a verb refuses a row."""
    rows = [_SQLITE_CONDITION.format(row=row, column=quoted(tenant_column)) for row in SQLITE_VERBS[verb]]
    # Outside an action there is no tenant, and a row's tenant may be NULL: NULL IS NOT NULL is false.
    return " OR ".join(("ae_writing_tenant() IS NULL", *rows))


def _run(connection: Connection, statements: list[str]) -> None:
    for statement in statements:
        # A name may contain a %.
        connection.execution_options(no_parameters=True).exec_driver_sql(statement)


def _sqlite_triggers(connection: Connection, schema: str | None) -> list[tuple[str, str]]:
    """Return the name and the table of each protecting trigger."""
    rows = connection.exec_driver_sql(
        f"SELECT name, tbl_name FROM {quoted(schema or 'main')}.sqlite_master"
        f" WHERE type = 'trigger' AND substr(name, 1, {len(SQLITE_PREFIX)}) = '{SQLITE_PREFIX}'"
    )
    return [(name, table) for name, table in rows]


def _trigger_name(name: str, verb: str, suffix: str = "") -> str:
    return f"{SQLITE_PREFIX}{name}_{verb.lower()}{suffix}"


def _qualified(schema: str | None, name: str) -> str:
    return quoted(name) if schema is None else f"{quoted(schema)}.{quoted(name)}"


def _as_postgresql(name: Any) -> Any:
    """Return a name as PostgreSQL stores it: in lower case, if SQLAlchemy is told not to quote it."""
    return name.lower() if isinstance(name, quoted_name) and name.quote is False else name


def _literal(text: str) -> str:
    escaped = text.replace("'", "''")
    return f"'{escaped}'" if "\\" not in text else " E'{}'".format(escaped.replace("\\", "\\\\"))


def _block(body: str) -> str:
    """Return an anonymous block. Its tag does not occur in the body, which contains names."""
    tag = "$ae$"
    while tag in body:
        tag = f"{tag[:-1]}_$"
    return f"DO {tag}{body}{tag}"
