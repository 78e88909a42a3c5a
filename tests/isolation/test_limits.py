"""The limits of isolation: what SQL in a handler can do to its own tenant, and see of others.

None of it shows a row of another tenant. The security page of the documentation lists the same limits.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from returns.result import Failure

from actionengine.storage.sql.protection import protection
from tests.isolation.harness import SQLHarness


@pytest.fixture
def role_settings(signed: SQLHarness) -> Iterator[None]:
    """Reset the settings of the app role in the database after the test."""
    yield
    ((name,),) = signed.query("SELECT current_database()")
    with psycopg.connect(signed.superuser_url, autocommit=True) as connection:
        connection.execute(f'ALTER ROLE app IN DATABASE "{name}" RESET ALL'.encode())
    signed.disconnect()


def test_sql_can_forge_log_rows_and_events_of_its_own_tenant(signed: SQLHarness) -> None:
    attacker = signed.new_party("initech")

    signed.attack(
        (
            "INSERT INTO ae_action_log"
            " (tenant_id, id, actor_type, actor_id, source, action, subjects, outcome, started_at, latency)"
            " VALUES ('ATTACKER', gen_random_uuid(), 'human', 'boss', 'http', 'x.y', '[]', 'succeeded', now(), 0)",
            "INSERT INTO ae_events (tenant_id, id, type, payload, action, action_id, occurred_at, version)"
            " VALUES ('ATTACKER', gen_random_uuid(), 'forged', '{}', 'x.y', gen_random_uuid(), now(), 1)",
        ),
        by=attacker,
    )

    assert signed.query("SELECT action FROM ae_action_log WHERE tenant_id = %s AND actor_id = 'boss'", attacker.id) == [
        ("x.y",)
    ]
    assert signed.query("SELECT type FROM ae_events WHERE tenant_id = %s AND type = 'forged'", attacker.id) == [
        ("forged",)
    ]


def test_sql_can_change_roles_and_approvals_of_its_own_tenant(signed: SQLHarness) -> None:
    attacker = signed.new_party("initech")

    signed.attack(
        ("INSERT INTO ae_documents VALUES ('ATTACKER', 'ae_roles', 'boss', 1, '{}', now(), now())",), by=attacker
    )

    assert signed.query(
        "SELECT id FROM ae_documents WHERE tenant_id = %s AND collection = 'ae_roles'", attacker.id
    ) == [("boss",)]


def test_sql_can_commit_before_its_action_fails(signed: SQLHarness) -> None:
    attacker = signed.new_party("initech")

    signed.attack(("INSERT INTO host_notes VALUES ('ATTACKER', 'kept', 'x')", "COMMIT"), by=attacker, ending="fail")

    assert signed.query("SELECT id FROM host_notes WHERE tenant_id = %s ORDER BY id", attacker.id) == [
        ("first",),
        ("kept",),
    ]


def test_an_action_whose_sql_ended_its_transaction_fails(signed: SQLHarness) -> None:
    attacker = signed.new_party("initech")
    signed.attack(("COMMIT",), by=attacker)

    ((outcome,),) = signed.query(
        "SELECT outcome FROM ae_action_log WHERE tenant_id = %s AND action = 'test.sabotage'", attacker.id
    )

    assert outcome == "failed"


def test_sql_sees_statements_of_others_without_parameters(signed: SQLHarness) -> None:
    with psycopg.connect(signed.database.app_url, autocommit=True) as somebody:
        somebody.execute("SELECT %s::text, 'a literal'", ("a parameter",))

        loot = signed.attack(("SELECT query FROM pg_stat_activity",))

    assert "'a literal'" in loot
    assert "a parameter" not in loot


def test_sql_can_tell_how_many_events_all_tenants_have_had(signed: SQLHarness) -> None:
    ((number,),) = signed.query("SELECT max(position) FROM ae_events")

    loot = signed.attack(("SELECT last_value FROM ae_event_position",))

    assert loot.seen == [f"[{number}]"]


def test_sql_can_give_its_own_event_any_position(signed: SQLHarness) -> None:
    ((position,),) = signed.query("SELECT max(position) FROM ae_events WHERE tenant_id = %s", signed.victim.id)
    attacker = signed.new_party("initech")

    signed.attack(
        (
            "INSERT INTO ae_events (tenant_id, position, id, type, payload, action, action_id, occurred_at, version)"
            f" OVERRIDING SYSTEM VALUE VALUES ('ATTACKER', {position}, gen_random_uuid(), 'forged', '{{}}', 'x.y',"
            " gen_random_uuid(), now(), 1)",
            f"INSERT INTO ae_outbox (tenant_id, position, lane) VALUES ('ATTACKER', {position}, 1)",
        ),
        by=attacker,
    )

    assert signed.query("SELECT type FROM ae_events WHERE tenant_id = %s AND position = %s", attacker.id, position) == [
        ("forged",)
    ]


def test_sql_can_block_the_event_log_during_its_transaction(signed: SQLHarness) -> None:
    victim = signed.victim.tenant
    with psycopg.connect(signed.database.app_url) as somebody:
        somebody.execute("SELECT pg_advisory_xact_lock_shared(1634034944::bigint << 32)")
        held_back = signed.storage.read_events(victim)
    afterwards = signed.storage.read_events(victim)

    assert held_back == []
    assert afterwards != []


def test_a_unique_column_of_the_host_leaks_across_tenants(signed: SQLHarness) -> None:
    with psycopg.connect(signed.database.owner_url) as owner:
        owner.execute("CREATE TABLE host_tags (tenant_id uuid, name text UNIQUE)")
        for statement in protection("host_tags", "postgresql", app_role="app"):
            owner.execute(statement.encode())
    for party in (signed.victim, signed.attacker):
        loot = signed.attack(("INSERT INTO host_tags VALUES ('ATTACKER', 'taken')",), by=party)

    assert "duplicate key value" in loot


def test_sql_can_read_large_objects_whoever_wrote_them(signed: SQLHarness) -> None:
    signed.attack(("SELECT lo_from_bytea(0, 'of one')",))

    loot = signed.attack(
        ("SELECT convert_from(lo_get(oid), 'UTF8') FROM pg_largeobject_metadata",), by=signed.new_party("initech")
    )

    assert "of one" in loot


def test_sql_can_end_the_sessions_of_the_same_role(signed: SQLHarness) -> None:
    with psycopg.connect(signed.database.app_url, autocommit=True) as somebody:
        signed.attack((f"SELECT pg_terminate_backend({somebody.info.backend_pid}, 1000)",))

        with pytest.raises(psycopg.OperationalError):
            somebody.execute("SELECT 1")


def test_sql_can_choose_what_random_gives_in_the_same_connection(signed: SQLHarness) -> None:
    signed.attack(("SELECT setseed(0.5)",))
    first = signed.attack(("SELECT random()",), by=signed.victim).seen
    signed.attack(("SELECT setseed(0.5)",))
    second = signed.attack(("SELECT random()",), by=signed.victim).seen

    assert first == second


def test_sql_can_lock_documents_until_its_transaction_ends(signed: SQLHarness) -> None:
    loot = signed.attack(("LOCK TABLE ae_documents IN ACCESS EXCLUSIVE MODE",), ending="fail")

    assert loot.errors == []


@pytest.mark.usefixtures("role_settings")
def test_sql_that_commits_can_change_settings_of_its_role(signed: SQLHarness) -> None:
    alter = """
    DO $$ BEGIN
        EXECUTE format('ALTER ROLE app IN DATABASE %I SET default_transaction_read_only = on', current_database());
    END $$
    """
    attacker = signed.new_party("initech")

    loot = signed.attack((alter, "COMMIT", "BEGIN"), by=attacker)
    signed.disconnect()
    answer = signed.execute(signed.victim, "work_plainly", {"id": "x", "marker": "x"})

    assert loot.errors == []
    assert isinstance(answer, Failure)
