"""The outbox in a SQLite file. One relay at a time delivers what is in a queue: writers take turns here anyway.

It holds a lease, which is free again where its process is dead, or has let it run out. Nothing is locked while events
are being published.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from time import monotonic
from typing import Any
from uuid import uuid4

from pydantic_core import to_json

from actionengine.concurrency.one_shot_event import OneShotEvent
from actionengine.concurrency.run_sync import Mode
from actionengine.storage.clock import steady_now
from actionengine.storage.errors import StorageError, StorageUnavailable
from actionengine.storage.outbox import (
    MAX_COUNTED_LAG,
    DeadLetter,
    FailedDelivery,
    OutboxStatus,
    PendingEvent,
    RelayHeartbeat,
)
from actionengine.storage.pages import page_size
from actionengine.storage.records import event_id
from actionengine.storage.sqlite.database import Rows, SQLiteDatabase
from actionengine.storage.sqlite.rows import bind_time, event_row
from actionengine.storage.sqlite.statements import (
    DEAD_LETTERS,
    DELETE_DELIVERED,
    DELETE_STALE_RELAYS,
    HAS_LEASE,
    HOLD,
    IS_BEHIND,
    LEASE,
    NEXT_DUE,
    OUTBOX_STATUS,
    READ_LEASE,
    READ_OUTBOX,
    READ_RELAYS,
    RECORD_FAILURE,
    REDRIVE,
    REDRIVE_ALL,
    RELEASE,
    RELEASE_LEASE,
    RETURN,
    RETURN_ALL,
    SKIP,
    WRITE_HEARTBEAT,
)

_Place = tuple[str, int, int]
"""The tenant, the lane and the position of an event."""

_LAST_POSITION = 2**63 - 1

_MAX_SLEEP = 0.25
"""Seconds after which a relay looks whether another process has written."""


class SQLiteOutbox:
    """A queue of the outbox, for one relay or operator."""

    def __init__(self, database: SQLiteDatabase, mode: Mode, queue: str) -> None:
        self._database = database
        self._mode = mode
        self._queue = queue
        self._owner = str(uuid4())
        self._lease = 0.0
        self._until = 0.0
        self._woken = False
        self._signal: OneShotEvent | None = None
        self._waited: dict[int, _Place] = {}

    async def take(self, limit: int, lease: float) -> Sequence[PendingEvent]:
        """Take what is due, where no other relay is at work."""
        self._lease = lease
        rows = await self._read(limit)
        if not rows:
            await self.release()
            await self._hold()
            return []
        # Half of a lease is left, as long as one batch follows another: then there is nothing to write.
        if self._until - monotonic() < lease / 2:
            if not await self._lease_is_ours():
                return []
            rows = await self._read(limit)
        self._waited = _those_that_waited(rows)
        if self._waited:
            # What one has held back whose time has come is taken with it.
            (released,) = await self._write(self._release(self._waited.values()))
            if released:
                rows = await self._read(limit)
                self._waited = _those_that_waited(rows)
        return [PendingEvent(position, event_row(event), tries) for _, _, tries, position, *event in rows]

    async def extend(self) -> None:
        """Begin the lease anew."""
        if not await self._lease_is_ours():
            raise _lease_is_over()

    async def settle(self, delivered: Sequence[PendingEvent], failed: Sequence[FailedDelivery]) -> None:
        """Forget what was delivered, note what failed."""
        done = [(str(pending.event.tenant_id), pending.position, self._queue) for pending in delivered]
        notes = []
        for failure in failed:
            due_at = self._in(failure.retry_in) if failure.retry_in is not None else None
            dead_at = self._now() if failure.retry_in is None else None
            pending = failure.pending
            scope = (str(pending.event.tenant_id), pending.position, self._queue)
            event_id = pending.event.id if dead_at is not None else None
            notes.append((int(failure.counts), failure.reason, due_at, dead_at, event_id, *scope))
        last = max((pending.position for pending in (*delivered, *(failure.pending for failure in failed))), default=0)
        waited = [self._waited[each.position] for each in delivered if each.position in self._waited]
        # Who has lost the lease knows no longer what others have made of these events.
        written = await self._write(
            (DELETE_DELIVERED, (to_json(done).decode(),)),
            *((RECORD_FAILURE, note) for note in notes),
            *([self._release(waited)] if waited else []),
            (HOLD, self._up_to(last)),
            condition=(HAS_LEASE, (self._queue, self._owner)),
        )
        if not written:
            raise _lease_is_over()

    async def release(self) -> None:
        """Let another relay have its turn."""
        if self._until:
            with suppress(StorageError):
                await self._write((RELEASE_LEASE, (self._queue, self._owner)))
            self._until = 0.0

    async def wait(self, seconds: float) -> None:
        """Wait until there may be something to take."""
        if not self._woken:
            now = self._now()
            ((due_at,),) = await self._query(NEXT_DUE, (self._queue, now))
            if due_at is not None:
                seconds = min(seconds, (datetime.fromisoformat(due_at) - steady_now()).total_seconds())
            signal = self._signal = OneShotEvent(self._mode)
            self._database.sleeping_relays.add(signal.set)
            try:
                if not self._woken and not await self._query(READ_OUTBOX, (self._queue, now, now, 1)):
                    await signal.wait(min(max(0.0, seconds), _MAX_SLEEP))
                elif not self._until:
                    # Another relay is at work on it.
                    await signal.wait(min(seconds, 0.02))
            finally:
                self._signal = None
                self._database.sleeping_relays.discard(signal.set)
        self._woken = False

    def wake(self) -> None:
        """End the waiting now."""
        self._woken = True
        signal = self._signal
        if signal is not None:
            signal.set()

    async def heartbeat(self, beat: RelayHeartbeat) -> None:
        """Record that this relay is at work."""
        times: dict[str, Any] = {"started_at": bind_time(beat.started_at), "seen_at": bind_time(beat.seen_at)}
        values = beat._replace(queue=self._queue, **times)
        await self._write((DELETE_STALE_RELAYS, (self._in(-86400.0),)), (WRITE_HEARTBEAT, values))

    async def status(self) -> OutboxStatus:
        """Return how much there is to deliver, and by which relays."""
        ((free, waiting, dead, skipped, held, oldest),) = await self._query(
            OUTBOX_STATUS, (self._queue, self._now(), MAX_COUNTED_LAG)
        )
        pending = min(free + held, MAX_COUNTED_LAG)
        time = datetime.fromisoformat
        relays = []
        for row in await self._query(READ_RELAYS, (self._queue, self._in(-60.0))):
            beat: Any = RelayHeartbeat(*row)
            relays.append(beat._replace(started_at=time(beat.started_at), seen_at=time(beat.seen_at)))
        return OutboxStatus(pending, waiting, dead, skipped, time(oldest) if oldest else None, relays, held)

    async def dead_letters(self, *, after: str | None = None, limit: int = 100) -> Sequence[DeadLetter]:
        """Dead letters and skipped events, by event id."""
        later_than = event_id(after) if after is not None else ""
        rows = await self._query(DEAD_LETTERS, (self._queue, later_than, page_size(limit)))
        return [
            DeadLetter(event_row(event), attempts, reason, datetime.fromisoformat(dead_at), bool(skipped), self._queue)
            for attempts, reason, dead_at, skipped, *event in rows
        ]

    async def redrive(self, ids: Sequence[str] | None = None) -> int:
        """Try dead letters again."""
        now = self._now()
        if ids is None:
            return await self._change((RETURN_ALL, (now, self._queue, now)), (REDRIVE_ALL, (now, self._queue)))
        these = to_json(list(map(event_id, ids))).decode()
        return await self._change((RETURN, (now, self._queue, these, now)), (REDRIVE, (now, self._queue, these)))

    async def skip(self, ids: Sequence[str], reason: str) -> int:
        """Give up dead letters."""
        now = self._now()
        these = to_json(list(map(event_id, ids))).decode()
        return await self._change(
            (RETURN, (now, self._queue, these, now)), (SKIP, (f"; skipped: {reason}", self._queue, these))
        )

    async def close(self) -> None:
        """Give back what this object holds."""
        await self.release()

    async def _lease_is_ours(self) -> bool:
        until = monotonic() + self._lease
        now = self._now()
        rows = await self._query(READ_LEASE, (self._queue, self._owner, now))
        if rows and _is_alive(rows[0][0]):
            return False
        other = rows[0][1] if rows else self._owner
        values = (self._queue, self._owner, os.getpid(), self._in(self._lease), now, self._owner, other)
        # Known before it is written, so that it is given back where this is cancelled meanwhile.
        self._until = until
        (changed,) = await self._write((LEASE, values))
        self._until = until if changed else 0.0
        return bool(changed)

    async def _read(self, limit: int) -> Rows:
        now = self._now()
        return await self._query(READ_OUTBOX, (self._queue, now, now, limit))

    def _release(self, waited: Iterable[_Place]) -> tuple[str, Sequence[Any]]:
        """Return the statement that lets go what is behind these."""
        now = self._now()
        return RELEASE, (now, to_json([(*place, self._queue) for place in waited]).decode(), now)

    def _up_to(self, position: int) -> tuple[Any, ...]:
        """Return what `IS_BEHIND` and `HOLD` are asked with."""
        now = self._now()
        return self._queue, position, now, now

    async def _hold(self) -> None:
        """Mark what is held back, so that the next look does not pass it."""
        everything = self._up_to(_LAST_POSITION)
        if await self._query(IS_BEHIND, everything):
            await self._write((HOLD, everything))

    async def _change(self, *statements: tuple[str, Sequence[Any]]) -> int:
        *_, changed = await self._write(*statements)
        self._database.wake_relays()
        return len(changed)

    async def _query(self, statement: str, parameters: Sequence[Any]) -> Rows:
        return await self._database.run(self._mode, self._database.query, self._mode, statement, parameters)

    async def _write(
        self, *statements: tuple[str, Sequence[Any]], condition: tuple[str, Sequence[Any]] | None = None
    ) -> list[Rows]:
        return await self._database.run(self._mode, self._database.write, self._mode, statements, condition)

    def _now(self) -> str:
        return self._in(0.0)

    def _in(self, seconds: float) -> str:
        return bind_time(steady_now() + timedelta(seconds=seconds))


def _lease_is_over() -> StorageUnavailable:
    return StorageUnavailable("the lease of this relay is over: another relay may deliver its events")


def _those_that_waited(rows: Iterable[tuple[Any, ...]]) -> dict[int, _Place]:
    """Return where those of a batch are, by position, behind which others may be held back."""
    return {row[3]: (row[5], row[0], row[3]) for row in rows if row[1] is not None}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
