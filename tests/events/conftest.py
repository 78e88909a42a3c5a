"""What the tests of events share: every storage in turn, and both modes on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from examples.embedded_postgres import Database

from actionengine import InMemoryStorage, PostgresStorage, SQLiteStorage
from actionengine.testing import AsyncBackend, Backend, SyncBackend

AnyStorage = InMemoryStorage | PostgresStorage | SQLiteStorage


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def any_storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyStorage]:
    """Each storage in turn, empty; that on PostgreSQL as a role which row-level security restricts."""
    storage: AnyStorage
    if request.param == "memory":
        storage = InMemoryStorage()
    elif request.param == "sqlite":
        storage = SQLiteStorage(tmp_path / "events.db", busy_timeout=60.0)
    else:
        database: Database = request.getfixturevalue("fresh_postgres_database")
        storage = PostgresStorage(database.app_url)
    with storage:
        yield storage


@pytest.fixture(params=[SyncBackend, AsyncBackend], ids=["sync", "async"])
def backend(request: pytest.FixtureRequest, any_storage: AnyStorage) -> Iterator[Backend]:
    """Both modes on each storage."""
    backend: Backend = request.param(any_storage)
    yield backend
    backend.close()
