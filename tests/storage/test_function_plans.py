"""The functions that relays and operators call on PostgreSQL use the indexes that are named here, with custom plans and
with generic ones: PostgreSQL counts the indexes that a call has used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from benchmarks.growth import filled, postgres_backends
from benchmarks.growth.backends import PostgresBackend, id_at
from benchmarks.postgres import Bench

from tests.growth import PLANS
from tests.waiting import wait_until

ROWS = 1100
"""Rows of each kind: on a table of a few rows, PostgreSQL uses no index."""

Calls = dict[str, tuple[str, str]]
"""Calls by name, each with its indexes without their `ae_`; `all of` a table is a scan."""

RELAYS = "all of ae_relays"
"""The number of relays in one day."""

RETURNS = "all of ae_outbox_returns"
"""A row for each queue."""

COUNTERS = """
INSERT INTO ae_budget_counters (tenant_id, budget, scope, used, expires_at)
SELECT %s, 'calls', 'human:' || number, 1, '2026-01-02'
FROM generate_series(1, %s) number
"""

LARGER = "UPDATE pg_class SET reltuples = reltuples * 100 WHERE relkind IN ('r', 'i') AND relname LIKE 'ae\\_%'"


@pytest.fixture(scope="module")
def backend(postgres_server: str) -> Iterator[PostgresBackend]:
    """A storage where held-back events are marked in one queue, and not yet in the others."""
    with postgres_backends([ROWS], Bench("", "", postgres_server)) as (found,):
        filled(found)
        # A connection reports its counts when it ends.
        found.storage.close()
        execute = found.superuser.execute
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        wait_until(lambda: execute(others).fetchone() == (0,))
        execute("UPDATE ae_outbox SET due_at = '2026-01-01' WHERE queue = 'triggers' AND due_at IS NOT NULL")
        execute("UPDATE ae_outbox SET held = true WHERE queue = 'triggers' AND lane = 1 AND due_at IS NULL")
        execute(COUNTERS, (found.tenant.id, ROWS))
        execute("VACUUM ANALYZE")
        execute(LARGER)
        yield found


@pytest.fixture(scope="module")
def calls(backend: PostgresBackend) -> Calls:
    def one(statement: str) -> Any:
        return backend.superuser.execute(statement.encode()).fetchone()

    (letter,) = one("SELECT event_id FROM ae_outbox WHERE dead_at IS NOT NULL AND lane = 1")
    tenant, first = one("SELECT tenant_id, position FROM ae_outbox WHERE queue = 'triggers' AND due_at IS NOT NULL")
    failed = {"tenant_id": str(tenant), "position": first, "reason": "no such luck", "retry_in": None, "counts": True}
    behind = json.dumps([{"partition": 1, "since": 0, "until": 10**9}])
    beat = json.dumps(
        {
            "id": id_at(1),
            "name": "n",
            "publisher": "p",
            "started_at": "2026-01-01",
            "seen_at": "2026-01-01",
            "delivered": 1,
            "failed": 0,
            "rate": 1.0,
            "error": None,
            "queue": "events",
        }
    )
    return {
        "a look": (
            "ae_outbox_take(500, 16, 'events', NULL, NULL)",
            f"events_pkey outbox_held outbox_pending outbox_unreleased, {RETURNS}",
        ),
        "a look that takes what has waited, and releases": (
            "ae_outbox_take(500, 64, 'triggers', NULL, NULL)",
            f"events_pkey outbox_held outbox_pending outbox_pkey outbox_unreleased, {RETURNS}",
        ),
        "a settlement that marks": (
            f"ae_outbox_settle('{{}}', '{{}}', '[]', '{behind}', 'events', NULL)",
            "outbox_held outbox_pending outbox_pkey",
        ),
        "a settlement that releases": (
            f"ae_outbox_settle('{{{tenant}}}', '{{{first}}}', '[]', '[]', 'triggers', NULL)",
            "outbox_held outbox_pkey",
        ),
        "a settlement of a dead letter": (
            f"ae_outbox_settle('{{}}', '{{}}', '{json.dumps([failed])}', '[]', 'triggers', NULL)",
            "events_pkey outbox_pkey",
        ),
        "a wait": ("ae_outbox_next('triggers', NULL, NULL)", f"outbox_held outbox_pending, {RETURNS}"),
        "a wait for what is due later": (
            "ae_outbox_next('nothing', NULL, NULL)",
            f"outbox_pending outbox_waiting, {RETURNS}",
        ),
        "the status": (
            "ae_relay_status('events', NULL)",
            "events_pkey outbox_behind outbox_pending outbox_skipped outbox_unskipped outbox_waiting, "
            f"{RETURNS}, {RELAYS}",
        ),
        "dead letters": ("ae_dead_letters(NULL, 20, 'events', NULL)", "events_pkey outbox_dead"),
        "the next dead letters": (f"ae_dead_letters('{letter}', 20, 'events', NULL)", "events_pkey outbox_dead"),
        "a redrive": (f"ae_redrive('{{{letter}}}', 'events', NULL)", f"outbox_dead outbox_held, {RETURNS}"),
        "a redrive of all": (
            "ae_redrive(NULL, 'events', NULL)",
            f"events_pkey outbox_held outbox_unskipped, {RETURNS}",
        ),
        "a skip": (f"ae_skip('{{{letter}}}', 'no', 'events', NULL)", f"outbox_dead outbox_held, {RETURNS}"),
        "a tenant's outbox": (
            "ae_tenant_outbox()",
            "events_pkey outbox_pkey outbox_skipped outbox_tenant_behind outbox_tenant_waiting outbox_unskipped",
        ),
        "a tenant's dead letters": (
            "ae_tenant_dead_letters('00000000-0000-0000-0000-000000000000', 20, 'events', true)",
            "events_pkey outbox_skipped outbox_unskipped",
        ),
        "a tenant's redrive": (f"ae_tenant_redrive('{{{letter}}}', 'events')", "outbox_dead outbox_held outbox_pkey"),
        "a tenant's skip": (f"ae_tenant_skip('{{{letter}}}', 'no', 'events')", "outbox_dead outbox_held outbox_pkey"),
        "a tenant's return": ("ae_tenant_return('events')", f", {RETURNS}"),
        "a first beat": (f"ae_relay_heartbeat('{beat}', NULL)", f"relays_pkey, {RELAYS}"),
        "a purge of keys": ("ae_purge_keys(20, NULL)", "budget_counters_expiry idempotency_keys_expiry"),
        "a purge that goes on": (
            "ae_purge_keys(20, NULL, now() - interval '1 day')",
            "budget_counters_expiry idempotency_keys_expiry",
        ),
        "a page of tenants": ("ae_list_tenants(NULL, 'n', 20)", "tenants_open"),
        "a tenant": ("ae_find_tenant('other', NULL)", "tenants_slug"),
        "a new tenant": (f"ae_create_tenant('{id_at(1)}', 'brand-new', 'New', NULL)", "tenants_pkey"),
        "the end of a tenant": ("ae_delete_tenant('other', NULL)", "tenants_slug"),
        "whether a tenant is deleted": (f"ae_is_deleted('{id_at(1)}')", "tenants_pkey"),
    }


def used_by(backend: PostgresBackend, call: str, plans: str) -> set[str]:
    """Return the indexes that a call uses, and the tables that it scans. Its effects are undone."""
    backend.superuser.execute("SELECT pg_stat_force_next_flush()")
    with psycopg.connect(backend.app_url, options=f"-c plan_cache_mode={plans}") as connection:
        before = counters(backend)
        tenant = str(backend.other_tenant.id)
        connection.execute(
            "SELECT set_config('app.tenant_id', %s, true), set_config('app.action_id', 'x', true)", (tenant,)
        )
        connection.execute(call.encode())
        connection.rollback()
        connection.execute("SELECT pg_stat_force_next_flush()")
        connection.rollback()
        after = counters(backend)
    return {name for name, number in after.items() if number > before[name]}


def counters(backend: PostgresBackend) -> dict[str, int]:
    statement = """
        SELECT indexrelname, idx_scan FROM pg_stat_user_indexes WHERE relname LIKE 'ae\\_%'
        UNION ALL
        SELECT 'all of ' || relname, seq_scan FROM pg_stat_user_tables WHERE relname LIKE 'ae\\_%'
    """
    return dict(backend.superuser.execute(statement).fetchall())


@pytest.mark.parametrize("plans", PLANS)
def test_each_call_uses_the_indexes_that_are_named(backend: PostgresBackend, calls: Calls, plans: str) -> None:
    used = {name: used_by(backend, f"SELECT public.{call}", plans) for name, (call, _) in calls.items()}

    assert used == {name: indexes_of(named) for name, (_, named) in calls.items()}


def indexes_of(named: str) -> set[str]:
    indexes, *tables = named.split(", ")
    return {f"ae_{name}" for name in indexes.split()} | set(tables)
