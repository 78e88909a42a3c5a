"""A page of large values reads the values that it returns, not all that its limit allows."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from examples.embedded_postgres import Database

from actionengine import PostgresStorage, Tenant
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.tables import PROJECTS, RECORD_TYPES
from actionengine.testing.tables import project, record_type
from tests.growth import count, fill

FEW, MANY = 16, 40
SIZE = 300_000
"""Bytes of a value: fourteen of them fill a page."""

Reading = Callable[[Any], Any]


@pytest.fixture(scope="module")
def storage(postgres_database: Database) -> Iterator[PostgresStorage]:
    with PostgresStorage(postgres_database.app_url, pool_size=1, max_overflow=0) as storage:
        yield storage


@pytest.fixture(scope="module")
def tenants(storage: PostgresStorage) -> tuple[Tenant, ...]:
    """Return two tenants: one with few large documents and record types, one with many."""
    return tuple(filled(storage, number) for number in (FEW, MANY))


def filled(storage: PostgresStorage, number: int) -> Tenant:
    tenant = storage.create_tenant(slug=f"t-{uuid4().hex}", name="Large")
    # Random text, which cannot be compressed.
    texts = [secrets.token_urlsafe(SIZE * 3 // 4) for _ in range(number)]
    fill(storage, tenant, "notes", [(f"n{place:03}", {"text": text}) for place, text in enumerate(texts)])
    unit = storage.unit_of_work(tenant, str(uuid4()), "sync")
    run_sync(unit.rows(PROJECTS).insert([project("p1")]))
    types = [
        record_type(f"r{place:03}", schema={"fields": [{"name": "a", "type": "text", "label": text}]})
        for place, text in enumerate(texts)
    ]
    run_sync(unit.rows(RECORD_TYPES).insert(types))
    run_sync(unit.commit())
    return tenant


def documents(unit: Any) -> Any:
    return unit.records("notes").list(limit=1000)


def last_documents(unit: Any) -> Any:
    return unit.records("notes").list(limit=1000, descending=True)


def record_types(unit: Any) -> Any:
    return unit.rows(RECORD_TYPES).find({"project_id": "p1"}, columns=("key", "schema"), order=("key",), limit=1000)


def read(storage: PostgresStorage, tenant: Tenant, reading: Reading) -> list[Any]:
    unit = storage.unit_of_work(tenant, str(uuid4()), "sync", read_only=True)
    try:
        return list(run_sync(reading(unit)))
    finally:
        run_sync(unit.rollback())


@pytest.mark.parametrize("reading", [documents, last_documents, record_types])
def test_a_page_unpacks_no_more_large_values_than_it_gives(
    storage: PostgresStorage, tenants: tuple[Tenant, ...], reading: Reading
) -> None:
    assert [len(read(storage, tenant, reading)) for tenant in tenants] == [14, 14]

    few, many = (count(storage, tenant, partial(read, storage, tenant, reading)) for tenant in tenants)

    assert all(many[plan] <= 1.3 * few[plan] for plan in few), (few, many)
