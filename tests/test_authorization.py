"""Authorization: the same rules for every type of actor, deny before allow, and each decision on the log."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.result import Failure, Result, Success

from actionengine import (
    AccessRequest,
    ActionContext,
    Actor,
    Decision,
    Engine,
    ErrorCode,
    InMemoryStorage,
    RequestContext,
    Role,
    Rule,
    StaticAuthorizer,
    Tenant,
)
from actionengine.authorization.rules import HeldRoles
from actionengine.context import ACTOR_TYPES
from tests.conftest import EngineOf, Execute, log_of, make_action


def ok(data: Any) -> Result[Any, Any]:
    return Success("done")


def job_of(data: Any) -> str:
    return f"job/{data['job']}"


ACTIONS = (
    make_action("open", ok),
    make_action("csr_only", ok, access_control=["csr", "manager"]),
    make_action("refund", ok, permission="payments.refund"),
    make_action("close", ok, permission="jobs.close", resource=job_of),
    make_action("people", ok, allowed_actors=["human"]),
)


@pytest.fixture
def engine(engine_of: EngineOf) -> Engine:
    return engine_of(*ACTIONS)


def roles(engine: Engine, tenant: Tenant, action: str, **payload: Any) -> Any:
    context = RequestContext(tenant=tenant, actor=Actor.system("auditor"))
    return engine.execute_action("roles", action, payload, context).unwrap()


def define(engine: Engine, tenant: Tenant, name: str, allow: Any = (), deny: Any = ()) -> None:
    rules = {"allow": [{"permission": p, "resource": r} for p, r in allow]}
    rules["deny"] = [{"permission": p, "resource": r} for p, r in deny]
    roles(engine, tenant, "define", name=name, **rules)


def actor_x(type: str, *roles: str, permissions: tuple[str, ...] = ()) -> Actor:
    return Actor(type, "x", roles, permissions)  # type: ignore[arg-type]


NOT_SYSTEM = sorted(ACTOR_TYPES - {"system"})


@pytest.mark.parametrize("type", NOT_SYSTEM)
def test_the_same_rules_bind_every_type_of_actor(engine: Engine, execute: Execute, acme: Tenant, type: str) -> None:
    define(engine, acme, "cashier", allow=[("payments.*", None)], deny=[("payments.void", None)])
    assert execute(engine, "work.open", {}, actor_x(type)) == Success("done")
    assert execute(engine, "work.csr_only", {}, actor_x(type)).failure().code is ErrorCode.FORBIDDEN
    assert execute(engine, "work.csr_only", {}, actor_x(type, "manager")) == Success("done")
    assert execute(engine, "work.refund", {}, actor_x(type)).failure().code is ErrorCode.FORBIDDEN
    assert execute(engine, "work.refund", {}, actor_x(type, "cashier")) == Success("done")
    granted = actor_x(type, permissions=("payments.refund",))
    assert execute(engine, "work.refund", {}, granted) == Success("done")


def test_a_system_actor_bypasses_roles_but_not_the_allowed_types(
    engine: Engine, execute: Execute, as_system: RequestContext
) -> None:
    assert execute(engine, "work.refund", {}, as_system) == Success("done")
    assert execute(engine, "work.csr_only", {}, as_system) == Success("done")
    assert execute(engine, "work.people", {}, as_system).failure().code is ErrorCode.FORBIDDEN


@pytest.mark.parametrize("payload", [{"actor": "system"}, {"type": "system", "roles": ["manager"]}])
def test_nothing_in_a_payload_makes_a_system_actor(engine: Engine, execute: Execute, payload: dict[str, Any]) -> None:
    assert execute(engine, "work.refund", payload, actor_x("ai")).failure().code is ErrorCode.FORBIDDEN


def test_a_role_counts_from_its_assignment_to_its_removal(
    engine: Engine, execute: Execute, acme: Tenant, globex: Tenant
) -> None:
    define(engine, acme, "cashier", allow=[("payments.refund", None)])
    define(engine, globex, "cashier", allow=[("payments.refund", None)])
    ann, elsewhere = actor_x("human"), RequestContext(globex, actor_x("human"))
    assert isinstance(execute(engine, "work.refund", {}, ann), Failure)
    roles(engine, acme, "assign", actor_type="human", actor_id="x", role="cashier")
    assert execute(engine, "work.refund", {}, ann) == Success("done")
    assert isinstance(execute(engine, "work.refund", {}, elsewhere), Failure)
    assert isinstance(execute(engine, "work.refund", {}, actor_x("ai")), Failure)
    roles(engine, acme, "define", name="cashier")
    assert isinstance(execute(engine, "work.refund", {}, ann), Failure)
    define(engine, acme, "cashier", allow=[("payments.refund", None)])
    roles(engine, acme, "unassign", actor_type="human", actor_id="x", role="cashier")
    assert isinstance(execute(engine, "work.refund", {}, ann), Failure)


def test_deny_beats_allow_wherever_the_allow_comes_from(engine: Engine, execute: Execute, acme: Tenant) -> None:
    define(engine, acme, "cashier", allow=[("payments.refund", None)])
    define(engine, acme, "trainee", deny=[("payments.*", None)])
    allowed = actor_x("human", "cashier", permissions=("*",))
    denied = actor_x("human", "cashier", "trainee", permissions=("*",))
    assert execute(engine, "work.refund", {}, allowed) == Success("done")
    error = execute(engine, "work.refund", {}, denied).failure()
    assert error.code is ErrorCode.FORBIDDEN
    assert "role trainee denies payments.*" in error.message


def test_a_rule_can_name_one_resource(engine: Engine, execute: Execute, acme: Tenant) -> None:
    define(engine, acme, "one_job", allow=[("jobs.close", "job/7")])
    define(engine, acme, "all_but_one", allow=[("jobs.close", None)], deny=[("jobs.close", "job/7")])
    one, all_but_one = actor_x("human", "one_job"), actor_x("human", "all_but_one")
    assert execute(engine, "work.close", {"job": 7}, one) == Success("done")
    assert execute(engine, "work.close", {"job": 8}, one).failure().code is ErrorCode.FORBIDDEN
    assert execute(engine, "work.close", {"job": 8}, all_but_one) == Success("done")
    assert execute(engine, "work.close", {"job": 7}, all_but_one).failure().code is ErrorCode.FORBIDDEN


def test_a_rule_on_a_resource_opens_no_action_without_one(engine: Engine, execute: Execute, acme: Tenant) -> None:
    define(engine, acme, "one_payment", allow=[("payments.refund", "payment/7")])
    assert isinstance(execute(engine, "work.refund", {}, actor_x("human", "one_payment")), Failure)


def test_a_handler_can_ask_about_a_resource_that_it_finds(engine_of: EngineOf, execute: Execute, acme: Tenant) -> None:
    def close(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        ctx.authorize("jobs.close", resource="job/7")
        return Success("closed")

    engine = engine_of(make_action("close", close))
    define(engine, acme, "one_job", allow=[("jobs.close", "job/7")])
    assert execute(engine, "work.close", {}, actor_x("human", "one_job")) == Success("closed")
    assert execute(engine, "work.close", {}, actor_x("human")).failure().code is ErrorCode.FORBIDDEN
    allowed, denied = (row for row in log_of(engine, acme) if row.action == "work.close")
    assert "role one_job allows jobs.close on job/7" in allowed.decision
    assert denied.outcome == "denied"


def test_every_decision_is_on_the_action_log(engine: Engine, execute: Execute) -> None:
    execute(engine, "work.open", {}, actor_x("human"))
    execute(engine, "work.refund", {}, actor_x("ai"))
    execute(engine, "work.people", {}, actor_x("ai"))
    rows = [(row.outcome, row.decision) for row in log_of(engine)]
    assert rows == [
        ("succeeded", "open to every actor of the tenant"),
        ("denied", "needs the permission payments.refund"),
        ("denied", "ai actors are not allowed"),
    ]


def test_roles_are_administered_by_those_who_may_and_by_no_agent(engine: Engine, execute: Execute) -> None:
    role = {"name": "god", "allow": [{"permission": "*"}]}
    nobody, admin = actor_x("human"), actor_x("human", permissions=("roles.*",))
    agent = actor_x("ai", permissions=("roles.*", "*"))
    assert execute(engine, "roles.define", role, nobody).failure().code is ErrorCode.FORBIDDEN
    assert execute(engine, "roles.define", role, agent).failure().code is ErrorCode.FORBIDDEN
    assert isinstance(execute(engine, "roles.define", role, admin), Success)
    listed = execute(engine, "roles.list", {}, admin).unwrap()
    assert [(item.name, item.allow[0].permission) for item in listed] == [("god", "*")]
    assignment = {"actor_type": "human", "actor_id": "ann", "role": "god"}
    assert execute(engine, "roles.assign", assignment, admin).unwrap().roles == ("god",)
    assert execute(engine, "roles.of_actor", {"actor_type": "human", "actor_id": "ann"}, admin).unwrap().roles == (
        "god",
    )
    assert isinstance(execute(engine, "roles.delete", {"name": "god"}, admin), Success)
    for action, payload in (("delete", {"name": "god"}), ("assign", assignment), ("define", {"name": ""})):
        assert isinstance(execute(engine, f"roles.{action}", payload, admin), Failure)


def test_a_deleted_role_does_not_come_back_with_its_name(engine: Engine, execute: Execute, acme: Tenant) -> None:
    define(engine, acme, "cashier", allow=[("payments.refund", None)])
    roles(engine, acme, "assign", actor_type="human", actor_id="x", role="cashier")
    roles(engine, acme, "delete", name="cashier")
    define(engine, acme, "cashier", allow=[("payments.refund", None)])
    assert isinstance(execute(engine, "work.refund", {}, actor_x("human")), Failure)


def test_every_actor_has_the_public_role(engine_of: EngineOf, execute: Execute) -> None:
    engine = engine_of(
        make_action("inside", ok, access_control=["public"]),
        make_action("outside", ok, access_control=["public"], is_protected=False),
    )
    assert execute(engine, "work.inside", {}, actor_x("ai")) == Success("done")
    assert execute(engine, "work.outside", {}, None) == Success("done")
    assert execute(engine, "work.inside", {}, None).failure().code is ErrorCode.UNAUTHENTICATED


def test_an_authorizer_that_needs_a_loop_refuses_in_sync_mode(engine_of: EngineOf, acme: Tenant) -> None:
    class Waiting:
        async def authorize(self, request: AccessRequest) -> Decision:
            await asyncio.sleep(0)
            return Decision(True, "after a while")

    engine = engine_of(*ACTIONS, authorizer=Waiting())
    context = RequestContext(acme, actor_x("human"))
    assert engine.execute_action("work", "open", {}, context).failure().code is ErrorCode.INTERNAL
    assert asyncio.run(engine.execute_action_async("work", "open", {}, context)) == Success("done")


def test_roles_in_code_take_their_names_from_the_actor(engine_of: EngineOf, execute: Execute) -> None:
    authorizer = StaticAuthorizer(
        {"cashier": Role(allow=["payments.*", Rule("jobs.close", "job/7")]), "trainee": Role(deny=["payments.refund"])}
    )
    engine = engine_of(*ACTIONS, authorizer=authorizer)
    assert execute(engine, "work.refund", {}, actor_x("ai", "cashier")) == Success("done")
    assert isinstance(execute(engine, "work.refund", {}, actor_x("human", "cashier", "trainee")), Failure)
    assert execute(engine, "work.close", {"job": 7}, actor_x("human", "cashier")) == Success("done")
    assert isinstance(execute(engine, "work.close", {"job": 8}, actor_x("human", "cashier")), Failure)
    assert isinstance(execute(engine, "work.close", {"job": 7}, actor_x("human", "unknown")), Failure)
    assert "roles" not in [summary.name for summary in engine.get_services().unwrap()]


class Custom:
    """An authorizer of a host."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[AccessRequest] = []

    async def authorize(self, request: AccessRequest) -> Decision:
        self.asked.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return Decision(self.answer, "the host says so")


@pytest.mark.parametrize(("answer", "code"), [(False, "forbidden"), (OSError("down"), "internal")])
def test_a_hosts_own_authorizer_that_does_not_say_yes_is_a_no(
    engine_of: EngineOf, execute: Execute, answer: Any, code: str
) -> None:
    authorizer = Custom(answer)
    engine = engine_of(*ACTIONS, authorizer=authorizer)
    error = execute(engine, "work.refund", {}, actor_x("human", "r")).failure()
    assert error.code.value == code
    assert "down" not in error.message
    (asked,) = authorizer.asked
    assert (asked.action, asked.permission, asked.actor.roles) == ("work.refund", "payments.refund", ("r",))


def test_a_resource_that_cannot_be_named_stops_the_execution(engine_of: EngineOf, execute: Execute) -> None:
    engine = engine_of(*ACTIONS)
    actor = actor_x("human", permissions=("jobs.close",))
    assert execute(engine, "work.close", {"no": "job"}, actor).failure().code is ErrorCode.HANDLER_ERROR


def test_roles_that_change_under_load_never_grant_what_was_taken(engine_of: EngineOf, acme: Tenant) -> None:
    engine = engine_of(*ACTIONS)
    define(engine, acme, "cashier", allow=[("payments.refund", None)])
    actor = {"actor_type": "human", "actor_id": "x", "role": "cashier"}
    ann = RequestContext(acme, actor_x("human"))

    async def change_and_use() -> None:
        for _ in range(50):
            roles(engine, acme, "assign", **actor)
            granted = [engine.execute_action_async("work", "refund", {}, ann) for _ in range(4)]
            assert all(isinstance(answer, Success) for answer in await asyncio.gather(*granted))
            roles(engine, acme, "unassign", **actor)
            taken = [engine.execute_action_async("work", "refund", {}, ann) for _ in range(4)]
            assert all(isinstance(answer, Failure) for answer in await asyncio.gather(*taken))

    asyncio.run(change_and_use())


permissions = st.sampled_from(["a.x", "a.y", "b.x", "a.*", "*", "b.*"])
rules = st.builds(Rule, permissions, st.sampled_from([None, "r/1", "r/2"]))
role_tables = st.dictionaries(st.sampled_from(["p", "q"]), st.builds(Role, st.lists(rules), st.lists(rules)))


@given(
    table=role_tables,
    held=st.lists(st.sampled_from(["p", "q"]), unique=True),
    own=st.lists(permissions, max_size=2),
    asked=st.sampled_from(["a.x", "b.x"]),
    resource=st.sampled_from([None, "r/1", "r/2"]),
)
def test_the_decision_is_what_the_rules_say(
    table: dict[str, Role], held: list[str], own: list[str], asked: str, resource: str | None
) -> None:
    def speaks(rule: Rule) -> bool:
        prefix = rule.permission.removesuffix("*")
        named = asked.startswith(prefix) if rule.permission.endswith("*") else rule.permission == asked
        return named and rule.resource in (None, resource)

    mine = [table[name] for name in held if name in table]
    denied = any(speaks(rule) for role in mine for rule in role.deny)
    allowed = any(speaks(rule) for role in mine for rule in role.allow) or any(speaks(Rule(name)) for name in own)
    storage = InMemoryStorage()
    tenant = storage.create_tenant(slug="acme", name="Acme")
    request = AccessRequest(tenant, Actor.human("x", held, own), "s.a", (), asked, resource, False, "sync")
    assert HeldRoles(held, table).decide(request).allowed is (allowed and not denied)


def test_a_role_that_was_deleted_comes_back_to_nobody(engine_of: EngineOf, execute: Execute) -> None:
    engine = engine_of()
    ann = {"actor_type": "human", "actor_id": "ann"}

    def do(action: str, **payload: Any) -> Any:
        return execute(engine, f"roles.{action}", payload, Actor.human("admin", permissions=["*", "roles.manage"]))

    for role in ("lead", "clerk"):
        do("define", name=role).unwrap()
        do("assign", **ann, role=role).unwrap()
    do("delete", name="lead").unwrap()
    assert do("of_actor", **ann).unwrap().roles == ("clerk",)
    do("define", name="lead").unwrap()
    assert do("of_actor", **ann).unwrap().roles == ("clerk",)
    assert do("unassign", **ann, role="lead").failure().code is ErrorCode.NOT_FOUND
    assert do("assign", **ann, role="lead").unwrap().roles == ("clerk", "lead")
    assert do("define", name="lead", description="of a team").unwrap().description == "of a team"
    assert do("of_actor", **ann).unwrap().roles == ("clerk", "lead")


def test_a_role_deleted_during_its_assignment_is_not_assigned(
    engine_of: EngineOf, storage: InMemoryStorage, acme: Tenant
) -> None:
    admin = RequestContext(acme, Actor.human("admin", permissions=["*", "roles.manage"]))
    ann = {"actor_type": "human", "actor_id": "ann"}

    def assign(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        answer = ctx.execute("roles", "assign", {**ann, "role": "lead"})
        running[0].execute_action("roles", "delete", {"name": "lead"}, admin).unwrap()
        running[0].execute_action("roles", "define", {"name": "lead"}, admin).unwrap()
        return answer

    running = [engine_of(make_action("assign", assign))]
    engine = running[0]
    engine.execute_action("roles", "define", {"name": "lead"}, admin).unwrap()
    engine.execute_action("work", "assign", {}, admin).unwrap()

    assert engine.execute_action("roles", "of_actor", ann, admin).unwrap().roles == ()
