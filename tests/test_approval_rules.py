"""Rules of approvals and idempotency keys at their edges: approvers, times and stored documents."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest
from pydantic import BaseModel
from returns.result import Result, Success

from actionengine import (
    ActionContext,
    ActionError,
    Actor,
    ApprovalPolicy,
    ErrorCode,
    InMemoryStorage,
    Limits,
    RequestContext,
    Sensitive,
    Tenant,
)
from actionengine.concurrency.run_sync import run_sync
from actionengine.pipeline.pending_approval import PendingApproval, error_for, find_approval
from actionengine.pipeline.stored_actor import StoredActor
from actionengine.storage.records import APPROVALS
from actionengine.storage.rows import Claim, Record
from tests.conftest import EngineOf, Execute, log_of, make_action

DAY = timedelta(days=1)


class Payment(BaseModel):
    amount: int
    card: Annotated[str, Sensitive()] = ""


def policy(when: Any = None, **changes: Any) -> ApprovalPolicy:
    return ApprovalPolicy(**{"when": when or (lambda data, ctx: True), "permission": "pay.approve", **changes})


class Till:
    """An engine with one action that needs an approval and one that does not; `paid` has the payloads of their runs."""

    def __init__(self, engine_of: EngineOf, execute: Execute, tenant: Tenant, wanted: ApprovalPolicy | None = None):
        self.paid: list[Any] = []
        self.tenant = tenant
        self._execute = execute

        def pay(data: Payment, ctx: ActionContext) -> Result[Any, Any]:
            self.paid.append((data.amount, data.card, str(ctx.actor), ctx.source, ctx.reason, ctx.request_id))
            return Success({"paid": data.amount})

        self.engine = engine_of(
            make_action(
                "pay", pay, validation=Payment, approval=wanted or policy(), resource=lambda data: f"job/{data.amount}"
            ),
            make_action("free", pay, validation=Payment, idempotency="required"),
            make_action("never", pay, validation=Payment, idempotency="none"),
            limits=Limits(idempotency_wait=0.0),
        )

    def do(self, name: str, payload: Any, actor: Actor | None = None, **context: Any) -> Result[Any, Any]:
        return self._execute(
            self.engine, name, payload, RequestContext(self.tenant, actor or Actor.human("ann"), **context)
        )

    def ask(self, amount: int = 5, **context: Any) -> str:
        error = self.do("work.pay", {"amount": amount, "card": "4111 2222"}, **context).failure()
        assert error.code is ErrorCode.APPROVAL_REQUIRED
        id: str = error.details["approval_id"]
        return id

    def decide(self, decision: str, id: str, actor: Actor, **more: Any) -> Result[Any, Any]:
        return self.do(f"approvals.{decision}", {"approval_id": id, **more}, actor)


def boss(id: str = "boss", *permissions: str) -> Actor:
    return Actor.human(id, permissions=permissions or ("pay.approve",))


@pytest.fixture
def till(engine_of: EngineOf, execute: Execute, acme: Tenant) -> Till:
    return Till(engine_of, execute, acme)


def stored(storage: InMemoryStorage, tenant: Tenant, id: str) -> PendingApproval:
    found = run_sync(find_approval(storage.unit_of_work(tenant, "a", "sync").records(APPROVALS), id))
    assert found is not None
    return found


# Stored documents


def test_an_approval_keeps_all_that_is_needed_to_run_again(till: Till, storage: InMemoryStorage, acme: Tenant) -> None:
    before = datetime.now(UTC)
    ann = Actor.human("ann", ["clerk"], ["pay"])
    id = till.ask(actor=ann, source="mcp", reason="card 4111 2222", request_id="r1", idempotency_key="k1")
    kept = stored(storage, acme, id)
    assert kept.id == id
    assert (kept.service, kept.action, kept.policy, kept.permission) == ("work", "pay", "work.pay", "pay.approve")
    assert (kept.resource, kept.granted, kept.status, kept.version) == ("job/5", {}, "pending", 1)
    assert not kept.has_secret_resource
    assert kept.requester == StoredActor(type="human", id="ann", roles=("clerk",), permissions=("pay",))
    assert (kept.source, kept.reason, kept.request_id) == ("mcp", "card **********", "r1")
    assert kept.idempotency_key == "k1"
    assert len(kept.fingerprint) == 64
    assert kept.payload == '{"amount":5,"card":"4111 2222"}'
    assert kept.input == {"amount": 5, "card": "**********"}
    assert before <= kept.created_at <= datetime.now(UTC)
    assert kept.expires_at - kept.created_at == policy().expires_after
    assert (kept.decided_by, kept.decided_at, kept.comment) == (None, None, None)
    request = kept.request(RequestContext(acme, Actor.human("boss"), resources={"db": 1}))
    assert (request.tenant, request.actor, request.source) == (acme, ann, "mcp")
    assert (request.reason, request.request_id, request.idempotency_key) == ("card **********", "r1", "k1")
    assert dict(request.resources or {}) == {"db": 1}


def test_an_approval_without_key_and_reason_keeps_none(till: Till, storage: InMemoryStorage, acme: Tenant) -> None:
    one, other = (stored(storage, acme, till.ask(amount)) for amount in (5, 6))
    assert (one.idempotency_key, one.reason, one.request_id, one.source) == (None, None, None, "http")
    assert one.fingerprint != other.fingerprint


def test_the_document_of_an_approval_makes_the_approval_again(
    till: Till, storage: InMemoryStorage, acme: Tenant
) -> None:
    kept = stored(storage, acme, till.ask(actor=Actor.human("ann", ["clerk"]), idempotency_key="k1"))
    document = kept.document()
    assert json.loads(json.dumps(document)) == document
    assert "version" not in document
    assert PendingApproval.of(Record(kept.id, kept.version, document, kept.created_at, kept.created_at)) == kept


def test_an_approval_knows_of_a_secret_in_its_resource_name(
    engine_of: EngineOf, execute: Execute, storage: InMemoryStorage, acme: Tenant
) -> None:
    pay = make_action(
        "pay",
        lambda data: Success(None),
        validation=Payment,
        approval=policy(),
        resource=lambda data: f"card/{data.card}" if data.amount else "all",
    )
    engine, ann = engine_of(pay), RequestContext(acme, Actor.human("ann"))
    for amount, is_secret in ((5, True), (0, False)):
        error = execute(engine, "work.pay", {"amount": amount, "card": "4111 2222"}, ann).failure()
        assert stored(storage, acme, error.details["approval_id"]).has_secret_resource is is_secret


def test_an_approval_keeps_which_policies_others_have_satisfied(
    engine_of: EngineOf, execute: Execute, storage: InMemoryStorage, acme: Tenant
) -> None:
    def pay(data: Any, ctx: ActionContext) -> Result[Any, Any]:
        return ctx.execute("work", "book", data)

    engine = engine_of(
        make_action("pay", pay, approval=policy()),
        make_action("book", lambda data: Success("booked"), approval=policy(permission="book.it")),
    )
    asked = execute(engine, "work.pay", {}).failure()
    approver = boss("boss", "pay.approve")
    first = {"approval_id": asked.details["approval_id"]}
    decided = execute(engine, "approvals.approve", first, approver).unwrap()
    kept = stored(storage, acme, decided.further_approval_id)
    assert (kept.action, kept.policy, kept.permission) == ("pay", "work.book", "book.it")
    assert kept.granted == {"work.pay": StoredActor.of(approver)}


def test_an_approval_for_an_anonymous_actor_names_no_requester(
    engine_of: EngineOf, execute: Execute, storage: InMemoryStorage, acme: Tenant
) -> None:
    pay = make_action("pay", lambda data: Success(None), approval=policy(), is_protected=False)
    error = execute(engine_of(pay), "work.pay", {}, None).failure()
    kept = stored(storage, acme, error.details["approval_id"])
    assert kept.requester is None
    assert kept.request(RequestContext(acme, boss())).actor is None


def test_the_error_says_what_is_waited_for(till: Till, storage: InMemoryStorage, acme: Tenant) -> None:
    error = till.do("work.pay", {"amount": 5}).failure()
    kept = stored(storage, acme, error.details["approval_id"])
    assert error == error_for(kept)
    assert error.message == "work.pay needs an approval by an actor with the permission pay.approve"
    assert error.details == {
        "approval_id": kept.id,
        "status": "pending",
        "action": "work.pay",
        "policy": "work.pay",
        "permission": "pay.approve",
        "requested_by": "human:ann",
        "expires_at": kept.expires_at.isoformat(),
    }


def test_a_stored_approval_comes_back_as_it_was(till: Till, storage: InMemoryStorage, acme: Tenant) -> None:
    kept = stored(storage, acme, till.ask())
    now = datetime.now(UTC)
    assert "version" not in kept.document()
    assert PendingApproval.of(Record(kept.id, 7, kept.document(), now, now)) == kept.model_copy(update={"version": 7})
    unit = storage.unit_of_work(acme, "a", "sync")
    assert run_sync(find_approval(unit.records(APPROVALS), "nothing")) is None


def test_an_approval_is_open_while_it_is_pending_and_not_expired(
    till: Till, storage: InMemoryStorage, acme: Tenant
) -> None:
    kept = stored(storage, acme, till.ask())
    assert kept.is_open(kept.expires_at - timedelta(microseconds=1)) is True
    assert kept.is_open(kept.expires_at) is False
    for status in ("approved", "rejected", "cancelled"):
        assert kept.model_copy(update={"status": status}).is_open(kept.created_at) is False


def test_a_request_without_an_actor_is_approved_without_one(till: Till, storage: InMemoryStorage, acme: Tenant) -> None:
    kept = stored(storage, acme, till.ask()).model_copy(update={"requester": None})
    assert kept.request(RequestContext(acme, Actor.human("boss"))).actor is None


# Approvers


def test_what_is_approved_runs_once_as_it_was_asked_for(till: Till, storage: InMemoryStorage, acme: Tenant) -> None:
    id = till.ask(source="mcp", reason="why", request_id="r1")
    given = till.decide("approve", id, boss(), comment="fine").unwrap()
    assert till.paid == [(5, "4111 2222", "human:ann", "mcp", "why", "r1")]
    assert given.result == {"paid": 5}
    assert given.further_approval_id is None
    approval = given.approval
    assert (approval.id, approval.action, approval.permission, approval.status) == (
        id, "work.pay", "pay.approve", "approved",
    )  # fmt: skip
    assert (approval.requested_by, approval.decided_by, approval.comment) == ("human:ann", "human:boss", "fine")
    assert approval.reason == "why"
    assert approval.input == {"amount": 5, "card": "**********"}
    assert approval.created_at <= approval.decided_at <= datetime.now(UTC)
    kept = stored(storage, acme, id)
    assert (kept.status, kept.decided_by, kept.comment, kept.version) == ("approved", "human:boss", "fine", 3)
    (ran,) = log_of(till.engine, acme, action="work.pay", outcome="succeeded")
    outcome = {"action_id": ran.id, "result": {"paid": 5}, "further_approval_id": None, "failure": None}
    assert till.do("approvals.get", {"approval_id": id}).unwrap().model_dump() == {**approval.model_dump(), **outcome}
    (row,) = log_of(till.engine, acme, action="approvals.approve")
    assert row.subjects == (f"approval/{id}",)
    assert row.output == {
        "approval": approval.model_dump(mode="json"),
        "result": {"paid": 5},
        "further_approval_id": None,
    }
    assert (ran.approved_by, ran.approval_id, ran.actor_id) == ("human:boss", id, "ann")


@pytest.mark.parametrize("decision", ["approve", "reject"])
@pytest.mark.parametrize("spelling", ["ann", "ANN", "\uff21nn"])
@pytest.mark.parametrize("kind", [Actor.human, Actor.integration, Actor.system])
def test_nobody_decides_what_they_asked_for(till: Till, decision: str, spelling: str, kind: Any) -> None:
    id = till.ask(actor=Actor.human("ann", permissions=["pay.approve"]))
    actor = kind(spelling) if kind is Actor.system else kind(spelling, permissions=["*"])
    error = till.decide(decision, id, actor).failure()
    assert error.code is ErrorCode.FORBIDDEN
    assert error.message == (
        f"human:ann asked for the approval {id}, and {actor} counts as the same actor: another one has to decide"
    )
    assert till.paid == []
    assert till.do("approvals.get", {"approval_id": id}).unwrap().status == "pending"


@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_no_agent_decides_with_whatever_rights(till: Till, decision: str) -> None:
    id = till.ask()
    for actor in (Actor.ai("bot", permissions=["*"]), Actor.workflow("flow", permissions=["*"])):
        assert till.decide(decision, id, actor).failure().code is ErrorCode.FORBIDDEN
    for actor in (Actor.integration("bank", permissions=["pay.approve"]), Actor.system("night")):
        assert isinstance(till.decide("reject", till.ask(), actor), Success)
    assert till.paid == []


@pytest.mark.parametrize("decision", ["approve", "reject", "cancel"])
def test_who_may_not_see_an_approval_finds_none(till: Till, globex: Tenant, decision: str) -> None:
    id = till.ask()
    unknown = "00000000-0000-7000-8000-000000000000"
    for actor in (Actor.human("bob"), boss("bob", "pay"), boss("bob", "pay.approve.other")):
        error = till.decide(decision, id, actor).failure()
        assert (error.code, error.message) == (ErrorCode.NOT_FOUND, f"there is no approval {id!r}")
    assert till.decide(decision, unknown, boss()).failure().message == f"there is no approval {unknown!r}"
    till.tenant = globex
    assert till.decide(decision, id, boss()).failure().code is ErrorCode.NOT_FOUND
    assert till.paid == []


def test_only_who_asked_cancels(till: Till) -> None:
    id = till.ask()
    error = till.decide("cancel", id, boss()).failure()
    assert error == ActionError(ErrorCode.FORBIDDEN, f"only the requester can cancel the approval {id}")
    cancelled = till.decide("cancel", id, Actor.human("ann"), comment="not now").unwrap()
    assert (cancelled.status, cancelled.decided_by, cancelled.comment) == ("cancelled", "human:ann", "not now")
    bot = till.ask(actor=Actor.ai("bot"))
    assert till.decide("cancel", bot, Actor.human("bot")).failure().code in (
        ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND,
    )  # fmt: skip
    assert till.decide("cancel", bot, Actor.ai("bot")).unwrap().status == "cancelled"
    assert till.paid == []


READERS = {
    "boss": boss(),
    "reader": boss("reader", "approvals.read"),
    "requester": boss("ann"),
    "requester, spelled otherwise": boss(" ANN"),
    "integration of that name": Actor.integration("ann", permissions=["pay.approve"]),
    "agent": Actor.ai("bot", permissions=["pay.approve"]),
    "agent of the boss": Actor.ai("bot", permissions=["pay.approve"], on_behalf_of=boss()),
    "workflow": Actor.workflow("nightly", permissions=["pay.approve"]),
    "stranger": boss("stranger", "pay.other"),
    "system": Actor.system(),
}


@pytest.mark.parametrize("decision", ["approve", "reject", "cancel"])
@pytest.mark.parametrize("reader", READERS)
def test_an_approval_says_what_its_reader_can_do(till: Till, decision: str, reader: str) -> None:
    id, actor = till.ask(), READERS[reader]
    may = {"approve": "can_approve", "reject": "can_decide", "cancel": "can_cancel"}[decision]
    got = till.do("approvals.get", {"approval_id": id}, actor)
    listed = till.do("approvals.list", {}, actor).unwrap().items
    can = [getattr(each, may) for each in (*listed, *([got.unwrap()] if isinstance(got, Success) else []))]
    decided = till.decide(decision, id, actor)
    assert set(can) <= {isinstance(decided, Success)}, decided
    assert can or not isinstance(decided, Success)
    later = till.do("approvals.get", {"approval_id": id}, Actor.system()).unwrap()
    assert (later.can_decide, later.can_cancel) == (not isinstance(decided, Success), False)


@pytest.mark.parametrize("first", ["approve", "reject", "cancel"])
@pytest.mark.parametrize("second", ["approve", "reject", "cancel"])
def test_what_is_decided_stays_decided(till: Till, first: str, second: str) -> None:
    id = till.ask()
    by = {"approve": boss(), "reject": boss(), "cancel": Actor.human("ann")}
    assert isinstance(till.decide(first, id, by[first]), Success)
    runs = len(till.paid)
    status = {"approve": "approved", "reject": "rejected", "cancel": "cancelled"}[first]
    decided = till.do("approvals.get", {"approval_id": id}, Actor.system()).unwrap()
    at = decided.decided_at.isoformat(timespec="seconds")
    error = till.decide(second, id, by[second]).failure()
    assert (error.code, error.message) == (
        ErrorCode.CONFLICT,
        f"the approval {id} is {status} by {decided.decided_by} at {at} and cannot be used again",
    )
    assert error.details == {
        "approval_id": id,
        "status": status,
        "decided_by": str(by[first]),
        "decided_at": at,
    }
    assert len(till.paid) == runs == (first == "approve")


@pytest.mark.parametrize("decision", ["approve", "reject", "cancel"])
def test_what_has_expired_is_not_decided(engine_of: EngineOf, execute: Execute, acme: Tenant, decision: str) -> None:
    till = Till(engine_of, execute, acme, policy(expires_after=timedelta(microseconds=1)))
    id = till.ask()
    error = till.decide(decision, id, Actor.human("ann") if decision == "cancel" else boss()).failure()
    assert (error.code, error.details["status"]) == (ErrorCode.CONFLICT, "expired")
    assert till.do("approvals.get", {"approval_id": id}).unwrap().status == "expired"
    assert till.do("approvals.get", {"approval_id": id}, boss()).unwrap().status == "expired"
    assert till.paid == []
    assert [each.id for each in till.do("approvals.list", {"status": "expired"}).unwrap().items] == [id]
    assert till.do("approvals.list", {"status": "pending"}).unwrap().items == ()


def test_a_policy_that_does_not_apply_asks_nobody(engine_of: EngineOf, execute: Execute, acme: Tenant) -> None:
    till = Till(engine_of, execute, acme, policy(lambda data, ctx: data.amount > 1000))
    assert till.do("work.pay", {"amount": 1000}) == Success({"paid": 1000})
    error = till.do("work.pay", {"amount": 1001}).failure()
    assert error.code is ErrorCode.APPROVAL_REQUIRED
    row = log_of(till.engine, acme, action="work.pay")[-1]
    assert "needs an approval with the permission pay.approve" in row.decision
    assert [each[0] for each in till.paid] == [1000]


def test_inputs_refuse_what_they_do_not_know(till: Till) -> None:
    for name, payload in (
        ("approvals.list", {"status": "open"}),
        ("approvals.list", {"limit": 0}),
        ("approvals.list", {"limit": 201}),
        ("approvals.list", {"more": 1}),
        ("approvals.get", {}),
        ("approvals.approve", {"approval_id": "x", "comment": "x" * 2001}),
        ("approvals.approve", {"approval_id": "x", "force": True}),
    ):
        assert till.do(name, payload, boss()).failure().code is ErrorCode.INVALID_INPUT
    assert isinstance(till.decide("reject", till.ask(), boss(), comment="x" * 2000), Success)


# Lists


def test_who_may_read_all_approvals_decides_none(till: Till) -> None:
    id, operator = till.ask(), boss("olga", "approvals.read")

    assert [each.id for each in till.do("approvals.list", {}, operator).unwrap().items] == [id]
    assert till.do("approvals.get", {"approval_id": id}, operator).unwrap().status == "pending"
    for decision in ("approve", "reject", "cancel"):
        assert till.decide(decision, id, operator).failure().code is ErrorCode.FORBIDDEN
    assert till.do("approvals.get", {"approval_id": id}, boss("bob", "approvals.reader")).failure().code is (
        ErrorCode.NOT_FOUND
    )
    assert till.paid == []


def test_approvals_are_listed_in_pages_of_what_one_may_see(till: Till) -> None:
    ids = [till.ask(number) for number in range(5)]
    till.decide("reject", ids[1], boss())
    others = till.ask(9, actor=Actor.human("eve"))

    def pages(payload: dict[str, Any], actor: Actor) -> list[list[str]]:
        found: list[list[str]] = []
        after = None
        for _ in range(9):
            page = till.do("approvals.list", {**payload, "after": after}, actor).unwrap()
            found.append([each.id for each in page.items])
            after = page.next
            if after is None:
                return found
        raise AssertionError("the pages have no end")

    newest = [others, *reversed(ids)]
    assert pages({}, Actor.human("ann")) == [newest[1:]]
    assert pages({}, boss()) == [newest]
    assert pages({}, Actor.human("bob")) == [[]]
    assert pages({"limit": 2}, boss()) == [newest[:2], newest[2:4], newest[4:]]
    assert pages({"limit": 4}, boss()) == [newest[:4], newest[4:]]
    assert pages({"status": "rejected"}, boss()) == [[ids[1]]]
    assert pages({"status": "pending"}, Actor.human("ann")) == [[each for each in newest[1:] if each != ids[1]]]
    assert pages({"status": "cancelled"}, boss()) == [[]]
    assert pages({"requested_by": "human:eve"}, boss()) == [[others]]
    assert pages({"requested_by": "human:ann", "status": "rejected"}, boss()) == [[ids[1]]]
    assert pages({"requested_by": "human:nobody"}, boss()) == [[]]


def test_all_approvals_are_found_however_many(till: Till, storage: InMemoryStorage, acme: Tenant) -> None:
    kept = stored(storage, acme, till.ask())
    unit = storage.unit_of_work(acme, "a", "sync")
    for number in range(401):
        copy = kept.model_copy(update={"id": f"00000000-{number:04}"})
        run_sync(unit.records(APPROVALS).insert(copy.document(), copy.id))
    run_sync(unit.commit())
    page = till.do("approvals.list", {"status": "rejected"}, boss()).unwrap()
    assert (page.items, page.next) == ((), None)
    last = till.do("approvals.list", {"after": "00000000-0002", "limit": 200}, boss()).unwrap()
    assert [each.id for each in last.items] == ["00000000-0001", "00000000-0000"]


# Keys


def test_a_key_is_a_text_of_bounded_length(till: Till) -> None:
    for key in ("k", "x" * 255, "é" * 255, " "):
        assert till.do("work.free", {"amount": 1}, idempotency_key=key) == Success({"paid": 1})
    for key in ("", "x" * 256, "\ud800", "a\0b"):
        error = till.do("work.free", {"amount": 1}, idempotency_key=key).failure()
        assert (error.code, error.message) == (
            ErrorCode.INVALID_INPUT,
            "an idempotency key is a text of 1 to 255 characters in UTF-8",
        )
    missing = till.do("work.free", {"amount": 1}).failure()
    assert (missing.code, missing.message) == (
        ErrorCode.INVALID_INPUT,
        "work.free needs an idempotency key: set RequestContext.idempotency_key",
    )


def test_an_action_that_takes_no_key_ignores_one(till: Till, storage: InMemoryStorage, acme: Tenant) -> None:
    for _ in range(2):
        assert isinstance(till.do("work.never", {"amount": 1}, idempotency_key="k"), Success)
        assert isinstance(till.do("approvals.list", {}, idempotency_key="k"), Success)
    assert len(till.paid) == 2
    assert storage._tenant_data(acme.id).claims == {}


def test_a_key_that_another_holds_is_in_progress(till: Till, storage: InMemoryStorage, acme: Tenant) -> None:
    holder = storage.unit_of_work(acme, "a", "sync")
    run_sync(holder.claim(Claim("work.free", "k", "p"), 0.0))
    error = till.do("work.free", {"amount": 1}, idempotency_key="k").failure()
    assert error.code is ErrorCode.IDEMPOTENCY_IN_PROGRESS
    assert (
        error.message == "the first execution of work.free with the idempotency key 'k' is still running: retry later"
    )
    run_sync(holder.rollback())
    assert till.paid == []


def test_a_key_with_another_payload_says_so(till: Till) -> None:
    assert isinstance(till.do("work.free", {"amount": 1}, idempotency_key="k"), Success)
    error = till.do("work.free", {"amount": 2}, idempotency_key="k").failure()
    assert (error.code, error.message) == (
        ErrorCode.IDEMPOTENCY_MISMATCH,
        "the idempotency key 'k' was used for work.free with another payload: use a new key for a new request",
    )
    assert till.do("work.free", {"amount": 1}, idempotency_key="k") == Success({"paid": 1})
    assert len(till.paid) == 1


def test_a_key_is_kept_as_long_as_it_is_promised(till: Till, storage: InMemoryStorage, acme: Tenant) -> None:
    before = datetime.now(UTC)
    till.do("work.free", {"amount": 1}, idempotency_key="k")
    (kept,) = storage._tenant_data(acme.id).claims.values()
    assert before + DAY <= kept.expires_at <= datetime.now(UTC) + DAY  # type: ignore[union-attr]


def test_a_key_that_waits_for_an_approval_lasts_as_long_as_that(
    engine_of: EngineOf, execute: Execute, acme: Tenant, storage: InMemoryStorage
) -> None:
    for after in (timedelta(days=5), timedelta(minutes=1)):
        till = Till(engine_of, execute, acme, policy(expires_after=after))
        storage._tenant_data(acme.id).claims.clear()
        before = datetime.now(UTC)
        id = till.ask(idempotency_key="k")
        (kept,) = storage._tenant_data(acme.id).claims.values()
        wanted = max(after, DAY)
        assert before + wanted <= kept.expires_at <= datetime.now(UTC) + wanted  # type: ignore[union-attr]
        assert (kept.approval_id, kept.result) == (id, None)  # type: ignore[union-attr]


def test_a_retry_while_an_approval_waits_gets_that_one(till: Till) -> None:
    id = till.ask(idempotency_key="k")
    assert till.ask(idempotency_key="k") == id
    till.decide("approve", id, boss())
    retried = till.do("work.pay", {"amount": 5, "card": "4111 2222"}, idempotency_key="k")
    assert retried == Success({"paid": 5})
    assert len(till.paid) == 1


@pytest.mark.parametrize("decision", ["reject", "cancel"])
def test_a_retry_after_a_refusal_asks_anew(till: Till, decision: str) -> None:
    id = till.ask(idempotency_key="k")
    till.decide(decision, id, boss() if decision == "reject" else Actor.human("ann"))
    assert till.ask(idempotency_key="k") != id
    assert till.paid == []


def test_a_key_whose_approval_is_not_there_yet_is_in_progress(
    till: Till, storage: InMemoryStorage, acme: Tenant
) -> None:
    id = till.ask(idempotency_key="k")
    unit = storage.unit_of_work(acme, "a", "sync")
    run_sync(unit.records(APPROVALS).delete(id, 1))
    run_sync(unit.commit())
    error = till.do("work.pay", {"amount": 5, "card": "4111 2222"}, idempotency_key="k").failure()
    assert error.code is ErrorCode.IDEMPOTENCY_IN_PROGRESS
