"""`WorkflowPublisher`: the publisher that enqueues runs and fires triggers when relays give it events."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast
from weakref import WeakKeyDictionary

from pydantic_core import from_json
from returns.result import Failure

from actionengine.conditions.conditions import evaluate
from actionengine.context import Actor, ActorType, Tenant
from actionengine.durable.client import DurableClient
from actionengine.durable.database import ANSWER_TIMEOUT, CONNECT_TIMEOUT, Bounds, DurableUnavailable
from actionengine.engine import Engine
from actionengine.errors import ActionError, ErrorCode
from actionengine.events.consumers.consumer import TenantOf, Tenants
from actionengine.events.event import Event
from actionengine.events.publishers.port import Failures, PublishError, PublisherUnavailable, failed_action
from actionengine.pipeline.stored_actor import StoredActor
from actionengine.storage.errors import StorageUnavailable
from actionengine.storage.outbox import TRIGGERS, WORKFLOWS
from actionengine.storage.port import Storage
from actionengine.storage.records import APPROVALS
from actionengine.storage.rows import Record
from actionengine.text.names import nfc
from actionengine.workflows.definitions.parse import parse_trigger
from actionengine.workflows.definitions.triggers import EventTrigger
from actionengine.workflows.runs.events import (
    REFUSALS,
    TRIGGER_CHANGED,
    WORKFLOW_ENDED,
    WORKFLOW_RESUMED,
    WORKFLOW_STARTED,
)
from actionengine.workflows.runs.start import run_principal
from actionengine.workflows.runs.store import TRIGGERS as TRIGGER_DOCUMENTS
from actionengine.workflows.runtime.queries import Queries
from actionengine.workflows.runtime.scheduler import Scheduler
from actionengine.workflows.runtime.step_actions import RolesOf, StepActions, to_trigger_input
from actionengine.workflows.services.steps import RETRYABLE, SERVICE
from actionengine.workflows.services.triggers import sees

logger = logging.getLogger("actionengine")

_MAX_CONCURRENT_STARTS = 4
"""Runs that triggers start at the same time. Each takes a connection."""


class WorkflowPublisher:
    """A publisher that continues runs after `workflows.start`, an approval or a trigger has committed.

    Each `WorkflowRuntime` has one, and relays to it. Another relay needs one only where runtimes may not relay. It
    takes events from two queues of the outbox, `workflows` and `triggers`, which the host's publishers do not use.

    It performs no step. It enqueues the run in the durable engine, and a `WorkflowRuntime` in this process or another
    takes it from there. A repeated event has no further effect.

    Args:
        engine: the engine with the services of workflows.
        url: the durable engine's database, the same as that of the runtimes.
        tenant_of: a function from an id to its tenant, for a host with its own directory of tenants.
        roles: the roles of a workflow; see `WorkflowRuntime`.
        concurrency: the number of events that a relay gives it at once, each in its own call.
        connect_timeout: seconds to wait for a new connection to the durable engine's database (PostgreSQL).
        answer_timeout: seconds to wait for the answer to a statement there. After that the connection counts as lost,
            and another one is opened (PostgreSQL).

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
        self._client = DurableClient(url, Bounds(connect_timeout, answer_timeout))
        self._scheduler = Scheduler(self._client)
        self._tenants = Tenants(engine.storage, tenant_of)
        self._actions = StepActions(engine, "async", roles)
        self._queries = Queries(engine.storage, "async")
        self._storage = engine.storage
        self._handlers: Mapping[str, Callable[[Event, Tenant], Any]] = {
            WORKFLOW_STARTED.type: self._enqueue_run,
            WORKFLOW_RESUMED.type: self._enqueue_run,
            TRIGGER_CHANGED.type: self._reschedule,
            "approvals.approve": self._handle_approval,
            **dict.fromkeys(REFUSALS, self._handle_refusal),
        }
        self.queues = {queue: _QueuePublisher(self, queue) for queue in (WORKFLOWS, TRIGGERS)}
        """The publisher of each queue. Events that continue runs do not wait for triggers."""
        self._started: set[str] = set()
        self._start_slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    async def publish(self, events: Sequence[Event], queue: str | None = None) -> Failures:
        """Handle events: the part of one queue, or without `queue` both parts."""
        failures: dict[str, PublishError] = {}
        for event in events:
            try:
                tenant = await self._tenants.find(event.tenant_id, "async")
                if event.type in self._handlers and queue != TRIGGERS:
                    await self._handlers[event.type](event, tenant)
                if queue != WORKFLOWS:
                    if event.type == WORKFLOW_ENDED.type and event.payload.get("approval_id") is not None:
                        # A cancelled run waits for its approval no more. No other queue has this event.
                        await self._cancel_expiry(event.payload["approval_id"])
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
            self._scheduler.enqueue_run, tenant, payload["workflow_key"], payload["run_id"], payload["dispatch"]
        )

    async def _handle_refusal(self, event: Event, tenant: Tenant) -> None:
        approval_id = event.payload["input"]["approval_id"]
        record = await self._find_step_approval(approval_id, tenant)
        if record is not None:
            answer = await self._actions.decline(tenant, record.data["requester"]["id"], approval_id)
            _check(answer, event)
            await self._cancel_expiry(approval_id)

    async def _handle_approval(self, event: Event, tenant: Tenant) -> None:
        """Cancel the expiry of an approval, and await the further approval that another policy asks for."""
        decided = event.payload["input"]["approval_id"]
        if await self._find_step_approval(decided, tenant) is not None:
            await self._cancel_expiry(decided)
        approval_id = (event.payload["output"] or {}).get("further_approval_id")
        record = await self._find_step_approval(approval_id, tenant) if approval_id is not None else None
        if record is None:
            return
        key, at = record.data["requester"]["id"], from_json(record.data["payload"])
        left = await self._queries.seconds_left(tenant, record.id)
        await asyncio.to_thread(self._scheduler.schedule_expiry, tenant, key, record.id, left or 0.0)
        answer = await self._actions.await_approval(tenant, key, at["run_id"], at["position"], record.id)
        _check(answer, event)

    async def _cancel_expiry(self, approval_id: str) -> None:
        await asyncio.to_thread(self._scheduler.cancel_expiry, approval_id)

    async def _find_step_approval(self, approval_id: str, tenant: Tenant) -> Record | None:
        """Return an approval if a step of a workflow waits for it."""
        record = await self._queries.find(tenant, APPROVALS, approval_id)
        return record if record is not None and record.data["service"] == SERVICE else None

    async def _reschedule(self, event: Event, tenant: Tenant) -> None:
        payload = event.payload
        if payload["schedule"] is None:
            await asyncio.to_thread(self._scheduler.unschedule, tenant, payload["trigger_id"])
            return
        arguments = (payload["workflow_key"], payload["trigger_id"], payload["schedule"], payload["timezone"])
        await asyncio.to_thread(self._scheduler.schedule, tenant, *arguments)

    async def _fire(self, event: Event, tenant: Tenant) -> None:
        """Start the runs that an event triggers. A run that cannot start does not block the others."""
        by_workflow: dict[str, list[str]] = {}
        wanted = {"event_type": nfc(event.type), "status": "active"}
        async for trigger in self._queries.find_all(tenant, TRIGGER_DOCUMENTS, wanted):
            if event.actor_type == "workflow" and not trigger.data["trigger"].get("from_workflows", False):
                continue
            if sees(trigger, event.position) and _may_match(trigger, event):
                by_workflow.setdefault(trigger.data["workflow_key"], []).append(trigger.id)
        if not by_workflow:
            return
        stored = await _stored_chain(event, tenant, self._storage) if event.on_behalf_of else None
        try:
            principal = run_principal(_actor_of(event, stored)) if event.on_behalf_of else None
        except (ActionError, ValueError) as refusal:
            # No trigger can mend the chain. The event does not wait for it.
            logger.warning("the event %s of the type %s starts no run: %s", event.id, event.type, refusal)
            return
        slots = self._start_slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(_MAX_CONCURRENT_STARTS))

        async def start(key: str, trigger_ids: Sequence[str]) -> PublishError | None:
            async with slots:
                return await self._start(event, tenant, key, trigger_ids, principal)

        for failed in await asyncio.gather(*(start(*each) for each in by_workflow.items())):
            if failed is not None:
                raise failed

    async def _start(
        self, event: Event, tenant: Tenant, key: str, trigger_ids: Sequence[str], principal: Actor | None
    ) -> PublishError | None:
        """Start the run of a workflow for an event, by the first of its triggers that matches."""
        failed: PublishError | None = None
        for trigger_id in trigger_ids:
            answer = await self._actions.fire_event(tenant, key, trigger_id, event, principal)
            if isinstance(answer, Failure) and answer.failure().code not in _RETRYABLE:
                # The trigger is wrong. The event does not wait for it.
                logger.warning("the trigger %s of the workflow %s failed: %s", trigger_id, key, answer.failure())
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
    """The part of a publisher for one queue."""

    batch_size = 1

    def __init__(self, whole: WorkflowPublisher, queue: str) -> None:
        self.name = f"{type(whole).__name__}, {queue}"
        self.concurrency = whole.concurrency
        self._whole = whole
        self._queue = queue

    async def publish(self, events: Sequence[Event]) -> Failures:
        """Handle events."""
        return await self._whole.publish(events, self._queue)

    def start(self) -> None:
        """Count this queue as started."""
        self._whole._start_at(self._queue)

    async def stop(self) -> None:
        """Stop the publisher with its last queue."""
        await self._whole._stop_at(self._queue)


async def _stored_chain(event: Event, tenant: Tenant, storage: Storage) -> bytes | None:
    """Return the chain with its rights that the event log has of an event."""
    found = await storage.read_events_async(tenant, after=event.position - 1, limit=1)
    return next((stored.event.chain for stored in found if stored.event.id == event.id), None)


def _actor_of(event: Event, stored: bytes | None) -> Actor:
    """Return the actor of an event with the chain behind it. Without a stored chain, the actors have the rights that
    the authorizer finds. Raise `ValueError` for names of no actors."""
    if stored is not None:
        return StoredActor.model_validate_json(stored).actor
    actor: Actor | None = None
    for name in reversed((f"{event.actor_type}:{event.actor_id}", *event.on_behalf_of)):
        type, _, id = name.partition(":")
        actor = Actor(cast("ActorType", type), id, on_behalf_of=actor)
    assert actor is not None
    return actor


def _may_match(record: Record, event: Event) -> bool:
    """Return whether the condition of a trigger holds for an event. A condition that fails is reported by firing."""
    try:
        trigger = parse_trigger(record.data["trigger"], stored=True)
        when = trigger.when if isinstance(trigger, EventTrigger) else None
        return when is None or evaluate(when, {"input": to_trigger_input(event)})
    except ActionError:
        return True


_RETRYABLE = RETRYABLE | {ErrorCode.INTERNAL}


def _check(answer: Any, event: Event) -> None:
    if isinstance(answer, Failure):
        failed = failed_action(answer.failure(), event.type)
        if failed is not None:
            raise failed
