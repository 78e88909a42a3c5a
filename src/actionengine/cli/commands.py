"""The commands, for whoever operates a database: its schema, its tenants, its keys."""

from __future__ import annotations

import secrets
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from actionengine.cli.common import SigningKey, Url, dialect_of, fail, is_missing, owner, storage_at, told
from actionengine.cli.events import events, projection
from actionengine.cli.relay import relay
from actionengine.cli.runner import runner
from actionengine.cli.workflows import workflows
from actionengine.storage.sql.migrations import HEAD, schema_version, sign, unsign, upgrade, upgrade_sql
from actionengine.storage.sqlite.storage import SQLiteStorage

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
db = typer.Typer(no_args_is_help=True, help="The schema of a database.")
tenant = typer.Typer(no_args_is_help=True, help="The tenants in a database.")
keys = typer.Typer(no_args_is_help=True, help="Idempotency keys.")
app.add_typer(db, name="db")
app.add_typer(tenant, name="tenant")
app.add_typer(keys, name="keys")
app.add_typer(relay, name="relay")
app.add_typer(projection, name="projection")
app.add_typer(workflows, name="workflows")
app.add_typer(runner, name="runner")
app.command()(events)


@app.callback()
def actionengine() -> None:
    """One governed pipeline for every change of state: what its databases need."""


@db.command("upgrade")
def upgrade_command(
    url: Url,
    app_role: Annotated[str | None, typer.Option(help="Give this role what a host needs (PostgreSQL).")] = None,
    relay_role: Annotated[
        str | None, typer.Option(help="Give this role what a relay needs, and the hosts' role no more than hosts need.")
    ] = None,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL for an empty database, and change nothing.")
    ] = False,
) -> None:
    """Bring the schema up to date, as its owner. Where it is, nothing changes."""
    if sql:
        print(upgrade_sql(dialect_of(url), app_role, relay_role))
        return
    if dialect_of(url) == "sqlite":
        with told(), SQLiteStorage(url):
            pass
    else:
        with owner(url) as connection:
            upgrade(connection, app_role, relay_role)
    print(f"the schema is at version {HEAD}")
    for role in filter(None, (app_role, relay_role)):
        print(f"the role {role} has its grants")


@db.command()
def current(url: Url) -> None:
    """Print the version of the schema."""
    if is_missing(url):
        version = None
    else:
        with owner(url) as connection:
            version = schema_version(connection)
    print("there is no schema" if version is None else f"version {version} of {HEAD}")


@db.command()
def check(url: Url, signing_key: SigningKey = None) -> None:
    """Check what a host checks when it starts: the role, the schema, the signing key."""
    if dialect_of(url) == "sqlite":
        with owner(url) as connection:
            version = schema_version(connection)
        if version != HEAD:
            fail(f"the schema is at version {version}, this library needs {HEAD}: run `actionengine db upgrade`")
    else:
        from actionengine.storage.postgres.storage import PostgresStorage

        with told(), PostgresStorage(url, signing_key=signing_key):
            pass
    print(f"the schema is at version {HEAD}, and a host can work with it")


@db.command("sign")
def sign_command(url: Url, signing_key: SigningKey = None) -> None:
    """Have the database verify for which tenant a transaction works (PostgreSQL). Makes a key where none is given."""
    if dialect_of(url) == "sqlite":
        fail("SQLite verifies no signatures: it has no row-level security")
    key = signing_key or secrets.token_urlsafe(32)
    with owner(url) as connection:
        id = sign(connection, key)
    print(f"stored the signing key {id}; each host needs it:")
    if signing_key is None:
        print(f"ACTIONENGINE_SIGNING_KEY={key}")


@db.command("unsign")
def unsign_command(url: Url, signing_key: SigningKey = None) -> None:
    """Forget a signing key, once no host uses it any more."""
    if signing_key is None:
        fail("say which key to forget: --signing-key")
    with owner(url) as connection:
        found = unsign(connection, signing_key)
    print("the key is forgotten" if found else "there was no such key")


@tenant.command()
def create(
    slug: str, url: Url, name: Annotated[str, typer.Option(help="As people know it.")], signing_key: SigningKey = None
) -> None:
    """Make a tenant and print its id."""
    with told(), storage_at(url, signing_key) as storage:
        print(storage.create_tenant(slug=slug, name=name).id)


@tenant.command()
def delete(slug: str, url: Url, signing_key: SigningKey = None) -> None:
    """Close a tenant: nothing is executed for it any more. Its rows stay."""
    with told(), storage_at(url, signing_key) as storage:
        if not storage.delete_tenant(slug=slug):
            fail(f"there is no tenant {slug!r}")
    print(f"the tenant {slug!r} is deleted")


@tenant.command("list")
def list_tenants(url: Url, signing_key: SigningKey = None) -> None:
    """List the tenants."""
    table = Table("id", "slug")
    with told(), storage_at(url, signing_key) as storage:
        for found in storage.list_tenants():
            table.add_row(str(found.id), found.slug)
    Console().print(table)


@keys.command()
def purge(
    url: Url, batch: Annotated[int, typer.Option(help="How many at a time.")] = 1000, signing_key: SigningKey = None
) -> None:
    """Forget the idempotency keys that have expired, in batches."""
    purged = 0
    with told(), storage_at(url, signing_key) as storage:
        while found := storage.purge_expired_keys(limit=batch):
            purged += found
    print(f"purged {purged} keys")
