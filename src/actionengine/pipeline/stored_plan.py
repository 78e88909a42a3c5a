"""The plan of a preview, in its stored form: what an execution with it must equal."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict

from actionengine.errors import ActionError, ErrorCode, conflict
from actionengine.pipeline.execution import Execution
from actionengine.pipeline.payload import check_claimable, fingerprint
from actionengine.pipeline.pending_approval import error_for, find_approval
from actionengine.pipeline.write_set import MAX_SHOWN_WRITES, Effects, WriteSet
from actionengine.storage.port import UnitOfWork
from actionengine.storage.records import APPROVALS, PLANS
from actionengine.storage.rows import Record

LIFETIME = timedelta(hours=1)
"""The time for which a plan can be used, by the storage's clock."""

_PURGED_AT_ONCE = 50
_TOKEN = re.compile(r"plan_([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\Z")


class StoredPlan(BaseModel):
    """A plan as it is stored; its id is random. The writes themselves are not kept, only their digests.

    `actor` is the acting actor first, then each principal behind it. `used_by` is the execution that has used the plan,
    `approval_id` the approval that binds it since.
    """

    model_config = ConfigDict(frozen=True)

    action: str
    actor: tuple[str, ...]
    payload: str
    effects: Effects
    expires_at: datetime
    used_by: str | None = None
    approval_id: str | None = None


async def store_plan(unit_of_work: UnitOfWork, execution: Execution, writes: WriteSet) -> str:
    """Store the plan of a preview that has ended. Return its token."""
    capture = execution.capture
    assert capture is not None
    # Made by hand: a model would cost as much as the rest of a small preview.
    document = {
        "action": execution.plan.name,
        "actor": _actor(execution),
        "payload": _payload(execution),
        "effects": {
            "now": capture.now.isoformat(),
            "seed": capture.seed,
            "digest": writes.digest,
            "parts": writes.parts[:MAX_SHOWN_WRITES],
        },
        "expires_at": (await unit_of_work.now() + LIFETIME).isoformat(),
    }
    return f"plan_{(await unit_of_work.records(PLANS).insert(document)).id}"


async def find_plan(execution: Execution) -> tuple[Record, StoredPlan]:
    """Return the plan that a request names, if the execution can use it.

    Raises `ActionError`: `invalid_input` for a text that is no plan, `not_found` for an unknown plan, `forbidden` for
    another actor's, and `conflict` for one that is used or expired, or of another action or payload. Where a plan waits
    for an approval, the same request gets `approval_required` again.
    """
    token, name = execution.request.plan, execution.plan.name
    found = _TOKEN.match(token) if isinstance(token, str) else None
    if found is None:
        raise ActionError(
            ErrorCode.INVALID_INPUT, f"{name}: RequestContext.plan is the plan of a preview, as engine.preview gave it"
        )
    unit_of_work = execution.open()
    record = await unit_of_work.records(PLANS).get(found[1])
    if record is None:
        raise ActionError(
            ErrorCode.NOT_FOUND,
            f"{name}: there is no such plan (a plan is deleted after it has expired): preview again",
        )
    plan = StoredPlan.model_validate(record.data)
    if plan.actor != _actor(execution):
        raise ActionError(ErrorCode.FORBIDDEN, f"{name}: the plan is another actor's: preview the action yourself")
    if plan.action != name:
        raise conflict(f"{name}: the plan is for {plan.action}", plan_action=plan.action)
    is_same = plan.payload == _payload(execution)
    if plan.approval_id is not None and is_same:
        pending = await find_approval(unit_of_work.records(APPROVALS), plan.approval_id)
        if pending is not None and pending.is_open(await unit_of_work.now()):
            raise error_for(pending)
    if plan.used_by is not None:
        raise conflict(f"{name}: the plan was used, by the execution {plan.used_by}: preview again")
    if await unit_of_work.now() >= plan.expires_at:
        raise conflict(f"{name}: the plan expired at {plan.expires_at.isoformat()}: preview again")
    if not is_same:
        raise conflict(f"{name}: the plan is for another payload: preview this one")
    return record, plan


async def use_plan(execution: Execution, record: Record, plan: StoredPlan, approval_id: str | None = None) -> None:
    """Mark a plan as used, in the execution's transaction. Raises `ActionError(conflict)` where another one has."""
    used = {**record.data, "used_by": execution.id, "approval_id": approval_id}
    try:
        await execution.open(writable=True).records(PLANS).update(record.id, used, record.version)
    except ActionError as refusal:
        if refusal.code in (ErrorCode.CONFLICT, ErrorCode.NOT_FOUND):
            raise conflict(f"{execution.plan.name}: another execution has used the plan: preview again") from None
        raise


async def purge_plans(unit_of_work: UnitOfWork) -> None:
    """Delete the plans that expired first, up to a bound. Raises `ActionError` where another unit of work deletes one
    of them."""
    plans, now = unit_of_work.records(PLANS), await unit_of_work.now()
    # Ids sort by time, and so do expiries. Mostly not even the first plan has expired.
    oldest = await plans.list(limit=1)
    if not oldest or _is_kept(oldest[0], now):
        return
    for record in await plans.list(limit=_PURGED_AT_ONCE):
        if _is_kept(record, now):
            break
        await plans.delete(record.id, record.version)


def _is_kept(plan: Record, now: datetime) -> bool:
    """Return whether a plan has not expired, or so recently that its caller is told that."""
    return datetime.fromisoformat(plan.data["expires_at"]) + LIFETIME > now


def _actor(execution: Execution) -> tuple[str, ...]:
    actor = execution.request.actor
    return tuple(map(str, actor.chain)) if actor is not None else ()


def _payload(execution: Execution) -> str:
    received = execution.received
    assert received is not None
    return fingerprint(received if received.is_plain else check_claimable(received, execution.plan.validator))
