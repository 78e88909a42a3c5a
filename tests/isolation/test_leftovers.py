"""Leftovers of a handler's SQL in a pooled connection do not affect the next tenant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg
import pytest
from returns.result import Success
from sqlalchemy import create_engine, make_url

from actionengine import PostgresStorage
from tests.isolation.attacks import READ_ALL
from tests.isolation.harness import CHANGE_CONTROL, HOST_TABLE, KEY, MODES, Ending, Loot, Mode, Party, SQLHarness
from tests.isolation.leftovers import HARVEST, HIJACKED, LEFTOVERS, REPLAY


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Mode:
    """The mode of the attacker's handler."""
    mode: Mode = request.param
    return mode


@pytest.fixture
def fresh(signed: SQLHarness, mode: Mode) -> SQLHarness:
    """A harness with fresh connections."""
    signed.reconnect(mode)
    return signed


@pytest.fixture(scope="module", autouse=True)
def nobody_in_particular(postgres_server: str) -> Iterator[None]:
    """A role without rights that the app role may take on."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS nobody_in_particular")
        connection.execute("CREATE ROLE nobody_in_particular")
        connection.execute("GRANT nobody_in_particular TO app")
        yield
        connection.execute("DROP ROLE nobody_in_particular")


def works(harness: SQLHarness, party: Party, mode: Mode) -> None:
    """Check that the work of a tenant sees only its own rows, and is stored."""
    seen = harness.work(party, "second", mode, idempotency_key="second")
    assert set(seen["notes"]) == set(seen["bodies"]) == {party.marker}
    plainly = harness.execute(party, "work_plainly", {"id": "third", "marker": party.marker}, mode)
    assert plainly.unwrap() == [party.marker] * 3
    assert harness.numbers_of(party) == {
        "ae_documents": 3,
        "ae_document_keys": 1,
        "ae_idempotency_keys": 2,
        "ae_budget_counters": 1,
        "ae_action_log": 3,
        "ae_action_log_subjects": 5,
        "ae_action_log_principals": 3,
        "ae_action_log_words": 4,
        "ae_events": 3,
        "ae_outbox": 3,
        **dict.fromkeys(CHANGE_CONTROL, 1),
        "host_notes": 2,
    }


def has_replaced_something(loot: Loot, script: tuple[str, ...]) -> bool:
    """Return whether the attack found its target. A ROLLBACK is not always among the prepared statements."""
    targets = [notice for notice in loot.notices if "pg_prepared_statements" not in notice]
    return targets != [] or script == HIJACKED["ROLLBACK"]


@contextmanager
def fresh_connections_after_a_failure(harness: SQLHarness) -> Iterator[None]:
    """Reconnect after a failure, so that the tests of other attacks do not fail too."""
    try:
        yield
    except BaseException:
        harness.reconnect()
        raise


WAYS: list[list[tuple[Ending, Mode]]] = [
    [("succeed", "sync"), ("abort", "async")],
    [("fail", "async"), ("raise", "sync")],
]
EACH_SCRIPT = [
    pytest.param(script, WAYS[(number + rest) % 2], id=f"{name}{rest or ''}", marks=[pytest.mark.soak] * rest)
    for rest in (0, 1)
    for number, (name, script) in enumerate(LEFTOVERS.items())
]
"""Each script in both modes, with two of the endings, and with the other two in a soak."""


@pytest.mark.parametrize(("script", "ways"), EACH_SCRIPT)
def test_the_next_tenant_works_and_is_not_overheard(
    signed: SQLHarness, script: tuple[str, ...], ways: list[tuple[Ending, Mode]]
) -> None:
    for ending, mode in ways:
        victim = signed.new_party("umbrella")

        with fresh_connections_after_a_failure(signed):
            signed.attack(script, ending=ending, mode=mode, victim=victim)
            works(signed, victim, mode)
            harvest = signed.attack(HARVEST, mode=mode, victim=victim)

            assert victim.marker not in harvest, (ending, mode)


@pytest.mark.parametrize("script", HIJACKED.values(), ids=HIJACKED)
def test_prepared_statements_cannot_be_replaced(fresh: SQLHarness, script: tuple[str, ...], mode: Mode) -> None:
    ending: Ending = "succeed" if mode == "sync" else "fail"
    victim = fresh.new_party("umbrella")

    with fresh_connections_after_a_failure(fresh):
        loot = fresh.attack(script, ending=ending, mode=mode, victim=victim)
        works(fresh, victim, mode)
        harvest = fresh.attack((REPLAY, *READ_ALL, *HARVEST), mode=mode, victim=victim)

        assert victim.marker not in harvest
        assert victim.id not in harvest
        assert loot.errors == []
        assert has_replaced_something(loot, script)


@pytest.mark.parametrize("script", HIJACKED.values(), ids=HIJACKED)
def test_an_execution_is_logged_whatever_its_sql_replaced(
    fresh: SQLHarness, script: tuple[str, ...], mode: Mode
) -> None:
    attacker = fresh.new_party("initech")
    before = fresh.numbers_of(attacker)["ae_action_log"]

    with fresh_connections_after_a_failure(fresh):
        fresh.attack(script, by=attacker, mode=mode)

        assert fresh.numbers_of(attacker)["ae_action_log"] == before + 1


def test_a_failed_handler_is_undone_whatever_its_sql_replaced(fresh: SQLHarness, mode: Mode) -> None:
    attacker, next_one = fresh.new_party("initech"), fresh.new_party("umbrella")
    write = "INSERT INTO host_notes VALUES ('ATTACKER', 'kept', 'x')"

    with fresh_connections_after_a_failure(fresh):
        fresh.attack((write, *HIJACKED["ROLLBACK"]), by=attacker, ending="fail", mode=mode)
        works(fresh, next_one, mode)

        assert fresh.numbers_of(attacker)[HOST_TABLE] == 1


def test_shadowing_types_do_not_reach_prepared_statements(harness: SQLHarness, mode: Mode) -> None:
    victim = harness.new_party("umbrella")
    harness.disconnect()

    with fresh_connections_after_a_failure(harness):
        loot = harness.attack(LEFTOVERS["types that shadow the catalogue's"], mode=mode, victim=victim)
        works(harness, victim, mode)

        assert loot.errors == []


def test_the_event_log_is_complete_after_a_blocking_lock(harness: SQLHarness) -> None:
    harness.attack(LEFTOVERS["the lock that holds back the event log"])

    assert len(harness.storage.read_events(harness.victim.tenant)) == harness.numbers_of(harness.victim)["ae_events"]


def test_notifications_do_not_reach_a_listener_of_the_past(harness: SQLHarness) -> None:
    harness.attack(("LISTEN anything",))
    harness.query("SELECT pg_notify('anything', 'for others')")

    _, pooled = harness.storage.pools.take("sync")
    driver = pooled.driver_connection
    assert isinstance(driver, psycopg.Connection)
    heard = list(driver.notifies(timeout=0.05))
    pooled.close()

    assert heard == []


def test_advisory_locks_are_given_back(harness: SQLHarness) -> None:
    harness.attack(LEFTOVERS["advisory locks"])

    assert harness.query("SELECT pg_try_advisory_lock(42), pg_advisory_unlock(42)") == [(True, True)]


def test_a_connection_is_bare_between_two_executions(harness: SQLHarness) -> None:
    harness.reconnect()
    bare = state(harness)

    for script in LEFTOVERS.values():
        harness.attack(script)

        assert set(state(harness).items()) ^ set(bare.items()) == set()


STATE = """
SELECT name, setting FROM pg_settings WHERE name NOT LIKE 'plpgsql.%'
UNION ALL SELECT 'the session''s user', session_user || current_user
UNION ALL SELECT 'cursors', count(*)::text FROM pg_cursors
UNION ALL SELECT 'statements', count(*)::text FROM pg_prepared_statements WHERE from_sql
UNION ALL SELECT 'channels', count(*)::text FROM pg_listening_channels()
UNION ALL SELECT 'locks', count(*)::text FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()
UNION ALL SELECT 'tables', count(*)::text FROM pg_class WHERE relnamespace = pg_my_temp_schema()
UNION ALL SELECT 'functions', count(*)::text FROM pg_proc WHERE pronamespace = pg_my_temp_schema()
UNION ALL SELECT 'types', count(*)::text FROM pg_type WHERE typnamespace = pg_my_temp_schema()
UNION ALL SELECT 'app.' || name, nullif(current_setting('app.' || name, true), '')
FROM unnest(ARRAY['tenant_id', 'action_id', 'signature']) name
"""


def state(harness: SQLHarness) -> dict[str, str | None]:
    """Return the state of the connection in the pool."""
    _, pooled = harness.storage.pools.take("sync")
    try:
        driver = pooled.driver_connection
        assert isinstance(driver, psycopg.Connection)
        return dict(driver.execute(STATE, prepare=False).fetchall())
    finally:
        pooled.close()


def test_a_host_engine_survives_deallocated_statements(signed: SQLHarness) -> None:
    # The driver prepares a statement on its own after five runs.
    url = make_url(signed.database.app_url).set(drivername="postgresql+psycopg")
    engine = create_engine(url, pool_size=1, max_overflow=0)
    with closing(PostgresStorage(engine=engine, signing_key=KEY)) as storage, signed.served_by(storage):
        victim = signed.new_party("umbrella")
        for number in range(8):
            signed.work(victim, f"before-{number}")

        signed.attack(LEFTOVERS["the driver's statements gone"], victim=victim)
        answers = [
            signed.execute(victim, "work", {"id": f"after-{number}", "marker": victim.marker}) for number in range(3)
        ]
    engine.dispose()

    assert [type(answer) for answer in answers] == [Success] * 3
