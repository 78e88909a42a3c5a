"""Approvals of what an actor asks for another: nobody in its chain gives them."""

from __future__ import annotations

from typing import Any

import pytest
from returns.result import Failure, Success

from actionengine import (
    ActionContext,
    Actor,
    ApprovalPolicy,
    Engine,
    ErrorCode,
    StaticAuthorizer,
    always,
)
from tests.conftest import EngineOf, Execute, log_of, make_action

RIGHTS = ["pay", "pay.*"]
CARLA = Actor.human("carla", permissions=RIGHTS)
LEAD = Actor.ai("lead", permissions=RIGHTS, on_behalf_of=CARLA)
BOT = Actor.ai("bot", permissions=RIGHTS, on_behalf_of=LEAD)
MO = Actor.human("mo", permissions=RIGHTS)


def person(id: str, *, behind: Actor | None = None) -> Actor:
    return Actor.human(id, permissions=RIGHTS, on_behalf_of=behind)


def pay(data: Any, ctx: ActionContext) -> Any:
    ctx.authorize("pay.out")
    assert ctx.actor is not None
    return Success([*map(str, ctx.actor.chain)])


@pytest.fixture
def engine(engine_of: EngineOf) -> Engine:
    policy = ApprovalPolicy(when=always, permission="pay.approve")
    return engine_of(make_action("pay", pay, permission="pay", approval=policy), authorizer=StaticAuthorizer())


def ask(engine: Engine, execute: Execute, by: Actor = BOT, **options: Any) -> str:
    error = execute(engine, "work.pay", {}, by, **options).failure()
    assert error.code is ErrorCode.APPROVAL_REQUIRED
    return str(error.details["approval_id"])


def test_an_approved_action_runs_with_the_requesters_chain(engine: Engine, execute: Execute) -> None:
    id = ask(engine, execute)
    shown = execute(engine, "approvals.get", {"approval_id": id}, MO).unwrap()

    answer = execute(engine, "approvals.approve", {"approval_id": id}, MO).unwrap()

    assert answer.result == ["ai:bot", "ai:lead", "human:carla"]
    assert (shown.requested_by, shown.on_behalf_of) == ("ai:bot", ("ai:lead", "human:carla"))
    (row,) = log_of(engine, action="work.pay", outcome="succeeded")
    assert (row.actor_id, row.on_behalf_of, row.approved_by) == ("bot", ("ai:lead", "human:carla"), "human:mo")
    (approval,) = log_of(engine, action="approvals.approve")
    assert (approval.actor_id, approval.on_behalf_of) == ("mo", ())


def test_the_rights_of_the_chain_count_when_it_runs(engine: Engine, execute: Execute) -> None:
    """The handler asks for `pay.out`, which one of the chain does not hold."""
    limited = Actor.human("carla", permissions=["pay"])
    id = ask(engine, execute, Actor.ai("bot", permissions=RIGHTS, on_behalf_of=limited))

    answer = execute(engine, "approvals.approve", {"approval_id": id}, MO).failure()

    assert (answer.code, "(for human:carla)" in answer.message) == (ErrorCode.FORBIDDEN, True)


@pytest.mark.parametrize(
    ("decider", "because"),
    [
        (CARLA, "human:carla asked for the approval"),
        (person("Carla "), "human:Carla  counts as the same actor"),
        (person("bot"), "ai:bot asked for the approval"),
        (Actor.integration("lead", permissions=RIGHTS), "ai:lead asked for the approval"),
        (person("mo", behind=CARLA), "human:carla counts as the same actor"),
        (
            person("mo", behind=person("lea", behind=person("\uff23\uff21\uff32\uff2c\uff21"))),
            "counts as the same actor",
        ),
        (person("mo", behind=Actor.ai("other", permissions=RIGHTS)), "acts for ai:other: no ai actor decides"),
        (person("mo", behind=Actor.workflow("w", permissions=RIGHTS)), "no workflow actor decides"),
        (Actor.ai("other", permissions=RIGHTS, on_behalf_of=MO), "not for ai actors"),
        (person("mo", behind=Actor.human("lea")), "there is no approval"),
        (Actor.human("mo", on_behalf_of=person("lea")), "there is no approval"),
    ],
)
@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_the_deciders_chain_counts_as_well(
    engine: Engine, execute: Execute, decision: str, decider: Actor, because: str
) -> None:
    id = ask(engine, execute)

    refusal = execute(engine, f"approvals.{decision}", {"approval_id": id}, decider).failure()

    assert refusal.code is (ErrorCode.NOT_FOUND if because.startswith("there is") else ErrorCode.FORBIDDEN)
    assert because in refusal.message
    assert execute(engine, "approvals.get", {"approval_id": id}, MO).unwrap().status == "pending"


def test_a_deputy_decides_with_the_rights_of_both(engine: Engine, execute: Execute) -> None:
    deputy = person("mo", behind=person("lea"))
    id = ask(engine, execute)

    assert isinstance(execute(engine, "approvals.approve", {"approval_id": id}, deputy), Success)

    (row,) = log_of(engine, action="approvals.approve")
    assert (row.actor_id, row.on_behalf_of) == ("mo", ("human:lea",))


@pytest.mark.parametrize(
    ("by", "may"),
    [
        (BOT, True),
        (LEAD, True),
        (CARLA, True),
        (Actor.ai("bot"), True),
        (Actor.ai("bot", on_behalf_of=Actor.human("carla")), True),
        (Actor.ai("bot", on_behalf_of=Actor.human("dave")), False),
        (Actor.ai("other", on_behalf_of=Actor.human("carla")), False),
        (Actor.human("Carla"), False),
        (Actor.human("dave"), False),
    ],
)
def test_an_approval_is_cancelled_by_those_who_asked(engine: Engine, execute: Execute, by: Actor, may: bool) -> None:
    id = ask(engine, execute)

    seen = execute(engine, "approvals.get", {"approval_id": id}, by)
    listed = execute(engine, "approvals.list", {}, by).unwrap().items
    answer = execute(engine, "approvals.cancel", {"approval_id": id}, by)

    assert [isinstance(each, Success) for each in (seen, answer)] == [may, may]
    assert [each.id for each in listed] == ([id] if may else [])
    if isinstance(answer, Failure):
        assert answer.failure().code is ErrorCode.NOT_FOUND


def test_an_approver_who_did_not_ask_cannot_cancel(engine: Engine, execute: Execute) -> None:
    id = ask(engine, execute)

    refusal = execute(engine, "approvals.cancel", {"approval_id": id}, MO).failure()

    assert refusal.message == (f"only the requester and the principals that it acted for can cancel the approval {id}")


SAME_PRINCIPAL = (BOT, CARLA, Actor.ai("other", permissions=RIGHTS, on_behalf_of=CARLA))
OTHER_PRINCIPAL = (Actor.ai("bot", permissions=RIGHTS, on_behalf_of=person("dave")), person("dave"))


def test_a_key_meets_the_open_approval_of_its_principal(engine: Engine, execute: Execute) -> None:
    id = ask(engine, execute, key="k")

    assert [ask(engine, execute, by, key="k") for by in SAME_PRINCIPAL] == [id, id, id]
    for by in OTHER_PRINCIPAL:
        refusal = execute(engine, "work.pay", {}, by, key="k").failure()
        assert (refusal.code, refusal.details) == (ErrorCode.IDEMPOTENCY_MISMATCH, {})
        assert "on behalf of another principal" in refusal.message


def test_a_key_gives_the_approved_result_to_its_principal(engine: Engine, execute: Execute) -> None:
    id = ask(engine, execute, key="k")
    execute(engine, "approvals.approve", {"approval_id": id}, MO).unwrap()

    for by in SAME_PRINCIPAL:
        assert execute(engine, "work.pay", {}, by, key="k") == Success(["ai:bot", "ai:lead", "human:carla"])
    for by in OTHER_PRINCIPAL:
        assert execute(engine, "work.pay", {}, by, key="k").failure().code is ErrorCode.IDEMPOTENCY_MISMATCH


def test_a_refused_approval_holds_the_key_for_nobody(engine: Engine, execute: Execute) -> None:
    id = ask(engine, execute, key="k")
    execute(engine, "approvals.reject", {"approval_id": id}, MO).unwrap()

    assert ask(engine, execute, OTHER_PRINCIPAL[0], key="k") != id
