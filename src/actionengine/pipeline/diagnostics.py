"""Diagnostics: a structured line for each stage, and OpenTelemetry spans and metrics where that is installed.

Lines and spans carry names, ids, timing and status: never a payload, a result or the text of an error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import perf_counter
from typing import Any
from weakref import WeakSet

from actionengine.authorization.cache import cached_bytes
from actionengine.errors import ActionError
from actionengine.pipeline.execution import Execution
from actionengine.pipeline.stages import Stage

logger = logging.getLogger("actionengine")

Observer = Callable[[str, Stage], Stage]


def observer() -> Observer:
    """Return the observer that wraps each stage of a pipeline."""
    try:
        traced = _tracer()
    except ImportError:
        return _logged

    def both(name: str, stage: Stage) -> Stage:
        return traced(name, _logged(name, stage))

    return both


def _logged(name: str, stage: Stage) -> Stage:
    async def observed(execution: Execution) -> None:
        started = perf_counter()
        status = "ok"
        try:
            await stage(execution)
        except BaseException as error:
            status = _status(error)
            raise
        finally:
            _write(name, status, execution, (perf_counter() - started) * 1e6)

    return observed


def _write(stage: str, status: str, execution: Execution, microseconds: float) -> None:
    request = execution.request
    fields = {
        "stage": stage,
        "status": status,
        "duration_us": round(microseconds, 1),
        "action": execution.plan.name,
        "execution_id": execution.id,
        "tenant": request.tenant.slug if request.tenant else None,
        "actor_type": request.actor.type if request.actor else None,
        "request_id": request.request_id,
        "depth": execution.depth,
    }
    line = " ".join(f"{key}={value}" for key, value in fields.items() if value is not None)
    logger.info("%s", line, extra={"actionengine": fields})


_CACHE = "actionengine.cache"
_watched: WeakSet[Any] = WeakSet()


def _tracer() -> Observer:
    from opentelemetry import metrics, trace
    from opentelemetry.trace import StatusCode

    tracer = trace.get_tracer("actionengine")
    meter = metrics.get_meter("actionengine")
    provider = metrics.get_meter_provider()
    if provider not in _watched:
        # The caches are the process's, however many engines it has.
        _watched.add(provider)
        meter.create_observable_gauge(
            "actionengine.cache.bytes",
            [lambda _: [metrics.Observation(size, {_CACHE: name}) for name, size in cached_bytes().items()]],
            unit="By",
            description="Memory that the caches of this process take, as it is estimated",
        )
    duration = meter.create_histogram(
        "actionengine.stage.duration", unit="s", description="Time spent in a stage of the pipeline"
    )

    def traced(name: str, stage: Stage) -> Stage:
        async def observed(execution: Execution) -> None:
            attributes = {"actionengine.action": execution.plan.name, "actionengine.stage": name}
            started = perf_counter()
            status = "ok"
            with tracer.start_as_current_span(
                f"actionengine.{name}", attributes=attributes, record_exception=False, set_status_on_exception=False
            ) as span:
                try:
                    await stage(execution)
                except BaseException as error:
                    status = _status(error)
                    span.set_status(StatusCode.ERROR, status)
                    raise
                finally:
                    span.set_attribute("actionengine.execution_id", execution.id)
                    duration.record(perf_counter() - started, {**attributes, "actionengine.status": status})

        return observed

    return traced


def _status(error: BaseException) -> str:
    return error.code.value if isinstance(error, ActionError) else type(error).__name__
