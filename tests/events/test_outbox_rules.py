"""The rules of the outbox at their edges: what waits, what is dead, and which relay may take. Nothing sleeps here: on
SQLite the clock is the test's own."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from returns.result import Result, Success
from sqlalchemy import text

from actionengine import (
    ActionContext,
    ActionError,
    Actor,
    RequestContext,
    SQLiteStorage,
    Tenant,
    create_action,
    create_engine,
    create_service,
)
from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.storage.errors import StorageUnavailable
from actionengine.storage.outbox import Outbox, PendingEvent, RelayHeartbeat
from actionengine.storage.rows import EventRow, Recording
from actionengine.storage.sqlite import outbox as sqlite_outbox
from actionengine.storage.sqlite import unit_of_work as sqlite_unit
from actionengine.storage.sqlite.statements import (
    DEAD_LETTERS,
    DELETE_DELIVERED,
    HOLD,
    IS_BEHIND,
    NEXT_DUE,
    READ_OUTBOX,
    REDRIVE,
    RELEASE,
    RETURN,
    RETURN_ALL,
    SKIP,
)
from actionengine.testing import SyncBackend, run_in_mode
from actionengine.testing.base import value_of
from actionengine.testing.outbox import LEASE, commit_about, failed_delivery, ids, letter_of
from actionengine.testing.rows import START, event_row
from tests.backends import AnyStorage

DAY, MINUTE, MOMENT = timedelta(days=1), timedelta(minutes=1), timedelta(microseconds=1)


@pytest.fixture
def backend(any_storage: AnyStorage) -> SyncBackend:
    """Return an empty storage of each kind, without an event loop."""
    return SyncBackend(any_storage)


@pytest.fixture
def outbox(backend: SyncBackend) -> Iterator[Outbox]:
    outbox = backend.storage.outbox(backend.mode)
    yield outbox
    run_sync(outbox.close())


async def written(backend: SyncBackend, tenant: Tenant, row: EventRow) -> str:
    """Commit one event of a tenant, and return its id."""
    async with backend.writing(tenant) as unit:
        await unit.record(Recording((), [row]))
    return row.id


async def taken(outbox: Outbox) -> dict[str, PendingEvent]:
    """Take all due events, and return them by id."""
    return {pending.event.id: pending for pending in await outbox.take(100, LEASE)}


def beat(id: str, started_at: datetime, seen_at: datetime) -> RelayHeartbeat:
    return RelayHeartbeat(id, "host:1", "Nowhere", started_at, seen_at, 10, 1, 2.5, None)


@run_in_mode
async def test_an_event_due_again_comes_with_those_it_held_back(backend: SyncBackend, outbox: Outbox) -> None:
    first, second, other, _ = await commit_about(backend, "jobs/1", "jobs/1", "jobs/2", "jobs/2")
    batch = await taken(outbox)
    await outbox.settle((), [failed_delivery(batch[first], -1.0), failed_delivery(batch[other], 3600.0)])
    again = await outbox.take(100, LEASE)
    assert [(pending.event.id, pending.attempts) for pending in again] == [(first, 1), (second, 0)]
    now = await outbox.status()
    assert (now.pending, now.waiting, now.dead, now.skipped) == (4, 1, 0, 0)


@run_in_mode
async def test_a_failure_is_noted_for_its_event_alone(backend: SyncBackend, outbox: Outbox) -> None:
    for tenant in (backend.tenant, backend.other_tenant):
        for subject in ("jobs/1", "jobs/2"):
            await written(backend, tenant, event_row(tenant, subject=subject))
    batch = await taken(outbox)
    id, *others = batch
    await outbox.settle((), [failed_delivery(batch[id], None)])
    assert [letter.event.id for letter in await outbox.dead_letters()] == [id]
    again = await outbox.take(100, LEASE)
    assert sorted(ids(again)) == sorted(others)
    assert {pending.attempts for pending in again} == {0}


@run_in_mode
async def test_a_late_failure_changes_no_dead_letter(backend: SyncBackend, outbox: Outbox) -> None:
    (id,) = await commit_about(backend, "jobs/1")
    batch = await taken(outbox)
    await outbox.settle((), [failed_delivery(batch[id], None)])
    before = await letter_of(outbox, id)
    with suppress(StorageUnavailable):
        await outbox.settle((), [failed_delivery(batch[id], 0.0)._replace(reason="too late")])
    assert await letter_of(outbox, id) == before
    assert await outbox.take(100, LEASE) == []


@run_in_mode
async def test_a_redriven_event_does_not_wait_for_a_later_dead_letter(backend: SyncBackend, outbox: Outbox) -> None:
    first, second = await commit_about(backend, "jobs/1", "jobs/1")
    await outbox.settle((), [failed_delivery((await taken(outbox))[first], None)])
    assert await outbox.skip([first], "no") == 1
    await outbox.settle((), [failed_delivery((await taken(outbox))[second], None)])
    assert await outbox.redrive([first]) == 1
    again = await outbox.take(100, LEASE)
    assert [(pending.event.id, pending.attempts) for pending in again] == [(first, 0)]


@run_in_mode
async def test_a_redriven_event_can_become_a_dead_letter_again(backend: SyncBackend, outbox: Outbox) -> None:
    (id,) = await commit_about(backend, "jobs/1")
    await outbox.settle((), [failed_delivery((await taken(outbox))[id], None)])
    await outbox.skip([id], "no")
    assert await outbox.redrive([id]) == 1
    await outbox.settle((), [failed_delivery((await taken(outbox))[id], None)])
    letter = await letter_of(outbox, id)
    assert (letter.skipped, letter.attempts, letter.reason) == (False, 1, "unreachable")
    now = await outbox.status()
    assert (now.pending, now.waiting, now.dead, now.skipped) == (0, 0, 1, 0)


@run_in_mode
async def test_dead_letters_come_by_id_and_nothing_else_is_among_them(backend: SyncBackend, outbox: Outbox) -> None:
    rows = [event_row(backend.tenant, subject=f"jobs/{number}") for number in range(6)]
    for row in reversed(rows):
        await written(backend, backend.tenant, row)
    dead = [row.id for row in rows[:5]]
    batch = await taken(outbox)
    await outbox.settle((), [failed_delivery(batch[id], None) for id in dead])
    await outbox.skip(dead[1:2], "no")
    assert [letter.event.id for letter in await outbox.dead_letters()] == dead
    assert [letter.event.id for letter in await outbox.dead_letters(limit=2)] == dead[:2]
    assert [letter.event.id for letter in await outbox.dead_letters(after=dead[1], limit=2)] == dead[2:4]
    assert [letter.event.id for letter in await outbox.dead_letters(after=dead[4])] == []


@run_in_mode
async def test_only_named_dead_letters_are_skipped_or_redriven(backend: SyncBackend, outbox: Outbox) -> None:
    first, second, pending = await commit_about(backend, "jobs/1", "jobs/2", "jobs/3")
    batch = await taken(outbox)
    await outbox.settle((), [failed_delivery(batch[first], None), failed_delivery(batch[second], None)])
    for ids_of_no_letter in ([pending], [str(uuid4())], []):
        assert await outbox.skip(ids_of_no_letter, "no") == 0
        assert await outbox.redrive(ids_of_no_letter) == 0
    assert await outbox.skip([first, pending], "no") == 1
    assert await outbox.skip([first], "twice") == 0
    assert [letter.skipped for letter in await outbox.dead_letters()] == [True, False]
    now = await outbox.status()
    assert (now.pending, now.waiting, now.dead, now.skipped) == (1, 0, 1, 1)
    assert await outbox.redrive() == 1
    assert sorted(await taken(outbox)) == sorted([second, pending])


@run_in_mode
async def test_the_oldest_event_is_the_first_pending_one_of_any_tenant(backend: SyncBackend, outbox: Outbox) -> None:
    tenants = sorted((backend.tenant, backend.other_tenant), key=lambda tenant: str(tenant.id), reverse=True)
    rows = [event_row(tenant, occurred_at=START + n * MINUTE) for n, tenant in enumerate([*tenants, tenants[0]])]
    for row, tenant in zip(rows, [*tenants, tenants[0]], strict=True):
        await written(backend, tenant, row)
    assert (await outbox.status()).oldest == rows[0].occurred_at
    await outbox.settle((), [failed_delivery((await taken(outbox))[rows[0].id], None)])
    assert (await outbox.status()).oldest == rows[1].occurred_at


@run_in_mode
async def test_the_relay_that_has_started_first_is_listed_first(backend: SyncBackend, outbox: Outbox) -> None:
    now = datetime.now(UTC)
    first, second, third = sorted((str(uuid4()) for _ in range(3)), reverse=True)
    for id, started in ((second, 2), (third, 3), (first, 1)):
        await outbox.heartbeat(beat(id, now - DAY + started * MINUTE, now))
    assert [relay.id for relay in (await outbox.status()).relays] == [first, second, third]


# On SQLite, where the relay's own clock and its own process count.


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.at = START

    def now(self) -> datetime:
        return self.at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(sqlite_outbox, "steady_now", clock.now)
    return clock


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the seconds for which relays would have slept. No relay does."""
    slept: list[float] = []

    class Signal:
        def __init__(self, mode: Mode) -> None: ...

        def set(self) -> None: ...

        async def wait(self, seconds: float) -> None:
            slept.append(seconds)

    monkeypatch.setattr(sqlite_outbox, "OneShotEvent", Signal)
    monkeypatch.setattr(sqlite_outbox, "_POLL_INTERVAL", 7200.0)
    return slept


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "actionengine.db"


@pytest.fixture
def relays(file: Path) -> Iterator[tuple[SyncBackend, list[Outbox]]]:
    """Three relays on SQLite."""
    with SQLiteStorage(file) as storage:
        yield SyncBackend(storage), [storage.outbox("sync") for _ in range(3)]


Relays = tuple[SyncBackend, list[Outbox]]


def test_an_event_waits_until_its_time_and_no_moment_longer(relays: Relays, clock: Clock) -> None:
    backend, (outbox, *_) = relays
    first, second = run_sync(commit_about(backend, "jobs/1", "jobs/1"))
    run_sync(outbox.settle((), [failed_delivery(run_sync(taken(outbox))[first], 60.0)]))
    clock.at += MINUTE - MOMENT
    assert run_sync(outbox.status()).waiting == 1
    assert run_sync(outbox.take(100, LEASE)) == []
    clock.at += MOMENT
    assert run_sync(outbox.status()).waiting == 0
    assert ids(run_sync(outbox.take(100, LEASE))) == [first, second]


def test_events_of_all_tenants_are_taken_in_commit_order(relays: Relays) -> None:
    backend, (outbox, *_) = relays
    tenants = sorted((backend.tenant, backend.other_tenant), key=lambda tenant: str(tenant.id), reverse=True)
    rows = [event_row(tenant, subject=f"jobs/{n}") for n in range(3) for tenant in tenants]
    committed = [run_sync(written(backend, tenant, row)) for row, tenant in zip(rows, tenants * 3, strict=True)]
    assert ids(run_sync(outbox.take(4, LEASE))) == committed[:4]


def test_in_a_shared_lane_only_one_tenants_events_are_held_back(
    relays: Relays, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, (outbox, *_) = relays
    monkeypatch.setattr(sqlite_unit, "partition_key", lambda event: 7)
    mine, other = (
        run_sync(written(backend, tenant, event_row(tenant, subject="jobs/1")))
        for tenant in (backend.tenant, backend.other_tenant)
    )
    run_sync(outbox.settle((), [failed_delivery(run_sync(taken(outbox))[mine], None)]))
    assert ids(run_sync(outbox.take(100, LEASE))) == [other]


def add_rows(backend: SyncBackend, tenant: Tenant, *rows: Mapping[str, Any]) -> None:
    """Insert rows into the outbox with SQL in a tenant's handler, and emit one event."""

    def add(data: Any, ctx: ActionContext) -> Result[None, ActionError]:
        for row in data:
            given = {"tenant_id": str(ctx.tenant.id), "lane": row["position"], **row}
            marks = ", ".join(f":{name}" for name in given)
            ctx.session.execute(text(f"INSERT INTO ae_outbox ({', '.join(given)}) VALUES ({marks})"), given)
        return Success(None)

    action = create_action(name="add", description="Add rows", handler=add)
    service = create_service(name="rows", description="", actions=[action])
    engine = create_engine(services=[service], storage=backend.storage)
    value_of(engine.execute_action("rows", "add", list(rows), RequestContext(tenant, Actor.system())))


def test_a_row_of_another_tenant_at_a_position_changes_nothing(relays: Relays) -> None:
    backend, (outbox, *_) = relays
    first, second = run_sync(commit_about(backend, "jobs/1", "jobs/2"))
    batch = run_sync(taken(outbox))
    dead = {"position": batch[first].position, "dead_at": START.isoformat(), "reason": "mine"}
    add_rows(backend, backend.other_tenant, dead, {"position": batch[second].position})

    assert run_sync(outbox.dead_letters()) == []
    again = run_sync(outbox.take(100, LEASE))
    assert [pending.event.tenant_id for pending in again] == [
        backend.tenant.id,
        backend.tenant.id,
        backend.other_tenant.id,
    ]
    run_sync(outbox.settle(again[2:], [failed_delivery(pending, None) for pending in again[:2]]))
    assert run_sync(outbox.take(100, LEASE)) == []
    now = run_sync(outbox.status())
    assert (now.pending, now.dead, now.oldest) == (1, 3, None)
    assert [letter.event.id for letter in run_sync(outbox.dead_letters())] == [first, second]
    assert run_sync(outbox.skip([first], "no")) == 1
    assert run_sync(outbox.redrive([first])) == 1
    assert ids(run_sync(outbox.take(100, LEASE))) == [first]


def test_a_dead_letter_has_no_next_attempt(relays: Relays, clock: Clock, slept: list[float]) -> None:
    backend, (outbox, *_) = relays
    add_rows(backend, backend.tenant)
    (delivered,) = run_sync(outbox.take(100, LEASE))
    run_sync(outbox.settle([delivered], ()))
    dead, due = (time.isoformat(timespec="microseconds") for time in (clock.at, clock.at + MINUTE))
    row = {"position": delivered.position, "attempts": 3, "reason": "mine", "dead_at": dead, "due_at": due}
    add_rows(backend, backend.tenant, row)
    run_sync(outbox.settle(run_sync(outbox.take(100, LEASE)), ()))

    now = run_sync(outbox.status())
    assert (now.pending, now.waiting, now.dead) == (0, 0, 1)
    run_sync(outbox.wait(7200.0))
    assert slept == [7200.0]
    assert run_sync(outbox.redrive()) == 1
    again = run_sync(outbox.take(100, LEASE))
    assert [(pending.event.id, pending.attempts) for pending in again] == [(delivered.event.id, 0)]


@pytest.mark.parametrize(
    ("statement", "parameters", "indexes"),
    [
        (
            READ_OUTBOX,
            ("events", "", "", 1),
            ["o USING INDEX ae_outbox_pending (queue=?)", "before USING INDEX ae_outbox_held (queue=? AND lane=?"],
        ),
        (NEXT_DUE, ("events", ""), ["USING INDEX ae_outbox_waiting (queue=? AND due_at>?)"]),
        (
            IS_BEHIND,
            ("events", 1, "", ""),
            [
                "o USING INDEX ae_outbox_pending (queue=? AND position<?)",
                "before USING INDEX ae_outbox_held (queue=? AND lane=?",
            ],
        ),
        (HOLD, ("events", 1, "", ""), ["USING PRIMARY KEY (tenant_id=? AND queue=? AND position=?)"]),
        (DELETE_DELIVERED, ("[]",), ["USING PRIMARY KEY (tenant_id=? AND queue=? AND position=?)"]),
        (
            RETURN,
            ("", "events", "[]", ""),
            [
                "dead USING INDEX ae_outbox_dead (queue=? AND event_id=?)",
                "lane USING INDEX ae_outbox_held (queue=? AND lane=? AND position>?)",
            ],
        ),
        (
            RETURN_ALL,
            ("", "events", ""),
            [
                "dead USING INDEX ae_outbox_unskipped (queue=?)",
                "lane USING INDEX ae_outbox_held (queue=? AND lane=? AND position>?)",
            ],
        ),
        (
            RELEASE,
            ("", "[]", ""),
            [
                "lane USING INDEX ae_outbox_held (queue=? AND lane=? AND position>?)",
                "o USING PRIMARY KEY (tenant_id=? AND queue=? AND position=?)",
            ],
        ),
        (DEAD_LETTERS, ("events", "", 1), ["o USING INDEX ae_outbox_dead (queue=? AND event_id>?)"]),
        (REDRIVE, ("", "events", "[]"), ["USING INDEX ae_outbox_dead (queue=? AND event_id=?)"]),
        (SKIP, ("why", "events", "[]"), ["USING INDEX ae_outbox_dead (queue=? AND event_id=?)"]),
    ],
    ids=[
        "READ_OUTBOX",
        "NEXT_DUE",
        "IS_BEHIND",
        "HOLD",
        "DELETE_DELIVERED",
        "RETURN",
        "RETURN_ALL",
        "RELEASE",
        "DEAD_LETTERS",
        "REDRIVE",
        "SKIP",
    ],
)
def test_pending_and_holding_events_are_found_by_indexes(
    relays: Relays, file: Path, statement: str, parameters: tuple[Any, ...], indexes: list[str]
) -> None:
    _, (outbox, *_) = relays
    run_sync(outbox.take(1, LEASE))
    with closing(sqlite3.connect(file)) as connection:
        # For the triggers, which are planned along.
        connection.create_function("ae_writing_tenant", 0, lambda: None)
        plan = " | ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))
    assert [index for index in indexes if index not in plan] == [], plan


def test_after_its_end_a_lease_belongs_to_the_next_relay(relays: Relays, clock: Clock) -> None:
    backend, (silent, second, third) = relays
    written = run_sync(commit_about(backend, "jobs/1"))
    assert ids(run_sync(silent.take(100, LEASE))) == written
    clock.at += timedelta(seconds=LEASE) - MOMENT
    assert run_sync(second.take(100, LEASE)) == []
    clock.at += MOMENT
    assert ids(run_sync(second.take(100, LEASE))) == written
    with pytest.raises(StorageUnavailable):
        run_sync(silent.extend())
    run_sync(second.extend())
    assert run_sync(third.take(100, LEASE)) == []


def test_a_process_takes_over_the_lease_of_a_dead_one(
    relays: Relays, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, (killed, second, third) = relays
    written = run_sync(commit_about(backend, "jobs/1"))
    assert ids(run_sync(killed.take(100, LEASE))) == written
    monkeypatch.setattr(sqlite_outbox, "_is_alive", lambda pid: pid == os.getpid())
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE ae_relay_lease SET pid = pid + 1")
    assert ids(run_sync(second.take(100, LEASE))) == written
    assert run_sync(third.take(100, LEASE)) == []


def test_a_relay_sleeps_until_the_next_attempt_that_can_be_made(
    relays: Relays, clock: Clock, slept: list[float]
) -> None:
    backend, (outbox, *_) = relays
    first, second, other = run_sync(commit_about(backend, "jobs/1", "jobs/1", "jobs/2"))
    batch = run_sync(taken(outbox))
    run_sync(outbox.settle((), [failed_delivery(batch[first], None), failed_delivery(batch[other], 3600.0)]))
    run_sync(outbox.wait(7200.0))

    # The second one's time has come, but it is held again.
    run_sync(outbox.skip([first], "no"))
    run_sync(outbox.settle((), [failed_delivery(run_sync(taken(outbox))[second], 0.0)]))
    run_sync(outbox.redrive([first]))
    run_sync(outbox.settle((), [failed_delivery(run_sync(taken(outbox))[first], 1000.0)]))
    outbox.wake()
    run_sync(outbox.wait(7200.0))
    run_sync(outbox.wait(7200.0))
    assert slept == [3600.0, 1000.0]


def test_a_relay_is_listed_for_a_minute_and_known_for_a_day(relays: Relays, clock: Clock) -> None:
    _, (outbox, *_) = relays

    def listed() -> list[str]:
        return [relay.id for relay in run_sync(outbox.status()).relays]

    run_sync(outbox.heartbeat(beat("silent", START, START)))
    clock.at = START + MINUTE - MOMENT
    assert listed() == ["silent"]
    clock.at = START + MINUTE
    assert listed() == []
    for age, kept in ((DAY, ["silent"]), (DAY + MOMENT, [])):
        clock.at = START + age
        run_sync(outbox.heartbeat(beat("other", START, START - DAY)))
        clock.at = START
        assert listed() == kept
