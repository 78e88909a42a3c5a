"""Stage 9, approval: a policy that applies stops the execution until a second person has agreed."""

from __future__ import annotations

from collections.abc import Callable

from actionengine.action_context import ActionContext
from actionengine.errors import ActionError, ErrorCode
from actionengine.pipeline.authorization import Authorization
from actionengine.pipeline.capture import NeededApproval
from actionengine.pipeline.execution import ApprovalNeeded, Execution
from actionengine.pipeline.idempotency import Idempotency
from actionengine.pipeline.payload import check_approvable
from actionengine.pipeline.pending_approval import (
    PendingApproval,
    cancel_outdated,
    request_key,
    store_approval,
)
from actionengine.pipeline.routing import Plans
from actionengine.pipeline.user_code import call_user_code
from actionengine.pipeline.write_set import Effects
from actionengine.storage.errors import SerializationFailure
from actionengine.storage.rows import Claim


class Approvals:
    """Evaluates approval policies, and stores pending approvals.

    `context_for` makes the context that a policy's condition gets.
    """

    def __init__(
        self, authorization: Authorization, idempotency: Idempotency, context_for: Callable[[Execution], ActionContext]
    ) -> None:
        self._authorization = authorization
        self._idempotency = idempotency
        self._context_for = context_for

    async def approval(self, execution: Execution) -> None:
        """Run stage 9.

        Raises `ApprovalNeeded` where the policy applies and no approver has granted it yet, and
        `ActionError(forbidden)` where the approver may not approve the resource that the execution turns out to name.
        """
        plan = execution.plan
        policy = plan.action.approval
        assert policy is not None
        granted = execution.approved.granted if execution.approved is not None else {}
        refusal = None
        if plan.name in granted:
            approver, resource = granted[plan.name], execution.resource
            decision = await self._authorization.may_approve(execution, approver, policy.permission, resource)
            if decision.allowed:
                return
            refusal = ActionError(ErrorCode.FORBIDDEN, f"{approver} may not approve {plan.name}: {decision.reason}")
        unit_of_work = execution.open()
        arguments = (execution.data, self._context_for(execution))
        applies = await call_user_code(
            execution, unit_of_work, "the approval condition", policy.when, False, *arguments
        )
        if applies and refusal is not None:
            raise refusal
        if applies:
            execution.entry.record_decision(f"needs an approval with the permission {policy.permission}")
            if execution.capture is not None and execution.capture.rehearses:
                execution.capture.approvals.append(NeededApproval(plan.name, policy.permission, execution.resource))
                return
            raise ApprovalNeeded(plan.name, policy, execution.resource)

    async def meet(self, execution: Execution, needed: ApprovalNeeded) -> Claim | None:
        """Return the claim that the approval of an execution will belong to: of its idempotency key, or of its request;
        None for a request without key and actor.

        Raises `ActionError(approval_required)` where the same requester has asked the same, and that approval is open.
        An open one that has failed with `conflict` is cancelled instead: it was about a state that has changed.
        """
        if execution.claim is not None:
            return execution.claim
        key = request_key(execution, needed)
        if key is None:
            return None
        replaces = execution.approved.approval_id if execution.approved is not None else None
        claim = await self._idempotency.claim_request(execution, key, replaces)
        if claim.replaces is not None:
            try:
                await cancel_outdated(execution.open(), claim.replaces)
            except ActionError as conflict:
                raise SerializationFailure(f"the approval {claim.replaces} is being decided") from conflict
        return claim

    async def ask_for(
        self, execution: Execution, needed: ApprovalNeeded, claim: Claim | None, effects: Effects | None = None
    ) -> PendingApproval:
        """Store the approval that an execution waits for, with the writes that belong to it. `claim` comes from `meet`.
        It binds these effects."""
        received, unit_of_work = execution.received, execution.open()
        assert received is not None
        check_approvable(received, execution.plan.validator)
        pending = PendingApproval.for_execution(execution, claim, needed, await unit_of_work.now(), effects)
        await store_approval(unit_of_work, pending)
        if claim is not None:
            self._idempotency.store_approval(execution, claim, pending)
        if execution.when_asked is not None:
            await execution.when_asked(unit_of_work, pending.id)
        return pending


def permission_to_approve(plans: Plans, pending: PendingApproval) -> str:
    """Return the permission that an approver needs today: the policy's, or the stored one where the policy no longer
    exists."""
    service, _, action = pending.policy.partition(".")
    plan = plans.get(service, {}).get(action)
    policy = plan.action.approval if plan is not None else None
    return policy.permission if policy is not None else pending.permission
