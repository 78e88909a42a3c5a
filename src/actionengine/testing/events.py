"""The event log: committed events only, once, in commit order."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from returns.result import Success

from actionengine.errors import ErrorCode
from actionengine.storage.pages import MAX_PAGE_BYTES
from actionengine.storage.rows import EventRow, Recording
from actionengine.testing.backend import Backend, run_in_mode
from actionengine.testing.base import Conformance, error_of, raises_action_error, value_of
from actionengine.testing.rows import event_row
from actionengine.testing.sample import SampleHarness


def comparable(event: EventRow) -> EventRow:
    """Return an event with its payload decoded, since a backend may format it in its own way."""
    decoded: dict[str, Any] = {"payload": json.loads(event.payload), "chain": event.chain and json.loads(event.chain)}
    return event._replace(**decoded)


async def record_events(backend: Backend, *events: EventRow) -> None:
    """Commit events."""
    async with backend.writing() as unit:
        await unit.record(Recording((), events))


class EventConformance(Conformance):
    """Events of a tenant."""

    @run_in_mode
    async def test_an_event_comes_back_as_it_was_written(self, backend: Backend) -> None:
        full = event_row(backend.tenant, chain=b'{"type":"ai","id":"gr\xc3\xbc\xc3\x9fe"}')
        bare = event_row(backend.tenant, subject=None, payload=b"null", actor_type=None, actor_id=None, on_behalf_of=())

        await record_events(backend, full, bare)

        stored = await backend.read_events(backend.tenant)
        assert [comparable(item.event) for item in stored] == [comparable(full), comparable(bare)]

    @run_in_mode
    async def test_events_are_read_in_commit_order(self, backend: Backend) -> None:
        early, late, last = (event_row(backend.tenant) for _ in range(3))
        await record_events(backend, late)
        await record_events(backend, early, last)

        stored = await backend.read_events(backend.tenant)

        assert [item.event.id for item in stored] == [late.id, early.id, last.id]
        assert all(0 < first.position < second.position for first, second in pairwise(stored))

    @run_in_mode
    async def test_events_are_read_on_from_a_position(self, backend: Backend) -> None:
        events = [event_row(backend.tenant) for _ in range(7)]
        for event in events:
            await record_events(backend, event)

        seen: list[str] = []
        position = 0
        while page := await backend.read_events(backend.tenant, after=position, limit=3):
            assert len(page) <= 3
            assert page[0].position > position
            seen += [item.event.id for item in page]
            position = page[-1].position

        assert seen == [event.id for event in events]
        assert list(await backend.read_events(backend.tenant, after=position)) == []

    @run_in_mode
    async def test_events_of_many_types_are_read_in_the_order_of_all(self, backend: Backend) -> None:
        names = [f"t{number % 7}" for number in range(40)]
        events = [event_row(backend.tenant)._replace(type=name) for name in names]
        await record_events(backend, *events)
        types = ["t6", "t2", "t4", "t2", "none"]

        seen: list[str] = []
        position = 0
        while page := await backend.read_events(backend.tenant, after=position, limit=4, types=types):
            assert len(page) <= 4
            seen += [item.event.id for item in page]
            position = page[-1].position

        assert seen == [event.id for event in events if event.type in types]
        assert list(await backend.read_events(backend.tenant, types=[])) == []
        assert list(await backend.read_events(backend.other_tenant, types=types)) == []

    @pytest.mark.parametrize("types", [None, ["large"]], ids=["all", "typed"])
    @run_in_mode
    async def test_a_page_ends_with_the_event_that_reaches_its_bytes(
        self, backend: Backend, types: list[str] | None
    ) -> None:
        payload = b'"%b"' % (b"x" * (MAX_PAGE_BYTES // 3))
        events = [event_row(backend.tenant)._replace(type="large", payload=payload) for _ in range(5)]
        await record_events(backend, *events)

        first = await backend.read_events(backend.tenant, types=types)
        rest = await backend.read_events(backend.tenant, after=first[-1].position, types=types)

        assert [item.event.id for item in (*first, *rest)] == [event.id for event in events]
        assert len(first) == 3

    @pytest.mark.parametrize("limit", [0, -1])
    @run_in_mode
    async def test_a_page_has_at_least_one_event(self, backend: Backend, limit: int) -> None:
        with raises_action_error(ErrorCode.INVALID_INPUT):
            await backend.read_events(backend.tenant, limit=limit)

    @run_in_mode
    async def test_events_appear_with_the_commit_and_not_after_a_rollback(self, backend: Backend) -> None:
        unit = backend.unit()
        await unit.record(Recording((), (event_row(backend.tenant),)))

        assert list(await backend.read_events(backend.tenant)) == []
        await unit.rollback()
        assert list(await backend.read_events(backend.tenant)) == []

    @run_in_mode
    async def test_the_last_position_is_that_of_the_last_committed_event(self, backend: Backend) -> None:
        async with backend.writing() as unit:
            assert await unit.last_position() == 0
        await record_events(backend, event_row(backend.tenant), event_row(backend.tenant))
        async with backend.writing(backend.other_tenant) as unit:
            await unit.record(Recording((), (event_row(backend.other_tenant),)))

        async with backend.writing() as unit:
            assert await unit.last_position() == (await backend.read_events(backend.tenant))[-1].position

    # Actions

    @run_in_mode
    async def test_an_action_that_emits_nothing_yields_a_default_event(self, harness: SampleHarness) -> None:
        value_of(await harness.execute("notes.put", {"id": "n1", "text": "grüße"}))

        (stored,) = await harness.backend.read_events(harness.backend.tenant)
        (row,) = await harness.log(action="notes.put")
        event = stored.event
        assert (event.type, event.action, event.action_id) == ("notes.put", "notes.put", row.id)
        assert (event.subject, event.actor_type, event.actor_id) == ("notes/n1", "human", "clerk")
        assert json.loads(event.payload) == {
            "input": {"id": "n1", "text": "grüße"},
            "output": {"id": "n1", "text": "grüße"},
        }

    @run_in_mode
    async def test_an_action_that_emits_yields_just_that_in_its_order(self, harness: SampleHarness) -> None:
        value_of(await harness.execute("notes.tell", {"types": ["b", "a", "b"], "text": "hi", "subject": "notes/1"}))

        stored = await harness.backend.read_events(harness.backend.tenant)
        assert [item.event.type for item in stored] == ["b", "a", "b"]
        assert all(json.loads(item.event.payload) == {"said": "hi"} for item in stored)
        assert all(item.event.subject == "notes/1" for item in stored)

    @run_in_mode
    async def test_failed_and_read_only_actions_yield_none(self, harness: SampleHarness) -> None:
        error_of(await harness.execute("notes.fail", {}), ErrorCode.UNPROCESSABLE)
        error_of(await harness.execute("notes.crash", {}), ErrorCode.HANDLER_ERROR)
        value_of(await harness.execute("notes.read", {"id": "n1"}))

        assert await harness.event_types() == []

    @run_in_mode
    async def test_a_failed_nested_action_keeps_only_its_row(self, harness: SampleHarness) -> None:
        value_of(await harness.execute("notes.put_around_failures", {}))

        assert await harness.event_types() == ["notes.put", "notes.put", "notes.put_around_failures"]
        assert await harness.outcomes("notes.fail") == ["failed"]
        assert await harness.outcomes("notes.crash") == ["failed"]

    @run_in_mode
    async def test_a_replay_yields_no_second_event(self, harness: SampleHarness) -> None:
        for _ in range(3):
            value_of(await harness.execute("notes.put", {}, key="key"))

        assert await harness.event_types() == ["notes.put"]

    @run_in_mode
    async def test_concurrent_actions_lose_no_event_and_keep_order(self, harness: SampleHarness) -> None:
        for id in ("a", "b"):
            await harness.backend.put("notes", id, {"number": 0})

        async def increment(id: str) -> int:
            answers = [await harness.execute("notes.increment", {"id": id}) for _ in range(20)]
            return sum(isinstance(answer, Success) for answer in answers)

        succeeded = sum(await harness.backend.gather(*(increment(id) for id in "aabb")))

        stored = await harness.backend.read_events(harness.backend.tenant)
        assert len(stored) == succeeded
        assert all(first.position < second.position for first, second in pairwise(stored))
        for id in ("a", "b"):
            numbers = [
                json.loads(item.event.payload)["number"] for item in stored if item.event.subject == f"notes/{id}"
            ]
            assert numbers == list(range(1, len(numbers) + 1))
