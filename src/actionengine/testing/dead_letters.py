"""Dead letters as their tenant sees them: counted, listed, redriven and skipped in its own transactions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from actionengine.context import Tenant
from actionengine.errors import ActionError, ErrorCode
from actionengine.storage.errors import SerializationFailure
from actionengine.storage.outbox import EVENTS, QUEUES, WORKFLOWS, DeadLetter, Outbox, QueueStatus
from actionengine.storage.port import UnitOfWork
from actionengine.storage.rows import EventRow, Recording, Route
from actionengine.testing.backend import Backend, make_tenant, run_in_mode
from actionengine.testing.base import Conformance
from actionengine.testing.outbox import LEASE, failed_delivery, ids, queues, relays
from actionengine.testing.rows import event_row


async def kill(outbox: Outbox) -> None:
    """Make a dead letter of the first event of each subject."""
    batch = await outbox.take(1000, LEASE)
    first = {(each.event.tenant_id, each.event.subject): each for each in reversed(batch)}
    await outbox.settle((), [failed_delivery(pending, None) for pending in first.values()])


async def die(outbox: Outbox, backend: Backend, tenant: Tenant, *subjects: str | None) -> list[str]:
    """Commit an event about each subject, and make a dead letter of the first one of each. Return their ids."""
    rows = [event_row(tenant, subject=subject) for subject in subjects]
    async with backend.writing(tenant) as unit:
        await unit.record(Recording((), rows))
    await kill(outbox)
    return [row.id for row in rows]


async def commit_of(backend: Backend, tenant: Tenant, *rows: EventRow) -> None:
    """Commit events of a tenant, one after the other."""
    for row in rows:
        async with backend.writing(tenant) as unit:
            await unit.record(Recording((), [row]))


async def letters_of(unit: UnitOfWork, queue: str = EVENTS) -> dict[str, DeadLetter]:
    """Return the dead letters of a tenant by their ids."""
    return {letter.event.id: letter for letter in await unit.dead_letters(queue, limit=1000)}


async def status_of(unit: UnitOfWork, queue: str = EVENTS) -> QueueStatus:
    """Return the status of one queue."""
    (status,) = [each for each in await unit.outbox_status() if each.queue == queue]
    return status


@asynccontextmanager
async def two_tenants(backend: Backend) -> AsyncIterator[tuple[Outbox, Tenant, Tenant]]:
    """Open the outbox, with two tenants that have no events."""
    async with relays(backend) as (outbox,):
        yield outbox, make_tenant(), make_tenant()


class DeadLetterConformance(Conformance):
    """The dead letters of one tenant, in its units of work."""

    @run_in_mode
    async def test_a_tenant_without_events_has_nothing_undelivered(self, backend: Backend) -> None:
        async with backend.reading(make_tenant()) as unit:
            assert list(await unit.outbox_status()) == [QueueStatus(queue, 0, 0, 0, 0, 0, None) for queue in QUEUES]
            assert [list(await unit.dead_letters(queue)) for queue in QUEUES] == [[], [], []]

    @run_in_mode
    async def test_a_status_counts_the_events_of_its_tenant(self, backend: Backend) -> None:
        async with two_tenants(backend) as (outbox, tenant, other):
            await commit_of(backend, tenant, *(event_row(tenant, subject="jobs/1") for _ in range(2)))
            await commit_of(backend, other, event_row(other))
            for name, expected in ((tenant, 2), (other, 1)):
                async with backend.reading(name) as unit:
                    assert (await status_of(unit)).pending == expected

            await kill(outbox)
            await outbox.take(1000, LEASE)
            await outbox.release()
            async with backend.reading(tenant) as unit:
                status = await status_of(unit)
                assert (status.pending, status.held, status.dead, status.skipped) == (1, 1, 1, 0)
                assert status.oldest is not None
            async with backend.reading(other) as unit:
                assert (await status_of(unit))[1:] == (0, 0, 0, 1, 0, None)

    @run_in_mode
    async def test_dead_letters_of_a_tenant_come_in_pages(self, backend: Backend) -> None:
        async with two_tenants(backend) as (outbox, tenant, other):
            written = sorted(await die(outbox, backend, tenant, *(f"jobs/{number}" for number in range(7))))
            await die(outbox, backend, other, *(f"jobs/{number}" for number in range(7)))
            async with backend.writing(tenant) as unit:
                assert list(await unit.skip(EVENTS, written[2:4], "no")) == written[2:4]
            async with backend.reading(tenant) as unit:
                seen, after, pages = list[str](), None, 0
                while pages == 0 or after is not None:
                    page = await unit.dead_letters(EVENTS, after=after, limit=3)
                    seen += [letter.event.id for letter in page]
                    after, pages = page.next, pages + 1
                assert seen == written
                unskipped = await unit.dead_letters(EVENTS, limit=4, skipped=False)
                assert [letter.event.id for letter in unskipped] == [*written[:2], *written[4:6]]
                assert unskipped.next == written[5]

    @run_in_mode
    async def test_a_dead_letter_shows_its_event_and_reason(self, backend: Backend) -> None:
        async with two_tenants(backend) as (outbox, tenant, _):
            row = event_row(tenant, subject="jobs/1", version=3)
            await commit_of(backend, tenant, row)
            await kill(outbox)
            async with backend.reading(tenant) as unit:
                letter = (await letters_of(unit))[row.id]
            assert letter.event._replace(payload=b"", chain=None) == row._replace(payload=b"", chain=None)
            assert (letter.attempts, letter.reason, letter.skipped, letter.queue) == (1, "unreachable", False, EVENTS)

    @run_in_mode
    async def test_a_redriven_event_is_delivered_from_the_commit_on(self, backend: Backend) -> None:
        async with two_tenants(backend) as (outbox, tenant, _):
            written = await die(outbox, backend, tenant, "jobs/1", "jobs/1")
            async with backend.writing(tenant) as unit:
                assert list(await unit.redrive(EVENTS, written)) == written[:1]
                assert await letters_of(unit) == {}
            batch = await outbox.take(1000, LEASE)
            assert ids(batch) == written
            assert batch[0].attempts == 0
            await outbox.settle(batch, ())

    @run_in_mode
    async def test_a_skipped_event_frees_its_subject_at_the_commit(self, backend: Backend) -> None:
        async with two_tenants(backend) as (outbox, tenant, _):
            written = await die(outbox, backend, tenant, "jobs/1", "jobs/1")
            async with backend.writing(tenant) as unit:
                assert list(await unit.skip(EVENTS, written[:1], "not needed")) == written[:1]
                letter = (await letters_of(unit))[written[0]]
                assert (letter.skipped, letter.reason) == (True, "unreachable; skipped: not needed")
                assert list(await unit.skip(EVENTS, written[:1], "again")) == []
                assert (await status_of(unit))[4:6] == (0, 1)
            batch = await outbox.take(1000, LEASE)
            assert ids(batch) == written[1:]
            await outbox.settle(batch, ())
            async with backend.writing(tenant) as unit:
                assert list(await unit.redrive(EVENTS, written)) == written[:1]
            batch = await outbox.take(1000, LEASE)
            assert ids(batch) == written[:1]
            await outbox.settle(batch, ())

    @run_in_mode
    async def test_a_rollback_leaves_dead_letters_as_they_are(self, backend: Backend) -> None:
        async with two_tenants(backend) as (outbox, tenant, _):
            written = sorted(await die(outbox, backend, tenant, "jobs/1", "jobs/2"))
            unit = backend.unit(tenant)
            await unit.redrive(EVENTS, written)
            await unit.rollback()
            async with backend.writing(tenant) as unit:
                savepoint = await unit.savepoint()
                await unit.redrive(EVENTS, written[:1])
                await unit.skip(EVENTS, written[1:], "no")
                await unit.rollback_to(savepoint)
                assert list(await letters_of(unit)) == written
            async with backend.reading(tenant) as unit:
                assert [letter.skipped for letter in (await letters_of(unit)).values()] == [False, False]
            assert list(await outbox.take(1000, LEASE)) == []

    @run_in_mode
    async def test_dead_letters_of_another_tenant_are_out_of_reach(self, backend: Backend) -> None:
        async with two_tenants(backend) as (outbox, tenant, other):
            written = await die(outbox, backend, tenant, "jobs/1")
            async with backend.writing(other) as unit:
                assert list(await unit.redrive(EVENTS, written)) == []
                assert list(await unit.skip(EVENTS, written, "mine")) == []
                assert await letters_of(unit) == {}
            async with backend.reading(tenant) as unit:
                assert list(await letters_of(unit)) == written
            assert list(await outbox.take(1000, LEASE)) == []

    @run_in_mode
    async def test_dead_letters_of_a_tenant_are_of_one_queue(self, backend: Backend) -> None:
        async with queues(backend) as (host, control, _):
            tenant = make_tenant()
            row = event_row(tenant, subject="jobs/1")
            async with backend.writing(tenant) as unit:
                await unit.record(Recording((), [row], routes=(Route(WORKFLOWS),)))
            await kill(host)
            await kill(control)
            async with backend.writing(tenant) as unit:
                assert list(await unit.redrive(WORKFLOWS, [row.id])) == [row.id]
                assert list(await letters_of(unit, WORKFLOWS)) == []
                assert list(await letters_of(unit, EVENTS)) == [row.id]
            assert list(await host.take(10, LEASE)) == []
            batch = await control.take(10, LEASE)
            assert ids(batch) == [row.id]
            await control.settle(batch, ())

    @run_in_mode
    async def test_a_read_only_unit_redrives_and_skips_nothing(self, backend: Backend) -> None:
        async with two_tenants(backend) as (outbox, tenant, _):
            written = await die(outbox, backend, tenant, "jobs/1")
            async with backend.reading(tenant) as unit:
                with pytest.raises(ActionError) as refused:
                    await unit.redrive(EVENTS, written)
                assert refused.value.code is ErrorCode.INTERNAL
                with pytest.raises(ActionError):
                    await unit.skip(EVENTS, written, "no")

    @run_in_mode
    async def test_an_id_that_is_none_is_invalid_input(self, backend: Backend) -> None:
        async with backend.writing(make_tenant()) as unit:
            for call in (
                unit.dead_letters(EVENTS, after="nobody"),
                unit.redrive(EVENTS, ["nobody"]),
                unit.skip(EVENTS, ["nobody"], "no"),
            ):
                with pytest.raises(ActionError) as refused:
                    await call
                assert refused.value.code is ErrorCode.INVALID_INPUT

    @run_in_mode
    async def test_two_decisions_about_a_dead_letter_take_effect_once(self, backend: Backend) -> None:
        async with two_tenants(backend) as (outbox, tenant, _):
            written = await die(outbox, backend, tenant, *(f"jobs/{number}" for number in range(10)))

            async def decide(skips: bool) -> Sequence[str]:
                try:
                    async with backend.writing(tenant) as unit:
                        if skips:
                            return await unit.skip(EVENTS, written, "no")
                        return await unit.redrive(EVENTS, written)
                except (ActionError, SerializationFailure):
                    return []

            decided = await backend.gather(decide(True), decide(True), decide(True))
            assert sorted(map(len, decided)) == [0, 0, 10]
            async with backend.reading(tenant) as unit:
                assert (await status_of(unit))[4:6] == (0, 10)
