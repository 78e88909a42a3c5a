"""The same request meets the approval that is open, and `approvals.get` tells what came of it."""

from __future__ import annotations

from typing import Any

import pytest
from returns.result import Failure, Result, Success

from actionengine import (
    ActionContext,
    ActionError,
    Actor,
    ApprovalPolicy,
    Engine,
    ErrorCode,
    InMemoryStorage,
    RequestContext,
    Tenant,
)
from actionengine.concurrency.run_sync import run_sync
from actionengine.pipeline.action_log import MAX_ERROR_BYTES
from actionengine.storage.errors import StorageUnavailable
from actionengine.storage.memory.unit_of_work import MemoryUnitOfWork
from actionengine.storage.records import APPROVALS
from tests.conftest import EngineOf, Execute, log_of, make_action
from tests.test_approval_rules import Payment

BOSS = Actor.human("boss", permissions=["approve"])
CARLA = Actor.human("carla")
LARGE = {"amount": 5000}
ALWAYS = ApprovalPolicy(when=lambda data, ctx: True, permission="approve")


class Desk:
    """An engine with `work.pay`, which needs an approval; `answer` is what its handler returns or raises."""

    def __init__(self, engine_of: EngineOf, execute: Execute, tenant: Tenant) -> None:
        self.answer: Result[Any, Any] | ActionError = Success({"card": "4111 2222"})
        self.tenant = tenant
        self._execute = execute
        self.engine: Engine = engine_of(
            make_action("pay", self.pay, approval=ALWAYS),
            make_action("pay_by_card", self.pay, approval=ALWAYS, validation=Payment),
            make_action("pay_in_public", self.pay, approval=ALWAYS, is_protected=False),
            make_action("pay_about", self.pay, approval=ALWAYS, resource=lambda data: f"job/{data['job']}"),
            make_action("pay_all", lambda data, ctx: ctx.execute("work", "pay", data["payment"])),
        )

    def pay(self, data: Any, ctx: ActionContext) -> Result[Any, Any]:
        if isinstance(self.answer, ActionError):
            raise self.answer
        return self.answer

    def do(self, name: str, payload: Any, by: Actor | None = CARLA, **context: Any) -> Result[Any, Any]:
        return self._execute(self.engine, name, payload, RequestContext(self.tenant, by, **context))

    def ask(self, payload: Any = LARGE, name: str = "work.pay", by: Actor | None = CARLA, **context: Any) -> str:
        error = self.do(name, payload, by, **context).failure()
        assert error.code is ErrorCode.APPROVAL_REQUIRED, error.to_dict()
        id: str = error.details["approval_id"]
        return id

    def approve(self, id: str) -> Result[Any, Any]:
        return self.do("approvals.approve", {"approval_id": id}, BOSS)

    def state(self, id: str, by: Actor = CARLA) -> Any:
        return self.do("approvals.get", {"approval_id": id}, by).unwrap()


@pytest.fixture
def desk(engine_of: EngineOf, execute: Execute, acme: Tenant) -> Desk:
    return Desk(engine_of, execute, acme)


# The same request


def test_the_principals_are_part_of_the_requester(desk: Desk) -> None:
    chains = [
        Actor.ai("bot"),
        Actor.ai("bot", on_behalf_of=CARLA),
        Actor.ai("bot", on_behalf_of=Actor.human("dan")),
        Actor.ai("bot", on_behalf_of=Actor.ai("other", on_behalf_of=CARLA)),
        CARLA,
        Actor.integration("carla"),
    ]
    first = [desk.ask(by=actor) for actor in chains]
    assert len(set(first)) == len(chains)
    assert [desk.ask(by=actor) for actor in chains] == first
    # The rights of a token are not.
    assert desk.ask(by=Actor.human("carla", roles=["clerk"], permissions=["pay"])) == first[4]


def test_the_answer_is_the_same_to_the_last_detail(desk: Desk) -> None:
    one, other = (desk.do("work.pay", LARGE, source=source).failure() for source in ("web", "mcp"))
    assert one == other
    assert one.details == other.details
    assert [row.source for row in log_of(desk.engine, action="work.pay")] == ["web", "mcp"]
    assert len(desk.do("approvals.list", {}, BOSS).unwrap().items) == 1


def test_other_requests_have_approvals_of_their_own(desk: Desk) -> None:
    card = {"amount": 5, "card": "4111 2222"}
    ids = [
        desk.ask(),
        desk.ask({"amount": 5001}),
        desk.ask(card, "work.pay_by_card"),
        desk.ask({**card, "card": "4111 3333"}, "work.pay_by_card"),
        desk.ask({"job": 1}, "work.pay_about"),
        desk.ask({"job": 2}, "work.pay_about"),
        desk.ask({"payment": LARGE}, "work.pay_all"),
        desk.ask(idempotency_key="one"),
        desk.ask(idempotency_key="two"),
    ]
    assert len(set(ids)) == len(ids)
    assert desk.ask({"payment": LARGE}, "work.pay_all") == ids[6]


def test_the_order_of_the_fields_makes_no_other_request(desk: Desk) -> None:
    assert desk.ask({"a": 1, "b": [2]}) == desk.ask({"b": [2], "a": 1})


def test_the_spelling_of_a_number_makes_no_other_request(desk: Desk) -> None:
    assert desk.ask({"a": 5, "b": [0]}) == desk.ask({"a": 5.0, "b": [-0.0]})
    assert desk.ask({"a": 5}) != desk.ask({"a": 5.5})
    assert desk.ask({"a": 1}) != desk.ask({"a": True})


def test_requests_without_an_actor_never_meet(desk: Desk) -> None:
    assert desk.ask(name="work.pay_in_public", by=None) != desk.ask(name="work.pay_in_public", by=None)


def test_another_tenant_has_another_approval(desk: Desk, globex: Tenant) -> None:
    first = desk.ask()
    desk.tenant = globex
    assert desk.ask() != first


def test_no_key_of_a_host_reaches_the_claim_of_a_request(desk: Desk, storage: InMemoryStorage) -> None:
    first = desk.ask()
    (key,) = storage._data[desk.tenant.id].claims
    desk.ask(idempotency_key=key[1])
    assert desk.ask() == first


def test_a_lost_commit_leaves_neither_approval_nor_claim(
    desk: Desk, storage: InMemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose(unit_of_work: MemoryUnitOfWork) -> None:
        raise StorageUnavailable("lost")

    with monkeypatch.context() as lossy:
        lossy.setattr(MemoryUnitOfWork, "commit", lose)
        assert desk.do("work.pay", LARGE).failure().code is ErrorCode.UNAVAILABLE

    assert not storage._data[desk.tenant.id].claims
    assert desk.ask() == desk.ask()
    unit = storage.unit_of_work(desk.tenant, "a", "sync", read_only=True)
    assert len(run_sync(unit.records(APPROVALS).list())) == 1


# What came of it


def test_a_failed_attempt_is_shown_and_the_approval_met(desk: Desk) -> None:
    id = desk.ask()
    desk.answer = Failure(ActionError(ErrorCode.UNPROCESSABLE, "the till is closed", {"opens": "at nine"}))
    assert desk.approve(id).failure().code is ErrorCode.UNPROCESSABLE

    failure = desk.state(id).failure
    assert (failure.code, failure.message, failure.details) == (
        "unprocessable", "the till is closed", {"opens": "at nine"},
    )  # fmt: skip
    assert desk.ask() == id
    desk.answer = Success(1)
    assert desk.approve(id).unwrap().result == 1
    assert (desk.state(id).failure, desk.state(id).result) == (None, 1)


def test_an_approval_whose_state_has_changed_is_replaced(desk: Desk) -> None:
    id = desk.ask()
    desk.answer = Failure(ActionError(ErrorCode.CONFLICT, "paid by another one"))
    assert desk.approve(id).failure().code is ErrorCode.CONFLICT
    assert desk.state(id).status == "pending"

    new = desk.ask()
    assert new != id
    old = desk.state(id)
    assert (old.status, old.decided_by, old.failure.message) == ("cancelled", "human:carla", "paid by another one")
    assert desk.ask() == new
    assert [each.id for each in desk.do("approvals.list", {"status": "pending"}, BOSS).unwrap().items] == [new]


def test_a_key_meets_its_approval_whatever_has_failed(desk: Desk) -> None:
    id = desk.ask(idempotency_key="k")
    desk.answer = Failure(ActionError(ErrorCode.CONFLICT, "paid by another one"))
    desk.approve(id).failure()
    assert desk.ask(idempotency_key="k") == id


def test_a_large_error_is_kept_without_its_details(desk: Desk) -> None:
    id = desk.ask()
    desk.answer = ActionError(ErrorCode.UNPROCESSABLE, "too much", {"all": "x" * MAX_ERROR_BYTES})
    desk.approve(id).failure()
    failure = desk.state(id).failure
    assert (failure.code, failure.message, [*failure.details]) == ("unprocessable", "too much", ["omitted_bytes"])


def test_the_result_is_masked_as_on_the_log(desk: Desk) -> None:
    card = {"amount": 5, "card": "4111 2222"}
    id = desk.ask(card, "work.pay_by_card")
    assert desk.approve(id).unwrap().result == {"card": "4111 2222"}

    state = desk.state(id)
    (row,) = log_of(desk.engine, action="work.pay_by_card", outcome="succeeded")
    assert (state.action_id, state.result) == (row.id, row.output)
    assert "4111" not in str(state)
    for reader in (CARLA, BOSS):
        assert desk.state(id, reader) == state
    for stranger in (Actor.human("eve"), Actor.ai("carla")):
        assert desk.do("approvals.get", {"approval_id": id}, stranger).failure().code is ErrorCode.NOT_FOUND
    assert all("result" not in row.output for row in log_of(desk.engine, action="approvals.get", outcome="succeeded"))
