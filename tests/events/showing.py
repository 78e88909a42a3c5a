"""Readers of a projection's view, through an action of a host."""

from __future__ import annotations

from typing import Any

from returns.result import Result, Success

from actionengine import ActionContext, Actor, RequestContext, Storage, Tenant, create_action, create_engine
from actionengine.actions import create_service
from actionengine.concurrency.run_sync import run_sync
from actionengine.events.projections.projection import Projection
from actionengine.events.projections.views import AsyncLiveRecords, LiveRecords
from actionengine.testing import Backend


def view_of(storage: Storage, projection: Projection, tenant: Tenant) -> dict[str, Any]:
    """Return all documents of the live generation, in sync mode."""
    answer = _engine(storage, projection).execute_action("view", "show", None, RequestContext(tenant, Actor.system()))
    shown: dict[str, Any] = answer.unwrap()
    return shown


async def shown(backend: Backend, projection: Projection, tenant: Tenant | None = None) -> dict[str, Any]:
    """Return all documents of the live generation, in the mode of a backend."""
    action = "show" if backend.mode == "sync" else "show_async"
    context = RequestContext(tenant or backend.tenant, Actor.system())
    answer = await backend.execute(_engine(backend.storage, projection), "view", action, None, context)
    documents: dict[str, Any] = answer.unwrap()
    return documents


def documents_left(storage: Storage, tenant: Tenant, projection: str, generation: int) -> int:
    """Return the number of documents of a generation."""
    unit = storage.unit_of_work(tenant, "", "sync", read_only=True)
    try:
        names = [f"ae_view/{projection}/{generation}/{name}" for name in ("levels", "outgoing")]
        return sum(len(run_sync(unit.records(name).list(limit=1000))) for name in names)
    finally:
        run_sync(unit.rollback())


def _engine(storage: Storage, projection: Projection) -> Any:
    def show(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        return Success({name: _all(projection.read(ctx, name)) for name in ("levels", "outgoing")})

    async def show_async(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        names = ("levels", "outgoing")
        return Success({name: await _all_async(await projection.read_async(ctx, name)) for name in names})

    actions = [
        create_action(name=handler.__name__, description="Show a view", handler=handler, read_only=True)
        for handler in (show, show_async)
    ]
    return create_engine(services=[create_service(name="view", description="Views", actions=actions)], storage=storage)


def _all(records: LiveRecords) -> dict[str, Any]:
    found: dict[str, Any] = {}
    after = None
    while page := records.list(limit=3, after=after):
        found.update({record.id: record.data for record in page})
        after = page[-1].id
    assert all(record.data == found[record.id] for id in found if (record := records.get(id)))
    return found


async def _all_async(records: AsyncLiveRecords) -> dict[str, Any]:
    return {record.id: record.data for record in await records.list(limit=1000)}
