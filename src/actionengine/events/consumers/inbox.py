"""`Inbox`: a consumer that may get an event more than once, and takes it in once."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
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
from actionengine.events.consumers.consumer import as_result, check_returned, consumer_plan, validate_name
from actionengine.events.consumers.tenants import TenantOf, Tenants
from actionengine.events.event import Event
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.plan import is_async, sync_and_async
from actionengine.storage.port import RESERVED_PREFIX, SerializationFailure

Consume = Callable[[Event, ActionContext], Any]

INBOX = f"{RESERVED_PREFIX}inbox"
"""The collection of marks: `<consumer>/<event id>` for each event that was taken in."""

_DELIVERY_TIMEOUT = 30.0
"""Seconds that a delivery waits, within this process, for another one of the same event."""

_PAGE = 500


class Inbox:
    """Takes in each event once, whoever delivers it, however often, and in however many processes.

    A mark for the event is written in the transaction of what its consumer writes: both are there, or neither. Marks do
    not expire; `forget` removes old ones.

    Args:
        engine: where consumers execute. What they do stands in the action log as `inbox.<consumer>`.
        consumer: the name under which marks are kept. Consumers of different names get each event once each.
        actor: who acts; `Actor.integration(consumer)` by default.
        tenant_of: the tenant of an id, for a host with a directory of its own.

    Raises:
        ConfigurationError: for a name with a dot or a slash in it, or of more than 100 characters.
    """

    def __init__(
        self, engine: Engine, consumer: str, *, actor: Actor | None = None, tenant_of: TenantOf | None = None
    ) -> None:
        self._engine = engine
        self._consumer = validate_name("a consumer", consumer)
        if actor is not None and not isinstance(actor, Actor):
            raise ConfigurationError(f"the consumer {consumer!r} acts as an Actor, not as {actor!r}")
        self._actor = actor or Actor.integration(consumer)
        self._tenants = Tenants(engine.storage, tenant_of)
        self._lock = threading.Lock()
        self._in_hand: dict[tuple[UUID, str], _Delivery] = {}

    def handle(self, event: Event, function: Consume) -> Result[bool, ActionError]:
        """Take in an event with `function(event, ctx)`, a `def` that returns None or a `Result`.

        `Success(True)` where it ran, and `Success(False)` where the event had been taken in before. With a `Failure`
        nothing is written, and the event can be delivered again: what the function failed with, `handler_error` where
        it raised, `conflict` where another delivery of the event takes too long, `unavailable`.
        """
        return run_sync(as_result(self._handle(event, function, "sync")))

    async def handle_async(self, event: Event, function: Consume) -> Result[bool, ActionError]:
        """The same under an event loop, for an `async def` function or a `def` one."""
        return await as_result(self._handle(event, function, "async"))

    def forget(self, tenant: Tenant, *, before: datetime) -> Result[int, ActionError]:
        """Remove the marks that this consumer made before a time, in batches; how many there were.

        An event that is delivered again afterwards is taken in again: choose a time before which no broker and no dead
        letter goes back.
        """
        return run_sync(as_result(self._forget(tenant, before, "sync")))

    async def forget_async(self, tenant: Tenant, *, before: datetime) -> Result[int, ActionError]:
        """The same under an event loop."""
        return await as_result(self._forget(tenant, before, "async"))

    async def _handle(self, event: Event, function: Consume, mode: Mode) -> Result[bool, ActionError]:
        tenant = await self._tenants.find(event.tenant_id, mode)
        plan = consumer_plan("inbox", self._consumer, self._handler(event, function))
        context = RequestContext(
            tenant, self._actor, "event", reason=f"event {event.type} {event.id}", request_id=event.id
        )
        async with self._event_lock(event, mode):
            payload = {"event": event.id, "type": event.type, "position": event.position}
            return await self._engine.execute_consumer(plan, payload, context, mode)

    def _handler(self, event: Event, function: Consume) -> Callable[..., Any]:
        def handle(data: Any, ctx: InternalContext) -> Result[bool, ActionError]:
            if not ctx.run_sync(self._record_delivery(event, ctx)):
                return Success(False)
            check_returned("the consumer", function(event, ctx.as_action_context()))
            return Success(True)

        async def handle_async(data: Any, ctx: InternalContext) -> Result[bool, ActionError]:
            if not await self._record_delivery(event, ctx):
                return Success(False)
            check_returned("the consumer", await function(event, ctx.as_action_context()))
            return Success(True)

        return handle_async if is_async(function) else handle

    async def _record_delivery(self, event: Event, ctx: InternalContext) -> bool:
        """Return whether the event is ours to take in: its mark was not there yet. It locks out other deliveries."""
        if event.subject is not None:
            ctx.add_subject(event.subject)
        marks = ctx.unit_of_work.records(INBOX)
        id = f"{self._consumer}/{event.id}"
        try:
            await marks.insert({"type": event.type}, id)
        except ActionError as refusal:
            if refusal.code is not ErrorCode.CONFLICT:
                raise
            if await marks.get(id) is None:
                # Another delivery has it in hand, or has committed since this transaction began to read.
                raise SerializationFailure(f"the event {event.id} is being taken in by another delivery") from None
            return False
        return True

    @asynccontextmanager
    async def _event_lock(self, event: Event, mode: Mode) -> AsyncIterator[None]:
        """Deliveries of one event in this process go one after the other, without a connection while they wait."""
        key, who = (event.tenant_id, event.id), object()
        with self._lock:
            delivery = self._in_hand.setdefault(key, _Delivery())
            delivery.number += 1
        try:
            if not await delivery.turns.acquire(who, mode, _DELIVERY_TIMEOUT):
                raise ActionError(
                    ErrorCode.CONFLICT,
                    f"another delivery of the event {event.id} takes long: try again",
                    {"event": event.id},
                )
            try:
                yield
            finally:
                delivery.turns.release(who)
        finally:
            with self._lock:
                delivery.number -= 1
                if not delivery.number:
                    del self._in_hand[key]

    async def _forget(self, tenant: Tenant, before: datetime, mode: Mode) -> Result[int, ActionError]:
        if before.tzinfo is None:
            return Failure(ActionError(ErrorCode.INVALID_INPUT, f"`before` is a time with its zone, not {before!r}"))
        after, forgotten = f"{self._consumer}/", 0
        while after:
            plan = consumer_plan("inbox", f"{self._consumer}:forget", self._forgetter(after, before))
            context = RequestContext(tenant, self._actor, "event", reason=f"marks from before {before.isoformat()}")
            answer = await self._engine.execute_consumer(plan, {"after": after}, context, mode)
            if isinstance(answer, Failure):
                return answer
            found = answer.unwrap()
            forgotten += found["forgotten"]
            after = found["next"]
        return Success(forgotten)

    def _forgetter(self, after: str, before: datetime) -> Callable[..., Any]:
        # Marks are in the order of their events' ids, which begin with the time: none is older than its event.
        first, last = f"{self._consumer}/", f"{self._consumer}/{_first_id(before)}"

        @sync_and_async
        async def forget(data: Any, ctx: InternalContext) -> Result[dict[str, Any], ActionError]:
            marks = ctx.unit_of_work.records(INBOX)
            page = await marks.list(limit=_PAGE, after=after)
            mine = [mark for mark in page if first < mark.id < last]
            old = [mark for mark in mine if mark.created_at < before]
            for mark in old:
                await marks.delete(mark.id, mark.version)
            is_last = len(mine) < len(page)
            return Success({"forgotten": len(old), "next": None if is_last else page.next})

        return forget


class _Delivery:
    """The deliveries of one event that are under way in this process."""

    __slots__ = ("number", "turns")

    def __init__(self) -> None:
        self.number = 0
        self.turns = FairLock()


def _first_id(time: datetime) -> str:
    """What a UUIDv7 of this time begins with (RFC 9562, section 5.7: 48 bits of milliseconds)."""
    digits = f"{max(0, int(time.timestamp() * 1000)):012x}"
    return f"{digits[:8]}-{digits[8:]}"
