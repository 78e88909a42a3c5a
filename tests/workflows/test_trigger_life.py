"""Triggers over time: versions come and go, operators disable, and events arrive late or again."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from actionengine import ErrorCode, Limits
from actionengine.events.event import Event
from actionengine.testing import run_in_mode
from actionengine.workflows.runtime import publisher
from actionengine.workflows.services import steps
from tests.harness import expect
from tests.workflows.harness import EVENT, Harness, Relay, each_storage, emit, note, runs_of

MODE = "async"
"""The publisher is asynchronous."""

SCHEDULE = {"type": "schedule", "schedule": "0 9 * * *"}
OTHER = {"type": "event", "event_type": "job.gone"}

Change = Callable[[Harness, str], Coroutine[Any, Any, None]]


async def own_trigger(harness: Harness, key: str) -> Any:
    """Return the trigger of a workflow's definition."""
    [found] = [each for each in expect(await harness.ask("triggers.list", {"key": key})) if each.from_definition]
    return found


async def deliver_again(harness: Harness, relay: Relay, type: str = "job.done") -> None:
    """Deliver all events of a type again, as a replay does."""
    stored = await harness.backend.read_events(harness.tenant, types=[type])
    assert await relay.publisher.publish([Event.of(each.position, each.event) for each in stored]) == {}


# One event, one run


async def a_newer_version(harness: Harness, key: str) -> None:
    await harness.define(note("b"), key=key, trigger=EVENT | {"input": {"n": 2}})


async def no_trigger_for_a_while(harness: Harness, key: str) -> None:
    await harness.define(note("b"), key=key)
    await harness.define(note("c"), key=key, trigger=EVENT)


async def the_first_version_again(harness: Harness, key: str) -> None:
    await a_newer_version(harness, key)
    expect(await harness.ask("workflows.activate", {"key": key, "version": 1}))


async def deleted_and_made_anew(harness: Harness, key: str) -> None:
    trigger = await own_trigger(harness, key)
    expect(await harness.ask("triggers.delete", {"trigger_id": trigger.id}))
    expect(await harness.ask("triggers.create", {"key": key, "trigger": EVENT}))


async def a_second_trigger(harness: Harness, key: str) -> None:
    expect(await harness.ask("triggers.create", {"key": key, "trigger": EVENT}))


CHANGES: list[Change] = [
    a_newer_version,
    no_trigger_for_a_while,
    the_first_version_again,
    deleted_and_made_anew,
    a_second_trigger,
]


@pytest.mark.parametrize("change", CHANGES)
@run_in_mode
async def test_a_repeated_event_starts_no_second_run(
    harness: Harness, tmp_path: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The key has expired, and the event is old.
    harness = harness.another(limits=Limits(idempotency_ttl=0.001))
    for module in (publisher, steps):
        monkeypatch.setattr(module, "sees", lambda trigger, position: trigger.data["status"] == "active")
    relay = Relay(harness, tmp_path)
    key = await harness.define(note("a"), trigger=EVENT)
    await emit(harness)
    assert await relay.give() == {}
    [run] = await runs_of(harness, key)

    await change(harness, key)
    await harness.backend.purge_expired_keys()
    await deliver_again(harness, relay)

    assert [each.id for each in await runs_of(harness, key)] == [run.id]
    await emit(harness)
    assert await relay.give() == {}
    assert len(await runs_of(harness, key)) == 2


@pytest.mark.parametrize("change", CHANGES[-2:])
@run_in_mode
async def test_a_repeated_time_starts_no_second_run(harness: Harness, change: Change) -> None:
    key = await harness.define(note("a"), trigger=SCHEDULE)
    at = datetime(2030, 1, 29, 9, tzinfo=UTC)
    first = (await own_trigger(harness, key)).id
    id = await harness.executor.fire(harness.tenant, key, first, at)

    if change is deleted_and_made_anew:
        expect(await harness.ask("triggers.delete", {"trigger_id": first}))
    expect(await harness.ask("triggers.create", {"key": key, "trigger": SCHEDULE}))
    for trigger in expect(await harness.ask("triggers.list", {"key": key})):
        await harness.executor.fire(harness.tenant, key, trigger.id, at)

    assert [run.id for run in await runs_of(harness, key)] == [id]


# Operators


@pytest.mark.parametrize("trigger", [OTHER, SCHEDULE], ids=str)
@run_in_mode
async def test_a_disabled_trigger_stays_disabled_in_later_versions(harness: Harness, trigger: dict[str, Any]) -> None:
    key = await harness.define(note("a"), trigger=EVENT)
    made = await own_trigger(harness, key)
    expect(await harness.ask("triggers.disable", {"trigger_id": made.id}))

    for later in (trigger, EVENT, None, None, trigger, EVENT):
        await harness.define(note("a"), key=key, trigger=later)
        if later is not None:
            now = await own_trigger(harness, key)
            assert (now.id, now.status, now.trigger) == (made.id, "disabled", later)
    expect(await harness.ask("workflows.activate", {"key": key, "version": 1}))
    assert (await own_trigger(harness, key)).status == "disabled"

    expect(await harness.ask("triggers.enable", {"trigger_id": made.id}))
    await harness.define(note("a"), key=key)
    await harness.define(note("a"), key=key, trigger=trigger)
    assert (await own_trigger(harness, key)).status == "active"


@run_in_mode
async def test_a_deleted_trigger_of_a_definition_returns_disabled(harness: Harness, relay: Relay) -> None:
    key = await harness.define(note("a"), trigger=EVENT)
    made = await own_trigger(harness, key)
    expect(await harness.ask("triggers.delete", {"trigger_id": made.id}))
    assert (await harness.ask("triggers.get", {"trigger_id": made.id})).code is ErrorCode.NOT_FOUND

    await harness.define(note("b"), key=key, trigger=EVENT)

    now = await own_trigger(harness, key)
    assert (now.id, now.status) == (made.id, "disabled")
    await emit(harness)
    assert await relay.give() == {}
    assert await runs_of(harness, key) == []


@run_in_mode
async def test_a_trigger_that_stays_the_same_is_left_alone(harness: Harness, relay: Relay) -> None:
    key = await harness.define(note("a"), trigger=SCHEDULE)
    made = await own_trigger(harness, key)
    assert await relay.give() == {}
    scheduled = dict(relay.client.schedules)
    await harness.define(note("b"), key=key, trigger=SCHEDULE)

    assert await relay.give() == {}

    assert await own_trigger(harness, key) == made
    assert relay.client.schedules == scheduled
    assert len(await harness.backend.read_events(harness.tenant, types=["triggers.changed"])) == 1


@run_in_mode
async def test_a_disabled_schedule_that_changes_is_not_scheduled(harness: Harness, relay: Relay) -> None:
    key = await harness.define(note("a"), trigger=SCHEDULE)
    expect(await harness.ask("triggers.disable", {"trigger_id": (await own_trigger(harness, key)).id}))
    await harness.define(note("b"), key=key, trigger=SCHEDULE | {"schedule": "30 8 * * *"})

    assert await relay.give() == {}

    assert relay.client.schedules == {}


# A trigger sees only later events of the log


@each_storage
@run_in_mode
async def test_a_trigger_ignores_events_from_before_its_creation(harness: Harness, relay: Relay) -> None:
    await emit(harness)
    key, created = await harness.define(note("a"), trigger=EVENT), await harness.define(note("a"))
    expect(await harness.ask("triggers.create", {"key": created, "trigger": EVENT}))
    assert await relay.give(times=2) == {}
    assert [await runs_of(harness, each) for each in (key, created)] == [[], []]

    await emit(harness)
    assert await relay.give() == {}

    assert [len(await runs_of(harness, each)) for each in (key, created)] == [1, 1]
    await deliver_again(harness, relay)
    assert [len(await runs_of(harness, each)) for each in (key, created)] == [1, 1]


@each_storage
@run_in_mode
async def test_a_trigger_ignores_events_from_while_it_was_disabled(harness: Harness, relay: Relay) -> None:
    key = await harness.define(note("a"), trigger=EVENT)
    id = (await own_trigger(harness, key)).id
    expect(await harness.ask("triggers.disable", {"trigger_id": id}))
    await emit(harness)
    expect(await harness.ask("triggers.enable", {"trigger_id": id}))

    assert await relay.give() == {}
    assert await runs_of(harness, key) == []
    await emit(harness)
    assert await relay.give() == {}
    assert len(await runs_of(harness, key)) == 1


@run_in_mode
async def test_a_late_event_starts_a_run_of_the_active_version(harness: Harness, relay: Relay) -> None:
    key = await harness.define(note("a"), trigger=EVENT)
    await emit(harness)
    await harness.define(note("b"), key=key, trigger=EVENT | {"input": {"n": 2}})

    assert await relay.give() == {}

    [run] = await runs_of(harness, key)
    assert (run.workflow_version, run.input) == (2, {"n": 2})


@each_storage
@run_in_mode
async def test_a_trigger_with_a_new_type_ignores_earlier_events(harness: Harness, relay: Relay) -> None:
    key = await harness.define(note("a"), trigger=OTHER)
    await emit(harness)
    await harness.define(note("b"), key=key, trigger=EVENT)

    assert await relay.give() == {}
    assert await runs_of(harness, key) == []


@each_storage
@run_in_mode
async def test_a_restored_trigger_ignores_events_of_the_gap(harness: Harness, relay: Relay) -> None:
    key = await harness.define(note("a"), trigger=EVENT)
    await harness.define(note("b"), key=key)
    await emit(harness)
    await harness.define(note("c"), key=key, trigger=EVENT)

    assert await relay.give() == {}
    assert await runs_of(harness, key) == []
