"""A driver dies once its step has asked for an approval: what is decided before anybody looks at the run again counts,
and nobody is asked a second time."""

from __future__ import annotations

from typing import Any, cast

import pytest
from returns.result import Failure

from actionengine import (
    Actor,
    ApprovalPolicy,
    ErrorCode,
    Limits,
    Service,
    create_action,
    create_service,
)
from actionengine.errors import ActionError
from actionengine.workflows.models import RunPoint
from tests.workflows.desk import (
    BOB,
    EVE,
    Desk,
    action,
    approval,
    expect,
    note,
    refused,
    scenario,
    statuses,
)

CONFLICT = ErrorCode.CONFLICT


def _asks_twice() -> Service:
    outer = create_action(
        name="outer",
        description="Ask, and execute what asks again",
        handler=lambda data, ctx: ctx.execute("host", "approved", data),
        approval=ApprovalPolicy(when=lambda data, ctx: True, permission="host.approve"),
    )
    return create_service(name="asking", description="Asks twice", actions=[outer])


async def point_of(desk: Desk, id: str) -> RunPoint:
    run = await desk.get(id)
    point: RunPoint = (await desk.executions.next(desk.tenant, run.workflow_key, id, desk.world.mode)).unwrap()
    return point


async def ask(desk: Desk, id: str) -> str:
    """The approval that a run's step asks for. Whoever has driven it is dead from then on."""
    answer = await desk.executions.perform(desk.tenant, await point_of(desk, id), desk.world.mode)
    error = answer.failure()
    assert error.code is ErrorCode.APPROVAL_REQUIRED
    return str(error.details["approval_id"])


async def asked(desk: Desk) -> list[Any]:
    """All approvals that anybody was asked for, oldest first."""
    return list(expect(await desk.ask("approvals.list", {"limit": 200}, by=EVE)).items)[::-1]


async def refuse(desk: Desk, how: str, approval_id: str) -> None:
    if how == "rejected":
        expect(await desk.ask("approvals.reject", {"approval_id": approval_id}, by=BOB))
    elif how == "cancelled":
        (key,) = {each.requested_by for each in await asked(desk)}
        workflow = Actor.workflow(key.removeprefix("workflow:"))
        expect(await desk.ask("approvals.cancel", {"approval_id": approval_id}, by=workflow))
    else:
        await desk.world.pause(0.06)


async def look(desk: Desk, how: str, id: str, approval_id: str, point: RunPoint) -> None:
    """What another worker may do first, before any relay has told it of the decision."""
    about = (desk.tenant, point.workflow_key, id, point.position, approval_id)
    if how == "perform":
        await desk.executions.perform(desk.tenant, point, desk.world.mode)
    elif how == "wait":
        await desk.executions.wait(*about, desk.world.mode)
    elif how == "decline":
        await desk.executions.decline(desk.tenant, point.workflow_key, approval_id, desk.world.mode)
    else:
        await desk.drive(id)
        await desk.expire()
    await desk.go_on()


@pytest.mark.parametrize("looks", ["drive", "perform", "wait", "decline"])
@pytest.mark.parametrize("how", ["rejected", "expired", "cancelled"])
@scenario
async def test_a_refusal_before_anybody_looks_again_is_what_the_run_goes_on_with(
    desk: Desk, how: str, looks: str
) -> None:
    seconds = {"expires_after": 0.05} if how == "expired" else {}
    id = await desk.start(await desk.define(approval("ok", on_reject="no", **seconds), note("yes"), note("no")))
    point = await point_of(desk, id)
    approval_id = await ask(desk, id)
    await refuse(desk, how, approval_id)

    await look(desk, looks, id, approval_id, point)

    run = await desk.get(id)
    assert (run.status, statuses(run)) == ("succeeded", [("ok", "rejected"), ("no", "succeeded")])
    assert run.steps[0].error["details"] == {"approval_id": approval_id, "status": how}
    assert [each.id for each in await asked(desk)] == [approval_id]
    await desk.in_order()


@pytest.mark.parametrize("looks", ["drive", "perform", "wait", "decline"])
@scenario
async def test_an_approval_before_anybody_looks_again_is_what_the_run_goes_on_with(desk: Desk, looks: str) -> None:
    id = await desk.start(await desk.define(approval("ok"), note("yes")))
    point = await point_of(desk, id)
    approval_id = await ask(desk, id)
    expect(await desk.ask("approvals.approve", {"approval_id": approval_id}, by=BOB))

    await look(desk, looks, id, approval_id, point)

    run = await desk.get(id)
    assert (run.status, statuses(run)) == ("succeeded", [("ok", "succeeded"), ("yes", "succeeded")])
    assert [each.id for each in await asked(desk)] == [approval_id]
    await desk.in_order()


@pytest.mark.parametrize("looks", ["drive", "perform", "wait", "decline"])
@scenario
async def test_while_nothing_is_decided_the_run_waits_for_what_was_asked(desk: Desk, looks: str) -> None:
    id = await desk.start(await desk.define(approval("ok"), note("yes")))
    point = await point_of(desk, id)
    approval_id = await ask(desk, id)

    await look(desk, looks, id, approval_id, point)

    run = await desk.get(id)
    assert (run.status, run.paused_for, run.approval_id, run.steps) == ("paused", "approval", approval_id, ())
    assert [each.id for each in await asked(desk)] == [approval_id]
    (paused,) = await desk.events("workflows.paused")
    assert (paused["run_id"], paused["approval_id"]) == (id, approval_id)


@scenario
async def test_what_was_refused_counts_after_its_key_has_gone(desk: Desk) -> None:
    short = desk.another(limits=Limits(idempotency_ttl=0.05))
    id = await short.start(
        await short.define(approval("ok", expires_after=0.05, on_reject="no"), note("y"), note("no"))
    )
    approval_id = await ask(short, id)
    await short.world.pause(0.1)
    await short.world.purge_expired_keys()

    await short.executions.perform(short.tenant, await point_of(short, id), short.world.mode)
    await short.go_on()

    assert statuses(await short.get(id)) == [("ok", "rejected"), ("no", "succeeded")]
    assert [each.id for each in await asked(short)] == [approval_id]


@pytest.mark.parametrize("looks", ["drive", "perform", "wait", "decline"])
@scenario
async def test_a_policy_of_an_action_of_a_step_that_is_rejected_in_between(desk: Desk, looks: str) -> None:
    key = await desk.define(action("pay", "host.approved", {"a": 1}, on_failure="no"), note("yes"), note("no"))
    id = await desk.start(key)
    point = await point_of(desk, id)
    approval_id = await ask(desk, id)
    await refuse(desk, "rejected", approval_id)

    await look(desk, looks, id, approval_id, point)

    assert statuses(await desk.get(id)) == [("pay", "rejected"), ("no", "succeeded")]
    assert len(await asked(desk)) == 1
    assert await desk.read("notes") == [{"step": "no"}]


@pytest.mark.parametrize("looks", ["drive", "perform", "wait", "decline"])
@scenario
async def test_a_further_policy_that_is_rejected_before_anybody_hears_of_it(desk: Desk, looks: str) -> None:
    asking = desk.another(services=[_asks_twice()])
    id = await asking.start(
        await asking.define(action("twice", "asking.outer", {"a": 1}, on_failure="no"), note("yes"), note("no"))
    )
    point = await point_of(asking, id)
    first = await ask(asking, id)
    approved = expect(await asking.ask("approvals.approve", {"approval_id": first}, by=BOB))
    further = approved.further_approval_id
    run = await asking.get(id)
    assert (run.status, run.paused_for, run.approval_id) == ("paused", "approval", further)
    expect(await asking.ask("approvals.reject", {"approval_id": further}, by=EVE))

    await look(asking, looks, id, further, point)

    assert statuses(await asking.get(id)) == [("twice", "rejected"), ("no", "succeeded")]
    assert [each.id for each in await asked(asking)] == [first, further]
    refused(await asking.ask("approvals.approve", {"approval_id": first}, by=EVE), CONFLICT, "approved")


@scenario
async def test_a_step_that_is_tried_again_on_purpose_asks_anew(desk: Desk) -> None:
    id = await desk.start(await desk.define(approval("ok", on_reject="pause"), note("yes")))
    first = await ask(desk, id)
    await refuse(desk, "rejected", first)
    run = await desk.drive(id)
    await desk.expire()
    run = await desk.get(id)
    assert (run.status, run.paused_for) == ("paused", "failure")

    expect(await desk.resume(run))
    second = await ask(desk, id)
    assert second != first
    await desk.executions.decline(desk.tenant, run.workflow_key, first, desk.world.mode)
    expect(await desk.ask("approvals.approve", {"approval_id": second}, by=BOB))
    await desk.go_on()

    assert statuses(await desk.get(id)) == [("ok", "rejected"), ("ok", "succeeded"), ("yes", "succeeded")]
    assert [each.id for each in await asked(desk)] == [first, second]


@scenario
async def test_a_step_that_a_loop_comes_back_to_asks_anew(desk: Desk) -> None:
    id = await desk.start(await desk.define(note("a"), approval("ok", on_reject="a", max_visits=5)))
    await desk.drive(id)
    first = (await desk.get(id)).approval_id
    await refuse(desk, "rejected", first)
    await desk.decline(await desk.get(id))
    await desk.go_on()

    run = await desk.get(id)
    assert run.approval_id not in (None, first)
    expect(await desk.approve(run))
    assert (await desk.get(id)).status == "succeeded"


@scenario
async def test_a_run_that_is_cancelled_in_between_leaves_no_approval_open(desk: Desk) -> None:
    id = await desk.start(await desk.define(approval("ok"), note("yes")))
    point = await point_of(desk, id)
    approval_id = await ask(desk, id)
    expect(await desk.ask("workflows.cancel", {"run_id": id}))

    for looks in ("drive", "perform", "wait", "decline"):
        await look(desk, looks, id, approval_id, point)

    assert [(each.id, each.status) for each in await asked(desk)] == [(approval_id, "cancelled")]
    assert (await desk.get(id)).status == "cancelled"


@scenario
async def test_a_run_is_not_resumed_while_what_it_asked_for_counts(desk: Desk) -> None:
    id = await desk.start(await desk.define(approval("ok", on_reject="no"), note("yes"), note("no")))
    approval_id = await ask(desk, id)
    refused(await desk.ask("workflows.resume", {"run_id": id}), CONFLICT, approval_id, "approve or reject")
    await refuse(desk, "rejected", approval_id)
    refused(await desk.ask("workflows.resume", {"run_id": id}), CONFLICT, approval_id, "moves the run on")


@scenario
async def test_who_gives_up_late_does_not_fail_a_step_that_waits(desk: Desk) -> None:
    id = await desk.start(await desk.define(approval("ok"), note("yes")))
    point = await point_of(desk, id)
    approval_id = await ask(desk, id)

    error = ActionError(ErrorCode.TIMEOUT, "it took too long", {})
    answer = await desk.executions.give_up(desk.tenant, point, error, desk.world.mode)

    assert answer.unwrap().approval_id == approval_id
    run = await desk.get(id)
    assert (run.status, run.steps) == ("paused", ())


@scenario
async def test_a_run_that_ends_while_its_step_asks_is_not_paused_and_nobody_is_asked(desk: Desk) -> None:
    """The question is asked in a transaction of its own, after that of the step is undone."""
    racing, cancels = desk.another(), list[str]()
    id = await racing.start(await racing.define(approval("ok")))
    point = await point_of(racing, id)
    pipeline = cast("Any", racing.engine)._pipeline
    settle = pipeline._outcomes.settle_approval

    async def settle_late(execution: Any, needed: Any) -> Any:
        if not cancels:
            cancels.append(id)
            await execution.unit_of_work.rollback()
            expect(await desk.ask("workflows.cancel", {"run_id": id}))
        return await settle(execution, needed)

    pipeline._outcomes.settle_approval = settle_late
    answer = await racing.executions.perform(racing.tenant, point, racing.world.mode)

    assert isinstance(answer, Failure)
    assert answer.failure().code is ErrorCode.IDEMPOTENCY_IN_PROGRESS
    assert (await racing.executions.perform(racing.tenant, point, racing.world.mode)).unwrap().status == "cancelled"
    assert await asked(racing) == []
