"""`Inbox`: a consumer that takes in each event once, however often it is delivered."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from returns.result import Failure, Result, Success

from actionengine.action_context import ActionContext
from actionengine.concurrency.fair_lock import FairLock
from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.context import Actor, RequestContext, Tenant
from actionengine.engine import Engine
from actionengine.errors import ActionError, ConfigurationError, ErrorCode
from actionengine.events.consumers.consumer import (
    TenantOf,
    Tenants,
    as_result,
    call_consumer,
    consumer_plan,
    handler_for,
    validate_name,
)
from actionengine.events.event import Event
from actionengine.pipeline.internal_context import InternalContext
from actionengine.storage.errors import SerializationFailure
from actionengine.storage.records import RESERVED_PREFIX

Consume = Callable[[Event, ActionContext], Any]

INBOX = f"{RESERVED_PREFIX}inbox"
"""The collection of marks: `<consumer>/<event id>` for each event that was taken in."""

_DELIVERY_TIMEOUT = 30.0
"""Seconds that a delivery waits, within this process, for another one of the same event."""

_PAGE = 500


class Inbox:
    """A consumer that takes in each event once, for any number of deliveries and processes.

    A mark for the event is written in the transaction of the consumer's own writes: both are stored, or neither. Marks
    do not expire; `forget` removes old ones.

    Args:
        engine: executes the consumer. Its executions stand in the action log as `inbox.<consumer>`.
        consumer: the name of the marks. Consumers of different names take in each event once each.
        actor: the actor of the executions; `Actor.integration(consumer)` by default.
        tenant_of: the tenant of an id, for a host with a tenant directory of its own.

    Raises:
        ConfigurationError: for a name with a dot or a slash in it, or of more than 100 characters.
    """

    def __init__(
        self, engine: Engine, consumer: str, *, actor: Actor | None = None, tenant_of: TenantOf | None = None
    ) -> None:
        validate_name("a consumer", consumer)
        if actor is not None and not isinstance(actor, Actor):
            raise ConfigurationError(f"the consumer {consumer!r} needs an Actor as its actor, not {actor!r}")
        tenants = Tenants(engine.storage, tenant_of)
        self._consumer = _Consumer(engine, consumer, actor or Actor.integration(consumer), tenants)

    def handle(self, event: Event, function: Consume) -> Result[bool, ActionError]:
        """Take in an event with `function(event, ctx)`, a `def` that returns None or a `Result`.

        Return `Success(True)` if it ran, and `Success(False)` if the event was taken in before. With a `Failure`
        nothing is written, and the event can be delivered again. It is the function's own `Failure`, `handler_error` if
        the function raised, `conflict` if another delivery of the event takes too long, or `unavailable`.
        """
        return run_sync(as_result(_Intake(self._consumer, "sync").take_in(event, function)))

    async def handle_async(self, event: Event, function: Consume) -> Result[bool, ActionError]:
        """Do the same under an event loop, for an `async def` function or a `def` one."""
        return await as_result(_Intake(self._consumer, "async").take_in(event, function))

    def forget(self, tenant: Tenant, *, before: datetime) -> Result[int, ActionError]:
        """Remove the marks that this consumer made before a time, in batches, and return their number.

        An event that is delivered again afterwards is taken in again: choose a time that no redelivery by a broker and
        no dead letter reaches.
        """
        return run_sync(as_result(_Intake(self._consumer, "sync").forget(tenant, before)))

    async def forget_async(self, tenant: Tenant, *, before: datetime) -> Result[int, ActionError]:
        """Do the same under an event loop."""
        return await as_result(_Intake(self._consumer, "async").forget(tenant, before))


class _EventLocks:
    """A lock for each event that is being taken in in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[tuple[UUID, str], tuple[FairLock, list[object]]] = {}

    @asynccontextmanager
    async def hold(self, event: Event, mode: Mode) -> AsyncIterator[None]:
        """Hold the lock of an event, without a connection while waiting for it. Raise `ActionError(conflict)`."""
        key, holder = (event.tenant_id, event.id), object()
        with self._lock:
            lock, deliveries = self._held.setdefault(key, (FairLock(), []))
            deliveries.append(holder)
        try:
            if not await lock.acquire(holder, mode, _DELIVERY_TIMEOUT):
                message = f"another delivery of the event {event.id} has taken more than {_DELIVERY_TIMEOUT:g} s"
                raise ActionError(ErrorCode.CONFLICT, f"{message}: try again", {"event": event.id})
            try:
                yield
            finally:
                lock.release(holder)
        finally:
            with self._lock:
                deliveries.remove(holder)
                if not deliveries:
                    del self._held[key]


@dataclass(frozen=True, slots=True)
class _Consumer:
    """The settings of an inbox, and the locks that its deliveries share."""

    engine: Engine
    name: str
    actor: Actor
    tenants: Tenants
    locks: _EventLocks = field(default_factory=_EventLocks)


class _Intake:
    """An inbox in one mode."""

    def __init__(self, consumer: _Consumer, mode: Mode) -> None:
        self._consumer = consumer
        self._mode = mode

    async def take_in(self, event: Event, function: Consume) -> Result[bool, ActionError]:
        tenant = await self._consumer.tenants.find(event.tenant_id, self._mode)

        async def work(ctx: InternalContext) -> Result[bool, ActionError]:
            if not await self._record_delivery(event, ctx):
                return Success(False)
            await call_consumer("the consumer", function, event, ctx.as_action_context())
            return Success(True)

        plan = consumer_plan("inbox", self._consumer.name, handler_for(work, function))
        reason = f"event {event.type} {event.id}"
        context = RequestContext(tenant, self._consumer.actor, "event", reason=reason, request_id=event.id)
        payload = {"event": event.id, "type": event.type, "position": event.position}
        async with self._consumer.locks.hold(event, self._mode):
            return await self._consumer.engine.execute_plan(plan, payload, context, self._mode)

    async def _record_delivery(self, event: Event, ctx: InternalContext) -> bool:
        """Write the mark of an event, which locks out other deliveries. Return whether it was not there yet."""
        if event.subject is not None:
            ctx.add_subject(event.subject)
        marks = ctx.unit_of_work.records(INBOX)
        id = f"{self._consumer.name}/{event.id}"
        try:
            await marks.insert({"type": event.type}, id)
        except ActionError as refusal:
            if refusal.code is not ErrorCode.CONFLICT:
                raise
            if await marks.get(id) is None:
                # Another delivery holds the mark, or has committed it since this transaction began to read.
                raise SerializationFailure(f"the event {event.id} is being taken in by another delivery") from None
            return False
        return True

    async def forget(self, tenant: Tenant, before: datetime) -> Result[int, ActionError]:
        if before.tzinfo is None:
            message = f"`before` must be a time with a time zone, not {before!r}"
            return Failure(ActionError(ErrorCode.INVALID_INPUT, message))
        first, forgotten = f"{self._consumer.name}/", 0
        after = first
        # Marks are in the order of their events' ids, which begin with the time: no mark is older than its event.
        last = f"{first}{_first_id(before)}"

        async def work(ctx: InternalContext) -> Result[dict[str, Any], ActionError]:
            marks = ctx.unit_of_work.records(INBOX)
            page = await marks.list(limit=_PAGE, after=after)
            mine = [mark for mark in page if first < mark.id < last]
            old = [mark for mark in mine if mark.created_at < before]
            for mark in old:
                await marks.delete(mark.id, mark.version)
            is_last = len(mine) < len(page)
            return Success({"forgotten": len(old), "next": None if is_last else page.next})

        while after:
            plan = consumer_plan("inbox", f"{self._consumer.name}:forget", handler_for(work))
            reason = f"marks from before {before.isoformat()}"
            context = RequestContext(tenant, self._consumer.actor, "event", reason=reason)
            answer = await self._consumer.engine.execute_plan(plan, {"after": after}, context, self._mode)
            if isinstance(answer, Failure):
                return answer
            found = answer.unwrap()
            forgotten += found["forgotten"]
            after = found["next"]
        return Success(forgotten)


def _first_id(time: datetime) -> str:
    """Return the beginning of a UUIDv7 of this time (RFC 9562, section 5.7: 48 bits of milliseconds)."""
    digits = f"{max(0, int(time.timestamp() * 1000)):012x}"
    return f"{digits[:8]}-{digits[8:]}"
