"""The comparison on PostgreSQL: row-level security, policies, triggers, rights, partitions and views."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic_core import from_json, to_json

from actionengine.storage.sql.grants import quoted
from actionengine.storage.sql.protection import POLICIES
from actionengine.storage.sql.verification import Comparison, Declared, Difference, Query, fewest, protecting_command

# The library's own tables are left out, unless they are declared.
STATE = """
WITH RECURSIVE declared AS (
    SELECT d.position, c.oid
    FROM json_to_recordset(CAST(%s AS json)) AS d (position integer, schema text, name text)
    JOIN pg_class c ON c.relname = d.name::name AND c.relkind IN ('r', 'p', 'f', 'v', 'm')
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE CASE WHEN d.schema IS NULL THEN pg_table_is_visible(c.oid) ELSE n.nspname = d.schema::name END
), carrying AS (
    SELECT polrelid AS oid FROM pg_policy WHERE polname IN ('ae_read', 'ae_insert', 'ae_update', 'ae_delete')
    UNION
    SELECT tgrelid FROM pg_trigger WHERE tgfoid = to_regprocedure('public.ae_require_action()')
), tree AS (
    SELECT oid, oid AS root FROM declared
    UNION
    SELECT c.oid, c.oid FROM carrying JOIN pg_class c USING (oid)
    WHERE NOT (c.relnamespace = to_regnamespace('public') AND starts_with(c.relname, 'ae_'))
    UNION
    SELECT i.inhrelid, tree.root FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid
), views AS (
    SELECT c.oid, tree.oid AS of, c.relkind = 'm' OR strong.is_strong AS is_open
    FROM tree
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = tree.oid
        AND d.classid = 'pg_rewrite'::regclass
    JOIN pg_rewrite r ON r.oid = d.objid
    JOIN pg_class c ON c.oid = r.ev_class AND c.relkind IN ('v', 'm')
    CROSS JOIN LATERAL (
        SELECT (o.rolsuper OR o.rolbypassrls OR EXISTS (
            SELECT FROM pg_policy p, unnest(p.polroles) AS member
            WHERE p.polrelid = tree.oid AND p.polpermissive
                AND p.polname NOT IN ('ae_read', 'ae_insert', 'ae_update', 'ae_delete')
                AND (member = 0 OR pg_has_role(c.relowner, member, 'USAGE'))
        )) AND NOT EXISTS (
            SELECT FROM pg_options_to_table(c.reloptions)
            WHERE option_name = 'security_invoker' AND option_value::boolean
        ) AS is_strong
        FROM pg_roles o WHERE o.oid = c.relowner
    ) AS strong
    UNION
    SELECT c.oid, views.of, views.is_open OR c.relkind = 'm'
    FROM views
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = views.oid
        AND d.classid = 'pg_rewrite'::regclass
    JOIN pg_rewrite r ON r.oid = d.objid AND r.ev_class <> views.oid
    JOIN pg_class c ON c.oid = r.ev_class AND c.relkind IN ('v', 'm')
)
SELECT json_build_object(
    'oid', c.oid::bigint, 'root', tree.root::bigint, 'schema', n.nspname, 'name', c.relname, 'kind', c.relkind::text,
    'declared', (SELECT json_agg(position) FROM declared WHERE oid = tree.root),
    'is_enabled', c.relrowsecurity, 'is_forced', c.relforcerowsecurity,
    'role', current_user,
    'is_owner', pg_has_role(c.relowner, 'MEMBER'),
    'is_reachable', has_schema_privilege(n.oid, 'USAGE') AND (
        has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE')
        OR has_any_column_privilege(c.oid, 'SELECT, INSERT, UPDATE')
    ),
    'privileges', array_remove(ARRAY[
        CASE WHEN has_table_privilege(c.oid, 'TRUNCATE') THEN 'TRUNCATE' END,
        CASE WHEN has_any_column_privilege(c.oid, 'REFERENCES') THEN 'REFERENCES' END,
        CASE WHEN has_table_privilege(c.oid, 'TRIGGER') THEN 'TRIGGER' END
    ], NULL),
    'with_statistics', ARRAY(
        SELECT attname FROM pg_attribute
        WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated <> 'v'
            AND coalesce(attstattarget, -1) = -1
        UNION ALL
        SELECT x.relname FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
        JOIN pg_attribute a ON a.attrelid = x.oid AND i.indkey[a.attnum - 1] = 0
        WHERE i.indrelid = c.oid AND coalesce(a.attstattarget, -1) = -1
        UNION ALL
        SELECT stxname FROM pg_statistic_ext WHERE stxrelid = c.oid AND coalesce(stxstattarget, -1) = -1
    ),
    'not_null', ARRAY(SELECT attname FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND attnotnull),
    'policies', (
        SELECT json_agg(json_build_object(
            'name', p.polname, 'command', p.polcmd::text, 'is_permissive', p.polpermissive,
            'is_for_all', p.polroles = '{0}'::oid[],
            'applies', EXISTS (
                SELECT FROM unnest(p.polroles) AS member WHERE member = 0 OR pg_has_role(member, 'MEMBER')
            ),
            'using', pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid),
            'is_ours', NOT EXISTS (
                SELECT FROM pg_depend d
                WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND (
                    d.refclassid = 'pg_operator'::regclass OR d.refclassid = 'pg_proc'::regclass
                    AND d.refobjid NOT IN (
                        to_regprocedure('public.ae_tenant()'), to_regprocedure('public.ae_writing_tenant()')
                    )
                )
            )
        )) FROM pg_policy p WHERE p.polrelid = c.oid
    ),
    'triggers', (
        SELECT json_agg(json_build_array(t.tgenabled::text, t.tgtype, t.tgqual IS NULL, t.tgattr::text))
        FROM pg_trigger t
        WHERE t.tgrelid = c.oid AND t.tgfoid = to_regprocedure('public.ae_require_action()')
    ),
    'views', (
        SELECT json_agg(DISTINCT jsonb_build_array(w.relkind::text, v.oid::regclass::text))
        FROM views v JOIN pg_class w USING (oid)
        WHERE v.of = c.oid AND v.is_open AND (
            has_table_privilege(v.oid, 'SELECT, INSERT, UPDATE, DELETE')
            OR has_any_column_privilege(v.oid, 'SELECT, INSERT, UPDATE')
        )
    )
)
FROM tree
JOIN pg_class c ON c.oid = tree.oid
JOIN pg_namespace n ON n.oid = c.relnamespace
"""

# Tables with a column tenant_id, but without row-level security.
UNPROTECTED = """
SELECT n.nspname, c.relname
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p') AND NOT c.relrowsecurity
    AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND NOT starts_with(n.nspname, 'pg_toast')
    AND NOT (n.nspname = 'public' AND starts_with(c.relname, 'ae_'))
    AND has_schema_privilege(n.oid, 'USAGE') AND (
        has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE')
        OR has_any_column_privilege(c.oid, 'SELECT, INSERT, UPDATE')
    )
ORDER BY 1, 2
"""

_WRITES_BEFORE = 2 + 4 + 8 + 16 + 32  # tgtype: BEFORE, INSERT, DELETE, UPDATE, TRUNCATE; for each statement
_READS, _INSERTS, _UPDATES, _DELETES = POLICIES
_EXPECTED = {
    _READS: ("r", "ae_tenant", None),
    _INSERTS: ("a", None, "ae_writing_tenant"),
    _UPDATES: ("w", "ae_writing_tenant", None),
    _DELETES: ("d", "ae_writing_tenant", None),
}


def compare_postgresql(query: Query, declared: Sequence[Declared], is_strong: bool = False) -> Comparison:
    """Compare a PostgreSQL database with the declarations, as the role of this connection sees it.

    `is_strong` is for a role that bypasses row-level security anyway. Its rights are not compared.
    """
    wanted = [
        {"position": position, "schema": each.schema, "name": each.name} for position, each in enumerate(declared)
    ]
    tables = [
        row[0] if isinstance(row[0], dict) else from_json(row[0]) for row in query(STATE, (to_json(wanted).decode(),))
    ]
    found = {declared[position] for table in tables for position in table["declared"] or ()}
    roots = {table["oid"]: table for table in tables if table["oid"] == table["root"]}
    differences: list[Difference] = []
    for table in tables:
        # A partition that carries protection is compared as a part of its root, and also by itself.
        if table["oid"] != table["root"] and not table["is_reachable"] and not table["policies"]:
            continue
        expected = [declared[position] for position in table["declared"] or ()]
        if not expected:
            root = roots[table["root"]]
            expected = [Declared(root["schema"], root["name"], _carried_column(root))]
        # A process may declare a table of this name for several databases, in different ways: one of them fits.
        differences += fewest(_differences(table, each, is_strong) for each in expected)
    unique = {(difference.table, difference.problem): difference for difference in reversed(differences)}
    carrying = [
        Declared(table["schema"], table["name"], _carried_column(table))
        for table in roots.values()
        if table["triggers"] or any(policy["name"] in _EXPECTED for policy in table["policies"] or ())
    ]
    return Comparison(list(unique.values()), found, carrying)


def _differences(table: dict[str, Any], declared: Declared, is_strong: bool) -> Iterator[Difference]:
    shown = f"{quoted(table['schema'])}.{quoted(table['name'])}"
    role = quoted(table["role"])
    remedy = protecting_command(declared.schema, declared.name, declared.tenant_column)

    def structural(problem: str, remedy: str = remedy) -> Difference:
        return Difference(shown, problem, remedy, True, declared.key)

    def other(problem: str, remedy: str) -> Difference:
        return Difference(shown, problem, remedy, False, declared.key)

    if table["kind"] not in {"r", "p"}:
        kinds = {"f": "a foreign table", "v": "a view", "m": "a materialized view"}
        yield other(
            f"it is {kinds[table['kind']]}, which has no row-level security",
            f"`REVOKE ALL ON {shown} FROM {role}` as the owner",
        )
        return
    if not table["is_enabled"]:
        yield structural("row-level security is not enabled")
    if not table["is_forced"]:
        yield structural("row-level security is not forced")
    policies = {policy["name"]: policy for policy in table["policies"] or ()}
    for name, expected in _EXPECTED.items():
        if name not in policies:
            yield structural(f"the policy {name} is missing")
        elif not _is_policy(policies[name], expected, declared.tenant_column):
            yield structural(f"the policy {name} does not say that {quoted(declared.tenant_column)} is the tenant")
    triggers = table["triggers"] or []
    if not triggers:
        yield structural("the trigger ae_require_action is missing")
    elif not any(
        enabled in {"O", "A"} and kind == _WRITES_BEFORE and is_unconditional and not columns
        for enabled, kind, is_unconditional, columns in triggers
    ):
        yield structural("the trigger ae_require_action is disabled, or not for every write")
    if table["with_statistics"]:
        columns = ", ".join(map(quoted, table["with_statistics"]))
        yield structural(f"the planner keeps statistics of {columns}")._replace(is_minor=True)
    if declared.is_not_null and declared.tenant_column not in table["not_null"]:
        column = quoted(declared.tenant_column)
        yield other(
            f"the column {column} takes NULL", f"`ALTER TABLE {shown} ALTER COLUMN {column} SET NOT NULL` as the owner"
        )
    if is_strong:
        return
    for name, policy in policies.items():
        if name not in _EXPECTED and policy["is_permissive"] and policy["applies"]:
            yield other(
                f"the policy {quoted(name)} lets {role} past ours, since one permissive policy is enough",
                f"`DROP POLICY {quoted(name)} ON {shown}` as the owner, or make it AS RESTRICTIVE or TO another role",
            )
    if table["is_owner"]:
        yield other(f"{role} owns it", f"`ALTER TABLE {shown} OWNER TO ...` as a role that owns it")
    elif table["privileges"]:
        rights = ", ".join(table["privileges"])
        yield other(f"{role} may {rights}", f"`REVOKE {rights} ON {shown} FROM PUBLIC, {role}` as the owner")
    for kind, view in table["views"] or ():
        if kind == "m":
            yield other(f"the materialized view {view} copies it for {role}", f"`REVOKE ALL ON {view} FROM {role}`")
        else:
            yield other(
                f"the view {view} reads it as a role that is past row-level security",
                f"`ALTER VIEW {view} SET (security_invoker = true)`, for each view below it too",
            )


def _is_policy(policy: dict[str, Any], expected: tuple[str, str | None, str | None], column: str) -> bool:
    command, using, check = expected
    return bool(
        policy["command"] == command
        and policy["is_permissive"]
        and policy["is_for_all"]
        and policy["is_ours"]
        and _plain(policy["using"]) == (None if using is None else _plain(f"{quoted(column)} = {using}"))
        and _plain(policy["check"]) == (None if check is None else _plain(f"{quoted(column)} = {check}"))
    )


def _plain(expression: str | None) -> str | None:
    """Return a policy's expression without the parts that depend on the version and the search path."""
    if expression is None:
        return None
    expression = re.sub(r"OPERATOR\(pg_catalog\.=\)", "=", expression)
    return re.sub(r"\bSELECT\b|\bAS (ae_tenant|ae_writing_tenant)\b|\bpublic\.|[\s()\"]", "", expression)


def _carried_column(table: dict[str, Any]) -> str:
    """Return the column that the policies of a table compare, if one of them has our form."""
    for policy in table["policies"] or ():
        match = re.match(r'\(?(?:"((?:[^"]|"")+)"|([\w$]+)) ', policy["using"] or policy["check"] or "")
        if policy["name"] in _EXPECTED and match is not None:
            return match[1].replace('""', '"') if match[1] else match[2]
    return "tenant_id"
