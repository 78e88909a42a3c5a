"""The executor of runs: the durable functions of the runtime.

A run advances in dispatches. A dispatch is one execution of `execute_run` by the durable engine: it performs step after
step until the run ends or pauses. If its process is killed, another one begins it anew. Between two dispatches nothing
is held: a run that waits for an approval costs a row.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from returns.result import Failure, Result, Success

from actionengine.concurrency.backoff import delay, equal_jitter, next_delay, sleep
from actionengine.concurrency.run_sync import Mode
from actionengine.context import Tenant
from actionengine.durable.database import DurableUnavailable
from actionengine.durable.host import Interrupted
from actionengine.engine import Engine
from actionengine.errors import ActionError, ErrorCode
from actionengine.storage.errors import StorageError
from actionengine.workflows.models import RunCursor
from actionengine.workflows.runtime.queries import Queries
from actionengine.workflows.runtime.scheduler import Scheduler
from actionengine.workflows.runtime.step_actions import RolesOf, StepActions
from actionengine.workflows.services.steps import FAILED_STEP, RETRYABLE

T = TypeVar("T")

logger = logging.getLogger("actionengine")

MIN_WAIT = 0.1
MAX_WAIT = 60.0
"""Seconds between two attempts during an outage, at first and at most."""

MAX_HELD_WAIT = 1.0
"""Seconds of the longest pause in which a run keeps its place; in a longer one another run has it."""

_EARLY = 1.0
"""Seconds by which a scheduled execution may be early."""

_MAX_REFUSALS = 8
"""Attempts to advance a run that may be refused, over some ten seconds."""

_MAX_STEP_DELAY = 3600.0
"""Seconds between two attempts of a step, at most."""

_MAX_MESSAGE_LENGTH = 200
"""Characters of the message of an error that is longer than the host's limits allow."""

_TRANSIENT = frozenset({ErrorCode.UNAVAILABLE, ErrorCode.IDEMPOTENCY_IN_PROGRESS})
"""Errors that pass: the storage is away, or another process, possibly taken for dead, performs the same step."""

_FINAL = frozenset({ErrorCode.NOT_FOUND, ErrorCode.INVALID_INPUT})
"""Errors that no further attempt mends."""


class Postponed(Exception):
    """Raised for a pause so long that another run gets the place.

    `wait` is the pause after that if the outage lasts. `position` and `attempt` are those of the step to perform then.
    """

    def __init__(self, seconds: float, wait: float = MIN_WAIT) -> None:
        super().__init__()
        self.seconds = equal_jitter(seconds)
        self.wait = wait
        self.position: int | None = None
        self.attempt = 1


class RunExecutor:
    """Performs the steps of runs, one after the other, in one mode.

    Each durable function takes `wait`: the first pause of an outage, in seconds.
    """

    def __init__(
        self,
        engine: Engine,
        mode: Mode,
        scheduler: Scheduler,
        *,
        roles: RolesOf | None = None,
        stopping: threading.Event | None = None,
    ) -> None:
        self.actions = StepActions(engine, mode, roles)
        self._queries = Queries(engine.storage, mode)
        self._mode = mode
        self._scheduler = scheduler
        self._stopping = stopping or threading.Event()

    async def execute_run(
        self,
        tenant: Tenant,
        key: str,
        run_id: str,
        position: int | None = None,
        attempt: int = 1,
        wait: float = MIN_WAIT,
    ) -> str:
        """Perform the steps of a run until it ends or pauses, and return its status; `later` if it is postponed.

        If the run is still at `position`, its step is performed with this attempt. Raises `Interrupted` if the process
        stops first.
        """
        try:
            return await self._execute_run(tenant, key, run_id, position, attempt, wait)
        except Postponed as later:
            await self._schedule(
                self._scheduler.postpone_run,
                tenant,
                key,
                run_id,
                later.position,
                later.attempt,
                later.wait,
                later.seconds,
            )
            return "later"

    async def _execute_run(
        self, tenant: Tenant, key: str, run_id: str, position: int | None, attempt: int, wait: float
    ) -> str:
        answer = await self._advance(lambda: self.actions.next(tenant, key, run_id), wait)
        if isinstance(answer, Failure):
            logger.warning("the run %s of tenant %s cannot advance: %s", run_id, tenant.slug, answer.failure())
            return str(answer.failure().code)
        cursor: RunCursor = answer.unwrap()
        dispatch = cursor.dispatch
        if position is not None and cursor.position != position:
            # The step was performed, but its answer was lost.
            attempt = 1
        # A further dispatch is an execution of its own.
        while cursor.status == "running" and cursor.dispatch == dispatch:
            cursor = await self._perform_step(tenant, cursor, attempt, wait)
            attempt, wait = 1, MIN_WAIT
        if cursor.approval_id is not None:
            # If the process dies before this, another one takes the dispatch over and gets here.
            left = await self._until_available(partial(self._queries.seconds_left, tenant, cursor.approval_id))
            await self._schedule(self._scheduler.schedule_expiry, tenant, key, cursor.approval_id, left or 0.0)
        return str(cursor.status)

    async def fire_if_due(self, tenant: Tenant, key: str, trigger_id: str, at: datetime, wait: float = MIN_WAIT) -> str:
        """Start the run that is scheduled for a time. If it is early, by the storage's clock, schedule it again."""

        async def is_early() -> bool:
            left = (at - await self._queries.now(tenant)).total_seconds()
            if left > _EARLY:
                await self._call_blocking(self._scheduler.schedule_firing, tenant, key, trigger_id, at, left)
            return left > _EARLY

        if await self._until_available(is_early):
            return "early"
        try:
            return await self.fire(tenant, key, trigger_id, at, wait)
        except Postponed as later:
            await self._schedule(
                self._scheduler.schedule_firing, tenant, key, trigger_id, at, later.seconds, later.wait
            )
            return "later"

    async def fire(self, tenant: Tenant, key: str, trigger_id: str, at: datetime, wait: float = MIN_WAIT) -> str:
        """Start the run that is scheduled for a time."""
        answer = await self._advance(lambda: self.actions.fire_schedule(tenant, key, trigger_id, at), wait)
        if isinstance(answer, Failure):
            logger.warning("the trigger %s of the workflow %s failed: %s", trigger_id, key, answer.failure())
            return str(answer.failure().code)
        return str(answer.unwrap())

    async def expire(self, tenant: Tenant, key: str, approval_id: str, wait: float = MIN_WAIT) -> str:
        """Continue a run whose approval has expired. An approval that is open gets its timer again, and so does a run
        that cannot advance yet."""

        async def set_timer(seconds: float, wait: float | None = None) -> None:
            await self._schedule(self._scheduler.schedule_expiry, tenant, key, approval_id, seconds, wait)

        try:
            answer = await self._advance(lambda: self.actions.decline(tenant, key, approval_id), wait)
        except Postponed as later:
            await set_timer(later.seconds, later.wait)
            return "later"
        if isinstance(answer, Failure):
            code = answer.failure().code
            if code not in _FINAL:
                await set_timer(MAX_WAIT)
            return str(code)
        if answer.unwrap() is None:
            left = await self._until_available(partial(self._queries.seconds_left, tenant, approval_id))
            if left is not None:
                await set_timer(left)
                return "early"
        return "done"

    async def _perform_step(self, tenant: Tenant, cursor: RunCursor, attempt: int, wait: float) -> RunCursor:
        try:
            while True:
                answer = await self._with_retry(partial(self.actions.perform, tenant, cursor), wait=wait)
                if isinstance(answer, Success):
                    return _cursor(answer)
                error = answer.failure()
                if error.code is ErrorCode.APPROVAL_REQUIRED:
                    # The transaction that stored the approval has paused the run.
                    ask = partial(self.actions.next, tenant, cursor.workflow_key, cursor.run_id)
                    return _cursor(await self._advance(ask))
                if error.code not in RETRYABLE or attempt >= cursor.retry_attempts:
                    return await self._fail_step(tenant, cursor, error)
                logger.info("the step %s of the run %s is tried again: %s", cursor.step, cursor.run_id, error)
                pause = delay(attempt, cursor.retry_seconds, _MAX_STEP_DELAY)
                attempt, wait = attempt + 1, MIN_WAIT
                if pause > MAX_HELD_WAIT:
                    raise Postponed(pause)
                await self._pause(pause)
        except Postponed as later:
            later.position, later.attempt = cursor.position, attempt
            raise

    async def _fail_step(self, tenant: Tenant, cursor: RunCursor, error: ActionError) -> RunCursor:
        """Fail the current step permanently."""
        answer = await self._advance(partial(self.actions.fail_step, tenant, cursor, error))
        if isinstance(answer, Failure) and answer.failure().code is ErrorCode.INVALID_INPUT:
            # The error exceeds the host's limits of payloads.
            short = ActionError(error.code, error.message[:_MAX_MESSAGE_LENGTH])
            answer = await self._advance(partial(self.actions.fail_step, tenant, cursor, short))
        return _cursor(answer)

    async def _advance(
        self, ask: Callable[[], Awaitable[Result[Any, ActionError]]], wait: float = MIN_WAIT
    ) -> Result[Any, ActionError]:
        """Return the answer of an action that advances a run. A refusal, of a host's guard for example, is retried."""
        for attempt in range(1, _MAX_REFUSALS + 1):
            answer = await self._with_retry(ask, _TRANSIENT | {ErrorCode.CONFLICT, ErrorCode.TIMEOUT}, wait)
            if isinstance(answer, Success) or answer.failure().code in _FINAL:
                return answer
            logger.warning("a run cannot advance, and is tried again: %s", answer.failure())
            await self._pause(delay(attempt, MIN_WAIT, MAX_WAIT))
        return answer

    async def _with_retry(
        self,
        ask: Callable[[], Awaitable[Result[Any, ActionError]]],
        transient: Collection[ErrorCode] = _TRANSIENT,
        wait: float = MIN_WAIT,
    ) -> Result[Any, ActionError]:
        """Return the first answer that is no transient error. Raise `Postponed` once the pauses get long."""
        while True:
            self._check_running()
            answer = await ask()
            if isinstance(answer, Success):
                return answer
            error = answer.failure()
            if error.code not in transient or FAILED_STEP in error.details:
                return answer
            if wait > MAX_HELD_WAIT:
                raise Postponed(wait, next_delay(wait, MAX_WAIT))
            await self._pause(wait)
            wait = next_delay(wait, MAX_WAIT)

    async def _schedule(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function of the scheduler, as soon as its database is available."""
        await self._until_available(lambda: self._call_blocking(function, *arguments))

    async def _until_available(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Return the answer, as soon as the databases are available."""
        wait = MIN_WAIT
        while True:
            try:
                return await ask()
            except (DurableUnavailable, StorageError) as error:
                logger.warning("a timer of a workflow cannot be set yet: %s", error)
            await self._pause(wait)
            wait = next_delay(wait, MAX_WAIT)

    async def _pause(self, seconds: float) -> None:
        until = time.monotonic() + equal_jitter(seconds)
        while (left := until - time.monotonic()) > 0:
            self._check_running()
            await sleep(self._mode, min(left, 0.5))

    def _check_running(self) -> None:
        if self._stopping.is_set():
            raise Interrupted("this process stops")

    async def _call_blocking(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function that blocks; in async mode, in a thread."""
        return function(*arguments) if self._mode == "sync" else await asyncio.to_thread(function, *arguments)


def _cursor(answer: Result[Any, ActionError]) -> RunCursor:
    if isinstance(answer, Failure):
        # The durable engine keeps the error. The run stays at its step.
        raise RuntimeError(f"a run cannot advance: {answer.failure()}")
    cursor: RunCursor = answer.unwrap()
    return cursor
