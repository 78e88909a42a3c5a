"""The statements that make partitions, detach them and drop them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sqlalchemy import Connection, text

from actionengine.storage.sql.grants import quoted
from actionengine.storage.sql.maintenance.months import GROUPS, KEYS, Month

SEQUENCE = "public.ae_event_position"

_INDEXES = """
SELECT x.relname, pg_get_indexdef(i.indexrelid), i.indisprimary
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
WHERE i.indrelid = to_regclass('public.' || :parent)
ORDER BY i.indexrelid
"""
_POLICIES = """
SELECT p.policyname, p.permissive, p.cmd, p.qual, p.with_check,
    (SELECT string_agg(CASE r WHEN 'public' THEN 'PUBLIC' ELSE quote_ident(r) END, ', ') FROM unnest(p.roles) r)
FROM pg_policies p
WHERE p.schemaname = 'public' AND p.tablename = :parent
ORDER BY p.policyname
"""
_TRIGGERS = """
SELECT pg_get_triggerdef(t.oid)
FROM pg_trigger t
WHERE t.tgrelid = to_regclass('public.' || :parent) AND NOT t.tgisinternal
ORDER BY t.tgname
"""
_RIGHTS = """
SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
    string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type)
FROM pg_class c, aclexplode(c.relacl) a
WHERE c.oid = to_regclass('public.' || :relation) AND a.grantee <> c.relowner
GROUP BY 1
ORDER BY 1
"""
_NEW_RIGHTS = """
SELECT DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
FROM pg_default_acl d, aclexplode(d.defaclacl) a
WHERE d.defaclobjtype IN ('r', 'S') AND d.defaclrole = current_user::regrole AND a.grantee <> d.defaclrole
ORDER BY 1
"""

# Along the key: the first row of each tenant, and of this month.
_HAS_ROWS = """EXISTS (
    WITH RECURSIVE tenants (id) AS (
        (SELECT tenant_id FROM public.{table} ORDER BY tenant_id LIMIT 1)
        UNION ALL
        SELECT (
            SELECT next.tenant_id FROM public.{table} next WHERE next.tenant_id > tenants.id
            ORDER BY next.tenant_id LIMIT 1
        )
        FROM tenants WHERE tenants.id IS NOT NULL
    )
    SELECT FROM tenants, LATERAL (
        SELECT FROM public.{table} l WHERE l.tenant_id = tenants.id AND l.{key} >= {start} AND l.{key} < {end} LIMIT 1
    ) found
)"""
# The policy of the owner shows rows in maintenance only.
_REFUSE_ROWS = """DO $$ BEGIN
    SET LOCAL app.maintenance = 'on';
    IF {has_rows} THEN
        RAISE check_violation USING MESSAGE = 'the default partition of {table} holds rows of {month}';
    END IF;
    SET LOCAL app.attaching = 'on';
END $$"""


def convert(connection: Connection, group: str) -> list[str]:
    """Return the statements after which the tables of a group are partitioned. Each existing table becomes the default
    partition: nothing is copied or scanned."""
    tables = GROUPS[group]
    statements = [_lock(tables)]
    for parent in tables:
        statements += _convert(connection, parent)
    return statements


def _convert(connection: Connection, parent: str) -> Iterator[str]:
    def rows(query: str, **values: str) -> Sequence[Sequence[str]]:
        return connection.execute(text(query), values or {"parent": parent}).fetchall()

    default = f"{parent}_default"
    yield f"ALTER TABLE public.{parent} RENAME TO {default}"
    indexes = rows(_INDEXES)
    for name, _, _ in indexes:
        yield f"ALTER INDEX public.{quoted(name)} RENAME TO {quoted(name.replace(parent, default, 1))}"
    yield (
        f"CREATE TABLE public.{parent} (LIKE public.{default} INCLUDING DEFAULTS INCLUDING CONSTRAINTS"
        f" INCLUDING STORAGE INCLUDING COMPRESSION) PARTITION BY RANGE ({KEYS[parent]})"
    )
    for name, definition, is_key in indexes:
        if is_key:
            columns = definition.partition(" USING btree ")[2]
            yield f"ALTER TABLE public.{parent} ADD CONSTRAINT {quoted(name)} PRIMARY KEY {columns}"
        else:
            yield definition
    yield f"ALTER TABLE public.{parent} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
    for name, permissive, command, using, check, roles in rows(_POLICIES):
        policy = f"CREATE POLICY {quoted(name)} ON public.{parent} AS {permissive} FOR {command} TO {roles}"
        yield policy + (f" USING ({using})" if using else "") + (f" WITH CHECK ({check})" if check else "")
        yield f"DROP POLICY {quoted(name)} ON public.{default}"
    for (definition,) in rows(_TRIGGERS):
        yield definition
    yield f"REVOKE ALL ON public.{parent} FROM {_others(connection)}"
    for role, rights in rows(_RIGHTS, relation=parent):
        yield f"GRANT {rights} ON public.{parent} TO {role}"
        yield f"REVOKE ALL ON public.{default} FROM {role}"
    if KEYS[parent] == "position":
        yield f"ALTER SEQUENCE {SEQUENCE} RENAME TO ae_event_position_before"
        yield (
            f"ALTER TABLE public.{parent} ALTER COLUMN position ADD GENERATED ALWAYS AS IDENTITY"
            f" (SEQUENCE NAME {SEQUENCE})"
        )
        yield f"SELECT setval('{SEQUENCE}', last_value, is_called) FROM public.ae_event_position_before"
        yield f"ALTER TABLE public.{default} ALTER COLUMN position DROP IDENTITY"
        yield f"REVOKE ALL ON SEQUENCE {SEQUENCE} FROM {_others(connection)}"
        for role, rights in rows(_RIGHTS, relation="ae_event_position"):
            yield f"GRANT {rights} ON SEQUENCE {SEQUENCE} TO {role}"
    yield f"SELECT public.ae_set_statistics('public.{parent}', 0)"
    yield f"ALTER TABLE public.{parent} ATTACH PARTITION public.{default} DEFAULT"


def make(connection: Connection, group: str, months: Sequence[Month], proof: str | None) -> list[str]:
    """Return the statements that make the partitions of some months. Only the last ones lock what writers need, and
    they scan no large table: there, the constraint `proof` of the default partitions says that no row moves, and the
    key of the first table says that none has come since."""
    others = _others(connection)
    tables = GROUPS[group]
    statements: list[str] = []
    for month in months:
        for parent in tables:
            name = month.table(parent)
            statements += [
                f"CREATE TABLE public.{name} (LIKE public.{parent} INCLUDING DEFAULTS INCLUDING CONSTRAINTS"
                " INCLUDING INDEXES INCLUDING STORAGE INCLUDING COMPRESSION)",
                f"ALTER TABLE public.{name} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
                f"CREATE TRIGGER ae_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON public.{name}"
                " FOR EACH STATEMENT EXECUTE FUNCTION public.ae_refuse_change()",
                f"REVOKE ALL ON public.{name} FROM {others}",
                f"SELECT public.ae_set_statistics('public.{name}', 0)",
            ]
    statements.append(_lock(f"{parent}_default" for parent in tables))
    if proof is not None:
        statements += [_refuse_rows(tables[0], month) for month in months]
    for month in months:
        for parent in tables:
            statements.append(
                f"ALTER TABLE public.{parent} ATTACH PARTITION public.{month.table(parent)}"
                f" FOR VALUES FROM ({month.first_key(parent)}) TO ({month.plus(1).first_key(parent)})"
            )
    if proof is not None:
        statements += drop_proof(group, proof)
    return statements


def _others(connection: Connection) -> str:
    """Return the roles that default privileges give rights on new tables and sequences."""
    return ", ".join(dict.fromkeys(["PUBLIC", *(role for (role,) in connection.execute(text(_NEW_RIGHTS)))]))


def has_rows(table: str, month: Month) -> str:
    """Return the condition that a table has rows of a month, for the log or the events."""
    return _HAS_ROWS.format(
        table=table, key=KEYS[table], start=month.first_key(table), end=month.plus(1).first_key(table)
    )


def _refuse_rows(table: str, month: Month) -> str:
    return _REFUSE_ROWS.format(has_rows=has_rows(table, month), table=table, month=month)


def add_proof(group: str, name: str, months: Sequence[Month]) -> list[str]:
    """Return the statements that add a constraint to the default partitions: no row is of these months.

    It binds the transactions of this command only: one that is left behind refuses no row of a host.
    """
    return [
        f"ALTER TABLE public.{parent}_default ADD CONSTRAINT {name} CHECK"
        f" ({KEYS[parent]} < {months[0].first_key(parent)} OR {KEYS[parent]} >= {months[-1].plus(1).first_key(parent)}"
        " OR NOT public.ae_is_attaching()) NOT VALID"
        for parent in GROUPS[group]
    ]


def validate_proof(group: str, name: str) -> list[str]:
    """Return the statements that scan the default partitions for rows that break the constraint. Hosts write
    meanwhile."""
    scans = [f"ALTER TABLE public.{parent}_default VALIDATE CONSTRAINT {name}" for parent in GROUPS[group]]
    return ["SET LOCAL app.attaching = 'on'", *scans]


def drop_proof(group: str, name: str) -> list[str]:
    """Return the statements that drop the constraint."""
    return [f"ALTER TABLE public.{parent}_default DROP CONSTRAINT IF EXISTS {name}" for parent in GROUPS[group]]


def move_sequence(month: Month) -> str:
    """Return the statement after which events get positions of a month, unless they have higher ones already."""
    position = month.first_position - 1
    return f"SELECT setval('{SEQUENCE}', {position}) FROM {SEQUENCE} WHERE last_value < {position}"


def lock_parents(tables: Iterable[str]) -> str:
    """Return the statement that keeps all other transactions from tables, without their partitions."""
    return _lock(tables, "ONLY ")


def detach(tables: Iterable[str], month: Month) -> list[str]:
    """Return the statements that detach the partitions of a month. Only the owner can read them afterwards."""
    statements: list[str] = []
    for parent in tables:
        name = month.table(parent)
        statements += [
            f"ALTER TABLE public.{parent} DETACH PARTITION public.{name}",
            f"CREATE POLICY ae_owner ON public.{name} TO CURRENT_USER USING (true)",
        ]
    return statements


def _lock(tables: Iterable[str], only: str = "") -> str:
    return f"LOCK TABLE {', '.join(f'{only}public.{table}' for table in tables)} IN ACCESS EXCLUSIVE MODE"
