"""Counting and listing read only what they return: counted in calls in memory, in reads on databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from benchmarks.growth import postgres_backends
from benchmarks.growth.backends import Backend, PostgresBackend, id_at, sqlite_backend_of_size, time_of
from benchmarks.postgres import Bench

from actionengine import InMemoryStorage, Tenant
from actionengine.cli.common import counted
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.memory import outbox as memory_outbox
from actionengine.storage.rows import Claim, IdempotentResult, Recording, StoredEvent
from actionengine.storage.tables import CHANGES, RECORD_TYPES
from actionengine.testing.backend import make_tenant
from actionengine.testing.outbox import LEASE, failed_delivery
from actionengine.testing.rows import event_row, result
from actionengine.testing.tables import change, record_type
from tests.backends import AnyStorage
from tests.growth import count
from tests.storage.inside import unit_of

FEW, MANY = 100, 1600


@pytest.fixture
def postgres(postgres_server: str) -> Iterator[PostgresBackend]:
    with postgres_backends([1], Bench("", "", postgres_server)) as (backend,):
        yield backend


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "sqlite":
        with sqlite_backend_of_size(1) as file:
            yield file
    else:
        yield request.getfixturevalue("postgres")


Fill = Callable[[InMemoryStorage, Tenant, int], None]
Ask = Callable[[InMemoryStorage, Tenant], object]


def calls(fill: Fill, ask: Ask) -> None:
    """Assert that a question costs as many calls with few rows as with many."""

    def counted_with(number: int) -> int:
        storage = InMemoryStorage()
        tenant = storage.create_tenant(slug="acme", name="Acme")
        fill(storage, tenant, number)
        return count(storage, tenant, lambda: ask(storage, tenant))["calls"]

    assert counted_with(MANY) <= counted_with(FEW) + 20


def write(storage: Any, tenant: Tenant, **recorded: Any) -> None:
    unit = storage.unit_of_work(tenant, str(uuid4()), "sync")
    for each in recorded.get("results", ()):
        run_sync(unit.claim(each.claim, 0.0))
    run_sync(unit.record(Recording(recorded.get("log", ()), recorded.get("events", ()), recorded.get("results", ()))))
    run_sync(unit.commit())


def tenants(storage: InMemoryStorage, tenant: Tenant, number: int) -> None:
    for each in range(number):
        storage.create_tenant(slug=f"t-{each:05}", name="T")
        if each % 2:
            storage.delete_tenant(slug=f"t-{each:05}")


def dead_letters(storage: InMemoryStorage, tenant: Tenant, number: int) -> None:
    write(storage, tenant, events=[event_row(tenant, subject=f"s/{each % 50}") for each in range(number)])
    outbox = storage.outbox("sync")
    batch = run_sync(outbox.take(number, LEASE))
    first = {pending.event.subject: pending for pending in reversed(batch)}
    run_sync(outbox.settle((), [failed_delivery(pending, None) for pending in first.values()]))


def used_keys(storage: InMemoryStorage, tenant: Tenant, number: int) -> None:
    write(storage, tenant, results=[result(Claim("a.b", f"k{each}", "f")) for each in range(number)])


def changes(storage: InMemoryStorage, tenant: Tenant, number: int) -> None:
    unit = unit_of(storage, tenant)
    run_sync(unit.rows(CHANGES).insert([change(f"c{each:05}", status="Draft") for each in range(number)]))
    run_sync(unit.rows(RECORD_TYPES).insert([record_type(f"r{each:05}") for each in range(number)]))
    run_sync(unit.commit())


def find(table: Any, **asked: Any) -> Callable[[InMemoryStorage, Tenant], object]:
    def ask(storage: InMemoryStorage, tenant: Tenant) -> object:
        unit = storage.unit_of_work(tenant, str(uuid4()), "sync", read_only=True)
        found = run_sync(unit.rows(table).find(**asked))
        run_sync(unit.rollback())
        assert len(found) == asked["limit"]
        return found

    return ask


@pytest.mark.parametrize(
    ("fill", "ask"),
    [
        (tenants, lambda storage, tenant: storage.list_tenants(after="t-00020", limit=5)),
        (dead_letters, lambda storage, tenant: run_sync(storage.outbox("sync").dead_letters(limit=5))),
        (dead_letters, lambda storage, tenant: run_sync(storage.outbox("sync").status())),
        (used_keys, lambda storage, tenant: storage.purge_expired_keys()),
        (changes, find(CHANGES, where={"status": "Draft"}, order=("id",), limit=5)),
        (changes, find(CHANGES, where={"project_id": "p1"}, above={"id": "c00009"}, order=("id",), limit=5)),
        (changes, find(CHANGES, above={"id": "c00009"}, order=("id",), limit=5)),
        (changes, find(RECORD_TYPES, where={"project_id": "p1"}, order=("key",), limit=5)),
        (changes, find(RECORD_TYPES, where={"project_id": "p1"}, above={"key": "k"}, order=("key",), limit=5)),
    ],
    ids=["tenants", "dead letters", "status", "keys", "by status", "by project", "changes", "types", "types after"],
)
def test_memory_reads_what_is_asked_for(fill: Fill, ask: Ask) -> None:
    calls(fill, ask)


def test_rows_in_memory_are_found_as_a_transaction_sees_them() -> None:
    storage = InMemoryStorage()
    tenant = storage.create_tenant(slug="acme", name="Acme")
    changes(storage, tenant, 4)
    reader, writer = unit_of(storage, tenant), unit_of(storage, tenant)

    def ids(unit: Any, **asked: Any) -> list[str]:
        return [row["id"] for row in run_sync(unit.rows(CHANGES).find(order=("id",), **asked))]

    draft: dict[str, Any] = {"where": {"status": "Draft"}, "limit": 10}
    everything = ["c00000", "c00001", "c00002", "c00003"]
    assert ids(reader, **draft) == everything
    run_sync(writer.rows(CHANGES).update([{"id": "c00001", "status": "Ready"}]))
    run_sync(writer.rows(CHANGES).delete({"id": "c00002"}))
    run_sync(writer.rows(CHANGES).insert([change("c00000a", status="Draft")]))
    assert ids(writer, **draft) == ["c00000", "c00000a", "c00003"]
    assert ids(writer, where={"status": "Ready"}) == ["c00001"]
    run_sync(writer.commit())

    assert ids(reader, **draft) == everything
    run_sync(reader.rollback())
    fresh = unit_of(storage, tenant)
    assert ids(fresh, **draft) == ["c00000", "c00000a", "c00003"]
    assert ids(fresh, where={"project_id": "p1", "status": "Ready"}, limit=2) == ["c00001"]
    run_sync(fresh.commit())
    write(storage, tenant)
    assert ids(unit_of(storage, tenant), limit=10) == ["c00000", "c00000a", "c00001", "c00003"]


def test_the_status_in_memory_follows_each_delivery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage = InMemoryStorage()
    tenant = storage.create_tenant(slug="acme", name="Acme")
    rows = [event_row(tenant, subject=subject, occurred_at=time_of(number)) for number, subject in enumerate("aabbc")]
    write(storage, tenant, events=rows)
    outbox = storage.outbox("sync")

    def status() -> tuple[int, ...]:
        now = run_sync(outbox.status())
        first = [row.occurred_at for row in rows].index(now.oldest) if now.oldest is not None else -1
        return (now.pending, now.waiting, now.dead, now.skipped, now.held, first)

    assert status() == (5, 0, 0, 0, 0, 0)
    a, _, b, *_ = batch = run_sync(outbox.take(10, LEASE))
    run_sync(outbox.settle(batch[4:], [failed_delivery(a, None), failed_delivery(b, 3600.0)]))
    assert status() == (3, 1, 1, 0, 2, 1)
    run_sync(outbox.skip([a.event.id], "no"))
    assert status() == (3, 1, 0, 1, 1, 1)
    run_sync(outbox.redrive([a.event.id]))
    assert status() == (4, 1, 0, 0, 1, 0)
    run_sync(outbox.settle(run_sync(outbox.take(10, LEASE)), ()))
    assert status() == (2, 1, 0, 0, 1, 2)
    monkeypatch.setattr(memory_outbox, "MAX_COUNTED_LAG", 1)
    assert status() == (1, 1, 0, 0, 1, 2)


def fill_outbox(backend: Backend, number: int) -> None:
    """Add to the outbox what is pending, held back, dead and skipped, past the engine."""
    tenant = str(backend.tenant.id)
    row = {"tenant_id": tenant, "lane": 1, "queue": "events"}
    held = False if isinstance(backend, PostgresBackend) else 0
    dead: dict[str, Any] = {"dead_at": time_of(0), "event_id": id_at(0)}
    kinds: list[dict[str, Any]] = [
        {"held": held},
        {"held": not held},
        {**dead, "skipped": held},
        {**dead, "skipped": not held},
    ]
    for kind, values in enumerate(kinds):
        backend.insert("ae_outbox", ({**row, **values, "position": 10**6 * (kind + 1) + n} for n in range(number)))


def test_a_status_counts_to_a_bound(backend: Backend) -> None:
    backend.do("notes", "pass")

    def ask(backend: Backend) -> None:
        outbox = backend.storage.outbox("sync")
        status = run_sync(outbox.status())
        run_sync(outbox.close())
        assert (status.pending, status.dead, status.skipped, status.held) == (10_000,) * 4

    fill_outbox(backend, 10_100)
    before = backend.read(ask)
    backend.insert(
        "ae_outbox",
        (
            {"tenant_id": str(backend.tenant.id), "lane": 1, "queue": "events", "position": 10**7 + number}
            for number in range(5_000)
        ),
    )
    assert backend.read(ask) <= 1.1 * before + backend.slack
    assert counted(10_000) == "10,000+"
    assert counted(9_999) == "9999"


def test_the_lag_is_counted_without_payloads(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    from actionengine.events.projections.projection import Projection

    def cost(payload: bytes) -> int:
        rows = [event_row(backend.tenant, payload=payload, type="big") for _ in range(200)]
        write(backend.storage, backend.tenant, events=rows)
        projection = Projection(backend.engine, name=f"p{len(payload)}", types=["big"], apply=lambda event, view: None)
        after = backend.storage.count_events(backend.tenant) - 200
        return backend.read(
            lambda backend: (
                backend.storage.count_events(backend.tenant, after=after, types=["big"])
                and projection.status(backend.tenant).unwrap()
            )
        )

    small = cost(b'{"n": 1}')
    assert cost(b'"%b"' % (b"x" * 20_000)) <= 2.5 * small + 100


@pytest.mark.parametrize("types", [None, ["a"], ["a", "b", "a"], ["none"]], ids=str)
def test_as_many_events_are_counted_as_are_read(each_storage: AnyStorage, types: list[str] | None) -> None:
    tenant = make_tenant()
    write(each_storage, tenant, events=[event_row(tenant, type=type) for type in "abcab"])
    read: list[StoredEvent] = list(each_storage.read_events(tenant, types=types))
    assert each_storage.count_events(tenant, types=types) == len(read)
    assert each_storage.count_events(tenant, types=types, limit=2) == min(2, len(read))
    for number, stored in enumerate(read):
        assert each_storage.count_events(tenant, types=types, after=stored.position) == len(read) - number - 1


def test_a_purge_beside_a_held_snapshot_skips_no_keys(
    postgres: PostgresBackend,
) -> None:
    numbers = iter(range(10**6))

    def use(number: int) -> list[IdempotentResult]:
        keys = [result(Claim("a.b", f"k{next(numbers)}", "f"), expired=True) for _ in range(number)]
        write(postgres.storage, postgres.tenant, results=keys)
        return keys

    def purge(backend: Backend) -> int:
        use(1)
        return backend.storage.purge_expired_keys(limit=20)

    use(20)
    while postgres.storage.purge_expired_keys(limit=20):
        pass
    before = postgres.read(purge)
    with psycopg.connect(postgres.app_url) as holder:
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT 1").fetchone()
        for _ in range(4):
            used = use(500)
            assert sum(iter(lambda: postgres.storage.purge_expired_keys(limit=100), 0)) == len(used)
        during = postgres.read(purge)
    assert during <= before + 60, (before, during)
