"""`PostgresStorage`: the suite that every storage passes, as a restricted role on a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from examples.embedded_postgres import Database

from actionengine import PostgresStorage
from actionengine.testing import StorageConformance


class TestPostgresStorage(StorageConformance):
    @pytest.fixture
    def storage(self, postgres_database: Database) -> Iterator[PostgresStorage]:
        with PostgresStorage(postgres_database.app_url) as storage:
            yield storage
