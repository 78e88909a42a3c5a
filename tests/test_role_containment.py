"""No actor grants a right that it does not hold, by any path through the service `roles`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.result import Result, Success

from actionengine import (
    AccessRequest,
    Actor,
    ApprovalPolicy,
    ConfigurationError,
    InMemoryStorage,
    RequestContext,
    Role,
    Rule,
    StaticAuthorizer,
    create_engine,
    create_service,
)
from actionengine.authorization.rules import HeldRoles, Rights
from actionengine.changes import change_control_services
from actionengine.text.names import check_pattern, check_permission, clean, fold
from actionengine.workflows import workflow_services
from tests.conftest import make_action

PERMISSIONS = ("jobs.read", "jobs.edit", "jobs.notes.read", "jobsite.read", "pay.refund", "roles.manage")
PATTERNS = (*PERMISSIONS, "jobs.*", "jobs.notes.*", "roles.*", "*")
ACTORS = ("ann", "bob", "cy")
ROLES = ("owner", "clerk", "guard", "spare")
RESOURCES = (
    None,
    "job/1",
    "role/none",
    *(f"role/{role}" for role in ROLES),
    *(f"actor/human:{actor}" for actor in ACTORS),
)
TOKENS = {"ann": ("roles.manage", "jobs.*"), "bob": ("roles.manage", "jobs.read", "pay.*"), "cy": ("roles.manage",)}
GUARDED = "auditor"
"""A role that an action requires by its name."""
Effective = frozenset[tuple[str, str | None]]

rules = st.builds(
    lambda permission, resource: {"permission": permission, "resource": resource},
    st.sampled_from(PATTERNS),
    st.sampled_from(RESOURCES),
)
role_bodies = st.fixed_dictionaries({"allow": st.lists(rules, max_size=3), "deny": st.lists(rules, max_size=2)})
starting = st.fixed_dictionaries(dict.fromkeys(ROLES[:3], role_bodies))
assigned = st.dictionaries(st.sampled_from(ACTORS), st.sets(st.sampled_from(ROLES[:3]), max_size=2))
calls = st.lists(
    st.one_of(
        st.tuples(st.just("define"), st.sampled_from(ACTORS), st.sampled_from(ROLES), role_bodies),
        st.tuples(st.just("delete"), st.sampled_from(ACTORS), st.sampled_from(ROLES), st.none()),
        st.tuples(
            st.sampled_from(("assign", "unassign")),
            st.sampled_from(ACTORS),
            st.sampled_from(ROLES),
            st.sampled_from(ACTORS),
        ),
    ),
    min_size=1,
    max_size=10,
)


class Office:
    """A tenant with roles, whose actors also have the rights of `tokens`."""

    def __init__(self, tokens: Mapping[str, tuple[str, ...]] | None = None) -> None:
        self.storage = InMemoryStorage()
        self.tenant = self.storage.create_tenant(slug="acme", name="Acme")
        audit = make_action("a", lambda data: Success(1), access_control=[GUARDED])
        self.engine = create_engine(
            services=[create_service(name="s", description="x", actions=[audit])], storage=self.storage
        )
        self.tokens = tokens or {}

    def actor(self, name: str) -> Actor:
        return Actor.system() if name == "system" else Actor.human(name, permissions=self.tokens.get(name, ()))

    def do(self, by: str, action: str, key: str | None = None, **payload: Any) -> Result[Any, Any]:
        context = RequestContext(self.tenant, self.actor(by), idempotency_key=key)
        return self.engine.execute_action("roles", action, payload, context)

    def code(self, by: str, action: str, **payload: Any) -> str:
        answer = self.do(by, action, **payload)
        return "ok" if isinstance(answer, Success) else answer.failure().code.value

    def define(self, name: str, allow: Any = (), deny: Any = (), by: str = "system") -> str:
        rule = lambda each: {"permission": each} if isinstance(each, str) else each  # noqa: E731
        return self.code(by, "define", name=name, allow=[*map(rule, allow)], deny=[*map(rule, deny)])

    def give(self, actor: str, role: str, by: str = "system") -> str:
        return self.code(by, "assign", actor_type="human", actor_id=actor, role=role)

    def take(self, actor: str, role: str, by: str = "system") -> str:
        return self.code(by, "unassign", actor_type="human", actor_id=actor, role=role)

    def roles_of(self, actor: str) -> tuple[str, ...]:
        roles: tuple[str, ...] = self.do("system", "of_actor", actor_type="human", actor_id=actor).unwrap().roles
        return roles

    def effective(self) -> dict[str, Effective]:
        """Return the rights of each actor, by the rules that decide."""
        listed = self.do("system", "list").unwrap()
        defined = {
            role.name: Role(
                [Rule(r.permission, r.resource) for r in role.allow],
                [Rule(r.permission, r.resource) for r in role.deny],
            )
            for role in listed
        }
        return {name: frozenset(self._allowed(name, defined)) for name in ACTORS}

    def _allowed(self, name: str, defined: Mapping[str, Role]) -> Iterator[tuple[str, str | None]]:
        held = self.roles_of(name)
        for permission, resource in product(PERMISSIONS, RESOURCES):
            request = AccessRequest(self.tenant, self.actor(name), "s.a", (), permission, resource, False, "sync")
            if HeldRoles(held, defined).decide(request).allowed:
                yield permission, resource
        if GUARDED in held:
            yield GUARDED, None


@given(starting, assigned, calls)
def test_no_series_of_role_changes_creates_a_right(
    roles: dict[str, Any], assignments: dict[str, set[str]], steps: list[tuple[Any, ...]]
) -> None:
    office = Office(TOKENS)
    # Each manages all but one role: no actor has full power.
    office.define("limited", [], [{"permission": "roles.manage", "resource": "role/none"}])
    for name, body in roles.items():
        office.do("system", "define", name=name, **body).unwrap()
    for actor in ACTORS:
        for name in ("limited", *sorted(assignments.get(actor, ()))):
            assert office.give(actor, name) == "ok"
    before = office.effective()
    callers: set[str] = set()

    for action, by, role, more in steps:
        if action == "define":
            done = office.do(by, "define", name=role, **more)
        elif action == "delete":
            done = office.do(by, "delete", name=role)
        else:
            done = office.do(by, action, actor_type="human", actor_id=more, role=role)
        callers |= {by} if isinstance(done, Success) else set()

    given: Effective = frozenset().union(*(before[caller] for caller in callers))
    for name, now in office.effective().items():
        assert now <= before[name] | given


@given(st.lists(rules, max_size=4), st.lists(rules, max_size=2), rules)
def test_what_is_included_is_allowed_wherever_the_rule_applies(allow: Any, deny: Any, rule: dict[str, Any]) -> None:
    role = Role([Rule(**each) for each in allow], [Rule(**each) for each in deny])
    ann, wanted = Actor.human("ann", roles=["r"]), Rule(**rule)
    if not Rights.of(ann, (), {"r": role}).include(wanted):
        return
    tenant = InMemoryStorage().create_tenant(slug="acme", name="Acme")
    for permission, resource in product((*PERMISSIONS, "jobs.new", "new.one"), (*RESOURCES, "job/2")):
        if wanted.covers(permission) and (wanted.resource is None or wanted.resource == resource):
            request = AccessRequest(tenant, ann, "s.a", (), permission, resource, False, "sync")
            assert HeldRoles(ann.roles, {"r": role}).decide(request).allowed


# Paths


def hr(office: Office) -> None:
    """Hanna manages all roles but `owner`, and reads jobs."""
    office.define("owner", ["*"])
    office.define("hr", ["roles.manage", "jobs.read"], [{"permission": "roles.manage", "resource": "role/owner"}])
    office.give("hanna", "hr")


def test_a_permission_without_a_name_grants_and_blocks_nothing() -> None:
    office = Office()
    rules = [{"permission": "pay.refund"}]

    for tokens, outcome in (("", "pay.refund"), False), (("", "roles.manage"), True):
        actor = Actor.human("ann", permissions=tokens)
        context = RequestContext(office.tenant, actor)
        given = office.engine.execute_action("roles", "define", {"name": "new", "allow": rules}, context)
        assert isinstance(given, Success) is outcome, given


def test_a_deny_on_a_role_takes_full_power() -> None:
    office = Office()
    hr(office)

    assert office.give("hanna", "owner", by="hanna") == "forbidden"
    assert office.define("shadow", ["*"], by="hanna") == "forbidden"
    assert office.define("shadow", ["jobs.*"], by="hanna") == "forbidden"
    assert office.define("shadow", ["roles.manage"], by="hanna") == "forbidden"
    assert office.take("hanna", "hr", by="hanna") == "forbidden"
    assert office.code("hanna", "delete", name="hr") == "forbidden"
    assert office.define("hr", ["roles.manage", "jobs.read"], by="hanna") == "forbidden"
    assert office.define("owner", ["jobs.read"], by="hanna") == "forbidden"
    assert office.define("reader", ["jobs.read", {"permission": "jobs.read", "resource": "job/1"}], by="hanna") == "ok"
    assert office.give("bob", "reader", by="hanna") == "ok"


@pytest.mark.parametrize(
    "name", ["Owner", "OWNER", "owner\u200b", " owner", "ow\u00adner", "\uff4fwner", "owner*", "*"]
)
def test_a_role_that_looks_like_another_one_is_not_made(name: str) -> None:
    office = Office()
    hr(office)

    for by in ("hanna", "system"):
        assert office.define(name, ["jobs.read"], by=by) in ("conflict", "invalid_input")
    assert office.give("bob", name, by="hanna") in ("not_found", "invalid_input")
    assert office.define("Owners", ["jobs.read"], by="hanna") == "ok"


def test_who_manages_one_actor_needs_the_role_and_the_rights_too() -> None:
    office = Office({"leo": ("jobs.edit",)})
    office.define("owner", ["*"])
    office.define("editor", ["jobs.edit"])
    office.define("lead", [{"permission": "roles.manage", "resource": "actor/human:bob"}])
    office.give("leo", "lead")

    assert office.give("bob", "editor", by="leo") == "forbidden"
    manage = [
        {"permission": "roles.manage", "resource": f"{on}"} for on in ("actor/human:bob", "role/editor", "role/owner")
    ]
    office.define("lead", manage)

    assert office.give("bob", "editor", by="leo") == "ok"
    assert office.give("bob", "owner", by="leo") == "forbidden"
    assert office.give("leo", "editor", by="leo") == "forbidden"
    assert office.take("bob", "editor", by="leo") == "ok"


def test_removing_a_deny_rule_needs_the_denied_permission() -> None:
    office = Office({"bob": ("pay.refund",), "max": ("pay.refund",)})
    office.define("guard", [], ["pay.*"])
    office.define("hr", ["roles.*"], [{"permission": "roles.manage", "resource": "role/none"}])
    for name, role in (("bob", "guard"), ("hanna", "hr"), ("max", "hr")):
        office.give(name, role)

    for by in ("hanna", "max"):
        assert office.take("bob", "guard", by=by) == "forbidden"
        assert office.code(by, "delete", name="guard") == "forbidden"
        assert office.define("guard", [], ["pay.read"], by=by) == "forbidden"
        assert office.define("guard", by=by) == "forbidden"
        assert office.define("guard", [], ["*"], by=by) == "ok"
        office.define("guard", [], ["pay.*"])
    office.tokens = {**office.tokens, "max": ("pay.*",)}
    assert office.take("bob", "guard", by="max") == "ok"


def test_the_name_of_a_role_that_actions_ask_for_is_a_right() -> None:
    office = Office()
    office.define(GUARDED, [])
    office.define("hr", ["roles.manage"], [{"permission": "roles.manage", "resource": "role/none"}])
    office.give("hanna", "hr")

    assert office.give("hanna", GUARDED, by="hanna") == "forbidden"
    office.give("hanna", GUARDED)
    assert office.give("bob", GUARDED, by="hanna") == "ok"


def test_full_power_gives_anything_and_a_system_actor_has_it() -> None:
    office = Office({"root": ("roles.manage",), "part": ("roles.manage",)})
    office.define("part", [], [{"permission": "roles.manage", "resource": "actor/human:boss"}])
    office.give("part", "part")

    assert office.define("owner", ["*"], by="root") == "ok"
    assert office.give("root", "owner", by="root") == "ok"
    assert office.give("bob", "owner", by="part") == "forbidden"
    assert office.give("bob", "owner", by="system") == "ok"


def test_rules_that_are_kept_or_narrowed_need_nothing() -> None:
    office = Office()
    office.define("hr", ["roles.manage"], [{"permission": "roles.manage", "resource": "role/none"}])
    office.define("crew", ["jobs.*"], ["pay.refund"])
    office.give("hanna", "hr")

    assert (
        office.define("crew", ["jobs.read", {"permission": "jobs.edit", "resource": "job/1"}], ["pay.*"], by="hanna")
        == "ok"
    )
    assert office.define("crew", ["jobs.*"], ["pay.*"], by="hanna") == "forbidden"


def test_a_replay_of_an_assignment_is_for_its_actor_alone() -> None:
    office = Office({"root": ("roles.*",), "part": ("roles.*",)})
    office.define("owner", ["*"])
    payload = {"actor_type": "human", "actor_id": "bob", "role": "owner"}
    office.do("root", "assign", "key", **payload).unwrap()

    assert office.do("root", "assign", "key", **payload).unwrap().roles == ("owner",)
    assert office.do("part", "assign", "key", **payload).failure().code == "forbidden"


# Patterns


@pytest.mark.parametrize("pattern", ["*", "payments.*", "payments.refund", "a.b.*", "x", "ü.*"])
def test_a_pattern_is_a_name_or_all_below_one(pattern: str) -> None:
    check_pattern(pattern)
    Rule(pattern)
    Role(allow=[pattern], deny=[pattern])
    Actor.human("ann", permissions=[pattern])


BAD = [
    "payments.ref*",
    "payments*",
    "*.refund",
    "pay*ments",
    "payments.*.refund",
    "**",
    "*.*",
    ".*",
    "payments.**",
    "a.*.*",
]


@pytest.mark.parametrize("pattern", BAD)
def test_a_star_anywhere_else_is_refused_wherever_it_is_written(pattern: str) -> None:
    for write in (
        lambda: check_pattern(pattern),
        lambda: Rule(pattern),
        lambda: Role(allow=[pattern]),
        lambda: Role(deny=[Rule(pattern, "job/1")]),
        lambda: StaticAuthorizer({"r": Role(deny=[pattern])}),
        lambda: Actor.human("ann", permissions=[pattern]),
        lambda: Actor("ai", "bot", permissions=(pattern,)),
        lambda: Actor.system(permissions=[pattern]),
    ):
        with pytest.raises(ValueError, match=r"misplaced \*: 'payments\.\*' covers"):
            write()
    office = Office()
    assert office.define("r", [pattern]) == "invalid_input"
    assert office.define("r", [], [pattern]) == "invalid_input"


@pytest.mark.parametrize("resource", ["job/*", "*", "job/1*", ""])
def test_a_resource_of_a_rule_is_named_in_full(resource: str) -> None:
    with pytest.raises(ValueError, match="name one in full"):
        Rule("jobs.edit", resource)
    assert Office().define("r", [{"permission": "jobs.edit", "resource": resource}]) == "invalid_input"


@pytest.mark.parametrize(
    ("pattern", "covered", "others"),
    [
        (
            "payments.*",
            ["payments.x", "payments.x.y"],
            ["payments", "payments.", "payments_admin.x", "Payments.x", "x"],
        ),
        ("*", ["payments", "a.b"], []),
        ("payments", ["payments"], ["payments.x", "payment"]),
    ],
)
def test_a_pattern_covers_what_is_below_it(pattern: str, covered: list[str], others: list[str]) -> None:
    assert [each for each in (*covered, *others) if Rule(pattern).covers(each)] == covered


@pytest.mark.parametrize("permission", ["payments.*", "*", "pay*", ""])
def test_no_action_policy_or_handler_asks_for_a_pattern(permission: str) -> None:
    handler = lambda data: Success(1)  # noqa: E731
    policy = ApprovalPolicy(when=lambda data, ctx: True, permission=permission)
    for declared in ({"permission": permission}, {"approval": policy}):
        action = make_action("a", handler, **declared)
        with pytest.raises(ConfigurationError, match=r"s\.a: "):
            create_engine(services=[create_service(name="s", description="x", actions=[action])])
    with pytest.raises(ValueError, match="permission"):
        check_permission(permission)
    storage = InMemoryStorage()
    asking = make_action("a", lambda data, ctx: Success(ctx.authorize(permission)))
    engine = create_engine(services=[create_service(name="s", description="x", actions=[asking])], storage=storage)
    context = RequestContext(storage.create_tenant(slug="a", name="A"), Actor.human("ann", permissions=["*"]))
    assert engine.execute_action("s", "a", {}, context).failure().code == "internal"


def test_a_star_inside_a_permission_is_refused_at_boot() -> None:
    action = make_action("a", lambda data: Success(1), access_control=["own*"])
    with pytest.raises(ConfigurationError, match=r"s\.a: access_control must name roles in full"):
        create_engine(services=[create_service(name="s", description="x", actions=[action])])
    action = make_action("a", lambda data: Success(1))
    with pytest.raises(ConfigurationError, match=r"s\.a: the permission 'jobs\*'"):
        create_engine(services=[create_service(name="s", description="x", actions=[action], permissions=["jobs*"])])
    with pytest.raises(ValueError, match="named in full"):
        StaticAuthorizer({"*": Role()})


def test_defining_a_role_reports_unknown_permissions() -> None:
    policy = ApprovalPolicy(when=lambda data, ctx: True, permission="jobs.approve")
    actions = [make_action("a", lambda data: Success(1), permission="jobs.edit", approval=policy)]
    own = create_service(name="s", description="x", actions=actions, permissions=["jobs.archive", "reports.*"])
    storage = InMemoryStorage()
    services = [own, *change_control_services(), *workflow_services()]
    engine = create_engine(services=services, storage=storage)
    context = RequestContext(storage.create_tenant(slug="a", name="A"), Actor.system())
    known = ["jobs.edit", "jobs.approve", "jobs.archive", "reports.daily", "reports.*", "jobs.*", "*", "roles.manage"]
    known += ["changes.approve", "changes.merge", "changes.author", "workflows.activate", "records.orders.insert"]
    known += ["records.*", "action_log.read", "roles.*"]
    unknown = ["jobs.edti", "job.*", "changes.aprove", "reports", "records"]
    allow = [{"permission": each} for each in (*known, *unknown)]

    role = {"name": "r", "allow": allow, "deny": [{"permission": "nothing", "resource": "job/1"}]}
    defined = engine.execute_action("roles", "define", role, context).unwrap()

    assert defined.unknown_permissions == (*unknown, "nothing")
    (listed,) = engine.execute_action("roles", "list", {}, context).unwrap()
    assert [rule.permission for rule in listed.allow] == [*known, *unknown]


def test_names_are_folded_and_cleaned() -> None:
    assert fold("Stra\u00dfe\u200b ") == fold("STRASSE")
    assert clean(" a\u00a0 b\u200b") == "a b"
    assert clean("Owner") == "Owner"
