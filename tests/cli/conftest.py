"""Fixtures of the tests of the command line: a host on each database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from examples.embedded_postgres import Database, make_role
from sqlalchemy import make_url

from actionengine import PostgresStorage, SQLiteStorage
from actionengine.storage.sql.grants import grants
from tests.cli.desk import Desk, sqlite_url


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A host on SQLite."""
    monkeypatch.chdir(tmp_path)
    with SQLiteStorage(sqlite_url(tmp_path), synchronous="NORMAL") as storage:
        yield Desk(storage, sqlite_url(tmp_path), monkeypatch)


@pytest.fixture
def postgres_desk(
    fresh_postgres_database: Database, postgres_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Desk]:
    """A host on PostgreSQL. The operator connects as a role of its own, which row-level security binds."""
    monkeypatch.chdir(tmp_path)
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        make_role(connection, "operator")
    with psycopg.connect(fresh_postgres_database.owner_url) as owner:
        for statement in grants(None, None, "operator"):
            owner.execute(statement)
    url = make_url(fresh_postgres_database.app_url).set(username="operator")
    with PostgresStorage(fresh_postgres_database.app_url) as storage:
        yield Desk(storage, url.render_as_string(hide_password=False), monkeypatch)


@pytest.fixture(params=["sqlite", "postgres"])
def each_desk(request: pytest.FixtureRequest) -> Desk:
    """A host on each database."""
    name = {"sqlite": "desk", "postgres": "postgres_desk"}[request.param]
    found: Desk = request.getfixturevalue(name)
    return found
