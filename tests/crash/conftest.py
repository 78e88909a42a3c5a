"""What the crash tests share: databases, and programs that start hosts on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from examples.embedded_postgres import Database

from actionengine.storage.sql.storage import SQLStorage
from actionengine.testing import AsyncWorld, SyncWorld, World
from tests.crash.hosts import Backend, HostStarter, PostgresBackend, SQLiteBackend


@pytest.fixture(params=["sqlite", "postgres"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
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


@pytest.fixture(params=[SyncWorld, AsyncWorld], ids=["sync", "async"])
def world_on(request: pytest.FixtureRequest) -> Iterator[Callable[[SQLStorage], World]]:
    """A world on a storage of the test's; both are closed afterwards."""
    worlds: list[tuple[World, SQLStorage]] = []

    def make(storage: SQLStorage) -> World:
        world: World = request.param(storage)
        worlds.append((world, storage))
        return world

    yield make
    for world, storage in worlds:
        world.close()
        storage.close()
