"""An engine for one test: actions on notes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any
from uuid import uuid4

from returns.result import Result, Success

from actionengine import ActionContext, Engine, RequestContext, create_action, create_engine, create_service
from actionengine.storage.port import Storage
from actionengine.storage.rows import LogQuery
from actionengine.testing import Backend
from tests.crash.ledger import request_of


def put(data: None, ctx: ActionContext) -> Result[None, Any]:
    ctx.records("notes").insert({})
    return Success(None)


def look(data: None, ctx: ActionContext) -> Result[int, Any]:
    return Success(len(ctx.records("notes").list()))


def notes_request(backend: Backend) -> RequestContext:
    return request_of(backend.tenant, uuid4().hex)


def notes_engine(
    storage: Storage, read_only: Collection[str] = (), timeout: float | None = None, **handlers: Callable[..., Any]
) -> Engine:
    """Return an engine with a service `notes`, which has an action for each handler."""
    actions = [
        create_action(
            name=name, description="What the test needs", handler=handler, timeout=timeout, read_only=name in read_only
        )
        for name, handler in handlers.items()
    ]
    return create_engine(services=[create_service(name="notes", description="Notes", actions=actions)], storage=storage)


def run_note(backend: Backend, engine: Engine, action: str, request: RequestContext | None = None) -> Result[Any, Any]:
    """Execute an action of `notes`, by default in a new request."""
    return backend.run(backend.execute(engine, "notes", action, None, request or notes_request(backend)))


def outcomes(backend: Backend) -> list[str]:
    """Return the outcomes of the tenant's executions in the action log, oldest first."""

    async def read() -> list[str]:
        async with backend.reading() as unit:
            return [row.outcome for row in reversed(await unit.read_log(LogQuery(limit=1000)))]

    return backend.run(read())


def nothing_is_written(backend: Backend) -> bool:
    """Check that there is no note, no event, and no outcome but `failed`."""
    assert backend.run(backend.ids("notes")) == []
    assert list(backend.run(backend.read_events(backend.tenant))) == []
    assert set(outcomes(backend)) <= {"failed"}
    return True
