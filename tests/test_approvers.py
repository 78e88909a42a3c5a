"""Approvers: the current policy decides, on its resource, whatever the spelling of a name."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.result import Result, Success

from actionengine import (
    ActionContext,
    ActionHooks,
    Actor,
    ApprovalPolicy,
    Engine,
    HookDefinition,
    InMemoryStorage,
    RequestContext,
    Role,
    Rule,
    StaticAuthorizer,
    Tenant,
    create_engine,
    create_service,
)
from actionengine.context import identity_of
from tests.conftest import make_action

ROLES = {
    "approver": Role(allow=["pay.approve"], deny=[Rule("pay.approve", "job/9")]),
    "of job 1": Role(allow=[Rule("pay.approve", "job/1")]),
    "old": Role(allow=["pay.approve"]),
    "new": Role(allow=["pay.approve_today"]),
}
BEA = Actor.human("bea")
MO = Actor.human("mo", roles=["approver"])


def job(data: Any) -> str:
    return f"job/{data['job']}"


def always(permission: str = "pay.approve") -> ApprovalPolicy:
    return ApprovalPolicy(when=lambda data, ctx: True, permission=permission)


def large(data: Any, ctx: ActionContext) -> bool:
    return bool(data.get("amount", 5000) > 1000)


class Till:
    """An engine in memory; `paid` has each job that was paid, committed or not."""

    def __init__(self, policy: ApprovalPolicy | None = None, storage: InMemoryStorage | None = None) -> None:
        self.storage = storage or InMemoryStorage()
        self.paid: list[str] = []
        policy = policy or ApprovalPolicy(when=large, permission="pay.approve")

        def pay(data: Any) -> Result[Any, Any]:
            self.paid.append(data["job"])
            return Success(data["job"])

        def pay_all(data: Any, ctx: ActionContext) -> Result[Any, Any]:
            return Success([ctx.execute("s", "pay", each).unwrap() for each in data["jobs"]])

        def other_job(data: Any) -> Result[Any, Any]:
            return Success({"job": data["pays"]})

        hooks = ActionHooks(before=(HookDefinition("s", "other_job", is_critical=True),))
        actions = [
            make_action("pay", pay, resource=job, approval=policy),
            make_action("pay_all", pay_all),
            make_action("other_job", other_job),
            make_action("hooked", pay, resource=job, approval=policy, hooks=hooks),
        ]
        service = create_service(name="s", description="x", actions=actions)
        self.engine: Engine = create_engine(
            services=[service], storage=self.storage, authorizer=StaticAuthorizer(ROLES)
        )
        found = self.engine.resolve_tenant("acme")
        is_there = isinstance(found, Success)
        self.tenant: Tenant = found.unwrap() if is_there else self.storage.create_tenant(slug="acme", name="Acme")

    def do(self, actor: Actor | None, name: str, **payload: Any) -> Result[Any, Any]:
        service, action = name.split(".")
        return self.engine.execute_action(service, action, payload, RequestContext(self.tenant, actor))

    def ask(self, name: str = "s.pay", by: Actor = BEA, **payload: Any) -> str:
        id: str = self.do(by, name, **payload).failure().details["approval_id"]
        return id

    def code(self, actor: Actor, decision: str, id: str) -> str:
        answer = self.do(actor, f"approvals.{decision}", approval_id=id)
        return "ok" if isinstance(answer, Success) else answer.failure().code.value

    def listed(self, actor: Actor) -> list[str]:
        return [each.id for each in self.do(actor, "approvals.list").unwrap().items]


# Resources


def test_an_approver_denied_one_resource_decides_only_on_others() -> None:
    till = Till()
    denied, other = till.ask(job="9"), till.ask(job="1")

    for decision in ("approve", "reject"):
        assert till.code(MO, decision, denied) == "forbidden"
    assert till.code(MO, "get", denied) == "not_found"
    assert till.listed(MO) == [other]
    assert till.paid == []
    assert till.code(MO, "get", other) == "ok"
    assert till.code(MO, "approve", other) == "ok"
    assert till.paid == ["1"]


def test_an_approver_for_one_thing_decides_about_that_alone() -> None:
    till, only = Till(), Actor.human("ona", roles=["of job 1"])
    mine, other = till.ask(job="1"), till.ask(job="2")

    assert till.listed(only) == [mine]
    assert till.code(only, "approve", other) == "forbidden" or till.code(only, "approve", other) == "not_found"
    assert till.code(only, "approve", mine) == "ok"
    assert till.paid == ["1"]


@pytest.mark.parametrize("decision", ["approve", "reject", "get"])
def test_somebody_who_may_decide_nothing_finds_nothing(decision: str) -> None:
    till = Till()

    assert till.code(Actor.human("gus"), decision, till.ask(job="1")) == "not_found"


def test_the_input_is_approved_as_a_before_hook_changed_it() -> None:
    till = Till()
    id = till.ask("s.hooked", job="1", pays="9")

    assert till.code(MO, "approve", id) == "forbidden"
    assert till.code(MO, "approve", till.ask("s.hooked", job="9", pays="1")) == "ok"
    assert till.paid == ["1"]


def test_each_nested_thing_is_asked_of_the_approver() -> None:
    till = Till()
    first_denied = till.ask("s.pay_all", jobs=[{"job": "9"}, {"job": "1"}])
    later_denied = till.ask("s.pay_all", jobs=[{"job": "1"}, {"job": "9"}])
    small = till.ask("s.pay_all", jobs=[{"job": "1"}, {"job": "9", "amount": 5}])

    assert till.code(MO, "approve", first_denied) == "forbidden"
    assert till.code(MO, "approve", later_denied) == "handler_error"
    assert till.do(MO, "approvals.get", approval_id=later_denied).unwrap().status == "pending"
    till.paid.clear()
    assert till.code(MO, "approve", small) == "ok"
    assert till.paid == ["1", "9"]


def test_earlier_approvers_are_checked_again_at_the_last() -> None:
    storage = InMemoryStorage()

    def outer(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        first = ctx.execute("s", "one", {"job": "1"}).unwrap()
        ctx.execute("s", "two", {}).unwrap()
        return Success([first, ctx.execute("s", "one", {"job": data["last"]}).value_or("refused")])

    def done(data: Any) -> Result[Any, Any]:
        return Success("paid")

    actions = [
        make_action("outer", outer),
        make_action("one", done, resource=job, approval=always()),
        make_action("two", done, approval=always("pay.second")),
    ]
    engine = create_engine(
        services=[create_service(name="s", description="x", actions=actions)],
        storage=storage,
        authorizer=StaticAuthorizer(ROLES),
    )
    tenant = storage.create_tenant(slug="acme", name="Acme")
    lou = Actor.human("lou", permissions=["pay.second"])

    def run(last: str) -> Any:
        context = RequestContext(tenant, BEA)
        id = engine.execute_action("s", "outer", {"last": last}, context).failure().details["approval_id"]
        for approver in (MO, lou):
            context = RequestContext(tenant, approver)
            approved = engine.execute_action("approvals", "approve", {"approval_id": id}, context).unwrap()
            id = approved.further_approval_id
        return approved.result

    assert run("2") == ["paid", "paid"]
    assert run("9") == ["paid", "refused"]


# The current policy


def test_the_permission_of_an_older_policy_does_not_decide() -> None:
    before = Till(always())
    old, new = Actor.human("olga", roles=["old"]), Actor.human("nina", roles=["new"])
    id = before.ask(job="1")
    assert before.listed(old) == [id]

    today = Till(always("pay.approve_today"), before.storage)

    for decision in ("approve", "reject"):
        assert today.code(old, decision, id) == "forbidden"
    assert (today.listed(old), today.listed(new)) == ([], [id])
    assert today.do(new, "approvals.get", approval_id=id).unwrap().permission == "pay.approve_today"
    assert today.code(new, "approve", id) == "ok"
    assert today.paid == ["1"]


def test_an_action_that_is_gone_is_approved_by_nobody() -> None:
    before = Till(always())
    id = before.ask(job="1")
    nothing = create_engine(services=[], storage=before.storage, authorizer=StaticAuthorizer(ROLES))
    context = RequestContext(before.tenant, Actor.human("olga", roles=["old"]))

    answer = nothing.execute_action("approvals", "approve", {"approval_id": id}, context)

    assert answer.failure().code == "not_found"
    assert nothing.execute_action("approvals", "reject", {"approval_id": id}, context).unwrap().status == "rejected"


# Spellings of a name

SAME: dict[str, tuple[str, str]] = {
    "upper case": ("ann", "ANN"),
    "sharp s": ("strauß", "STRAUSS"),
    "dotless case": ("\u0130x", "i\u0307x"),
    "dotless i": ("ILKAY", "\u0131lkay"),
    "composed": ("zoë", "zoe\u0308"),
    "full width": ("ann", "\uff41\uff4e\uff4e"),
    "a ligature": ("office", "o\ufb03ce"),
    "spaces around": ("ann", " ann\u00a0\t"),
    "spaces in a row": ("ann lee", "ann \u2003 lee"),
    "zero width": ("ann", "a\u200bn\u200dn\ufeff"),
    "soft hyphen": ("ann", "an\u00adn"),
    "direction": ("ann", "\u202eann\u202c"),
    "variation": ("ann", "ann\ufe0f\U000e0100"),
    "a tag": ("ann", "ann\U000e0041"),
    "a filler": ("ann", "ann\u3164"),
    "a control": ("ann", "a\x7fnn"),
    "greek final sigma": ("ΟΔΟΣ", "οδος"),
    "ypogegrammeni": ("\u1fb3", "\u03b1\u03b9"),
}


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME)
@pytest.mark.parametrize("type", ["human", "integration", "system"])
def test_nobody_approves_what_the_same_name_has_asked_for(one: str, other: str, type: str) -> None:
    till = Till()
    for asked_by, decided_by in ((one, other), (other, one)):
        id = till.ask(by=Actor.human(asked_by), job="1")
        decider = Actor(type, decided_by, ("old",))  # type: ignore[arg-type]
        for decision in ("approve", "reject"):
            assert till.code(decider, decision, id) == "forbidden"
        assert till.code(decider, "cancel", id) == "forbidden"
        assert till.code(Actor.human(asked_by), "cancel", id) == "ok"
    assert till.paid == []


@pytest.mark.parametrize("asker", ["human", "ai", "integration", "workflow", "system"])
def test_no_actor_type_makes_a_name_another_one(asker: str) -> None:
    till = Till()

    id = till.ask(by=Actor(asker, "ann"), job="1")  # type: ignore[arg-type]

    assert till.code(Actor.human("ann", roles=["old"]), "approve", id) == "forbidden"
    assert till.code(Actor.human("anna", roles=["old"]), "approve", id) == "ok"


@pytest.mark.parametrize(
    ("one", "other"), [("ann", "anna"), ("ann", "\u0430nn"), ("a b", "ab"), ("ö", "o"), ("1", "11")]
)
def test_other_names_stay_others(one: str, other: str) -> None:
    assert identity_of(Actor.human(one)) != identity_of(Actor.human(other))


CHANGES: list[Callable[[str], str]] = [
    str.upper,
    str.lower,
    str.casefold,
    lambda text: unicodedata.normalize("NFD", text),
    lambda text: unicodedata.normalize("NFKC", text),
    lambda text: f" {text}\u200b",
    lambda text: "\u2060".join(text),
]


@given(st.text(min_size=1), st.lists(st.sampled_from(CHANGES), max_size=3))
def test_no_series_of_spellings_makes_a_name_another_one(name: str, changes: list[Callable[[str], str]]) -> None:
    text = name
    for change in changes:
        text = change(text)

    assert identity_of(f"human:{text}") == identity_of(f"ai:{name}")
    assert identity_of(f"human:{identity_of(f'ai:{name}')}") == identity_of(f"ai:{name}")
