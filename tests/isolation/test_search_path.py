"""Names: the search path that a handler's SQL chooses does not affect the library's statements."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from returns.result import Result, Success
from sqlalchemy import text

from actionengine import ActionContext, create_action, create_engine, create_service
from actionengine.storage.outbox import TRIGGERS, WORKFLOWS
from actionengine.storage.postgres import checks, outbox, statements
from actionengine.storage.postgres.statements import ROWS, opening_statements, record_statement
from actionengine.storage.sql.documents import Listing
from actionengine.storage.sql.rows import (
    delete_statement,
    find_statement,
    insert_statement,
    page_statement,
    update_statement,
)
from actionengine.storage.tables import PATCH_OPS
from tests.isolation.harness import SQLHarness

COLUMNS = tuple(PATCH_OPS.columns.items())
CONDITIONS = (
    ("id", "text", "="),
    ("position", "integer", "any"),
    ("op_type", "text", "any"),
    ("executed_at", "time", "null"),
    ("position", "integer", ">"),
)
TEMPLATES = {"SETTINGS", "OPEN", "OPEN_AND_CLAIM", "LIST_DOCUMENTS", "FIND_DOCUMENTS", "BEGAN"}


def _statements() -> Iterator[tuple[str, str]]:
    for module in (statements, outbox, checks):
        for name, value in vars(module).items():
            if name.isupper() and isinstance(value, str) and " " in value and name not in TEMPLATES:
                yield name, value
    for name, value in statements.DOCUMENTS._replace(find="")._asdict().items():
        yield f"documents: {name}", value
    for template in (statements.LIST_DOCUMENTS, statements.FIND_DOCUMENTS, statements.DOCUMENTS.find):
        for descending in (False, True):
            yield "documents: listing", Listing({}, 1, "x", descending).statement(template, ROWS)
    for read_only in (False, True):
        yield from opening_statements(["lock_timeout"], read_only, True)._asdict().items()
    yield "cleaning", "; ".join(statement for statement, _ in (statements.SETTLE, *statements.CLEAN_UNCHECKED))
    yield "recording", record_statement(2, 2, 2)
    yield "recording in queues", record_statement(2, 2, 2, (WORKFLOWS, TRIGGERS))
    yield "recording for principals", record_statement(2, 2, 2, has_principals=True)
    yield "recording reasons", record_statement(2, 2, 2, has_words=True)
    yield "rows: find", find_statement(ROWS, "ae_patch_ops", COLUMNS, CONDITIONS, ("id",), True, True)
    for column, statement in statements.FIND_LOG.items():
        yield f"log: by {column}", statement
    for column, statement in statements.COUNT_LOG.items():
        yield f"log: count by {column}", statement
    yield "rows: page", page_statement(ROWS, "ae_patch_ops", COLUMNS, CONDITIONS, ("id",))
    yield "rows: insert", insert_statement(ROWS, "ae_patch_ops", COLUMNS)
    yield "rows: update", update_statement(ROWS, "ae_patch_ops", COLUMNS, ("id",), 1)
    yield "rows: delete", delete_statement(ROWS, "ae_patch_ops", CONDITIONS)


STATEMENTS = list(_statements())
KEYWORDS = {"AND", "ANY", "ARRAY", "AS", "COALESCE", "EXISTS", "FROM", "INTO", "MATERIALIZED", "NOT", "OR", "SELECT"}
KEYWORDS |= {"CONFLICT", "GREATEST", "LATERAL", "LIMIT", "OVER", "ROWS", "VALUES", "WHERE"}
DEFINED = {"context", "given", "claimed", "place", "r", "subject", "principal", "word", "new", "wanted"}
"""Names of columns that parentheses follow in the statements."""


@pytest.mark.parametrize(("name", "statement"), STATEMENTS, ids=[name for name, _ in STATEMENTS])
def test_statements_name_the_schema_of_operators_and_functions(name: str, statement: str) -> None:
    bare = re.sub(r"'[^']*'", "''", statement)
    bare = re.sub(r"OPERATOR\(pg_catalog\.[^)]+\)", "", bare)
    # Assignments of UPDATE.
    bare = re.sub(r"(SET|,)\s+\w+ = ", r"\1 ", bare).replace("%s", "?").replace("*", "")
    called = re.findall(r"([\w.]+) ?\(", re.sub(r"INTO public\.\w+ \(|ae_\w+ \(", "", bare))

    assert re.findall(r"\s[-+/<>=~!@#%^&|]+\s", bare) == []
    assert " IN (" not in bare
    assert {
        each
        for each in called
        if not each.startswith(("pg_catalog.", "public.")) and each.upper() not in KEYWORDS and each not in DEFINED
    } == set()


def test_no_function_takes_names_from_the_callers_search_path(harness: SQLHarness) -> None:
    functions = harness.query(
        "SELECT p.proname, p.prosqlbody IS NOT NULL, p.proconfig FROM pg_proc p"
        " WHERE p.pronamespace = 'public'::regnamespace AND p.proname LIKE 'ae\\_%'"
    )

    assert len(functions) > 30
    assert [
        name
        for name, is_resolved, settings in functions
        if not (is_resolved or settings[0] == "search_path=pg_catalog, pg_temp")
    ] == []


SHADOWS = """
CREATE SCHEMA evil;
GRANT USAGE ON SCHEMA evil TO PUBLIC;
CREATE FUNCTION evil.no(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false';
CREATE FUNCTION evil.no(uuid, uuid) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false';
CREATE FUNCTION evil.no(integer, integer) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false';
CREATE FUNCTION evil.no(bigint, bigint) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false';
CREATE FUNCTION evil.no(jsonb, jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false';
CREATE FUNCTION evil.yes(bigint, integer) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
CREATE FUNCTION evil.sum(integer, integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 77';
CREATE FUNCTION evil.part(jsonb, text) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT null::jsonb';
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.no);
CREATE OPERATOR evil.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.no);
CREATE OPERATOR evil.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = evil.no);
CREATE OPERATOR evil.= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = evil.no);
CREATE OPERATOR evil.<> (LEFTARG = integer, RIGHTARG = integer, FUNCTION = evil.no);
CREATE OPERATOR evil.= (LEFTARG = bigint, RIGHTARG = integer, FUNCTION = evil.yes);
CREATE OPERATOR evil.> (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.no);
CREATE OPERATOR evil.= (LEFTARG = jsonb, RIGHTARG = jsonb, FUNCTION = evil.no);
CREATE OPERATOR evil.@> (LEFTARG = jsonb, RIGHTARG = jsonb, FUNCTION = evil.no);
CREATE OPERATOR evil.+ (LEFTARG = integer, RIGHTARG = integer, FUNCTION = evil.sum);
CREATE OPERATOR evil.-> (LEFTARG = jsonb, RIGHTARG = text, FUNCTION = evil.part);
CREATE FUNCTION evil.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS 'SELECT $2';
CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql AS 'SELECT ''''';
CREATE FUNCTION evil.json_array_elements_text(json) RETURNS SETOF text LANGUAGE sql AS 'SELECT ''evil''';
CREATE FUNCTION evil.jsonb_each(jsonb, OUT key text, OUT value jsonb) RETURNS SETOF record LANGUAGE sql
    AS 'SELECT ''x'', null::jsonb';
CREATE FUNCTION evil.starts_with(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false';
CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT ''2000-01-01''::timestamptz';
CREATE FUNCTION evil.hashtextextended(text, bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint';
CREATE FUNCTION evil.pg_notify(text, text) RETURNS void LANGUAGE sql AS '';
"""
FIRST = "SET search_path = evil, pg_catalog, public"


@pytest.fixture(scope="module")
def _shadowed(unsigned: SQLHarness, signed: SQLHarness) -> Iterator[None]:
    """Names of the catalogue, in a schema that SQL can put before it."""
    for each in (unsigned, signed):
        with psycopg.connect(each.superuser_url, autocommit=True) as superuser:
            superuser.execute(SHADOWS.encode())
    yield
    for each in (unsigned, signed):
        with psycopg.connect(each.superuser_url, autocommit=True) as superuser:
            superuser.execute("DROP SCHEMA evil CASCADE")


def _business(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """All operations of collections, under a search path that SQL has set."""
    ctx.session.execute(text(data))
    notes = ctx.records("notes")
    first = notes.insert({"n": 1, "who": "ann"}, "a")
    notes.insert({"n": 2, "who": "bob"}, "b")
    changed = notes.update("a", {"n": 3, "who": "ann"}, first.version)
    notes.delete("b", 1)
    nested = ctx.execute("test", "touch", {"id": "c"}).unwrap()
    ctx.emit("done", {}, subject="note/a")
    seen = {
        "version": changed.version,
        "found": [each.id for each in notes.list({"who": "ann"})],
        "after": [each.id for each in notes.list(after="a", descending=False)],
        "gone": notes.get("b"),
        "nested": nested,
    }
    return Success(seen)


def _touch(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    return Success(ctx.records("notes").insert({}, data["id"]).version)


@pytest.mark.usefixtures("_shadowed")
@pytest.mark.parametrize("path", [FIRST, "SET search_path = ''", "SET LOCAL search_path = evil, pg_temp"])
def test_the_library_works_the_same_under_any_search_path(harness: SQLHarness, path: str) -> None:
    party = harness.new_party("initech")
    notes = [
        create_action(name=name, description="For the test", handler=handler)
        for name, handler in (("business", _business), ("touch", _touch))
    ]
    service = create_service(name="test", description="For the test", actions=notes)
    engine = create_engine(services=[service], storage=harness.storage)

    seen = engine.execute_action("test", "business", path, party.context(idempotency_key="k")).unwrap()
    again = engine.execute_action("test", "business", path, party.context(idempotency_key="k")).unwrap()

    expected = {"version": 2, "found": ["a"], "after": ["c", "first"], "gone": None, "nested": 1}
    assert seen == again == expected
    log = harness.query("SELECT subject FROM ae_action_log_subjects WHERE tenant_id = %s ORDER BY 1", party.id)
    assert ("note/a",) in log
    assert ("evil",) not in log


@pytest.mark.usefixtures("_shadowed")
def test_rules_of_change_control_hold_under_any_search_path(harness: SQLHarness) -> None:
    attacker = harness.new_party("initech")
    merged = (
        "INSERT INTO public.ae_changes VALUES ('ATTACKER', 'm', 'p', 't', null, 'Merged', null, 0, now(), now(), now())"
    )

    loot = harness.attack((FIRST, merged), by=attacker)

    assert "S1: a change begins as Draft" in str(loot.errors)


@pytest.mark.usefixtures("_shadowed")
def test_replaced_statements_are_found_under_any_search_path(signed: SQLHarness) -> None:
    attacker = signed.new_party("initech")

    loot = signed.attack(("PREPARE ae_0 AS SELECT 1", FIRST), by=attacker)

    assert loot.answer is not None
    assert "has replaced statements" in loot.answer.failure().message
