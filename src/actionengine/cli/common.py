"""The options that the commands share, and the database that they name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy import Connection, MetaData, create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from actionengine.cli.errors import answer_in_json, fail, message_of
from actionengine.masking.redaction import redact_address
from actionengine.storage.outbox import MAX_COUNTED_LAG
from actionengine.storage.sql.storage import SQLStorage
from actionengine.storage.sqlite.storage import SQLiteStorage, sqlite_url

Url = Annotated[
    str,
    typer.Option(envvar="ACTIONENGINE_URL", help="postgresql://user:password@host/database, or sqlite:///file"),
]
ANSWER_TIMEOUT = 30.0
"""Seconds that a server may be silent. A statement on which it works may take longer."""

SigningKey = Annotated[
    str | None, typer.Option(envvar="ACTIONENGINE_SIGNING_KEY", help="The key that the database verifies, if any.")
]

Json = Annotated[
    bool,
    typer.Option(
        "--json",
        # Also the errors of the other options are JSON then.
        is_eager=True,
        callback=answer_in_json,
        help="Print one JSON document; errors are JSON on stderr.",
    ),
]


def example(*commands: str) -> str:
    """Return the end of a command's help, which shows how to call it."""
    return "\n\n".join([f"Example{'s' if len(commands) > 1 else ''}:", *(f"actionengine {each}" for each in commands)])


def open_storage(url: str, signing_key: str | None, behind_pooler: bool = True) -> SQLStorage:
    """Return the storage in a database, perhaps behind a pooler that lends connections for a transaction only.

    A short command gains nothing from prepared statements and notifications, and so works behind any pooler.
    """
    check_exists(url)
    if dialect_of(url) == "sqlite":
        return SQLiteStorage(url, protected=())
    check_driver()
    from actionengine.storage.postgres.storage import PostgresStorage

    return PostgresStorage(
        url,
        signing_key=signing_key,
        # No handler runs here, and an operator may use any role.
        protected=(),
        allow_strong_role=True,
        listens=not behind_pooler,
        prepared_statements=not behind_pooler,
    )


def check_exists(url: str) -> None:
    """End the program if a URL names a SQLite file that does not exist, or no file."""
    if dialect_of(url) == "sqlite":
        sqlite_url(parsed(url))
    if is_missing(url):
        fail(f"there is no file {parsed(url).database!r}: run `actionengine db upgrade` first")


def is_missing(url: str) -> bool:
    """Return whether a URL names a SQLite file that does not exist: opening it would create it."""
    return dialect_of(url) == "sqlite" and not Path(parsed(url).database or "").is_file()


def parsed(url: str) -> URL:
    """Parse a database URL; end the program if it is malformed."""
    try:
        found = make_url(url)
        found.get_backend_name()
    except (ArgumentError, ValueError):
        # A port that is no number is a ValueError.
        found = None
    if found is None or "@" in (found.host or ""):
        fail(
            f"{redact_address(url)!r} is not a database URL: give postgresql://user:password@host/database, or"
            " sqlite:///file (write @ : / ? # % in a password as %40 %3A %2F %3F %23 %25)"
        )
    return found


def dialect_of(url: str) -> str:
    """Return `postgresql` or `sqlite`; end the program for any other database."""
    dialect = parsed(url).get_backend_name()
    if dialect == "postgres":
        return "postgresql"
    if dialect not in {"postgresql", "sqlite"}:
        fail(f"actionengine works on PostgreSQL and SQLite, not on {dialect}")
    return dialect


def imported(name: str) -> Any:
    """Return the object that `module:attribute` names; None without a colon. The working directory is searched too."""
    module, separator, attribute = name.partition(":")
    sys.path.insert(0, "")
    try:
        return getattr(import_module(module), attribute) if separator else None
    except (ImportError, AttributeError) as error:
        fail(f"{name} cannot be imported: {error}")
    except Exception as error:
        raise ImportError(f"{name} cannot be imported: {message_of(error)}") from error


def imported_metadata(name: str) -> MetaData:
    """Return the metadata that `module:attribute` names, itself or as that of a declarative base."""
    found = imported(name)
    found = found if isinstance(found, MetaData) else getattr(found, "metadata", None)
    if not isinstance(found, MetaData):
        fail(f"{name} is not a MetaData or a declarative base: give its module:attribute")
    return found


def check_driver() -> None:
    """End the program if PostgreSQL's driver is not installed."""
    try:
        import_module("psycopg")
    except ImportError as error:
        fail(f"PostgreSQL needs psycopg: pip install 'actionengine[postgres]' ({error})")


@contextmanager
def owner(url: str) -> Iterator[Connection]:
    """Open a transaction in the database with the operator's role."""
    address = parsed(url)
    if dialect_of(url) == "postgresql":
        check_driver()
        from actionengine.storage.postgres.connecting import bounded_transaction

        address = address.set(drivername="postgresql+psycopg")
        if "connect_timeout" not in address.query:
            address = address.update_query_dict({"connect_timeout": "10"})
        with bounded_transaction(address, ANSWER_TIMEOUT) as connection:
            yield connection
        return
    engine = create_engine(address.set(drivername="sqlite"))
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def counted(number: int) -> str:
    """Return a number as text, with a `+` if counting stopped at its limit."""
    return str(number) if number < MAX_COUNTED_LAG else f"{MAX_COUNTED_LAG:,}+"
