"""What the tests of storages share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples.embedded_postgres import Database

from actionengine import InMemoryStorage, Tenant
from tests.storage.backends import Backend, SQLStorage, postgres_backend, sqlite_backend


@pytest.fixture
def storage() -> InMemoryStorage:
    return InMemoryStorage()


@pytest.fixture
def tenant(storage: InMemoryStorage) -> Tenant:
    return storage.create_tenant(slug="acme", name="Acme")


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads take turns far more often than they usually do."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """Each SQL backend in turn."""
    if request.param == "sqlite":
        backend = sqlite_backend(str(tmp_path / "test.db"))
    else:
        database: Database = request.getfixturevalue("fresh_postgres_database")
        backend = postgres_backend(database.app_url, database.owner_url)
    yield backend
    backend.owner.dispose()


@pytest.fixture
def sql_storage(backend: Backend) -> Iterator[SQLStorage]:
    """A storage on it."""
    with backend.open() as storage:
        yield storage
