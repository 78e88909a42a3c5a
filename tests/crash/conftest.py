"""Fixtures of the crash tests: databases, and programs that start hosts on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from examples.embedded_postgres import Database

from actionengine.storage.sql.storage import SQLStorage
from actionengine.testing import AsyncBackend, Backend, SyncBackend
from tests.crash.hosts import HostStarter, PostgresBackend, SQLDatabase, SQLiteBackend


@pytest.fixture(params=["sqlite", "postgres"])
def sql_database(request: pytest.FixtureRequest, tmp_path: Path) -> SQLDatabase:
    if request.param == "sqlite":
        return SQLiteBackend(tmp_path / "ledger.db")
    database: Database = request.getfixturevalue("postgres_database")
    return PostgresBackend(database)


@pytest.fixture(scope="session")
def host_starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostStarter]:
    starter = HostStarter(tmp_path_factory.mktemp("hosts"))
    yield starter
    starter.close()


@pytest.fixture(scope="session")
def other_host_starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostStarter]:
    starter = HostStarter(tmp_path_factory.mktemp("other-hosts"))
    yield starter
    starter.close()


@pytest.fixture(params=[SyncBackend, AsyncBackend], ids=["sync", "async"])
def backend_on(request: pytest.FixtureRequest) -> Iterator[Callable[[SQLStorage], Backend]]:
    """Return a backend on a storage of the test. Both are closed afterwards."""
    backends: list[tuple[Backend, SQLStorage]] = []

    def make(storage: SQLStorage) -> Backend:
        backend: Backend = request.param(storage)
        backends.append((backend, storage))
        return backend

    yield make
    for backend, storage in backends:
        backend.close()
        storage.close()
