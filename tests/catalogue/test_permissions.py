"""What `can` and `catalogue` allow is what an execution allows: nothing more, and nothing less."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from examples.field_service.seed import PEOPLE, ROLES
from examples.field_service.services.config import services as business
from hypothesis import given, settings
from hypothesis import strategies as st
from returns.result import Failure, Result, Success

from actionengine import (
    AccessRequest,
    Action,
    ActionError,
    ActionHooks,
    Actor,
    Decision,
    Engine,
    ErrorCode,
    InMemoryStorage,
    LimitedDecision,
    RBACAuthorizer,
    RequestContext,
    Role,
    Rule,
    Service,
    StaticAuthorizer,
    StorageUnavailable,
    Tenant,
    create_action,
    create_engine,
    create_service,
)
from actionengine.concurrency.run_sync import run_sync
from actionengine.context import ACTOR_TYPES
from actionengine.testing import Backend, run_in_mode
from tests.conftest import EngineOf, Execute, log_of, make_action
from tests.test_authorization_rules import Counting

REFUSALS = (ErrorCode.UNAUTHENTICATED, ErrorCode.FORBIDDEN)


def ok(data: Any) -> Result[Any, ActionError]:
    return Success("done")


def resource_of(data: Any) -> str:
    return str(data["resource"])


def without_work(action: Action) -> Action:
    """Return an action with the same declaration of access, that does nothing on any resource."""
    return replace(
        action,
        handler=ok,
        validation=None,
        hooks=ActionHooks(),
        approval=None,
        event_types=(),
        idempotency="none",
        resource=resource_of if action.resource is not None else None,
    )


def is_executed(engine: Engine, name: str, context: RequestContext, resource: str) -> bool:
    service, action = name.split(".")
    result = engine.execute_action(service, action, {"resource": resource}, context)
    if isinstance(result, Failure):
        assert result.failure().code in REFUSALS, result
    return isinstance(result, Success)


def catalogue(engine: Engine, context: RequestContext) -> set[str]:
    return {each.name for each in engine.catalogue(context).unwrap()}


def names(engine: Engine, services: Iterable[str]) -> list[str]:
    return [
        f"{service.name}.{action}"
        for service in engine.get_services().unwrap()
        for action in service.actions
        if service.name in services
    ]


# The example business, exhaustively


@pytest.fixture(scope="module")
def storage_of_business() -> InMemoryStorage:
    return InMemoryStorage()


@pytest.fixture(scope="module")
def idle_business(storage_of_business: InMemoryStorage) -> Engine:
    """The business's declarations of access, and its roles in storage; its actions do nothing."""
    idle = [
        Service(service.name, service.description, tuple(map(without_work, service.actions))) for service in business
    ]
    engine = create_engine(services=idle, storage=storage_of_business)
    tenant = storage_of_business.create_tenant(slug="acme", name="Acme")
    setup = RequestContext(tenant, Actor.system())
    for role, permissions in ROLES.items():
        allow = [{"permission": permission} for permission in permissions]
        engine.execute_action("roles", "define", {"name": role, "allow": allow}, setup).unwrap()
    for person, (actor_type, role) in PEOPLE.items():
        assignment = {"actor_type": actor_type, "actor_id": person, "role": role}
        engine.execute_action("roles", "assign", assignment, setup).unwrap()
    return engine


EVERYBODY = [
    None,
    *(Actor(type, person) for person, (type, _) in PEOPLE.items()),  # type: ignore[arg-type]
    *(Actor(type, "someone", [role]) for type in sorted(ACTOR_TYPES) for role in (*ROLES, "unknown")),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("actor", EVERYBODY, ids=str)
def test_the_business_shows_each_actor_what_it_may_do(
    idle_business: Engine, storage_of_business: InMemoryStorage, actor: Actor | None
) -> None:
    (tenant,) = storage_of_business.list_tenants()
    context = RequestContext(tenant, actor)
    declared = names(idle_business, [service.name for service in business])

    executed = {name for name in declared if is_executed(idle_business, name, context, "job/1")}

    assert catalogue(idle_business, context) & set(declared) == executed
    for name in declared:
        service_name, action = name.split(".")
        permission = idle_business.can(context, service_name, action, "job/1").unwrap()
        assert permission.allowed is (name in executed), (name, permission.reason)
    pairs = [(service, action) for service, _, action in (name.partition(".") for name in declared)]
    several = run_sync(idle_business.can_each(context, pairs, "job/1", "sync")).unwrap()
    assert {".".join(pair) for pair, each in zip(pairs, several, strict=True) if each.allowed} == executed


def test_built_in_actions_are_shown_as_they_are_executed(idle_business: Engine) -> None:
    (tenant,) = idle_business.storage.list_tenants()
    for actor in EVERYBODY:
        context = RequestContext(tenant, actor)
        listed = catalogue(idle_business, context)
        for name in names(idle_business, ["approvals", "action_log", "roles"]):
            # The payload is wrong: whatever is not refused by stage 3 is refused by stage 4.
            service_name, action = name.split(".")
            result = idle_business.execute_action(service_name, action, {"no": "field"}, context)
            assert (result.failure().code is ErrorCode.INVALID_INPUT) is (name in listed), (str(actor), name)


# Any services and any roles

PERMISSIONS = ("jobs.close", "jobs.close.late", "jobs.open", "pay")
PATTERNS = (*PERMISSIONS, "jobs.*", "jobs.close.*", "*")
RESOURCES = ("job/1", "job/2")
EVERY_RESOURCE = (*RESOURCES, "job/new")
ROLE_NAMES = ("clerk", "boss", "guest")

rules = st.lists(st.builds(Rule, st.sampled_from(PATTERNS), st.sampled_from((None, *RESOURCES))), max_size=3)
roles = st.fixed_dictionaries({}, optional={name: st.builds(Role, rules, rules) for name in ROLE_NAMES})
access = st.fixed_dictionaries(
    {
        "is_protected": st.booleans(),
        "allowed_actors": st.none() | st.lists(st.sampled_from(sorted(ACTOR_TYPES)), min_size=1, max_size=3),
        "access_control": st.lists(st.sampled_from((*ROLE_NAMES, "public")), max_size=2),
        "permission": st.none() | st.sampled_from(PERMISSIONS),
        "resource": st.sampled_from((None, resource_of)),
    }
)


def declare(number: int, options: dict[str, Any]) -> Action:
    if not options["is_protected"]:
        options = {**options, "permission": None, "access_control": []}
    return create_action(name=f"a{number}", description="", handler=ok, **options)


def one_actor(types: Iterable[str]) -> st.SearchStrategy[Actor]:
    held = st.lists(st.sampled_from((*ROLE_NAMES, "unknown")), max_size=2, unique=True)
    own = st.lists(st.sampled_from(PATTERNS), max_size=1)
    return st.builds(Actor, st.sampled_from(sorted(types)), st.sampled_from(("ann", "n" * 241)), held, own)


@st.composite
def chains(draw: st.DrawFn) -> Actor | None:
    """Draw an actor alone, one that acts for up to three others, or none."""
    actor = draw(st.none() | one_actor(ACTOR_TYPES))
    if actor is None or actor.type == "system":
        return actor
    for acting in draw(st.lists(one_actor(ACTOR_TYPES - {"system"}), max_size=3)):
        actor = replace(acting, on_behalf_of=actor)
    return actor


def check_generated(
    table: dict[str, Role], declared: list[dict[str, Any]], actors: list[Actor | None], in_storage: bool
) -> None:
    storage = InMemoryStorage()
    authorizer = RBACAuthorizer(storage) if in_storage else StaticAuthorizer(table)
    service = create_service(name="work", description="", actions=list(map(declare, range(99), declared)))
    engine = create_engine(services=[service], storage=storage, authorizer=authorizer)
    tenant = storage.create_tenant(slug="acme", name="Acme")
    if in_storage:
        for name, role in table.items():
            written = {
                kind: [{"permission": rule.permission, "resource": rule.resource} for rule in getattr(role, kind)]
                for kind in ("allow", "deny")
            }
            setup = RequestContext(tenant, Actor.system())
            engine.execute_action("roles", "define", {"name": name, **written}, setup).unwrap()
    for actor in actors:
        context = RequestContext(tenant, actor)
        executed: set[str] = set()
        for name in names(engine, ["work"]):
            for resource in EVERY_RESOURCE:
                service_name, action = name.split(".")
                result = engine.execute_action(service_name, action, {"resource": resource}, context)
                allowed = isinstance(result, Success)
                permission = engine.can(context, service_name, action, resource).unwrap()
                assert permission.allowed is allowed, (name, resource, permission, result)
                executed |= {name} if allowed else set()
            assert engine.can(context, *name.split(".")).unwrap().allowed is (name in executed)
        assert catalogue(engine, context) & set(names(engine, ["work"])) == executed


@given(roles, st.lists(access, max_size=6), st.lists(chains(), min_size=1, max_size=4), st.booleans())
def test_the_catalogue_is_what_can_be_executed(
    table: dict[str, Role], declared: list[dict[str, Any]], actors: list[Actor | None], in_storage: bool
) -> None:
    check_generated(table, declared, actors, in_storage)


@pytest.mark.soak
@settings(max_examples=5000)
@given(roles, st.lists(access, max_size=8), st.lists(chains(), min_size=1, max_size=6), st.booleans())
def test_the_catalogue_is_what_can_be_executed_at_length(
    table: dict[str, Role], declared: list[dict[str, Any]], actors: list[Actor | None], in_storage: bool
) -> None:
    check_generated(table, declared, actors, in_storage)


# Resources


def test_what_is_allowed_and_denied_on_one_resource_is_not_shown(engine_of: EngineOf, acme: Tenant) -> None:
    table = {
        "both": Role(allow=[Rule("jobs.close", "job/1")], deny=[Rule("jobs.*", "job/1")]),
        "left": Role(allow=[Rule("jobs.close", "job/1"), Rule("jobs.close", "job/2")], deny=[Rule("*", "job/1")]),
    }
    engine = engine_of(
        make_action("close", ok, permission="jobs.close", resource=resource_of), authorizer=StaticAuthorizer(table)
    )

    both, left = (RequestContext(acme, Actor.human("ann", [role])) for role in table)

    assert engine.can(both, "work", "close").unwrap().reason == "role both denies jobs.* on job/1"
    assert not engine.can(both, "work", "close").unwrap().allowed
    assert engine.can(left, "work", "close").unwrap().allowed
    assert not engine.can(left, "work", "close", "job/1").unwrap().allowed


def test_a_chain_needs_one_resource_for_all_of_it(engine_of: EngineOf, acme: Tenant) -> None:
    table = {
        "one": Role(allow=[Rule("jobs.close", "job/1")]),
        "two": Role(allow=[Rule("jobs.close", "job/2")]),
        "all_but_one": Role(allow=["jobs.close"], deny=[Rule("jobs.close", "job/1")]),
    }
    engine = engine_of(
        make_action("close", ok, permission="jobs.close", resource=resource_of), authorizer=StaticAuthorizer(table)
    )

    def may(agent: str, person: str) -> bool:
        bot = Actor.ai("bot", [agent], on_behalf_of=Actor.human("ann", [person]))
        return engine.can(RequestContext(acme, bot), "work", "close").unwrap().allowed

    assert may("one", "one")
    assert not may("one", "two")
    assert not may("one", "all_but_one")
    assert may("all_but_one", "two")
    assert may("all_but_one", "all_but_one")


def limited(resources: Any) -> Decision:
    return LimitedDecision("these jobs", resources)


@pytest.mark.parametrize(
    "decision", [limited({"job/1"}), limited(["job/1"]), limited(["job/1"])._replace(reason="rewritten")]
)
def test_a_host_may_limit_a_decision_in_its_own_way(engine_of: EngineOf, acme: Tenant, decision: Decision) -> None:
    class Limiting:
        def authorize(self, request: AccessRequest) -> Decision:
            return decision if request.resource_is_pending else Decision(request.resource == "job/1", "asked")

    engine = engine_of(make_action("open", ok, resource=resource_of), authorizer=Limiting())
    bot = Actor.ai("bot", on_behalf_of=Actor.human("ann"))

    assert engine.can(RequestContext(acme, bot), "work", "open").unwrap().allowed
    copied = pickle.loads(pickle.dumps(decision))
    assert (copied, copied.resources) == (decision, frozenset({"job/1"}))


@pytest.mark.parametrize("resources", ["job/1", [], [1], None])
def test_a_limited_decision_names_resources(resources: Any) -> None:
    with pytest.raises(TypeError):
        limited(resources)


# Storages


@run_in_mode
async def test_each_storage_answers_for_each_tenant(each_backend: Backend) -> None:
    actions = [create_action(name=name, description="", handler=ok, permission=f"work.{name}") for name in "ab"]
    service = create_service(name="work", description="", actions=actions)
    engine = create_engine(services=[service], storage=each_backend.storage)
    for tenant, name in ((each_backend.tenant, "a"), (each_backend.other_tenant, "b")):
        role = {"name": "clerk", "allow": [{"permission": f"work.{name}"}]}
        setup, clerk = RequestContext(tenant, Actor.system()), RequestContext(tenant, Actor.human("ann", ["clerk"]))
        (await each_backend.execute(engine, "roles", "define", role, setup)).unwrap()
        if each_backend.mode == "sync":
            listed, permission = engine.catalogue(clerk, ["work"]), engine.can(clerk, "work", name)
        else:
            listed = await engine.catalogue_async(clerk, ["work"])
            permission = await engine.can_async(clerk, "work", name)
        assert [each.name for each in listed.unwrap()] == [f"work.{name}"]
        assert permission.unwrap().reason == f"role clerk allows work.{name}"


# Questions without an answer


def test_an_unknown_name_is_not_found(engine_of: EngineOf, as_ann: RequestContext) -> None:
    engine = engine_of(make_action("close", ok))
    for answer in (
        engine.can(as_ann, "work", "clos"),
        engine.can(as_ann, "wor", "close"),
        engine.catalogue(as_ann, ["wor"]),
    ):
        assert answer.failure().code is ErrorCode.NOT_FOUND
        assert "did you mean" in answer.failure().message


def test_a_catalogue_can_be_of_some_services(engine_of: EngineOf, as_ann: RequestContext) -> None:
    engine = engine_of(make_action("close", ok))

    assert [each.name for each in engine.catalogue(as_ann, ["work", "work"]).unwrap()] == ["work.close"]
    assert engine.catalogue(as_ann, "work") == engine.catalogue(as_ann, iter(["work"]))
    assert engine.catalogue(as_ann, []).unwrap() == ()
    assert [each.name for each in engine.catalogue(as_ann).unwrap()][:2] == ["work.close", "approvals.list"]


@pytest.mark.parametrize("resource", ["", 17, "r" * 501])
def test_a_resource_that_is_no_name_is_refused(engine_of: EngineOf, as_ann: RequestContext, resource: Any) -> None:
    error = engine_of(make_action("close", ok)).can(as_ann, "work", "close", resource).failure()
    assert error.code is ErrorCode.INVALID_INPUT


def test_without_a_tenant_there_is_no_answer(engine_of: EngineOf) -> None:
    engine, nobody = engine_of(make_action("close", ok)), RequestContext(None, Actor.human("ann"))
    for answer in (engine.can(nobody, "work", "close"), engine.catalogue(nobody)):
        assert answer.failure().code is ErrorCode.UNAUTHENTICATED


def test_without_an_actor_the_reason_says_so(engine_of: EngineOf, acme: Tenant) -> None:
    engine = engine_of(make_action("close", ok), make_action("look", ok, is_protected=False))
    nobody = RequestContext(acme, None)

    assert engine.can(nobody, "work", "close").unwrap().reason == "needs an actor: the request has none"
    assert catalogue(engine, nobody) == {"work.look"}


def test_an_answer_leaves_no_row_and_no_open_transaction(engine_of: EngineOf, as_ann: RequestContext) -> None:
    engine = engine_of(make_action("close", ok, permission="jobs.close"))

    def closed(ctx_engine: Engine) -> list[bool]:
        return [ctx_engine.can(as_ann, "work", "close").unwrap().allowed, bool(ctx_engine.catalogue(as_ann).unwrap())]

    assert closed(engine) == [False, True]
    assert log_of(engine) == []


def test_a_handler_may_ask_inside_its_transaction(engine_of: EngineOf, execute: Execute, acme: Tenant) -> None:
    asked: list[bool] = []

    def close(data: Any) -> Result[Any, ActionError]:
        asked.append(engine.can(RequestContext(acme, Actor.human("ann")), "work", "open").unwrap().allowed)
        return Success("closed")

    engine = engine_of(make_action("close", close), make_action("open", ok, permission="jobs.open"))

    assert execute(engine, "work.close", {}) == Success("closed")
    assert asked == [False]


def test_both_modes_and_the_blocking_engine_agree(engine_of: EngineOf, as_ann: RequestContext) -> None:
    engine = engine_of(make_action("close", ok, permission="jobs.close"), make_action("open", ok))

    async def asked() -> Any:
        return await engine.can_async(as_ann, "work", "close"), await engine.catalogue_async(as_ann)

    with engine.blocking() as blocking:
        answers = blocking.can(as_ann, "work", "close"), blocking.catalogue(as_ann)

    assert asyncio.run(asked()) == answers == (engine.can(as_ann, "work", "close"), engine.catalogue(as_ann))


# Authorizers


class Own:
    """A host's authorizer, without a bulk question. `answer` may be an exception."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[AccessRequest] = []

    def authorize(self, request: AccessRequest) -> Any:
        self.asked.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class OwnAsync(Own):
    async def authorize(self, request: AccessRequest) -> Any:
        await asyncio.sleep(0)
        return super().authorize(request)


class Bulk(Own):
    def authorize_many(self, requests: Any) -> Any:
        self.asked += requests
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class AsyncBulk(Bulk):
    async def authorize_many(self, requests: Any) -> Any:
        await asyncio.sleep(0)
        return super().authorize_many(requests)


TWO = (make_action("close", ok, permission="jobs.close"), make_action("open", ok, resource=resource_of))


def asked_for(engine: Engine, context: RequestContext) -> Any:
    return engine.catalogue(context, ["work"])


@pytest.mark.parametrize("authorizer", [Own(Decision(True, "yes")), Bulk([Decision(True, "yes")] * 2)])
def test_an_authorizer_of_a_host_is_asked_about_each_action(
    engine_of: EngineOf, as_ann: RequestContext, authorizer: Own
) -> None:
    engine = engine_of(*TWO, authorizer=authorizer)

    assert len(asked_for(engine, as_ann).unwrap()) == 2
    assert [(each.action, each.permission, each.resource, each.resource_is_pending) for each in authorizer.asked] == [
        ("work.close", "jobs.close", None, False),
        ("work.open", None, None, True),
    ]
    assert authorizer.asked[0].actor == as_ann.actor


@pytest.mark.parametrize("authorizer", [OwnAsync(Decision(True, "yes")), AsyncBulk([Decision(True, "yes")] * 2)])
def test_an_authorizer_that_needs_a_loop_refuses_without_one(
    engine_of: EngineOf, as_ann: RequestContext, authorizer: Own, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_of(*TWO, authorizer=authorizer)

    assert asked_for(engine, as_ann).unwrap() == ()
    assert len(asyncio.run(engine.catalogue_async(as_ann, ["work"])).unwrap()) == 2


@pytest.mark.parametrize("kind", [Own, Bulk])
@pytest.mark.parametrize("answer", [OSError("down"), None, "yes", [Decision(True, "one")], [True, True]])
def test_anything_but_decisions_is_a_refusal(
    engine_of: EngineOf, as_ann: RequestContext, kind: Any, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_of(*TWO, authorizer=kind(answer))

    with caplog.at_level(logging.CRITICAL):
        assert asked_for(engine, as_ann).unwrap() == ()
        permission = engine.can(as_ann, "work", "close").unwrap()

    assert not permission.allowed
    assert "down" not in permission.reason


@pytest.mark.parametrize("kind", [Own, Bulk])
def test_an_authorizer_can_refuse_by_an_error(engine_of: EngineOf, as_ann: RequestContext, kind: Any) -> None:
    engine = engine_of(*TWO, authorizer=kind(ActionError("forbidden", "not today")))

    assert asked_for(engine, as_ann).unwrap() == ()
    assert engine.can(as_ann, "work", "close").unwrap().reason == "not today"


@pytest.mark.parametrize("kind", [Own, Bulk])
@pytest.mark.parametrize(
    ("error", "code"),
    [(ActionError("unavailable", "later"), "unavailable"), (StorageUnavailable("down"), "unavailable")],
)
def test_an_authorizer_that_cannot_answer_is_no_catalogue(
    engine_of: EngineOf, as_ann: RequestContext, kind: Any, error: Exception, code: str
) -> None:
    engine = engine_of(*TWO, authorizer=kind(error))

    assert asked_for(engine, as_ann).failure().code.value == code
    assert engine.can(as_ann, "work", "close").failure().code.value == code


def test_a_subclass_that_refuses_more_is_heard(engine_of: EngineOf, acme: Tenant) -> None:
    class OfficeHours(StaticAuthorizer):
        def authorize(self, request: AccessRequest) -> Decision:
            return Decision(False, "closed") if request.action == "work.open" else super().authorize(request)

    engine = engine_of(*TWO, authorizer=OfficeHours({"clerk": Role(allow=["*"])}))
    context = RequestContext(acme, Actor.human("ann", ["clerk"]))

    assert catalogue(engine, context) & {"work.close", "work.open"} == {"work.close"}


def test_a_thousand_actions_take_one_look_up_of_roles() -> None:
    storage = Counting()
    many = [create_action(name=f"a{number}", description="", handler=ok, permission="p.q") for number in range(1000)]
    engine = create_engine(services=[create_service(name="work", description="", actions=many)], storage=storage)
    tenant = storage.create_tenant(slug="acme", name="Acme")
    setup = RequestContext(tenant, Actor.system())
    engine.execute_action("roles", "define", {"name": "clerk", "allow": [{"permission": "p.*"}]}, setup).unwrap()
    storage.reads = 0

    listed = engine.catalogue(RequestContext(tenant, Actor.human("ann", ["clerk"])), ["work"]).unwrap()

    assert len(listed) == 1000
    assert storage.reads == 1
    for_ann = Actor.ai("bot", ["clerk"], on_behalf_of=Actor.human("ann", ["clerk"]))
    assert len(engine.catalogue(RequestContext(tenant, for_ann), ["work"]).unwrap()) == 1000
    assert storage.reads == 2
