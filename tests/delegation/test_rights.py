"""Rights of actors that act for others: what each actor in the chain may do by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from returns.result import Failure, Success

from actionengine import (
    AccessRequest,
    ActionContext,
    ActionHooks,
    Actor,
    Decision,
    ErrorCode,
    HookDefinition,
    RBACAuthorizer,
    RequestContext,
    Role,
    Rule,
    StaticAuthorizer,
    Tenant,
)
from actionengine.context import MAX_ACTOR_ID_LENGTH
from tests.conftest import EngineOf, Execute, log_of, make_action

ROLES = {
    "clerk": Role(allow=["jobs.*"]),
    "of job 1": Role(allow=[Rule("jobs.book", "job/1")]),
    "not job 1": Role(allow=["jobs.*"], deny=[Rule("jobs.*", "job/1")]),
}
AUTHORIZER = StaticAuthorizer(ROLES)
CARLA = Actor.human("carla", ["clerk"])
BOT = Actor.ai("bot", ["clerk"])
FOR_CARLA = Actor.ai("bot", ["clerk"], on_behalf_of=CARLA)
FOR_DAVE = Actor.ai("bot", ["clerk"], on_behalf_of=Actor.human("dave"))
EVE = Actor.human("eve", ["clerk"])
FOR_EVE = Actor.ai("bot", ["clerk"], on_behalf_of=EVE)


def job(data: Any) -> str:
    return f"job/{data['job']}"


def done(data: Any, ctx: ActionContext) -> Any:
    return Success(str(ctx.actor))


BOOK = make_action("book", done, permission="jobs.book", resource=job)
ROLE = make_action("role", done, access_control=["clerk"])
OPEN = make_action("open", done)


def code_of(answer: Any) -> ErrorCode | None:
    return answer.failure().code if isinstance(answer, Failure) else None


@pytest.mark.parametrize(
    ("acting", "behind", "allowed"),
    [
        ("clerk", ("clerk",), True),
        ("clerk", ("clerk", "clerk", "clerk"), True),
        ("clerk", (None,), False),
        (None, ("clerk",), False),
        ("clerk", ("clerk", None), False),
        ("clerk", (None, "clerk"), False),
        ("clerk", ("of job 1",), True),
        ("of job 1", ("not job 1",), False),
        ("clerk", ("not job 1",), False),
    ],
)
def test_each_actor_in_the_chain_needs_the_right(
    engine_of: EngineOf, execute: Execute, acting: str | None, behind: tuple[str | None, ...], allowed: bool
) -> None:
    engine = engine_of(BOOK, authorizer=AUTHORIZER)
    actor: Actor | None = None
    for number, role in reversed([*enumerate((acting, *behind))]):
        actor = Actor.ai(f"agent {number}", [role] if role else [], on_behalf_of=actor)

    answer = execute(engine, "work.book", {"job": 1}, actor)

    assert code_of(answer) is (None if allowed else ErrorCode.FORBIDDEN)


def test_a_refusal_names_the_actor_that_lacks_the_right(engine_of: EngineOf, execute: Execute) -> None:
    engine = engine_of(BOOK, ROLE, authorizer=AUTHORIZER)

    refusal = execute(engine, "work.book", {"job": 1}, FOR_DAVE).failure()
    by_role = execute(engine, "work.role", {}, FOR_DAVE).failure()

    assert refusal.message == "work.book: needs the permission jobs.book (for human:dave)"
    assert by_role.message == "work.role: needs one of the roles clerk (for human:dave)"
    row, _ = log_of(engine)
    assert (row.outcome, row.actor_id, row.on_behalf_of) == ("denied", "bot", ("human:dave",))
    assert row.decision == ("role clerk allows jobs.* (for ai:bot); needs the permission jobs.book (for human:dave)")


def test_allowed_actors_looks_at_the_acting_actor(engine_of: EngineOf, execute: Execute) -> None:
    engine = engine_of(
        make_action("people", done, allowed_actors=["human"]),
        make_action("agents", done, allowed_actors=["ai"]),
        authorizer=AUTHORIZER,
    )

    assert code_of(execute(engine, "work.people", {}, FOR_CARLA)) is ErrorCode.FORBIDDEN
    assert execute(engine, "work.agents", {}, FOR_CARLA) == Success("ai:bot")


def test_questions_of_handlers_and_hooks_are_asked_of_each(engine_of: EngineOf, execute: Execute) -> None:
    def ask(data: Any, ctx: ActionContext) -> Any:
        ctx.authorize("jobs.close", "job/1")
        return Success(None)

    def outer(data: Any, ctx: ActionContext) -> Any:
        return ctx.execute("work", "book", {"job": 1})

    hook = HookDefinition(service="work", action="ask", is_critical=True)
    engine = engine_of(
        BOOK,
        make_action("ask", ask),
        make_action("outer", outer),
        make_action("hooked", done, hooks=ActionHooks(before=[hook])),
        authorizer=AUTHORIZER,
    )

    for name in ("ask", "outer", "hooked"):
        assert isinstance(execute(engine, f"work.{name}", {}, FOR_CARLA), Success)
        refusal = execute(engine, f"work.{name}", {}, FOR_DAVE).failure()
        assert "(for human:dave)" in refusal.message
    nested = [row for row in log_of(engine, action="work.book") if row.parent_id is not None]
    assert [row.on_behalf_of for row in nested] == [("human:carla",), ("human:dave",)]


class Waiting:
    """An authorizer that answers later, and remembers about whom it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def authorize(self, request: AccessRequest) -> Awaitable[Decision]:
        return self._answer(request)

    async def _answer(self, request: AccessRequest) -> Decision:
        await asyncio.sleep(0)
        self.asked.append(str(request.actor))
        return Decision(request.actor.id != "dave", "by the list")


def test_an_async_authorizer_is_asked_about_each_actor(engine_of: EngineOf, acme: Tenant) -> None:
    authorizer = Waiting()
    engine = engine_of(make_action("do", done, permission="jobs.do"), authorizer=authorizer)

    def ask(actor: Actor) -> Any:
        return asyncio.run(engine.execute_action_async("work", "do", {}, RequestContext(acme, actor)))

    assert isinstance(ask(FOR_CARLA), Success)
    assert ask(FOR_DAVE).failure().message == "work.do: by the list (for human:dave)"
    assert authorizer.asked == ["ai:bot", "human:carla", "ai:bot", "human:dave"]


def test_stored_roles_are_those_of_each_actor(engine_of: EngineOf, execute: Execute) -> None:
    engine = engine_of(BOOK)
    system = Actor.system()
    execute(engine, "roles.define", {"name": "clerk", "allow": [{"permission": "jobs.*"}]}, system).unwrap()
    bot, for_carla = Actor.ai("bot"), Actor.ai("bot", on_behalf_of=Actor.human("carla"))

    def assign(type: str, id: str, action: str = "assign") -> None:
        execute(engine, f"roles.{action}", {"actor_type": type, "actor_id": id, "role": "clerk"}, system).unwrap()

    def may(actor: Actor) -> bool:
        return isinstance(execute(engine, "work.book", {"job": 1}, actor), Success)

    assert not may(for_carla)
    assign("ai", "bot")
    assert (may(bot), may(for_carla)) == (True, False)
    assign("human", "carla")
    assert may(for_carla)
    assign("ai", "bot", "unassign")
    assert (may(bot), may(for_carla), may(Actor.human("carla"))) == (False, False, True)


def test_a_cached_decision_is_that_of_one_actor_alone(engine_of: EngineOf, execute: Execute, acme: Tenant) -> None:
    engine = engine_of(BOOK, authorizer=RBACAuthorizer(engine_of().storage))
    rights = ["jobs.book"]
    bot = Actor.ai("bot", permissions=rights)
    for actor in (bot, Actor.ai("bot", permissions=rights, on_behalf_of=Actor.human("carla", permissions=rights))):
        assert isinstance(execute(engine, "work.book", {"job": 1}, actor), Success)

    for_dave = Actor.ai("bot", permissions=rights, on_behalf_of=Actor.human("dave"))
    for_nobody = Actor.ai("bot", on_behalf_of=Actor.human("carla", permissions=rights))
    assert code_of(execute(engine, "work.book", {"job": 1}, for_dave)) is ErrorCode.FORBIDDEN
    assert code_of(execute(engine, "work.book", {"job": 1}, for_nobody)) is ErrorCode.FORBIDDEN


@pytest.mark.parametrize(
    ("first", "replayer", "allowed"),
    [
        (FOR_CARLA, FOR_CARLA, True),
        (FOR_CARLA, CARLA, True),
        (BOT, FOR_CARLA, True),
        (BOT, FOR_DAVE, False),
        (FOR_CARLA, FOR_DAVE, False),
        (FOR_CARLA, Actor.ai("other", on_behalf_of=CARLA), False),
    ],
)
def test_a_replay_asks_about_the_replayers_own_chain(
    engine_of: EngineOf, execute: Execute, first: Actor, replayer: Actor, allowed: bool
) -> None:
    engine = engine_of(BOOK, authorizer=AUTHORIZER)
    execute(engine, "work.book", {"job": 1}, first, key="k").unwrap()

    answer = execute(engine, "work.book", {"job": 1}, replayer, key="k")

    assert code_of(answer) is (None if allowed else ErrorCode.FORBIDDEN)
    row = log_of(engine)[-1]
    assert row.on_behalf_of == tuple(map(str, replayer.chain[1:]))
    assert row.outcome == ("replayed" if allowed else "denied")


@pytest.mark.parametrize("other", [FOR_EVE, EVE, BOT])
def test_what_was_done_for_one_is_no_answer_to_another(engine_of: EngineOf, execute: Execute, other: Actor) -> None:
    """Each of them may do it, so each gets an answer of its own under a key of its own."""

    def mine(data: Any, ctx: ActionContext) -> Any:
        assert ctx.actor is not None
        return Success(str(ctx.actor.principal))

    engine = engine_of(make_action("mine", mine), authorizer=AUTHORIZER)
    execute(engine, "work.mine", {}, FOR_CARLA, key="k").unwrap()

    refusal = execute(engine, "work.mine", {}, other, key="k").failure()

    assert refusal.code is ErrorCode.IDEMPOTENCY_MISMATCH
    assert refusal.message == (
        "the idempotency key 'k' was used for work.mine on behalf of another principal: use a new key for a new request"
    )
    assert execute(engine, "work.mine", {}, CARLA, key="k") == Success("human:carla")
    assert execute(engine, "work.mine", {}, other, key="new") == Success(str(other.principal))


def test_a_result_for_one_actor_alone_is_for_its_whole_chain(engine_of: EngineOf, execute: Execute) -> None:
    """With so many questions, only the first actor may replay."""

    def ask(data: Any, ctx: ActionContext) -> Any:
        for number in range(101):
            ctx.authorize("jobs.read", f"job/{number}")
        return Success(None)

    engine = engine_of(make_action("ask", ask), authorizer=AUTHORIZER)
    execute(engine, "work.ask", {}, FOR_CARLA, key="k").unwrap()

    assert isinstance(execute(engine, "work.ask", {}, FOR_CARLA, key="k"), Success)
    for other in (BOT, CARLA, FOR_EVE):
        refusal = execute(engine, "work.ask", {}, other, key="k").failure()
        assert refusal.message == "work.ask: the idempotency key is another actor's, and so is its result"


def test_a_key_whose_resource_hooks_decide_is_one_chains(engine_of: EngineOf, execute: Execute) -> None:
    def same(data: Any, ctx: ActionContext) -> Any:
        return Success(data)

    hooks = ActionHooks(before=[HookDefinition(service="work", action="same", is_critical=True)])
    hooked = make_action("hooked", done, permission="jobs.do", resource=job, hooks=hooks)
    engine = engine_of(make_action("same", same), hooked, authorizer=AUTHORIZER)
    execute(engine, "work.hooked", {"job": 1}, FOR_CARLA, key="k").unwrap()

    assert isinstance(execute(engine, "work.hooked", {"job": 1}, FOR_CARLA, key="k"), Success)
    assert code_of(execute(engine, "work.hooked", {"job": 1}, BOT, key="k")) is ErrorCode.IDEMPOTENCY_MISMATCH


def test_nobody_gives_a_right_that_one_of_the_chain_lacks(engine_of: EngineOf, execute: Execute) -> None:
    engine, system = engine_of(BOOK), Actor.system()
    manage = {"permission": "roles.manage", "resource": "role/new"}
    execute(engine, "roles.define", {"name": "manages new", "allow": [manage]}, system).unwrap()

    def assigned(actor: Actor) -> Actor:
        payload = {"actor_type": actor.type, "actor_id": actor.id, "role": "manages new"}
        execute(engine, "roles.assign", payload, system).unwrap()
        return actor

    def define(actor: Actor) -> Any:
        return execute(engine, "roles.define", {"name": "new", "allow": [{"permission": "jobs.book"}]}, actor)

    holds = assigned(Actor.human("lea", permissions=["jobs.*"]))
    lacks = assigned(Actor.human("carla"))
    crm = assigned(Actor.integration("crm", permissions=["jobs.book"]))

    for principal in (lacks, Actor.integration("between", permissions=["roles.manage"], on_behalf_of=lacks)):
        refusal = define(Actor.integration("crm", permissions=["jobs.book"], on_behalf_of=principal)).failure()
        assert refusal.code is ErrorCode.FORBIDDEN
        assert "human:carla does not hold jobs.book, and so cannot give it" in refusal.message
    assert "integration:crm does not hold" in define(Actor.integration("crm", on_behalf_of=holds)).failure().message
    assert isinstance(define(Actor.integration("crm", permissions=crm.permissions, on_behalf_of=holds)), Success)


@pytest.mark.parametrize("at", ["acting", "principal"])
def test_the_id_of_each_actor_is_bounded(engine_of: EngineOf, execute: Execute, at: str) -> None:
    long, carla = "x" * (MAX_ACTOR_ID_LENGTH + 1), Actor.human("carla")
    actor = Actor.ai(long, on_behalf_of=carla) if at == "acting" else Actor.ai("bot", on_behalf_of=Actor.human(long))

    error = execute(engine_of(OPEN), "work.open", {}, actor).failure()

    assert error.code is ErrorCode.INVALID_INPUT
    assert "240" in error.message
