"""What runs beside a host so that events have consequences: the relay, the board's projection, and the runtime that
takes the steps of workflows.

Any number of processes may run it at once; one is enough.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from actionengine import Actor, Engine, Fanout, Publisher, Relay, Subscriptions
from actionengine.events.publishers.addresses import publisher_from_address
from actionengine.workflows import WorkflowRuntime
from examples.field_service.app import HostStorage
from examples.field_service.board import create_board
from examples.field_service.events import job_completed


def create_subscriptions(engine: Engine) -> Subscriptions:
    """What happens by itself, and as whom: like everybody, a workflow may do what its role allows."""
    subscriptions = Subscriptions(engine)
    subscriptions.subscribe(
        job_completed,
        "invoices.draft",
        actor=Actor.workflow("billing"),
        payload=lambda event: {"job_id": event.read(job_completed).id},
    )
    return subscriptions


def create_runtime(engine: Engine, url: str) -> WorkflowRuntime:
    """What takes the steps of workflows. What they may do is in storage, as the role of `workflow:<key>`; the durable
    engine's tables are made in a SQLite file, and in PostgreSQL they have to be there."""
    return WorkflowRuntime(engine, url, set_up=not url.startswith("postgres"))


def is_wanted() -> bool:
    """`RELAY=0` leaves it to another process."""
    return os.environ.get("RELAY", "1") != "0"


def named_publishers() -> list[Publisher]:
    """The broker that `ACTIONENGINE_PUBLISHER` names, such as `nats://127.0.0.1:4222?stream=events`."""
    address = os.environ.get("ACTIONENGINE_PUBLISHER")
    return [publisher_from_address(address)] if address else []


class Background:
    """The relay, to our own subscriptions and perhaps to a broker, and the board; with `workflows`, the URL of the
    durable engine's tables, a runtime too. A process has one runtime."""

    def __init__(
        self, storage: HostStorage, engine: Engine, *publishers: Publisher, workflows: str | None = None
    ) -> None:
        self._runtime = create_runtime(engine, workflows) if workflows else None
        everywhere = Fanout(create_subscriptions(engine), *publishers)
        self.relay = Relay(storage, everywhere, event_types=engine.event_types)
        self.board = create_board(engine)
        self._storage = storage

    @asynccontextmanager
    async def in_tasks(self) -> AsyncIterator[None]:
        """Run it as long as the block, under the host's event loop. Steps are taken in threads of the runtime's."""
        if self._runtime:
            await asyncio.to_thread(self._runtime.start)
        tasks = [asyncio.create_task(self.relay.run_async()), asyncio.create_task(self.board.run_async())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._runtime:
                await asyncio.to_thread(self._runtime.stop)

    @contextmanager
    def in_thread(self) -> Iterator[None]:
        """The same for a synchronous host: in a thread, under an event loop of its own."""
        stop = threading.Event()
        thread = threading.Thread(target=asyncio.run, args=(self._run(stop),), name="background")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    async def _run(self, stop: threading.Event) -> None:
        async with self.in_tasks():
            await asyncio.to_thread(stop.wait)
        await self._storage.aclose()  # the connections of this event loop
