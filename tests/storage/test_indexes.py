"""Every index of the schema has a query that needs it, under row-level security, as the app role."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from examples.embedded_postgres import Database

from actionengine.storage.postgres.statements import (
    DOCUMENTS,
    FIND_LOG,
    FIND_LOG_OF_PRINCIPAL,
    FIND_LOG_OF_SUBJECT,
    FIND_LOG_OF_WORD,
    LIST_DOCUMENTS,
    READ_COUNTER,
    READ_EVENTS,
    READ_EVENTS_OF_TYPES,
    ROWS,
)
from actionengine.storage.sql.documents import Listing
from actionengine.storage.sql.rows import find_statement
from actionengine.storage.tables import CHANGES, PATCH_OPS, PROJECTS, RECORD_TYPES, SNAPSHOTS, TARGETS, Table
from tests.postgres import copy_database

ID = uuid4()


def rows(
    table: Table, *equal: str, order: str | None = None, pending: bool = False, status: str = ""
) -> tuple[str, list[Any]]:
    """Return the query for rows of a table by these columns."""
    conditions = [(name, table.columns[name], "=") for name in equal]
    if pending:
        conditions.append(("executed_at", "time", "null"))
    if status:
        conditions.append(("status", "text", f"'{status}'"))
    column = (table.key[0], table.columns[table.key[0]])
    ordered = (order,) if order is not None else table.key
    statement = find_statement(ROWS, table.name, (column,), tuple(conditions), ordered, False, False)
    return statement, ["{tenant}", *("7" if table.columns[name] == "integer" else "x" for name in equal)]


def listing(descending: bool) -> str:
    """Return the query for a further page of documents."""
    return Listing({}, 10, "n", descending).statement(LIST_DOCUMENTS, ROWS)


def finding(descending: bool) -> str:
    """Return the query for a further page of documents under a key."""
    return Listing({}, 10, "n", descending).statement(DOCUMENTS.find, ROWS)


QUERIES: dict[str, tuple[str, list[Any]]] = {
    "ae_documents_pkey": (listing(descending=False), ["{tenant}", "notes", "n", 10]),
    "ae_document_keys_pkey": (DOCUMENTS.remove_keys, ["{tenant}", "ae_approvals", "a", "[]"]),
    "ae_document_keys_key": (finding(descending=True), ["{tenant}", "k", "n", 10, "{tenant}", "ae_approvals"]),
    "ae_document_keys_open": (
        "SELECT id FROM public.ae_document_keys WHERE key >= 'ae_approvals/open_until:'"
        " AND key < 'ae_approvals/open_until;' ORDER BY key LIMIT 10",
        [],
    ),
    "ae_document_keys_schedules": (
        'SELECT id FROM public.ae_document_keys WHERE key = \'ae_triggers/status,type:["active","schedule"]\' LIMIT 10',
        [],
    ),
    "ae_idempotency_keys_pkey": (
        "SELECT FROM public.ae_idempotency_keys WHERE tenant_id = %s AND action = %s AND key = %s",
        ["{tenant}", "notes.put", "key"],
    ),
    "ae_idempotency_keys_expiry": (
        "SELECT FROM public.ae_idempotency_keys WHERE expires_at <= now() ORDER BY expires_at LIMIT 10",
        [],
    ),
    "ae_budget_counters_pkey": (READ_COUNTER, ["{tenant}", "calls", "human:ann"]),
    "ae_budget_counters_expiry": (
        "SELECT FROM public.ae_budget_counters WHERE expires_at <= now() ORDER BY expires_at LIMIT 10",
        [],
    ),
    "ae_action_log_pkey": (FIND_LOG[None], ["{tenant}", ID, ID, 10]),
    "ae_action_log_actor": (FIND_LOG["actor_id"], ["{tenant}", "ann", ID, ID, 10]),
    "ae_action_log_action": (FIND_LOG["action"], ["{tenant}", "notes.put", ID, ID, 10]),
    "ae_action_log_outcome": (FIND_LOG["outcome"], ["{tenant}", "failed", ID, ID, 10]),
    "ae_action_log_actor_type": (FIND_LOG["actor_type"], ["{tenant}", "ai", ID, ID, 10]),
    "ae_action_log_parent": (FIND_LOG["parent_id"], ["{tenant}", ID, ID, ID, 10]),
    "ae_action_log_approval": (FIND_LOG["approval_id"], ["{tenant}", "a", ID, ID, 10]),
    "ae_action_log_request": (FIND_LOG["request_id"], ["{tenant}", "r", ID, ID, 10]),
    "ae_action_log_key": (FIND_LOG["idempotency_key"], ["{tenant}", "k", ID, ID, 10]),
    "ae_action_log_words_pkey": (FIND_LOG_OF_WORD, ["{tenant}", "refund", ID, ID, 10, "{tenant}"]),
    "ae_action_log_subjects_pkey": (
        FIND_LOG_OF_SUBJECT,
        ["{tenant}", "notes/1", ID, ID, 10, "{tenant}"],
    ),
    "ae_action_log_principals_pkey": (
        FIND_LOG_OF_PRINCIPAL,
        ["{tenant}", "human:carla", ID, ID, 10, "{tenant}"],
    ),
    "ae_events_pkey": (READ_EVENTS, ["{tenant}", 0, 10, 10]),
    "ae_events_type": (
        READ_EVENTS_OF_TYPES,
        [["t"], "{tenant}", 0, 10, 10, 10, "{tenant}", 10],
    ),
    "ae_events_id": (
        "SELECT position FROM public.ae_events WHERE tenant_id = %s AND id >= %s ORDER BY id LIMIT 1",
        ["{tenant}", ID],
    ),
    "ae_events_action": (
        "SELECT position FROM public.ae_events WHERE tenant_id = %s AND action_id = %s ORDER BY position",
        ["{tenant}", ID],
    ),
    "ae_outbox_pkey": (
        "SELECT FROM public.ae_outbox WHERE tenant_id = %s AND queue = 'events' AND position = %s",
        ["{tenant}", 1],
    ),
    "ae_outbox_pending": (
        "SELECT position FROM public.ae_outbox_due('events', 1, 0) WHERE position <= 10 ORDER BY position LIMIT 1",
        [],
    ),
    "ae_outbox_held": (
        "SELECT position FROM public.ae_outbox_due('events', 1, 0) WHERE position <= 10 ORDER BY position LIMIT 1",
        [],
    ),
    "ae_outbox_behind": (
        "SELECT position FROM public.ae_outbox WHERE queue = 'events' AND held ORDER BY position LIMIT 1",
        [],
    ),
    "ae_outbox_unskipped": (
        "SELECT FROM public.ae_outbox WHERE queue = 'events' AND dead_at IS NOT NULL AND NOT skipped LIMIT 10",
        [],
    ),
    "ae_outbox_unreleased": (
        "SELECT FROM public.ae_outbox WHERE queue = 'events' AND skipped AND due_at IS NOT NULL LIMIT 10",
        [],
    ),
    "ae_outbox_skipped": ("SELECT FROM public.ae_outbox WHERE queue = 'events' AND skipped LIMIT 10", []),
    "ae_outbox_tenant_behind": (
        "SELECT FROM public.ae_outbox WHERE tenant_id = %s AND queue = 'events' AND held LIMIT 10",
        ["{tenant}"],
    ),
    "ae_outbox_tenant_waiting": (
        "SELECT FROM public.ae_outbox WHERE tenant_id = %s AND queue = 'events' AND dead_at IS NULL AND due_at > now()",
        ["{tenant}"],
    ),
    "ae_outbox_waiting": (
        "SELECT min(due_at) FROM public.ae_outbox WHERE queue = 'events' AND dead_at IS NULL AND due_at > now()",
        [],
    ),
    "ae_outbox_returns_pkey": ("SELECT returns FROM public.ae_outbox_returns WHERE queue = 'events'", []),
    "ae_outbox_dead": (
        "SELECT FROM public.ae_outbox WHERE queue = 'events' AND dead_at IS NOT NULL AND event_id > %s"
        " ORDER BY event_id LIMIT 10",
        ["{tenant}"],
    ),
    "ae_projects_pkey": rows(PROJECTS, "id"),
    "ae_projects_d4_name": rows(PROJECTS, "name"),
    "ae_record_types_pkey": rows(RECORD_TYPES, "id"),
    "ae_record_types_d3_key": rows(RECORD_TYPES, "project_id", order="key"),
    **{
        f"ae_record_types_{status}": rows(RECORD_TYPES, "project_id", order="key", status=status)
        for status in ("draft", "retired")
    },
    "ae_record_types_active_of_project": rows(RECORD_TYPES, "project_id", order="key", status="active"),
    "ae_record_types_d3_active": (
        "SELECT schema FROM public.ae_record_types WHERE tenant_id = %s AND status = 'active' ORDER BY key",
        ["{tenant}"],
    ),
    "ae_record_types_base_type": rows(RECORD_TYPES, "project_id", "base_type"),
    "ae_record_types_key": rows(RECORD_TYPES, "key"),
    "ae_record_types_d4_name": rows(RECORD_TYPES, "name"),
    "ae_changes_pkey": rows(CHANGES, "id"),
    "ae_changes_project": rows(CHANGES, "project_id", order="id"),
    "ae_changes_status": rows(CHANGES, "status", order="id"),
    **{
        f"ae_changes_{name}": rows(CHANGES, "project_id", order="id", status=status)
        for name, status in (
            ("draft", "Draft"),
            ("implementing", "Implementing"),
            ("workspace_running", "WorkspaceRunning"),
            ("validating", "Validating"),
            ("validation_failed", "ValidationFailed"),
            ("ready", "Ready"),
            ("merged", "Merged"),
        )
    },
    "ae_change_targets_pkey": rows(TARGETS, "id"),
    "ae_change_targets_change": rows(TARGETS, "change_id", order="id"),
    "ae_patch_ops_pkey": rows(PATCH_OPS, "id"),
    "ae_patch_ops_position": rows(PATCH_OPS, "change_id", order="position"),
    "ae_patch_ops_g1_field": rows(PATCH_OPS, "change_id", "record_type_key", "field", pending=True),
    "ae_patch_ops_g1_gives": rows(PATCH_OPS, "change_id", "record_type_key", "gives", pending=True),
    "ae_patch_ops_executed": (
        "SELECT payload FROM public.ae_patch_ops WHERE tenant_id = %s AND project_id = %s AND record_type_key = %s"
        " AND applied_version > %s ORDER BY applied_version, position",
        ["{tenant}", "p", "task", 0],
    ),
    "ae_snapshots_d5_one_per_change": rows(SNAPSHOTS, "change_id", "record_type_key"),
    "ae_snapshots_version": rows(SNAPSHOTS, "project_id", "record_type_key", order="version"),
    "ae_relays_pkey": ("SELECT FROM public.ae_relays WHERE id = %s", ["{tenant}"]),
    "ae_tenants_pkey": ("SELECT FROM public.ae_tenants WHERE tenant_id = %s", ["{tenant}"]),
    "ae_tenants_open": (
        "SELECT FROM public.ae_tenants WHERE coalesce(deleted_at IS NULL, false) AND slug > %s ORDER BY slug LIMIT 10",
        ["acme"],
    ),
    "ae_tenants_slug": ("SELECT FROM public.ae_tenants WHERE slug = %s", ["acme"]),
    "ae_signing_keys_pkey": ("SELECT FROM public.ae_signing_keys WHERE id = %s", ["id"]),
    "ae_maintenance_pkey": ("SELECT FROM public.ae_maintenance ORDER BY id DESC LIMIT 20", []),
    "ae_migrations_pkc": ("SELECT FROM public.ae_migrations WHERE version_num = %s", ["ae_0001"]),
}
OPERATORS = {
    "ae_document_keys_open",
    "ae_document_keys_schedules",
    "ae_idempotency_keys_expiry",
    "ae_budget_counters_expiry",
    "ae_outbox_pending",
    "ae_outbox_held",
    "ae_outbox_behind",
    "ae_outbox_unskipped",
    "ae_outbox_skipped",
    "ae_outbox_unreleased",
    "ae_outbox_waiting",
    "ae_outbox_returns_pkey",
    "ae_outbox_dead",
    "ae_relays_pkey",
    "ae_tenants_pkey",
    "ae_tenants_open",
    "ae_tenants_slug",
    "ae_signing_keys_pkey",
    "ae_maintenance_pkey",
    "ae_migrations_pkc",
}
"""Indexes that the owner's functions need."""


CHANGE_CONTROL = (
    "INSERT INTO ae_projects SELECT ae_tenant(), 'p' || n, 'project ' || n, NULL, false, now() FROM numbers",
    "INSERT INTO ae_record_types SELECT ae_tenant(), 'r' || n, 'p1', 'key ' || n, 'type ' || n, NULL, NULL,"
    """ '{"fields": []}', '{"fields": []}', 1, CASE n % 2 WHEN 0 THEN 'draft' ELSE 'active' END, NULL, now(), now()"""
    " FROM numbers",
    "INSERT INTO ae_record_types SELECT ae_tenant(), 's' || n, 'p2', 'other ' || n, 'other ' || n, NULL, NULL,"
    """ '{"fields": []}', '{"fields": []}', 1, 'active', NULL, now(), now() FROM numbers""",
    "INSERT INTO ae_changes SELECT ae_tenant(), 'c' || n, 'p1', 'change', NULL, 'Draft', NULL, 0, now(), now(), NULL"
    " FROM numbers",
    "INSERT INTO ae_change_targets SELECT ae_tenant(), 't' || n, 'c1', 'p1', 'record_type',"
    " json_build_object('record_type_key', 'key ' || n), now() FROM numbers",
    "INSERT INTO ae_patch_ops SELECT ae_tenant(), 'o' || n, 'c1', 'p1', 't' || n, n, 'rename_field', '{}', 'key ' || n,"
    " 'field', 'other', 1, NULL, NULL, NULL, now() FROM numbers",
    "INSERT INTO ae_snapshots SELECT ae_tenant(), 'c' || n, 'key ' || n, 'p1', 1, "
    """'{"fields": []}', now() FROM numbers""",
)


TENANT = str(uuid4())


@pytest.fixture(scope="module")
def urls(postgres_server: str, postgres_template: Database) -> Database:
    """A database of its own: rows and statistics of other tests would change the plans.

    The tables of change control have some hundred rows, so that it matters which of their indexes is used.
    """
    database = copy_database(postgres_server, postgres_template, "indexes")
    with psycopg.connect(database.app_url) as connection:
        connection.execute(
            "SELECT set_config('app.tenant_id', %s, true), set_config('app.action_id', 'x', true)", (TENANT,)
        )
        for statement in CHANGE_CONTROL:
            numbers = "FROM generate_series(1, 500) n"
            connection.execute(statement.replace("FROM numbers", numbers).encode())
        connection.execute(
            "UPDATE ae_patch_ops SET previous_snapshot = '{}', executed_at = now(), applied_version = 2"
            " WHERE position > 250"
        )
    with psycopg.connect(database.owner_url, autocommit=True) as owner:
        # Closed tenants, which the index of open ones excludes.
        owner.execute(
            "INSERT INTO ae_tenants (tenant_id, slug, name, deleted_at)"
            " SELECT gen_random_uuid(), 'closed-' || n, 'Closed', now() FROM generate_series(1, 1000) n"
        )
        owner.execute("ANALYZE ae_projects, ae_record_types, ae_changes, ae_change_targets, ae_patch_ops, ae_snapshots")
    return database


@pytest.fixture
def connections(urls: Database) -> Iterator[dict[bool, psycopg.Connection]]:
    with psycopg.connect(urls.owner_url) as owner, psycopg.connect(urls.app_url) as app:
        yield {True: owner, False: app}


def test_each_index_is_listed(connections: dict[bool, psycopg.Connection]) -> None:
    rows = connections[True].execute("SELECT indexname FROM pg_indexes WHERE tablename LIKE 'ae\\_%'").fetchall()

    assert {name for (name,) in rows} == set(QUERIES)


@pytest.mark.parametrize("index", QUERIES)
def test_an_index_serves_its_query(connections: dict[bool, psycopg.Connection], index: str) -> None:
    connection = connections[index in OPERATORS]
    statement, parameters = QUERIES[index]
    connection.execute("SELECT set_config('app.tenant_id', %s, true)", (TENANT,))
    # The tables are too small for an index to be worth its cost.
    connection.execute("SET LOCAL enable_seqscan = off")
    connection.execute("SET LOCAL enable_bitmapscan = off")

    given = [value.format(tenant=TENANT) if isinstance(value, str) else value for value in parameters]
    plan = "\n".join(str(row[0]) for row in connection.execute(f"EXPLAIN {statement}", given))

    assert f" {index} " in plan, plan
    if index not in OPERATORS:
        condition = next(line for line in plan.splitlines() if "Index Cond" in line)
        assert "tenant_id" in condition


def test_the_newest_documents_are_read_by_key_without_a_sort(
    connections: dict[bool, psycopg.Connection],
) -> None:
    connection = connections[False]
    connection.execute("SELECT set_config('app.tenant_id', %s, true)", (TENANT,))
    connection.execute("SET LOCAL enable_seqscan = off")
    connection.execute("SET LOCAL enable_bitmapscan = off")

    rows = connection.execute(f"EXPLAIN {listing(descending=True)}", (TENANT, "notes", "n", 10)).fetchall()

    plan = "\n".join(line for (line,) in rows)
    assert "Index Scan Backward using ae_documents_pkey" in plan
    assert "Sort" not in plan


def test_documents_are_written_through_their_key(connections: dict[bool, psycopg.Connection]) -> None:
    connection = connections[False]
    connection.execute(
        "SELECT set_config('app.tenant_id', %s, true), set_config('app.action_id', 'x', true)", (str(uuid4()),)
    )
    connection.execute("SET LOCAL enable_seqscan = off")

    plan = connection.execute(f"EXPLAIN {DOCUMENTS.delete}", (uuid4(), "notes", "1", 1)).fetchall()

    assert any("ae_documents_pkey" in line for (line,) in plan)
