"""What is asked of the durable engine: turns of runs, expiries of approvals, and schedules of triggers."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from uuid_utils import uuid7

from actionengine.context import Tenant
from actionengine.driving import drive
from actionengine.durable.client import DurableClient
from actionengine.storage.port import APPROVALS, Record, Storage
from actionengine.workflows.looking import find, find_all
from actionengine.workflows.store import RUNS, TRIGGERS

QUEUE = "actionengine.workflows"
DRIVE = "actionengine.drive"
FIRE = "actionengine.fire"
EXPIRE = "actionengine.expire"

_AFTER_EXPIRY = 0.1
"""Seconds after an approval has expired at which it is looked at."""

_UNDER_WAY = ("ENQUEUED", "DELAYED", "PENDING")


class Agenda:
    """Asks for what is to be done, and when. What was asked for is not asked for twice."""

    def __init__(self, client: DurableClient) -> None:
        self._client = client

    def turn(self, tenant: Tenant, key: str, run_id: str, turn: int) -> None:
        """Have the steps of a run taken, until it ends or pauses."""
        self._drive(tenant, key, run_id, turn_id(run_id, turn))

    def expiry(self, tenant: Tenant, key: str, approval_id: str, at: datetime) -> None:
        """Have an approval looked at once it has expired."""
        seconds = (at - datetime.now(UTC)).total_seconds() + _AFTER_EXPIRY
        told = (*_told(tenant), key, approval_id)
        self._client.enqueue(EXPIRE, *told, queue=QUEUE, id=f"expire/{approval_id}", delay=seconds)

    def schedule(self, tenant: Tenant, key: str, trigger_id: str, cron: str, timezone: str | None) -> None:
        """Have a trigger fired at each time of a schedule, which takes the place of the one that it had."""
        context = {
            "tenant_id": str(tenant.id),
            "slug": tenant.slug,
            "workflow_key": key,
            "trigger_id": trigger_id,
        }
        name = _schedule_name(tenant, trigger_id)
        self._client.schedule(name, FIRE, cron, timezone=timezone, context=context, queue=QUEUE)

    def unschedule(self, tenant: Tenant, trigger_id: str) -> None:
        """Have a trigger fired no more."""
        self._client.unschedule(_schedule_name(tenant, trigger_id))

    def restore(self, storage: Storage, tenant: Tenant) -> int:
        """Ask again for all that a tenant's runs and triggers wait for, where the durable engine has none of it; how
        many runs were set going."""
        return drive(self._restore(storage, tenant))

    async def _restore(self, storage: Storage, tenant: Tenant) -> int:
        restored = 0
        async for run in find_all(storage, tenant, RUNS, {"status": "running"}, "sync"):
            restored += self._again(tenant, run)
        async for run in find_all(storage, tenant, RUNS, {"paused_for": "approval"}, "sync"):
            approval = await find(storage, tenant, APPROVALS, run.data["approval_id"], "sync")
            if approval is not None:
                at = datetime.fromisoformat(approval.data["expires_at"])
                self.expiry(tenant, run.data["workflow_key"], approval.id, at)
        async for trigger in find_all(storage, tenant, TRIGGERS, {"type": "schedule", "status": "active"}, "sync"):
            told = trigger.data["trigger"]
            key = trigger.data["workflow_key"]
            self.schedule(tenant, key, trigger.id, told["schedule"], told.get("timezone", "UTC"))
        return restored

    def _again(self, tenant: Tenant, run: Record) -> bool:
        id = turn_id(run.id, run.data["turn"])
        there = self._client.look(id).get(id)
        if there is not None and there.status in _UNDER_WAY:
            return False
        # One that has ended stays under its id.
        self._drive(tenant, run.data["workflow_key"], run.id, id if there is None else f"{id}/{uuid7()}")
        return True

    def _drive(self, tenant: Tenant, key: str, run_id: str, id: str) -> None:
        self._client.enqueue(DRIVE, *_told(tenant), key, run_id, queue=QUEUE, id=id)


def turn_id(run_id: str, turn: int) -> str:
    """The id of the execution that is a turn of a run."""
    return f"{run_id}/{turn}"


def tenant_from(id: str, slug: str) -> Tenant:
    """A tenant as the durable engine keeps it."""
    return Tenant(UUID(id), slug)


def _told(tenant: Tenant) -> tuple[str, str]:
    return str(tenant.id), tenant.slug


def _schedule_name(tenant: Tenant, trigger_id: str) -> str:
    return f"{tenant.id}/{trigger_id}"
