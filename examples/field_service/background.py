"""The background work of a host: the relay, the projection of the board, and the runtime of the workflows.

Any number of processes may run it at once; one is enough.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext

from actionengine import Actor, Engine, Fanout, Publisher, Relay, Subscriptions
from actionengine.events.publishers.addresses import publisher_from_address
from actionengine.workflows import WorkflowRuntime
from examples.field_service.app import HostStorage
from examples.field_service.board import create_board
from examples.field_service.events import job_completed


def create_subscriptions(engine: Engine) -> Subscriptions:
    """Return the subscriptions: actions that events start, and their actors. A workflow may do what its role allows."""
    subscriptions = Subscriptions(engine)
    subscriptions.subscribe(
        job_completed,
        "invoices.draft",
        actor=Actor.workflow("billing"),
        payload=lambda event: {"job_id": event.read(job_completed).id},
    )
    return subscriptions


def create_runtime(engine: Engine, url: str) -> WorkflowRuntime:
    """Return the runtime of the workflows, whose rights are the role of `workflow:<key>` in storage.

    It makes the durable engine's tables in a SQLite file; in PostgreSQL they must exist."""
    return WorkflowRuntime(engine, url, set_up=not url.startswith("postgres"))


def is_wanted() -> bool:
    """Return whether this process does the work; `RELAY=0` leaves it to another one."""
    return os.environ.get("RELAY", "1") != "0"


def named_publishers() -> list[Publisher]:
    """Return the broker that `ACTIONENGINE_PUBLISHER` names, such as `nats://127.0.0.1:4222?stream=events`."""
    address = os.environ.get("ACTIONENGINE_PUBLISHER")
    return [publisher_from_address(address)] if address else []


def running(
    storage: HostStorage, engine: Engine, relay: bool, workflows: str | None
) -> Callable[[object], AbstractAsyncContextManager[None]]:
    """Return the lifespan of an ASGI application: it closes the storage, and with `relay` it does the work."""

    @asynccontextmanager
    async def run(app: object) -> AsyncIterator[None]:
        background = Background(storage, engine, *named_publishers(), workflows=workflows) if relay else None
        async with storage, background.in_tasks() if background else nullcontext():
            yield

    return run


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
        """Run it for the length of the block, in the host's event loop. The runtime takes steps in its own threads."""
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
        """Run it for a synchronous host: in a thread with its own event loop."""
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
