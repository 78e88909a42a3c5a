"""The actions that advance runs, executed through the engine as the workflow's actor."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from returns.result import Failure, Result

from actionengine.concurrency.run_sync import Mode
from actionengine.context import Actor, RequestContext, Tenant
from actionengine.engine import Engine
from actionengine.errors import ActionError, ErrorCode
from actionengine.events.event import Event
from actionengine.workflows.models import RunCursor
from actionengine.workflows.runs.run import storable_error
from actionengine.workflows.services.steps import FAILED_STEP, SERVICE

logger = logging.getLogger("actionengine")

RolesOf = Callable[[Tenant, str], Iterable[str]]
"""A host's function from a tenant and a workflow's key to the roles of the workflow."""


def to_trigger_input(event: Event) -> dict[str, Any]:
    """Return the `input` that the condition and the input of a trigger read."""
    return {
        "payload": event.payload,
        "id": event.id,
        "type": event.type,
        "subject": event.subject,
        "actor": f"{event.actor_type}:{event.actor_id}" if event.actor_type else None,
        "occurred_at": event.occurred_at.isoformat(),
    }


class StepActions:
    """The actions of the service `workflow_steps`, in one mode."""

    def __init__(self, engine: Engine, mode: Mode, roles: RolesOf | None = None) -> None:
        self._engine = engine
        self._mode = mode
        self._roles = roles

    async def next(self, tenant: Tenant, key: str, run_id: str) -> Result[RunCursor, ActionError]:
        """Return the cursor of a run."""
        return await self._execute("next", {"run_id": run_id}, tenant, key, request_id=run_id)

    async def perform(self, tenant: Tenant, cursor: RunCursor) -> Result[RunCursor, ActionError]:
        """Perform a step."""
        return await self._execute_at("perform", tenant, cursor, once=f"{cursor.run_id}/{cursor.position}")

    async def fail_step(self, tenant: Tenant, cursor: RunCursor, error: ActionError) -> Result[RunCursor, ActionError]:
        """Fail a step permanently."""
        details = {name: value for name, value in error.details.items() if name != FAILED_STEP}
        payload = storable_error(ActionError(error.code, error.message, details).to_dict())
        # Without a key: another process may fail the step at this position with another error.
        return await self._execute_at("fail_step", tenant, cursor, error=payload)

    async def await_approval(
        self, tenant: Tenant, key: str, run_id: str, position: int, approval_id: str
    ) -> Result[RunCursor, ActionError]:
        """Continue a run that waits for an approval, if that is decided or has expired."""
        payload = {"run_id": run_id, "position": position, "approval_id": approval_id}
        once = f"{run_id}/{position}/{approval_id}"
        return await self._execute("await_approval", payload, tenant, key, once=once, request_id=run_id)

    async def decline(self, tenant: Tenant, key: str, approval_id: str) -> Result[Any, ActionError]:
        """Continue a run whose approval is refused."""
        return await self._execute("decline", {"approval_id": approval_id}, tenant, key, request_id=approval_id)

    async def fire_event(
        self, tenant: Tenant, key: str, trigger_id: str, event: Event, principal: Actor | None
    ) -> Result[Any, ActionError]:
        """Start the run that an event triggers, once, on behalf of a principal, if there is one."""
        known = to_trigger_input(event)
        payload = {
            "trigger_id": trigger_id,
            "input": known,
            "started_by": known["actor"] or f"event:{event.type}",
            "cause": event.id,
            "at": event.occurred_at.isoformat(),
            "action_id": event.action_id if event.actor_type == "workflow" else None,
            "position": event.position,
        }
        reason = f"event {event.type} {event.id}"
        once = f"{trigger_id}/{event.id}"
        return await self._execute(
            "fire", payload, tenant, key, once=once, reason=reason, request_id=event.id, principal=principal
        )

    async def fire_schedule(self, tenant: Tenant, key: str, trigger_id: str, at: datetime) -> Result[Any, ActionError]:
        """Start the run that is scheduled for a time, once."""
        due = at.astimezone(UTC).isoformat()
        payload = {
            "trigger_id": trigger_id,
            "input": {"scheduled_at": due},
            "started_by": f"schedule:{trigger_id}",
            "cause": due,
            "at": due,
        }
        reason = f"scheduled for {due}"
        return await self._execute("fire", payload, tenant, key, once=f"{trigger_id}/{due}", reason=reason)

    async def _execute_at(
        self, action: str, tenant: Tenant, cursor: RunCursor, *, once: str | None = None, **more: Any
    ) -> Result[RunCursor, ActionError]:
        payload = {"run_id": cursor.run_id, "position": cursor.position, **more}
        return await self._execute(
            action,
            payload,
            tenant,
            cursor.workflow_key,
            once=once,
            reason=cursor.description,
            request_id=cursor.run_id,
        )

    async def _execute(
        self,
        action: str,
        payload: dict[str, Any],
        tenant: Tenant,
        key: str,
        *,
        once: str | None = None,
        reason: str | None = None,
        request_id: str | None = None,
        principal: Actor | None = None,
    ) -> Result[Any, ActionError]:
        try:
            roles = () if self._roles is None else self._roles(tenant, key)
            actor = Actor.workflow(key, roles, on_behalf_of=principal)
        except Exception as error:
            logger.exception("the roles function raised for the workflow %s of tenant %s", key, tenant.slug)
            message = f"the roles function raised {type(error).__name__} for the workflow {key!r}: see the log"
            return Failure(ActionError(ErrorCode.UNAVAILABLE, message))
        context = RequestContext(tenant, actor, "workflow", reason, idempotency_key=once, request_id=request_id)
        return await self._engine.execute(SERVICE, action, payload, context, self._mode)
