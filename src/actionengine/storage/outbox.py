"""The port of the outbox: queues of events to deliver, as relays and operators see them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from actionengine.storage.rows import EventRow

EVENTS = "events"
WORKFLOWS = "workflows"
TRIGGERS = "triggers"

QUEUES = (EVENTS, WORKFLOWS, TRIGGERS)
"""The queues of the outbox: the host's, which every event goes into; what moves runs on; and what may trigger some.
Each has an order of its own, dead letters of its own, and relays of its own."""


class PendingEvent(NamedTuple):
    """An event that a relay has taken from the outbox; `attempts` to deliver it have failed so far."""

    position: int
    event: EventRow
    attempts: int


class FailedDelivery(NamedTuple):
    """An attempt to deliver an event that has failed; the next is due in `retry_in` seconds. None: it is a dead letter
    from now on. `counts` says whether the attempt is one of those that an event has."""

    pending: PendingEvent
    reason: str
    retry_in: float | None
    counts: bool = True


class DeadLetter(NamedTuple):
    """An event that is not tried any more, since `since`; `skipped` where an operator has given it up."""

    event: EventRow
    attempts: int
    reason: str
    since: datetime
    skipped: bool
    queue: str = EVENTS


class RelayHeartbeat(NamedTuple):
    """What a relay tells of itself every few seconds: `rate` is events a second since the beat before, `error` what
    keeps it from its work at the moment."""

    id: str
    name: str
    publisher: str
    started_at: datetime
    seen_at: datetime
    delivered: int
    failed: int
    rate: float
    error: str | None
    queue: str = EVENTS


MAX_COUNTED_LAG = 10_000
"""What the numbers of an `OutboxStatus`, and the lag of a projection, count to: it stands for that many or more."""


class OutboxStatus(NamedTuple):
    """What is still to be delivered from one queue, over all tenants: `pending` events, of which `waiting` wait for
    another attempt; `dead` letters, and those that were `skipped`; since when the `oldest` pending one waits; the
    `relays` that have told of themselves within a minute, the one that has started first before the others; how many of
    the pending events a relay has found `held` back by dead letters, or by events that wait for another attempt.

    Each number counts to 10 000, which stands for that many or more."""

    pending: int
    waiting: int
    dead: int
    skipped: int
    oldest: datetime | None
    relays: Sequence[RelayHeartbeat]
    held: int = 0


class Outbox(Protocol):
    """The events of one queue that are still to be delivered, of all tenants, as one relay (or one operator) sees them.

    Queues share nothing: what is taken, waits or is dead in one of them says nothing of the same event in another one.

    What a relay has taken no other one gets, until it is settled or given back; that of a relay which is dead, or has
    not been heard of for as long as its lease, is free again. Whoever takes them, the events of one tenant and subject
    come in their order: while one of them waits for another attempt, or is a dead letter that nobody has skipped, those
    after it are not given out. Events without a subject have no order.
    """

    async def take(self, limit: int, lease: float) -> Sequence[PendingEvent]:
        """Take up to `limit` events that are due, for `lease` seconds; none where there are none. The event whose
        payload reaches 4 MiB is the last one."""

    async def extend(self) -> None:
        """Begin the lease anew. Raises `StorageUnavailable` where it is over."""

    async def settle(self, delivered: Sequence[PendingEvent], failed: Sequence[FailedDelivery]) -> None:
        """Forget what was delivered, note what failed, and give back the rest of what was taken.

        Raises `StorageUnavailable`, and may do so where the lease is over: then it may be delivered again.
        """

    async def release(self) -> None:
        """Give back what was taken, as if it had not been. Never raises."""

    async def wait(self, seconds: float) -> None:
        """Wait until there may be something to take, or until the time is up."""

    def wake(self) -> None:
        """End the waiting now. May be called from any thread."""

    async def heartbeat(self, beat: RelayHeartbeat) -> None:
        """Let others know of this relay."""

    async def status(self) -> OutboxStatus:
        """How much there is to deliver, and who does it."""

    async def dead_letters(self, *, after: str | None = None, limit: int = 100) -> Sequence[DeadLetter]:
        """Dead letters and skipped events, by event id, those after the id `after`; at most 1 000."""

    async def redrive(self, ids: Sequence[str] | None = None) -> int:
        """Try dead letters again from the first attempt on, those with these event ids, or all but the skipped ones;
        how many there were."""

    async def skip(self, ids: Sequence[str], reason: str) -> int:
        """Give up dead letters with these event ids: their subjects go on without them; how many there were."""

    async def close(self) -> None:
        """Give back what this object holds."""
