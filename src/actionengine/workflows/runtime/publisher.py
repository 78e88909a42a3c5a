"""`WorkflowPublisher`: what relays give events to, so that runs are set going and triggers fire."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from pydantic_core import from_json
from returns.result import Failure

from actionengine.conditions.conditions import evaluate
from actionengine.context import Tenant
from actionengine.durable.client import DurableClient
from actionengine.durable.database import ANSWER_TIMEOUT, CONNECT_TIMEOUT, Bounds, DurableUnavailable
from actionengine.engine import Engine
from actionengine.errors import ActionError, ErrorCode
from actionengine.events.consumers.consumer import TenantOf, Tenants
from actionengine.events.event import Event
from actionengine.events.publishers.port import Failures, PublishError, PublisherUnavailable, failed_action
from actionengine.storage.errors import StorageUnavailable
from actionengine.storage.outbox import TRIGGERS, WORKFLOWS
from actionengine.storage.records import APPROVALS
from actionengine.storage.rows import Record
from actionengine.text.names import nfc
from actionengine.workflows.definitions.triggers import EventTrigger
from actionengine.workflows.runs.events import ENDED, REFUSALS, RESUMED, STARTED, TRIGGER_CHANGED
from actionengine.workflows.runs.store import TRIGGERS as TRIGGER_DOCUMENTS
from actionengine.workflows.runtime.queries import find, find_all, seconds_left
from actionengine.workflows.runtime.run_executor import RolesOf, StepActions, to_trigger_input
from actionengine.workflows.runtime.scheduler import Scheduler
from actionengine.workflows.services.steps import RETRYABLE, SERVICE
from actionengine.workflows.services.triggers import parse_trigger, sees

logger = logging.getLogger("actionengine")

_STARTS_AT_ONCE = 4
"""Runs that triggers start at the same time: each takes a connection."""


class WorkflowPublisher:
    """Sets runs going when `workflows.start`, an approval or a trigger has committed: a publisher, for a relay.

    Each `WorkflowRuntime` has one, and relays to it; another relay needs one only where runtimes may not relay. It
    takes events from two queues of the outbox that are its own, `workflows` and `triggers`, and shares nothing with
    the host's.

    It executes no step: it asks the durable engine, in whose queue a `WorkflowRuntime` finds the run, in this process
    or another. Being told of an event twice does nothing twice.

    Args:
        engine: the engine with the services of workflows.
        url: the durable engine's database, the same as the runtimes have.
        tenant_of: the tenant of an id, for a host with a directory of its own.
        roles: what a workflow may do, as `WorkflowRuntime` says.
        concurrency: how many events a relay gives it at once, each in a call of its own.
        connect_timeout: seconds to wait for a new connection to the durable engine's database (PostgreSQL).
        answer_timeout: seconds to wait for the answer to a statement there; then the connection counts as lost, and
            another one is opened (PostgreSQL).

    Raises:
        ConfigurationError: for a URL of neither PostgreSQL nor SQLite.
    """

    batch_size = 1

    def __init__(
        self,
        engine: Engine,
        url: str | os.PathLike[str],
        *,
        tenant_of: TenantOf | None = None,
        roles: RolesOf | None = None,
        concurrency: int = 4,
        connect_timeout: float = CONNECT_TIMEOUT,
        answer_timeout: float = ANSWER_TIMEOUT,
    ) -> None:
        self.concurrency = concurrency
        self._engine = engine
        self._client = DurableClient(url, Bounds(connect_timeout, answer_timeout))
        self._agenda = Scheduler(self._client)
        self._tenants = Tenants(engine.storage, tenant_of)
        self._executions = StepActions(engine, roles)
        self._handlers: Mapping[str, Callable[[Event, Tenant], Any]] = {
            STARTED.type: self._enqueue_run,
            RESUMED.type: self._enqueue_run,
            TRIGGER_CHANGED.type: self._reschedule,
            "approvals.approve": self._approved,
            **dict.fromkeys(REFUSALS, self._decline),
        }
        self.queues = {queue: _QueuePublisher(self, queue) for queue in (WORKFLOWS, TRIGGERS)}
        """Who takes events from which queue: what moves runs on does not wait for triggers."""
        self._started: set[str] = set()
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    async def publish(self, events: Sequence[Event], queue: str | None = None) -> Failures:
        """Do what these events ask for: in one of the queues its part, and all of it where none is named."""
        failures: dict[str, PublishError] = {}
        for event in events:
            try:
                tenant = await self._tenants.find(event.tenant_id, "async")
                if event.type in self._handlers and queue != TRIGGERS:
                    await self._handlers[event.type](event, tenant)
                if queue != WORKFLOWS:
                    if event.type == ENDED.type:
                        await self._ended(event)
                    await self._fire(event, tenant)
            except PublishError as error:
                failures[event.id] = error
            except (StorageUnavailable, DurableUnavailable) as error:
                failures[event.id] = PublisherUnavailable(str(error))
            except ActionError as refusal:
                failures[event.id] = failed_action(refusal.without_traceback(), event.type) or PublishError(
                    str(refusal)
                )
        return failures

    async def stop(self) -> None:
        """Close the connections to the durable engine."""
        await asyncio.to_thread(self._client.close)

    def _start_at(self, queue: str) -> None:
        self._started.add(queue)

    async def _stop_at(self, queue: str) -> None:
        self._started.discard(queue)
        if not self._started:
            await self.stop()

    async def _enqueue_run(self, event: Event, tenant: Tenant) -> None:
        payload = event.payload
        await asyncio.to_thread(
            self._agenda.enqueue_run, tenant, payload["workflow_key"], payload["run_id"], payload["dispatch"]
        )

    async def _decline(self, event: Event, tenant: Tenant) -> None:
        approval_id = event.payload["input"]["approval_id"]
        record = await self._approval_of_step(approval_id, tenant)
        if record is not None:
            key = record.data["requester"]["id"]
            answer = await self._executions.decline(tenant, key, approval_id, "async")
            _check(answer, event)
            await asyncio.to_thread(self._agenda.forget_expiry, approval_id)

    async def _approved(self, event: Event, tenant: Tenant) -> None:
        """Forget when an approval would have expired, and have its run wait for what a further policy asks for."""
        decided = event.payload["input"]["approval_id"]
        if await self._approval_of_step(decided, tenant) is not None:
            await asyncio.to_thread(self._agenda.forget_expiry, decided)
        approval_id = (event.payload["output"] or {}).get("further_approval_id")
        record = await self._approval_of_step(approval_id, tenant) if approval_id is not None else None
        if record is None:
            return
        key, at = record.data["requester"]["id"], from_json(record.data["payload"])
        left = await seconds_left(self._engine.storage, tenant, record.id, "async")
        await asyncio.to_thread(self._agenda.expiry, tenant, key, record.id, left or 0.0)
        answer = await self._executions.await_approval(tenant, key, at["run_id"], at["position"], record.id, "async")
        _check(answer, event)

    async def _ended(self, event: Event) -> None:
        """Forget when the approval would have expired that a cancelled run waited for. No other queue has the event."""
        if event.payload.get("approval_id") is not None:
            await asyncio.to_thread(self._agenda.forget_expiry, event.payload["approval_id"])

    async def _approval_of_step(self, approval_id: str, tenant: Tenant) -> Record | None:
        """An approval that a step of a workflow waits for."""
        record = await find(self._engine.storage, tenant, APPROVALS, approval_id, "async")
        return record if record is not None and record.data["service"] == SERVICE else None

    async def _reschedule(self, event: Event, tenant: Tenant) -> None:
        payload = event.payload
        if payload["schedule"] is None:
            await asyncio.to_thread(self._agenda.unschedule, tenant, payload["trigger_id"])
            return
        about = (payload["workflow_key"], payload["trigger_id"], payload["schedule"], payload["timezone"])
        await asyncio.to_thread(self._agenda.schedule, tenant, *about)

    async def _fire(self, event: Event, tenant: Tenant) -> None:
        """Start the runs that an event triggers. One that cannot be started keeps no other from its start."""
        by_workflow: dict[str, list[str]] = {}
        wanted = {"event_type": nfc(event.type), "status": "active"}
        async for trigger in find_all(self._engine.storage, tenant, TRIGGER_DOCUMENTS, wanted, "async"):
            if event.actor_type == "workflow" and not trigger.data["trigger"].get("from_workflows", False):
                continue
            if sees(trigger, event.position) and _may_match(trigger, event):
                by_workflow.setdefault(trigger.data["workflow_key"], []).append(trigger.id)
        turns = self._turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(_STARTS_AT_ONCE))

        async def start(key: str, trigger_ids: Sequence[str]) -> PublishError | None:
            async with turns:
                return await self._start(event, tenant, key, trigger_ids)

        for failed in await asyncio.gather(*(start(*each) for each in by_workflow.items())):
            if failed is not None:
                raise failed

    async def _start(self, event: Event, tenant: Tenant, key: str, trigger_ids: Sequence[str]) -> PublishError | None:
        """Start the run of a workflow for an event: the first of its triggers that does is enough."""
        failed: PublishError | None = None
        for trigger_id in trigger_ids:
            answer = await self._executions.fire_event(tenant, key, trigger_id, event, "async")
            if isinstance(answer, Failure) and answer.failure().code not in _TRY_AGAIN:
                # The trigger is to blame, not the event, which others wait for.
                logger.warning("the trigger %s of %s: %s", trigger_id, key, answer.failure())
                continue
            try:
                _check(answer, event)
            except PublishError as error:
                failed = failed or error
                continue
            if answer.unwrap() is not None:
                break
        return failed


class _QueuePublisher:
    """A publisher's part at one of its queues."""

    batch_size = 1

    def __init__(self, whole: WorkflowPublisher, queue: str) -> None:
        self.name = f"{type(whole).__name__}, {queue}"
        self.concurrency = whole.concurrency
        self._whole = whole
        self._queue = queue

    async def publish(self, events: Sequence[Event]) -> Failures:
        """Do what these events ask for."""
        return await self._whole.publish(events, self._queue)

    def start(self) -> None:
        """Begin."""
        self._whole._start_at(self._queue)

    async def stop(self) -> None:
        """End."""
        await self._whole._stop_at(self._queue)


def _may_match(record: Record, event: Event) -> bool:
    """Return whether the condition of a trigger holds for an event. What is wrong with one is told when it fires."""
    try:
        trigger = parse_trigger(record.data["trigger"], stored=True)
        when = trigger.when if isinstance(trigger, EventTrigger) else None
        return when is None or evaluate(when, {"input": to_trigger_input(event)})
    except ActionError:
        return True


_TRY_AGAIN = RETRYABLE | {ErrorCode.INTERNAL}


def _check(answer: Any, event: Event) -> None:
    if isinstance(answer, Failure):
        failed = failed_action(answer.failure(), event.type)
        if failed is not None:
            raise failed
