"""The app role at a prompt, past the engine: it reads what its settings allow, and writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.errors import DatabaseError, InsufficientPrivilege

from actionengine.storage.sql.signing import Signer
from tests.isolation.harness import GUARDED, HOST_TABLE, KEY, Party, SQLHarness

LOG = ("ae_action_log", "ae_action_log_subjects", "ae_action_log_principals", "ae_action_log_words")
APPEND_ONLY = (*LOG, "ae_events", "ae_change_targets", "ae_snapshots")
CHANGES = ("UPDATE {table} SET tenant_id = tenant_id", "DELETE FROM {table}", "TRUNCATE {table} CASCADE")

OPEN = "SELECT set_config('app.signature', public.ae_open(%s, %s, 'w', %s), false)"

Settings = dict[str, str]


@contextmanager
def prompt(url: str, settings: Settings | None = None) -> Iterator[psycopg.Connection[Any]]:
    """Open a session with these settings; its transaction is rolled back. A signature of the host opens it."""
    with psycopg.connect(url) as connection:
        for name, value in (settings or {}).items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        if settings is not None and "app.signature" in settings:
            context = [settings[name] for name in ("app.tenant_id", "app.action_id", "app.signature")]
            connection.execute(OPEN, context)
        yield connection
        connection.rollback()


def insertions(party: Party) -> dict[str, str]:
    """A possible row of a tenant in each table."""
    return {
        "ae_documents": f"INSERT INTO ae_documents VALUES ('{party.id}', 'notes', 'x', 1, '{{}}', now(), now())",
        "ae_document_keys": f"INSERT INTO ae_document_keys VALUES ('{party.id}', 'ae_roles', 'x', 'x')",
        "ae_idempotency_keys": f"INSERT INTO ae_idempotency_keys VALUES ('{party.id}', 'test.work', 'x', 'f')",
        "ae_budget_counters": f"INSERT INTO ae_budget_counters VALUES ('{party.id}', 'calls', 'x', 1, now())",
        "ae_action_log": "INSERT INTO ae_action_log"
        " (tenant_id, id, source, action, subjects, outcome, started_at, latency)"
        f" VALUES ('{party.id}', gen_random_uuid(), 'psql', 'test.work', '[]', 'succeeded', now(), 0)",
        "ae_action_log_subjects": f"INSERT INTO ae_action_log_subjects VALUES ('{party.id}', 'x', gen_random_uuid())",
        "ae_action_log_principals": "INSERT INTO ae_action_log_principals"
        f" VALUES ('{party.id}', 'x', gen_random_uuid())",
        "ae_action_log_words": f"INSERT INTO ae_action_log_words VALUES ('{party.id}', 'x', gen_random_uuid())",
        "ae_events": "INSERT INTO ae_events (tenant_id, id, type, payload, action, action_id, occurred_at)"
        f" VALUES ('{party.id}', gen_random_uuid(), 'worked', '{{}}', 'test.work', gen_random_uuid(), now())",
        "ae_outbox": f"INSERT INTO ae_outbox VALUES ('{party.id}', 1000000)",
        "ae_projects": f"INSERT INTO ae_projects VALUES ('{party.id}', 'x', 'x', NULL, false, now())",
        "ae_record_types": f"INSERT INTO ae_record_types VALUES ('{party.id}', 'x', 'p', 'x', 'x', NULL, NULL,"
        """ '{"fields": []}', '{"fields": []}', 1, 'draft', NULL, now(), now())""",
        "ae_changes": f"INSERT INTO ae_changes VALUES"
        f" ('{party.id}', 'x', 'p', 'x', NULL, 'Draft', NULL, 0, now(), now(), NULL)",
        "ae_change_targets": f"INSERT INTO ae_change_targets VALUES ('{party.id}', 'x', 'c', 'p', 'file',"
        """ '{"file_path": "x"}', now())""",
        "ae_patch_ops": "INSERT INTO ae_patch_ops VALUES"
        f" ('{party.id}', 'x', 'c', 'p', '{party.marker}', 2, 'remove_field', '{{}}', 'task', 'x', NULL, 1,"
        " NULL, NULL, NULL, now())",
        "ae_snapshots": f"INSERT INTO ae_snapshots VALUES ('{party.id}', 'c', 'task', 'p', 2, '{{}}', now())",
        HOST_TABLE: f"INSERT INTO host_notes VALUES ('{party.id}', 'x', 'x')",
    }


def signed_settings(harness: SQLHarness, party: Party, action_id: str) -> Settings:
    """Return the settings of the engine itself."""
    settings = {"app.tenant_id": party.id, "app.action_id": action_id}
    if harness.is_signed:
        settings["app.signature"] = Signer(KEY).context("w", party.id, action_id)
    return settings


def no_tenant(harness: SQLHarness, party: Party) -> Settings:
    return {}


def an_empty_tenant(harness: SQLHarness, party: Party) -> Settings:
    return {"app.tenant_id": "", "app.action_id": "x"}


def an_action_without_a_tenant(harness: SQLHarness, party: Party) -> Settings:
    return {"app.action_id": "x"}


def a_tenant_that_does_not_exist(harness: SQLHarness, party: Party) -> Settings:
    return {"app.tenant_id": "00000000-0000-0000-0000-000000000000", "app.action_id": "x"}


def a_tenant_without_an_action(harness: SQLHarness, party: Party) -> Settings:
    return signed_settings(harness, party, "")


NOBODY = [no_tenant, an_empty_tenant, an_action_without_a_tenant, a_tenant_that_does_not_exist]


@pytest.mark.parametrize("settings", NOBODY)
def test_nobody_sees_nothing(harness: SQLHarness, settings: Callable[[SQLHarness, Party], Settings]) -> None:
    with prompt(harness.database.app_url, settings(harness, harness.victim)) as connection:
        seen = {table: connection.execute(f"SELECT * FROM {table}".encode()).fetchall() for table in GUARDED}

    assert seen == {table: [] for table in GUARDED}


@pytest.mark.parametrize("settings", [*NOBODY, a_tenant_without_an_action])
def test_outside_an_action_nothing_is_inserted(
    harness: SQLHarness, settings: Callable[[SQLHarness, Party], Settings]
) -> None:
    with prompt(harness.database.app_url, settings(harness, harness.victim)) as connection:
        new = insertions(harness.victim)
        assert list(new) == list(GUARDED)
        for insertion in new.values():
            with pytest.raises(DatabaseError) as refusal, connection.transaction():
                connection.execute(insertion.encode())

            assert refusal.value.sqlstate in {InsufficientPrivilege.sqlstate, "AE001"}


@pytest.mark.parametrize("settings", [*NOBODY, a_tenant_without_an_action])
def test_outside_an_action_nothing_is_changed(
    harness: SQLHarness, settings: Callable[[SQLHarness, Party], Settings]
) -> None:
    with prompt(harness.database.app_url, settings(harness, harness.victim)) as connection:
        changed = [
            connection.execute(statement).rowcount
            for statement in (
                "UPDATE ae_documents SET data = '{}'",
                "DELETE FROM ae_documents",
                "DELETE FROM ae_document_keys",
                "UPDATE ae_idempotency_keys SET result = ''",
                "UPDATE ae_budget_counters SET used = 0",
            )
        ]

    assert changed == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("statement", ["UPDATE host_notes SET body = ''", "DELETE FROM host_notes"])
def test_outside_an_action_a_protected_table_says_where_to_go(harness: SQLHarness, statement: str) -> None:
    refusal = pytest.raises(DatabaseError, match="on host_notes outside an action: go through the engine")

    with prompt(harness.database.app_url, signed_settings(harness, harness.victim, "")) as connection, refusal:
        connection.execute(statement.encode())


def test_a_tenant_reads_its_own_rows(harness: SQLHarness) -> None:
    with prompt(harness.database.app_url, a_tenant_without_an_action(harness, harness.victim)) as connection:
        seen = {
            table: [row for (row,) in connection.execute(f"SELECT t::text FROM {table} t".encode())]
            for table in GUARDED
        }

    assert seen == harness.rows_of(harness.victim)
    assert all(seen.values())


def test_an_unsigned_tenant_reads_nothing(signed: SQLHarness) -> None:
    named = {"app.tenant_id": signed.victim.id, "app.action_id": "x"}

    with prompt(signed.database.app_url, named) as connection:
        found = [connection.execute(f"SELECT * FROM {table}".encode()).fetchall() for table in GUARDED]

    assert found == [[]] * len(GUARDED)


def test_a_signature_of_another_key_opens_nothing(signed: SQLHarness) -> None:
    forged = signed_settings(signed, signed.victim, "x")
    another = Signer("another key, just as long as the right one")
    forged["app.signature"] = another.context("w", signed.victim.id, "x")
    refusal = pytest.raises(DatabaseError, match="the signature of this transaction's context is missing or wrong")

    with refusal as refused, prompt(signed.database.app_url, forged):
        pass

    assert refused.value.sqlstate == "AE003"


@pytest.mark.parametrize(
    ("mode", "tenant", "action"),
    [("r", "VICTIM", "x"), ("w", "ATTACKER", "x"), ("w", "VICTIM", "y"), ("w", "VICTIM", ""), ("w", "VICTIM|x", "")],
)
def test_a_hosts_signature_is_for_one_mode_tenant_and_action(
    signed: SQLHarness, mode: str, tenant: str, action: str
) -> None:
    tenant = tenant.replace("VICTIM", signed.victim.id).replace("ATTACKER", signed.attacker.id)
    signature = Signer(KEY).context("w", signed.victim.id, "x")

    with prompt(signed.database.app_url) as connection, pytest.raises(DatabaseError, match="missing or wrong"):
        connection.execute("SELECT public.ae_open(%s, %s, %s, %s)", (tenant, action, mode, signature))


def test_a_hosts_signature_as_such_is_nobodys(signed: SQLHarness) -> None:
    signature = Signer(KEY).context("w", signed.victim.id, "x")
    settings = {"tenant_id": signed.victim.id, "action_id": "x"}

    with prompt(signed.database.app_url) as connection:
        for name, value in settings.items():
            connection.execute("SELECT set_config(%s, %s, false)", (f"app.{name}", value))
        for given in (signature, f"w{signature}", f"r{signature}"):
            connection.execute("SELECT set_config('app.signature', %s, false)", (given,))
            assert connection.execute("SELECT public.ae_tenant()").fetchall() == [(None,)]


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_the_app_role_has_no_grant_to_change_what_is_append_only(harness: SQLHarness, table: str) -> None:
    with prompt(harness.database.app_url, signed_settings(harness, harness.victim, "x")) as connection:
        for change in CHANGES:
            refusal = pytest.raises(InsufficientPrivilege, match="permission denied for table")
            with refusal, connection.transaction():
                connection.execute(change.format(table=table).encode())


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_a_trigger_keeps_append_only_rows_from_the_owner(harness: SQLHarness, table: str) -> None:
    with prompt(harness.database.owner_url, signed_settings(harness, harness.victim, "x")) as connection:
        for change in CHANGES:
            with pytest.raises(DatabaseError, match="it is append-only") as refusal, connection.transaction():
                connection.execute(change.format(table=table).encode())

            assert refusal.value.sqlstate == "AE002"


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO ae_action_log SELECT * FROM ae_action_log ON CONFLICT (tenant_id, id) DO UPDATE SET action = 'x'",
        "MERGE INTO ae_action_log l USING ae_action_log o ON l.id = o.id WHEN MATCHED THEN DELETE",
        "WITH gone AS (DELETE FROM ae_action_log RETURNING *) SELECT * FROM gone",
        "TRUNCATE ae_documents, ae_action_log",
    ],
)
@pytest.mark.parametrize("who", ["app", "owner"])
def test_the_log_is_not_changed_in_roundabout_ways_either(harness: SQLHarness, change: str, who: str) -> None:
    url = harness.database.app_url if who == "app" else harness.database.owner_url

    with prompt(url, signed_settings(harness, harness.victim, "x")) as connection, pytest.raises(DatabaseError):
        connection.execute(change.encode())


def test_the_owner_is_bound_by_row_level_security_too(harness: SQLHarness) -> None:
    with prompt(harness.database.owner_url) as connection:
        seen = [table for table in GUARDED if connection.execute(f"SELECT FROM {table}".encode()).rowcount > 0]

    # Functions of the owner purge expired keys, deliver events, and count pending approvals.
    assert seen == ["ae_document_keys", "ae_idempotency_keys", "ae_budget_counters", "ae_events", "ae_outbox"]


@pytest.mark.parametrize("table", ["ae_tenants", "ae_signing_keys", "ae_migrations"])
def test_what_is_the_owners_alone_is_not_for_the_app_role(harness: SQLHarness, table: str) -> None:
    with prompt(harness.database.app_url, signed_settings(harness, harness.victim, "x")) as connection:
        for statement in ("SELECT FROM {}", "INSERT INTO {} DEFAULT VALUES", "DELETE FROM {}", "COPY {} TO STDOUT"):
            refusal = pytest.raises(InsufficientPrivilege, match="permission denied for table")
            with refusal, connection.transaction():
                connection.execute(statement.format(table).encode())


def test_a_role_without_grants_gets_nowhere(harness: SQLHarness) -> None:
    with prompt(harness.superuser_url) as connection:
        connection.execute("CREATE ROLE stranger")
        connection.execute("SET ROLE stranger")
        for table in (*GUARDED, "ae_tenants", "ae_signing_keys", "ae_schema"):
            with pytest.raises(InsufficientPrivilege), connection.transaction():
                connection.execute(f"SELECT FROM {table}".encode())
        for call in ("ae_list_tenants(NULL)", "ae_find_tenant('x', NULL)", "ae_purge_keys(1, NULL)"):
            with pytest.raises(InsufficientPrivilege), connection.transaction():
                connection.execute(f"SELECT {call}".encode())


def test_a_tenant_that_is_no_uuid_is_nobody(harness: SQLHarness) -> None:
    with prompt(harness.database.app_url, {"app.tenant_id": "x' OR true --", "app.action_id": "x"}) as connection:
        try:
            rows = connection.execute("SELECT * FROM ae_documents").fetchall()
        except psycopg.DataError:
            rows = []

    assert rows == []
