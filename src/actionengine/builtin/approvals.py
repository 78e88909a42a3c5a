"""The built-in service `approvals`: list, get, approve, reject, cancel.

An approver needs the permission that the policy names today, on the resource of the action. It cannot be an AI or the
requester, under another spelling or actor type either. Of actors that act for others, this holds for each in the chain
of the approver, against each in the chain of the requester. An approval executes the original action once, as its
requester, in the same unit of work: both commit, or neither does.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from heapq import merge
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import Field
from pydantic_core import from_json
from returns.result import Result, Success

from actionengine.actions import Binds, Service, create_service
from actionengine.builtin.action_log import LogEntry
from actionengine.builtin.causes import approval_subject
from actionengine.builtin.declarations import declare
from actionengine.context import MAX_ACTOR_ID_LENGTH, Actor, ActorType, identity_of
from actionengine.errors import ActionError, ErrorCode, conflict
from actionengine.pipeline.action_log import error_json
from actionengine.pipeline.execution import GrantedApproval
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.pending_approval import ApprovalStatus, PendingApproval, find_approval
from actionengine.pipeline.plan import sync_and_async
from actionengine.pipeline.write_set import PreviewedEvent, Write
from actionengine.schemas.models import Id, Input, Output
from actionengine.storage.pages import Page
from actionengine.storage.port import UnitOfWork
from actionengine.storage.records import APPROVALS
from actionengine.storage.rows import LogQuery, Record

READ_PERMISSION = "approvals.read"
"""The permission to see every approval, as operators do. It decides none."""

_MIN_EXAMINED = 50
"""Approvals that a page reads at least, however small its limit is."""

_DECIDERS: tuple[ActorType, ...] = ("human", "integration", "system")


class ListApprovals(Input):
    """A filter of approvals: their status (an expired one is no longer pending), their requester (`type:id`, as in
    `human:ann`), the id to page on from, and the size of a page."""

    status: ApprovalStatus | None = Field(
        default=None, description="Only approvals of this status; null for all. An expired one is no longer pending."
    )
    requested_by: str | None = Field(
        default=None,
        max_length=MAX_ACTOR_ID_LENGTH + 20,
        description="Only approvals that this actor asked for, as type:id, such as human:ann; null for all.",
    )
    after: Id | None = Field(default=None, description="The id after which the page begins; null for the first page.")
    limit: int = Field(default=50, ge=1, le=200, description="The most approvals of the page.")


class GetApproval(Input):
    """One approval."""

    approval_id: Id = Field(description="The id of the approval.")


class DecideApproval(Input):
    """One approval, and the reason for the decision."""

    approval_id: Id = Field(description="The id of the approval.")
    comment: str | None = Field(default=None, max_length=2000, description="The reason for the decision.")


class _Rights(NamedTuple):
    """The rights of a caller on one approval."""

    is_requester: bool
    may_see: bool
    may_decide: bool
    may_approve: bool


class Approval(Output):
    """The public part of an approval. `input` is masked. `on_behalf_of` names the principals that the requester acted
    for (`type:id`), the nearest first.

    One that binds the effects has the writes and events that approving it commits, masked; `omitted` counts those that
    are left out because there are too many. Otherwise `writes` and `events` are None.
    """

    id: str = Field(description="The id of the approval.")
    action: str = Field(description="The action that waits, as service.action.")
    permission: str = Field(description="The permission that an approver needs.")
    status: ApprovalStatus = Field(description="The state of the approval.")
    requested_by: str | None = Field(description="The requester, as type:id.")
    on_behalf_of: tuple[str, ...] = Field(
        default=(), description="The principals that the requester acted for, as type:id, the nearest first."
    )
    reason: str | None = Field(description="The reason that the requester gave.")
    input: Any = Field(description="The payload of the action, masked.")
    created_at: datetime = Field(description="The time of the request, in UTC.")
    expires_at: datetime = Field(description="The time, in UTC, after which no approver can decide it.")
    decided_by: str | None = Field(description="The actor that decided, as type:id; null while it is pending.")
    decided_at: datetime | None = Field(description="The time of the decision, in UTC; null while it is pending.")
    comment: str | None = Field(description="The reason for the decision.")
    binds: Binds = Field(
        default="payload",
        description="The extent of an approval: any effect of the payload, or exactly the writes and events below.",
    )
    writes: tuple[Write, ...] | None = Field(
        default=None, description="The writes that approving commits, masked; null where the payload alone is bound."
    )
    events: tuple[PreviewedEvent, ...] | None = Field(
        default=None, description="The events that approving commits, masked; null where the payload alone is bound."
    )
    omitted: int = Field(
        default=0, description="The number of writes and events that are left out because there are too many."
    )
    can_decide: bool = Field(
        default=False,
        description="True if you may reject it: it is pending, you have the permission, and neither you nor an actor "
        "that you act for asked for it.",
    )
    can_approve: bool = Field(
        default=False,
        description="True if you may approve it: you may reject it, and did not start the workflow run that waits for "
        "it.",
    )
    can_cancel: bool = Field(default=False, description="True if you may cancel it: it is pending, and your own.")

    @classmethod
    def of(cls, pending: PendingApproval, now: datetime, rights: _Rights | None = None) -> Approval:
        """Return the public part of a stored approval, for a reader with these rights."""
        effects = pending.effects
        return cls(
            id=pending.id,
            action=f"{pending.service}.{pending.action}",
            permission=pending.permission,
            status=_status(pending, now),
            requested_by=pending.requested_by,
            on_behalf_of=pending.requesters[1:],
            reason=pending.reason,
            input=pending.shown_input,
            created_at=pending.created_at,
            expires_at=pending.expires_at,
            decided_by=pending.decided_by,
            decided_at=pending.decided_at,
            comment=pending.comment,
            binds="payload" if effects is None else "effects",
            writes=effects and effects.writes,
            events=effects and effects.events,
            omitted=effects.omitted if effects is not None else 0,
            can_decide=rights is not None and rights.may_decide and pending.is_open(now),
            can_approve=rights is not None and rights.may_approve and pending.is_open(now),
            can_cancel=rights is not None and rights.is_requester and pending.is_open(now),
        )


def _status(pending: PendingApproval, now: datetime) -> ApprovalStatus:
    """Return the status of an approval, whether its expiry has been stored or not."""
    return "expired" if pending.status == "pending" and not pending.is_open(now) else pending.status


class FailedAttempt(Output):
    """The error of an approved action that failed, and its time. The approval stayed pending."""

    code: str = Field(description="The code of the error, such as `conflict`.")
    message: str = Field(description="The text of the error.")
    details: dict[str, Any] = Field(description="The details of the error, by its code.")
    failed_at: datetime = Field(description="The time of the attempt, in UTC.")


class ApprovalState(Approval):
    """An approval, and what came of it.

    Once it has run, `action_id` is the execution on the action log, and `result` the masked result as the log shows it.
    If the execution waits for a further approval, `further_approval_id` is the one to ask for next. `failure` is the
    last attempt that failed; another one may follow while the approval is pending.
    """

    action_id: str | None = Field(description="The execution on the action log, once it has run.")
    result: Any = Field(description="The result of the action, masked, once it has run.")
    further_approval_id: str | None = Field(description="The further approval that the action waits for, if any.")
    failure: FailedAttempt | None = Field(description="The last attempt that failed; null for none.")


class ApprovalPage(Output):
    """A page of approvals, newest first; `next` is the `after` of the following page, or None.

    A page has fewer than `limit` approvals, or none, if others that it has read are not for the caller.
    """

    items: tuple[Approval, ...] = Field(description="The approvals, newest first.")
    next: str | None = Field(description="The `after` of the following page; null at the end.")


class ApprovalResult(Output):
    """The result of an approved action, or the further approval that it waits for."""

    approval: Approval = Field(description="The approval, decided.")
    result: Any = Field(description="The result of the approved action.")
    further_approval_id: str | None = Field(
        description="The further approval that the action waits for; null where it was executed."
    )


@sync_and_async
async def _list(data: ListApprovals, ctx: InternalContext) -> Result[ApprovalPage, ActionError]:
    items: list[Approval] = []
    found, now = await _stored(data, ctx), await ctx.unit_of_work.now()
    next = found.next
    for number, record in enumerate(found, 1):
        pending = _today(PendingApproval.of(record), ctx)
        if data.status not in (None, _status(pending, now)):
            continue
        rights = await _rights(pending, ctx)
        if rights.may_see:
            items.append(Approval.of(pending, now, rights))
            if len(items) == data.limit:
                next = record.id if number < len(found) else found.next
                break
    # The log does not repeat the inputs of all these approvals.
    ctx.set_logged_output({"items": len(items), "next": next})
    return Success(ApprovalPage(items=tuple(items), next=next))


async def _stored(data: ListApprovals, ctx: InternalContext) -> Page[Record]:
    """Return the approvals that a page examines, newest first. Their number does not depend on the caller's rights."""
    records = ctx.unit_of_work.records(APPROVALS)
    asked = {} if data.requested_by is None else {"requested_by": data.requested_by}
    # An expired approval is pending in the storage until it is marked.
    statuses = ("expired", "pending") if data.status == "expired" else (data.status,)
    filters = [asked if status is None else {**asked, "status": status} for status in statuses]
    size = max(data.limit, _MIN_EXAMINED)
    pages = [await records.list(filter, size, data.after, descending=True) for filter in filters]
    # Rows of an unread page may come before the rest of another.
    end = max((page.next for page in pages if page.next is not None), default=None)
    found = merge(*pages, key=attrgetter("id"), reverse=True)
    return Page([record for record in found if end is None or record.id >= end], end)


@sync_and_async
async def _get(data: GetApproval, ctx: InternalContext) -> Result[ApprovalState, ActionError]:
    pending = await _find(data.approval_id, ctx)
    approval = Approval.of(pending, await ctx.unit_of_work.now(), await _rights(pending, ctx))
    state = ApprovalState(
        **dict(approval),
        action_id=pending.action_id,
        result=await _logged_result(pending.action_id, ctx) if pending.action_id is not None else None,
        further_approval_id=pending.further_approval_id,
        failure=FailedAttempt(**pending.failure) if pending.failure is not None else None,
    )
    # The log has the result already, and the requester may ask often.
    ctx.set_logged_output(state.model_dump(mode="json", exclude={"result"}))
    return Success(state)


async def _logged_result(action_id: str, ctx: InternalContext) -> Any:
    next_id = str(UUID(int=UUID(action_id).int + 1))
    rows = await ctx.unit_of_work.read_log(LogQuery(before=next_id, limit=1))
    return next((LogEntry.of(row).output for row in rows if row.id == action_id), None)


@sync_and_async
async def _approve(data: DecideApproval, ctx: InternalContext) -> Result[ApprovalResult, ActionError]:
    pending = await _for_decision(data, ctx)
    assert ctx.actor is not None
    reason = _reason_not_to_approve(pending, ctx.actor)
    if reason is not None:
        raise ActionError(ErrorCode.FORBIDDEN, reason)
    decided = await _decide(pending, "approved", data, ctx)
    granted = {policy: approver.actor for policy, approver in pending.granted.items()} | {pending.policy: ctx.actor}
    name = f"{pending.service}.{pending.action}"
    approved = GrantedApproval(pending.id, str(ctx.actor), granted, name, pending.created_at, pending.request_key)
    try:
        action_id, result, further = await ctx.execute_approved(pending, approved)
    except ActionError as error:
        ctx.after_failure(partial(_record_failure, pending.id, error))
        raise
    if further is not None:
        ctx.add_subject(approval_subject(further))
    ran = decided.model_copy(update={"action_id": action_id, "further_approval_id": further, "failure": None})
    await ctx.uncaptured.records(APPROVALS).update(ran.id, ran.document(), ran.version)
    given = ApprovalResult(
        approval=Approval.of(decided, await ctx.unit_of_work.now()), result=result, further_approval_id=further
    )
    if further is None:
        # The original action declares the secrets of its result.
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
    if not pending.is_asked_by(ctx.actor):
        who = "the requester" if len(pending.requesters) < 2 else "the requester and the principals that it acted for"
        raise ActionError(ErrorCode.FORBIDDEN, f"only {who} can cancel the approval {pending.id}")
    await _check_open(pending, ctx)
    decided = await _decide(pending, "cancelled", data, ctx)
    return Success(Approval.of(decided, await ctx.unit_of_work.now()))


async def _for_decision(data: DecideApproval, ctx: InternalContext) -> PendingApproval:
    pending = await _find(data.approval_id, ctx, to_decide=True)
    assert ctx.actor is not None
    reason = _reason_not_to_decide(pending, ctx.actor)
    if reason is not None:
        raise ActionError(ErrorCode.FORBIDDEN, reason)
    if pending.has_secret_resource and pending.resource is not None:
        # The decision contains the resource, so it has to be masked.
        ctx.learn(pending.resource)
    await ctx.authorize_async(pending.permission, pending.resource)
    await _check_open(pending, ctx)
    return pending


def _reason_not_to_decide(pending: PendingApproval, decider: Actor) -> str | None:
    """Return why a decider may not decide an approval: an AI, or one of the requesters, is in its chain. None where
    nothing but a permission is needed."""
    requesters = {identity_of(requester): requester for requester in pending.requesters}
    for each in decider.chain:
        if each.type not in _DECIDERS:
            return f"{decider} acts for {each}: no {each.type} actor decides an approval, nor anybody on behalf of one"
        requester = requesters.get(identity_of(each))
        if requester is not None:
            return (
                f"{requester} asked for the approval {pending.id}, and {each} counts as the same actor: another one "
                "has to decide"
            )
    return None


def _reason_not_to_approve(pending: PendingApproval, decider: Actor) -> str | None:
    """Return why a decider that may reject an approval may not approve it: the action excludes one of its chain. None
    where it may."""
    reasons = {identity_of(name): reason for name, reason in pending.excluded_approvers.items()}
    for each in decider.chain:
        if (reason := reasons.get(identity_of(each))) is not None:
            return f"{each} {reason}: another actor has to decide"
    return None


async def _check_open(pending: PendingApproval, ctx: InternalContext) -> None:
    status = _status(pending, await ctx.unit_of_work.now())
    if status != "pending":
        decided = {}
        if pending.decided_by is not None and pending.decided_at is not None:
            decided = {"decided_by": pending.decided_by, "decided_at": pending.decided_at.isoformat(timespec="seconds")}
        by = " by {decided_by} at {decided_at}".format(**decided) if decided else ""
        message = f"the approval {pending.id} is {status}{by} and cannot be used again"
        raise conflict(message, approval_id=pending.id, status=status, **decided)


async def _decide(
    pending: PendingApproval, status: ApprovalStatus, data: DecideApproval, ctx: InternalContext
) -> PendingApproval:
    """Write the decision. The write locks the approval, so only one of several deciders succeeds."""
    decided = pending.model_copy(
        update={
            "status": status,
            "decided_by": str(ctx.actor),
            "decided_at": await ctx.time(),
            "comment": data.comment,
        }
    )
    ctx.replay_for_actor_only()
    record = await ctx.unit_of_work.records(APPROVALS).update(pending.id, decided.document(), pending.version)
    ctx.add_subject(approval_subject(pending.id))
    return decided.model_copy(update={"version": record.version})


async def _record_failure(approval_id: str, error: ActionError, unit_of_work: UnitOfWork) -> None:
    approvals = unit_of_work.records(APPROVALS)
    pending = await find_approval(approvals, approval_id)
    if pending is not None and pending.status == "pending":
        failure = {**from_json(error_json(error)), "failed_at": (await unit_of_work.now()).isoformat()}
        failed = pending.model_copy(update={"failure": failure})
        await approvals.update(approval_id, failed.document(), pending.version)


async def _find(approval_id: str, ctx: InternalContext, to_decide: bool = False) -> PendingApproval:
    found = await find_approval(ctx.unit_of_work.records(APPROVALS), approval_id)
    if found is not None:
        pending = _today(found, ctx)
        if (await _rights(pending, ctx)).may_see:
            return pending
        # An approver for other resources, or by an earlier policy, may know that the approval exists.
        permissions = (pending.permission, found.permission) if to_decide else ()
        if any([await ctx.is_allowed(each, on) for each in permissions for on in (None, found.resource)]):
            return pending
    raise ActionError(ErrorCode.NOT_FOUND, f"there is no approval {approval_id!r}")


def _today(pending: PendingApproval, ctx: InternalContext) -> PendingApproval:
    """Return an approval with the permission that its policy names today; a decided one keeps its own."""
    if pending.status != "pending":
        return pending
    return pending.model_copy(update={"permission": ctx.permission_to_approve(pending)})


async def _rights(pending: PendingApproval, ctx: InternalContext) -> _Rights:
    """Return the caller's rights: to see what it asked for, may decide or may read, and to decide by its permission."""
    is_requester = pending.is_asked_by(ctx.actor)
    is_allowed = not is_requester and await ctx.is_allowed(pending.permission, pending.resource)
    may_see = is_requester or is_allowed or await ctx.is_allowed(READ_PERMISSION)
    assert ctx.actor is not None
    may_decide = is_allowed and _reason_not_to_decide(pending, ctx.actor) is None
    may_approve = may_decide and _reason_not_to_approve(pending, ctx.actor) is None
    return _Rights(is_requester, may_see, may_decide, may_approve)


_reading = partial(declare, read_only=True)
_deciding = partial(declare, allowed_actors=_DECIDERS)

approvals: Service = create_service(
    name="approvals",
    description="Actions that wait for the decision of a second person",
    permissions=[READ_PERMISSION],
    actions=[
        _reading("list", "The approvals that you asked for, may decide or may see, newest first", _list, ListApprovals),
        _reading(
            "get", "An approval that you asked for, may decide or may see, and what came of it", _get, GetApproval
        ),
        _deciding(
            "approve",
            "Approve: the original action is executed, as its requester",
            _approve,
            DecideApproval,
            destructive=True,
        ),
        _deciding("reject", "Reject: the original action is not executed", _reject, DecideApproval),
        declare("cancel", "Cancel an approval that you, or an actor for you, asked for", _cancel, DecideApproval),
    ],
)
