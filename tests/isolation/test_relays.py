"""The outbox as tenants use it, and as a relay with its own role uses it."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from examples.embedded_postgres import APP_ROLE, Database, make_role
from returns.result import Success
from sqlalchemy import create_engine, make_url

from actionengine import (
    Actor,
    CallbackPublisher,
    Event,
    PostgresStorage,
    PublishError,
    Relay,
    RequestContext,
    StorageError,
    Tenant,
    create_action,
    create_service,
)
from actionengine import create_engine as create_action_engine
from actionengine.storage.sql.migrations import sign, upgrade
from tests.isolation.harness import KEY, MODES, Mode, SQLHarness


@pytest.mark.parametrize("mode", MODES)
def test_a_handlers_own_sql_sees_its_own_tenants_outbox_only(harness: SQLHarness, mode: Mode) -> None:
    loot = harness.attack(["SELECT tenant_id FROM public.ae_outbox"], mode=mode)

    assert any(harness.attacker.id in row for row in loot.seen)
    assert not any(harness.victim.id in row for row in loot.seen)


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM public.ae_outbox",
        "UPDATE public.ae_outbox SET dead_at = now()",
        "UPDATE public.ae_outbox SET skipped = true WHERE tenant_id = 'ATTACKER'",
        "TRUNCATE public.ae_outbox",
        "INSERT INTO public.ae_outbox (tenant_id, position, lane) VALUES ('VICTIM', 1000000, 1)",
        "DELETE FROM public.ae_relays",
    ],
)
def test_a_handlers_own_sql_takes_nothing_out_of_the_outbox(harness: SQLHarness, change: str) -> None:
    with harness.untouched(harness.victim):
        before = harness.numbers_of(harness.attacker)["ae_outbox"]
        loot = harness.attack([change])

    assert loot.errors
    assert harness.numbers_of(harness.attacker)["ae_outbox"] >= before


@pytest.mark.parametrize(
    "call", ["ae_tenant_redrive('{{{}}}', 'events')", "ae_tenant_skip('{{{}}}', 'mine', 'events')"]
)
def test_a_handlers_own_sql_decides_about_its_own_letters_only(harness: SQLHarness, call: str) -> None:
    harness.work(harness.victim, f"dead-{uuid4()}")
    with PostgresStorage(harness.database.app_url, signing_key=KEY if harness.is_signed else None) as storage:
        Relay(storage, CallbackPublisher(_refuse)).drain()
        letter = next(
            each.event.id
            for each in Relay(storage, CallbackPublisher(_refuse)).dead_letters(limit=1000)
            if each.event.tenant_id == harness.victim.tenant.id and not each.skipped
        )

    with harness.untouched(harness.victim):
        loot = harness.attack([f"SELECT id FROM public.{call.format(letter)} AS id"])

    assert not any(letter in str(row) for row in loot.seen)
    with psycopg.connect(harness.database.app_url) as connection:
        # Without an action there is no tenant to decide for.
        assert connection.execute(f"SELECT count(*) FROM public.{call.format(letter)}".encode()).fetchone() == (0,)
    with PostgresStorage(harness.database.app_url, signing_key=KEY if harness.is_signed else None) as storage:
        relay = Relay(storage, CallbackPublisher(lambda event: None))
        assert relay.redrive([letter]) == 1
        relay.redrive()
        relay.drain()


def _refuse(event: Event) -> None:
    raise PublishError("no route", retry=False)


def test_what_is_no_event_keeps_no_relay_from_its_work(harness: SQLHarness) -> None:
    rows = ", ".join(f"('ATTACKER', -{number}, {number})" for number in range(1, 65))
    harness.attack([f"INSERT INTO public.ae_outbox (tenant_id, position, lane) VALUES {rows}"])
    harness.work(harness.victim, "after-the-flood")
    arrived: list[Event] = []

    with PostgresStorage(harness.database.app_url, signing_key=KEY if harness.is_signed else None) as storage:
        relay = Relay(storage, _into(arrived))
        for _ in range(10):
            relay.drain()
        assert relay.status().pending == 0

    assert any(event.tenant_id == harness.victim.tenant.id for event in arrived)


@pytest.fixture(params=["unsigned", "signed"])
def separated(
    request: pytest.FixtureRequest, fresh_postgres_database: Database, postgres_server: str
) -> Iterator[tuple[PostgresStorage, PostgresStorage]]:
    """The storages of a host and of a relay, each with a role that has only the rights that it needs."""
    is_signed = request.param == "signed"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        make_role(connection, "relay")
    owner = create_engine(make_url(fresh_postgres_database.owner_url).set(drivername="postgresql+psycopg"))
    with owner.begin() as connection:
        upgrade(connection, APP_ROLE, "relay")
        if is_signed:
            sign(connection, KEY)
    owner.dispose()
    key = KEY if is_signed else None
    relay_url = make_url(fresh_postgres_database.app_url).set(username="relay").render_as_string(hide_password=False)
    with (
        PostgresStorage(fresh_postgres_database.app_url, signing_key=key) as host,
        PostgresStorage(relay_url, signing_key=key) as relay,
    ):
        yield host, relay


def test_a_relay_with_its_own_role_delivers(separated: tuple[PostgresStorage, PostgresStorage]) -> None:
    host, own = separated
    _work(host)
    arrived: list[Event] = []

    assert Relay(own, _into(arrived)).drain() == 1
    assert [event.type for event in arrived] == ["work.idle"]


def test_the_role_of_a_relay_reads_no_table(separated: tuple[PostgresStorage, PostgresStorage]) -> None:
    host, own = separated
    tenant = _work(host)

    with pytest.raises(StorageError, match="permission denied"):
        own.read_events(tenant)
    with pytest.raises(StorageError, match="permission denied"):
        own.create_tenant(slug="globex", name="Globex")


def test_beside_it_the_role_of_hosts_cannot_do_what_a_relay_does(
    separated: tuple[PostgresStorage, PostgresStorage],
) -> None:
    host, _ = separated

    for forbidden in (Relay(host, _into([])).drain, Relay(host, _into([])).status, Relay(host, _into([])).redrive):
        with pytest.raises(StorageError, match=r"permission denied.*db upgrade --relay-role"):
            forbidden()


def _into(arrived: list[Event]) -> CallbackPublisher:
    return CallbackPublisher(arrived.append)


def _work(storage: PostgresStorage) -> Tenant:
    idle = create_action(name="idle", description="", handler=lambda data: Success(None))
    service = create_service(name="work", description="", actions=[idle])
    tenant = storage.create_tenant(slug="acme", name="Acme")
    request = RequestContext(tenant=tenant, actor=Actor.human("ann"))
    engine = create_action_engine(services=[service], storage=storage)
    assert isinstance(engine.execute_action("work", "idle", {}, request), Success)
    return tenant
