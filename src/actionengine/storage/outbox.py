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
"""The queues of the outbox: every event for the host, the events that advance runs, and the events that may trigger
runs. Each queue has its own order, dead letters and relays."""


class PendingEvent(NamedTuple):
    """An event that a relay has taken from the outbox; `attempts` counts the failed deliveries."""

    position: int
    event: EventRow
    attempts: int


class FailedDelivery(NamedTuple):
    """A failed delivery. The next attempt is due in `retry_in` seconds; None makes the event a dead letter. `counts` is
    False for an attempt that does not count against the limit."""

    pending: PendingEvent
    reason: str
    retry_in: float | None
    counts: bool = True


class DeadLetter(NamedTuple):
    """An event that is no longer delivered, since `since`; `skipped` when an operator has given it up."""

    event: EventRow
    attempts: int
    reason: str
    since: datetime
    skipped: bool
    queue: str = EVENTS


class RelayHeartbeat(NamedTuple):
    """The report of a relay about itself, every few seconds. `rate` is events a second since the report before; `error`
    is the current obstacle."""

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
"""The bound of the numbers in an `OutboxStatus`, and of the lag of a projection: it stands for that many or more."""


class OutboxStatus(NamedTuple):
    """The state of one queue, over all tenants.

    `pending` events are not delivered yet; `waiting` of them wait for another attempt, and `held` are behind dead
    letters or behind events that wait. `dead` letters and `skipped` ones are counted apart. `oldest` is the time of the
    oldest pending event. `relays` reported within the last minute; the one that started first comes first.

    Each number is at most 10 000, which stands for that many or more.
    """

    pending: int
    waiting: int
    dead: int
    skipped: int
    oldest: datetime | None
    relays: Sequence[RelayHeartbeat]
    held: int = 0


class QueueStatus(NamedTuple):
    """The undelivered events of one tenant in one queue. The fields are those of `OutboxStatus`.

    Each number is at most 10 000, which stands for that many or more. `pending` and `oldest` are found among the first
    40 000 rows of the tenant in the queue, dead letters and skipped events included.
    """

    queue: str
    pending: int
    waiting: int
    held: int
    dead: int
    skipped: int
    oldest: datetime | None


MAX_EXAMINED = 4 * MAX_COUNTED_LAG
"""Rows of a queue that a `QueueStatus` reads to find pending events."""


class Outbox(Protocol):
    """The undelivered events of one queue, of all tenants, as one relay or one operator sees them.

    Queues are independent: the state of an event in one queue does not affect it in another one.

    A taken event belongs to its relay until it is settled or released. It becomes free again when the relay is dead, or
    has been silent for as long as its lease. The events of one tenant and subject come in order, whichever relay takes
    them: while one of them waits for another attempt, or is a dead letter that is not skipped, those after it are held
    back. Events without a subject have no order.
    """

    async def take(self, limit: int, lease: float) -> Sequence[PendingEvent]:
        """Take up to `limit` due events for `lease` seconds. The event whose payload reaches 4 MiB is the last one."""

    async def extend(self) -> None:
        """Begin the lease anew. Raise `StorageUnavailable` when it is over."""

    async def settle(self, delivered: Sequence[PendingEvent], failed: Sequence[FailedDelivery]) -> None:
        """Remove the delivered events, record the failed ones, and release the rest of the taken ones.

        Raise `StorageUnavailable`, also when the lease is over: the events may then be delivered again.
        """

    async def release(self) -> None:
        """Release the taken events, unchanged. Never raise."""

    async def wait(self, seconds: float) -> None:
        """Wait until there may be something to take, or until the time is up."""

    def wake(self) -> None:
        """End a wait now. May be called from any thread."""

    async def heartbeat(self, beat: RelayHeartbeat) -> None:
        """Publish the report of this relay."""

    async def status(self) -> OutboxStatus:
        """Return the number of undelivered events, and the relays."""

    async def dead_letters(self, *, after: str | None = None, limit: int = 100) -> Sequence[DeadLetter]:
        """Return dead letters and skipped events by event id, those after the id `after`; at most 1 000."""

    async def redrive(self, ids: Sequence[str] | None = None) -> int:
        """Deliver dead letters again from the first attempt on: those with these event ids, or all that are not
        skipped. Return their number."""

    async def skip(self, ids: Sequence[str], reason: str) -> int:
        """Give up dead letters with these event ids, so that their subjects continue without them. Return their
        number."""

    async def close(self) -> None:
        """Release the resources of this object."""
