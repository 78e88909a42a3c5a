"""One batch of a projection: events on their way into a generation, in one transaction with its checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from actionengine.errors import ActionError, ErrorCode
from actionengine.events.projections.views import CHECKPOINTS, Checkpoint, View
from actionengine.pipeline.internal_context import InternalContext
from actionengine.storage.port import StoredEvent


class Batch:
    """Events, and the checkpoint behind them, the `target`.

    `before` is the checkpoint of the generation without them; `beside` are others that are written with it.
    `stored` is the target as it was written.
    `stopped_at` is the index of the event that could not be applied; `is_lost` says that another runner was faster.
    """

    def __init__(
        self,
        page: Sequence[StoredEvent],
        before: Checkpoint,
        target: Checkpoint | None = None,
        beside: Sequence[Checkpoint] = (),
    ) -> None:
        target = target or before
        self.page = page
        self.before = before
        self.target = replace(target, position=max(target.position, page[-1].position)) if page else target
        self.stopped_at: int | None = None
        self.is_lost = False
        self._beside = beside
        self.stored = self.target

    @property
    def reason(self) -> str:
        """What the action log says of it."""
        if not self.page:
            return f"generation {self.target.generation}: {self.target.phase}"
        return f"generation {self.target.generation}: positions {self.page[0].position} to {self.page[-1].position}"

    def up_to(self, index: int) -> Batch:
        """The events before one, into the same generation."""
        return Batch(self.page[:index], self.before)

    async def begin(self, ctx: InternalContext) -> None:
        """Write the checkpoints, which locks out other runners. Raises `ActionError(conflict)` where one was
        faster."""
        self.stopped_at = None
        checkpoints = ctx.unit_of_work.records(CHECKPOINTS)
        try:
            for checkpoint in self._beside:
                await checkpoint.store(checkpoints)
            self.stored = await self.target.store(checkpoints)
        except ActionError as refusal:
            self.is_lost = refusal.code is ErrorCode.CONFLICT
            raise

    async def end(self, ctx: InternalContext, view: View) -> None:
        """Note the collections that are new."""
        if view.collections != set(self.target.collections):
            collections = tuple(sorted(view.collections))
            await replace(self.stored, collections=collections).store(ctx.unit_of_work.records(CHECKPOINTS))


def switching(page: Sequence[StoredEvent], rebuild: Checkpoint, live: Checkpoint) -> Batch:
    """The last events of a rebuild: with them its generation becomes the live one, and the old one is to be removed.

    With them it has all that `live` has, so that the live generation never goes back.
    """
    return Batch(
        page,
        rebuild,
        replace(
            live,
            generation=rebuild.generation,
            position=max(live.position, rebuild.position),
            collections=rebuild.collections,
        ),
        [replace(rebuild, phase="removing", generation=live.generation, collections=live.collections)],
    )
