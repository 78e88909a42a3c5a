"""The commands for operators of a database: its schema, its tenants, its keys."""

from __future__ import annotations

import secrets
from typing import Annotated

import typer

from actionengine import __version__
from actionengine.cli.approvals import approvals
from actionengine.cli.budgets import budgets
from actionengine.cli.changes import changes
from actionengine.cli.common import (
    Json,
    SigningKey,
    Url,
    check_driver,
    check_exists,
    dialect_of,
    example,
    imported_metadata,
    is_missing,
    open_storage,
    owner,
)
from actionengine.cli.dead_letters import relay
from actionengine.cli.errors import Commands, fail
from actionengine.cli.events import events, projection
from actionengine.cli.log import log
from actionengine.cli.new import new
from actionengine.cli.output import write_answer
from actionengine.cli.partitions import partition
from actionengine.cli.protection import find_problems
from actionengine.cli.retention import purge_tenant, retention
from actionengine.cli.runner import runner
from actionengine.cli.runs import runs
from actionengine.cli.terminal import escape
from actionengine.cli.workflows import workflows
from actionengine.context import Tenant
from actionengine.storage.pages import MAX_PAGE
from actionengine.storage.sql.migrations import HEAD, schema_version, sign, unsign, upgrade, upgrade_sql
from actionengine.storage.sql.protection import protect
from actionengine.storage.sqlite.storage import SQLiteStorage

app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)
db = typer.Typer(no_args_is_help=True, help="The schema of a database.")
tenant = typer.Typer(no_args_is_help=True, help="The tenants in a database.")
keys = typer.Typer(no_args_is_help=True, help="Idempotency keys.")
app.add_typer(db, name="db")
app.add_typer(tenant, name="tenant")
app.add_typer(keys, name="keys")
app.add_typer(retention, name="retention")
db.add_typer(partition, name="partition")
tenant.command("purge", epilog=example("tenant purge --tenant acme --dry-run"))(purge_tenant)
app.add_typer(log, name="log")
app.add_typer(approvals, name="approvals")
app.add_typer(runs, name="runs")
app.add_typer(changes, name="changes")
app.add_typer(budgets, name="budgets")
app.add_typer(relay, name="relay")
app.add_typer(projection, name="projection")
app.add_typer(workflows, name="workflows")
app.add_typer(runner, name="runner")
app.command(epilog=example("events --tenant acme --type jobs.booked"))(events)
app.command(epilog=example("new shop --framework flask"))(new)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"actionengine {__version__}")
        raise typer.Exit


@app.callback()
def actionengine(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and exit.")
    ] = False,
) -> None:
    """Operate the databases of actionengine, the governed pipeline for every change of state."""


@db.command("upgrade", epilog=example("db upgrade --app-role app --operator-role operator"))
def upgrade_command(
    url: Url,
    app_role: Annotated[str | None, typer.Option(help="Grant this role the rights of a host (PostgreSQL).")] = None,
    relay_role: Annotated[
        str | None, typer.Option(help="Grant this role the rights of a relay, and the hosts' role only those of hosts.")
    ] = None,
    operator_role: Annotated[
        str | None,
        typer.Option(help="Grant this role the rights of hosts and of relays, under row-level security (PostgreSQL)."),
    ] = None,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL for an empty database, and change nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Upgrade the schema to the newest version, as its owner."""
    if sql:
        script = upgrade_sql(dialect_of(url), app_role, relay_role, operator_role)
        write_answer(json, {"sql": script}, script)
        return
    if dialect_of(url) == "sqlite":
        with SQLiteStorage(url):
            pass
    else:
        with owner(url) as connection:
            upgrade(connection, app_role, relay_role, operator_role)
    roles = [role for role in (app_role, relay_role, operator_role) if role is not None]
    lines = (f"the schema is at version {HEAD}", *(escape(f"the role {role} has its grants") for role in roles))
    write_answer(json, {"version": HEAD, "roles": roles}, *lines)


@db.command(epilog=example("db current --url sqlite:///app.db"))
def current(url: Url, json: Json = False) -> None:
    """Print the version of the schema."""
    if is_missing(url):
        version = None
    else:
        with owner(url) as connection:
            version = schema_version(connection)
    line = "there is no schema" if version is None else f"version {version} of {HEAD}"
    write_answer(json, {"version": version, "newest": HEAD}, line)


@db.command(epilog=example("db check --metadata app.models:Base"))
def check(
    url: Url,
    signing_key: SigningKey = None,
    metadata: Annotated[
        str | None,
        typer.Option(help="module:attribute of a MetaData or declarative base: its protected tables are checked."),
    ] = None,
    unprotected: Annotated[
        list[str] | None,
        typer.Option(help="A table with a column tenant_id that needs no protection: table, or schema.table; repeat."),
    ] = None,
    json: Json = False,
) -> None:
    """Check the role, the schema, the signing key and the protection of tables, as a host does when it starts."""
    declared = None if metadata is None else imported_metadata(metadata)
    check_exists(url)
    if dialect_of(url) == "sqlite":
        with owner(url) as connection:
            version = schema_version(connection)
            if version != HEAD:
                fail(f"the schema has version {version}, this library needs {HEAD}: run `actionengine db upgrade`")
            problems = find_problems(connection, declared, unprotected or ())
    else:
        check_driver()
        from actionengine.storage.postgres.storage import PostgresStorage

        with (
            PostgresStorage(url, signing_key=signing_key, protected=declared or (), prepared_statements=False),
            owner(url) as connection,
        ):
            problems = find_problems(connection, declared, unprotected or ())
    if problems:
        fail("\n".join(problems))
    write_answer(json, {"version": HEAD}, f"the schema is at version {HEAD}, and a host can work with it")


@db.command("protect", epilog=example("db protect invoices --app-role app"))
def protect_command(
    table: Annotated[str, typer.Argument(help="The table's exact name, without quotes.")],
    url: Url,
    schema: Annotated[str | None, typer.Option(help="The schema of the table.")] = None,
    tenant_column: Annotated[str, typer.Option(help="The column with the tenant of a row.")] = "tenant_id",
    app_role: Annotated[str | None, typer.Option(help="Grant this role the rights of a handler (PostgreSQL).")] = None,
    json: Json = False,
) -> None:
    """Protect a table of the host and its partitions, as its owner. The command can be repeated."""
    check_exists(url)
    with owner(url) as connection:
        protect(connection, table, schema, tenant_column, app_role)
    write_answer(json, {"table": table}, escape(f"the table {table} is protected"))


@db.command("sign", epilog=example("db sign --url postgresql://owner@localhost/app"))
def sign_command(url: Url, signing_key: SigningKey = None, json: Json = False) -> None:
    """Make the database verify the tenant of each transaction (PostgreSQL). Without a key, create one."""
    if dialect_of(url) == "sqlite":
        fail("SQLite verifies no signatures: it has no row-level security")
    key = signing_key or secrets.token_urlsafe(32)
    with owner(url) as connection:
        id = sign(connection, key)
    created = None if signing_key is not None else key
    lines = [f"stored the signing key {id}; each host needs it:"]
    if created is not None:
        lines.append(f"ACTIONENGINE_SIGNING_KEY={created}")
    write_answer(json, {"id": id, "key": created}, *lines)


@db.command("unsign", epilog=example("db unsign --signing-key the-key-before"))
def unsign_command(url: Url, signing_key: SigningKey = None, json: Json = False) -> None:
    """Remove a signing key that no host uses any more."""
    if signing_key is None:
        fail("give the key to remove: --signing-key")
    with owner(url) as connection:
        found = unsign(connection, signing_key)
    write_answer(json, {"removed": found}, "the key is removed" if found else "there was no such key")


@tenant.command(epilog=example("tenant create acme --name 'Acme Plumbing'"))
def create(
    slug: str,
    url: Url,
    name: Annotated[str, typer.Option(help="The name for people.")],
    signing_key: SigningKey = None,
    json: Json = False,
) -> None:
    """Create a tenant and print its id."""
    with open_storage(url, signing_key) as storage:
        created = storage.create_tenant(slug=slug, name=name)
    write_answer(json, _as_json(created), str(created.id))


@tenant.command(epilog=example("tenant delete acme"))
def delete(slug: str, url: Url, signing_key: SigningKey = None, json: Json = False) -> None:
    """Delete a tenant: no action is executed for it any more. Its rows stay."""
    with open_storage(url, signing_key) as storage:
        if not storage.delete_tenant(slug=slug):
            fail(f"there is no tenant {slug!r}")
    write_answer(json, {"slug": slug}, f"the tenant {slug!r} is deleted")


@tenant.command("list", epilog=example("tenant list --json"))
def list_tenants(url: Url, signing_key: SigningKey = None, json: Json = False) -> None:
    """List the tenants."""
    found: list[Tenant] = []
    with open_storage(url, signing_key) as storage:
        while page := storage.list_tenants(after=found[-1].slug if found else None, limit=MAX_PAGE):
            found += page
    lines = [f"{each.id}  {each.slug}" for each in found] or ["there are no tenants"]
    write_answer(json, {"items": list(map(_as_json, found)), "next": None}, *lines)


def _as_json(tenant: Tenant) -> dict[str, str]:
    return {"id": str(tenant.id), "slug": tenant.slug}


@keys.command(epilog=example("keys purge --batch 500"))
def purge(
    url: Url,
    batch: Annotated[int, typer.Option(help="Keys in a batch.")] = 1000,
    signing_key: SigningKey = None,
    json: Json = False,
) -> None:
    """Remove the expired idempotency keys, and counters of budgets whose window is over, in batches."""
    purged = 0
    with open_storage(url, signing_key) as storage:
        while found := storage.purge_expired_keys(limit=batch):
            purged += found
    write_answer(json, {"purged": purged}, f"purged {purged} keys")
