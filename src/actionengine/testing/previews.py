"""Previews and plans: an execution with a plan writes what the preview showed, or nothing."""

from __future__ import annotations

from typing import Any

from returns.result import Result

from actionengine.context import RequestContext
from actionengine.errors import ActionError, ErrorCode
from actionengine.pipeline.preview import Preview
from actionengine.storage.captured import WriteJournal
from actionengine.testing.backend import run_in_mode
from actionengine.testing.base import Conformance, error_of, value_of
from actionengine.testing.harness import ActionResult
from actionengine.testing.sample import CLERK, SampleHarness

NOTE = {"id": "n"}


async def preview(harness: SampleHarness, action: str, payload: Any = None) -> Preview:
    """Return the preview of an action of the service `notes`."""
    context = RequestContext(harness.tenant, CLERK)
    if harness.backend.mode == "async":
        answer: Result[Preview, ActionError] = await harness.engine.preview_async("notes", action, payload, context)
    else:
        answer = harness.engine.preview("notes", action, payload, context)
    shown: Preview = value_of(answer)
    return shown


async def perform(harness: SampleHarness, plan: str) -> ActionResult:
    """Increment the note with a plan."""
    context = RequestContext(harness.tenant, CLERK, plan=plan)
    return await harness.backend.execute(harness.engine, "notes", "increment", NOTE, context)


class PreviewConformance(Conformance):
    """Previews and plans."""

    @run_in_mode
    async def test_a_preview_shows_writes_and_keeps_none(self, harness: SampleHarness) -> None:
        await harness.backend.put("notes", "n", {"number": 1})

        shown = await preview(harness, "increment", NOTE)

        (write,) = shown.writes
        assert (write.kind, write.id, write.before, write.after) == ("update", "n", {"number": 1}, {"number": 2})
        assert [(event.type, event.payload) for event in shown.events] == [("note.incremented", {"number": 2})]
        record = await harness.backend.get("notes", "n")
        assert record is not None
        assert record.data == {"number": 1}
        assert await harness.event_types() == []
        assert await harness.outcomes("notes.increment") == ["previewed"]

    @run_in_mode
    async def test_a_plan_writes_what_was_shown_once(self, harness: SampleHarness) -> None:
        await harness.backend.put("notes", "n", {"number": 1})
        shown = await preview(harness, "increment", NOTE)

        assert value_of(await perform(harness, shown.plan)) == shown.value
        error_of(await perform(harness, shown.plan), ErrorCode.CONFLICT)

        record = await harness.backend.get("notes", "n")
        assert record is not None
        assert record.data == {"number": 2}

    @run_in_mode
    async def test_a_plan_is_refused_after_another_write(self, harness: SampleHarness) -> None:
        await harness.backend.put("notes", "n", {"number": 1})
        shown = await preview(harness, "increment", NOTE)
        value_of(await harness.execute("notes.increment", NOTE))

        error_of(await perform(harness, shown.plan), ErrorCode.CONFLICT)

        record = await harness.backend.get("notes", "n")
        assert record is not None
        assert record.data == {"number": 2}

    @run_in_mode
    async def test_writes_of_a_failed_action_are_not_shown(self, harness: SampleHarness) -> None:
        name = "put_around_failures_async" if harness.backend.mode == "async" else "put_around_failures"

        shown = await preview(harness, name)

        assert [write.id for write in shown.writes] == ["after", "before", "own"]

    @run_in_mode
    async def test_statements_can_be_captured_twice(self, harness: SampleHarness) -> None:
        journal = WriteJournal()
        async with harness.backend.writing() as unit:
            unit.capture_sql(journal)
            unit.capture_sql(journal)
            await unit.records("notes").insert({}, "n")

        # The pipeline captures what passes the port.
        assert journal == []
