"""The tenants of events in the publisher of workflows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from actionengine import InMemoryStorage
from actionengine.concurrency.run_sync import run_sync
from actionengine.durable.client import DurableClient
from actionengine.events.event import Event
from actionengine.testing import AsyncBackend
from actionengine.testing.backend import make_tenant
from actionengine.workflows import WorkflowPublisher
from actionengine.workflows.runtime.scheduler import Scheduler
from tests.workflows.harness import Harness, RecordingClient, note


def test_the_tenants_of_events_are_those_of_the_storage(tmp_path: Path) -> None:
    backend = AsyncBackend(InMemoryStorage())
    backend.tenant = run_sync(_created(backend))
    backend.other_tenant = make_tenant()
    harness = Harness(backend)
    publisher = WorkflowPublisher(harness.engine, tmp_path / "durable.sqlite")
    client = RecordingClient()
    publisher._scheduler = Scheduler(cast("DurableClient", client))

    async def test() -> None:
        await harness.start(await harness.define(note("a")))
        stored = await backend.read_events(harness.tenant, types=["workflows.started"])
        assert await publisher.publish([Event.of(each.position, each.event) for each in stored]) == {}
        assert client.enqueued[0].arguments[1] == "acme"

    backend.run(test())
    backend.close()


async def _created(backend: AsyncBackend) -> Any:
    return backend.storage.create_tenant(slug="acme", name="Acme")
