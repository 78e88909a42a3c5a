"""Whose an event is, for the publisher that sets runs going."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from actionengine import InMemoryStorage
from actionengine.concurrency.run_sync import drive
from actionengine.durable.client import DurableClient
from actionengine.events.event import Event
from actionengine.testing import AsyncWorld
from actionengine.testing.worlds import a_tenant
from actionengine.workflows import WorkflowPublisher
from actionengine.workflows.runtime.scheduler import Agenda
from tests.workflows.desk import Desk, RecordingClient, note


def test_the_tenants_of_events_are_those_of_the_storage(tmp_path: Path) -> None:
    world = AsyncWorld(InMemoryStorage())
    world.tenant = drive(_created(world))
    world.other_tenant = a_tenant()
    desk = Desk(world)
    publisher = WorkflowPublisher(desk.engine, tmp_path / "durable.sqlite")
    client = RecordingClient()
    publisher._agenda = Agenda(cast("DurableClient", client))

    async def test() -> None:
        await desk.start(await desk.define(note("a")))
        stored = await world.read_events(desk.tenant, types=["workflows.started"])
        assert await publisher.publish([Event.of(each.position, each.event) for each in stored]) == {}
        assert client.enqueued[0].arguments[1] == "acme"

    world.run(test())
    world.close()


async def _created(world: AsyncWorld) -> Any:
    return world.storage.create_tenant(slug="acme", name="Acme")
