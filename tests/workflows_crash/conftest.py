"""Fixtures of the tests of killed workflows: databases, and a program that starts workers on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from examples.embedded_postgres import APP_ROLE, Database

from actionengine.durable.host import upgrade
from tests.crash.hosts import PostgresBackend, SQLiteBackend
from tests.workflows_crash.campaign import Campaign, Place
from tests.workflows_crash.workers import WorkerStarter

NewCampaign = Callable[[object], Campaign]

ON_POSTGRES = pytest.mark.parametrize("place", ["postgres"], indirect=True)
ON_SQLITE_SOAKED_ON_POSTGRES = pytest.mark.parametrize(
    "place", ["sqlite", pytest.param("postgres", marks=pytest.mark.soak)], indirect=True
)
ON_POSTGRES_SOAKED_ON_SQLITE = pytest.mark.parametrize(
    "place", ["postgres", pytest.param("sqlite", marks=pytest.mark.soak)], indirect=True
)


@pytest.fixture(scope="session")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerStarter]:
    with closing(WorkerStarter(tmp_path_factory.mktemp("workers"))) as starter:
        yield starter


@pytest.fixture
def sqlite_place(tmp_path: Path) -> Place:
    return Place(SQLiteBackend(tmp_path / "desk.db"), f"sqlite:///{tmp_path / 'durable.db'}", tmp_path)


@pytest.fixture
def postgres_place(fresh_postgres_database: Database, tmp_path: Path) -> Place:
    return place_on(fresh_postgres_database, tmp_path)


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(f"{request.param}_place")
    return found


@pytest.fixture
def new_campaign(place: Place, starter: WorkerStarter) -> Iterator[NewCampaign]:
    """Return a function that makes a campaign on the test's database, by its seed."""
    with ExitStack() as stack:
        yield lambda seed: stack.enter_context(closing(Campaign(place, starter, seed)))


def place_on(database: Database, folder: Path) -> Place:
    """Create the durable engine's tables in a database as its owner; the restricted role uses them."""
    upgrade(database.owner_url, app_role=APP_ROLE)
    return Place(PostgresBackend(database), database.app_url, folder)
