"""The PostgreSQL server of the tests, and copies of a migrated database."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
from examples.embedded_postgres import Database, embedded_postgres
from sqlalchemy import make_url


@contextmanager
def started_postgres() -> Iterator[str]:
    """Give the URL of a superuser on the server in ACTIONENGINE_TEST_POSTGRES, or on one that runs within the block."""
    given = os.environ.get("ACTIONENGINE_TEST_POSTGRES")
    if given:
        yield given
        return
    with embedded_postgres() as url:
        with psycopg.connect(url, autocommit=True) as connection:
            # The data need not survive a crash.
            for setting in ("fsync", "full_page_writes"):
                connection.execute(f"ALTER SYSTEM SET {setting} = off")
            connection.execute("SELECT pg_reload_conf()")
        yield url


def copy_database(superuser_url: str, template: Database, name: str) -> Database:
    """Copy a database and its grants, in a tenth of the time that its migrations take."""
    source, copy = make_url(template.owner_url).database, f"{name}_{uuid4().hex}"
    with psycopg.connect(superuser_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{copy}" TEMPLATE "{source}" OWNER "owner"')
        rights = "SELECT datacl FROM pg_database WHERE datname = %s"
        connection.execute(f"UPDATE pg_database SET datacl = ({rights}) WHERE datname = %s", (source, copy))
    owner, app = (
        make_url(url).set(database=copy).render_as_string(hide_password=False)
        for url in (template.owner_url, template.app_url)
    )
    return Database(owner, app)
