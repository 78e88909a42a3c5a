"""The runner whose work is done by workers elsewhere, which take it from a queue of the durable engine."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterable
from hashlib import sha256
from time import monotonic, sleep
from typing import ClassVar
from uuid import uuid4

from returns.result import Failure, Success

from actionengine.boundary.boundary import AdmittedRequest
from actionengine.boundary.capabilities import CapabilityProfile
from actionengine.boundary.declarations import ModuleAction
from actionengine.boundary.module_actions import MODULE_ACTIONS
from actionengine.boundary.remote.messages import EXECUTE, QUEUE, WorkMessage
from actionengine.boundary.request import ExecutionRequest, ExecutionResult
from actionengine.boundary.runner import BoundaryRunner, RunnerResult, answer_from_text, cancelled_error, timeout_error
from actionengine.boundary.telemetry import Sink
from actionengine.durable.client import DurableClient, DurableExecution
from actionengine.durable.database import ANSWER_TIMEOUT, CONNECT_TIMEOUT, Bounds, DurableUnavailable
from actionengine.errors import ActionError, ConfigurationError, ErrorCode

logger = logging.getLogger("actionengine")

_MIN_POLL_INTERVAL = 0.005
_STOP_TIMEOUT = 15.0
"""Seconds that a worker is given to end what was cancelled."""

_ENQUEUED = DurableExecution("ENQUEUED", None, 0, 0, None)
"""How far a request is by the last word, before anybody has looked."""


class QueueRunner(BoundaryRunner):
    """Has module actions run by `RunnerWorker`s, in other processes or on other machines.

    The boundary is checked here and again by the worker, which says itself where the module lies. A request's `timeout`
    counts from when a worker has begun with it; where the worker is killed, another one begins anew, with all of the
    time. A request that is executed twice that way, with an `idempotency_key`, takes effect once; asked for again
    while it is still being executed, under the same key and otherwise the same, it gets that execution's result.

    Until a request is answered it stands in the durable engine's database with its input, and with its output; then it
    is removed. Where whoever asks is killed, workers remove it an hour after it has ended.

    Args:
        url: of the durable engine's database, the same as the workers'.
        profile: the most that work may ask for.
        actions: the module actions that there are; those of this library by default.
        queue: where the workers take their work from.
        telemetry: sinks that are told of the work, in this process.
        poll_interval: seconds between two looks for the answer, at most.
        wait_seconds: seconds after which a request that no worker has begun with is withdrawn: it is `unavailable`, and
            is not executed later.
        connect_timeout: seconds to wait for a new connection to the durable engine's database (PostgreSQL).
        answer_timeout: seconds to wait for the answer to a statement there; then the connection counts as lost, and
            another one is opened (PostgreSQL).

    Raises:
        ConfigurationError: for a URL of neither kind, and where `wait_seconds` or `poll_interval` is not positive.
    """

    name: ClassVar[str] = "queue"

    def __init__(
        self,
        url: str | os.PathLike[str],
        profile: CapabilityProfile,
        actions: Iterable[ModuleAction] = MODULE_ACTIONS,
        *,
        queue: str = QUEUE,
        telemetry: Iterable[Sink] = (),
        poll_interval: float = 0.25,
        wait_seconds: float = 30.0,
        connect_timeout: float = CONNECT_TIMEOUT,
        answer_timeout: float = ANSWER_TIMEOUT,
    ) -> None:
        super().__init__(profile, actions, telemetry)
        for name, seconds in (("wait_seconds", wait_seconds), ("poll_interval", poll_interval)):
            if not seconds > 0:
                raise ConfigurationError(f"{name} is {seconds}: give a number of seconds above 0")
        self._client = DurableClient(url, Bounds(connect_timeout, answer_timeout))
        self._queue = queue
        self._poll_interval = poll_interval
        self._wait_seconds = wait_seconds

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> QueueRunner:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def run(self, admitted: AdmittedRequest, cancelled: threading.Event) -> ExecutionResult:
        """Put a request into the queue, and wait for its answer."""
        asked = _PendingRequest(self._client, self._queue, admitted.request, self._wait_seconds, self._poll_interval)
        try:
            return asked.result(cancelled)
        except DurableUnavailable as error:
            message = f"the work {asked.request.id} ({asked.request.action}) cannot be handed over: {error}"
            raise ActionError(ErrorCode.UNAVAILABLE, message, {"request_id": asked.request.id}) from error


class _PendingRequest:
    """One request in the queue."""

    def __init__(
        self, client: DurableClient, queue: str, request: ExecutionRequest, wait_seconds: float, poll_interval: float
    ) -> None:
        self.request = request
        self._client = client
        self._queue = queue
        self._wait_seconds = wait_seconds
        self._poll_interval = poll_interval
        self._order = WorkMessage(request=request, wait_seconds=wait_seconds).to_text()
        self._id = _id_of(request)
        self._is_own = False
        self._was_alive = False
        self._known: DurableExecution | None = None
        self._changed_at = 0.0
        self._answered_at = monotonic()

    def result(self, cancelled: threading.Event) -> ExecutionResult:
        """The result. Raises `ActionError` with what else became of the request."""
        self._enqueue()
        pause = _MIN_POLL_INTERVAL
        while True:
            if cancelled.wait(pause):
                return self._withdrawn(cancelled_error(self.request))
            pause = min(1.5 * pause, self._poll_interval)
            found = self._look()
            if found is None or found.status == "CANCELLED":
                self._requeue(found)
                continue
            waited = monotonic() - self._changed_at
            if found.status in {"ENQUEUED", "DELAYED"}:
                self._was_alive = self._was_alive or found is not _ENQUEUED
                if waited > self._wait_seconds:
                    return self._withdrawn(self._no_worker_error())
            elif found.status == "PENDING":
                self._was_alive = True
                if waited > self.request.timeout + self._wait_seconds:
                    return self._withdrawn(timeout_error(self.request))
            else:
                answer = self._answer(found)
                if answer is None:
                    continue
                if isinstance(answer, Success) or self._is_own or self._was_alive:
                    return self._reported(answer, found)
                # It had failed before this was asked: it is tried again.
                self._forget(found)
                self._enqueue()

    def _enqueue(self) -> None:
        try:
            self._is_own = self._put()
        except DurableUnavailable:
            # The answer may have been lost, and not the request: under its id it is there once.
            self._put()
            self._is_own = True
        self._answered_at = monotonic()
        self._was_alive = False
        self._known = None
        self._changed_at = monotonic()

    def _put(self) -> bool:
        return self._client.enqueue(EXECUTE, self._order, queue=self._queue, id=self._id)

    def _look(self) -> DurableExecution | None:
        """How far it is; while the database cannot be asked, how far it was."""
        try:
            found = self._client.find(self._id).get(self._id)
        except DurableUnavailable:
            if monotonic() - self._answered_at > self._wait_seconds:
                raise
            return self._known or _ENQUEUED
        self._answered_at = monotonic()
        if found != self._known:
            self._known = found
            self._changed_at = monotonic()
        return found

    def _requeue(self, found: DurableExecution | None) -> None:
        """After the execution was removed, or cancelled: by another request with the same key, or by an operator."""
        if self.request.idempotency_key is None:
            raise cancelled_error(self.request)
        if found is not None and monotonic() - self._changed_at < _STOP_TIMEOUT and not _never_began(found):
            # Its worker removes it when it has stopped.
            return
        if found is not None:
            self._forget(found)
        self._enqueue()

    def _withdrawn(self, reason: ActionError) -> ExecutionResult:
        """Have the execution ended. Raises `reason`, unless it came to its end before."""
        if self._known is None:
            # So that one which somebody else asks for anew is told from it.
            self._look()
        self._client.cancel(self._id)
        until = monotonic() + _STOP_TIMEOUT
        while (found := self._client.find(self._id).get(self._id)) is not None:
            if self._known is not None and found.created_at != self._known.created_at:
                # It is over: someone else has asked anew under the same key.
                break
            self._known = found
            answer = self._answer(found) if found.status in {"SUCCESS", "ERROR"} else None
            if answer is not None:
                return self._reported(answer, found)
            if _never_began(found) or monotonic() >= until:
                self._forget(found)
                break
            sleep(0.05)
        raise reason

    def _answer(self, found: DurableExecution) -> RunnerResult | None:
        """The answer, unless somebody who has asked the same has fetched and removed it just now."""
        if found.status == "SUCCESS":
            status, output = self._client.status(self._id) or (None, None)
            try:
                return answer_from_text(output) if status == "SUCCESS" else None
            except ValueError:
                return Failure(ActionError(ErrorCode.INTERNAL, "the worker's answer cannot be understood"))
        how = "was given up: it has ended each worker that began with it"
        if found.status == "ERROR":
            how = "could not be executed by its worker"
        message = f"the work {self.request.id} ({self.request.action}) {how}"
        return Failure(ActionError(ErrorCode.HANDLER_ERROR, message, {"request_id": self.request.id}))

    def _reported(self, answer: RunnerResult, found: DurableExecution) -> ExecutionResult:
        self._forget(found)
        if isinstance(answer, Failure):
            raise answer.failure()
        result = answer.unwrap()
        return result.model_copy(
            update={"runner": QueueRunner.name, "replayed": result.replayed or not (self._is_own or self._was_alive)}
        )

    def _forget(self, found: DurableExecution) -> None:
        """Remove an execution, unless another one has taken its place."""
        try:
            if self._client.find(self._id).get(self._id) == found:
                self._client.forget(self._id)
        except DurableUnavailable as error:
            logger.warning("the work %s is removed from the queue later: %s", self.request.id, error)

    def _no_worker_error(self) -> ActionError:
        return ActionError(
            ErrorCode.UNAVAILABLE,
            f"no worker took the work {self.request.id} ({self.request.action}) within {self._wait_seconds} s; "
            "it is withdrawn. Is one running on this queue (`actionengine runner work`), and not too busy?",
            {"request_id": self.request.id, "queue": self._queue},
        )


def _never_began(found: DurableExecution) -> bool:
    return found.executor is None


def _id_of(request: ExecutionRequest) -> str:
    """The same for requests that are the same under the same key; what is different under it is for the worker to see,
    in whose module the key is known."""
    assert request.tenant is not None
    assert request.module is not None
    if request.idempotency_key is None:
        return f"module/{request.tenant.id}/{uuid4().hex}"
    asked = request.model_dump(mode="json", exclude={"id", "module"})
    asked["capabilities"].sort()
    form = json.dumps([asked, request.module.id], sort_keys=True)
    return f"module/{request.tenant.id}/{sha256(form.encode()).hexdigest()}"
