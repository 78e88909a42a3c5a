"""Permissions: the answers of stage 3, before anything is executed."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

from actionengine.authorization.port import AccessRequest, Authorizer, Decision
from actionengine.catalogue.descriptions import ApprovalNeed, approval_need
from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.context import MAX_ACTOR_ID_LENGTH, RequestContext
from actionengine.errors import ActionError, ErrorCode
from actionengine.pipeline.plan import ActionPlan
from actionengine.storage.errors import StorageError, StorageUnavailable

logger = logging.getLogger("actionengine")


@dataclass(frozen=True, slots=True)
class Permission:
    """The answer of `engine.can`: `allowed` with its `reason`, and the action's need for an `approval`."""

    allowed: bool
    reason: str
    approval: ApprovalNeed


class Permissions:
    """Asks the authorizer what stage 3 would ask it, without an execution."""

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer

    async def can(self, plan: ActionPlan, context: RequestContext, resource: str | None, mode: Mode) -> Permission:
        """Return the permission of the context's actor. Raises `ActionError` where the authorizer cannot be asked."""
        (decision,) = await self.decide([plan], context, resource, mode)
        return Permission(decision.allowed, decision.reason, approval_need(plan.action.approval))

    async def decide(
        self, plans: Sequence[ActionPlan], context: RequestContext, resource: str | None, mode: Mode
    ) -> list[Decision]:
        """Return the decision on each action. Raises `ActionError` where the authorizer cannot be asked."""
        return [await self._decide(plan, context, resource, mode) for plan in plans]

    async def _decide(self, plan: ActionPlan, context: RequestContext, resource: str | None, mode: Mode) -> Decision:
        action, actor, tenant = plan.action, context.actor, context.tenant
        if tenant is None:
            raise ActionError(ErrorCode.UNAUTHENTICATED, f"{plan.name}: the request has no tenant")
        if actor is None:
            is_open = not action.is_protected and action.allowed_actors is None
            return Decision(is_open, "not protected" if is_open else "needs an actor: the request has none")
        if any(len(each.id) > MAX_ACTOR_ID_LENGTH for each in actor.chain):
            return Decision(False, f"the id of the actor has more than {MAX_ACTOR_ID_LENGTH} characters")
        if action.allowed_actors is not None and actor.type not in action.allowed_actors:
            return Decision(False, f"not for {actor.type} actors, only for {', '.join(sorted(action.allowed_actors))}")
        if not action.is_protected:
            return Decision(True, "not protected")
        has_resource = action.resource is not None
        decision = Decision(False, "no actor")
        for each in actor.chain:
            request = AccessRequest(
                tenant,
                each,
                plan.name,
                action.access_control,
                action.permission,
                resource if has_resource else None,
                has_resource and resource is None,
                mode,
            )
            decision = await self._ask(request)
            if not decision.allowed:
                break
        return decision

    async def _ask(self, request: AccessRequest) -> Decision:
        try:
            decision = self._authorizer.authorize(request)
            if not isinstance(decision, Decision):
                decision = run_sync(_awaited(decision)) if request.mode == "sync" else await decision
            return decision
        except ActionError as refusal:
            if refusal.code in (ErrorCode.FORBIDDEN, ErrorCode.UNAUTHENTICATED):
                return Decision(False, refusal.message)
            raise
        except StorageUnavailable:
            raise ActionError(ErrorCode.UNAVAILABLE, "the storage is unavailable: retry later") from None
        except StorageError as error:
            raise ActionError(ErrorCode.INTERNAL, f"the storage cannot be used: {error}") from None
        except Exception as error:
            logger.exception("the authorizer raised an error about %s", request.action)
            return Decision(False, f"the authorizer raised {type(error).__name__}")


async def _awaited(decision: Awaitable[Decision]) -> Decision:
    return await decision
