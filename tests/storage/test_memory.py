"""`InMemoryStorage`: the suite for every storage, and the promises of this one only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from actionengine import (
    ErrorCode,
    InMemoryStorage,
    Tenant,
)
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.memory.transaction import TenantData
from actionengine.storage.memory.unit_of_work import MemoryUnitOfWork
from actionengine.storage.rows import Recording
from actionengine.testing import AsyncBackend, Backend, StorageConformance
from actionengine.testing.base import raises_action_error
from actionengine.testing.rows import event_row
from tests.storage.inside import data_of, unit_of
from tests.storage.suspending import SuspendingStorage


class TestInMemoryStorage(StorageConformance):
    @pytest.fixture
    def storage(self) -> InMemoryStorage:
        return InMemoryStorage()


class TestSuspendingStorage(StorageConformance):
    """The suite again, with task switches in the middle of each transaction."""

    @pytest.fixture
    def storage(self) -> InMemoryStorage:
        return SuspendingStorage()

    @pytest.fixture
    def backend(self, storage: InMemoryStorage) -> Iterator[Backend]:
        backend = AsyncBackend(storage)
        yield backend
        backend.close()


def write(storage: InMemoryStorage, tenant: Tenant, *changes: Callable[[MemoryUnitOfWork], Any]) -> None:
    unit = unit_of(storage, tenant)
    for change in changes:
        run_sync(change(unit))
    run_sync(unit.commit())


def insert(id: str) -> Callable[[MemoryUnitOfWork], Any]:
    return lambda unit: unit.records("notes").insert({}, id)


def update(id: str, version: int) -> Callable[[MemoryUnitOfWork], Any]:
    return lambda unit: unit.records("notes").update(id, {}, version)


def delete(id: str, version: int) -> Callable[[MemoryUnitOfWork], Any]:
    return lambda unit: unit.records("notes").delete(id, version)


def versions_of(data: TenantData, id: str) -> int:
    version, number = data.collections["notes"].get(id), 0
    while version is not None:
        version, number = version.previous, number + 1
    return number


# Versions and tombstones


def test_without_readers_a_document_has_one_version(storage: InMemoryStorage, tenant: Tenant) -> None:
    write(storage, tenant, insert("n1"))
    for version in range(1, 50):
        write(storage, tenant, update("n1", version))

    assert versions_of(data_of(storage, tenant), "n1") == 1


def test_versions_live_as_long_as_a_snapshot_reads_them(storage: InMemoryStorage, tenant: Tenant) -> None:
    write(storage, tenant, insert("n1"))
    first, second = unit_of(storage, tenant), unit_of(storage, tenant)
    assert run_sync(first.records("notes").get("n1"))
    write(storage, tenant, update("n1", 1))
    write(storage, tenant, update("n1", 2))
    read_by_second = run_sync(second.records("notes").get("n1"))
    write(storage, tenant, update("n1", 3))

    assert run_sync(first.records("notes").get("n1")).version == 1  # type: ignore[union-attr]
    run_sync(first.rollback())
    write(storage, tenant, update("n1", 4))
    assert run_sync(second.records("notes").get("n1")) == read_by_second
    assert versions_of(data_of(storage, tenant), "n1") == 3
    run_sync(second.commit())
    write(storage, tenant, update("n1", 5))

    assert versions_of(data_of(storage, tenant), "n1") == 1


def test_deleted_documents_leave_nothing_behind(storage: InMemoryStorage, tenant: Tenant) -> None:
    for number in range(20):
        write(storage, tenant, insert(f"n{number}"))
        write(storage, tenant, delete(f"n{number}", 1))
    write(storage, tenant, insert("fleeting"), delete("fleeting", 1))

    data = data_of(storage, tenant)
    assert (data.collections["notes"], data.tombstones) == ({}, [])


def test_tombstones_are_swept_after_the_last_reader(storage: InMemoryStorage, tenant: Tenant) -> None:
    write(storage, tenant, insert("n1"), insert("n2"))
    reader = unit_of(storage, tenant)
    run_sync(reader.records("notes").list())
    write(storage, tenant, delete("n1", 1))
    write(storage, tenant, delete("n2", 1))
    write(storage, tenant, insert("n2"))
    assert [record.id for record in run_sync(reader.records("notes").list())] == ["n1", "n2"]
    run_sync(reader.rollback())

    write(storage, tenant, insert("n3"))

    data = data_of(storage, tenant)
    assert (sorted(data.collections["notes"]), data.tombstones) == (["n2", "n3"], [])
    assert run_sync(unit_of(storage, tenant).records("notes").get("n2"))


# Snapshot isolation


def test_a_unit_repeats_its_reads_after_other_commits(storage: InMemoryStorage, tenant: Tenant) -> None:
    write(storage, tenant, insert("changed"), insert("deleted"))
    reader = unit_of(storage, tenant)
    before = run_sync(reader.records("notes").list())

    write(storage, tenant, update("changed", 1), delete("deleted", 1), insert("inserted"))

    assert run_sync(reader.records("notes").list()) == before
    assert run_sync(reader.records("notes").get("deleted"))
    assert run_sync(reader.records("notes").get("inserted")) is None


@pytest.mark.parametrize(
    ("elsewhere", "here"),
    [
        pytest.param([update("n1", 1)], update("n1", 1), id="update of the version that was read"),
        pytest.param([update("n1", 1)], update("n1", 2), id="update of a version that was not read"),
        pytest.param([delete("n1", 1)], update("n1", 1), id="update of what was deleted"),
        pytest.param([delete("n1", 1), insert("n1")], update("n1", 1), id="update of what was replaced"),
        pytest.param([delete("n1", 1), insert("n1")], delete("n1", 1), id="deletion of what was replaced"),
        pytest.param([insert("n2")], insert("n2"), id="insertion of what was inserted"),
        pytest.param([insert("n2")], update("n2", 1), id="update of what was inserted"),
        pytest.param([insert("n2"), delete("n2", 1)], insert("n2"), id="insertion of what came and went"),
    ],
)
def test_the_first_writer_wins(
    storage: InMemoryStorage,
    tenant: Tenant,
    elsewhere: list[Callable[[MemoryUnitOfWork], Any]],
    here: Callable[[MemoryUnitOfWork], Any],
) -> None:
    write(storage, tenant, insert("n1"))
    unit = unit_of(storage, tenant)
    run_sync(unit.records("notes").list())
    for change in elsewhere:
        write(storage, tenant, change)

    with raises_action_error(ErrorCode.CONFLICT):
        run_sync(here(unit))


def test_a_document_changed_by_another_unit_conflicts_at_once(storage: InMemoryStorage, tenant: Tenant) -> None:
    write(storage, tenant, insert("n1"))
    first, second = unit_of(storage, tenant), unit_of(storage, tenant)
    run_sync(update("n1", 1)(first))

    with raises_action_error(ErrorCode.CONFLICT):
        run_sync(update("n1", 1)(second))
    run_sync(first.rollback())

    run_sync(update("n1", 1)(second))
    run_sync(second.commit())


def test_event_positions_have_no_gaps(storage: InMemoryStorage, tenant: Tenant) -> None:
    def emit(number: int) -> None:
        unit = unit_of(storage, tenant)
        run_sync(unit.record(Recording((), (event_row(tenant), event_row(tenant)))))
        run_sync(unit.rollback() if number % 3 == 0 else unit.commit())

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(emit, range(60)))

    assert [stored.position for stored in storage.read_events(tenant)] == list(range(1, 81))
    taken = run_sync(storage.outbox("sync").take(100, 60.0))
    assert sorted(pending.position for pending in taken) == list(range(1, 81))
