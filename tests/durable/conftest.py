"""Databases of the durable engine: a SQLite file, and a PostgreSQL one as a restricted role."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.durable.databases import Durable, postgres, sqlite


@pytest.fixture(params=["sqlite", "postgres"], scope="module")
def durable(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Durable]:
    if request.param == "sqlite":
        found = sqlite(tmp_path_factory.mktemp("durable"))
    else:
        found = postgres(request.getfixturevalue("postgres_server"))
    yield found
    found.end()


@pytest.fixture
def file_database(tmp_path: Path) -> Iterator[Durable]:
    """A database for tests that do not depend on its kind."""
    database = sqlite(tmp_path)
    yield database
    database.end()


@pytest.fixture
def queue() -> str:
    return uuid4().hex
