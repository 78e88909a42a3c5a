"""Approvals as the caller, the approver and the log see them, beyond the conformance suite."""

from __future__ import annotations

from typing import Any

import pytest
from returns.result import Failure, Result, Success

from actionengine import (
    ActionContext,
    ActionResultConfig,
    Actor,
    ApprovalPolicy,
    ErrorCode,
    PipelineResult,
    RequestContext,
    Tenant,
)
from tests.conftest import EngineOf, Execute, log_of, make_action


def policy(permission: str = "approve") -> ApprovalPolicy:
    return ApprovalPolicy(when=lambda data, ctx: data["amount"] > 1000, permission=permission)


def pay(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    return Success(ctx.records("payments").insert(data).data)


def boss(*permissions: str) -> Actor:
    return Actor.human("boss", permissions=permissions or ("approve",))


@pytest.mark.parametrize("pipeline", [False, True])
def test_a_retry_after_the_approval_gets_the_first_result(
    engine_of: EngineOf, execute: Execute, pipeline: bool
) -> None:
    result = ActionResultConfig(pipeline=pipeline)
    engine = engine_of(make_action("pay", pay, approval=policy(), result=result))
    asked = execute(engine, "work.pay", {"amount": 5000}, Actor.ai("bot"), key="k").failure()
    assert asked.code is ErrorCode.APPROVAL_REQUIRED
    approved = execute(engine, "approvals.approve", {"approval_id": asked.details["approval_id"]}, boss()).unwrap()
    answer = execute(engine, "work.pay", {"amount": 5000}, Actor.ai("bot"), key="k").unwrap()
    assert (answer.data if isinstance(answer, PipelineResult) else answer) == {"amount": 5000}
    assert answer == approved.result
    assert [row.outcome for row in log_of(engine, action="work.pay")] == ["approval_required", "succeeded", "replayed"]


def test_both_names_stand_on_the_log(engine_of: EngineOf, execute: Execute, acme: Tenant) -> None:
    engine = engine_of(make_action("pay", pay, approval=policy()))
    context = RequestContext(tenant=acme, actor=Actor.ai("bot"), source="mcp", reason="asked by the customer")
    asked = execute(engine, "work.pay", {"amount": 5000}, context).failure()
    execute(engine, "approvals.approve", {"approval_id": asked.details["approval_id"]}, boss())
    (row,) = log_of(engine, acme, action="work.pay", outcome="succeeded")
    assert (row.actor_type, row.actor_id, row.approved_by) == ("ai", "bot", "human:boss")
    assert (row.source, row.reason, row.approval_id) == ("mcp", "asked by the customer", asked.details["approval_id"])
    (approve,) = log_of(engine, acme, action="approvals.approve")
    assert row.parent_id == approve.id


def test_a_second_policy_inside_asks_a_second_time(engine_of: EngineOf, execute: Execute) -> None:
    runs: list[str] = []

    def outer(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        runs.append("outer")
        return ctx.execute("work", "inner", data)

    engine = engine_of(
        make_action("outer", outer, approval=policy("first")), make_action("inner", pay, approval=policy("second"))
    )
    first = execute(engine, "work.outer", {"amount": 5000}, key="k").failure().details["approval_id"]
    step = execute(engine, "approvals.approve", {"approval_id": first}, boss("first")).unwrap()
    assert (step.result, step.approval.status) == (None, "approved")
    waiting = execute(engine, "work.outer", {"amount": 5000}, key="k").failure()
    assert waiting.details["approval_id"] == step.further_approval_id
    second = {"approval_id": step.further_approval_id}
    assert isinstance(execute(engine, "approvals.approve", second, boss("first")), Failure)
    assert execute(engine, "approvals.approve", second, boss("second")).unwrap().result == {"amount": 5000}
    assert execute(engine, "work.outer", {"amount": 5000}, key="k") == Success({"amount": 5000})
    assert runs == ["outer", "outer"]


def test_a_requester_who_has_lost_the_permission_is_refused(
    engine_of: EngineOf, execute: Execute, as_system: RequestContext
) -> None:
    engine = engine_of(make_action("pay", pay, approval=policy(), permission="payments.pay"))
    role = {"name": "payer", "allow": [{"permission": "payments.pay"}]}
    assert isinstance(execute(engine, "roles.define", role, as_system), Success)
    assignment = {"actor_type": "human", "actor_id": "ann", "role": "payer"}
    assert isinstance(execute(engine, "roles.assign", assignment, as_system), Success)
    actor = Actor.human("ann")
    asked = execute(engine, "work.pay", {"amount": 5000}, actor).failure()
    assert isinstance(execute(engine, "roles.unassign", assignment, as_system), Success)
    approval = {"approval_id": asked.details["approval_id"]}
    assert execute(engine, "approvals.approve", approval, boss()).failure().code is ErrorCode.FORBIDDEN
    assert execute(engine, "approvals.get", approval, boss()).unwrap().status == "pending"


def test_a_condition_that_crashes_lets_nothing_through(engine_of: EngineOf, execute: Execute) -> None:
    engine = engine_of(make_action("pay", pay, approval=policy()))
    actor = Actor.human("ann")
    assert execute(engine, "work.pay", {"no": "amount"}, actor).failure().code is ErrorCode.HANDLER_ERROR
    assert [row.outcome for row in log_of(engine)] == ["failed"]


def test_approvals_are_seen_by_who_asked_and_who_may_decide(
    engine_of: EngineOf, execute: Execute, acme: Tenant, globex: Tenant
) -> None:
    engine = engine_of(make_action("pay", pay, approval=policy()))
    ann = RequestContext(tenant=acme, actor=Actor.human("ann"))
    approval = {"approval_id": execute(engine, "work.pay", {"amount": 5000}, ann).failure().details["approval_id"]}
    for context, sees in (
        (ann, True),
        (boss(), True),
        (RequestContext(tenant=acme, actor=Actor.human("bob")), False),
        (RequestContext(globex, boss()), False),
    ):
        assert len(execute(engine, "approvals.list", {}, context).unwrap().items) == int(sees)
        found = execute(engine, "approvals.get", approval, context)
        assert isinstance(found, Success) if sees else found.failure().code is ErrorCode.NOT_FOUND


def test_a_rolled_back_approval_stores_no_result_for_its_key(engine_of: EngineOf, execute: Execute) -> None:
    def change_mind(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        ctx.execute("approvals", "approve", data).unwrap()
        return Failure("changed my mind")

    def outer(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        ctx.execute("work", "change_mind", data)
        return Success(None)

    engine = engine_of(
        make_action("pay", pay, approval=policy()), make_action("change_mind", change_mind), make_action("outer", outer)
    )
    approval = {"approval_id": execute(engine, "work.pay", {"amount": 5000}, key="k").failure().details["approval_id"]}
    assert execute(engine, "work.outer", approval, boss()) == Success(None)
    again = execute(engine, "work.pay", {"amount": 5000}, key="k").failure()
    assert again.details["approval_id"] == approval["approval_id"]
    assert execute(engine, "approvals.approve", approval, boss()).unwrap().result == {"amount": 5000}
