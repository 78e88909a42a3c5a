"""The comparison of the library's own tables and functions with those that its migrations create.

Only its migrations alter them. Changes by the owner are reported, and not repaired.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files

from actionengine.storage.sql.grants import host_rights
from actionengine.storage.sql.migrations.own_triggers import OF_TENANTS
from actionengine.storage.sql.migrations.scripts import read_script, statements
from actionengine.storage.sql.verification import Declared, Query
from actionengine.storage.sql.verification_postgresql import compare_postgresql

_ELSEWHERE = ("is missing", "past ours, since one permissive policy is enough")

_INLINED = ("ae_signed", "ae_open", "ae_tenant", "ae_writing_tenant")
"""The functions that `db sign` replaces. PostgreSQL keeps the body of others like them (RETURN, BEGIN ATOMIC) in a form
that depends on its version, so that only their kind is compared."""

_TABLES = """
SELECT c.relname, array_remove(ARRAY[
    CASE WHEN NOT c.relrowsecurity THEN 'row-level security is not enabled' END,
    CASE WHEN NOT c.relforcerowsecurity THEN 'row-level security is not forced' END,
    (
        SELECT 'permissive policies let the role past ours: ' || string_agg(quote_ident(p.polname), ', ')
        FROM pg_policy p
        WHERE p.polrelid = c.oid AND p.polpermissive
            AND p.polname NOT IN ('ae_read', 'ae_insert', 'ae_update', 'ae_delete') AND EXISTS (
                SELECT FROM unnest(p.polroles) AS member WHERE member = 0 OR pg_has_role(member, 'MEMBER')
            )
    ),
    (
        SELECT 'triggers are disabled: ' || string_agg(quote_ident(t.tgname), ', ')
        FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgenabled NOT IN ('O', 'A')
    ),
    CASE WHEN c.relispartition AND NOT EXISTS (
        SELECT FROM pg_trigger t
        WHERE t.tgrelid = c.oid AND t.tgname = 'ae_append_only'
            AND t.tgfoid = to_regprocedure('public.ae_refuse_change()')
    ) THEN 'the trigger ae_append_only is missing' END,
    CASE WHEN c.relispartition AND has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE') THEN
        'the role may use it directly' END,
    (
        SELECT 'a run of `db partition make` was interrupted: run it again ('
            || string_agg(quote_ident(n.conname), ', ') || ')'
        FROM pg_constraint n WHERE n.conrelid = c.oid AND starts_with(n.conname::text, 'ae_making_')
    ),
    CASE WHEN has_table_privilege(c.oid, 'TRUNCATE, TRIGGER') THEN 'the role may TRUNCATE it, or make triggers' END
], NULL) AS problems
FROM pg_class c
WHERE c.relnamespace = to_regnamespace('public') AND c.relkind IN ('r', 'p') AND starts_with(c.relname, 'ae_')
ORDER BY 1
"""

_RIGHTS = """
SELECT c.relname, p.name, has_table_privilege(c.oid, p.name), ARRAY(
    SELECT a.attname::text FROM pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND p.name <> 'DELETE'
        AND has_column_privilege(c.oid, a.attnum, replace(p.name, 'DELETE', 'SELECT'))
    ORDER BY a.attnum
)
FROM pg_class c CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p (name)
WHERE c.relnamespace = to_regnamespace('public') AND c.relkind IN ('r', 'p') AND starts_with(c.relname, 'ae_')
    AND NOT c.relispartition
ORDER BY 1, 2
"""

_FUNCTIONS = """
SELECT proname, prosrc, pg_get_function_sqlbody(oid), prosecdef, array_to_string(proconfig, ' ')
FROM pg_proc
WHERE pronamespace = to_regnamespace('public') AND starts_with(proname, 'ae_')
"""

_TRIGGERS = """
SELECT c.relname, t.tgname, pg_get_triggerdef(t.oid)
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE c.relnamespace = to_regnamespace('public') AND starts_with(c.relname, 'ae_') AND NOT t.tgisinternal
"""


def own_problems(query: Query, is_sqlite: bool) -> list[str]:
    """Return a line for each table and function of the library that differs from those that its migrations create."""
    if is_sqlite:
        return list(_sqlite_triggers(query))
    found: dict[str, dict[str, None]] = {}
    for name, problems in query(_TABLES, ()):
        found.setdefault(name, {}).update(dict.fromkeys(problems))
    for name, problem in (*_protection(query), *_triggers(query), *_rights(query)):
        found.setdefault(name, {})[problem] = None
    lines = [
        f"{name}: {', '.join(problems)}. It is a table of the library: undo this as the owner"
        for name, problems in sorted(found.items())
        if problems
    ]
    return lines + list(_functions(query))


def _protection(query: Query) -> Iterator[tuple[str, str]]:
    """Yield problems that expose the tenants' rows to others, in addition to those that `_TABLES` finds.

    A missing policy exposes no row, and a partitioned log needs no policy for the writes that its trigger refuses.
    """
    comparison = compare_postgresql(query, [Declared("public", name, "tenant_id") for name in OF_TENANTS])
    for difference in comparison.differences:
        own = difference.key is not None and difference.key[1] in OF_TENANTS
        if own and not difference.problem.endswith(_ELSEWHERE) and " may " not in difference.problem:
            problem = difference.problem
            if difference.is_minor:
                problem += f" (run `SELECT public.ae_set_statistics('{difference.table}', 0)`)"
            yield difference.table.replace('"public".', "").strip('"'), problem
    for name in OF_TENANTS:
        if not any(each.name == name for each in comparison.found):
            yield name, "the table is missing"


def _triggers(query: Query) -> Iterator[tuple[str, str]]:
    there = {(table, name): _words(definition) for table, name, definition in query(_TRIGGERS, ())}
    for statement in _script("postgresql"):
        made = re.match(r"CREATE TRIGGER (\w+) .*? ON public\.(\w+)", statement, re.DOTALL)
        if made is not None and there.get((made[2], made[1])) != _words(statement):
            yield made[2], f"the trigger {made[1]} is missing, or differs from the migration"


def _rights(query: Query) -> Iterator[tuple[str, str]]:
    allowed = host_rights()
    for table, right, on_table, columns in query(_RIGHTS, ()):
        granted = allowed.get((table, right), frozenset())
        if on_table and granted is not None:
            yield table, f"the role may {right}" + (" every column" if granted else "")
        elif granted is not None and (more := [column for column in columns if column not in granted]):
            yield table, f"the role may {right} {', '.join(more)}"


def _functions(query: Query) -> Iterator[str]:
    there: dict[str, list[tuple[str, str | None, bool, str | None]]] = {}
    for name, *function in query(_FUNCTIONS, ()):
        there.setdefault(name, []).append(tuple(function))
    made = _functions_of(_script("postgresql"))
    signed = _functions_of(_script("signed"))
    if any(_is_function(function, signed["ae_signed"], True) for function in there.get("ae_signed", ())):
        made |= signed
    for name, statement in made.items():
        functions = there.get(name, [])
        if len(functions) != 1 or not _is_function(functions[0], statement, name in _INLINED):
            count = "there are several of that name" if len(functions) > 1 else "it is missing, or was replaced"
            yield (
                f"{name}: {count}. It is a function of the library: create it again, as the owner, as "
                f"{'`actionengine db sign`' if statement is signed.get(name) else '`actionengine db upgrade --sql`'} "
                f"{'does' if statement is signed.get(name) else 'prints it'}"
            )


def _is_function(function: tuple[str, str | None, bool, str | None], statement: str, is_inlined: bool) -> bool:
    source, body, runs_as_owner, settings = function
    head, quotes, rest = statement.partition("$$")
    if runs_as_owner != ("SECURITY DEFINER" in head):
        return False
    if quotes:
        declared = re.findall(r"\bSET (\w+) = (.+?)(?= SET | AS |\n)", head)
        return source == rest.rpartition("$$")[0] and settings == " ".join(
            f"{name}={value}" for name, value in declared
        )
    written = statement.partition(" RETURN ")[2].rstrip(";\n")
    return body is not None and settings is None and (not is_inlined or _plain(body) == _plain(f"RETURN {written}"))


def _sqlite_triggers(query: Query) -> Iterator[str]:
    there = {_spaced(sql) for (sql,) in query("SELECT sql FROM sqlite_master WHERE type = 'trigger'", ())}
    for statement in _script("sqlite"):
        made = re.match(r"CREATE TRIGGER (\w+) .*? ON (\w+)", statement)
        if made is not None and _spaced(statement.rstrip(";")) not in there:
            yield (
                f"{made[2]}: the trigger {made[1]} is missing, or differs from the migration. It is a table of the "
                "library: create the trigger again as `actionengine db upgrade --sql` prints it"
            )


@cache
def _script(name: str) -> tuple[str, ...]:
    if name == "signed":
        signed = files("actionengine.storage.sql.migrations").joinpath("signed_postgresql.sql")
        return tuple(statements(signed.read_text(), "postgresql"))
    return tuple(statements(read_script("0001", name), name))


def _functions_of(script: Iterable[str]) -> dict[str, str]:
    made = {}
    for statement in script:
        match = re.match(r"CREATE (?:OR REPLACE )?FUNCTION public\.(\w+)\(", statement)
        if match is not None:
            made[match[1]] = statement
    return made


def _plain(body: str) -> str:
    """Return an expression without the parts that PostgreSQL adds when it prints it."""
    return re.sub(r"::\w+|\bpublic\.|\belse null\b|[\s()]", "", re.sub(r"::\w+", "", body.lower()))


def _words(definition: str) -> list[str]:
    return sorted(re.findall(r"\w+", re.sub(r"\bpublic\.", "", definition.lower())))


def _spaced(sql: str) -> str:
    # The triggers of a renamed table quote its name.
    return " ".join(sql.replace('"', "").split())
