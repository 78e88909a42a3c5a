"""Rows in memory: the promises of this backend only."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic_core import from_json

from actionengine import ErrorCode, InMemoryStorage, Tenant
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.memory import rows, transaction
from actionengine.storage.tables import CHANGES, PROJECTS, RECORD_TYPES
from actionengine.testing.base import raises_action_error
from actionengine.testing.tables import change, project, record_type
from tests.storage.inside import data_of, nothing_is_held, unit_of


def test_a_statement_that_is_refused_leaves_nothing_of_itself(storage: InMemoryStorage, tenant: Tenant) -> None:
    unit = unit_of(storage, tenant)
    types = unit.rows(RECORD_TYPES)
    run_sync(types.insert([record_type("r1"), record_type("r2")]))

    with raises_action_error(ErrorCode.CONFLICT):
        run_sync(types.insert([record_type("r3"), record_type("r4", name="type r1")]))
    with raises_action_error(ErrorCode.CONFLICT):
        run_sync(types.update([{"id": "r1", "name": "new"}, {"id": "r2", "name": "new"}]))
    run_sync(unit.commit())

    assert run_sync(unit_of(storage, tenant).rows(RECORD_TYPES).find()) == [record_type("r1"), record_type("r2")]


def test_a_conflict_names_what_is_taken(storage: InMemoryStorage, tenant: Tenant) -> None:
    projects = unit_of(storage, tenant).rows(PROJECTS)
    run_sync(projects.insert([project("p1", name="Payroll")]))

    with pytest.raises(Exception, match="ae_projects already has a row with name 'Payroll'"):
        run_sync(projects.insert([project("p2", name="Payroll")]))


def test_the_first_writer_wins(storage: InMemoryStorage, tenant: Tenant) -> None:
    first, second = unit_of(storage, tenant), unit_of(storage, tenant)
    run_sync(first.rows(PROJECTS).insert([project("p1")]))

    with raises_action_error(ErrorCode.CONFLICT):
        run_sync(second.rows(PROJECTS).insert([project("p2", name="project p1")]))
    run_sync(first.rollback())
    run_sync(second.rows(PROJECTS).insert([project("p2", name="project p1")]))


def test_a_wait_for_a_lock_is_bounded(
    storage: InMemoryStorage, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "_LOCK_TIMEOUT", 0.05)
    first, second = unit_of(storage, tenant), unit_of(storage, tenant)
    run_sync(first.rows(CHANGES).insert([change("c1")]))
    run_sync(first.commit())
    first = unit_of(storage, tenant)
    run_sync(first.rows(CHANGES).find(lock=True))

    with raises_action_error(ErrorCode.CONFLICT):
        run_sync(second.rows(CHANGES).find({"id": "c1"}, lock=True))
    run_sync(first.rollback())
    assert run_sync(second.rows(CHANGES).find({"id": "c1"}, lock=True)) == [change("c1")]


def test_locks_end_with_their_unit(storage: InMemoryStorage, tenant: Tenant) -> None:
    unit = unit_of(storage, tenant)
    run_sync(unit.rows(CHANGES).insert([change("c1")]))
    run_sync(unit.rows(CHANGES).find(lock=True))
    run_sync(unit.commit())

    assert nothing_is_held(data_of(storage, tenant))


def test_json_is_decoded_only_in_what_is_found(
    storage: InMemoryStorage, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = unit_of(storage, tenant)
    run_sync(unit.rows(RECORD_TYPES).insert([record_type(f"r{number}") for number in range(1000)]))
    run_sync(unit.commit())
    decoded: list[bytes] = []

    def decode(value: bytes) -> Any:
        decoded.append(value)
        return from_json(value)

    monkeypatch.setattr(rows, "from_json", decode)
    run_sync(unit_of(storage, tenant).rows(RECORD_TYPES).find({"project_id": "p1", "key": "type-r7"}))

    assert len(decoded) == len(["schema", "initial_schema"])
