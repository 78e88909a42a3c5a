"""A pending approval: an action that waits for a second person, in its stored form."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pydantic_core import from_json, to_json
from uuid_utils import uuid7

from actionengine.context import Actor, RequestContext
from actionengine.errors import ActionError, ErrorCode
from actionengine.masking.masking import scrub
from actionengine.pipeline.execution import ApprovalNeeded, Execution
from actionengine.pipeline.payload import fingerprint
from actionengine.pipeline.stored_actor import StoredActor
from actionengine.pipeline.write_set import Effects
from actionengine.storage.clock import sortable
from actionengine.storage.port import UnitOfWork
from actionengine.storage.records import APPROVALS, RESERVED_PREFIX, AsyncRecords, same_json
from actionengine.storage.rows import Claim, Record

ApprovalStatus = Literal["pending", "approved", "rejected", "cancelled", "expired"]

EXPIRIES = f"{RESERVED_PREFIX}approval_expiries"
"""The collection of expiry times: `<time>/<approval id>` for each approval, decided or not, until that time."""

_MARKED_AT_ONCE = 10
"""Expired approvals that storing one approval marks, at most. More than one, so that their number falls."""


class PendingApproval(BaseModel):
    """An approval as it is stored: all that runs the action again, and shows it to a person.

    `payload` is the whole payload as JSON, secrets and all, because it has to run again; `input` is its masked form,
    None where that `shows_payload`: nothing in it is masked. A `pending` one may have expired, and is marked so later.
    `policy` is the action whose policy applies; `permission` is what it named and `resource` what it was about when the
    approval was asked for; `has_secret_resource` says that a secret is in its name. `granted` are the policies that
    earlier approvals have satisfied, with their approvers. `excluded_approvers` (`type:id`) are those, beside the
    requesters, that may not approve, each with the reason. `effects` are what the approval binds; None where it binds
    the payload only. `request_key` is the same for the same request by the same requester, None where an idempotency
    key takes its place. `action_id` is the execution on the action log that followed the approval,
    `further_approval_id` the approval that it waits for, and `failure` the error of the last attempt, which left the
    approval pending.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    service: str
    action: str
    policy: str
    permission: str
    resource: str | None
    has_secret_resource: bool = False
    granted: dict[str, StoredActor]
    excluded_approvers: dict[str, str] = {}
    status: ApprovalStatus
    requester: StoredActor | None
    source: str
    reason: str | None
    request_id: str | None
    idempotency_key: str | None
    fingerprint: str
    payload: str
    input: Any
    shows_payload: bool = False
    created_at: datetime
    expires_at: datetime
    decided_by: str | None = None
    decided_at: datetime | None = None
    comment: str | None = None
    effects: Effects | None = None
    request_key: str | None = None
    action_id: str | None = None
    further_approval_id: str | None = None
    failure: dict[str, Any] | None = None
    version: int = 0

    @classmethod
    def for_execution(
        cls,
        execution: Execution,
        claim: Claim | None,
        needed: ApprovalNeeded,
        now: datetime,
        effects: Effects | None = None,
    ) -> PendingApproval:
        """Return the approval that an execution waits for, beginning at `now`. It belongs to the claim."""
        request, received = execution.request, execution.received
        masked = execution.entry.input
        assert received is not None
        assert masked is not None
        payload = received.json.decode()
        input = scrub(from_json(masked), execution.secrets.values)
        shows_payload = same_json(input, from_json(payload))
        return cls(
            id=str(uuid7()),
            service=execution.plan.service,
            action=execution.plan.action.name,
            policy=needed.action,
            permission=needed.policy.permission,
            resource=needed.resource,
            has_secret_resource=needed.resource is not None and execution.secrets.are_in(needed.resource),
            granted=_stored(execution.approved.granted) if execution.approved else {},
            excluded_approvers=dict(execution.excluded_approvers),
            status="pending",
            requester=StoredActor.of(request.actor) if request.actor else None,
            source=request.source,
            reason=request.reason and execution.secrets.scrub_text(request.reason),
            request_id=request.request_id,
            idempotency_key=execution.claim.key if execution.claim else None,
            fingerprint=execution.claim.fingerprint if execution.claim is not None else fingerprint(received.copy()),
            payload=payload,
            input=None if shows_payload else input,
            shows_payload=shows_payload,
            created_at=now,
            expires_at=now + needed.policy.expires_after,
            effects=effects,
            request_key=claim.key if claim is not None and execution.claim is None else None,
        )

    @classmethod
    def of(cls, record: Record) -> PendingApproval:
        """Return the approval of a document."""
        return cls.model_validate({**record.data, "version": record.version})

    def document(self) -> dict[str, Any]:
        """Return the document of an approval."""
        return {
            **self.model_dump(mode="json", exclude={"version"}),
            "requested_by": self.requested_by,
            # This key counts the open approvals.
            "open_until": sortable(self.expires_at) if self.status == "pending" else None,
        }

    @property
    def shown_input(self) -> Any:
        """The input as people see it, masked."""
        return from_json(self.payload) if self.shows_payload else self.input

    @property
    def requested_by(self) -> str | None:
        """The requester as `type:id`."""
        return next(iter(self.requesters), None)

    @property
    def requesters(self) -> tuple[str, ...]:
        """The requester and the principals that it acted for, as `type:id`, the nearest first."""
        return self.requester.names if self.requester is not None else ()

    def is_asked_by(self, actor: Actor | None) -> bool:
        """Return whether the actor is the requester, or a principal that the requester acted for. Of an actor that acts
        for others, each in its chain has to be one: an agent does not see for one person what it asked for another."""
        return actor is not None and all(str(each) in self.requesters for each in actor.chain)

    def may_be_met_by(self, actor: Actor | None) -> bool:
        """Return whether a request of this actor, with the same idempotency key, is answered with this approval. One
        that was asked for on behalf of a principal is for the same principal alone."""
        if len(self.requesters) < 2 or self.is_asked_by(actor):
            return True
        return actor is not None and str(actor.principal) == self.requesters[-1]

    def is_open(self, now: datetime) -> bool:
        """Return whether the approval can still be decided."""
        return self.status == "pending" and now < self.expires_at

    @property
    def is_outdated(self) -> bool:
        """True if its last attempt found that the state which it was about has changed."""
        return self.failure is not None and self.failure["code"] == ErrorCode.CONFLICT

    def request(self, current: RequestContext) -> RequestContext:
        """Return the requester's request, in the tenant and with the resources of the current request."""
        requester = self.requester
        return RequestContext(
            tenant=current.tenant,
            actor=requester.actor if requester else None,
            source=self.source,
            reason=self.reason,
            idempotency_key=self.idempotency_key,
            request_id=self.request_id,
            resources=current.resources,
        )


def _stored(granted: Mapping[str, Actor]) -> dict[str, StoredActor]:
    return {policy: StoredActor.of(approver) for policy, approver in granted.items()}


def request_key(execution: Execution, needed: ApprovalNeeded) -> str | None:
    """Return a key that is the same for the same request by the same requester. A further approval has the key of the
    first one. None for a request without an actor, whose next one may be another person's."""
    if execution.approved is not None:
        return execution.approved.request_key
    actor, received = execution.request.actor, execution.received
    if actor is None:
        return None
    assert received is not None
    requester = [str(each) for each in actor.chain]
    payload = fingerprint(received.copy(), equal_numbers=True)
    about = [execution.plan.name, payload, execution.request.plan, needed.action, needed.resource]
    return sha256(to_json([requester, about])).hexdigest()


async def store_approval(unit_of_work: UnitOfWork, pending: PendingApproval) -> None:
    """Store a new approval."""
    await unit_of_work.records(APPROVALS).insert(pending.document(), pending.id)
    await unit_of_work.records(EXPIRIES).insert({}, f"{sortable(pending.expires_at)}/{pending.id}")


async def cancel_outdated(unit_of_work: UnitOfWork, approval_id: str) -> None:
    """Cancel an approval in whose place the same requester asks again, where it is pending still."""
    approvals = unit_of_work.records(APPROVALS)
    pending = await find_approval(approvals, approval_id)
    now = await unit_of_work.now()
    if pending is not None and pending.is_open(now):
        decision = {"status": "cancelled", "decided_by": pending.requested_by, "decided_at": now}
        decided = pending.model_copy(update={**decision, "comment": "requested again, because its state has changed"})
        await approvals.update(approval_id, decided.document(), pending.version)


async def mark_expired(unit_of_work: UnitOfWork) -> None:
    """Mark the approvals that expired first. A list of pending approvals would otherwise read all that ever expired.

    Raises `ActionError(conflict)` where another unit of work is marking one of them.
    """
    approvals, expiries = unit_of_work.records(APPROVALS), unit_of_work.records(EXPIRIES)
    now = await unit_of_work.now()
    for expiry in await expiries.list(limit=_MARKED_AT_ONCE):
        time, _, id = expiry.id.partition("/")
        if time > sortable(now):
            break
        pending = await find_approval(approvals, id)
        if pending is not None and pending.status == "pending":
            expired = pending.model_copy(update={"status": "expired"})
            await approvals.update(id, expired.document(), pending.version)
        await expiries.delete(expiry.id, expiry.version)


async def find_approval(approvals: AsyncRecords, id: str) -> PendingApproval | None:
    """Return the approval of this id from the collection, decided or not; None where there is none."""
    record = await approvals.get(id)
    return PendingApproval.of(record) if record is not None else None


def error_for(pending: PendingApproval) -> ActionError:
    """Return the `approval_required` error for the caller."""
    return ActionError(
        ErrorCode.APPROVAL_REQUIRED,
        f"{pending.policy} needs an approval by an actor with the permission {pending.permission}",
        {
            "approval_id": pending.id,
            "status": "pending",
            "action": f"{pending.service}.{pending.action}",
            "policy": pending.policy,
            "permission": pending.permission,
            "requested_by": pending.requested_by,
            "expires_at": pending.expires_at.isoformat(),
        },
    )
