"""One batch of a projection: events that go into a generation, in one transaction with its checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from actionengine.errors import ActionError, ErrorCode
from actionengine.events.projections.views import CHECKPOINTS, Checkpoint, View
from actionengine.pipeline.internal_context import InternalContext
from actionengine.storage.rows import StoredEvent


class Batch:
    """Events of a `page`, and the checkpoint after them, the `target`.

    `before` is the generation's checkpoint before them; `others` are checkpoints that are written with the target.
    `stored` is the target as it was written.
    `stopped_at` is the index of the event that could not be applied; `is_lost` says that another runner was faster.
    """

    def __init__(
        self,
        page: Sequence[StoredEvent],
        before: Checkpoint,
        target: Checkpoint | None = None,
        others: Sequence[Checkpoint] = (),
    ) -> None:
        target = target or before
        self.page = page
        self.before = before
        self.target = replace(target, position=max(target.position, page[-1].position)) if page else target
        self.stopped_at: int | None = None
        self.is_lost = False
        self._others = others
        self.stored = self.target

    @property
    def reason(self) -> str:
        """The reason in the action log."""
        if not self.page:
            return f"generation {self.target.generation}: {self.target.phase}"
        return f"generation {self.target.generation}: positions {self.page[0].position} to {self.page[-1].position}"

    def up_to(self, index: int) -> Batch:
        """Return a batch of the events before this one, for the same generation."""
        return Batch(self.page[:index], self.before)

    async def begin(self, ctx: InternalContext) -> None:
        """Write the checkpoints, which locks out other runners. Raise `ActionError(conflict)` if one was faster."""
        self.stopped_at = None
        checkpoints = ctx.unit_of_work.records(CHECKPOINTS)
        try:
            for checkpoint in self._others:
                await checkpoint.store(checkpoints)
            self.stored = await self.target.store(checkpoints)
        except ActionError as refusal:
            self.is_lost = refusal.code is ErrorCode.CONFLICT
            raise

    async def end(self, ctx: InternalContext, view: View) -> None:
        """Store the names of new collections in the checkpoint."""
        if view.collections != set(self.target.collections):
            collections = tuple(sorted(view.collections))
            await replace(self.stored, collections=collections).store(ctx.unit_of_work.records(CHECKPOINTS))


def switching(page: Sequence[StoredEvent], rebuild: Checkpoint, live: Checkpoint) -> Batch:
    """Return the last batch of a rebuild: it makes the new generation the live one, and marks the old one for removal.

    The new generation then has all events that `live` has, so that the live generation never goes back.
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
