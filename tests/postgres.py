"""The PostgreSQL of the tests: one server for the run, a database for whoever asks, an app role that is restricted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from examples.embedded_postgres import Database, embedded_postgres, make_database


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a superuser: of the server in ACTIONENGINE_TEST_POSTGRES, or of one that is started for this run."""
    given = os.environ.get("ACTIONENGINE_TEST_POSTGRES")
    if given:
        yield given
        return
    with embedded_postgres() as url:
        with psycopg.connect(url, autocommit=True) as connection:
            # Its data need not outlive the machine.
            for setting in ("fsync", "full_page_writes"):
                connection.execute(f"ALTER SYSTEM SET {setting} = off")
            connection.execute("SELECT pg_reload_conf()")
        yield url


@pytest.fixture(scope="session")
def postgres_database(postgres_server: str) -> Database:
    """A database with the schema that all tests share: each uses tenants of its own."""
    return make_database(postgres_server, f"shared_{uuid4().hex}")


@pytest.fixture
def fresh_postgres_database(postgres_server: str) -> Database:
    """A database of the test's own."""
    return make_database(postgres_server, f"fresh_{uuid4().hex}")
