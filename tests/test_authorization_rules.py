"""Rules of authorization at their edges: actors, patterns and the cache."""

from __future__ import annotations

import asyncio
import inspect
import math
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.result import Result, Success

from actionengine import (
    AccessRequest,
    ActionContext,
    Actor,
    Decision,
    ErrorCode,
    InMemoryStorage,
    RBACAuthorizer,
    RequestContext,
    Role,
    Rule,
    StaticAuthorizer,
    Tenant,
)
from actionengine.authorization.cache import BoundedCache, Entry
from actionengine.authorization.rbac import CACHE_BYTES
from actionengine.authorization.rules import HeldRoles, Rights, decide_without_roles, needs_roles
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.errors import StorageUnavailable
from actionengine.storage.memory.records import MemoryRecords
from actionengine.storage.records import ROLE_ASSIGNMENTS, ROLES
from actionengine.text.names import check_pattern, check_permission, pattern_covers, patterns_covering
from tests.conftest import EngineOf, Execute, log_of, make_action

TENANT = InMemoryStorage().create_tenant(slug="acme", name="Acme")


def ok(data: Any) -> Result[Any, Any]:
    return Success("done")


def asking(
    actor: Actor,
    permission: str | None = None,
    *,
    roles: tuple[str, ...] = (),
    resource: str | None = None,
    follows: bool = False,
) -> AccessRequest:
    return AccessRequest(TENANT, actor, "work.go", roles, permission, resource, follows, "sync")


# Actors


@pytest.mark.parametrize("protected", [True, False])
def test_allowed_actors_need_an_actor_on_unprotected_actions_too(
    engine_of: EngineOf, execute: Execute, protected: bool
) -> None:
    action = make_action("go", ok, is_protected=protected, allowed_actors=["human", "system"])
    engine = engine_of(action)

    nobody = execute(engine, "work.go", {}, None).failure()
    bot = execute(engine, "work.go", {}, Actor.ai("bot")).failure()

    assert (nobody.code, nobody.message) == (ErrorCode.UNAUTHENTICATED, "work.go needs an actor: the request has none")
    assert (bot.code, bot.message) == (ErrorCode.FORBIDDEN, "work.go is not for ai actors, only for human, system")
    assert execute(engine, "work.go", {}, Actor.human("ann")) == Success("done")
    assert [row.decision for row in log_of(engine)][:2] == ["no actor", "ai actors are not allowed"]


def test_without_protection_and_allowed_actors_anybody_is_let_in(engine_of: EngineOf, execute: Execute) -> None:
    engine = engine_of(make_action("go", ok, is_protected=False))
    for actor in (None, Actor.ai("bot"), Actor.human("ann")):
        assert execute(engine, "work.go", {}, actor) == Success("done")


def test_a_handler_cannot_authorize_an_anonymous_actor(engine_of: EngineOf, execute: Execute) -> None:
    def go(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        ctx.authorize("work.more")
        return Success("done")

    engine = engine_of(make_action("go", go, is_protected=False))
    error = execute(engine, "work.go", {}, None).failure()
    assert (error.code, error.message) == (ErrorCode.FORBIDDEN, "work.go: no actor")


def test_a_protected_action_needs_an_actor_first_of_all(engine_of: EngineOf, execute: Execute) -> None:
    engine = engine_of(make_action("go", ok))
    error = execute(engine, "work.go", {}, None).failure()
    assert error.code is ErrorCode.UNAUTHENTICATED


def test_a_denied_actor_gets_the_reason_of_the_authorizer(engine_of: EngineOf, execute: Execute) -> None:
    class Refusing:
        def authorize(self, request: AccessRequest) -> Decision:
            return Decision(False, f"no {request.permission} today")

    engine = engine_of(make_action("go", ok, permission="x.do"), authorizer=Refusing())
    error = execute(engine, "work.go", {}, Actor.human("ann")).failure()
    assert (error.code, error.message) == (ErrorCode.FORBIDDEN, "work.go: no x.do today")


def test_an_actor_id_that_fits_no_column_is_refused_at_once(engine_of: EngineOf, execute: Execute) -> None:
    engine = engine_of(make_action("go", ok, allowed_actors=["human"]))
    longest = Actor.human("n" * 240)
    assert execute(engine, "work.go", {}, longest) == Success("done")
    for too_long in (Actor.human("n" * 241), Actor.ai("n" * 241)):
        error = execute(engine, "work.go", {}, too_long).failure()
        assert error.code is ErrorCode.INVALID_INPUT
        assert error.message == "the id of the actor has 241 characters; at most 240 are allowed"


def test_allowed_actors_bind_system_actors_and_every_permission(engine_of: EngineOf, execute: Execute) -> None:
    engine = engine_of(make_action("go", ok, allowed_actors=["human"], permission="x"))
    for actor in (Actor.system(), Actor.ai("bot", permissions=["*"])):
        error = execute(engine, "work.go", {}, actor).failure()
        assert error.code is ErrorCode.FORBIDDEN


def test_the_resource_is_checked_whatever_the_general_answer_was(
    engine_of: EngineOf, execute: Execute, acme: Tenant
) -> None:
    asked: list[AccessRequest] = []

    class Recording:
        def authorize(self, request: AccessRequest) -> Decision:
            asked.append(request)
            return Decision(request.resource != "job/2", f"asked about {request.resource}")

    engine = engine_of(
        make_action("close", ok, permission="jobs.close", access_control=["csr"], resource=lambda data: f"job/{data}"),
        authorizer=Recording(),
    )
    ann = RequestContext(tenant=acme, actor=Actor.human("ann", roles=["csr"]))

    assert execute(engine, "work.close", 1, ann) == Success("done")
    error = execute(engine, "work.close", 2, ann).failure()

    assert (error.code, error.message) == (ErrorCode.FORBIDDEN, "work.close: asked about job/2")
    mine = [request for request in asked if request.action == "work.close"]
    assert [(each.resource, each.resource_is_pending) for each in mine] == [
        (None, True),
        ("job/1", False),
        (None, True),
        ("job/2", False),
    ]
    for each in mine:
        assert (each.tenant, each.actor, each.access_control, each.permission) == (
            acme,
            ann.actor,
            ("csr",),
            "jobs.close",
        )
        assert each.mode in ("sync", "async")
    first, second = [row.decision for row in log_of(engine, acme)]
    assert (first, second) == ("asked about None; asked about job/1", "asked about None; asked about job/2")


def test_an_authorizer_that_raises_or_returns_none_denies(engine_of: EngineOf, execute: Execute) -> None:
    class Broken:
        def __init__(self, error: BaseException) -> None:
            self.error = error

        def authorize(self, request: AccessRequest) -> Decision:
            raise self.error

    for error, code in ((KeyError("x"), ErrorCode.INTERNAL), (StorageUnavailable("gone"), ErrorCode.UNAVAILABLE)):
        engine = engine_of(make_action("go", ok), authorizer=Broken(error))
        answer = execute(engine, "work.go", {}).failure()
        assert answer.code is code
    assert answer.code is ErrorCode.UNAVAILABLE
    engine = engine_of(make_action("go", ok), authorizer=Broken(KeyError("x")))
    assert execute(engine, "work.go", {}).failure().message == "the authorizer raised KeyError"


# Patterns


@pytest.mark.parametrize(
    ("rule", "covered", "not_covered"),
    [
        (
            "payments.*",
            ["payments.refund", "payments.refund.large", "payments._"],
            ["payments_admin.x", "payments", "paymentsx", "pay.refund", "x.payments.refund", "Payments.refund"],
        ),
        ("payments.refund", ["payments.refund"], ["payments.refunds", "payments.refun", "payments.refund.x", "*"]),
        ("*", ["payments.refund", "x", "payments_admin.x"], []),
        ("payments.refund.*", ["payments.refund.large"], ["payments.refund", "payments.refunds.large"]),
    ],
)
def test_a_pattern_ends_at_a_dot(rule: str, covered: list[str], not_covered: list[str]) -> None:
    for permission in covered:
        assert Rule(rule).covers(permission) is True
        assert HeldRoles((), {}).decide(asking(Actor.human("x", permissions=[rule]), permission)).allowed
    for permission in not_covered:
        assert Rule(rule).covers(permission) is False
        assert not HeldRoles((), {}).decide(asking(Actor.human("x", permissions=[rule]), permission)).allowed


@given(
    st.lists(st.sampled_from(["a", "b", ""]), min_size=1, max_size=4).map(".".join).filter(bool),
    st.lists(st.sampled_from(["a", "b", ""]), max_size=4).map(".".join),
    st.sampled_from(["", ".*", "*"]),
)
def test_a_permission_has_exactly_the_patterns_that_cover_it(permission: str, name: str, end: str) -> None:
    pattern = name + end
    try:
        check_pattern(pattern)
    except ValueError:
        return
    assert (pattern in patterns_covering(permission)) is pattern_covers(pattern, permission)


def test_rules_and_roles_are_what_they_were_made_of() -> None:
    assert str(Rule("a.b")) == "a.b"
    assert str(Rule("a.b", "job/1")) == "a.b on job/1"
    role = Role(allow=["a.b", Rule("c.d", "job/1")], deny=["e.f"])
    assert (role.allow, role.deny) == ((Rule("a.b"), Rule("c.d", "job/1")), (Rule("e.f"),))
    assert (Role().allow, Role().deny) == ((), ())
    with pytest.raises(TypeError, match=r"not the string 'a\.b'"):
        Role(allow="a.b")
    with pytest.raises(TypeError, match=r"^a role takes a collection of rules"):
        Role(deny="a.b")


# Decisions of roles

ROLES_TABLE = {
    "clerk": Role(allow=["jobs.*"]),
    "nobody": Role(deny=["jobs.close"]),
    "one": Role(allow=[Rule("jobs.close", "job/1")]),
    "not_one": Role(allow=["jobs.*"], deny=[Rule("jobs.close", "job/1")]),
}


@pytest.mark.parametrize(
    ("actor", "names", "question", "expected"),
    [
        (Actor.human("x"), (), {}, (True, "open to every actor of the tenant")),
        (Actor.human("x"), (), {"roles": ("public",)}, (True, "open to every actor of the tenant")),
        (Actor.human("x"), (), {"roles": ("csr", "boss")}, (False, "needs one of the roles csr, boss")),
        (Actor.human("x", ["boss"]), (), {"roles": ("csr", "boss")}, (True, "role boss")),
        (Actor.human("x"), ("csr",), {"roles": ("csr", "boss")}, (True, "role csr")),
        (Actor.human("x", ["boss", "csr"]), (), {"roles": ("csr", "boss")}, (True, "role csr")),
        (Actor.human("x"), ("clerk",), {"permission": "jobs.close"}, (True, "role clerk allows jobs.*")),
        (Actor.human("x", ["clerk"]), (), {"permission": "jobs.close"}, (True, "role clerk allows jobs.*")),
        (Actor.human("x"), (), {"permission": "jobs.close"}, (False, "needs the permission jobs.close")),
        (
            Actor.human("x"),
            (),
            {"permission": "jobs.close", "resource": "job/1"},
            (False, "needs the permission jobs.close on job/1"),
        ),
        (Actor.human("x"), ("unknown",), {"permission": "jobs.close"}, (False, "needs the permission jobs.close")),
        (Actor.human("x"), ("clerk", "nobody"), {"permission": "jobs.close"}, (False, "role nobody denies jobs.close")),
        (
            Actor.human("x", permissions=["*"]),
            ("nobody",),
            {"permission": "jobs.close"},
            (False, "role nobody denies jobs.close"),
        ),
        (
            Actor.human("x", permissions=["jobs.close"]),
            ("clerk",),
            {"permission": "jobs.close"},
            (True, "the actor's own permission jobs.close"),
        ),
        (Actor.human("x", permissions=["jobs.open"]), (), {"permission": "jobs.close"}, (False, None)),
        (Actor.human("x"), ("one",), {"permission": "jobs.close", "resource": "job/1"}, (True, None)),
        (Actor.human("x"), ("one",), {"permission": "jobs.close", "resource": "job/2"}, (False, None)),
        (Actor.human("x"), ("one",), {"permission": "jobs.close"}, (False, None)),
        (Actor.human("x"), ("one",), {"permission": "jobs.close", "follows": True}, (True, None)),
        (
            Actor.human("x"),
            ("not_one",),
            {"permission": "jobs.close", "resource": "job/1"},
            (False, "role not_one denies jobs.close on job/1"),
        ),
        (Actor.human("x"), ("not_one",), {"permission": "jobs.close", "resource": "job/2"}, (True, None)),
        (Actor.human("x"), ("not_one",), {"permission": "jobs.close", "follows": True}, (True, None)),
        (Actor.human("x"), ("not_one",), {"permission": "jobs.open", "resource": "job/1"}, (True, None)),
        (Actor.human("x"), ("nobody",), {"permission": "jobs.close", "follows": True}, (False, None)),
        # The role alone is not enough: the action needs the permission too.
        (Actor.human("x", ["boss"]), (), {"roles": ("boss",), "permission": "jobs.close"}, (False, None)),
        (Actor.human("x", ["clerk"]), (), {"roles": ("boss",), "permission": "jobs.close"}, (False, None)),
        (Actor.human("x", ["clerk"]), (), {"roles": ("public", "boss"), "permission": "jobs.close"}, (True, None)),
    ],
)
def test_a_decision_says_what_it_rests_on(
    actor: Actor, names: tuple[str, ...], question: dict[str, Any], expected: tuple[bool, str | None]
) -> None:
    decision = HeldRoles((*actor.roles, *names), ROLES_TABLE).decide(asking(actor, **question))
    assert decision.allowed is expected[0]
    if expected[1] is not None:
        assert decision.reason == expected[1]


def test_only_a_system_actor_and_an_open_action_need_no_roles() -> None:
    system, ann = Actor.system(), Actor.human("ann")
    assert needs_roles(asking(ann, "x")) is True
    assert needs_roles(asking(ann, roles=("csr",))) is True
    assert needs_roles(asking(ann)) is False
    assert needs_roles(asking(system, "x", roles=("csr",))) is False
    assert decide_without_roles(asking(system, "x")) == Decision(True, "system actor")
    assert decide_without_roles(asking(ann)) == Decision(True, "open to every actor of the tenant")


def test_roles_in_code_are_copied_and_decide() -> None:
    table = {"clerk": Role(allow=["jobs.*"])}
    authorizer = StaticAuthorizer(table)
    table["clerk"] = Role()
    clerk = Actor.human("x", ["clerk"])
    assert authorizer.authorize(asking(clerk, "jobs.close")) == Decision(True, "role clerk allows jobs.*")
    assert authorizer.authorize(asking(Actor.human("x"), "jobs.close")).allowed is False
    assert authorizer.authorize(asking(Actor.system(), "jobs.close")).reason == "system actor"
    assert StaticAuthorizer().authorize(asking(clerk, "jobs.close")).allowed is False
    assert StaticAuthorizer().authorize(asking(clerk)).allowed is True


# The cache


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Counting(InMemoryStorage):
    """`reads` counts the opened units of work; `opened` has the arguments of each."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.opened: set[Any] = set()

    def unit_of_work(self, tenant: Tenant, action_id: str, mode: Any, read_only: bool = False) -> Any:
        self.reads += 1
        self.opened.add((action_id, mode, read_only))
        return super().unit_of_work(tenant, action_id, mode, read_only)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("actionengine.authorization.rbac.monotonic", clock)
    monkeypatch.setattr("actionengine.authorization.cache.monotonic", clock)
    return clock


@pytest.fixture
def counting() -> Counting:
    return Counting()


def answered(authorizer: RBACAuthorizer, request: AccessRequest) -> Decision:
    decision = authorizer.authorize(request)
    if isinstance(decision, Decision):
        return decision

    async def awaited() -> Decision:
        return await decision

    return run_sync(awaited())


def give(storage: InMemoryStorage, tenant: Tenant, actor: str, *names: str) -> None:
    unit = InMemoryStorage.unit_of_work(storage, tenant, "a", "sync")
    run_sync(unit.records(ROLE_ASSIGNMENTS).insert({"roles": list(names)}, actor))
    run_sync(unit.commit())


def define(storage: InMemoryStorage, tenant: Tenant, name: str, *allow: str, version: int = 0) -> None:
    unit = InMemoryStorage.unit_of_work(storage, tenant, "a", "sync")
    rules = {"allow": [{"permission": each, "resource": None} for each in allow], "deny": []}
    if version:
        run_sync(unit.records(ROLES).update(name, rules, version))
    else:
        run_sync(unit.records(ROLES).insert(rules, name))
    run_sync(unit.commit())


def test_roles_are_read_once_until_they_change(counting: Counting, clock: Clock) -> None:
    authorizer = RBACAuthorizer(counting)
    define(counting, TENANT, "clerk", "jobs.*")
    give(counting, TENANT, "human:ann", "clerk")
    ann, bob = Actor.human("ann"), Actor.human("bob")

    assert answered(authorizer, asking(ann, "jobs.close")).allowed
    assert counting.reads == 1
    assert counting.opened == {("", "sync", True)}
    assert isinstance(authorizer.authorize(asking(ann, "jobs.close")), Decision)
    assert answered(authorizer, asking(ann, "jobs.open")).allowed
    assert counting.reads == 1
    assert not answered(authorizer, asking(bob, "jobs.close")).allowed
    assert not answered(authorizer, asking(Actor.ai("ann"), "jobs.close")).allowed
    assert counting.reads == 3
    define(counting, TENANT, "clerk", "other.*", version=1)
    assert not answered(authorizer, asking(ann, "jobs.close")).allowed
    assert counting.reads == 4


def test_what_another_process_changes_counts_after_max_age(counting: Counting, clock: Clock) -> None:
    authorizer = RBACAuthorizer(counting, max_age=3.0)
    usual = RBACAuthorizer(counting)
    define(counting, TENANT, "clerk", "jobs.*")
    give(counting, TENANT, "human:ann", "clerk")
    question = asking(Actor.human("ann"), "jobs.close")
    for each in (authorizer, usual):
        assert answered(each, question).allowed
    counting.reads = 0
    clock.now += 2.9
    answered(authorizer, question)
    assert counting.reads == 0
    clock.now += 0.1
    answered(authorizer, question)
    assert counting.reads == 1
    clock.now += 1.9
    answered(usual, question)
    assert counting.reads == 1
    clock.now += 0.1
    answered(usual, question)
    assert counting.reads == 2


def test_tenants_and_questions_have_answers_of_their_own(counting: Counting, clock: Clock) -> None:
    other = counting.create_tenant(slug="other", name="Other")
    authorizer = RBACAuthorizer(counting)
    define(counting, TENANT, "clerk", "jobs.*")
    give(counting, TENANT, "human:ann", "clerk")
    ann = Actor.human("ann")
    assert answered(authorizer, asking(ann, "jobs.close")).allowed
    assert not answered(authorizer, asking(ann, "jobs.close")._replace(tenant=other)).allowed
    for question in (
        asking(ann, "payments.pay"),
        asking(ann, "jobs.close", roles=("boss",)),
        asking(Actor.human("bob"), "jobs.close"),
        asking(Actor.ai("ann"), "jobs.close"),
    ):
        assert not answered(authorizer, question).allowed
    assert answered(authorizer, asking(Actor.human("bob", ["clerk"]), "jobs.close")).allowed
    assert answered(authorizer, asking(Actor.human("bob", permissions=["jobs.*"]), "jobs.close")).allowed
    assert not answered(authorizer, asking(Actor.human("bob"), "jobs.close")).allowed


def test_an_answer_about_one_resource_is_none_about_another(counting: Counting, clock: Clock) -> None:
    authorizer = RBACAuthorizer(counting)
    unit = InMemoryStorage.unit_of_work(counting, TENANT, "a", "sync")
    rules = {
        "allow": [{"permission": "jobs.*", "resource": "job/1"}],
        "deny": [{"permission": "jobs.void", "resource": "job/1"}],
    }
    run_sync(unit.records(ROLES).insert(rules, "one"))
    run_sync(unit.commit())
    one = Actor.human("ann", ["one"])
    assert answered(authorizer, asking(one, "jobs.close", resource="job/1")).allowed
    assert not answered(authorizer, asking(one, "jobs.close", resource="job/2")).allowed
    assert not answered(authorizer, asking(one, "jobs.close")).allowed
    assert answered(authorizer, asking(one, "jobs.close", follows=True)).allowed
    assert not answered(authorizer, asking(one, "jobs.void", resource="job/1")).allowed


def test_a_miss_reads_the_roles_of_the_actor_and_no_others(
    counting: Counting, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        define(counting, TENANT, f"r{number}", f"p{number}")
    give(counting, TENANT, "human:ann", "r7")
    asked: list[str] = []
    real = MemoryRecords.get

    async def noted(self: MemoryRecords, id: str) -> Any:
        asked.append(id)
        return await real(self, id)

    async def never(self: MemoryRecords, **options: Any) -> Any:
        raise AssertionError("roles are listed")

    monkeypatch.setattr(MemoryRecords, "get", noted)
    monkeypatch.setattr(MemoryRecords, "list", never)
    ann = Actor.human("ann", ["r9", "unknown"])
    authorizer = RBACAuthorizer(counting)
    assert answered(authorizer, asking(ann, "p7")).allowed
    assert answered(authorizer, asking(ann, "p9")).allowed
    assert not answered(authorizer, asking(ann, "p8")).allowed
    assert asked == ["human:ann", "r7", "r9", "unknown"]


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 10_000, "x" * 256])
def test_a_token_may_name_roles_that_no_storage_can_have(counting: Counting, name: str) -> None:
    question = asking(Actor.human("ann", [name]), "jobs.close")
    assert answered(RBACAuthorizer(counting), question) == Decision(False, "needs the permission jobs.close")


def test_one_bound_holds_for_all_tenants(counting: Counting, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actionengine.authorization.rbac.CACHE_BYTES", 80_000)
    tenants = [counting.create_tenant(slug=f"t{number}", name="T") for number in range(10)]
    authorizer = RBACAuthorizer(counting)
    for number in range(40):
        for tenant in tenants:
            question = asking(Actor.human("ann"), "x", resource=f"job/{number}")._replace(tenant=tenant)
            assert not answered(authorizer, question).allowed
    assert authorizer.cached_bytes <= 80_000
    # The newest answers are still cached, the oldest are not.
    assert isinstance(authorizer.authorize(question), Decision)
    oldest = authorizer.authorize(question._replace(resource="job/0"))
    assert inspect.iscoroutine(oldest)
    oldest.close()


def test_long_names_take_their_part_of_the_cache(counting: Counting, clock: Clock) -> None:
    authorizer = RBACAuthorizer(counting)
    tracemalloc.start()
    for number in range(300):
        answered(authorizer, asking(Actor.human("ann"), "x", resource=f"{number}/" + "x" * 100_000))
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken < CACHE_BYTES
    # An answer that is larger than the cache is given, and not cached.
    answered(authorizer, asking(Actor.human("ann"), "x", resource="x" * CACHE_BYTES))
    assert authorizer.cached_bytes <= CACHE_BYTES


def test_what_has_expired_leaves_the_cache(counting: Counting, clock: Clock) -> None:
    authorizer = RBACAuthorizer(counting)
    for number in range(50):
        answered(authorizer, asking(Actor.human(f"u{number}"), "x"))
    full = authorizer.cached_bytes
    clock.now += 5
    answered(authorizer, asking(Actor.human("ann"), "x"))
    assert 0 < authorizer.cached_bytes < full / 25


def test_threads_share_the_cache(counting: Counting) -> None:
    cache: BoundedCache[int] = BoundedCache(50)

    def use(first: int) -> None:
        for number in range(3000):
            key = (first + number) % 97
            found = cache.get(key, 0)
            assert found is None or found.value == key
            cache.put(key, Entry(key, 0, math.inf, 1))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, range(0, 80, 10)))
    assert cache.size == len(cache) == 50


def test_units_that_read_roles_are_ended(clock: Clock) -> None:
    storage = InMemoryStorage()
    authorizer = RBACAuthorizer(storage)
    answered(authorizer, asking(Actor.human("ann"), "x"))
    assert storage._tenant_data(TENANT.id).snapshots == {}


def test_roles_are_read_under_a_loop_too(counting: Counting, clock: Clock) -> None:
    authorizer = RBACAuthorizer(counting)
    define(counting, TENANT, "clerk", "jobs.*")
    give(counting, TENANT, "human:ann", "clerk")

    async def ask() -> bool:
        decision = authorizer.authorize(asking(Actor.human("ann"), "jobs.close")._replace(mode="async"))
        return (decision if isinstance(decision, Decision) else await decision).allowed

    assert asyncio.run(ask())
    assert counting.opened == {("", "async", True)}


# Names and comparison of rights


@pytest.mark.parametrize("pattern", ["", None, 5, "a*", "a.*.b", "*.a", "**", "*.*", ".*", "a.b*", "a.**", "a.*b"])
def test_a_star_stands_alone_or_at_the_end(pattern: Any) -> None:
    with pytest.raises(ValueError, match="permission"):
        check_pattern(pattern)
    with pytest.raises(ValueError, match="permission"):
        Rule(pattern)
    with pytest.raises(ValueError, match="permission"):
        check_permission(pattern)


def test_patterns_and_permissions_are_told_apart() -> None:
    for pattern in ("a", "a.b", "a.*", "a.b.*", "*"):
        check_pattern(pattern)
    for name in ("a", "a.b"):
        check_permission(name)
    for name in ("a.*", "*"):
        with pytest.raises(ValueError, match="is not the name of one permission"):
            check_permission(name)
    with pytest.raises(ValueError, match=r"^a permission is a name such as 'payments\.refund', not None$"):
        check_permission(None)
    with pytest.raises(ValueError, match=r"^a permission is a name such as 'payments\.refund', or 'pay.*', not 5$"):
        check_pattern(5)
    with pytest.raises(ValueError, match=r"^the permission 'a\*' has a misplaced \*: 'payments"):
        check_pattern("a*")


@pytest.mark.parametrize("resource", ["", "*", "job/*"])
def test_a_resource_is_named_in_full(resource: str) -> None:
    with pytest.raises(
        ValueError, match=r"of a rule is not a name: name one in full, such as 'job/17', or leave it out"
    ):
        Rule("a.b", resource)
    assert Rule("a.b", "job/1").resource == "job/1"


@pytest.mark.parametrize(
    ("pattern", "other", "covers"),
    [
        ("a.*", "a.b", True),
        ("a.*", "a.", False),
        ("a.*", "a.*", True),
        ("a.*", "a.b.*", True),
        ("a.b.*", "a.*", False),
        ("*", "a.*", True),
        ("*", "*", True),
        ("a.*", "*", False),
        ("a.b", "a.b", True),
        ("a.b", "a.*", False),
        ("*", "", True),
    ],
)
def test_a_pattern_covers_narrower_patterns(pattern: str, other: str, covers: bool) -> None:
    assert pattern_covers(pattern, other) is covers


@pytest.mark.parametrize(
    ("one", "other", "contains", "meets"),
    [
        (Rule("a.*"), Rule("a.b"), True, True),
        (Rule("a.b"), Rule("a.*"), False, True),
        (Rule("a.b"), Rule("a.c"), False, False),
        (Rule("a.b"), Rule("a.b", "job/1"), True, True),
        (Rule("a.b", "job/1"), Rule("a.b"), False, True),
        (Rule("a.b", "job/1"), Rule("a.b", "job/1"), True, True),
        (Rule("a.b", "job/1"), Rule("a.b", "job/2"), False, False),
        (Rule("a.*", "job/1"), Rule("a.b", "job/2"), False, False),
        (Rule("a.c", "job/1"), Rule("a.b", "job/1"), False, False),
    ],
)
def test_rules_contain_and_meet_each_other(one: Rule, other: Rule, contains: bool, meets: bool) -> None:
    assert one.contains(other) is contains
    assert one.meets(other) is meets
    assert other.meets(one) is meets


def test_rights_are_what_is_allowed_less_what_is_denied() -> None:
    roles = {
        "clerk": Role(allow=["jobs.*"], deny=["jobs.void"]),
        "one": Role(allow=[Rule("pay.pay", "job/1")]),
        "never": Role(allow=["never.*"]),
    }
    actor = Actor.human("x", ["clerk", "unknown"], ["own.*"])
    rights = Rights.of(actor, ["one"], roles)
    assert rights.roles == {"clerk", "unknown", "one"}
    assert rights.allow[0] == Rule("own.*")
    assert sorted(map(str, rights.allow)) == ["jobs.*", "own.*", "pay.pay on job/1"]
    assert rights.deny == (Rule("jobs.void"),)
    for rule in (Rule("jobs.close"), Rule("own.x"), Rule("pay.pay", "job/1"), Rule("jobs.close", "job/7")):
        assert rights.include(rule) is True
    for rule in (
        Rule("jobs.void"),
        Rule("jobs.*"),
        Rule("*"),
        Rule("pay.pay"),
        Rule("pay.pay", "job/2"),
        Rule("never.x"),
        Rule("jobs.void", "job/7"),
    ):
        assert rights.include(rule) is False


def test_a_role_in_code_is_named_in_full() -> None:
    with pytest.raises(ValueError, match=r"^a role is named in full; 'cs\*' has a \* in it$"):
        StaticAuthorizer({"ok": Role(), "cs*": Role()})
