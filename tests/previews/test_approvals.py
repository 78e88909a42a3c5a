"""Approvals that bind the effects: the approver sees the writes, and approving commits exactly these."""

from __future__ import annotations

from typing import Any

import pytest
from returns.result import Result, Success

from actionengine import ActionContext, ApprovalPolicy, ErrorCode, HookDefinition, create_action, create_service
from actionengine.actions import ActionHooks
from actionengine.testing import Backend, run_in_mode
from tests.harness import BOB, expect, refused
from tests.previews.desk import ACTIONS, PAYLOAD, Desk, transfer

BOSS = type(BOB).human("boss", permissions=["bank.approve", "bank.audit"])


def large(data: Any, ctx: ActionContext) -> bool:
    """Apply to amounts from 10 on."""
    return bool(data["amount"] >= 10)


def pay_twice(data: dict[str, Any], ctx: ActionContext) -> Result[Any, Any]:
    """Execute an action that needs an approval, twice, with a write of its own between."""
    first = ctx.execute("bank", "pay", data).unwrap()
    ctx.records("notes").insert({"first": first})
    return Success([first, ctx.execute("bank", "pay", data).unwrap()])


def note(data: dict[str, Any], ctx: ActionContext) -> Result[Any, Any]:
    """Write down that an action is about to run."""
    ctx.records("notes").insert({"about": data["from"]})
    return Success(data)


EFFECTS = ApprovalPolicy(when=large, permission="bank.approve", binds="effects")
AUDIT = ApprovalPolicy(when=large, permission="bank.audit", binds="effects")
PAYLOAD_ONLY = ApprovalPolicy(when=large, permission="bank.audit")


def nest_pay(data: dict[str, Any], ctx: ActionContext) -> Result[Any, Any]:
    """Execute an action that needs an approval of its own."""
    ctx.records("notes").insert({"nested": data["from"]})
    return Success(ctx.execute("bank", "pay", data).unwrap())


def ask_and_pay(data: dict[str, Any], ctx: ActionContext) -> Result[Any, Any]:
    """Ask for a permission that the approver does not need, and execute an action that needs an approval."""
    ctx.authorize("bank.vault")
    return Success(ctx.execute("bank", "pay", data).unwrap())


SERVICE = create_service(
    name="bank",
    description="Accounts",
    actions=[
        *ACTIONS,
        create_action(name="note", description="Note", handler=note),
        create_action(name="pay", description="Pay", handler=transfer, approval=EFFECTS),
        create_action(
            name="hooked",
            description="Pay",
            handler=transfer,
            approval=EFFECTS,
            hooks=ActionHooks(before=[HookDefinition("bank", "note")]),
        ),
        create_action(name="twice", description="Pay twice", handler=pay_twice),
        create_action(name="audited", description="Pay", handler=nest_pay, approval=AUDIT),
        create_action(name="checked", description="Pay", handler=nest_pay, approval=PAYLOAD_ONLY),
        create_action(name="asking", description="Pay", handler=ask_and_pay, approval=PAYLOAD_ONLY),
        create_action(name="plain", description="Pay", handler=transfer, approval=PAYLOAD_ONLY),
    ],
)


@pytest.fixture
def desk(backend: Backend) -> Desk:
    """A bank whose payments need an approval of their effects."""
    desk = Desk(backend, [SERVICE])

    async def opened() -> None:
        for id in ("a", "b"):
            expect(await desk.ask("bank.open", {"id": id, "balance": 100}))

    backend.run(opened())
    return desk


async def asked(desk: Desk, name: str, **options: Any) -> str:
    """Execute an action that needs an approval. Return the approval's id."""
    error = refused(await desk.ask(name, PAYLOAD, **options), ErrorCode.APPROVAL_REQUIRED)
    id: str = error.details["approval_id"]
    return id


async def approve(desk: Desk, id: str, **options: Any) -> Any:
    """Approve as the boss."""
    return await desk.ask("approvals.approve", {"approval_id": id}, by=BOSS, **options)


@run_in_mode
async def test_approver_sees_the_writes_and_commits_them(desk: Desk) -> None:
    id = await asked(desk, "bank.pay")
    assert (await desk.balance("a"), await desk.backend.ids("transfers")) == (100, [])
    shown = expect(await desk.ask("approvals.get", {"approval_id": id}, by=BOSS))
    assert shown.binds == "effects"
    assert [(each.target, each.id) for each in shown.writes[:2]] == [("accounts", "a"), ("accounts", "b")]
    assert [event.type for event in shown.events] == ["Transferred"]
    (listed,) = expect(await desk.ask("approvals.list", {}, by=BOSS)).items
    assert listed.writes == shown.writes
    result = expect(await approve(desk, id)).result
    assert result == shown.writes[2].id
    record = await desk.backend.get("transfers", result)
    assert record is not None
    assert record.data == shown.writes[2].after
    assert await desk.event_types() == ["bank.open", "bank.open", "Transferred", "approvals.approve"]


@run_in_mode
async def test_approval_is_refused_when_a_document_has_changed(desk: Desk) -> None:
    id = await asked(desk, "bank.pay")
    expect(await desk.ask("bank.transfer", {**PAYLOAD, "amount": 1}))
    error = refused(await approve(desk, id), ErrorCode.CONFLICT, "differ")
    assert error.details["differs"] == ["accounts/a", "accounts/b"]
    assert (await desk.balance("a"), await desk.balance("b")) == (99, 101)
    # It stays open: once the accounts are as they were, it can be approved.
    expect(await desk.ask("bank.transfer", {"from": "b", "to": "a", "amount": 1}))
    expect(await approve(desk, id))
    assert (await desk.balance("a"), await desk.balance("b")) == (70, 130)


@run_in_mode
async def test_the_same_request_meets_the_approval_of_its_effects(desk: Desk) -> None:
    id = await asked(desk, "bank.pay")
    shown = expect(await desk.ask("approvals.get", {"approval_id": id}, by=BOSS))
    expect(await desk.ask("bank.transfer", {**PAYLOAD, "amount": 1}))
    assert await asked(desk, "bank.pay") == id
    assert expect(await desk.ask("approvals.get", {"approval_id": id}, by=BOSS)).writes == shown.writes


@run_in_mode
async def test_the_same_request_replaces_effects_that_conflicted(desk: Desk) -> None:
    id = await asked(desk, "bank.pay")
    expect(await desk.ask("bank.transfer", {**PAYLOAD, "amount": 1}))
    refused(await approve(desk, id), ErrorCode.CONFLICT, "differ")
    new = await asked(desk, "bank.pay")
    assert new != id
    expect(await approve(desk, new))
    assert (await desk.balance("a"), await desk.balance("b")) == (69, 131)
    assert expect(await desk.ask("approvals.get", {"approval_id": id})).status == "cancelled"


@pytest.mark.parametrize("name", ["bank.hooked", "bank.twice"])
@run_in_mode
async def test_hooks_and_nested_actions_are_in_the_effects(desk: Desk, name: str) -> None:
    id = await asked(desk, name, key="k")
    shown = expect(await desk.ask("approvals.get", {"approval_id": id}, by=BOSS))
    assert "notes" in {each.target for each in shown.writes}
    answer = expect(await approve(desk, id))
    committed = {(each.target, each.id) for each in shown.writes}
    assert {("notes", id) for id in await desk.backend.ids("notes")} <= committed
    assert await desk.ask(name, PAYLOAD, key="k") == answer.result


@pytest.mark.parametrize("name", ["bank.audited", "bank.checked"])
@run_in_mode
async def test_further_approval_binds_the_effects_too(desk: Desk, name: str) -> None:
    first = await asked(desk, name)
    further = expect(await approve(desk, first)).further_approval_id
    assert await desk.backend.ids("notes") == []
    shown = expect(await desk.ask("approvals.get", {"approval_id": further}, by=BOSS))
    assert [each.target for each in shown.writes] == ["accounts", "accounts", "notes", "transfers"]
    expect(await desk.ask("bank.transfer", {**PAYLOAD, "amount": 1}))
    refused(await approve(desk, further), ErrorCode.CONFLICT)
    expect(await desk.ask("bank.transfer", {"from": "b", "to": "a", "amount": 1}))
    expect(await approve(desk, further))
    assert await desk.backend.ids("notes") == [shown.writes[2].id]


@run_in_mode
async def test_a_retry_of_the_approver_asks_its_own_questions(desk: Desk) -> None:
    """The rehearsal of a further approval asks the requester's."""
    id = await asked(desk, "bank.asking", by=type(BOB).human("vic", permissions=["bank.vault"]))
    first = expect(await approve(desk, id, key="once"))
    assert first.further_approval_id is not None
    assert await approve(desk, id, key="once") == first


@run_in_mode
async def test_asking_fails_as_the_action_would(desk: Desk) -> None:
    gone = {**PAYLOAD, "from": "x"}
    refused(await desk.ask("bank.pay", gone), ErrorCode.UNPROCESSABLE, "no account")
    assert expect(await desk.ask("approvals.list", {}, by=BOSS)).items == ()
    assert await desk.outcomes("bank.pay") == ["failed"]


@run_in_mode
async def test_preview_says_that_an_approval_is_needed(desk: Desk) -> None:
    preview = expect(await desk.preview("bank.pay"))
    assert (preview.approval.action, preview.approval.permission) == ("bank.pay", "bank.approve")
    assert len(preview.writes) == 3
    assert expect(await desk.ask("approvals.list", {}, by=BOSS)).items == ()


@pytest.mark.parametrize("name", ["bank.pay", "bank.plain"])
@run_in_mode
async def test_plan_is_kept_through_an_approval(desk: Desk, name: str) -> None:
    preview = expect(await desk.preview(name))
    error = refused(await desk.perform(name, plan=preview.plan), ErrorCode.APPROVAL_REQUIRED)
    id = error.details["approval_id"]
    again = refused(await desk.perform(name, plan=preview.plan), ErrorCode.APPROVAL_REQUIRED)
    assert again.details["approval_id"] == id
    shown = expect(await desk.ask("approvals.get", {"approval_id": id}, by=BOSS))
    assert shown.writes == preview.writes
    assert expect(await approve(desk, id)).result == preview.value
    refused(await desk.perform(name, plan=preview.plan), ErrorCode.CONFLICT, "was used")


@run_in_mode
async def test_stale_plan_asks_for_no_approval(desk: Desk) -> None:
    preview = expect(await desk.preview("bank.plain"))
    expect(await desk.ask("bank.transfer", {**PAYLOAD, "amount": 1}))
    refused(await desk.perform("bank.plain", plan=preview.plan), ErrorCode.CONFLICT, "differ")
    assert expect(await desk.ask("approvals.list", {}, by=BOSS)).items == ()


@run_in_mode
async def test_preview_of_an_approval_shows_its_action(desk: Desk) -> None:
    id = await asked(desk, "bank.pay")
    preview = expect(await desk.preview("approvals.approve", {"approval_id": id}, by=BOSS))
    assert {each.target for each in preview.writes} >= {"accounts", "transfers", "ae_approvals"}
    assert (await desk.balance("a"), expect(await approve(desk, id)).approval.status) == (100, "approved")
