"""Previews and plans of documents: what a preview shows and keeps, and what a plan holds an execution to."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from actionengine import Actor, ErrorCode, Preview
from actionengine.testing import run_in_mode
from tests.harness import ANN, BOB, expect, refused
from tests.previews.desk import PAYLOAD, Desk


@run_in_mode
async def test_preview_shows_the_writes_and_keeps_nothing(desk: Desk) -> None:
    before = await desk.event_types()
    preview: Preview = expect(await desk.preview("bank.transfer"))
    shown = [(write.kind, write.target, write.before, write.after) for write in preview.writes]
    assert shown[:2] == [
        ("update", "accounts", {"balance": 100}, {"balance": 70}),
        ("update", "accounts", {"balance": 100}, {"balance": 130}),
    ]
    assert shown[2][:3] == ("insert", "transfers", None)
    assert preview.writes[2].id == preview.value
    assert [(event.type, event.payload) for event in preview.events] == [("Transferred", {"amount": 30})]
    assert preview.approval is None
    assert (await desk.balance("a"), await desk.balance("b")) == (100, 100)
    assert await desk.backend.ids("transfers") == []
    assert await desk.event_types() == before
    assert await desk.outcomes("bank.transfer") == ["previewed"]


@run_in_mode
async def test_plan_commits_what_the_preview_showed(desk: Desk) -> None:
    preview = expect(await desk.preview("bank.transfer"))
    assert expect(await desk.perform("bank.transfer", plan=preview.plan)) == preview.value
    record = await desk.backend.get("transfers", preview.value)
    assert record is not None
    assert record.data == preview.writes[2].after
    assert (await desk.balance("a"), await desk.balance("b")) == (70, 130)
    assert await desk.outcomes("bank.transfer") == ["previewed", "succeeded"]


@run_in_mode
async def test_plan_is_refused_when_a_document_has_changed(desk: Desk) -> None:
    preview = expect(await desk.preview("bank.transfer"))
    expect(await desk.ask("bank.transfer", {"from": "b", "to": "a", "amount": 1}))
    error = refused(await desk.perform("bank.transfer", plan=preview.plan), ErrorCode.CONFLICT, "accounts/a")
    assert error.details["differs"] == ["accounts/a", "accounts/b"]
    assert (await desk.balance("a"), await desk.balance("b")) == (101, 99)
    assert await desk.backend.get("transfers", preview.value) is None


@run_in_mode
async def test_plan_can_be_used_once(desk: Desk) -> None:
    plan = expect(await desk.preview("bank.transfer")).plan
    expect(await desk.perform("bank.transfer", plan=plan))
    refused(await desk.perform("bank.transfer", plan=plan), ErrorCode.CONFLICT, "was used")


@run_in_mode
async def test_one_of_16_executions_at_once_uses_a_plan(desk: Desk) -> None:
    plan = expect(await desk.preview("bank.transfer")).plan
    answers = await desk.backend.gather(*(desk.perform("bank.transfer", plan=plan) for _ in range(16)))
    assert sorted(str(getattr(answer, "code", "done")) for answer in answers).count("done") == 1
    assert {answer.code for answer in answers if not isinstance(answer, str)} == {ErrorCode.CONFLICT}
    assert (await desk.balance("a"), await desk.balance("b")) == (70, 130)


@run_in_mode
async def test_failed_execution_leaves_its_plan_usable(desk: Desk) -> None:
    plan = expect(await desk.preview("bank.transfer")).plan
    expect(await desk.ask("bank.transfer", {**PAYLOAD, "amount": 1}))
    refused(await desk.perform("bank.transfer", plan=plan), ErrorCode.CONFLICT, "differ")
    expect(await desk.ask("bank.transfer", {"from": "b", "to": "a", "amount": 1}))
    expect(await desk.perform("bank.transfer", plan=plan))


@run_in_mode
async def test_replay_by_key_answers_before_the_plan(desk: Desk) -> None:
    plan = expect(await desk.preview("bank.transfer")).plan
    first = expect(await desk.perform("bank.transfer", plan=plan, idempotency_key="k"))
    assert await desk.perform("bank.transfer", plan=plan, idempotency_key="k") == first
    assert await desk.outcomes("bank.transfer") == ["previewed", "succeeded", "replayed"]


@run_in_mode
async def test_foreign_plan_is_refused(desk: Desk) -> None:
    plan = expect(await desk.preview("bank.transfer")).plan
    refused(await desk.perform("bank.transfer", plan=plan, by=BOB), ErrorCode.FORBIDDEN, "another actor's")
    agent = Actor.ai("bot", on_behalf_of=ANN)
    refused(await desk.perform("bank.transfer", plan=plan, by=agent), ErrorCode.FORBIDDEN)
    other = desk.backend.other_tenant
    refused(await desk.perform("bank.transfer", plan=plan, tenant=other), ErrorCode.NOT_FOUND)
    refused(await desk.perform("bank.transfer", {**PAYLOAD, "amount": 31}, plan=plan), ErrorCode.CONFLICT, "payload")
    refused(await desk.perform("bank.open", PAYLOAD, plan=plan), ErrorCode.CONFLICT, "bank.transfer")
    expect(await desk.perform("bank.transfer", plan=plan))


@pytest.mark.parametrize("forged", ["", "plan_", "x" * 100_000, 7, b"plan", "plan_\x00", "ae_plans"])
@run_in_mode
async def test_forged_plan_is_refused(desk: Desk, forged: Any) -> None:
    refused(await desk.perform("bank.transfer", plan=forged), ErrorCode.INVALID_INPUT, "engine.preview")
    assert await desk.outcomes("bank.transfer") == ["invalid"]


@run_in_mode
async def test_unknown_plan_is_not_found(desk: Desk) -> None:
    refused(await desk.perform("bank.transfer", plan=f"plan_{uuid4()}"), ErrorCode.NOT_FOUND, "preview again")
    assert await desk.outcomes("bank.transfer") == ["failed"]


@run_in_mode
async def test_failed_preview_is_on_the_log_as_a_preview(desk: Desk) -> None:
    refused(await desk.preview("bank.transfer", {"from": "x", "to": "b", "amount": 1}), ErrorCode.UNPROCESSABLE)
    (entry,) = await desk.log(action="bank.transfer")
    assert entry.error is not None
    assert (entry.outcome, entry.error["code"]) == ("previewed", "unprocessable")


@run_in_mode
async def test_read_only_action_has_a_plan(desk: Desk) -> None:
    preview = expect(await desk.preview("bank.read", {"id": "a"}))
    assert (preview.value, preview.writes, preview.events) == (100, (), ())
    assert await desk.perform("bank.read", {"id": "a"}, plan=preview.plan) == 100
    refused(await desk.perform("bank.read", {"id": "a"}, plan=preview.plan), ErrorCode.CONFLICT, "was used")
