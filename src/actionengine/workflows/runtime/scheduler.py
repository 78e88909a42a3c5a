"""What is asked of the durable engine: turns of runs, expiries of approvals, and schedules of triggers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from uuid_utils import uuid7

from actionengine.concurrency.run_sync import run_sync
from actionengine.context import Tenant
from actionengine.durable.client import DurableClient
from actionengine.storage.port import Storage
from actionengine.storage.rows import Record
from actionengine.workflows.runs.store import RUNS, TRIGGERS
from actionengine.workflows.runtime.queries import find_all, seconds_left

QUEUE = "actionengine.workflows"
EXECUTE_RUN = "actionengine.execute_run"
FIRE = "actionengine.fire"
EXPIRE = "actionengine.expire"

_AFTER_EXPIRY = 0.1
"""Seconds after an approval has expired at which it is looked at."""

_WAITS = ("ENQUEUED", "DELAYED")
_UNDER_WAY = ("ENQUEUED", "DELAYED", "PENDING")


class Scheduler:
    """Asks for what is to be done, and when. What was asked for is not asked for twice."""

    def __init__(self, client: DurableClient) -> None:
        self._client = client

    def enqueue_run(self, tenant: Tenant, key: str, run_id: str, dispatch: int) -> None:
        """Have the steps of a run taken, until it ends or pauses."""
        self._drive(tenant, key, run_id, dispatch_id(run_id, dispatch))

    def later(
        self,
        tenant: Tenant,
        key: str,
        run_id: str,
        position: int | None,
        attempt: int,
        wait: float,
        seconds: float,
    ) -> None:
        """Have a run gone on with in so many seconds: where it is, or with a further attempt at the step at a
        position. `wait` is the pause after that, where something is away."""
        arguments = (*_arguments(tenant), key, run_id, position, attempt, wait)
        self._timer(EXECUTE_RUN, *arguments, id=_later_id(run_id, position), seconds=seconds)

    def expiry(self, tenant: Tenant, key: str, approval_id: str, seconds: float, wait: float | None = None) -> None:
        """Have an approval looked at once it has expired, in so many seconds. Whoever looks too early asks again."""
        arguments = (*_arguments(tenant), key, approval_id, *(() if wait is None else (wait,)))
        self._timer(EXPIRE, *arguments, id=f"expire/{approval_id}", seconds=seconds + _AFTER_EXPIRY)

    def forget_expiry(self, approval_id: str) -> None:
        """Have an approval that is decided looked at no more."""
        id = f"expire/{approval_id}"
        for each, execution in self._client.find(id, f"{id}/again").items():
            if execution.status in _WAITS:
                self._client.forget(each)

    def firing(
        self, tenant: Tenant, key: str, trigger_id: str, at: datetime, seconds: float, wait: float | None = None
    ) -> None:
        """Have a trigger fired for a time, in so many seconds."""
        due = at.astimezone(UTC).isoformat()
        context: dict[str, Any] = _context(tenant, key, trigger_id)
        if wait is not None:
            context["wait"] = wait
        self._timer(FIRE, due, context, id=f"fire/{trigger_id}/{due}", seconds=seconds)

    def schedule(self, tenant: Tenant, key: str, trigger_id: str, cron: str, timezone: str | None) -> None:
        """Have a trigger fired at each time of a schedule, which takes the place of the one that it had."""
        context = _context(tenant, key, trigger_id)
        name = _schedule_name(tenant, trigger_id)
        self._client.schedule(name, FIRE, cron, timezone=timezone, context=context, queue=QUEUE)

    def unschedule(self, tenant: Tenant, trigger_id: str) -> None:
        """Have a trigger fired no more."""
        self._client.unschedule(_schedule_name(tenant, trigger_id))

    def restore(self, storage: Storage, tenant: Tenant) -> int:
        """Ask again for all that a tenant's runs and triggers wait for, where the durable engine has none of it; how
        many runs were set going."""
        return run_sync(self._restore(storage, tenant))

    async def _restore(self, storage: Storage, tenant: Tenant) -> int:
        restored = 0
        async for run in find_all(storage, tenant, RUNS, {"status": "running"}, "sync"):
            restored += self._again(tenant, run)
        async for run in find_all(storage, tenant, RUNS, {"paused_for": "approval"}, "sync"):
            approval_id = run.data["approval_id"]
            left = await seconds_left(storage, tenant, approval_id, "sync")
            self.expiry(tenant, run.data["workflow_key"], approval_id, left or 0.0)
        async for trigger in find_all(storage, tenant, TRIGGERS, {"type": "schedule", "status": "active"}, "sync"):
            schedule = trigger.data["trigger"]
            key = trigger.data["workflow_key"]
            self.schedule(tenant, key, trigger.id, schedule["schedule"], schedule.get("timezone", "UTC"))
        return restored

    def _again(self, tenant: Tenant, run: Record) -> bool:
        id = dispatch_id(run.id, run.data["dispatch"])
        later = [_later_id(run.id, position) for position in (None, run.data["position"])]
        there = self._client.find(id, *later, *(f"{each}/again" for each in later))
        if any(each.status in _UNDER_WAY for each in there.values()):
            return False
        # One that has ended stays under its id.
        self._drive(tenant, run.data["workflow_key"], run.id, id if id not in there else f"{id}/{uuid7()}")
        return True

    def _timer(self, function: str, *arguments: Any, id: str, seconds: float) -> None:
        """Have a function executed once these seconds are over, unless it waits for that already. One that has begun,
        or has ended, may have come too early."""
        if self._client.enqueue(function, *arguments, queue=QUEUE, id=id, delay=seconds):
            return
        again = f"{id}/again"
        there = self._client.find(id, again)
        if any(each.status in _WAITS for each in there.values()):
            return
        # Who looks too early has one of the two ids, and takes the other one.
        for each in (id, again):
            if each in there and there[each].status not in _UNDER_WAY:
                self._client.forget(each)
                del there[each]
            if each not in there:
                again = each
                break
        else:
            again = f"{id}/{uuid7()}"
        self._client.enqueue(function, *arguments, queue=QUEUE, id=again, delay=seconds)

    def _drive(self, tenant: Tenant, key: str, run_id: str, id: str) -> None:
        self._client.enqueue(EXECUTE_RUN, *_arguments(tenant), key, run_id, queue=QUEUE, id=id)


def dispatch_id(run_id: str, dispatch: int) -> str:
    """The id of the execution that is a turn of a run."""
    return f"{run_id}/{dispatch}"


def _later_id(run_id: str, position: int | None) -> str:
    return f"{run_id}/later" if position is None else f"{run_id}/later/{position}"


def tenant_from(id: str, slug: str) -> Tenant:
    """A tenant as the durable engine keeps it."""
    return Tenant(UUID(id), slug)


def _arguments(tenant: Tenant) -> tuple[str, str]:
    return str(tenant.id), tenant.slug


def _context(tenant: Tenant, key: str, trigger_id: str) -> dict[str, str]:
    return {"tenant_id": str(tenant.id), "slug": tenant.slug, "workflow_key": key, "trigger_id": trigger_id}


def _schedule_name(tenant: Tenant, trigger_id: str) -> str:
    return f"{tenant.id}/{trigger_id}"
