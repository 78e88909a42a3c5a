"""The built-in service `approvals`: list, get, approve, reject, cancel.

An approver has the permission that the policy names today, on the resource that the action is about. It is no AI, and
not the requester, under another spelling or actor type either. Approving runs the original action once, as its
requester, in the unit of work of the approval: both are there or neither is.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from heapq import merge
from operator import attrgetter
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from returns.result import Result, Success

from actionengine.actions import Service, create_service
from actionengine.builtin.declarations import declare
from actionengine.context import MAX_ACTOR_ID_LENGTH, Actor, ActorType, identity_of
from actionengine.errors import ActionError, ErrorCode
from actionengine.pipeline.execution import GrantedApproval
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.pending_approval import ApprovalStatus, PendingApproval, find_approval
from actionengine.pipeline.plan import sync_and_async
from actionengine.schemas.models import Id, Input
from actionengine.storage.pages import Page
from actionengine.storage.records import APPROVALS
from actionengine.storage.rows import Record

_LEAST_EXAMINED = 50
"""Approvals that a page looks at, if there are as many, however few it may have."""

_DECIDERS: tuple[ActorType, ...] = ("human", "integration", "system")


class ListApprovals(Input):
    """Which approvals: of this status (an expired one is no longer pending), asked for by this actor (`type:id`, as in
    `human:ann`), after this id, at most so many."""

    status: ApprovalStatus | None = None
    requested_by: str | None = Field(default=None, max_length=MAX_ACTOR_ID_LENGTH + 20)
    after: Id | None = None
    limit: int = Field(default=50, ge=1, le=200)


class GetApproval(Input):
    """One approval."""

    approval_id: Id


class DecideApproval(Input):
    """One approval, and why it is decided so."""

    approval_id: Id
    comment: str | None = Field(default=None, max_length=2000)


class Approval(BaseModel):
    """An approval as people see it; `input` is masked."""

    model_config = ConfigDict(frozen=True)

    id: str
    action: str
    permission: str
    status: ApprovalStatus
    requested_by: str | None
    reason: str | None
    input: Any
    created_at: datetime
    expires_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    comment: str | None

    @classmethod
    def of(cls, pending: PendingApproval, now: datetime) -> Approval:
        """The public part of a stored approval."""
        expired = pending.status == "pending" and not pending.is_open(now)
        return cls(
            id=pending.id,
            action=f"{pending.service}.{pending.action}",
            permission=pending.permission,
            status="expired" if expired else pending.status,
            requested_by=pending.requested_by,
            reason=pending.reason,
            input=pending.shown_input,
            created_at=pending.created_at,
            expires_at=pending.expires_at,
            decided_by=pending.decided_by,
            decided_at=pending.decided_at,
            comment=pending.comment,
        )


class ApprovalPage(BaseModel):
    """A page of approvals, newest first; `next` is the `after` of the following page, or None.

    A page has fewer than `limit` approvals, or none, where others that it has looked at are not for the caller.
    """

    model_config = ConfigDict(frozen=True)

    items: tuple[Approval, ...]
    next: str | None


class ApprovalResult(BaseModel):
    """An approved action: its result, or the further approval that it now waits for."""

    model_config = ConfigDict(frozen=True)

    approval: Approval
    result: Any
    further_approval_id: str | None


@sync_and_async
async def _list(data: ListApprovals, ctx: InternalContext) -> Result[ApprovalPage, ActionError]:
    items: list[Approval] = []
    found, now = await _stored(data, ctx), await ctx.unit_of_work.now()
    next = found.next
    for number, record in enumerate(found, 1):
        pending = _today(PendingApproval.of(record), ctx)
        approval = Approval.of(pending, now)
        if data.status in (None, approval.status) and await _may_see(pending, ctx):
            items.append(approval)
            if len(items) == data.limit:
                next = record.id if number < len(found) else found.next
                break
    # A page on the log would be the inputs of all these once more.
    ctx.set_logged_output({"items": len(items), "next": next})
    return Success(ApprovalPage(items=tuple(items), next=next))


async def _stored(data: ListApprovals, ctx: InternalContext) -> Page[Record]:
    """Return the approvals to look at for a page, newest first. No caller costs more, however few are for it."""
    records = ctx.unit_of_work.records(APPROVALS)
    asked = {} if data.requested_by is None else {"requested_by": data.requested_by}
    # One that has expired is pending in the storage until it is marked.
    statuses = ("expired", "pending") if data.status == "expired" else (data.status,)
    filters = [asked if status is None else {**asked, "status": status} for status in statuses]
    size = max(data.limit, _LEAST_EXAMINED)
    pages = [await records.list(filter, size, data.after, descending=True) for filter in filters]
    # What one of them does not tell of yet may come before the rest of another.
    end = max((page.next for page in pages if page.next is not None), default=None)
    found = merge(*pages, key=attrgetter("id"), reverse=True)
    return Page([record for record in found if end is None or record.id >= end], end)


@sync_and_async
async def _get(data: GetApproval, ctx: InternalContext) -> Result[Approval, ActionError]:
    pending = await _find(data.approval_id, ctx)
    return Success(Approval.of(pending, await ctx.unit_of_work.now()))


@sync_and_async
async def _approve(data: DecideApproval, ctx: InternalContext) -> Result[ApprovalResult, ActionError]:
    pending = await _for_decision(data, ctx)
    decided = await _decide(pending, "approved", data, ctx)
    assert ctx.actor is not None
    granted = {policy: approver.actor for policy, approver in pending.granted.items()} | {pending.policy: ctx.actor}
    name = f"{pending.service}.{pending.action}"
    approved = GrantedApproval(pending.id, str(ctx.actor), granted, name, pending.created_at)
    result, further = await ctx.execute_approved(pending, approved)
    given = ApprovalResult(
        approval=Approval.of(decided, await ctx.unit_of_work.now()), result=result, further_approval_id=further
    )
    if further is None:
        # What is secret in it is said by the action that gave it.
        masked = ctx.to_log_json(pending.service, pending.action, result)
        ctx.set_logged_output({**given.model_dump(mode="json", exclude={"result"}), "result": masked})
    return Success(given)


@sync_and_async
async def _reject(data: DecideApproval, ctx: InternalContext) -> Result[Approval, ActionError]:
    pending = await _for_decision(data, ctx)
    decided = await _decide(pending, "rejected", data, ctx)
    return Success(Approval.of(decided, await ctx.unit_of_work.now()))


@sync_and_async
async def _cancel(data: DecideApproval, ctx: InternalContext) -> Result[Approval, ActionError]:
    pending = await _find(data.approval_id, ctx)
    if not _is_requester(pending, ctx.actor):
        raise ActionError(ErrorCode.FORBIDDEN, f"only the requester can cancel the approval {pending.id}")
    await _check_open(pending, ctx)
    decided = await _decide(pending, "cancelled", data, ctx)
    return Success(Approval.of(decided, await ctx.unit_of_work.now()))


async def _for_decision(data: DecideApproval, ctx: InternalContext) -> PendingApproval:
    pending = await _find(data.approval_id, ctx, to_decide=True)
    assert ctx.actor is not None
    if pending.requester is not None and identity_of(pending.requester.actor) == identity_of(ctx.actor):
        raise ActionError(
            ErrorCode.FORBIDDEN,
            f"{pending.requested_by} asked for the approval {pending.id}, and {ctx.actor} counts as the same: "
            "somebody else must decide",
        )
    if pending.has_secret_resource and pending.resource is not None:
        # The decision names the resource.
        ctx.learn(pending.resource)
    await ctx.authorize_async(pending.permission, pending.resource)
    await _check_open(pending, ctx)
    return pending


async def _check_open(pending: PendingApproval, ctx: InternalContext) -> None:
    approval = Approval.of(pending, await ctx.unit_of_work.now())
    if approval.status != "pending":
        raise ActionError(
            ErrorCode.CONFLICT,
            f"the approval {pending.id} is {approval.status} and cannot be used again",
            {"approval_id": pending.id, "status": approval.status},
        )


async def _decide(
    pending: PendingApproval, status: ApprovalStatus, data: DecideApproval, ctx: InternalContext
) -> PendingApproval:
    """Write the decision. The write locks the approval, so that of many deciders one goes on."""
    decided = pending.model_copy(
        update={
            "status": status,
            "decided_by": str(ctx.actor),
            "decided_at": await ctx.unit_of_work.now(),
            "comment": data.comment,
        }
    )
    ctx.replay_for_actor_only()
    await ctx.unit_of_work.records(APPROVALS).update(pending.id, decided.document(), pending.version)
    ctx.add_subject(f"approval/{pending.id}")
    return decided


async def _find(approval_id: str, ctx: InternalContext, to_decide: bool = False) -> PendingApproval:
    found = await find_approval(ctx.unit_of_work.records(APPROVALS), approval_id)
    if found is not None:
        pending = _today(found, ctx)
        if await _may_see(pending, ctx):
            return pending
        # An approver of other resources, or of an earlier policy, is refused openly.
        permissions = (pending.permission, found.permission) if to_decide else ()
        if any([await ctx.is_allowed(each, on) for each in permissions for on in (None, found.resource)]):
            return pending
    raise ActionError(ErrorCode.NOT_FOUND, f"there is no approval {approval_id!r}")


def _today(pending: PendingApproval, ctx: InternalContext) -> PendingApproval:
    """While it is pending, an approval asks for what its policy names today; then it keeps what was asked for."""
    if pending.status != "pending":
        return pending
    return pending.model_copy(update={"permission": ctx.permission_to_approve(pending)})


async def _may_see(pending: PendingApproval, ctx: InternalContext) -> bool:
    """Requesters see what they asked for; others what they may decide."""
    return _is_requester(pending, ctx.actor) or await ctx.is_allowed(pending.permission, pending.resource)


def _is_requester(pending: PendingApproval, actor: Actor | None) -> bool:
    return actor is not None and str(actor) == pending.requested_by


_reading = partial(declare, read_only=True)
_deciding = partial(declare, allowed_actors=_DECIDERS)

approvals: Service = create_service(
    name="approvals",
    description="Actions that wait for a second person",
    actions=[
        _reading("list", "The approvals that you asked for or may decide, newest first", _list, ListApprovals),
        _reading("get", "One approval that you asked for or may decide", _get, GetApproval),
        _deciding("approve", "Agree: the original action runs, as its requester", _approve, DecideApproval),
        _deciding("reject", "Refuse: the original action does not run", _reject, DecideApproval),
        declare("cancel", "Take back what you asked for yourself", _cancel, DecideApproval),
    ],
)
