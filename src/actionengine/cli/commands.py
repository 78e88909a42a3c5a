"""The commands, for whoever operates a database: its schema, its tenants, its keys."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from actionengine.errors import ActionException, ConfigurationError
from actionengine.storage.port import StorageError
from actionengine.storage.sql.migrations import HEAD, schema_version, sign, unsign, upgrade, upgrade_sql
from actionengine.storage.sql.storage import SQLStorage
from actionengine.storage.sqlite.storage import SQLiteStorage

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
db = typer.Typer(no_args_is_help=True, help="The schema of a database.")
tenant = typer.Typer(no_args_is_help=True, help="The tenants in a database.")
keys = typer.Typer(no_args_is_help=True, help="Idempotency keys.")
app.add_typer(db, name="db")
app.add_typer(tenant, name="tenant")
app.add_typer(keys, name="keys")

Url = Annotated[
    str,
    typer.Option(envvar="ACTIONENGINE_URL", help="postgresql://user:password@host/database, or sqlite:///file"),
]
SigningKey = Annotated[
    str | None, typer.Option(envvar="ACTIONENGINE_SIGNING_KEY", help="The key that the database verifies, if any.")
]


@app.callback()
def actionengine() -> None:
    """One governed pipeline for every change of state: what its databases need."""


@db.command("upgrade")
def upgrade_command(
    url: Url,
    app_role: Annotated[str | None, typer.Option(help="Give this role what a host needs (PostgreSQL).")] = None,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL for an empty database, and change nothing.")
    ] = False,
) -> None:
    """Bring the schema up to date, as its owner. Where it is, nothing changes."""
    if sql:
        print(upgrade_sql(_dialect(url), app_role))
        return
    if _dialect(url) == "sqlite":
        with _told(), SQLiteStorage(url):
            pass
    else:
        with _owner(url) as connection:
            upgrade(connection, app_role)
    print(f"the schema is at version {HEAD}")
    if app_role is not None:
        print(f"the role {app_role} has its grants")


@db.command()
def current(url: Url) -> None:
    """Print the version of the schema."""
    if _is_missing(url):
        version = None
    else:
        with _owner(url) as connection:
            version = schema_version(connection)
    print("there is no schema" if version is None else f"version {version} of {HEAD}")


@db.command()
def check(url: Url, signing_key: SigningKey = None) -> None:
    """Check what a host checks when it starts: the role, the schema, the signing key."""
    if _dialect(url) == "sqlite":
        with _owner(url) as connection:
            version = schema_version(connection)
        if version != HEAD:
            _fail(f"the schema is at version {version}, this library needs {HEAD}: run `actionengine db upgrade`")
    else:
        from actionengine.storage.postgres.storage import PostgresStorage

        with _told(), PostgresStorage(url, signing_key=signing_key):
            pass
    print(f"the schema is at version {HEAD}, and a host can work with it")


@db.command("sign")
def sign_command(url: Url, signing_key: SigningKey = None) -> None:
    """Have the database verify for which tenant a transaction works (PostgreSQL). Makes a key where none is given."""
    if _dialect(url) == "sqlite":
        _fail("SQLite verifies no signatures: it has no row-level security")
    key = signing_key or secrets.token_urlsafe(32)
    with _owner(url) as connection:
        id = sign(connection, key)
    print(f"stored the signing key {id}; each host needs it:")
    if signing_key is None:
        print(f"ACTIONENGINE_SIGNING_KEY={key}")


@db.command("unsign")
def unsign_command(url: Url, signing_key: SigningKey = None) -> None:
    """Forget a signing key, once no host uses it any more."""
    if signing_key is None:
        _fail("say which key to forget: --signing-key")
    with _owner(url) as connection:
        found = unsign(connection, signing_key)
    print("the key is forgotten" if found else "there was no such key")


@tenant.command()
def create(
    slug: str, url: Url, name: Annotated[str, typer.Option(help="As people know it.")], signing_key: SigningKey = None
) -> None:
    """Make a tenant and print its id."""
    with _told(), _storage(url, signing_key) as storage:
        print(storage.create_tenant(slug=slug, name=name).id)


@tenant.command()
def delete(slug: str, url: Url, signing_key: SigningKey = None) -> None:
    """Close a tenant: nothing is executed for it any more. Its rows stay."""
    with _told(), _storage(url, signing_key) as storage:
        if not storage.delete_tenant(slug=slug):
            _fail(f"there is no tenant {slug!r}")
    print(f"the tenant {slug!r} is deleted")


@tenant.command("list")
def list_tenants(url: Url, signing_key: SigningKey = None) -> None:
    """List the tenants."""
    table = Table("id", "slug")
    with _told(), _storage(url, signing_key) as storage:
        for found in storage.list_tenants():
            table.add_row(str(found.id), found.slug)
    Console().print(table)


@keys.command()
def purge(
    url: Url, batch: Annotated[int, typer.Option(help="How many at a time.")] = 1000, signing_key: SigningKey = None
) -> None:
    """Forget the idempotency keys that have expired, in batches."""
    purged = 0
    with _told(), _storage(url, signing_key) as storage:
        while found := storage.purge_expired_keys(limit=batch):
            purged += found
    print(f"purged {purged} keys")


def _storage(url: str, signing_key: str | None) -> SQLStorage:
    if _is_missing(url):
        _fail(f"there is no file {make_url(url).database!r}: run `actionengine db upgrade` first")
    if _dialect(url) == "sqlite":
        return SQLiteStorage(url)
    from actionengine.storage.postgres.storage import PostgresStorage

    return PostgresStorage(url, signing_key=signing_key, allow_strong_role=True)


def _is_missing(url: str) -> bool:
    """Whether it names a SQLite file that is not there: looking at it would make it."""
    return _dialect(url) == "sqlite" and not Path(make_url(url).database or "").is_file()


def _dialect(url: str) -> str:
    try:
        dialect = make_url(url).get_backend_name()
    except ArgumentError:
        shown = url if "@" not in url else f"...@{url.rpartition('@')[2]}"
        _fail(f"{shown!r} is no database URL: postgresql://user:password@host/database, or sqlite:///file")
    if dialect == "postgres":
        return "postgresql"
    if dialect not in {"postgresql", "sqlite"}:
        _fail(f"actionengine works on PostgreSQL and SQLite, not on {dialect}")
    return dialect


@contextmanager
def _owner(url: str) -> Iterator[Connection]:
    """A transaction in the database, whose role the operator answers for."""
    driver = "postgresql+psycopg" if _dialect(url) == "postgresql" else "sqlite"
    engine = create_engine(make_url(url).set(drivername=driver))
    try:
        with _told(), engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def _told() -> Iterator[None]:
    """Tell what went wrong in a line."""
    try:
        yield
    except (ActionException, ConfigurationError, StorageError, ValueError) as error:
        _fail(str(error))
    except SQLAlchemyError as error:
        _fail(str(getattr(error, "orig", None) or error).strip())


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(1)
