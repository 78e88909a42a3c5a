"""Code of a handler that runs at COMMIT, and a handler whose SQL commits: neither evades the library."""

from __future__ import annotations

import json
from collections.abc import Iterator

import psycopg
import pytest
from returns.result import Failure, Success

from tests.isolation.attacks import READ_ALL
from tests.isolation.commit_time import AT_COMMIT, BACK, BOMB, CUTS, HIJACK, KEEP, WRITE, boom
from tests.isolation.harness import MODES, Mode, SQLHarness
from tests.isolation.leftovers import HARVEST, REPLAY
from tests.isolation.test_leftovers import fresh_connections_after_a_failure, works


@pytest.fixture
def mode(harness: SQLHarness) -> Mode:
    """The mode of the attacker's handler: each database has one."""
    return "sync" if harness.is_signed else "async"


@pytest.fixture
def password(signed: SQLHarness) -> Iterator[list[tuple[str]]]:
    """The password of the app role, restored after the test."""
    query = "SELECT coalesce(rolpassword, '') FROM pg_authid WHERE rolname = 'app'"
    yield signed.query(query)
    with psycopg.connect(signed.superuser_url, autocommit=True) as connection:
        connection.execute("ALTER ROLE app PASSWORD NULL")


@pytest.mark.parametrize("script", AT_COMMIT.values(), ids=AT_COMMIT)
def test_code_that_waits_for_commit_reaches_no_other_tenant(
    harness: SQLHarness, script: tuple[str, ...], mode: Mode
) -> None:
    harness.reconnect(mode)
    attacker, victim = harness.new_party("initech"), harness.new_party("umbrella")
    before = harness.numbers_of(attacker)["ae_action_log"]
    password = harness.query("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'")

    with fresh_connections_after_a_failure(harness):
        loot = harness.attack(script, by=attacker, victim=victim, mode=mode)
        works(harness, victim, mode)
        harvest = harness.attack((REPLAY, *READ_ALL, *HARVEST), by=attacker, mode=mode, victim=victim)

        assert loot.errors == []
        assert isinstance(loot.answer, Success if script in HARMLESS else Failure)
        assert victim.marker not in harvest or not harness.is_signed
        # The attack and the harvest.
        assert harness.numbers_of(attacker)["ae_action_log"] == before + 2
    assert harness.query("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'") == password


HARMLESS = [
    AT_COMMIT[name]
    for name in (
        "a held cursor",
        "a trigger that declares a cursor",
        "a deferred trigger that shadows what the library asks",
    )
]
"""Code that never runs or has no effect: these actions succeed."""


def _has_run(harness: SQLHarness, tenant_id: str) -> bool:
    return harness.query("SELECT FROM host_notes WHERE tenant_id = %s AND id LIKE 'boom-%%'", tenant_id) != []


def test_a_harmless_trigger_runs_before_the_recording(harness: SQLHarness, mode: Mode) -> None:
    attacker = harness.new_party("initech")

    loot = harness.attack((boom("SELECT 1"), *BOMB), by=attacker, mode=mode)

    assert isinstance(loot.answer, Success)
    assert _has_run(harness, attacker.id)


def test_temporary_objects_of_a_handler_are_gone_when_it_is_over(harness: SQLHarness, mode: Mode) -> None:
    script = (
        "CREATE TEMP TABLE numbers (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
        "INSERT INTO numbers VALUES (1), (2)",
        "UPDATE numbers SET n = 3 - n",
        "DECLARE own CURSOR WITH HOLD FOR TABLE numbers",
    )

    loot = harness.attack(script, mode=mode)
    again = harness.attack(script, mode=mode)

    assert loot.errors == again.errors == []
    assert isinstance(loot.answer, Success)
    assert isinstance(again.answer, Success)


@pytest.mark.parametrize("mode", MODES)
def test_code_left_in_an_own_table_is_found_after_commit(signed: SQLHarness, mode: Mode) -> None:
    # A storage refuses to open with such a role; this one got the right later.
    signed.reconnect(mode)
    attacker, victim = signed.new_party("initech"), signed.new_party("umbrella")
    with psycopg.connect(signed.superuser_url, autocommit=True) as superuser:
        superuser.execute("CREATE SCHEMA hostile AUTHORIZATION app")
    again = (
        "IF NEW.x < 3 THEN SET CONSTRAINTS ALL DEFERRED; INSERT INTO hostile.bomb VALUES (NEW.x + 1); RETURN NULL;"
        " END IF;"
    )
    script = (
        boom(HIJACK, name="hostile.boom()", before=again),
        *(each.replace("TEMP TABLE bomb", "TABLE bomb").replace("bomb", "hostile.bomb") for each in BOMB[:1]),
        BOMB[1].replace("ON bomb", "ON hostile.bomb").replace("pg_temp.", "hostile."),
        "INSERT INTO hostile.bomb VALUES (1)",
    )
    try:
        with fresh_connections_after_a_failure(signed):
            signed.attack(script, by=attacker, victim=victim, mode=mode)
            works(signed, victim, mode)
            harvest = signed.attack((REPLAY, *READ_ALL, *HARVEST), by=attacker, mode=mode, victim=victim)
    finally:
        with psycopg.connect(signed.superuser_url, autocommit=True) as superuser:
            superuser.execute("DROP SCHEMA hostile CASCADE")

    assert victim.marker not in harvest


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_an_action_whose_sql_cuts_its_transaction_fails(harness: SQLHarness, cut: tuple[str, ...], mode: Mode) -> None:
    attacker, victim = harness.new_party("initech"), harness.new_party("umbrella")

    with fresh_connections_after_a_failure(harness):
        loot = harness.attack((KEEP, *cut, BACK, WRITE), by=attacker, mode=mode)
        works(harness, victim, mode)

        assert isinstance(loot.answer, Failure)
        assert "ended the transaction" in loot.answer.failure().message
        ((outcome, error),) = harness.query(
            "SELECT outcome, error::text FROM ae_action_log WHERE tenant_id = %s AND action LIKE 'test.sabotage%%'",
            attacker.id,
        )
        assert outcome == "failed"
        assert "ended the transaction" in json.loads(error)["message"]
        assert _written(harness, attacker.id) == []


@pytest.mark.parametrize("mode", ["async"])
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a_signature_is_worth_nothing_in_another_transaction(
    signed: SQLHarness, cut: tuple[str, ...], mode: Mode
) -> None:
    attacker = signed.new_party("initech")
    read = "SELECT count(*) FROM public.host_notes"

    loot = signed.attack((KEEP, *cut, BACK, read, WRITE, "COMMIT", BACK, WRITE), by=attacker, mode=mode)

    assert "[0]" in loot.seen
    assert "outside an action" in str(loot.errors)
    assert _written(signed, attacker.id) == []


@pytest.mark.parametrize(
    ("action", "mode"),
    [("spy", "sync"), ("spy", "async"), ("host_a_spy_after", "async"), ("host_a_spy_before", "sync")],
)
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a_read_only_action_writes_nothing_after_a_cut(
    signed: SQLHarness, cut: tuple[str, ...], action: str, mode: Mode
) -> None:
    attacker = signed.new_party("initech")

    loot = signed.attack(
        (WRITE, KEEP, *cut, BACK, WRITE, "COMMIT", "BEGIN READ WRITE", BACK, WRITE, "COMMIT"),
        by=attacker,
        mode=mode,
        action=action,
    )

    assert isinstance(loot.answer, Failure)
    assert _written(signed, attacker.id) == []


@pytest.mark.parametrize("savepoint", ["sa_savepoint_1", "ae_1", "hostile"])
@pytest.mark.parametrize("session", ["before", "after"])
def test_a_nested_read_only_action_cannot_roll_back_and_write(
    harness: SQLHarness, savepoint: str, session: str, mode: Mode
) -> None:
    attacker = harness.new_party("initech")

    loot = harness.attack(
        (f"ROLLBACK TO SAVEPOINT {savepoint}", WRITE, "SET LOCAL transaction_read_only = on"),
        by=attacker,
        mode=mode,
        action=f"host_a_spy_{session}",
    )

    assert isinstance(loot.answer, Failure) or "read-only transaction" in str(loot.errors)
    assert _written(harness, attacker.id) == []


def test_a_kept_signature_is_worth_nothing_elsewhere(signed: SQLHarness) -> None:
    attacker = signed.new_party("initech")
    loot = signed.attack(
        ("SELECT current_setting('app.action_id')", "SELECT current_setting('app.signature')"), by=attacker
    )
    action_id, signature = (seen.strip('"[]') for seen in loot.seen)

    with psycopg.connect(signed.database.app_url) as connection:
        for name, value in (("tenant_id", attacker.id), ("action_id", action_id), ("signature", signature)):
            connection.execute("SELECT set_config(%s, %s, false)", (f"app.{name}", value))
        rows = connection.execute("SELECT FROM ae_documents").fetchall()

    assert rows == []


ROLE_CHANGES = {
    "its password": "ALTER ROLE CURRENT_USER PASSWORD 'mine'",
    "in a block": "DO $$ BEGIN EXECUTE 'ALTER USER app PASSWORD ''mine'''; END $$",
    "what its sessions begin with": "ALTER ROLE app SET search_path = pg_temp, public",
    "in this database": "DO $$ BEGIN EXECUTE format('ALTER ROLE app IN DATABASE %I SET application_name = ''x''',"
    " current_database()); END $$",
}


@pytest.mark.parametrize("mode", ["sync"])
@pytest.mark.parametrize("change", ROLE_CHANGES.values(), ids=ROLE_CHANGES)
def test_sql_that_changes_its_role_fails_its_action(
    signed: SQLHarness, password: list[tuple[str]], change: str, mode: Mode
) -> None:
    attacker, victim = signed.new_party("initech"), signed.new_party("umbrella")
    settings = signed.query("SELECT count(*) FROM pg_db_role_setting")

    loot = signed.attack((change,), by=attacker, mode=mode)
    works(signed, victim, mode)
    failing = signed.attack((change,), by=attacker, mode=mode, ending="fail")
    third = signed.new_party("hooli")
    works(signed, third, mode)

    assert isinstance(loot.answer, Failure)
    assert "has changed a role" in loot.answer.failure().message
    assert failing.errors == []
    assert signed.query("SELECT coalesce(rolpassword, '') FROM pg_authid WHERE rolname = 'app'") == password
    assert signed.query("SELECT count(*) FROM pg_db_role_setting") == settings


@pytest.mark.parametrize("statement", ["ROLLBACK TO SAVEPOINT s", "rollback work to s", "ROLLBACK TRANSACTION TO s"])
def test_a_savepoint_is_the_handlers_own(signed: SQLHarness, statement: str) -> None:
    loot = signed.attack(("SAVEPOINT s", statement, "RELEASE SAVEPOINT s"))

    assert loot.errors == []
    assert isinstance(loot.answer, Success)


@pytest.mark.parametrize(
    "change", ["SET client_encoding = 'LATIN1'", "SELECT set_config('client_encoding', 'SJIS', true)"]
)
def test_sql_that_changes_the_encoding_garbles_no_log(harness: SQLHarness, change: str, mode: Mode) -> None:
    attacker, victim = harness.new_party("initech"), harness.new_party("umbrella")

    loot = harness.attack((change,), by=attacker, mode=mode)
    works(harness, victim, mode)

    assert isinstance(loot.answer, Failure)
    assert "client_encoding" in loot.answer.failure().message
    failed = "SELECT count(*) FROM ae_action_log WHERE tenant_id = %s AND outcome = 'failed' AND error::text LIKE %s"
    assert harness.query(failed, attacker.id, "%client_encoding%") == [(1,)]


def _written(harness: SQLHarness, tenant_id: str) -> list[tuple[str]]:
    return harness.query("SELECT body FROM host_notes WHERE tenant_id = %s AND id = 'after'", tenant_id)
