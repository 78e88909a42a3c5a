"""Every index of the schema has a query that needs it, under row-level security, as the app role."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from examples.embedded_postgres import Database

from actionengine.storage.postgres.statements import DOCUMENTS, LIST_DOCUMENTS, READ_EVENTS, READ_LOG

SUBJECT = (
    "\n    AND id IN (SELECT log_id FROM public.ae_action_log_subjects s WHERE s.tenant_id = %s AND s.subject = %s)"
)

QUERIES: dict[str, tuple[str, list[Any]]] = {
    "ae_documents_pkey": (LIST_DOCUMENTS, ["{tenant}", "notes", "", 10]),
    "ae_idempotency_keys_pkey": (
        "SELECT FROM public.ae_idempotency_keys WHERE tenant_id = %s AND action = %s AND key = %s",
        ["{tenant}", "notes.put", "key"],
    ),
    "ae_idempotency_keys_expiry": (
        "SELECT FROM public.ae_idempotency_keys WHERE expires_at <= now() ORDER BY expires_at LIMIT 10",
        [],
    ),
    "ae_action_log_pkey": (READ_LOG.format(conditions=""), ["{tenant}", 10]),
    "ae_action_log_actor": (
        READ_LOG.format(conditions="\n    AND actor_id = %s"),
        ["{tenant}", "ann", 10],
    ),
    "ae_action_log_action": (
        READ_LOG.format(conditions="\n    AND action = %s"),
        ["{tenant}", "notes.put", 10],
    ),
    "ae_action_log_subjects_pkey": (
        READ_LOG.format(conditions=SUBJECT),
        ["{tenant}", "{tenant}", "notes/1", 10],
    ),
    "ae_events_pkey": (READ_EVENTS, ["{tenant}", 0, 10, None, None, 10]),
    "ae_outbox_pkey": (
        "SELECT FROM public.ae_outbox WHERE tenant_id = %s AND position = %s",
        ["{tenant}", 1],
    ),
    "ae_outbox_pending": (
        "SELECT position FROM public.ae_outbox_due(1) WHERE position <= 10 ORDER BY position LIMIT 1",
        [],
    ),
    "ae_outbox_held": (
        "SELECT position FROM public.ae_outbox_due(1) WHERE position <= 10 ORDER BY position LIMIT 1",
        [],
    ),
    "ae_relays_pkey": ("SELECT FROM public.ae_relays WHERE id = %s", ["{tenant}"]),
    "ae_tenants_pkey": ("SELECT FROM public.ae_tenants WHERE tenant_id = %s", ["{tenant}"]),
    "ae_tenants_slug": ("SELECT FROM public.ae_tenants WHERE slug = %s", ["acme"]),
    "ae_signing_keys_pkey": ("SELECT FROM public.ae_signing_keys WHERE id = %s", ["id"]),
    "ae_migrations_pkc": ("SELECT FROM public.ae_migrations WHERE version_num = %s", ["ae_0001"]),
}
OPERATORS = {
    "ae_idempotency_keys_expiry",
    "ae_outbox_pending",
    "ae_outbox_held",
    "ae_relays_pkey",
    "ae_tenants_pkey",
    "ae_tenants_slug",
    "ae_signing_keys_pkey",
    "ae_migrations_pkc",
}
"""Those that the owner's functions need."""


@pytest.fixture(scope="module")
def urls(postgres_database: Database) -> Database:
    return postgres_database


@pytest.fixture
def connections(urls: Database) -> Iterator[dict[bool, psycopg.Connection]]:
    with psycopg.connect(urls.owner_url) as owner, psycopg.connect(urls.app_url) as app:
        yield {True: owner, False: app}


def test_each_index_is_listed(connections: dict[bool, psycopg.Connection]) -> None:
    rows = connections[True].execute("SELECT indexname FROM pg_indexes WHERE tablename LIKE 'ae\\_%'").fetchall()

    assert {name for (name,) in rows} == set(QUERIES)


@pytest.mark.parametrize("index", QUERIES)
def test_an_index_serves_its_query(connections: dict[bool, psycopg.Connection], index: str) -> None:
    connection, tenant = connections[index in OPERATORS], str(uuid4())
    statement, parameters = QUERIES[index]
    connection.execute("SELECT set_config('app.tenant_id', %s, true)", (tenant,))
    # The tables are too small for an index to be worth it.
    connection.execute("SET LOCAL enable_seqscan = off")
    connection.execute("SET LOCAL enable_bitmapscan = off")

    given = [value.format(tenant=tenant) if isinstance(value, str) else value for value in parameters]
    plan = "\n".join(str(row[0]) for row in connection.execute(f"EXPLAIN {statement}", given))

    assert f" {index} " in plan, plan
    if index not in OPERATORS:
        condition = next(line for line in plan.splitlines() if "Index Cond" in line)
        assert "tenant_id" in condition


def test_documents_are_written_through_their_key(connections: dict[bool, psycopg.Connection]) -> None:
    connection = connections[False]
    connection.execute(
        "SELECT set_config('app.tenant_id', %s, true), set_config('app.action_id', 'x', true)", (str(uuid4()),)
    )
    connection.execute("SET LOCAL enable_seqscan = off")

    plan = connection.execute(f"EXPLAIN {DOCUMENTS.delete}", (uuid4(), "notes", "1", 1)).fetchall()

    assert any("ae_documents_pkey" in line for (line,) in plan)
