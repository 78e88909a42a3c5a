"""An executor dies after its step has asked for an approval. A decision before another executor reads the run counts,
and the step does not ask again."""

from __future__ import annotations

from typing import Any, cast

import pytest
from returns.result import Failure

from actionengine import Actor, ErrorCode, Limits
from actionengine.errors import ActionError
from actionengine.testing import run_in_mode
from actionengine.workflows.models import RunCursor
from tests.harness import expect, refused
from tests.workflows.harness import BOB, EVE, Harness, action, approval, asks_twice, each_storage, note, statuses

CONFLICT = ErrorCode.CONFLICT


async def point_of(harness: Harness, id: str) -> RunCursor:
    run = await harness.get(id)
    point: RunCursor = (await harness.executor.actions.next(harness.tenant, run.workflow_key, id)).unwrap()
    return point


async def ask(harness: Harness, id: str) -> str:
    """Return the approval that a run's step asks for. Its executor is dead from then on."""
    answer = await harness.executor.actions.perform(harness.tenant, await point_of(harness, id))
    error = answer.failure()
    assert error.code is ErrorCode.APPROVAL_REQUIRED
    return str(error.details["approval_id"])


async def asked(harness: Harness) -> list[Any]:
    """Return all approvals, oldest first."""
    return list(expect(await harness.ask("approvals.list", {"limit": 200}, by=EVE)).items)[::-1]


async def refuse(harness: Harness, how: str, approval_id: str) -> None:
    if how == "rejected":
        expect(await harness.ask("approvals.reject", {"approval_id": approval_id}, by=BOB))
    elif how == "cancelled":
        (key,) = {each.requested_by for each in await asked(harness)}
        workflow = Actor.workflow(key.removeprefix("workflow:"))
        expect(await harness.ask("approvals.cancel", {"approval_id": approval_id}, by=workflow))
    else:
        await harness.backend.sleep(0.06)


async def look(harness: Harness, how: str, id: str, approval_id: str, point: RunCursor) -> None:
    """The first action of another worker, before a relay has delivered the decision."""
    about = (harness.tenant, point.workflow_key, id, point.position, approval_id)
    if how == "perform":
        await harness.executor.actions.perform(harness.tenant, point)
    elif how == "wait":
        await harness.executor.actions.await_approval(*about)
    elif how == "decline":
        await harness.executor.actions.decline(harness.tenant, point.workflow_key, approval_id)
    else:
        await harness.drive(id)
        await harness.expire()
    await harness.go_on()


@each_storage
@pytest.mark.parametrize("looks", ["drive", "perform", "wait", "decline"])
@pytest.mark.parametrize("how", ["rejected", "expired", "cancelled"])
@run_in_mode
async def test_an_early_refusal_continues_the_run(harness: Harness, how: str, looks: str) -> None:
    seconds = {"expires_after": 0.05} if how == "expired" else {}
    id = await harness.start(await harness.define(approval("ok", on_reject="no", **seconds), note("yes"), note("no")))
    point = await point_of(harness, id)
    approval_id = await ask(harness, id)
    await refuse(harness, how, approval_id)

    await look(harness, looks, id, approval_id, point)

    run = await harness.get(id)
    assert (run.status, statuses(run)) == ("succeeded", [("ok", "rejected"), ("no", "succeeded")])
    assert run.steps[0].error["details"] == {"approval_id": approval_id, "status": how}
    assert [each.id for each in await asked(harness)] == [approval_id]
    await harness.in_order()


@each_storage
@pytest.mark.parametrize("looks", ["drive", "perform", "wait", "decline"])
@run_in_mode
async def test_an_early_approval_continues_the_run(harness: Harness, looks: str) -> None:
    id = await harness.start(await harness.define(approval("ok"), note("yes")))
    point = await point_of(harness, id)
    approval_id = await ask(harness, id)
    expect(await harness.ask("approvals.approve", {"approval_id": approval_id}, by=BOB))

    await look(harness, looks, id, approval_id, point)

    run = await harness.get(id)
    assert (run.status, statuses(run)) == ("succeeded", [("ok", "succeeded"), ("yes", "succeeded")])
    assert [each.id for each in await asked(harness)] == [approval_id]
    await harness.in_order()


@pytest.mark.parametrize("looks", ["drive", "perform", "wait", "decline"])
@run_in_mode
async def test_an_undecided_approval_keeps_the_run_waiting(harness: Harness, looks: str) -> None:
    id = await harness.start(await harness.define(approval("ok"), note("yes")))
    point = await point_of(harness, id)
    approval_id = await ask(harness, id)

    await look(harness, looks, id, approval_id, point)

    run = await harness.get(id)
    assert (run.status, run.paused_for, run.approval_id, run.steps) == ("paused", "approval", approval_id, ())
    assert [each.id for each in await asked(harness)] == [approval_id]
    (paused,) = await harness.payloads("workflows.paused")
    assert (paused["run_id"], paused["approval_id"]) == (id, approval_id)


@run_in_mode
async def test_a_refusal_counts_after_its_key_has_expired(harness: Harness) -> None:
    short = harness.another(limits=Limits(idempotency_ttl=0.05))
    id = await short.start(
        await short.define(approval("ok", expires_after=0.05, on_reject="no"), note("y"), note("no"))
    )
    approval_id = await ask(short, id)
    await short.backend.sleep(0.1)
    await short.backend.purge_expired_keys()

    await short.executor.actions.perform(short.tenant, await point_of(short, id))
    await short.go_on()

    assert statuses(await short.get(id)) == [("ok", "rejected"), ("no", "succeeded")]
    assert [each.id for each in await asked(short)] == [approval_id]


@pytest.mark.parametrize("looks", ["drive", "perform", "wait", "decline"])
@run_in_mode
async def test_a_rejected_policy_of_an_action_fails_the_step(harness: Harness, looks: str) -> None:
    key = await harness.define(action("pay", "host.approved", {"a": 1}, on_failure="no"), note("yes"), note("no"))
    id = await harness.start(key)
    point = await point_of(harness, id)
    approval_id = await ask(harness, id)
    await refuse(harness, "rejected", approval_id)

    await look(harness, looks, id, approval_id, point)

    assert statuses(await harness.get(id)) == [("pay", "rejected"), ("no", "succeeded")]
    assert len(await asked(harness)) == 1
    assert await harness.read("notes") == [{"step": "no"}]


@pytest.mark.parametrize("looks", ["drive", "perform", "wait", "decline"])
@run_in_mode
async def test_a_further_policy_may_be_rejected_early(harness: Harness, looks: str) -> None:
    asking = harness.another(services=[asks_twice()])
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


@run_in_mode
async def test_a_resumed_step_asks_for_a_new_approval(harness: Harness) -> None:
    id = await harness.start(await harness.define(approval("ok", on_reject="pause"), note("yes")))
    first = await ask(harness, id)
    await refuse(harness, "rejected", first)
    run = await harness.drive(id)
    await harness.expire()
    run = await harness.get(id)
    assert (run.status, run.paused_for) == ("paused", "failure")

    expect(await harness.resume(run))
    second = await ask(harness, id)
    assert second != first
    await harness.executor.actions.decline(harness.tenant, run.workflow_key, first)
    expect(await harness.ask("approvals.approve", {"approval_id": second}, by=BOB))
    await harness.go_on()

    assert statuses(await harness.get(id)) == [("ok", "rejected"), ("ok", "succeeded"), ("yes", "succeeded")]
    assert [each.id for each in await asked(harness)] == [first, second]


@run_in_mode
async def test_a_repeated_step_asks_for_a_new_approval(harness: Harness) -> None:
    id = await harness.start(await harness.define(note("a"), approval("ok", on_reject="a", max_visits=5)))
    await harness.drive(id)
    first = (await harness.get(id)).approval_id
    await refuse(harness, "rejected", first)
    await harness.decline(await harness.get(id))
    await harness.go_on()

    run = await harness.get(id)
    assert run.approval_id not in (None, first)
    expect(await harness.approve(run))
    assert (await harness.get(id)).status == "succeeded"


@each_storage
@run_in_mode
async def test_cancelling_a_run_closes_its_early_approval(harness: Harness) -> None:
    id = await harness.start(await harness.define(approval("ok"), note("yes")))
    point = await point_of(harness, id)
    approval_id = await ask(harness, id)
    expect(await harness.ask("workflows.cancel", {"run_id": id}))

    for looks in ("drive", "perform", "wait", "decline"):
        await look(harness, looks, id, approval_id, point)

    assert [(each.id, each.status) for each in await asked(harness)] == [(approval_id, "cancelled")]
    assert (await harness.get(id)).status == "cancelled"


@run_in_mode
async def test_a_run_is_not_resumed_while_its_approval_counts(harness: Harness) -> None:
    id = await harness.start(await harness.define(approval("ok", on_reject="no"), note("yes"), note("no")))
    approval_id = await ask(harness, id)
    refused(await harness.ask("workflows.resume", {"run_id": id}), CONFLICT, approval_id, "approve or reject")
    await refuse(harness, "rejected", approval_id)
    refused(await harness.ask("workflows.resume", {"run_id": id}), CONFLICT, approval_id, "the run continues")


@run_in_mode
async def test_a_late_failure_does_not_fail_a_waiting_step(harness: Harness) -> None:
    id = await harness.start(await harness.define(approval("ok"), note("yes")))
    point = await point_of(harness, id)
    approval_id = await ask(harness, id)

    error = ActionError(ErrorCode.TIMEOUT, "it took too long", {})
    answer = await harness.executor.actions.fail_step(harness.tenant, point, error)

    assert answer.unwrap().approval_id == approval_id
    run = await harness.get(id)
    assert (run.status, run.steps) == ("paused", ())


@each_storage
@run_in_mode
async def test_a_run_that_ends_meanwhile_asks_for_no_approval(harness: Harness) -> None:
    """The approval is stored in its own transaction, after that of the step is rolled back."""
    racing, cancels = harness.another(), list[str]()
    id = await racing.start(await racing.define(approval("ok")))
    point = await point_of(racing, id)
    pipeline = cast("Any", racing.engine)._pipeline
    settle = pipeline._outcomes.settle_approval

    async def settle_late(execution: Any, needed: Any) -> Any:
        if not cancels:
            cancels.append(id)
            await execution.unit_of_work.rollback()
            expect(await harness.ask("workflows.cancel", {"run_id": id}))
        return await settle(execution, needed)

    pipeline._outcomes.settle_approval = settle_late
    answer = await racing.executor.actions.perform(racing.tenant, point)

    assert isinstance(answer, Failure)
    assert answer.failure().code is ErrorCode.IDEMPOTENCY_IN_PROGRESS
    assert (await racing.executor.actions.perform(racing.tenant, point)).unwrap().status == "cancelled"
    assert await asked(racing) == []
