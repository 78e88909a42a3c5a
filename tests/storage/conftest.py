"""Fixtures of the tests of storages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples.embedded_postgres import Database

from actionengine import InMemoryStorage, Tenant
from tests.storage.backends import SQLDatabase, SQLStorage, postgres_backend, sqlite_backend


@pytest.fixture
def storage() -> InMemoryStorage:
    return InMemoryStorage()


@pytest.fixture
def tenant(storage: InMemoryStorage) -> Tenant:
    return storage.create_tenant(slug="acme", name="Acme")


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Switch between threads far more often than usual."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture(params=["sqlite", "postgresql"])
def sql_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SQLDatabase]:
    """Return each SQL backend in turn."""
    if request.param == "sqlite":
        sql_database = sqlite_backend(str(tmp_path / "test.db"))
    else:
        database: Database = request.getfixturevalue("fresh_postgres_database")
        sql_database = postgres_backend(database.app_url, database.owner_url)
    yield sql_database
    sql_database.owner.dispose()


@pytest.fixture
def sql_storage(sql_database: SQLDatabase) -> Iterator[SQLStorage]:
    """Open a storage on the database."""
    with sql_database.open() as storage:
        yield storage
