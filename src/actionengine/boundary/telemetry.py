"""Events about work for a host's sinks: started, completed, failed. A sink that fails never fails the work."""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from inspect import iscoroutinefunction
from time import perf_counter
from typing import Any, Literal
from uuid import UUID

from returns.result import Failure, Result

from actionengine.boundary.request import ExecutionRequest, ExecutionResult
from actionengine.errors import ActionError, ConfigurationError, ErrorCode

logger = logging.getLogger("actionengine")

ESCAPING = (Exception, SystemExit, CancelledError)
"""The exceptions of host code that end only that code: an argument parser raises `SystemExit`, a cancelled future
`CancelledError`. `KeyboardInterrupt` propagates."""


@dataclass(frozen=True, slots=True)
class ExecutionEvent:
    """The start, completion or failure of work. `duration` is in seconds, None at the start; `error` is the code of a
    failure, and `refusal` the reason if the boundary refused the work. `on_behalf_of` names the principals behind the
    actor (`type:id`), the nearest first."""

    kind: Literal["started", "completed", "failed"]
    request_id: str
    action: str
    module_id: str | None
    tenant_id: UUID | None
    actor: str | None
    runner: str
    at: datetime
    duration: float | None = None
    error: ErrorCode | None = None
    refusal: str | None = None
    on_behalf_of: tuple[str, ...] = ()


Sink = Callable[[ExecutionEvent], None]


def validate_sinks(sinks: Iterable[Sink]) -> tuple[Sink, ...]:
    """Return the sinks. Raises `ConfigurationError` for one that is not callable, or is an `async def`."""
    found = tuple(sinks)
    for sink in found:
        if not callable(sink):
            raise ConfigurationError(f"the telemetry sink {sink!r} is not callable")
        if iscoroutinefunction(sink) or iscoroutinefunction(type(sink).__call__):
            raise ConfigurationError(f"the telemetry sink {sink!r} is an async def: write it as a def")
    return found


class Telemetry:
    """The events about one piece of work, for its sinks."""

    def __init__(self, sinks: Iterable[Sink], request: ExecutionRequest, runner: str) -> None:
        self._sinks = tuple(sinks)
        self._request = request
        self._runner = runner
        self._started = perf_counter()

    def started(self) -> None:
        """Report that the work starts."""
        self._notify("started")

    def ended(self, answer: Result[ExecutionResult, ActionError]) -> None:
        """Report the answer of the work."""
        duration = perf_counter() - self._started
        if isinstance(answer, Failure):
            error = answer.failure()
            self._notify("failed", duration=duration, error=error.code, refusal=error.details.get("refusal"))
        else:
            self._notify("completed", duration=duration)

    def _notify(self, kind: Literal["started", "completed", "failed"], **outcome: Any) -> None:
        if not self._sinks:
            return
        request = self._request
        event = ExecutionEvent(
            kind=kind,
            request_id=request.id,
            action=request.action,
            module_id=request.module.id if request.module else None,
            tenant_id=request.tenant.id if request.tenant else None,
            actor=str(request.actor) if request.actor else None,
            runner=self._runner,
            at=datetime.now(UTC),
            on_behalf_of=tuple(map(str, request.actor.chain[1:])) if request.actor else (),
            **outcome,
        )
        for sink in self._sinks:
            try:
                sink(event)
            except KeyboardInterrupt:
                raise
            except BaseException:
                # An error of a sink says nothing about the work.
                logger.exception("a telemetry sink raised on %s of %s", kind, request.id)


def log_sink(event: ExecutionEvent) -> None:
    """Log a line on `actionengine` when a piece of work starts, and one when it ends."""
    logger.info(
        "execution %s: %s of %r in %r for tenant %s by %s on %s%s%s",
        event.kind,
        event.request_id,
        event.action,
        event.module_id,
        event.tenant_id,
        " for ".join((str(event.actor), *event.on_behalf_of)),
        event.runner,
        "" if event.duration is None else f" after {event.duration:.3f} s",
        "" if event.error is None else f": {event.error}",
    )
