"""A queue of the outbox of `InMemoryStorage`: its lanes, which are ready, waiting, taken or held."""

from __future__ import annotations

import heapq
import threading
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from operator import attrgetter
from time import monotonic
from uuid import UUID

from actionengine.concurrency.one_shot_event import OneShotEvent
from actionengine.concurrency.run_sync import Mode
from actionengine.storage.errors import StorageUnavailable
from actionengine.storage.outbox import (
    EVENTS,
    MAX_COUNTED_LAG,
    DeadLetter,
    FailedDelivery,
    OutboxStatus,
    PendingEvent,
    QueueStatus,
    RelayHeartbeat,
)
from actionengine.storage.pages import MAX_PAGE_BYTES, page_size
from actionengine.storage.records import event_id
from actionengine.storage.rows import EventRow

PartitionKey = tuple[int, str]
"""A tenant's id as a number, and a subject or the id of an event without one."""


class Entry:
    """An undelivered event."""

    __slots__ = ("attempts", "event", "is_delivered", "lane", "number", "position", "reason", "since", "skipped")

    def __init__(self, position: int, event: EventRow, number: int) -> None:
        self.position = position
        self.event = event
        self.number = number
        self.is_delivered = False
        self.lane = (event.tenant_id.int, event.id if event.subject is None else event.subject)
        self.attempts = 0
        self.reason = ""
        self.since: datetime | None = None
        self.skipped = False

    def letter(self, queue: str) -> DeadLetter:
        """Return the dead letter."""
        assert self.since is not None
        return DeadLetter(self.event, self.attempts, self.reason, self.since, self.skipped, queue)


class Queues:
    """The undelivered events of one queue of a storage. A lane is ready, waits, is taken by a relay, or is held by the
    dead letter at its head. All counts are kept up to date."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lanes: dict[PartitionKey, deque[Entry]] = {}
        self.ready: deque[PartitionKey] = deque()
        self.waiting: list[tuple[float, int, PartitionKey]] = []
        self.taken: dict[MemoryOutbox, tuple[float, list[PartitionKey]]] = {}
        self.dead: dict[str, Entry] = {}
        self.dead_ids: list[str] = []
        self.in_order: list[tuple[int, int, Entry]] = []
        self.blocked: set[PartitionKey] = set()
        self.pending = self.held = self.skipped = 0
        self.of_tenant: dict[UUID, dict[int, Entry]] = {}
        """The undelivered events of each tenant by their number, dead letters and skipped events included."""
        self.relays: dict[str, RelayHeartbeat] = {}
        self.sleepers: set[Callable[[], object]] = set()
        self.ticket = count()

    def add(self, position: int, event: EventRow) -> None:
        """Add a committed event."""
        with self.lock:
            entry = Entry(position, event, next(self.ticket))
            lane = self.lanes.get(entry.lane)
            if lane is None:
                self.lanes[entry.lane] = deque((entry,))
                self.ready.append(entry.lane)
            else:
                lane.append(entry)
                self.held += bool(self.blocked) and entry.lane in self.blocked
            self.of_tenant.setdefault(event.tenant_id, {})[entry.number] = entry
            self.await_delivery(entry)
            self.wake()

    def await_delivery(self, entry: Entry) -> None:
        """Count an event as undelivered."""
        self.pending += 1
        heapq.heappush(self.in_order, (entry.number, next(self.ticket), entry))

    def delivered(self, entry: Entry) -> None:
        """Drop a delivered event."""
        entry.is_delivered = True
        self.pending -= 1
        del self.of_tenant[entry.event.tenant_id][entry.number]

    def oldest(self) -> datetime | None:
        """Return the time of the oldest pending event."""
        while self.in_order:
            entry = self.in_order[0][2]
            if not entry.is_delivered and entry.since is None:
                return entry.event.occurred_at
            heapq.heappop(self.in_order)
        return None

    def block(self, lane: PartitionKey) -> None:
        """Record that the first event of a lane holds the others back."""
        self.blocked.add(lane)
        self.held += len(self.lanes[lane]) - 1

    def unblock(self, lane: PartitionKey) -> None:
        """Record that the first event of a lane no longer holds the others back."""
        self.blocked.discard(lane)
        self.held -= len(self.lanes[lane]) - 1

    def bury(self, entry: Entry) -> None:
        """Make an event a dead letter."""
        entry.since = datetime.now(UTC)
        self.pending -= 1
        self.dead[entry.event.id] = entry
        insort(self.dead_ids, entry.event.id)

    def dig_up(self, id: str) -> Entry:
        """Make a dead letter pending again."""
        entry = self.dead.pop(id)
        del self.dead_ids[bisect_left(self.dead_ids, id)]
        entry.attempts, entry.since = 0, None
        self.await_delivery(entry)
        return entry

    def redrive(self, ids: Iterable[str]) -> int:
        """Deliver dead letters again, without those that are none; return their number."""
        entries = [self.dig_up(id) for id in dict.fromkeys(ids) if id in self.dead]
        for entry in entries:
            if entry.skipped:
                # Its subject has continued without it.
                entry.skipped = False
                self.skipped -= 1
                entry.lane = (entry.event.tenant_id.int, entry.event.id)
                self.lanes[entry.lane] = deque((entry,))
            else:
                self.unblock(entry.lane)
            self.ready.append(entry.lane)
        self.wake()
        return len(entries)

    def skip(self, ids: Iterable[str], reason: str) -> int:
        """Give up dead letters, without those that are given up; return their number."""
        entries = [self.dead[id] for id in dict.fromkeys(ids) if id in self.dead and not self.dead[id].skipped]
        for entry in entries:
            entry.skipped = True
            self.skipped += 1
            entry.reason = f"{entry.reason}; skipped: {reason}"
            self.unblock(entry.lane)
            self.lanes[entry.lane].popleft()
            self.free(entry.lane)
        self.wake()
        return len(entries)

    def status_of(self, tenant_id: UUID, queue: str) -> QueueStatus:
        """Count the undelivered events of one tenant."""
        self.refresh()
        waiting = held = dead = skipped = 0
        pending: list[Entry] = []
        for entry in self.of_tenant.get(tenant_id, {}).values():
            if entry.since is not None:
                dead, skipped = dead + (not entry.skipped), skipped + entry.skipped
                continue
            pending.append(entry)
            if entry.lane in self.blocked:
                waiting, held = (waiting + 1, held) if self.lanes[entry.lane][0] is entry else (waiting, held + 1)
        first = min(pending, key=attrgetter("number"), default=None)
        oldest = first.event.occurred_at if first is not None else None
        counts = (min(each, MAX_COUNTED_LAG) for each in (len(pending), waiting, held, dead, skipped))
        return QueueStatus._make((queue, *counts, oldest))

    def letters_of(self, tenant_id: UUID, later_than: str) -> list[Entry]:
        """Return the dead letters and skipped events of one tenant after an id, by id."""
        entries = self.of_tenant.get(tenant_id, {}).values()
        dead = [entry for entry in entries if entry.since is not None and entry.event.id > later_than]
        return sorted(dead, key=lambda entry: entry.event.id)

    def wake(self) -> None:
        """Wake the waiting relays."""
        while self.sleepers:
            self.sleepers.pop()()

    def free(self, lane: PartitionKey) -> None:
        """Make a lane ready if it has events."""
        if self.lanes.get(lane):
            self.ready.append(lane)
        else:
            self.lanes.pop(lane, None)

    def refresh(self) -> None:
        """Make lanes ready whose wait is over, or whose lease has expired."""
        now = monotonic()
        while self.waiting and self.waiting[0][0] <= now:
            lane = heapq.heappop(self.waiting)[2]
            self.unblock(lane)
            self.ready.append(lane)
        for owner in [owner for owner, (until, _) in self.taken.items() if until <= now]:
            for lane in self.taken.pop(owner)[1]:
                self.free(lane)


class MemoryOutbox:
    """A queue of the outbox, for one relay or operator."""

    def __init__(self, queues: Queues, mode: Mode, queue: str = EVENTS) -> None:
        self._queues = queues
        self._mode = mode
        self._queue = queue
        self._lease = 0.0
        self._woken = False
        self._signal: OneShotEvent | None = None

    async def take(self, limit: int, lease: float) -> Sequence[PendingEvent]:
        """Take due events."""
        queues = self._queues
        self._lease = lease
        found: list[PendingEvent] = []
        await self.release()
        with queues.lock:
            queues.refresh()
            lanes: list[PartitionKey] = []
            total = 0
            while queues.ready and len(found) < limit and total < MAX_PAGE_BYTES:
                name = queues.ready.popleft()
                lanes.append(name)
                for entry in queues.lanes[name]:
                    if len(found) == limit or total >= MAX_PAGE_BYTES:
                        break
                    found.append(PendingEvent(entry.position, entry.event, entry.attempts))
                    total += len(entry.event.payload)
            if lanes:
                queues.taken[self] = (monotonic() + lease, lanes)
        return found

    async def extend(self) -> None:
        """Begin the lease anew."""
        with self._queues.lock:
            self._queues.taken[self] = (monotonic() + self._lease, self._taken())

    async def settle(self, delivered: Sequence[PendingEvent], failed: Sequence[FailedDelivery]) -> None:
        """Remove delivered events, record failed ones, and release the rest."""
        queues = self._queues
        with queues.lock:
            lanes = self._taken()
            done = {pending.event.id for pending in delivered}
            failures = {failure.pending.event.id: failure for failure in failed}
            for name in lanes:
                entries = queues.lanes[name]
                while entries and entries[0].event.id in done:
                    queues.delivered(entries.popleft())
                failure = failures.get(entries[0].event.id) if entries else None
                if failure is None:
                    queues.free(name)
                    continue
                entry = entries[0]
                entry.attempts += failure.counts
                entry.reason = failure.reason
                queues.block(name)
                if failure.retry_in is None:
                    queues.bury(entry)
                else:
                    heapq.heappush(queues.waiting, (monotonic() + failure.retry_in, next(queues.ticket), name))
            del queues.taken[self]
            # Drop delivered entries, which stay until all before them are delivered.
            queues.oldest()
            queues.wake()

    async def release(self) -> None:
        """Release the taken events."""
        queues = self._queues
        with queues.lock:
            _, lanes = queues.taken.pop(self, (0.0, []))
            queues.ready.extendleft(reversed(lanes))
            if lanes:
                queues.wake()

    async def wait(self, seconds: float) -> None:
        """Wait until there may be something to take."""
        queues = self._queues
        with queues.lock:
            queues.refresh()
            if queues.ready or self._woken:
                self._woken = False
                return
            if queues.waiting:
                seconds = min(seconds, max(0.0, queues.waiting[0][0] - monotonic()))
            signal = self._signal = OneShotEvent(self._mode)
            queues.sleepers.add(signal.set)
        try:
            await signal.wait(seconds)
        finally:
            with queues.lock:
                self._signal = None
                self._woken = False
                queues.sleepers.discard(signal.set)

    def wake(self) -> None:
        """End a wait now."""
        with self._queues.lock:
            self._woken = True
            if self._signal is not None:
                self._signal.set()

    async def heartbeat(self, beat: RelayHeartbeat) -> None:
        """Publish the report of this relay."""
        relays = self._queues.relays
        with self._queues.lock:
            if beat.id not in relays:
                yesterday = datetime.now(UTC) - timedelta(days=1)
                for id in [id for id, known in relays.items() if known.seen_at < yesterday]:
                    del relays[id]
            relays[beat.id] = beat._replace(queue=self._queue)

    async def status(self) -> OutboxStatus:
        """Return the number of undelivered events, and the relays."""
        queues = self._queues
        recently = datetime.now(UTC) - timedelta(minutes=1)
        with queues.lock:
            queues.refresh()
            dead = len(queues.dead) - queues.skipped
            counts = (queues.pending, len(queues.waiting), dead, queues.skipped, queues.held)
            oldest = queues.oldest()
            relays = [beat for beat in queues.relays.values() if beat.seen_at > recently]
        relays.sort(key=lambda beat: beat.started_at)
        pending, waiting, dead, skipped, held = (min(each, MAX_COUNTED_LAG) for each in counts)
        return OutboxStatus(pending, waiting, dead, skipped, oldest, relays, held)

    async def dead_letters(self, *, after: str | None = None, limit: int = 100) -> Sequence[DeadLetter]:
        """Return dead letters and skipped events by event id."""
        limit = page_size(limit)
        later_than = event_id(after) if after is not None else ""
        queues = self._queues
        found: list[DeadLetter] = []
        with queues.lock:
            start = bisect_right(queues.dead_ids, later_than)
            for id in queues.dead_ids[start : start + limit]:
                found.append(queues.dead[id].letter(self._queue))
        return found

    async def redrive(self, ids: Sequence[str] | None = None) -> int:
        """Deliver dead letters again; return their number."""
        queues = self._queues
        named = None if ids is None else list(map(event_id, ids))
        with queues.lock:
            wanted = [id for id, entry in queues.dead.items() if not entry.skipped] if named is None else named
            return queues.redrive(wanted)

    async def skip(self, ids: Sequence[str], reason: str) -> int:
        """Give up dead letters; return their number."""
        queues = self._queues
        named = list(map(event_id, ids))
        with queues.lock:
            return queues.skip(named, reason)

    async def close(self) -> None:
        """Release the taken events."""
        await self.release()

    def _taken(self) -> list[PartitionKey]:
        taken = self._queues.taken.get(self)
        if taken is None:
            raise StorageUnavailable("the lease of this relay is over: another relay may deliver its events")
        return taken[1]
