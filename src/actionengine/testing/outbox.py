"""The outbox: relays take and settle events, in order per subject, however many relays there are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from actionengine.errors import ErrorCode
from actionengine.storage.errors import StorageUnavailable
from actionengine.storage.outbox import (
    EVENTS,
    QUEUES,
    TRIGGERS,
    WORKFLOWS,
    DeadLetter,
    FailedDelivery,
    Outbox,
    PendingEvent,
    RelayHeartbeat,
)
from actionengine.storage.rows import EventRow, Recording, Route
from actionengine.testing.backend import Backend, run_in_mode
from actionengine.testing.base import Conformance, value_of
from actionengine.testing.rows import START, event_row
from actionengine.testing.sample import SampleHarness

LEASE = 30.0
"""A lease in seconds, longer than any of these tests."""

SHORT_LEASE = 0.2


async def settle_all(backend: Backend, *queue: str) -> None:
    """Settle the events that other tests have left in a queue; by default the queue `events`."""
    outbox = backend.storage.outbox(backend.mode, *queue)
    try:
        while True:
            await outbox.redrive()
            batch = await outbox.take(1000, LEASE)
            if not batch:
                break
            await outbox.settle(batch, ())
    finally:
        await outbox.close()


@asynccontextmanager
async def relays(backend: Backend, number: int = 1) -> AsyncIterator[list[Outbox]]:
    """Open the outbox for `number` relays; it is empty before and afterwards."""
    await settle_all(backend)
    opened = [backend.storage.outbox(backend.mode) for _ in range(number)]
    try:
        yield opened
    finally:
        for outbox in opened:
            await outbox.close()
        await settle_all(backend)


@asynccontextmanager
async def queues(backend: Backend) -> AsyncIterator[list[Outbox]]:
    """Open each queue for a relay; all are empty before and afterwards."""
    for queue in QUEUES:
        await settle_all(backend, queue)
    opened = [backend.storage.outbox(backend.mode, queue) for queue in QUEUES]
    try:
        yield opened
    finally:
        for outbox in opened:
            await outbox.close()
        for queue in QUEUES:
            await settle_all(backend, queue)


async def commit_about(backend: Backend, *subjects: str | None) -> list[str]:
    """Commit an event about each subject, one after the other, and return their ids."""
    rows = [event_row(backend.tenant, subject=subject) for subject in subjects]
    for row in rows:
        await commit_events(backend, row)
    return [row.id for row in rows]


async def commit_events(backend: Backend, *events: EventRow) -> None:
    """Commit events."""
    async with backend.writing() as unit:
        await unit.record(Recording((), events))


def ids(batch: Sequence[PendingEvent]) -> list[str]:
    """Return the ids of the events of a batch."""
    return [pending.event.id for pending in batch]


async def letter_of(outbox: Outbox, id: str) -> DeadLetter:
    """Return the dead letter of an event. Other tests may have left skipped ones."""
    (letter,) = [letter for letter in await outbox.dead_letters(limit=1000) if letter.event.id == id]
    return letter


def failed_delivery(pending: PendingEvent, retry_in: float | None, *, counts: bool = True) -> FailedDelivery:
    """Return a failed attempt."""
    return FailedDelivery(pending, "unreachable", retry_in, counts)


class OutboxConformance(Conformance):
    """The outbox of a storage."""

    @run_in_mode
    async def test_an_event_is_taken_as_written_and_gone_once_settled(self, backend: Backend) -> None:
        row = event_row(backend.tenant, version=3)
        async with relays(backend) as (outbox,):
            await commit_events(backend, row)

            (pending,) = await outbox.take(10, LEASE)
            assert pending.attempts == 0
            assert pending.event._replace(payload=b"") == row._replace(payload=b"")
            stored = await backend.read_events(backend.tenant)
            assert pending.position == stored[-1].position

            await outbox.settle([pending], ())
            assert list(await outbox.take(10, LEASE)) == []

    @run_in_mode
    async def test_events_of_a_subject_are_taken_in_commit_order(self, backend: Backend) -> None:
        async with relays(backend) as (outbox,):
            written = await commit_about(backend, *(f"jobs/{number % 3}" for number in range(12)))
            batch = await outbox.take(100, LEASE)
            for subject in range(3):
                mine = [pending.event.id for pending in batch if pending.event.subject == f"jobs/{subject}"]
                assert mine == written[subject::3]
            await outbox.settle(batch, ())

    @run_in_mode
    async def test_no_more_events_are_taken_than_were_asked_for(self, backend: Backend) -> None:
        async with relays(backend) as (outbox,):
            written = await commit_about(backend, *["jobs/1"] * 7)
            seen: list[str] = []
            while batch := await outbox.take(3, LEASE):
                assert len(batch) <= 3
                seen += ids(batch)
                await outbox.settle(batch, ())
            assert seen == written

    @run_in_mode
    async def test_what_was_given_back_is_taken_again(self, backend: Backend) -> None:
        async with relays(backend) as (outbox,):
            written = await commit_about(backend, "jobs/1", "jobs/1")
            assert ids(await outbox.take(10, LEASE)) == written
            await outbox.release()
            assert ids(await outbox.take(10, LEASE)) == written
            await outbox.release()

    @run_in_mode
    async def test_what_is_in_neither_list_is_given_back(self, backend: Backend) -> None:
        async with relays(backend) as (outbox,):
            written = await commit_about(backend, "jobs/1", "jobs/1", "jobs/1")
            batch = await outbox.take(10, LEASE)
            await outbox.settle(batch[:1], ())
            again = await outbox.take(10, LEASE)
            assert ids(again) == written[1:]
            assert [pending.attempts for pending in again] == [0, 0]

    @run_in_mode
    async def test_what_one_relay_has_taken_no_other_one_gets(self, backend: Backend) -> None:
        async with relays(backend, 2) as (first, second):
            await commit_about(backend, *["jobs/1"] * 4)
            batch = await first.take(2, LEASE)
            assert len(batch) == 2
            assert list(await second.take(10, LEASE)) == []
            await first.settle(batch, ())
            await first.release()
            rest = await first.take(10, LEASE) or await second.take(10, LEASE)
            assert len(rest) == 2

    @run_in_mode
    async def test_a_relay_that_is_silent_loses_what_it_has_taken(self, backend: Backend) -> None:
        async with relays(backend, 2) as (silent, other):
            written = await commit_about(backend, "jobs/1", "jobs/1")
            batch = await silent.take(10, SHORT_LEASE)
            assert ids(batch) == written
            await backend.sleep(3 * SHORT_LEASE)
            assert ids(await other.take(10, LEASE)) == written
            with pytest.raises(StorageUnavailable):
                await silent.extend()

    @run_in_mode
    async def test_a_lease_that_is_extended_goes_on(self, backend: Backend) -> None:
        async with relays(backend, 2) as (slow, other):
            await commit_about(backend, "jobs/1")
            # Long enough for a busy machine to renew it in time.
            batch = await slow.take(10, 1.5)
            for _ in range(2):
                await backend.sleep(0.8)
                await slow.extend()
            assert list(await other.take(10, LEASE)) == []
            await slow.settle(batch, ())

    @run_in_mode
    async def test_a_failed_event_waits_and_holds_back_only_its_subject(self, backend: Backend) -> None:
        async with relays(backend) as (outbox,):
            first, second, other = await commit_about(backend, "jobs/1", "jobs/1", "jobs/2")
            batch = {pending.event.id: pending for pending in await outbox.take(10, LEASE)}
            await outbox.settle([batch[other]], [failed_delivery(batch[first], 0.8)])

            assert list(await outbox.take(10, LEASE)) == []
            assert (await outbox.status()).waiting == 1
            (later,) = await commit_about(backend, "jobs/2")
            batch_now = await outbox.take(10, LEASE)
            assert ids(batch_now) == [later]
            await outbox.settle(batch_now, ())

            await backend.sleep(0.9)
            again = await outbox.take(10, LEASE)
            assert ids(again) == [first, second]
            assert [pending.attempts for pending in again] == [1, 0]
            await outbox.settle(again, ())

    @run_in_mode
    async def test_an_attempt_that_does_not_count_is_not_counted(self, backend: Backend) -> None:
        async with relays(backend) as (outbox,):
            await commit_about(backend, "jobs/1")
            for _ in range(2):
                (pending,) = await outbox.take(10, LEASE)
                assert pending.attempts == 0
                await outbox.settle((), [failed_delivery(pending, 0.0, counts=False)])

    @run_in_mode
    async def test_events_without_a_subject_hold_nothing_back(self, backend: Backend) -> None:
        async with relays(backend) as (outbox,):
            first, second = await commit_about(backend, None, None)
            batch = {pending.event.id: pending for pending in await outbox.take(10, LEASE)}
            await outbox.settle((), [failed_delivery(batch[first], None)])
            rest = await outbox.take(10, LEASE)
            assert ids(rest) == [second]

    @run_in_mode
    async def test_a_dead_letter_holds_its_subject_until_it_is_skipped(self, backend: Backend) -> None:
        async with relays(backend) as (outbox,):
            first, second = await commit_about(backend, "jobs/1", "jobs/1")
            batch = await outbox.take(10, LEASE)
            await outbox.settle((), [failed_delivery(batch[0], None)])
            assert list(await outbox.take(10, LEASE)) == []

            letter = await letter_of(outbox, first)
            assert (letter.attempts, letter.skipped) == (1, False)
            assert "unreachable" in letter.reason
            assert letter.since <= datetime.now(UTC)
            assert await outbox.skip([first], "nobody wants it") == 1
            assert await outbox.skip([first], "twice") == 0

            rest = await outbox.take(10, LEASE)
            assert ids(rest) == [second]
            await outbox.settle(rest, ())
            letter = await letter_of(outbox, first)
            assert letter.skipped
            assert "nobody wants it" in letter.reason

    @run_in_mode
    async def test_skipping_a_dead_letter_frees_passed_over_events(self, backend: Backend) -> None:
        async with relays(backend) as (outbox,):
            first, second = await commit_about(backend, "jobs/1", "jobs/1")
            batch = await outbox.take(10, LEASE)
            await outbox.settle((), [failed_delivery(batch[0], None)])
            assert list(await outbox.take(10, LEASE)) == []
            (third,) = await commit_about(backend, "jobs/1")
            assert list(await outbox.take(10, LEASE)) == []
            (other,) = await commit_about(backend, "jobs/2")
            batch = await outbox.take(10, LEASE)
            assert ids(batch) == [other]
            await outbox.settle(batch, ())
            assert list(await outbox.take(10, LEASE)) == []
            status = await outbox.status()
            assert (status.pending, status.held) == (2, 2)

            assert await outbox.skip([first], "nobody wants it") == 1
            assert (await outbox.status()).held == 0
            rest = await outbox.take(10, LEASE)
            assert ids(rest) == [second, third]
            await outbox.settle(rest, ())
            assert (await outbox.status()).pending == 0

    @run_in_mode
    async def test_events_behind_two_dead_letters_wait_for_both(self, backend: Backend) -> None:
        async with relays(backend) as (outbox,):
            first, second, third = await commit_about(backend, "jobs/1", "jobs/1", "jobs/1")
            batch = await outbox.take(10, LEASE)
            await outbox.settle((), [failed_delivery(batch[0], None)])
            assert list(await outbox.take(10, LEASE)) == []
            await outbox.skip([first], "no")
            batch = await outbox.take(10, LEASE)
            await outbox.settle((), [failed_delivery(batch[0], None)])
            assert list(await outbox.take(10, LEASE)) == []

            assert await outbox.redrive([first]) == 1
            batch = await outbox.take(10, LEASE)
            assert ids(batch) == [first]
            await outbox.settle(batch, ())
            assert list(await outbox.take(10, LEASE)) == []
            assert await outbox.redrive() == 1
            rest = await outbox.take(10, LEASE)
            assert ids(rest) == [second, third]
            await outbox.settle(rest, ())

    @run_in_mode
    async def test_every_relay_takes_what_an_operator_redrives(self, backend: Backend) -> None:
        async with relays(backend, 2) as (outbox, other):
            written = await commit_about(backend, "jobs/1", "jobs/1")
            batch = await outbox.take(10, LEASE)
            await outbox.settle((), [failed_delivery(batch[0], None)])
            for relay in (outbox, other) * 2:
                assert list(await relay.take(10, LEASE)) == []
            assert await outbox.redrive() == 1
            again = await other.take(10, LEASE)
            assert ids(again) == written
            await other.settle(again, ())

    @run_in_mode
    async def test_a_redriven_dead_letter_comes_first_and_starts_anew(self, backend: Backend) -> None:
        async with relays(backend) as (outbox,):
            written = await commit_about(backend, "jobs/1", "jobs/1")
            batch = await outbox.take(10, LEASE)
            await outbox.settle((), [failed_delivery(batch[0], None)])

            assert await outbox.redrive([str(uuid4())]) == 0
            assert await outbox.redrive([written[0]]) == 1
            again = await outbox.take(10, LEASE)
            assert ids(again) == written
            assert again[0].attempts == 0
            await outbox.settle(again, ())

    @run_in_mode
    async def test_what_is_no_dead_letter_is_neither_skipped_nor_redriven(self, backend: Backend) -> None:
        async with relays(backend) as (outbox,):
            written = await commit_about(backend, "jobs/1")
            assert await outbox.skip(written, "no") == 0
            assert await outbox.redrive(written) == 0
            batch = await outbox.take(10, LEASE)
            assert ids(batch) == written
            await outbox.settle(batch, ())

    @run_in_mode
    async def test_all_dead_letters_are_redriven_but_the_skipped_ones(self, backend: Backend) -> None:
        async with relays(backend) as (outbox,):
            first, second, third = await commit_about(backend, "jobs/1", "jobs/2", "jobs/3")
            batch = await outbox.take(10, LEASE)
            await outbox.settle((), [failed_delivery(pending, None) for pending in batch])
            await outbox.skip([second], "no")
            assert await outbox.redrive() == 2
            again = await outbox.take(10, LEASE)
            assert sorted(ids(again)) == sorted([first, third])
            await outbox.settle(again, ())
            assert await outbox.redrive([second]) == 1
            again = await outbox.take(10, LEASE)
            assert ids(again) == [second]
            await outbox.settle(again, ())

    @run_in_mode
    async def test_dead_letters_are_listed_in_pages(self, backend: Backend) -> None:
        async with relays(backend) as (outbox,):
            written = sorted(await commit_about(backend, *(f"jobs/{number}" for number in range(5))))
            batch = await outbox.take(10, LEASE)
            await outbox.settle((), [failed_delivery(pending, None) for pending in batch])
            seen: list[str] = []
            after = None
            while page := await outbox.dead_letters(after=after, limit=2):
                assert after is None or page[0].event.id > after
                seen += [letter.event.id for letter in page]
                after = seen[-1]
            assert [id for id in seen if id in written] == written

    @run_in_mode
    async def test_the_status_counts_what_there_is(self, backend: Backend) -> None:
        async with relays(backend) as (outbox,):
            before = await outbox.status()
            assert (before.pending, before.waiting, before.dead, before.oldest) == (0, 0, 0, None)
            rows = [event_row(backend.tenant, subject=f"jobs/{number}") for number in range(4)]
            await commit_events(backend, *rows)
            batch = await outbox.take(10, LEASE)
            await outbox.settle(batch[:1], [failed_delivery(batch[1], 1.0), failed_delivery(batch[2], None)])
            now = await outbox.status()
            assert (now.pending, now.waiting, now.dead) == (2, 1, 1)
            assert now.oldest == rows[0].occurred_at
            await backend.sleep(1.1)
            await outbox.redrive()
            await outbox.settle(await outbox.take(10, LEASE), ())

    @run_in_mode
    async def test_relays_are_known_by_their_beats(self, backend: Backend) -> None:
        async with relays(backend) as (outbox,):
            now = datetime.now(UTC)
            id = str(uuid4())
            beat = RelayHeartbeat(id, "host:1", "Nowhere", now, now, 10, 1, 2.5, None)
            await outbox.heartbeat(beat)
            await outbox.heartbeat(beat._replace(delivered=20, error="the broker is gone"))
            (known,) = [beat for beat in (await outbox.status()).relays if beat.id == id]
            assert known == beat._replace(delivered=20, error="the broker is gone")

    @run_in_mode
    async def test_a_relay_that_is_silent_for_a_minute_is_not_listed(self, backend: Backend) -> None:
        async with relays(backend) as (outbox,):
            now = datetime.now(UTC)
            silent, known = str(uuid4()), str(uuid4())
            for id, seconds in ((silent, 70), (known, 40)):
                seen = now - timedelta(seconds=seconds)
                await outbox.heartbeat(RelayHeartbeat(id, "host:1", "Nowhere", seen, seen, 10, 1, 2.5, None))
            listed = {beat.id for beat in (await outbox.status()).relays}
            assert known in listed
            assert silent not in listed

    @run_in_mode
    async def test_the_status_tells_dead_skipped_and_pending_events_apart(self, backend: Backend) -> None:
        async with relays(backend) as (outbox,):
            hours = [timedelta(hours=number) for number in range(3)]
            rows = [event_row(backend.tenant, subject=f"jobs/{hour}", occurred_at=START + hour) for hour in hours]
            await commit_events(backend, *rows)
            batch = {pending.event.id: pending for pending in await outbox.take(10, LEASE)}
            before = await outbox.status()
            await outbox.settle((), [failed_delivery(batch[row.id], None) for row in rows[:2]])
            assert await outbox.skip([rows[0].id], "no") == 1
            now = await outbox.status()
            assert (now.pending, now.dead, now.oldest) == (1, before.dead + 1, rows[2].occurred_at)
            assert (now.waiting, now.skipped) == (0, before.skipped + 1)

    @run_in_mode
    async def test_attempts_add_up_and_the_last_reason_stays(self, backend: Backend) -> None:
        async with relays(backend) as (outbox,):
            (id,) = await commit_about(backend, "jobs/1")
            for number in range(3):
                (pending,) = await outbox.take(10, LEASE)
                assert pending.attempts == number
                last = None if number == 2 else 0.0
                await outbox.settle((), [FailedDelivery(pending, f"attempt {number}", last)])
            letter = await letter_of(outbox, id)
            assert (letter.attempts, letter.reason) == (3, "attempt 2")

    @run_in_mode
    async def test_waiting_ends_when_there_is_something_to_take(self, backend: Backend) -> None:
        async with relays(backend) as (outbox,):

            async def taken() -> list[str]:
                batch: Sequence[PendingEvent] = ()
                while not batch:
                    await outbox.wait(30.0)
                    batch = await outbox.take(10, LEASE)
                await outbox.settle(batch, ())
                return ids(batch)

            async def write() -> list[str]:
                await backend.sleep(0.1)
                return await commit_about(backend, "jobs/1")

            seen, written = await backend.gather(taken(), write())
            assert seen == written

    @run_in_mode
    async def test_waiting_ends_when_a_retry_is_due(self, backend: Backend) -> None:
        async with relays(backend) as (outbox,):
            written = await commit_about(backend, "jobs/1")
            (pending,) = await outbox.take(10, LEASE)
            await outbox.settle((), [failed_delivery(pending, 0.3)])
            batch: Sequence[PendingEvent] = ()
            while not batch:
                await outbox.wait(30.0)
                batch = await outbox.take(10, LEASE)
            assert ids(batch) == written

    @run_in_mode
    async def test_who_waits_can_be_woken(self, backend: Backend) -> None:
        async with relays(backend) as (outbox,):

            async def sleep() -> None:
                for _ in range(3):
                    await outbox.wait(30.0)

            async def wake() -> None:
                for _ in range(30):
                    outbox.wake()
                    await backend.sleep(0.05)

            await backend.gather(sleep(), wake())

    @run_in_mode
    async def test_relays_at_once_share_the_work_and_repeat_nothing(self, backend: Backend) -> None:
        async with relays(backend, 4) as opened:
            written = await commit_about(backend, *(f"jobs/{number % 20}" for number in range(100)))

            async def deliver(outbox: Outbox) -> list[PendingEvent]:
                seen: list[PendingEvent] = []
                for _ in range(200):
                    batch = await outbox.take(7, LEASE)
                    await outbox.settle(batch, ()) if batch else await backend.sleep(0.002)
                    seen += batch
                    if not batch and not (await outbox.status()).pending:
                        break
                return seen

            seen = [pending for part in await backend.gather(*map(deliver, opened)) for pending in part]
            assert sorted(ids(seen)) == sorted(written)

    # Queues

    @run_in_mode
    async def test_events_are_also_in_the_queues_of_their_routes(self, backend: Backend) -> None:
        routes = (Route(WORKFLOWS, frozenset({"jobs.done", "jobs.gone"})), Route(TRIGGERS))
        async with queues(backend) as (host, control, triggers):
            rows = [event_row(backend.tenant, type=type) for type in ("jobs.begun", "jobs.done", "jobs.left")]
            async with backend.writing() as unit:
                await unit.record(Recording((), rows[:2], routes=routes))
                await unit.record(Recording((), rows[2:], routes=routes))
            for outbox, expected in ((host, rows), (control, rows[1:2]), (triggers, rows)):
                batch = await outbox.take(10, LEASE)
                assert sorted(ids(batch)) == sorted(row.id for row in expected)
                assert (await outbox.status()).pending == len(expected)
            for outbox in (host, control, triggers):
                await outbox.release()

    @run_in_mode
    async def test_an_event_held_back_in_one_queue_is_free_in_another(self, backend: Backend) -> None:
        async with queues(backend) as (host, control, triggers):
            rows = [event_row(backend.tenant, subject="jobs/1") for _ in range(2)]
            async with backend.writing() as unit:
                await unit.record(Recording((), rows, routes=(Route(WORKFLOWS), Route(TRIGGERS))))
            first = await host.take(10, LEASE)
            second = await control.take(10, LEASE)
            third = await triggers.take(10, LEASE)
            assert ids(first) == ids(second) == ids(third) == [row.id for row in rows]

            await host.settle((), [failed_delivery(first[0], None)])
            await control.settle(second[:1], ())
            await triggers.settle((), [failed_delivery(third[0], 0.0)])

            assert list(await host.take(10, LEASE)) == []
            assert ids(await control.take(10, LEASE)) == [rows[1].id]
            await control.release()
            told = [await outbox.status() for outbox in (host, control, triggers)]
            assert [(each.pending, each.waiting) for each in told] == [(1, 0), (1, 0), (2, 0)]
            assert (await letter_of(host, rows[0].id)).queue == EVENTS
            assert rows[0].id not in [letter.event.id for letter in await control.dead_letters(limit=1000)]

    @run_in_mode
    async def test_dead_letters_are_redriven_or_skipped_in_their_queue(self, backend: Backend) -> None:
        async with queues(backend) as (host, control, _):
            rows = [event_row(backend.tenant, subject=f"jobs/{number}") for number in range(2)]
            async with backend.writing() as unit:
                await unit.record(Recording((), rows, routes=(Route(WORKFLOWS),)))
            for outbox in (host, control):
                await outbox.settle((), [failed_delivery(pending, None) for pending in await outbox.take(10, LEASE)])

            assert await control.skip([rows[0].id], "no") == 1
            assert await control.redrive() == 1
            letter = await letter_of(control, rows[0].id)
            assert (letter.queue, letter.skipped) == (WORKFLOWS, True)
            assert not (await letter_of(host, rows[0].id)).skipped
            again = await control.take(10, LEASE)
            assert ids(again) == [rows[1].id]
            await control.settle(again, ())
            assert await host.redrive([rows[0].id]) == 1
            again = await host.take(10, LEASE)
            assert ids(again) == [rows[0].id]
            await host.settle(again, ())

    @run_in_mode
    async def test_waiting_at_one_queue_ends_when_that_has_something(self, backend: Backend) -> None:
        async with queues(backend) as (host, control, _):
            row = event_row(backend.tenant)

            async def taken(outbox: Outbox) -> list[str]:
                batch: Sequence[PendingEvent] = ()
                while not batch:
                    await outbox.wait(30.0)
                    batch = await outbox.take(10, LEASE)
                await outbox.settle(batch, ())
                return ids(batch)

            async def write() -> None:
                await backend.sleep(0.1)
                async with backend.writing() as unit:
                    await unit.record(Recording((), [row], routes=(Route(WORKFLOWS),)))

            found = await backend.gather(taken(host), taken(control), write())
            assert found[:2] == [[row.id], [row.id]]

    @run_in_mode
    async def test_relays_are_known_at_their_own_queue(self, backend: Backend) -> None:
        async with queues(backend) as (host, control, _):
            now = datetime.now(UTC)
            id = str(uuid4())
            await control.heartbeat(RelayHeartbeat(id, "host:1", "Nowhere", now, now, 10, 1, 2.5, None))
            assert [beat.queue for beat in (await control.status()).relays if beat.id == id] == [WORKFLOWS]
            assert [beat for beat in (await host.status()).relays if beat.id == id] == []

    @run_in_mode
    async def test_only_what_was_committed_gets_into_the_outbox(self, backend: Backend) -> None:
        async with relays(backend) as (outbox,):
            harness = SampleHarness(backend)
            value_of(await harness.execute("notes.put", {"id": "n1"}))
            assert (await harness.execute("notes.fail", {})).failure().code is ErrorCode.UNPROCESSABLE
            batch = await outbox.take(10, LEASE)
            assert [pending.event.type for pending in batch] == ["notes.put"]
            await outbox.settle(batch, ())
