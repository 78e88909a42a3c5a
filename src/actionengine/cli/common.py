"""What the commands share: where the database is, and how they say what went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from sqlalchemy import Connection, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from actionengine.errors import ActionException, ConfigurationError
from actionengine.events.publisher import PublishError
from actionengine.storage.port import StorageError
from actionengine.storage.sql.storage import SQLStorage
from actionengine.storage.sqlite.storage import SQLiteStorage

Url = Annotated[
    str,
    typer.Option(envvar="ACTIONENGINE_URL", help="postgresql://user:password@host/database, or sqlite:///file"),
]
SigningKey = Annotated[
    str | None, typer.Option(envvar="ACTIONENGINE_SIGNING_KEY", help="The key that the database verifies, if any.")
]


def storage_at(url: str, signing_key: str | None, behind_pooler: bool = False) -> SQLStorage:
    """The storage in a database, perhaps behind a pooler that lends connections for a transaction only."""
    if is_missing(url):
        fail(f"there is no file {make_url(url).database!r}: run `actionengine db upgrade` first")
    if dialect_of(url) == "sqlite":
        return SQLiteStorage(url)
    _check_driver()
    from actionengine.storage.postgres.storage import PostgresStorage

    return PostgresStorage(
        url,
        signing_key=signing_key,
        allow_strong_role=True,
        listens=not behind_pooler,
        prepared_statements=not behind_pooler,
    )


def is_missing(url: str) -> bool:
    """Whether it names a SQLite file that is not there: looking at it would make it."""
    return dialect_of(url) == "sqlite" and not Path(make_url(url).database or "").is_file()


def dialect_of(url: str) -> str:
    """`postgresql` or `sqlite`; for any other the program ends."""
    try:
        dialect = make_url(url).get_backend_name()
    except ArgumentError:
        shown = url if "@" not in url else f"...@{url.rpartition('@')[2]}"
        fail(f"{shown!r} is no database URL: postgresql://user:password@host/database, or sqlite:///file")
    if dialect == "postgres":
        return "postgresql"
    if dialect not in {"postgresql", "sqlite"}:
        fail(f"actionengine works on PostgreSQL and SQLite, not on {dialect}")
    return dialect


def _check_driver() -> None:
    try:
        import_module("psycopg")
    except ImportError as error:
        fail(f"PostgreSQL needs psycopg: pip install 'actionengine[postgres]' ({error})")


@contextmanager
def owner(url: str) -> Iterator[Connection]:
    """A transaction in the database, whose role the operator answers for."""
    driver = "sqlite"
    if dialect_of(url) == "postgresql":
        _check_driver()
        driver = "postgresql+psycopg"
    engine = create_engine(make_url(url).set(drivername=driver))
    try:
        with told(), engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def told() -> Iterator[None]:
    """Tell what went wrong in a line."""
    try:
        yield
    except (ActionException, ConfigurationError, PublishError, StorageError, ValueError) as error:
        fail(str(error))
    except SQLAlchemyError as error:
        fail(str(getattr(error, "orig", None) or error).strip())


def fail(message: str) -> NoReturn:
    """Say what is wrong, and end with the exit code 1."""
    typer.echo(message, err=True)
    raise typer.Exit(1)
