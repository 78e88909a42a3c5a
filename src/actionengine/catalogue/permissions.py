"""Permissions: the answers of the pipeline's authorization, before anything is executed."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from actionengine.authorization.port import (
    AccessRequest,
    Authorizer,
    BulkQuestion,
    Decision,
    LimitedDecision,
    bulk_question,
)
from actionengine.catalogue.descriptions import ApprovalNeed, approval_need
from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.context import MAX_ACTOR_ID_LENGTH, Actor, RequestContext, Tenant
from actionengine.errors import ActionError, ErrorCode
from actionengine.pipeline.plan import ActionPlan
from actionengine.storage.errors import StorageError, StorageUnavailable
from actionengine.storage.rows import MAX_SUBJECT_LENGTH

logger = logging.getLogger("actionengine")

_UNPROTECTED = Decision(True, "the action is not protected")
_NO_ACTOR = Decision(False, "needs an actor: the request has none")
_TOO_LONG = Decision(False, f"the id of an actor has more than {MAX_ACTOR_ID_LENGTH} characters")
_REFUSALS = (ErrorCode.FORBIDDEN, ErrorCode.UNAUTHENTICATED)


@dataclass(frozen=True, slots=True)
class Permission:
    """The answer of `engine.can`: `allowed` with its `reason`, and the action's need for an `approval`."""

    allowed: bool
    reason: str
    approval: ApprovalNeed


class _Asked(NamedTuple):
    """One call of `can` or `catalogue`. With a `resource` of None, it asks about at least one resource."""

    tenant: Tenant
    resource: str | None
    mode: Mode

    def about(self, plan: ActionPlan, actor: Actor, resource: str | None = None) -> AccessRequest:
        """Return the question that stage 3 asks about an actor."""
        tenant, asked, mode = self
        action = plan.action
        has_resource = action.resource is not None
        named = (resource or asked) if has_resource else None
        is_pending = has_resource and named is None
        return AccessRequest(
            tenant, actor, plan.name, action.access_control, action.permission, named, is_pending, mode
        )


class Permissions:
    """Asks the authorizer the questions of stage 3, without an execution."""

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer
        self._authorize_many = bulk_question(authorizer)

    async def can(
        self, plans: Sequence[ActionPlan], context: RequestContext, resource: str | None, mode: Mode
    ) -> list[Permission]:
        """Return the permission of the context's actor for each action. Raises `ActionError` as `decide` does, and
        `invalid_input` for a resource that is no name."""
        if resource is not None and not (isinstance(resource, str) and 0 < len(resource) <= MAX_SUBJECT_LENGTH):
            raise ActionError(
                ErrorCode.INVALID_INPUT,
                f"a resource is a name of 1 to {MAX_SUBJECT_LENGTH} characters, such as 'job/17', or None for any",
            )
        return [
            Permission(decision.allowed, decision.reason, approval_need(plan.action.approval))
            for plan, decision in zip(plans, await self.decide(plans, context, resource, mode), strict=True)
        ]

    async def decide(
        self, plans: Sequence[ActionPlan], context: RequestContext, resource: str | None, mode: Mode
    ) -> list[Decision]:
        """Return the decision on each action: about the resource, or about at least one where that is None.

        Raises `ActionError`: `unauthenticated` without a tenant, and the error of an authorizer or a storage that
        cannot answer.
        """
        actor = context.actor
        if context.tenant is None:
            raise ActionError(ErrorCode.UNAUTHENTICATED, "the request has no tenant")
        if actor is not None and any(len(each.id) > MAX_ACTOR_ID_LENGTH for each in actor.chain):
            return [_TOO_LONG] * len(plans)
        alone = [_decide_alone(plan, actor) for plan in plans]
        if actor is None:
            return [decision or _NO_ACTOR for decision in alone]
        left = [plan for plan, decision in zip(plans, alone, strict=True) if decision is None]
        answers = iter(await self._decide_chain(left, actor, _Asked(context.tenant, resource, mode)))
        return [next(answers) if decision is None else decision for decision in alone]

    async def _decide_chain(self, plans: Sequence[ActionPlan], actor: Actor, asked: _Asked) -> list[Decision]:
        """Return the decision on each action. The actor and each principal behind it need the right, on one and the
        same resource."""
        if actor.on_behalf_of is None:
            return list(await self._ask([asked.about(plan, actor) for plan in plans], asked.mode))
        rows: list[list[Decision]] = [[] for _ in plans]
        for each in actor.chain:
            open = [number for number, row in enumerate(rows) if not row or row[-1].allowed]
            requests = [asked.about(plans[number], each) for number in open]
            for number, decision in zip(open, await self._ask(requests, asked.mode), strict=True):
                rows[number].append(
                    decision if decision.allowed else Decision(False, f"{decision.reason} (for {each})")
                )
        return [
            await self._intersect(plan, actor.chain, row, asked) if _is_limited(row) else row[-1]
            for plan, row in zip(plans, rows, strict=True)
        ]

    async def _intersect(
        self, plan: ActionPlan, chain: Sequence[Actor], row: Sequence[Decision], asked: _Asked
    ) -> Decision:
        """Return the decision of a chain whose actors are allowed, some of them on a few resources only."""
        limits = [decision.resources for decision in row if isinstance(decision, LimitedDecision)]
        others = [
            actor for actor, decision in zip(chain, row, strict=True) if not isinstance(decision, LimitedDecision)
        ]
        for resource in sorted(frozenset.intersection(*limits)):
            requests = [asked.about(plan, actor, resource) for actor in others]
            if all(decision.allowed for decision in await self._ask(requests, asked.mode)):
                return row[-1]
        return Decision(False, "there is no resource on which each actor of the chain is allowed")

    async def _ask(self, requests: Sequence[AccessRequest], mode: Mode) -> Sequence[Decision]:
        if self._authorize_many is not None and len(requests) > 1:
            return await _answers(self._authorize_many, requests, mode)
        return [decision for request in requests for decision in await _answers(self._authorize_one, [request], mode)]

    def _authorize_one(self, requests: Sequence[AccessRequest]) -> Sequence[Decision] | Awaitable[Sequence[Decision]]:
        decision = self._authorizer.authorize(requests[0])
        return [decision] if isinstance(decision, Decision) else _listed(decision)


async def _answers(question: BulkQuestion, requests: Sequence[AccessRequest], mode: Mode) -> Sequence[Decision]:
    """Return the authorizer's decisions. It refuses where it raises an exception, unless it says that it cannot answer
    now."""
    try:
        answers = question(requests)
        if isinstance(answers, Awaitable):
            answers = run_sync(_awaited(answers)) if mode == "sync" else await answers
        if len(answers) != len(requests) or not all(isinstance(answer, Decision) for answer in answers):
            raise TypeError(f"authorize_many returns a Decision for each of {len(requests)} requests")
        return answers
    except ActionError as refusal:
        if refusal.code not in _REFUSALS:
            raise
        reason = refusal.message
    except StorageUnavailable:
        raise ActionError(ErrorCode.UNAVAILABLE, "the storage is unavailable: retry later") from None
    except StorageError as error:
        raise ActionError(ErrorCode.INTERNAL, f"the storage cannot be used: {error}") from None
    except Exception as error:
        logger.exception("the authorizer raised an error about %s", requests[0].action)
        reason = f"the authorizer raised {type(error).__name__}"
    return [Decision(False, reason)] * len(requests)


def _is_limited(row: Sequence[Decision]) -> bool:
    return row[-1].allowed and any(isinstance(decision, LimitedDecision) for decision in row)


async def _awaited(answers: Awaitable[Sequence[Decision]]) -> Sequence[Decision]:
    return await answers


async def _listed(decision: Awaitable[Decision]) -> list[Decision]:
    return [await decision]


def _decide_alone(plan: ActionPlan, actor: Actor | None) -> Decision | None:
    """Return the decision where it needs no authorizer."""
    action = plan.action
    if actor is None:
        return _NO_ACTOR if action.is_protected or action.allowed_actors is not None else _UNPROTECTED
    if action.allowed_actors is not None and actor.type not in action.allowed_actors:
        return Decision(False, f"not for {actor.type} actors, only for {', '.join(sorted(action.allowed_actors))}")
    return None if action.is_protected else _UNPROTECTED
