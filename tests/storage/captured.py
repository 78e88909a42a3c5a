"""The statements that the public operations send, by name, and the indexes that the databases use for them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from actionengine.storage.postgres import statements as postgres
from actionengine.storage.postgres.driver import LibpqConnection
from actionengine.storage.sqlite import statements as sqlite
from actionengine.storage.sqlite.database import SQLiteDatabase
from actionengine.storage.sqlite.unit_of_work import SQLiteUnitOfWork

Captured = dict[str, tuple[str, Any]]
"""Statements by name, each with parameters that it was sent with."""

_LISTINGS = ("LIST_DOCUMENTS", "FIND_DOCUMENTS")
_TABLE = re.compile(r"(?:FROM|INTO|UPDATE) (?:main|public)\.(ae_\w+)")
_CONDITION = re.compile(
    r"(?:WHERE|AND) (?:\w+\.)?(\w+) (?:(OPERATOR\(pg_catalog\.=\) ANY|IN )|(?:=|OPERATOR\(pg_catalog\.=\)) '(\w+)')?"
)
_VERB = re.compile(r"\b(INSERT|UPDATE|DELETE|FOR NO KEY UPDATE)\b")


@contextmanager
def capturing() -> Iterator[Captured]:
    """Collect what is sent to either database while the block runs."""
    found: Captured = {}
    execute, fetch, send = SQLiteUnitOfWork.execute, SQLiteDatabase._fetch, LibpqConnection.execute

    def note(statement: str, parameters: Any) -> None:
        if "ae_" in statement and (name := name_of(statement)) is not None:
            found.setdefault(name, (statement, parameters))

    def execute_noted(self: Any, statement: str, parameters: Any) -> Any:
        note(statement, parameters)
        return execute(self, statement, parameters)

    def fetch_noted(self: Any, pooled: Any, statement: str, parameters: Any) -> Any:
        note(statement, parameters)
        return fetch(self, pooled, statement, parameters)

    def send_noted(self: Any, *sent: Any, **options: Any) -> Any:
        for statement, parameters in sent:
            note(statement, parameters)
        return send(self, *sent, **options)

    with (
        patch.object(SQLiteUnitOfWork, "execute", execute_noted),
        patch.object(SQLiteDatabase, "_fetch", fetch_noted),
        patch.object(LibpqConnection, "execute", send_noted),
    ):
        yield found


def _named(module: Any) -> dict[str, str]:
    named = {name: value for name, value in vars(module).items() if name.isupper() and isinstance(value, str)}
    for constant in ("FIND_LOG", "COUNT_LOG", "FIND_LINKED", "FIND_EMITTED"):
        named |= {f"{constant} by {column}": value for column, value in vars(module)[constant].items()}
    named |= {f"DOCUMENTS.{name}": value for name, value in module.DOCUMENTS._asdict().items()}
    for name in set(_LISTINGS) & vars(module).keys():
        for descending in (False, True):
            for is_first in (False, True):
                relation = module.ROWS.operator.format("<" if descending else ">")
                beyond = "" if is_first else f" AND id {relation} {module.ROWS.mark}"
                text = vars(module)[name].format(beyond=beyond, order="id DESC" if descending else "id")
                named[f"{name}{' descending' * descending}{' after' * (not is_first)}"] = text
    return named


_NAMES = {text: name for module in (sqlite, postgres) for name, text in _named(module).items()}


def name_of(statement: str) -> str | None:
    """Return the name of a statement of the library: that of its constant, or its verb, table and columns."""
    known = _NAMES.get(statement)
    if known is not None:
        return known
    tables = _TABLE.findall(statement)
    if not tables or "ae_check" in statement:
        return None
    verbs = _VERB.findall(statement)
    where = statement.rpartition("WHERE tenant_id")[2]
    columns = [
        f"{name} of several" if is_any else f"{name} {value}" if value else name
        for name, is_any, value in dict.fromkeys(_CONDITION.findall(where))
        if name not in {"tenant_id", "bytes_before", "stored_before"}
    ]
    verb = verbs[0].lower().replace("for no key update", "lock") if verbs else "find"
    page = ", a page" if "bytes_before" in statement else ", a limit" if "LIMIT" in where else ""
    by = f" by {', '.join(columns)}" if columns else ""
    return f"{verb} {tables[-1]}{by}{page}"


def sqlite_names(connection: Any) -> dict[str, str]:
    """Return all indexes by name: as `table(columns)`, or by the name too for an index of only some rows."""
    found = {}
    for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        for _, name, _, _, is_partial in connection.execute(f"PRAGMA index_list({table})").fetchall():
            columns = [row[2] or "?" for row in connection.execute(f"PRAGMA index_info({name})")]
            found[name] = name if is_partial else f"{table}({', '.join(columns)})"
    return found


POSTGRES_NAMES = """
SELECT i.relname, CASE WHEN x.indpred IS NOT NULL THEN i.relname ELSE t.relname || '(' || (
    SELECT string_agg(coalesce(a.attname, '?'), ', ' ORDER BY k.number)
    FROM unnest(x.indkey) WITH ORDINALITY k (attnum, number)
    LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.attnum
) || ')' END
FROM pg_index x
JOIN pg_class i ON i.oid = x.indexrelid
JOIN pg_class t ON t.oid = x.indrelid
WHERE t.relname LIKE 'ae\\_%'
"""
"""The indexes of PostgreSQL by name, as in `sqlite_names`."""


def sqlite_indexes(connection: Any, statement: str, parameters: Any) -> set[str]:
    """Return the indexes that SQLite uses, as in `sqlite_names`, and the tables that it scans."""
    names = sqlite_names(connection)
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    found = set()
    for line in plan:
        if index := re.search(r"USING (?:COVERING )?INDEX (\w+) \(", line):
            found.add(names[index[1]])
        elif (along := re.search(r"SCAN .*USING (?:COVERING )?INDEX (\w+)$", line)) and names[along[1]] == along[1]:
            # All rows of the index.
            found.add(along[1])
        elif key := re.search(r"SEARCH (?:main\.)?(\w+) USING PRIMARY KEY", line):
            found.add(f"{_table_of(key[1], statement)}, its key")
        elif scanned := re.search(r"SCAN (?:main\.)?(ae_\w+)", line):
            found.add(f"all of {scanned[1]}")
    return found


def _table_of(name: str, statement: str) -> str:
    aliased = re.search(rf"(ae_\w+) {name}\b", statement)
    return aliased[1] if aliased else name


def postgres_indexes(plan: str, names: Mapping[str, str]) -> set[str]:
    """Return the same for a plan of PostgreSQL, with the result of `POSTGRES_NAMES`."""
    found = {names[name] for name in re.findall(r"(?:using|Bitmap Index Scan on) (ae_\w+)", plan)}
    return found | {f"all of {table}" for table in re.findall(r"Seq Scan on (ae_\w+)", plan)}
