"""A replay needs an actor who may execute the action now, with all questions that the handler asked the authorizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from returns.result import Failure, Result, Success

from actionengine import (
    AccessRequest,
    Action,
    ActionContext,
    ActionError,
    ActionHooks,
    Actor,
    ApprovalPolicy,
    Decision,
    ErrorCode,
    HookDefinition,
    InMemoryStorage,
    RequestContext,
    Role,
    Rule,
    StaticAuthorizer,
    create_engine,
    create_service,
)
from actionengine.authorization.questions import MAX_BYTES, MAX_QUESTIONS, Question, Questions, decode_questions
from actionengine.changes import change_control_services
from tests.conftest import make_action

SECRET = "what only few may see"


class Shop:
    """An engine in memory, and executions under one key."""

    def __init__(self, *actions: Action, services: Any = (), authorizer: Any = None) -> None:
        self.storage = InMemoryStorage()
        self.tenant = self.storage.create_tenant(slug="acme", name="Acme")
        own = create_service(name="s", description="x", actions=actions)
        self.engine = create_engine(services=[own, *services], storage=self.storage, authorizer=authorizer)

    def ask(self, name: str, actor: Actor | None, payload: Any = None, key: str | None = "key") -> Result[Any, Any]:
        service, action = name.split(".")
        context = RequestContext(self.tenant, actor, idempotency_key=key)
        return self.engine.execute_action(service, action, payload, context)

    async def ask_async(self, name: str, actor: Actor | None, payload: Any = None) -> Result[Any, Any]:
        service, action = name.split(".")
        context = RequestContext(self.tenant, actor, idempotency_key="key")
        return await self.engine.execute_action_async(service, action, payload, context)

    def outcomes(self, name: str) -> list[str]:
        page = self.ask("action_log.list", Actor.system(), {"action": name}, None).unwrap()
        return [entry.outcome for entry in reversed(page.items)]


def make(name: str, handler: Callable[..., Any] = lambda data: Success(SECRET), **declared: Any) -> Action:
    return make_action(name, handler, **declared)


def is_forbidden(answer: Result[Any, ActionError]) -> bool:
    return isinstance(answer, Failure) and answer.failure().code is ErrorCode.FORBIDDEN and SECRET not in str(answer)


def nests(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    return Success(ctx.execute("s", "inner", {"id": "1"}).unwrap())


INNER: dict[str, dict[str, Any]] = {
    "permission": {"permission": "inner.do"},
    "role": {"access_control": ["clerk"]},
    "resource": {"permission": "inner.do", "resource": lambda data: f"job/{data['id']}"},
    "allowed_actors": {"allowed_actors": ["human"]},
    "allowed_actors without protection": {"allowed_actors": ["human"], "is_protected": False},
}
ANN = Actor.human("ann", roles=["clerk"], permissions=["inner.do"])
OTHERS = {
    "permission": Actor.human("eve", roles=["clerk"]),
    "role": Actor.human("eve", permissions=["inner.do"]),
    "resource": Actor.human("eve", roles=["clerk", "not job 1"], permissions=["inner.do"]),
    "allowed_actors": Actor.ai("eve", roles=["clerk"], permissions=["inner.do"]),
    "allowed_actors without protection": Actor.ai("eve", roles=["clerk"], permissions=["inner.do"]),
}
STATIC = StaticAuthorizer({"clerk": Role(), "not job 1": Role(deny=[Rule("inner.do", "job/1")])})


@pytest.mark.parametrize("way", ["nested", "before hook", "after hook"])
@pytest.mark.parametrize("asks", INNER)
def test_what_an_inner_action_asks_is_asked_on_a_replay(asks: str, way: str) -> None:
    hook = (HookDefinition("s", "inner", is_critical=True),)
    outer = {
        "nested": make("outer", nests),
        "before hook": make("outer", hooks=ActionHooks(before=hook)),
        "after hook": make("outer", lambda data: Success({"id": "1"}), hooks=ActionHooks(after=hook)),
    }[way]
    shop = Shop(make("inner", **INNER[asks]), outer, authorizer=STATIC)
    first = shop.ask("s.outer", ANN, {"id": "1"}).unwrap()

    assert is_forbidden(shop.ask("s.outer", OTHERS[asks], {"id": "1"}))
    assert is_forbidden(shop.ask("s.outer", OTHERS[asks], {"id": "1"}))
    assert shop.ask("s.outer", Actor.human("bob", ANN.roles, ANN.permissions), {"id": "1"}).unwrap() == first
    assert shop.outcomes("s.outer")[:4] == ["succeeded", "denied", "denied", "replayed"]


def test_the_same_actor_that_has_lost_a_right_gets_no_replay() -> None:
    def guarded(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        ctx.authorize("jobs.archive", "job/1")
        return Success(SECRET)

    shop = Shop(make("guarded", guarded))
    role = {"name": "clerk", "allow": [{"permission": "jobs.*"}]}
    shop.ask("roles.define", Actor.system(), role, None).unwrap()
    assigned = {"actor_type": "human", "actor_id": "ann", "role": "clerk"}
    shop.ask("roles.assign", Actor.system(), assigned, None).unwrap()
    shop.ask("s.guarded", Actor.human("ann")).unwrap()
    denied = {**role, "deny": [{"permission": "jobs.archive", "resource": "job/1"}]}

    assert shop.ask("s.guarded", Actor.human("ann")).unwrap() == SECRET
    shop.ask("roles.define", Actor.system(), denied, None).unwrap()

    assert is_forbidden(shop.ask("s.guarded", Actor.human("ann")))


async def _asks_async(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    await ctx.authorize_async("jobs.archive")
    return Success((await ctx.execute_async("s", "inner", {"id": "1"})).unwrap())


class Slow:
    """An authorizer that is awaited."""

    def __init__(self) -> None:
        self.asked: list[AccessRequest] = []

    async def authorize(self, request: AccessRequest) -> Decision:
        self.asked.append(request)
        return Decision(request.permission is None or request.permission in request.actor.permissions, "asked")


async def _replay_with_slow() -> tuple[Slow, Any, Any, Any]:
    authorizer = Slow()
    shop = Shop(make("outer", _asks_async), make("inner", permission="inner.do"), authorizer=authorizer)
    first = await shop.ask_async("s.outer", Actor.human("ann", permissions=["jobs.archive", "inner.do"]))
    refused = await shop.ask_async("s.outer", Actor.human("eve", permissions=["jobs.archive"]))
    authorizer.asked.clear()
    again = await shop.ask_async("s.outer", Actor.human("bob", permissions=["jobs.archive", "inner.do"]))
    return authorizer, first, refused, again


def test_a_custom_authorizer_gets_the_same_questions_on_replay() -> None:
    import asyncio

    authorizer, first, refused, again = asyncio.run(_replay_with_slow())

    assert (first.unwrap(), again.unwrap()) == (SECRET, SECRET)
    assert is_forbidden(refused)
    assert [(each.action, each.permission, each.actor.id) for each in authorizer.asked] == [
        ("s.outer", None, "bob"),
        ("s.outer", "jobs.archive", "bob"),
        ("s.inner", "inner.do", "bob"),
    ]


def test_a_refusal_that_the_handler_caught_is_not_asked_again() -> None:
    def tries(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        return Success(ctx.execute("s", "inner", {"id": "1"}).value_or("the short form"))

    shop = Shop(make("outer", tries), make("inner", permission="inner.do"))

    assert shop.ask("s.outer", Actor.human("eve")).unwrap() == "the short form"
    assert shop.ask("s.outer", Actor.human("gus")).unwrap() == "the short form"


def test_an_anonymous_actor_gets_no_replay_of_an_actors_result() -> None:
    def guarded(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        if ctx.actor is not None:
            ctx.authorize("jobs.archive")
            return Success(SECRET)
        return Success("the public part")

    shop = Shop(make("open", guarded, is_protected=False))
    shop.ask("s.open", Actor.human("ann", permissions=["jobs.archive"])).unwrap()

    assert is_forbidden(shop.ask("s.open", None))


def test_a_result_without_questions_is_replayed_for_any_actor() -> None:
    shop = Shop(make("plain", permission="s.plain"))
    shop.ask("s.plain", Actor.human("ann", permissions=["s.plain"])).unwrap()

    assert shop.ask("s.plain", Actor.human("bob", permissions=["s.plain"])).unwrap() == SECRET


def test_a_result_with_too_many_questions_is_for_its_actor_alone() -> None:
    def asks_much(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        for number in range(MAX_QUESTIONS + 1):
            ctx.authorize("jobs.read", f"job/{number}")
        return Success(SECRET)

    shop = Shop(make("much", asks_much))
    ann, bob = (Actor.human(name, permissions=["jobs.*"]) for name in ("ann", "bob"))
    shop.ask("s.much", ann).unwrap()

    assert shop.ask("s.much", ann).unwrap() == SECRET
    assert is_forbidden(shop.ask("s.much", bob))
    assert is_forbidden(shop.ask("s.much", Actor.ai("ann", permissions=["jobs.*"])))
    assert is_forbidden(shop.ask("s.much", Actor.human("ann")))


def test_the_allowed_actors_of_an_inner_action_are_questions() -> None:
    def asks(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        for number in range(MAX_QUESTIONS):
            ctx.authorize("inner.do", f"job/{number}")
        return nests(data, ctx)

    inner = make("inner", is_protected=False, allowed_actors=["human"])
    shop = Shop(inner, make("outer", asks), authorizer=STATIC)
    first = shop.ask("s.outer", ANN).unwrap()
    assert shop.ask("s.outer", ANN).unwrap() == first
    assert is_forbidden(shop.ask("s.outer", Actor.human("bob", ANN.roles, ANN.permissions)))


def test_a_refused_replay_names_the_inner_action_and_its_actors() -> None:
    shop = Shop(make("inner", **INNER["allowed_actors"]), make("outer", nests), authorizer=STATIC)
    shop.ask("s.outer", ANN).unwrap()
    refused = shop.ask("s.outer", OTHERS["allowed_actors"]).failure()
    assert refused.message == "s.outer: s.inner is not for ai actors"


def test_questions_are_kept_once_and_bounded() -> None:
    ann, questions = Actor.human("ann"), Questions()
    question = Question("s.a", None, ("r",), "p\0", "job/\ud800")
    for _ in range(MAX_QUESTIONS + 5):
        questions.add(question, ann)

    encoded = questions.encode(lambda resource: resource.startswith("job/"))
    assert encoded is not None
    assert encoded.isascii()
    assert len(json.loads(encoded)["asked"]) == 1
    assert list(decode_questions(encoded).asked) == [question]
    assert decode_questions(encoded).secret == ["job/\ud800"]
    questions.add(question._replace(resource="x" * MAX_BYTES), ann)
    assert questions.for_actor == "human:ann"
    assert Questions().encode(lambda resource: True) is None


POLICY = ApprovalPolicy(when=lambda data, ctx: True, permission="jobs.approve")
BEA = Actor.human("bea", permissions=["inner.do"])


def test_requester_and_approver_answer_only_their_own_questions() -> None:
    shop = Shop(make("inner", permission="inner.do"), make("outer", nests, approval=POLICY))
    approval_id = shop.ask("s.outer", BEA, key="bea's").failure().details["approval_id"]
    mo = Actor.human("mo", permissions=["jobs.approve"])

    done = shop.ask("approvals.approve", mo, {"approval_id": approval_id}, "mo's").unwrap()

    assert done.result == SECRET
    assert shop.ask("approvals.approve", mo, {"approval_id": approval_id}, "mo's").unwrap().result == SECRET
    assert shop.ask("s.outer", BEA, key="bea's").unwrap() == SECRET
    assert is_forbidden(shop.ask("s.outer", Actor.human("eve"), key="bea's"))
    assert is_forbidden(shop.ask("approvals.approve", Actor.human("mo"), {"approval_id": approval_id}, "mo's"))


@pytest.mark.parametrize("decision", ["approve", "reject", "cancel"])
def test_a_decision_is_replayed_only_for_its_approver(decision: str) -> None:
    shop = Shop(make("outer", approval=POLICY))
    approval_id = shop.ask("s.outer", BEA, key=None).failure().details["approval_id"]
    decider = BEA if decision == "cancel" else Actor.human("mo", permissions=["jobs.approve"])
    payload = {"approval_id": approval_id}
    shop.ask(f"approvals.{decision}", decider, payload).unwrap()

    for other in (Actor.human("max", permissions=["jobs.approve"]), Actor.human("bea", permissions=["jobs.approve"])):
        if other.id != decider.id:
            assert is_forbidden(shop.ask(f"approvals.{decision}", other, payload))
    shop.ask(f"approvals.{decision}", decider, payload).unwrap()


def test_an_ai_gets_no_replay_of_what_only_people_do_to_a_change() -> None:
    shop = Shop(services=change_control_services())
    lead = Actor.human("lou", permissions=["changes.*"])
    project = shop.ask("projects.create", lead, {"name": "x"}, None).unwrap()
    change = shop.ask("changes.create", lead, {"project_id": project.id, "title": "x"}, None).unwrap()
    shop.ask("changes.transition", lead, {"change_id": change.id, "status": "Validating"}, None).unwrap()
    bot = Actor.ai("bot", permissions=["changes.*"])
    author = Actor.human("al", permissions=["changes.author"])

    for status in ("Ready", "Merged"):
        payload = {"change_id": change.id, "status": status}
        assert shop.ask("changes.transition", lead, payload, status).unwrap().status == status
        assert is_forbidden(shop.ask("changes.transition", bot, payload, status))
        assert is_forbidden(shop.ask("changes.transition", author, payload, status))
        assert shop.ask("changes.transition", lead, payload, status).unwrap().status == status
