"""A small host: a warehouse whose one action moves items in and out, with an event for each move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from returns.result import Failure, Result, Success

from actionengine import (
    ActionContext,
    ActionError,
    Actor,
    Engine,
    RequestContext,
    Storage,
    Tenant,
    create_action,
    create_engine,
    create_service,
)
from actionengine.events.event import Event
from actionengine.events.projections.views import View
from actionengine.events.replay import replay
from actionengine.testing import Backend

SYSTEM = Actor.system("clerk")


def move(data: dict[str, Any], ctx: ActionContext) -> Result[None, str]:
    for _ in range(data.get("times", 1)):
        ctx.emit(data.get("type", "stock.moved"), data, subject=f"item/{data['item']}")
    return Success(None)


def stock_engine(storage: Storage, **options: Any) -> Engine:
    action = create_action(name="move", description="Move things", handler=move)
    service = create_service(name="stock", description="A warehouse", actions=[action])
    return create_engine(services=[service, *options.pop("services", ())], storage=storage, **options)


def moved(engine: Engine, tenant: Tenant, **data: Any) -> None:
    """Move an item, in sync mode."""
    engine.execute_action("stock", "move", data, RequestContext(tenant, SYSTEM)).unwrap()


class Stock:
    """A warehouse on a backend."""

    def __init__(self, backend: Backend, **options: Any) -> None:
        self.backend = backend
        self.engine = stock_engine(backend.storage, **options)

    async def move(self, item: str, by: int = 1, tenant: Tenant | None = None, **more: Any) -> None:
        context = RequestContext(tenant or self.backend.tenant, SYSTEM)
        data = {"item": item, "by": by, **more}
        (await self.backend.execute(self.engine, "stock", "move", data, context)).unwrap()

    async def events(self, tenant: Tenant | None = None) -> list[Event]:
        stored = await self.backend.read_events(tenant or self.backend.tenant)
        return [Event.of(position, row) for position, row in stored]

    async def log(self, action: str, tenant: Tenant | None = None) -> Sequence[Any]:
        """Return rows of the action log, oldest first."""
        context = RequestContext(tenant or self.backend.tenant, Actor.system("auditor"))
        query = {"action": action, "limit": 1000}
        answer = await self.backend.execute(self.engine, "action_log", "list", query, context)
        return list(reversed(answer.unwrap().items))

    async def ask(self, asked: Any, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method, or its async twin."""
        if self.backend.mode == "sync":
            return getattr(asked, method)(*arguments, **options)
        return await getattr(asked, f"{method}_async")(*arguments, **options)


def history(engine: Engine, tenant: Tenant) -> list[Event]:
    """Return all events of a tenant, in sync mode."""
    return list(replay(engine.storage, tenant))


def add_up(event: Event, view: View) -> None:
    """Build a view that shows any lost, repeated or misplaced event."""
    levels = view.records("levels")
    item, by = event.payload["item"], event.payload["by"]
    found = levels.get(item)
    if found is None:
        levels.insert({"level": by, "trail": digest(0, event)}, item)
    else:
        data = {"level": found.data["level"] + by, "trail": digest(found.data["trail"], event)}
        levels.update(item, data, found.version)
    if by < 0:
        view.records("outgoing").insert({"item": item}, event.id)


async def add_up_async(event: Event, view: View) -> None:
    levels = view.async_records("levels")
    item, by = event.payload["item"], event.payload["by"]
    found = await levels.get(item)
    if found is None:
        await levels.insert({"level": by, "trail": digest(0, event)}, item)
    else:
        data = {"level": found.data["level"] + by, "trail": digest(found.data["trail"], event)}
        await levels.update(item, data, found.version)
    if by < 0:
        await view.async_records("outgoing").insert({"item": item}, event.id)


def digest(before: int, event: Event) -> int:
    return (before * 31 + event.position) % 1_000_003


def folded(events: Sequence[Event]) -> dict[str, Any]:
    """Return the view that `add_up` makes of events."""
    levels: dict[str, Any] = {}
    for event in events:
        item, by = event.payload["item"], event.payload["by"]
        found = levels.get(item, {"level": 0, "trail": 0})
        levels[item] = {"level": found["level"] + by, "trail": digest(found["trail"], event)}
    outgoing = {event.id: {"item": event.payload["item"]} for event in events if event.payload["by"] < 0}
    return {"levels": levels, "outgoing": outgoing}


def failure_of(answer: Result[Any, ActionError]) -> ActionError:
    assert isinstance(answer, Failure), answer
    error: ActionError = answer.failure()
    return error
