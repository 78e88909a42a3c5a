"""The port of runners, and the base of ours, which checks the boundary, reports telemetry and returns all errors."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, ClassVar, Protocol

from returns.result import Failure, Result, Success

from actionengine.boundary.boundary import AdmittedRequest, Boundary
from actionengine.boundary.capabilities import CapabilityProfile
from actionengine.boundary.declarations import ModuleAction
from actionengine.boundary.request import ExecutionRequest, ExecutionResult
from actionengine.boundary.telemetry import ESCAPING, Sink, Telemetry, validate_sinks
from actionengine.concurrency.abandonable import AbandonableCall
from actionengine.errors import ActionError, ErrorCode

logger = logging.getLogger("actionengine")

RunnerResult = Result[ExecutionResult, ActionError]


class Runner(Protocol):
    """The port to code that runs work behind the boundary.

    `execute` returns the result or an error: a refusal of the boundary, the error of the work, `timeout`, `conflict`
    for cancelled work, `unavailable` if the runner is gone. It never raises an error that a request can cause. Once
    `cancelled` is set, the runner ends the work with everything that it started, and returns.

    `execute_async` does the same under an event loop: cancelling the task cancels the work.
    """

    def execute(self, request: ExecutionRequest, *, cancelled: threading.Event | None = None) -> RunnerResult:
        """Run work and return its answer."""

    async def execute_async(self, request: ExecutionRequest) -> RunnerResult:
        """Run work under an event loop and return its answer."""


class BoundaryRunner(ABC):
    """The base of runners that check each request at their own boundary first. Hosts can derive from it too.

    Args:
        profile: the most that work may ask for.
        actions: the module actions.
        telemetry: sinks that the thread of the work calls: a slow sink delays the work.

    Raises:
        ConfigurationError: for a sink that is an `async def`, and if two actions have one name.
    """

    name: ClassVar[str]
    """The name of this kind of runner in results and telemetry."""

    def __init__(
        self, profile: CapabilityProfile, actions: Iterable[ModuleAction], telemetry: Iterable[Sink] = ()
    ) -> None:
        self.boundary = Boundary(profile, actions)
        self._sinks = validate_sinks(telemetry)

    @abstractmethod
    def run(self, admitted: AdmittedRequest, cancelled: threading.Event) -> ExecutionResult:
        """Run a request that has passed the boundary. Raise the `ActionError` of the work; once `cancelled` is set, end
        it and raise `conflict`."""

    def execute(self, request: ExecutionRequest, *, cancelled: threading.Event | None = None) -> RunnerResult:
        """Run work and return its answer."""
        telemetry = Telemetry(self._sinks, request, self.name)
        telemetry.started()
        try:
            answer = self._answer(request, cancelled or threading.Event())
        except BaseException as error:
            message = f"{request.action} was interrupted by {type(error).__name__}"
            telemetry.ended(Failure(ActionError(ErrorCode.HANDLER_ERROR, message, {"request_id": request.id})))
            raise
        telemetry.ended(answer)
        return answer

    async def execute_async(self, request: ExecutionRequest) -> RunnerResult:
        """Run work in a thread of its own and return its answer. Cancelling the task ends the work. The number of
        threads has no limit."""
        cancelled = threading.Event()
        work = AbandonableCall("async", partial(self.execute, request, cancelled=cancelled))
        # The event loop's pool has few threads: long work would hold up all others that need one.
        work.start("actionengine-work")
        try:
            await work.wait(None)
        except asyncio.CancelledError:
            cancelled.set()
            # No work is left running when the cancellation continues, even if the task is cancelled again.
            while not work.has_ended:
                with suppress(asyncio.CancelledError):
                    await work.wait(None)
            raise
        answer: RunnerResult = work.result()
        return answer

    def _answer(self, request: ExecutionRequest, cancelled: threading.Event) -> RunnerResult:
        try:
            return Success(self.run(self.boundary.admit(request), cancelled))
        except ActionError as refusal:
            return Failure(refusal.without_traceback())
        except ESCAPING as error:
            logger.exception("the work %s (%s) raised", request.id, request.action)
            message = f"{request.action} failed with {type(error).__name__}"
            return Failure(ActionError(ErrorCode.HANDLER_ERROR, message, {"request_id": request.id}))


def check_time(request: ExecutionRequest, cancelled: threading.Event | None, deadline: float) -> None:
    """Raise `conflict` once work is cancelled, and `timeout` from its deadline on, as `time.monotonic()` counts."""
    if cancelled is not None and cancelled.is_set():
        raise cancelled_error(request)
    if monotonic() >= deadline:
        raise timeout_error(request)


def cancelled_error(request: ExecutionRequest) -> ActionError:
    """Return the error of work that was cancelled."""
    message = f"the work {request.id} ({request.action}) was cancelled"
    return ActionError(ErrorCode.CONFLICT, message, {"request_id": request.id, "cancelled": True})


def timeout_error(request: ExecutionRequest) -> ActionError:
    """Return the error of work that was ended at its deadline."""
    message = f"the work {request.id} ({request.action}) took longer than {request.timeout} s and was ended"
    return ActionError(ErrorCode.TIMEOUT, message, {"request_id": request.id, "timeout": request.timeout})


def answer_to_text(answer: RunnerResult) -> str:
    """Return an answer as a text of JSON: `{"result": ...}` or `{"error": ...}`."""
    if isinstance(answer, Success):
        return json.dumps({"result": answer.unwrap().model_dump(mode="json")})
    return json.dumps({"error": answer.failure().to_dict()})


def answer_from_text(text: Any) -> RunnerResult:
    """Return the answer in a text that `answer_to_text` made. Raises `ValueError` for any other text."""
    try:
        form = json.loads(text)
        if "error" in form:
            return Failure(ActionError(**form["error"]))
        return Success(ExecutionResult.model_validate(form["result"]))
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"this is not an answer of a runner: {error}") from None
