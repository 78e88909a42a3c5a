"""Approvals: an action waits for a second person and then runs once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from returns.result import Success

from actionengine.context import Actor
from actionengine.errors import ActionError, ErrorCode
from actionengine.testing.backend import Backend, run_in_mode
from actionengine.testing.base import Conformance, error_of, value_of
from actionengine.testing.harness import ActionResult
from actionengine.testing.sample import AGENT, CLERK, MANAGER, SampleHarness

LARGE = {"amount": 5000}


async def request_approval(
    harness: SampleHarness, payload: Any = None, *, action: str = "payments.pay", **who: Any
) -> str:
    """Execute an action that needs an approval, and return the id of the approval."""
    answer = await harness.execute(action, payload or LARGE, **who)
    needed: ActionError = error_of(answer, ErrorCode.APPROVAL_REQUIRED)
    approval_id: str = needed.details["approval_id"]
    return approval_id


async def decide(harness: SampleHarness, decision: str, approval_id: str, actor: Actor = MANAGER) -> ActionResult:
    """Approve, reject or cancel."""
    return await harness.execute(
        f"approvals.{decision}", {"approval_id": approval_id, "comment": "so be it"}, actor=actor
    )


async def status_of(harness: SampleHarness, approval_id: str) -> str:
    """Return the status of an approval, as a manager sees it."""
    status: str = value_of(await harness.execute("approvals.get", {"approval_id": approval_id}, actor=MANAGER)).status
    return status


class ApprovalConformance(Conformance):
    """Actions that wait for a second person."""

    @run_in_mode
    async def test_a_held_action_leaves_only_its_approval_and_a_row(self, harness: SampleHarness) -> None:
        approval_id = await request_approval(harness)

        assert harness.runs == []
        assert await harness.backend.ids("payments") == []
        assert await harness.event_types() == []
        assert await harness.outcomes("payments.pay") == ["approval_required"]
        assert await status_of(harness, approval_id) == "pending"
        value_of(await harness.execute("payments.pay", {"amount": 1000}))

    @run_in_mode
    async def test_approving_runs_the_original_once_as_its_requester(self, harness: SampleHarness) -> None:
        approval_id = await request_approval(harness, actor=AGENT)

        approved = value_of(await decide(harness, "approve", approval_id))

        assert harness.runs == [LARGE]
        assert await harness.backend.ids("payments") == [approved.result["id"]]
        assert approved.further_approval_id is None
        ran = next(row for row in await harness.log(action="payments.pay") if row.outcome == "succeeded")
        assert (ran.actor_type, ran.actor_id) == ("ai", "agent")
        assert (ran.approved_by, ran.approval_id) == ("human:manager", approval_id)
        assert await harness.event_types() == ["payments.pay", "approvals.approve"]
        assert await status_of(harness, approval_id) == "approved"

    @run_in_mode
    async def test_however_many_approve_at_once_it_runs_once(self, harness: SampleHarness) -> None:
        approval_id = await request_approval(harness, key="key")
        approvers = [Actor.human(f"manager {number}", permissions=["payments.approve"]) for number in range(32)]

        answers = await harness.backend.gather(*(decide(harness, "approve", approval_id, actor) for actor in approvers))

        assert sum(isinstance(answer, Success) for answer in answers) == 1
        for answer in answers:
            if not isinstance(answer, Success):
                error_of(answer, ErrorCode.CONFLICT)
        assert len(await harness.backend.ids("payments")) == 1
        assert sorted(await harness.outcomes("payments.pay"))[-1] == "succeeded"
        assert (await harness.outcomes("payments.pay")).count("succeeded") == 1
        assert await harness.event_types() == ["payments.pay", "approvals.approve"]

    @run_in_mode
    async def test_of_those_who_approve_and_reject_at_once_one_decides(self, harness: SampleHarness) -> None:
        approval_id = await request_approval(harness)
        decisions = ["approve", "reject"] * 6

        answers = await harness.backend.gather(*(decide(harness, decision, approval_id) for decision in decisions))

        (winner,) = [number for number, answer in enumerate(answers) if isinstance(answer, Success)]
        approved = decisions[winner] == "approve"
        assert await status_of(harness, approval_id) == ("approved" if approved else "rejected")
        assert len(await harness.backend.ids("payments")) == approved

    @run_in_mode
    async def test_callers_with_one_key_wait_for_one_approval(self, harness: SampleHarness) -> None:
        ids = await harness.backend.gather(*(request_approval(harness, key="key") for _ in range(16)))

        assert len(set(ids)) == 1
        assert len(value_of(await harness.execute("approvals.list", {}, actor=MANAGER)).items) == 1

    @run_in_mode
    async def test_a_retry_gets_the_same_approval_and_after_it_the_result(self, harness: SampleHarness) -> None:
        approval_id = await request_approval(harness, key="key")
        assert await request_approval(harness, key="key") == approval_id
        error_of(await harness.execute("payments.pay", {"amount": 6000}, key="key"), ErrorCode.IDEMPOTENCY_MISMATCH)

        approved = value_of(await decide(harness, "approve", approval_id))

        assert value_of(await harness.execute("payments.pay", LARGE, key="key")) == approved.result
        assert len(await harness.backend.ids("payments")) == 1
        assert (await harness.outcomes("payments.pay"))[-1] == "replayed"

    @run_in_mode
    async def test_the_same_request_meets_the_open_approval(self, harness: SampleHarness) -> None:
        first = error_of(await harness.execute("payments.pay", LARGE), ErrorCode.APPROVAL_REQUIRED)
        again = error_of(await harness.execute("payments.pay", LARGE), ErrorCode.APPROVAL_REQUIRED)

        assert again.details == first.details
        assert await harness.outcomes("payments.pay") == ["approval_required"] * 2
        for different in ({"payload": {"amount": 6000}}, {"actor": AGENT}, {"key": "key"}):
            assert await request_approval(harness, **different) != first.details["approval_id"]

    @run_in_mode
    async def test_of_many_equal_requests_at_once_one_approval_is_open(self, harness: SampleHarness) -> None:
        ids = await harness.backend.gather(*(request_approval(harness) for _ in range(16)))

        assert len(set(ids)) == 1
        assert len(value_of(await harness.execute("approvals.list", {}, actor=MANAGER)).items) == 1

    @run_in_mode
    async def test_a_request_while_its_approval_is_decided_meets_it_or_not(self, harness: SampleHarness) -> None:
        first = await request_approval(harness)

        at_once: list[Any] = [decide(harness, "approve", first), *(request_approval(harness) for _ in range(8))]
        decision, *ids = await harness.backend.gather(*at_once)

        value_of(decision)
        assert len({first, *ids}) <= 2
        assert len(await harness.backend.ids("payments")) == 1
        pending = value_of(await harness.execute("approvals.list", {"status": "pending"}, actor=MANAGER)).items
        assert {item.id for item in pending} == {*ids} - {first}

    @pytest.mark.parametrize(("decision", "actor"), [("approve", MANAGER), ("reject", MANAGER), ("cancel", CLERK)])
    @run_in_mode
    async def test_a_decided_approval_is_not_met_again(
        self, harness: SampleHarness, decision: str, actor: Actor
    ) -> None:
        first = await request_approval(harness)

        value_of(await decide(harness, decision, first, actor))

        second = await request_approval(harness)
        assert second != first
        assert await request_approval(harness) == second

    @run_in_mode
    async def test_an_expired_approval_is_not_met_again(self, backend: Backend) -> None:
        harness = SampleHarness(backend, approvals_expire_after=timedelta(microseconds=1))

        assert await request_approval(harness) != await request_approval(harness)

    @run_in_mode
    async def test_the_same_request_meets_the_further_approval(self, harness: SampleHarness) -> None:
        action, payload = "payments.pay_all_carefully", {"amounts": [1, 2000, 3]}
        first = await request_approval(harness, payload, action=action)

        second = value_of(await decide(harness, "approve", first)).further_approval_id

        assert await request_approval(harness, payload, action=action) == second
        assert value_of(await decide(harness, "approve", second)).result == 3
        assert await request_approval(harness, payload, action=action) not in (first, second)

    @run_in_mode
    async def test_an_approval_shows_what_came_of_it(self, harness: SampleHarness) -> None:
        approval_id = await request_approval(harness, actor=AGENT)

        async def state() -> Any:
            return value_of(await harness.execute("approvals.get", {"approval_id": approval_id}, actor=AGENT))

        pending = await state()
        harness.is_open = False
        error_of(await decide(harness, "approve", approval_id), ErrorCode.UNPROCESSABLE)
        failed = await state()
        harness.is_open = True
        approved = value_of(await decide(harness, "approve", approval_id))
        ran = await state()

        assert (pending.status, pending.action_id, pending.result, pending.failure) == ("pending", None, None, None)
        assert (failed.status, failed.action_id, failed.failure.code) == ("pending", None, "unprocessable")
        assert (ran.status, ran.result, ran.failure) == ("approved", approved.result, None)
        (row,) = [row for row in await harness.log(action="payments.pay") if row.outcome == "succeeded"]
        assert ran.action_id == row.id

    @pytest.mark.parametrize(("decision", "actor"), [("reject", MANAGER), ("cancel", CLERK)])
    @run_in_mode
    async def test_a_rejected_or_cancelled_approval_frees_the_key(
        self, harness: SampleHarness, decision: str, actor: Actor
    ) -> None:
        approval_id = await request_approval(harness, key="key")

        value_of(await decide(harness, decision, approval_id, actor))

        assert await request_approval(harness, key="key") != approval_id
        assert harness.runs == []

    @run_in_mode
    async def test_an_approval_is_decided_once(self, harness: SampleHarness) -> None:
        decisions = {"approve": MANAGER, "reject": MANAGER, "cancel": CLERK}
        for first, actor in decisions.items():
            approval_id = await request_approval(harness)
            value_of(await decide(harness, first, approval_id, actor))
            before = await status_of(harness, approval_id)

            for second, other in decisions.items():
                error_of(await decide(harness, second, approval_id, other), ErrorCode.CONFLICT)

            assert await status_of(harness, approval_id) == before
        assert len(await harness.backend.ids("payments")) == 1

    @run_in_mode
    async def test_nobody_approves_what_they_asked_for(self, harness: SampleHarness) -> None:
        approval_id = await request_approval(harness, actor=MANAGER)

        for decision in ("approve", "reject"):
            error_of(await decide(harness, decision, approval_id, MANAGER), ErrorCode.FORBIDDEN)

        other = Actor.human("other manager", permissions=["payments.approve"])
        value_of(await decide(harness, "approve", approval_id, other))

    @run_in_mode
    async def test_an_ai_never_approves(self, harness: SampleHarness) -> None:
        approval_id = await request_approval(harness)

        for decision in ("approve", "reject"):
            error_of(await decide(harness, decision, approval_id, AGENT), ErrorCode.FORBIDDEN)

        assert await status_of(harness, approval_id) == "pending"
        assert harness.runs == []

    @run_in_mode
    async def test_without_the_permission_there_is_no_such_approval(self, harness: SampleHarness) -> None:
        approval_id = await request_approval(harness)
        stranger = Actor.human("stranger", permissions=["payments.pay"])

        for decision in ("approve", "reject", "cancel"):
            error_of(await decide(harness, decision, approval_id, stranger), ErrorCode.NOT_FOUND)
        error_of(
            await harness.execute("approvals.get", {"approval_id": approval_id}, actor=stranger), ErrorCode.NOT_FOUND
        )

        assert value_of(await harness.execute("approvals.list", {}, actor=stranger)).items == ()
        assert await status_of(harness, approval_id) == "pending"

    @run_in_mode
    async def test_an_expired_approval_cannot_be_used(self, backend: Backend) -> None:
        harness = SampleHarness(backend, approvals_expire_after=timedelta(microseconds=1))
        approval_id = await request_approval(harness, key="key")

        for decision in ("approve", "reject"):
            error_of(await decide(harness, decision, approval_id), ErrorCode.CONFLICT)

        assert await status_of(harness, approval_id) == "expired"
        assert harness.runs == []
        assert await request_approval(harness, key="key") != approval_id

    @run_in_mode
    async def test_an_original_that_fails_leaves_its_approval_pending(self, harness: SampleHarness) -> None:
        approval_id = await request_approval(harness, key="key")
        harness.is_open = False

        error_of(await decide(harness, "approve", approval_id), ErrorCode.UNPROCESSABLE)
        assert await status_of(harness, approval_id) == "pending"
        assert await request_approval(harness, key="key") == approval_id
        harness.is_open = True
        approved = value_of(await decide(harness, "approve", approval_id))

        assert await harness.backend.ids("payments") == [approved.result["id"]]
        assert value_of(await harness.execute("payments.pay", LARGE, key="key")) == approved.result

    @run_in_mode
    async def test_a_nested_approval_stores_the_outermost_action(self, harness: SampleHarness) -> None:
        payload = {"amounts": [1, 2000, 3]}

        approval_id = await request_approval(harness, payload, action="payments.pay_all", key="key")
        assert await harness.backend.ids("payments") == await harness.backend.ids("batches") == []
        pending = value_of(await harness.execute("approvals.get", {"approval_id": approval_id}, actor=MANAGER))
        approved = value_of(await decide(harness, "approve", approval_id))

        assert (pending.action, pending.input) == ("payments.pay_all", payload)
        assert approved.result == 3
        assert len(await harness.backend.ids("payments")) == 3
        assert len(await harness.backend.ids("batches")) == 1
        assert value_of(await harness.execute("payments.pay_all", payload, key="key")) == 3
        assert len(await harness.backend.ids("payments")) == 3

    @run_in_mode
    async def test_a_second_policy_needs_a_second_approval(self, harness: SampleHarness) -> None:
        payload = {"amounts": [1, 2000, 3]}
        first = await request_approval(harness, payload, action="payments.pay_all_carefully", key="key")

        halfway = value_of(await decide(harness, "approve", first))
        second = halfway.further_approval_id
        assert second is not None
        assert halfway.result is None
        assert await harness.backend.ids("payments") == await harness.backend.ids("batches") == []
        assert await request_approval(harness, payload, action="payments.pay_all_carefully", key="key") == second
        approved = value_of(await decide(harness, "approve", second))

        assert approved.result == 3
        assert len(await harness.backend.ids("payments")) == 3
        assert value_of(await harness.execute("payments.pay_all_carefully", payload, key="key")) == 3

    @run_in_mode
    async def test_approvals_are_listed_newest_first_by_status(self, harness: SampleHarness) -> None:
        ids = [await request_approval(harness, {"amount": 5000 + number}) for number in range(4)]
        value_of(await decide(harness, "approve", ids[1]))
        value_of(await decide(harness, "reject", ids[2]))

        async def listed(**query: Any) -> list[str]:
            page = value_of(await harness.execute("approvals.list", query, actor=MANAGER))
            return [item.id for item in page.items]

        assert await listed() == ids[::-1]
        assert await listed(status="pending") == [ids[3], ids[0]]
        assert await listed(status="approved") == [ids[1]]
        assert await listed(status="rejected") == [ids[2]]
        assert await listed(limit=1, after=ids[2]) == [ids[1]]
