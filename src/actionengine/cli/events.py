"""`actionengine events` and `actionengine projection ...`: read a tenant's history, and rebuild projections."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

import typer
from returns.result import Failure
from sqlalchemy.exc import ProgrammingError

from actionengine.cli.common import Json, SigningKey, Url, counted, example, imported, open_storage, owner
from actionengine.cli.errors import fail
from actionengine.cli.output import write_answer
from actionengine.concurrency.run_sync import run_sync
from actionengine.context import Tenant
from actionengine.events.projections.progress import progress_bar
from actionengine.events.projections.projection import Projection
from actionengine.events.publishers.cloudevents import to_structured
from actionengine.events.replay import replay
from actionengine.storage.port import Storage
from actionengine.storage.sql.maintenance.leaving import find_closed_tenant

projection = typer.Typer(no_args_is_help=True, help="Views that are computed from events.")

Slug = Annotated[str, typer.Option("--tenant", help="The tenant's slug.")]
Named = Annotated[str, typer.Argument(help="module:attribute of a Projection.", metavar="PROJECTION")]


def events(
    url: Url,
    tenant: Slug,
    type: Annotated[list[str] | None, typer.Option(help="Only events of this type; repeat for more types.")] = None,
    after: Annotated[int, typer.Option(help="Only events after this position.")] = 0,
    signing_key: SigningKey = None,
) -> None:
    """Print a tenant's events in commit order, each as a CloudEvent in a line of JSON.

    The owner of the tables reads those of a closed tenant too, until they are purged.
    """
    with open_storage(url, signing_key) as storage:
        found = run_sync(storage.find_tenant(tenant, "sync")) or _closed_tenant(url, tenant)
        for event in replay(storage, found, types=type or None, after=after):
            print(to_structured(event, "actionengine")[1].decode())


@projection.command(epilog=example("projection rebuild app.views:board --tenant acme"))
def rebuild(name: Named, tenant: Slug, json: Json = False) -> None:
    """Rebuild a projection beside the live one, and switch to it. An interrupted rebuild continues when repeated."""
    found = _projection(name)
    with nullcontext() if json else progress_bar(f"{found.name} of {tenant}") as show:
        answer = found.rebuild(_tenant(found.storage, tenant), show)
    if isinstance(answer, Failure):
        fail(str(answer.failure()))
    write_answer(json, {"applied": answer.unwrap()}, f"applied {answer.unwrap()} events")


@projection.command(epilog=example("projection status app.views:board --tenant acme"))
def status(name: Named, tenant: Slug, json: Json = False) -> None:
    """Print the position of a projection."""
    found = _projection(name)
    answer = found.status(_tenant(found.storage, tenant))
    if isinstance(answer, Failure):
        fail(str(answer.failure()))
    known = answer.unwrap()
    rebuilding = "" if known.rebuilding is None else f", a rebuild is at position {known.rebuilding}"
    progress = f"generation {known.generation} is at position {known.position}"
    write_answer(json, known, f"{progress}, {counted(known.lag)} events behind{rebuilding}")


def _tenant(storage: Storage, slug: str) -> Tenant:
    found = run_sync(storage.find_tenant(slug, "sync"))
    if found is None:
        fail(f"there is no tenant {slug!r}")
    return found


def _closed_tenant(url: str, slug: str) -> Tenant:
    try:
        with owner(url) as connection:
            return Tenant(find_closed_tenant(connection, slug), slug)
    except ProgrammingError:
        # Only the owner reads the directory of tenants.
        fail(f"there is no tenant {slug!r}; if it is closed, connect as the owner of the tables")


def _projection(name: str) -> Projection:
    found = imported(name)
    if not isinstance(found, Projection):
        fail(f"{name} is not a Projection: give its module:attribute")
    return found
