"""The runner for work in other processes: workers take it from a queue of the durable engine."""

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
"""Seconds that a worker has to end cancelled work."""

_ENQUEUED = DurableExecution("ENQUEUED", None, 0, 0, None)
"""The state of a request before the first answer of the database."""


class QueueRunner(BoundaryRunner):
    """A runner whose module actions run on `RunnerWorker`s, in other processes or on other machines.

    The boundary is checked here, and again by the worker, which finds the module in its own roots. A request's
    `timeout` counts from its start on a worker. If the worker is killed, another one restarts the work, with the full
    time. Work that runs twice that way takes effect once with an `idempotency_key`; the same request again under the
    same key, while the work still runs, gets its result.

    The durable engine's database has a request, with its input and output, until it is answered. If the caller is
    killed, workers remove the request an hour after its end.

    Args:
        url: the durable engine's database, the same as that of the workers.
        profile: the most that work may ask for.
        actions: the module actions; those of this library by default.
        queue: the queue of the workers.
        telemetry: sinks that receive events about the work, in this process.
        poll_interval: the most seconds between two checks for the answer.
        wait_seconds: seconds after which a request that no worker has started is withdrawn: it is `unavailable`, and
            is not executed later.
        connect_timeout: seconds to wait for a new connection to the durable engine's database (PostgreSQL).
        answer_timeout: seconds to wait for the answer to a statement there; then the connection counts as lost, and a
            new one is opened (PostgreSQL).

    Raises:
        ConfigurationError: for a URL of another kind, and if `wait_seconds` or `poll_interval` is not positive.
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
        """Put a request into the queue and wait for its answer."""
        asked = _PendingRequest(self._client, self._queue, admitted.request, self._wait_seconds, self._poll_interval)
        try:
            return asked.result(cancelled)
        except DurableUnavailable as error:
            message = f"the work {asked.request.id} ({asked.request.action}) did not reach the workers: {error}"
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
        """Return the result. Raises `ActionError` if the request has none."""
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
                # An earlier request has failed: this one tries again.
                self._forget(found)
                self._enqueue()

    def _enqueue(self) -> None:
        try:
            self._is_own = self._put()
        except DurableUnavailable:
            # The request may have arrived and the answer been lost. Its id keeps it from being there twice.
            self._put()
            self._is_own = True
        self._answered_at = monotonic()
        self._was_alive = False
        self._known = None
        self._changed_at = monotonic()

    def _put(self) -> bool:
        return self._client.enqueue(EXECUTE, self._order, queue=self._queue, id=self._id)

    def _look(self) -> DurableExecution | None:
        """Return the state of the execution; while the database is unavailable, its last known state."""
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
        """Enqueue the request again after an operator, or another caller with the same key, removed or cancelled it."""
        if self.request.idempotency_key is None:
            raise cancelled_error(self.request)
        if found is not None and monotonic() - self._changed_at < _STOP_TIMEOUT and not _never_began(found):
            # Its worker removes it when the work has stopped.
            return
        if found is not None:
            self._forget(found)
        self._enqueue()

    def _withdrawn(self, reason: ActionError) -> ExecutionResult:
        """Cancel the execution. Raise `reason`, unless the execution ended before."""
        if self._known is None:
            # Otherwise a new execution for another caller would look the same.
            self._look()
        self._client.cancel(self._id)
        until = monotonic() + _STOP_TIMEOUT
        while (found := self._client.find(self._id).get(self._id)) is not None:
            if self._known is not None and found.created_at != self._known.created_at:
                # It has ended: another caller has enqueued the same work under the same key.
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
        """Return the answer; None if another caller with the same request has fetched and removed it."""
        if found.status == "SUCCESS":
            status, output = self._client.status(self._id) or (None, None)
            try:
                return answer_from_text(output) if status == "SUCCESS" else None
            except ValueError:
                return Failure(ActionError(ErrorCode.INTERNAL, "the worker's answer cannot be understood"))
        how = "was given up: it ended each worker that started it"
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
            logger.warning("the work %s will be removed from the queue later: %s", self.request.id, error)

    def _no_worker_error(self) -> ActionError:
        return ActionError(
            ErrorCode.UNAVAILABLE,
            f"no worker started the work {self.request.id} ({self.request.action}) within {self._wait_seconds} s, so "
            "it is withdrawn: check that a worker runs on this queue (`actionengine runner work`), and is not too busy",
            {"request_id": self.request.id, "queue": self._queue},
        )


def _never_began(found: DurableExecution) -> bool:
    return found.executor is None


def _id_of(request: ExecutionRequest) -> str:
    """Return the id of a request's execution. Equal requests under the same key have the same id; the worker refuses
    different requests under a key, since the module's journal knows the key."""
    assert request.tenant is not None
    assert request.module is not None
    if request.idempotency_key is None:
        return f"module/{request.tenant.id}/{uuid4().hex}"
    asked = request.model_dump(mode="json", exclude={"id", "module"})
    asked["capabilities"].sort()
    form = json.dumps([asked, request.module.id], sort_keys=True)
    return f"module/{request.tenant.id}/{sha256(form.encode()).hexdigest()}"
