"""The comparison on SQLite: the triggers of each table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from actionengine.storage.sql.grants import quoted
from actionengine.storage.sql.protection import SQLITE_PREFIX, SQLITE_VERBS, sqlite_conditions
from actionengine.storage.sql.verification import Comparison, Declared, Difference, Query, fewest, protecting_command


def compare_sqlite(query: Query, declared: Sequence[Declared]) -> Comparison:
    """Compare a SQLite database with the declarations: the triggers of each table."""
    schemas = {str(row[1]).lower() for row in query("PRAGMA database_list", ())}
    triggers: dict[tuple[str | None, str], dict[str, str]] = {}
    tables: dict[tuple[str | None, str], str] = {}
    for schema in {None, *(each.schema for each in declared)}:
        if schema is not None and schema.lower() not in schemas:
            continue
        master = f"{quoted(schema or 'main')}.sqlite_master"
        for kind, name, table, sql in query(f"SELECT type, name, tbl_name, sql FROM {master}", ()):
            if kind in {"table", "view"}:
                tables[schema, name.lower()] = name
            elif kind == "trigger" and name.startswith(SQLITE_PREFIX):
                triggers.setdefault((schema, table.lower()), {})[name] = sql
    found = {each for each in declared if (each.schema, each.name.lower()) in tables}
    expected: dict[tuple[str | None, str], list[Declared]] = {}
    for each in found:
        expected.setdefault((each.schema, each.name.lower()), []).append(each)
    carrying = {key: Declared(key[0], tables[key], _compared_column(each.values())) for key, each in triggers.items()}
    for key, table in carrying.items():
        expected.setdefault(key, [table])
    differences: list[Difference] = []
    for key, candidates in expected.items():
        sql = list(triggers.get(key, {}).values())
        differences += fewest(_sqlite_differences(each, sql) for each in candidates)
    return Comparison(differences, found, list(carrying.values()))


def _sqlite_differences(declared: Declared, triggers: Sequence[str]) -> Iterator[Difference]:
    shown = quoted(declared.name) if declared.schema is None else f"{quoted(declared.schema)}.{quoted(declared.name)}"
    for verb in SQLITE_VERBS:
        if not any(_is_trigger(sql, verb, declared.tenant_column) for sql in triggers):
            yield Difference(
                shown,
                f"no trigger refuses each {verb} outside an action of the tenant in {quoted(declared.tenant_column)}",
                protecting_command(declared.schema, declared.name, declared.tenant_column),
                True,
                declared.key,
            )


def _is_trigger(sql: str, verb: str, column: str) -> bool:
    # SQLite renames a table or a column here too, except in the text of the message.
    head, _, rest = sql.partition("\nWHEN ")
    conditions, _, body = rest.partition("\nBEGIN\n")
    return (
        re.search(rf"\sBEFORE {verb} ON ", head) is not None
        and conditions.replace('"', "") == sqlite_conditions(verb, column).replace('"', "")
        and body.lstrip().startswith("SELECT RAISE(ABORT, ")
    )


def _compared_column(triggers: Iterable[str]) -> str:
    for sql in triggers:
        match = re.search(r'replace\((?:new|old)\."((?:[^"]|"")+)"', sql)
        if match is not None:
            return match[1].replace('""', '"')
    return "tenant_id"
