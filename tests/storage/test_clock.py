"""Keys, approvals and marks expire by one clock, whatever the clocks of hosts say.

On PostgreSQL it is the database's. In memory and on files it is the machine's.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from returns.result import Result, Success
from uuid_utils import uuid7

from actionengine import ActionContext, ErrorCode, Limits
from actionengine.events.consumers.inbox import Inbox
from actionengine.events.event import Event
from actionengine.storage.rows import Claim
from actionengine.testing import Backend
from actionengine.testing.backend import make_tenant
from actionengine.testing.base import error_of, value_of
from actionengine.testing.rows import event_row
from actionengine.testing.sample import CLERK, MANAGER, SampleHarness
from tests.clocks import host_clock

SKEWS = (-90.0, 0.1, 7200.0)
SECOND = timedelta(seconds=1)


@pytest.fixture
def backend(each_backend: Backend) -> Backend:
    each_backend.tenant, each_backend.other_tenant = make_tenant(), make_tenant()
    return each_backend


def run(backend: Backend, scenario: Callable[[], Any]) -> None:
    backend.run(scenario())


@pytest.mark.parametrize("skew", SKEWS)
def test_the_time_of_a_unit_of_work_is_not_that_of_the_host(backend: Backend, skew: float) -> None:
    async def scenario() -> None:
        with host_clock(skew):
            async with backend.writing() as unit:
                before = datetime.now(UTC)
                record = await unit.records("notes").insert({})
                at = await unit.now()
                later = datetime.now(UTC)
        assert before - SECOND / 10 <= record.created_at <= at <= later + SECOND / 10
        assert at.utcoffset() == timedelta(0)

    run(backend, scenario)


def test_the_time_goes_on_in_a_transaction(backend: Backend) -> None:
    async def scenario() -> None:
        async with backend.reading() as unit:
            before = await unit.now()
            await backend.sleep(0.05)
            assert await unit.now() - before >= timedelta(seconds=0.049)

    run(backend, scenario)


@pytest.mark.parametrize("skew", SKEWS)
def test_a_key_is_kept_as_long_as_it_is_promised(backend: Backend, skew: float) -> None:
    harness = SampleHarness(backend, Limits(idempotency_ttl=60.0))

    async def put() -> Result[Any, Any]:
        return await harness.execute("notes.put", {"id": "1"}, key="k")

    async def scenario() -> None:
        with host_clock(skew):
            value_of(await put())
            value_of(await put())
        value_of(await put())
        with host_clock(-skew):
            value_of(await put())
            await backend.purge_expired_keys()
            value_of(await put())
        assert len(harness.runs) == 1

    run(backend, scenario)


@pytest.mark.parametrize("skew", SKEWS)
def test_a_key_is_forgotten_at_its_end(backend: Backend, skew: float) -> None:
    harness = SampleHarness(backend, Limits(idempotency_ttl=0.05))

    async def scenario() -> None:
        with host_clock(skew):
            value_of(await harness.execute("notes.put", {"id": "1"}, key="k"))
        await backend.sleep(0.06)
        with host_clock(-skew):
            value_of(await harness.execute("notes.put", {"id": "2"}, key="k"))
        assert len(harness.runs) == 2

    run(backend, scenario)


async def asked(harness: SampleHarness, amount: int = 2000, **more: Any) -> str:
    answer = await harness.execute("payments.pay", {"id": "1", "amount": amount}, **more)
    error = error_of(answer, ErrorCode.APPROVAL_REQUIRED)
    return str(error.details["approval_id"])


@pytest.mark.parametrize("decision", ["approve", "reject", "cancel"])
@pytest.mark.parametrize("skew", SKEWS)
def test_an_approval_is_decided_until_its_end_and_no_longer(backend: Backend, skew: float, decision: str) -> None:
    actor = CLERK if decision == "cancel" else MANAGER

    async def decide(harness: SampleHarness, approval_id: str) -> Any:
        return await harness.execute(f"approvals.{decision}", {"approval_id": approval_id}, actor=actor)

    async def scenario() -> None:
        long, short = (
            SampleHarness(backend, approvals_expire_after=60 * SECOND),
            SampleHarness(backend, approvals_expire_after=SECOND / 20),
        )
        with host_clock(skew):
            open_one, ended = await asked(long), await asked(short, 3000)
        await backend.sleep(0.06)
        for clock in (skew, -skew):
            with host_clock(clock):
                error = error_of(await decide(short, ended), ErrorCode.CONFLICT)
                assert error.details["status"] == "expired"
                listed = value_of(await long.execute("approvals.list", {}, actor=MANAGER)).items
                assert {each.id: each.status for each in listed} == {open_one: "pending", ended: "expired"}
                found = value_of(await long.execute("approvals.get", {"approval_id": ended}, actor=MANAGER))
                assert found.status == "expired"
        with host_clock(-skew):
            value_of(await decide(long, open_one))
            found = value_of(await long.execute("approvals.get", {"approval_id": open_one}, actor=MANAGER))
        assert abs(found.decided_at - datetime.now(UTC)) < 10 * SECOND

    run(backend, scenario)


@pytest.mark.parametrize("skew", SKEWS)
def test_a_key_that_waits_for_an_approval_that_has_ended_is_free(backend: Backend, skew: float) -> None:
    async def scenario() -> None:
        long, short = (
            SampleHarness(backend, approvals_expire_after=60 * SECOND),
            SampleHarness(backend, approvals_expire_after=SECOND / 20),
        )
        with host_clock(skew):
            first, ended = await asked(long, key="a"), await asked(short, key="b")
        await backend.sleep(0.06)
        with host_clock(-skew):
            assert await asked(long, key="a") == first
            assert await asked(short, key="b") != ended

    run(backend, scenario)


def test_a_claim_that_has_waited_knows_the_time(backend: Backend) -> None:
    """The statement that opens the transaction returns only after the other holder of the key is done."""
    claim = Claim("notes.put", "k", "a" * 64)
    released: list[datetime] = []

    async def scenario() -> None:
        holder = backend.unit()
        await holder.claim(claim, 0.0)

        async def wait() -> None:
            async with backend.writing() as unit:
                await unit.claim(claim, 30.0)
                assert await unit.now() >= released[0]

        async def give_up() -> None:
            await backend.sleep(0.1)
            released.append(datetime.now(UTC))
            await holder.rollback()

        with host_clock(-90.0):
            await backend.gather(wait(), give_up())

    run(backend, scenario)


@pytest.mark.parametrize("skew", SKEWS)
def test_marks_of_an_inbox_are_forgotten_by_when_they_were_made(backend: Backend, skew: float) -> None:
    """A host with a late clock makes no mark that another one takes for an old one."""
    inbox = Inbox(SampleHarness(backend).engine, "books")
    event = Event.of(1, event_row(backend.tenant, id=str(uuid7())))

    def take_in(event: Event, ctx: ActionContext) -> None:
        return None

    async def scenario() -> None:
        before = datetime.now(UTC) - SECOND
        with host_clock(skew):
            handled = (
                inbox.handle(event, take_in) if backend.mode == "sync" else await inbox.handle_async(event, take_in)
            )
        assert handled == Success(True)
        for time, count in ((before, 0), (datetime.now(UTC) + SECOND, 1)):
            if backend.mode == "sync":
                assert inbox.forget(backend.tenant, before=time) == Success(count)
            else:
                assert await inbox.forget_async(backend.tenant, before=time) == Success(count)

    run(backend, scenario)
