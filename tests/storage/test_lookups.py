"""Lookups: the filters of the library's own collections, which an index answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from examples.embedded_postgres import Database

from actionengine import PostgresStorage, SQLiteStorage
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.errors import StorageError
from actionengine.storage.lookups import LOOKUPS, MAX_KEY_LENGTH, key_of_filter, keys_of
from actionengine.storage.postgres.statements import DOCUMENTS, ROWS
from actionengine.storage.records import APPROVALS, RESERVED_PREFIX
from actionengine.storage.sql.documents import Listing
from actionengine.storage.sqlite import statements as sqlite
from actionengine.workflows.runs import step_handlers, store
from tests.backends import AnyStorage
from tests.growth import PLANS, explain, fill

KEY = {"requested_by": "human:ann", "status": "pending"}


def listed(storage: AnyStorage, tenant: Any, filter: Any, **page: Any) -> list[str]:
    unit = storage.unit_of_work(tenant, str(uuid4()), "sync", read_only=True)
    try:
        return [record.id for record in run_sync(unit.records(APPROVALS).list(filter, **page))]
    finally:
        run_sync(unit.rollback())


def test_lookups_name_known_collections_with_sorted_fields() -> None:
    ours = {value for value in vars(store).values() if isinstance(value, str) and value.startswith(RESERVED_PREFIX)}
    own = {name for name in LOOKUPS if name.startswith("ae_workflow") or name == "ae_triggers"}

    assert own <= ours
    assert step_handlers.ASSIGNMENTS in LOOKUPS
    assert [fields for each in LOOKUPS.values() for fields in each if list(fields) != sorted(set(fields))] == []


def test_a_document_has_a_key_for_each_lookup_of_its_fields() -> None:
    assert keys_of("notes", KEY) == ()
    assert keys_of(APPROVALS, KEY) == (
        'ae_approvals/status:["pending"]',
        'ae_approvals/requested_by:["human:ann"]',
        'ae_approvals/requested_by,status:["human:ann","pending"]',
    )
    assert keys_of(APPROVALS, {**KEY, "status": None}) == ('ae_approvals/requested_by:["human:ann"]',)
    assert keys_of(APPROVALS, {"status": 1, "requested_by": ["human:ann"]}) == ()


def test_a_filter_has_the_key_of_the_documents_that_it_wants() -> None:
    for filter in (KEY, {"status": "pending"}, {"requested_by": "x" * 10_000}):
        key = key_of_filter(APPROVALS, filter)
        assert key in keys_of(APPROVALS, {**KEY, **filter})
        assert key is not None
        assert len(key) <= MAX_KEY_LENGTH


@pytest.mark.parametrize("filter", [{"action": "pay"}, {"status": None}, {"status": "pending", "action": "pay"}])
def test_a_filter_without_a_lookup_is_refused(each_storage: AnyStorage, filter: dict[str, Any]) -> None:
    tenant = each_storage.create_tenant(slug=f"t-{uuid4().hex}", name="Acme")

    with pytest.raises(StorageError, match="would read the whole collection: add this lookup"):
        listed(each_storage, tenant, filter)


def test_a_filter_of_a_hosts_collection_compares_each_document() -> None:
    assert key_of_filter("notes", {"status": "pending"}) is None
    assert key_of_filter("ae_view/board/1/cards", {"day": "2031-03-03"}) is None
    assert key_of_filter("workflow_assignments", {"details": {}}) is None
    assert key_of_filter("workflow_assignments", {"assignee": None}) is None


def test_a_key_whose_document_is_gone_is_passed_over(tmp_path: Path) -> None:
    with SQLiteStorage(tmp_path / "lookups.db") as storage:
        tenant = storage.create_tenant(slug="acme", name="Acme")
        fill(storage, tenant, APPROVALS, [(f"a{number}", KEY) for number in range(6)])
        unit = storage.unit_of_work(tenant, "x", "sync")
        for statement in (
            "DELETE FROM ae_documents WHERE id IN ('a1', 'a2')",
            """UPDATE ae_documents SET data = '{"status": "approved"}' WHERE id = 'a4'""",
        ):
            run_sync(unit.run(unit.query, statement, ()))
        run_sync(unit.commit())

        assert listed(storage, tenant, KEY, limit=2) == ["a0", "a3"]
        assert listed(storage, tenant, KEY, limit=2, after="a3") == ["a5"]
        assert listed(storage, tenant, KEY, descending=True) == ["a5", "a3", "a0"]


@pytest.mark.parametrize("descending", [False, True])
def test_sqlite_finds_documents_by_their_key_without_statistics(tmp_path: Path, descending: bool) -> None:
    with SQLiteStorage(tmp_path / "fresh.db") as storage:
        tenant = storage.create_tenant(slug="acme", name="Acme")
        unit = storage.unit_of_work(tenant, "", "sync", read_only=True)
        statement = Listing(KEY, 5, "n", descending).statement(sqlite.DOCUMENTS.find, sqlite.ROWS)

        def plan(statement: str, *parameters: Any) -> str:
            rows = run_sync(unit.run(unit.query, f"EXPLAIN QUERY PLAN {statement}", parameters))
            return "\n".join(row[3] for row in rows)

        finding = plan(statement, str(tenant.id), "k", "n", 5, str(tenant.id), APPROVALS)
        removing = plan(sqlite.DOCUMENTS.remove_keys, str(tenant.id), APPROVALS, "a", "[]")
        run_sync(unit.rollback())

    beyond = "<" if descending else ">"
    assert f"ae_document_keys USING COVERING INDEX ae_document_keys_key (tenant_id=? AND key=? AND id{beyond}?)" in (
        finding
    )
    assert "sqlite_autoindex_ae_documents_1 (tenant_id=? AND collection=? AND id=?)" in finding
    assert re.search(r"SCAN (main\.)?ae_|SCAN document", finding) is None
    assert "ae_document_keys USING PRIMARY KEY (tenant_id=? AND collection=? AND id=?)" in removing


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("descending", [False, True])
def test_postgres_finds_documents_by_their_key_with_either_plan(
    postgres_database: Database, plan: str, descending: bool
) -> None:
    with PostgresStorage(postgres_database.app_url) as storage:
        tenant = storage.create_tenant(slug=f"t-{uuid4().hex}", name="Acme")
        fill(storage, tenant, APPROVALS, [(None, {**KEY, "status": "approved"})] * 600)
        statement = Listing(KEY, 5, "n", descending).statement(DOCUMENTS.find, ROWS)
        parameters = (tenant.id, "k", "n", 5, tenant.id, APPROVALS)
        finding = "\n".join(explain(storage, tenant, statement, parameters, plan=plan))
        removing = "\n".join(
            explain(storage, tenant, DOCUMENTS.remove_keys, (tenant.id, APPROVALS, "a", "[]"), plan=plan)
        )

    backward = " Backward" if descending else ""
    assert f"Index Only Scan{backward} using ae_document_keys_key" in finding
    assert "Index Scan using ae_documents_pkey" in finding
    assert "Index Scan using ae_document_keys_pkey" in removing
    assert "Seq Scan" not in finding + removing
