"""`Projection`: a view made of a tenant's events, kept up to date, and rebuilt while the old one stays readable.

Each batch of events and the checkpoint after it commit together, so that an event takes effect exactly once. A runner
first writes the checkpoint, which locks it; of several runners one proceeds, and the others see that they have lost. A
rebuild fills the next generation in the same way, with a checkpoint of its own, and becomes live in the transaction
that applies its last events. (Blue-green rebuilds of read models: Young, "Versioning in an Event Sourced System", 2017,
ch. "Building a new read model".)
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from returns.result import Result, Success

from actionengine.action_context import ActionContext
from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.context import Tenant
from actionengine.engine import Engine
from actionengine.errors import ActionError, ConfigurationError
from actionengine.events.consumers.consumer import as_result, validate_name
from actionengine.events.projections.catch_up import Apply, CatchUp, Definition, Discard
from actionengine.events.projections.progress import Progress
from actionengine.events.projections.rebuild import Rebuild
from actionengine.events.projections.runner import ProjectionRunner
from actionengine.events.projections.views import AsyncLiveRecords, LiveRecords
from actionengine.events.replay import type_names, validate_batch_size
from actionengine.pipeline.internal_context import InternalContext
from actionengine.storage.outbox import MAX_COUNTED_LAG


@dataclass(frozen=True, slots=True)
class ProjectionStatus:
    """The progress of a tenant's projection.

    `generation` is the live one and `position` that of its newest event; `rebuilding` is the position of a rebuild, or
    None; `lag` is the number of events that the live generation lacks (10 000 stands for that many or more).
    """

    generation: int
    position: int
    rebuilding: int | None
    lag: int


class Projection:
    """A named view of each tenant's events.

    Args:
        engine: executes the batches. They stand in the action log as `projections.<name>`, by the actor
            `system:projection:<name>`. Its event types upcast old payloads to their newest versions.
        name: the name of checkpoints and documents.
        apply: `apply(event, view)`, `def` or `async def`, puts an event into the view. It must depend on nothing else,
            or a rebuild gives another view. An error that it raises stops the projection of that tenant at this event.
        types: the event types to apply; None means all.
        batch_size: the number of events that commit together, 1000 at most.
        discard: `discard(view)`, `def` or `async def`, removes a generation from tables of the host's own.

    Raises:
        ConfigurationError: for an argument that cannot be used.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        name: str,
        apply: Apply,
        types: Iterable[str] | None = None,
        batch_size: int = 200,
        discard: Discard | None = None,
    ) -> None:
        self.name = validate_name("a projection", name)
        for argument, function in (("apply", apply), ("discard", discard or apply)):
            if not callable(function):
                raise ConfigurationError(f"the projection {name!r}: {argument} must be a function, not {function!r}")
        self.storage = engine.storage
        self._definition = Definition(
            engine=engine,
            name=name,
            apply=apply,
            discard=discard,
            types=type_names(types),
            batch_size=validate_batch_size(batch_size),
        )

    # Running

    def catch_up(self, tenant: Tenant) -> Result[int, ActionError]:
        """Apply the events after the checkpoint, and return the number that this call has applied.

        The `Failure` names the event at which the projection has stopped: all before it are in the view, and the next
        call begins with it.
        """
        return run_sync(as_result(self._in("sync").run(tenant)))

    async def catch_up_async(self, tenant: Tenant) -> Result[int, ActionError]:
        """Do the same under an event loop, for an `async def apply` or a `def` one."""
        return await as_result(self._in("async").run(tenant))

    def rebuild(self, tenant: Tenant, progress: Progress | None = None) -> Result[int, ActionError]:
        """Build the next generation of the view, and return the number of events that this call has applied. Meanwhile
        the live generation can be read and caught up.

        At the end the new generation becomes the live one, and the old one is removed. After an interruption, the next
        call goes on where this one was; after a change of `apply`, call `abandon_rebuild` first. `progress(done,
        total)` is called after each batch, with numbers of events; for it, the events are counted first.

        The `Failure` is that of `catch_up`, or `conflict` if the rebuild was abandoned.
        """
        return run_sync(as_result(Rebuild(self._in("sync")).run(tenant, progress)))

    async def rebuild_async(self, tenant: Tenant, progress: Progress | None = None) -> Result[int, ActionError]:
        """Do the same under an event loop."""
        return await as_result(Rebuild(self._in("async")).run(tenant, progress))

    def abandon_rebuild(self, tenant: Tenant) -> Result[bool, ActionError]:
        """Remove the generation of an unfinished rebuild, and return whether there was one."""
        return run_sync(as_result(Rebuild(self._in("sync")).abandon(tenant)))

    async def abandon_rebuild_async(self, tenant: Tenant) -> Result[bool, ActionError]:
        """Do the same under an event loop."""
        return await as_result(Rebuild(self._in("async")).abandon(tenant))

    def run(
        self,
        tenants: Sequence[Tenant] | None = None,
        *,
        stop: threading.Event | None = None,
        poll_interval: float = 0.5,
    ) -> None:
        """Catch up with these tenants, or with all of the storage's, until `stop` is set.

        After a round without events it waits `poll_interval` seconds. A projection that has stopped is logged, and
        tried again after a time that doubles up to a minute.
        """
        stop = stop or threading.Event()
        runner = ProjectionRunner(self._in("sync"), tenants, stop.is_set)
        while not stop.is_set():
            if not run_sync(runner.run_once()):
                stop.wait(poll_interval)

    async def run_async(self, tenants: Sequence[Tenant] | None = None, *, poll_interval: float = 0.5) -> None:
        """Do the same under an event loop, until the task is cancelled."""
        runner = ProjectionRunner(self._in("async"), tenants, lambda: False)
        while True:
            if not await runner.run_once():
                await asyncio.sleep(poll_interval)

    # Reading

    def status(self, tenant: Tenant) -> Result[ProjectionStatus, ActionError]:
        """Return the progress of a tenant's projection."""
        return run_sync(as_result(_status(self._in("sync"), tenant)))

    async def status_async(self, tenant: Tenant) -> Result[ProjectionStatus, ActionError]:
        """Do the same under an event loop."""
        return await as_result(_status(self._in("async"), tenant))

    def read(self, ctx: ActionContext, collection: str = "") -> LiveRecords:
        """Return documents of the live view, read only, in the transaction of an action's `def` handler."""
        ctx._require("def", "projection.read", "projection.read_async")
        inner = InternalContext.of(ctx)
        return LiveRecords(inner.run_sync(self._live(inner, collection)), inner.run_sync)

    async def read_async(self, ctx: ActionContext, collection: str = "") -> AsyncLiveRecords:
        """Do the same in an `async def` handler."""
        ctx._require("async def", "projection.read_async", "projection.read")
        return await self._live(InternalContext.of(ctx), collection)

    async def _live(self, ctx: InternalContext, collection: str) -> AsyncLiveRecords:
        records = AsyncLiveRecords(ctx, self.name, collection)
        await records.is_superseded()
        return records

    def _in(self, mode: Mode) -> CatchUp:
        return CatchUp(self._definition, mode)


async def _status(catch_up: CatchUp, tenant: Tenant) -> Result[ProjectionStatus, ActionError]:
    live = await catch_up.checkpoint(tenant, catch_up.definition.name)
    rebuild = await catch_up.checkpoint(tenant, catch_up.definition.rebuild_id)
    rebuilding = rebuild.position if rebuild.phase == "filling" else None
    lag = await catch_up.count(tenant, live.position, MAX_COUNTED_LAG)
    return Success(ProjectionStatus(live.generation, live.position, rebuilding, lag))
