"""Pages of runs hear of runs that start, stop and end."""

from __future__ import annotations

import asyncio

from returns.result import Success
from starlette.requests import Request

from actionengine import Actor, InMemoryStorage, RequestContext, create_action, create_engine, create_service
from actionengine.console import live
from actionengine.console.live import Live
from actionengine.console.visit import Visit
from actionengine.event_types import EventType
from actionengine.workflows import workflow_services
from actionengine.workflows.runs import events

ANN = Actor.human("ann", permissions=["workflows.*"])
STEPS = {"steps": [{"name": "note", "type": "action", "action": "notes.put", "input": {}}]}


def test_the_types_of_events_are_those_of_runs() -> None:
    known = {each.type for each in vars(events).values() if isinstance(each, EventType)}

    assert set(live._TYPES["runs"]) == {
        type for type in known if type.startswith("workflows.") and "assign" not in type and "notification" not in type
    }


def test_a_poll_names_runs_that_have_started() -> None:
    notes = create_service(
        name="notes",
        description="Notes",
        actions=[create_action(name="put", description="Put", handler=lambda data: Success(None))],
    )
    storage = InMemoryStorage()
    engine = create_engine(services=[*workflow_services(), notes], storage=storage)
    context = RequestContext(storage.create_tenant(slug="acme", name="Acme"), ANN)

    async def enter(request: Request) -> Visit:
        return Visit(engine, request, context, frozenset({"workflows.list", "relay.status"}))

    def poll(after: str) -> list[str]:
        scope = {"type": "http", "method": "GET", "path": "/live/poll", "query_string": f"after={after}".encode()}

        async def answer() -> list[str]:
            response = await Live(engine, enter).poll(await enter(Request({**scope, "headers": []})))
            return response.headers.get("hx-trigger", "").split(", ")

        return asyncio.run(answer())

    def do(name: str, **payload: object) -> None:
        engine.execute_action("workflows", name, payload, context).unwrap()

    def cursor() -> str:
        assert context.tenant is not None
        return str(asyncio.run(Live(engine, enter).cursor(context.tenant)))

    do("define", key="note", definition=STEPS)
    do("activate", key="note")
    before = cursor()
    engine.execute_action("notes", "put", {}, context).unwrap()
    assert poll(before) == ["lag"]
    do("start", key="note", input={})
    assert poll(before) == ["runs", "lag"]
    # Approvals are not named to a caller that may not list them.
    assert poll("") == ["runs", "lag"]
