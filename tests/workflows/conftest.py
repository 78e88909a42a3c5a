"""What the tests of workflows share: each storage, and a desk on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from examples.embedded_postgres import Database

from actionengine import InMemoryStorage, PostgresStorage, SQLiteStorage
from actionengine.testing import AsyncBackend, Backend, SyncBackend
from actionengine.testing.worlds import a_tenant
from tests.workflows.desk import Harness

AnyStorage = InMemoryStorage | PostgresStorage | SQLiteStorage

MODES = {"sync": SyncBackend, "async": AsyncBackend}
EACH_STORAGE = ("memory-sync", "sqlite-sync", "postgres-sync")


@pytest.fixture(scope="module", params=EACH_STORAGE)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """Each storage, that on PostgreSQL as a role which row-level security restricts. The tests of a file share it, each
    with tenants of its own."""
    kind, _, mode_name = request.param.partition("-")
    storage: AnyStorage
    if kind == "memory":
        storage = InMemoryStorage()
    elif kind == "sqlite":
        storage = SQLiteStorage(
            tmp_path_factory.mktemp("workflows") / "workflows.db", synchronous="NORMAL", busy_timeout=60.0
        )
    else:
        database: Database = request.getfixturevalue("postgres_database")
        storage = PostgresStorage(database.app_url)
    with storage:
        backend = MODES[mode_name](storage)
        yield backend
        backend.close()


@pytest.fixture
def harness(place: Backend) -> Harness:
    """A desk of two tenants that nobody else has."""
    place.tenant, place.other_tenant = a_tenant(), a_tenant()
    return Harness(place)
