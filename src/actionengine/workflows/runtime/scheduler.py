"""`Scheduler`: asks the durable engine for dispatches of runs, expiries of approvals, and schedules of triggers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from uuid_utils import uuid7

from actionengine.concurrency.run_sync import run_sync
from actionengine.context import Tenant
from actionengine.durable.client import DurableClient
from actionengine.storage.port import Storage
from actionengine.storage.records import RUNS
from actionengine.storage.rows import Record
from actionengine.workflows.runs.store import TRIGGERS
from actionengine.workflows.runtime.queries import Queries

QUEUE = "actionengine.workflows"
EXECUTE_RUN = "actionengine.execute_run"
FIRE = "actionengine.fire"
EXPIRE = "actionengine.expire"

_AFTER_EXPIRY = 0.1
"""Seconds between the expiry of an approval and its timer."""

_WAITING = ("ENQUEUED", "DELAYED")
_ALIVE = (*_WAITING, "PENDING")


class Scheduler:
    """Asks for executions and their times. An execution that was asked for is not asked for twice."""

    def __init__(self, client: DurableClient) -> None:
        self._client = client

    def enqueue_run(self, tenant: Tenant, key: str, run_id: str, dispatch: int) -> None:
        """Enqueue a dispatch of a run."""
        self._enqueue_run(tenant, key, run_id, dispatch_id(run_id, dispatch))

    def postpone_run(
        self,
        tenant: Tenant,
        key: str,
        run_id: str,
        position: int | None,
        attempt: int,
        wait: float,
        seconds: float,
    ) -> None:
        """Continue a run in so many seconds, with this attempt if it is still at the position.

        `wait` is the pause after that if an outage lasts.
        """
        arguments = (*_arguments(tenant), key, run_id, position, attempt, wait)
        self._set_timer(EXECUTE_RUN, *arguments, id=_postponed_id(run_id, position), seconds=seconds)

    def schedule_expiry(
        self, tenant: Tenant, key: str, approval_id: str, seconds: float, wait: float | None = None
    ) -> None:
        """Set the timer of an approval that expires in so many seconds."""
        arguments = (*_arguments(tenant), key, approval_id, *(() if wait is None else (wait,)))
        self._set_timer(EXPIRE, *arguments, id=f"expire/{approval_id}", seconds=seconds + _AFTER_EXPIRY)

    def cancel_expiry(self, approval_id: str) -> None:
        """Remove the timer of an approval that is decided."""
        id = f"expire/{approval_id}"
        for each, execution in self._client.find(id, f"{id}/again").items():
            if execution.status in _WAITING:
                self._client.forget(each)

    def schedule_firing(
        self, tenant: Tenant, key: str, trigger_id: str, at: datetime, seconds: float, wait: float | None = None
    ) -> None:
        """Fire a trigger for a time, in so many seconds."""
        due = at.astimezone(UTC).isoformat()
        context: dict[str, Any] = _context(tenant, key, trigger_id)
        if wait is not None:
            context["wait"] = wait
        self._set_timer(FIRE, due, context, id=f"fire/{trigger_id}/{due}", seconds=seconds)

    def schedule(self, tenant: Tenant, key: str, trigger_id: str, cron: str, timezone: str | None) -> None:
        """Fire a trigger at each time of a schedule. It replaces the trigger's earlier schedule."""
        context = _context(tenant, key, trigger_id)
        name = _schedule_name(tenant, trigger_id)
        self._client.schedule(name, FIRE, cron, timezone=timezone, context=context, queue=QUEUE)

    def unschedule(self, tenant: Tenant, trigger_id: str) -> None:
        """Remove the schedule of a trigger."""
        self._client.unschedule(_schedule_name(tenant, trigger_id))

    def restore(self, storage: Storage, tenant: Tenant) -> int:
        """Ask again for what a tenant's runs and triggers wait for, if the durable engine has lost it.

        Returns the number of runs that were enqueued.
        """
        return run_sync(self._restore(Queries(storage, "sync"), tenant))

    async def _restore(self, queries: Queries, tenant: Tenant) -> int:
        restored = 0
        async for run in queries.find_all(tenant, RUNS, {"status": "running"}):
            restored += self._restore_run(tenant, run)
        async for run in queries.find_all(tenant, RUNS, {"paused_for": "approval"}):
            approval_id = run.data["approval_id"]
            left = await queries.seconds_left(tenant, approval_id)
            self.schedule_expiry(tenant, run.data["workflow_key"], approval_id, left or 0.0)
        async for trigger in queries.find_all(tenant, TRIGGERS, {"type": "schedule", "status": "active"}):
            schedule = trigger.data["trigger"]
            key = trigger.data["workflow_key"]
            self.schedule(tenant, key, trigger.id, schedule["schedule"], schedule.get("timezone", "UTC"))
        return restored

    def _restore_run(self, tenant: Tenant, run: Record) -> bool:
        """Enqueue a run that no execution continues, and return whether there was none."""
        id = dispatch_id(run.id, run.data["dispatch"])
        postponed = [_postponed_id(run.id, position) for position in (None, run.data["position"])]
        found = self._client.find(id, *postponed, *(f"{each}/again" for each in postponed))
        if any(each.status in _ALIVE for each in found.values()):
            return False
        # An execution that has ended keeps its id.
        self._enqueue_run(tenant, run.data["workflow_key"], run.id, id if id not in found else f"{id}/{uuid7()}")
        return True

    def _set_timer(self, function: str, *arguments: Any, id: str, seconds: float) -> None:
        """Execute a function in so many seconds, unless it waits already. An execution that has begun or ended may
        have been early."""
        if self._client.enqueue(function, *arguments, queue=QUEUE, id=id, delay=seconds):
            return
        again = f"{id}/again"
        found = self._client.find(id, again)
        if any(each.status in _WAITING for each in found.values()):
            return
        # An early execution has one of the two ids, and takes the other one.
        for each in (id, again):
            if each in found and found[each].status not in _ALIVE:
                self._client.forget(each)
                del found[each]
            if each not in found:
                again = each
                break
        else:
            again = f"{id}/{uuid7()}"
        self._client.enqueue(function, *arguments, queue=QUEUE, id=again, delay=seconds)

    def _enqueue_run(self, tenant: Tenant, key: str, run_id: str, id: str) -> None:
        self._client.enqueue(EXECUTE_RUN, *_arguments(tenant), key, run_id, queue=QUEUE, id=id)


def dispatch_id(run_id: str, dispatch: int) -> str:
    """Return the id of the execution that is a dispatch of a run."""
    return f"{run_id}/{dispatch}"


def _postponed_id(run_id: str, position: int | None) -> str:
    return f"{run_id}/later" if position is None else f"{run_id}/later/{position}"


def tenant_from(id: str, slug: str) -> Tenant:
    """Return the tenant that the arguments of an execution name."""
    return Tenant(UUID(id), slug)


def _arguments(tenant: Tenant) -> tuple[str, str]:
    return str(tenant.id), tenant.slug


def _context(tenant: Tenant, key: str, trigger_id: str) -> dict[str, str]:
    return {"tenant_id": str(tenant.id), "slug": tenant.slug, "workflow_key": key, "trigger_id": trigger_id}


def _schedule_name(tenant: Tenant, trigger_id: str) -> str:
    return f"{tenant.id}/{trigger_id}"
