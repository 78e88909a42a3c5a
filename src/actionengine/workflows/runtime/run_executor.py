"""Driving runs: the durable functions, and what they execute through the engine, as the workflow's actor.

A run is driven in turns. A turn is one execution of `execute_run` by the durable engine: it takes step after step until
the run ends or pauses, and is begun anew by another process where its own is killed. Between two turns nothing is held:
a run that waits for an approval costs a row.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from returns.result import Failure, Result, Success

from actionengine.concurrency.backoff import delay, equal_jitter, sleep
from actionengine.concurrency.run_sync import Mode
from actionengine.context import Actor, RequestContext, Tenant
from actionengine.durable.database import DurableUnavailable
from actionengine.durable.host import Interrupted
from actionengine.engine import Engine
from actionengine.errors import ActionError, ErrorCode
from actionengine.events.event import Event
from actionengine.storage.errors import StorageError
from actionengine.workflows.models import RunCursor
from actionengine.workflows.runs.run import storable_error
from actionengine.workflows.runtime.pauses import MAX_HELD_WAIT, MAX_WAIT, MIN_WAIT, Later, after
from actionengine.workflows.runtime.queries import load_now, seconds_left
from actionengine.workflows.runtime.scheduler import Scheduler
from actionengine.workflows.services.steps import FAILED_STEP, RETRYABLE, SERVICE

T = TypeVar("T")

logger = logging.getLogger("actionengine")

RolesOf = Callable[[Tenant, str], Iterable[str]]
"""The roles that a host gives to a workflow, by tenant and the workflow's key."""

_EARLY = 1.0
"""Seconds by which what is scheduled may come early."""

_REFUSALS = 8
"""Attempts to move a run on that may be refused: over some ten seconds."""

_MAX_STEP_DELAY = 3600.0
"""Seconds between two attempts of a step, at most."""

_MAX_MESSAGE_LENGTH = 200
"""Characters of the message of an error of which no more can be told."""

_TRANSIENT = frozenset({ErrorCode.UNAVAILABLE, ErrorCode.IDEMPOTENCY_IN_PROGRESS})
"""What is waited out: the storage is away, or another process, which may be taken for dead, is at the same step."""

_FINAL = frozenset({ErrorCode.NOT_FOUND, ErrorCode.INVALID_INPUT})
"""What no further attempt mends."""


def to_trigger_input(event: Event) -> dict[str, Any]:
    """Return what a trigger knows of an event, as its `input`."""
    return {
        "payload": event.payload,
        "id": event.id,
        "type": event.type,
        "subject": event.subject,
        "actor": f"{event.actor_type}:{event.actor_id}" if event.actor_type else None,
        "occurred_at": event.occurred_at.isoformat(),
    }


class StepActions:
    """Executes what drives runs, as their workflows."""

    def __init__(self, engine: Engine, roles: RolesOf | None) -> None:
        self._engine = engine
        self._roles = roles

    async def next(self, tenant: Tenant, key: str, run_id: str, mode: Mode) -> Result[RunCursor, ActionError]:
        """Where a run is."""
        return await self._execute("next", {"run_id": run_id}, tenant, key, mode, request_id=run_id)

    async def perform(self, tenant: Tenant, point: RunCursor, mode: Mode) -> Result[RunCursor, ActionError]:
        """Take a step."""
        return await self._at("perform", {}, tenant, point, mode)

    async def fail_step(
        self, tenant: Tenant, point: RunCursor, error: ActionError, mode: Mode
    ) -> Result[RunCursor, ActionError]:
        """Have a step failed for good."""
        details = {name: value for name, value in error.details.items() if name != FAILED_STEP}
        payload = storable_error(ActionError(error.code, error.message, details).to_dict())
        # Under no key: whoever else gives up at this position may do so for another error.
        return await self._at("fail_step", {"error": payload}, tenant, point, mode, has_key=False)

    async def await_approval(
        self, tenant: Tenant, key: str, run_id: str, position: int, approval_id: str, mode: Mode
    ) -> Result[RunCursor, ActionError]:
        """Go on with what became of an approval that a run waits for."""
        payload = {"run_id": run_id, "position": position, "approval_id": approval_id}
        once = f"{run_id}/{position}/{approval_id}"
        return await self._execute("await_approval", payload, tenant, key, mode, once=once, request_id=run_id)

    async def now(self, tenant: Tenant, mode: Mode) -> datetime:
        """Return the time by the storage's clock."""
        return await load_now(self._engine.storage, tenant, mode)

    async def seconds_left(self, tenant: Tenant, approval_id: str, mode: Mode) -> float | None:
        """Return the seconds until an approval expires, by the same clock; None for one that is not pending."""
        return await seconds_left(self._engine.storage, tenant, approval_id, mode)

    async def decline(self, tenant: Tenant, key: str, approval_id: str, mode: Mode) -> Result[Any, ActionError]:
        """Move on a run whose approval is refused."""
        return await self._execute("decline", {"approval_id": approval_id}, tenant, key, mode)

    async def fire_event(
        self, tenant: Tenant, key: str, trigger_id: str, event: Event, mode: Mode
    ) -> Result[Any, ActionError]:
        """Start what an event triggers, once."""
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
        once = f"{trigger_id}/{event.id}"
        reason = f"event {event.type} {event.id}"
        return await self._execute("fire", payload, tenant, key, mode, once=once, reason=reason)

    async def fire_schedule(
        self, tenant: Tenant, key: str, trigger_id: str, at: datetime, mode: Mode
    ) -> Result[Any, ActionError]:
        """Start what is scheduled for a time, once."""
        due = at.astimezone(UTC).isoformat()
        payload = {
            "trigger_id": trigger_id,
            "input": {"scheduled_at": due},
            "started_by": f"schedule:{trigger_id}",
            "cause": due,
            "at": due,
        }
        once = f"{trigger_id}/{due}"
        return await self._execute("fire", payload, tenant, key, mode, once=once, reason=f"scheduled for {due}")

    async def _at(
        self, action: str, more: dict[str, Any], tenant: Tenant, point: RunCursor, mode: Mode, has_key: bool = True
    ) -> Result[RunCursor, ActionError]:
        payload = {"run_id": point.run_id, "position": point.position, **more}
        once = f"{point.run_id}/{point.position}" if has_key else None
        return await self._execute(
            action,
            payload,
            tenant,
            point.workflow_key,
            mode,
            once=once,
            reason=point.description,
            request_id=point.run_id,
        )

    async def _execute(
        self,
        action: str,
        payload: dict[str, Any],
        tenant: Tenant,
        key: str,
        mode: Mode,
        *,
        once: str | None = None,
        reason: str | None = None,
        request_id: str | None = None,
    ) -> Result[Any, ActionError]:
        try:
            actor = Actor.workflow(key, roles=() if self._roles is None else self._roles(tenant, key))
        except Exception as error:
            logger.exception("the roles of the workflow %s of tenant %s cannot be told", key, tenant.slug)
            message = f"the roles of the workflow {key!r} cannot be told: {type(error).__name__}"
            return Failure(ActionError(ErrorCode.UNAVAILABLE, message))
        context = RequestContext(tenant, actor, "workflow", reason, idempotency_key=once, request_id=request_id)
        return await self._engine.execute(SERVICE, action, payload, context, mode)


class RunExecutor:
    """Takes the steps of runs, one after the other."""

    def __init__(self, executions: StepActions, agenda: Scheduler, stopping: threading.Event) -> None:
        self._executions = executions
        self._agenda = agenda
        self._stopping = stopping

    async def execute_run(
        self,
        tenant: Tenant,
        key: str,
        run_id: str,
        mode: Mode,
        position: int | None = None,
        attempt: int = 1,
        wait: float = MIN_WAIT,
    ) -> str:
        """Take the steps of a run until it ends or pauses; its status then, or `later` where it is gone on with after
        a while. Raises `Interrupted` where the process stops before.

        Where it is still at `position`, it is gone on with by this attempt; `wait` is the pause after the first answer
        that says that something is away.
        """
        try:
            return await self._execute_run(tenant, key, run_id, mode, position, attempt, wait)
        except Later as later:
            about = (tenant, key, run_id, later.position, later.attempt, later.wait, later.seconds)
            await self._in_the_end(lambda: _in_mode(mode, self._agenda.later, *about), mode)
            return "later"

    async def _execute_run(
        self, tenant: Tenant, key: str, run_id: str, mode: Mode, position: int | None, attempt: int, wait: float
    ) -> str:
        answer = await self._moved(lambda: self._executions.next(tenant, key, run_id, mode), mode, wait)
        if isinstance(answer, Failure):
            # There is no such run any more.
            logger.warning("the run %s of tenant %s cannot be driven: %s", run_id, tenant.slug, answer.failure())
            return str(answer.failure().code)
        point = answer.unwrap()
        dispatch = point.dispatch
        if position is not None and point.position != position:
            # The step was taken, and the answer was lost, say.
            attempt = 1
        # Whoever begins another turn has the run set going by itself.
        while point.status == "running" and point.dispatch == dispatch:
            point = await self._take(tenant, point, mode, attempt, wait)
            attempt, wait = 1, MIN_WAIT
        if point.approval_id is not None:
            # A process that dies before this has its turn taken over, and so comes here.
            left = await self._seconds_left(tenant, point.approval_id, mode)
            await self._set_timer(tenant, key, point.approval_id, left or 0.0, mode)
        return str(point.status)

    async def fire_if_due(
        self, tenant: Tenant, key: str, trigger_id: str, at: datetime, mode: Mode, wait: float = MIN_WAIT
    ) -> str:
        """Start what is scheduled for a time; one that comes early, by the clock of its scheduler, comes again."""

        async def is_early() -> bool:
            left = (at - await self._executions.now(tenant, mode)).total_seconds()
            if left > _EARLY:
                await _in_mode(mode, self._agenda.firing, tenant, key, trigger_id, at, left)
            return left > _EARLY

        if await self._in_the_end(is_early, mode):
            return "early"
        try:
            return await self.fire(tenant, key, trigger_id, at, mode, wait)
        except Later as later:
            about = (tenant, key, trigger_id, at, later.seconds, later.wait)
            await self._in_the_end(lambda: _in_mode(mode, self._agenda.firing, *about), mode)
            return "later"

    async def fire(
        self, tenant: Tenant, key: str, trigger_id: str, at: datetime, mode: Mode, wait: float = MIN_WAIT
    ) -> str:
        """Start what is scheduled for a time."""
        answer = await self._moved(
            lambda: self._executions.fire_schedule(tenant, key, trigger_id, at, mode), mode, wait
        )
        if isinstance(answer, Failure):
            logger.warning("the trigger %s of %s: %s", trigger_id, key, answer.failure())
            return str(answer.failure().code)
        return str(answer.unwrap())

    async def expire(self, tenant: Tenant, key: str, approval_id: str, mode: Mode, wait: float = MIN_WAIT) -> str:
        """Move on a run whose approval nobody has decided in time. One that is open is looked at again at its end, and
        a run that cannot be moved on yet a while later."""
        try:
            answer = await self._moved(lambda: self._executions.decline(tenant, key, approval_id, mode), mode, wait)
        except Later as later:
            await self._set_timer(tenant, key, approval_id, later.seconds, mode, later.wait)
            return "later"
        if isinstance(answer, Failure):
            code = answer.failure().code
            if code not in _FINAL:
                await self._set_timer(tenant, key, approval_id, MAX_WAIT, mode)
            return str(code)
        if answer.unwrap() is None and (left := await self._seconds_left(tenant, approval_id, mode)) is not None:
            await self._set_timer(tenant, key, approval_id, left, mode)
            return "early"
        return "done"

    async def _take(self, tenant: Tenant, point: RunCursor, mode: Mode, attempt: int, wait: float) -> RunCursor:
        try:
            while True:
                ask = partial(self._executions.perform, tenant, point, mode)
                answer = await self._with_retry(ask, mode, wait=wait)
                if isinstance(answer, Success):
                    return _unwrapped(answer)
                error = answer.failure()
                if error.code is ErrorCode.APPROVAL_REQUIRED:
                    # The run has paused with it.
                    ask = partial(self._executions.next, tenant, point.workflow_key, point.run_id, mode)
                    return _unwrapped(await self._moved(ask, mode))
                if error.code not in RETRYABLE or attempt >= point.retry_attempts:
                    return await self._give_up(tenant, point, error, mode)
                logger.info("step %s of the run %s is tried again: %s", point.step, point.run_id, error)
                pause = delay(attempt, point.retry_seconds, _MAX_STEP_DELAY)
                attempt, wait = attempt + 1, MIN_WAIT
                if pause > MAX_HELD_WAIT:
                    raise Later(pause)
                await self._pause(mode, pause)
        except Later as later:
            later.position, later.attempt = point.position, attempt
            raise

    async def _seconds_left(self, tenant: Tenant, approval_id: str, mode: Mode) -> float | None:
        return await self._in_the_end(lambda: self._executions.seconds_left(tenant, approval_id, mode), mode)

    async def _set_timer(
        self, tenant: Tenant, key: str, approval_id: str, seconds: float, mode: Mode, wait: float | None = None
    ) -> None:
        """Have an approval looked at in so many seconds."""
        about = (tenant, key, approval_id, seconds, wait)
        await self._in_the_end(lambda: _in_mode(mode, self._agenda.expiry, *about), mode)

    async def _in_the_end(self, ask: Callable[[], Awaitable[T]], mode: Mode) -> T:
        """Return the answer, as soon as the databases can be reached."""
        wait = MIN_WAIT
        while True:
            try:
                return await ask()
            except (DurableUnavailable, StorageError) as error:
                logger.warning("a timer of a workflow cannot be set yet: %s", error)
            await self._pause(mode, wait)
            wait = after(wait)

    async def _give_up(self, tenant: Tenant, point: RunCursor, error: ActionError, mode: Mode) -> RunCursor:
        answer = await self._moved(lambda: self._executions.fail_step(tenant, point, error, mode), mode)
        if isinstance(answer, Failure) and answer.failure().code is ErrorCode.INVALID_INPUT:
            # It is more than the host's limits of payloads allow.
            short = ActionError(error.code, error.message[:_MAX_MESSAGE_LENGTH])
            answer = await self._moved(lambda: self._executions.fail_step(tenant, point, short, mode), mode)
        return _unwrapped(answer)

    async def _moved(self, ask: Callable[[], Any], mode: Mode, wait: float = MIN_WAIT) -> Result[Any, ActionError]:
        """The answer to what only moves a run on: what stands in its way passes. A host's guard, say, that refuses is
        asked again some times."""
        for attempt in range(1, _REFUSALS + 1):
            passes = _TRANSIENT | {ErrorCode.CONFLICT, ErrorCode.TIMEOUT}
            answer = await self._with_retry(ask, mode, passes, wait)
            if isinstance(answer, Success) or answer.failure().code in _FINAL:
                return answer
            logger.warning("a run cannot be moved on, and is asked for again: %s", answer.failure())
            await self._pause(mode, delay(attempt, MIN_WAIT, MAX_WAIT))
        return answer

    async def _with_retry(
        self,
        ask: Callable[[], Any],
        mode: Mode,
        passes: Collection[ErrorCode] = _TRANSIENT,
        wait: float = MIN_WAIT,
    ) -> Result[Any, ActionError]:
        """The answer, as soon as it is another one than these. Raises `Later` after pauses of some seconds."""
        while True:
            if self._stopping.is_set():
                raise Interrupted("this process stops")
            answer: Result[Any, ActionError] = await ask()
            if isinstance(answer, Success):
                return answer
            error = answer.failure()
            if error.code not in passes or FAILED_STEP in error.details:
                return answer
            if wait > MAX_HELD_WAIT:
                raise Later(wait, after(wait))
            await self._pause(mode, wait)
            wait = after(wait)

    async def _pause(self, mode: Mode, seconds: float) -> None:
        until = time.monotonic() + equal_jitter(seconds)
        while (left := until - time.monotonic()) > 0:
            if self._stopping.is_set():
                raise Interrupted("this process stops")
            await sleep(mode, min(left, 0.5))


async def _in_mode(mode: Mode, function: Callable[..., T], *arguments: Any) -> T:
    """Call what blocks: under an event loop it has a thread."""
    return function(*arguments) if mode == "sync" else await asyncio.to_thread(function, *arguments)


def _unwrapped(answer: Result[Any, ActionError]) -> RunCursor:
    if isinstance(answer, Failure):
        # The durable engine keeps the error; the run stays where it is, and can be looked at there.
        raise RuntimeError(f"a run cannot be moved on: {answer.failure()}")
    point: RunCursor = answer.unwrap()
    return point
