"""The worker behind `QueueRunner`: it takes requests from a queue, and runs them behind a boundary of its own."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass, field
from typing import Any

from returns.result import Failure, Success

from actionengine.boundary.boundary import validate_module
from actionengine.boundary.remote.messages import EXECUTE, QUEUE, WorkMessage
from actionengine.boundary.roots import ModuleRoots
from actionengine.boundary.runner import BoundaryRunner, RunnerResult, answer_to_text
from actionengine.durable.client import DurableClient, DurableExecution
from actionengine.durable.database import ANSWER_TIMEOUT, CONNECT_TIMEOUT, Bounds, DurableUnavailable
from actionengine.durable.host import DurableFunction, DurableHost, Interrupted, current_id
from actionengine.durable.watched import start_watched
from actionengine.errors import ActionError, ErrorCode

logger = logging.getLogger("actionengine")

_POLL_INTERVAL = 0.3
"""Seconds between two checks for the cancellation of running requests."""

_KEPT = 3600.0
"""Seconds for which an answer stays if its caller does not fetch it."""

_ATTEMPTS = 10
"""The number of workers that a request may end: more would show that the request ends them."""

_STOPS = "this worker stops"

_STOP_TIMEOUT = 5.0
"""Seconds after the grace in which work must end that goes back to the queue."""


@dataclass(frozen=True, slots=True, eq=False)
class _RunningRequest:
    id: str
    began_at: int | None
    cancelled: threading.Event = field(default_factory=threading.Event)


class RunnerWorker:
    """A worker in this process for the requests of `QueueRunner`s. Any number of workers can share a queue.

    The worker ignores the module's path in a request, and checks the boundary itself. It trusts the tenant in a
    request: a program that can write to the durable engine's database can do anything that the runner's profile grants,
    for any tenant, in the modules of `roots`.

    The other workers, or the next one that starts, notice a killed worker and restart its requests. A request that has
    ended ten workers is given up.

    Args:
        url: the durable engine's database: PostgreSQL, or a SQLite file for the processes of one machine.
        runner: the runner of the requests: an `InProcessRunner` or a `SubprocessRunner`.
        roots: the folders of modules on this machine.
        queue: the queue of its requests.
        concurrency: the number of requests that it runs at once. The worker that started last sets it for all workers
            of the queue.
        lease: seconds without a sign of life after which a worker counts as dead.
        poll_interval: seconds between two checks of the queue.
        set_up: create the durable engine's tables. Without it, `actionengine workflows upgrade` must have created them.
        connect_timeout: seconds to wait for a new connection to the durable engine's database (PostgreSQL).
        answer_timeout: seconds to wait for the answer to a statement there; then the connection counts as lost, and a
            new one is opened (PostgreSQL).

    Raises:
        ConfigurationError: for a URL of another kind, and for seconds or a `concurrency` that are not positive; in
            `start`, if the process has a durable engine already.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        runner: BoundaryRunner,
        roots: ModuleRoots,
        *,
        queue: str = QUEUE,
        concurrency: int = 4,
        lease: float = 10.0,
        poll_interval: float = 0.2,
        set_up: bool = True,
        connect_timeout: float = CONNECT_TIMEOUT,
        answer_timeout: float = ANSWER_TIMEOUT,
    ) -> None:
        self._runner = runner
        self._roots = roots
        bounds = Bounds(connect_timeout, answer_timeout)
        self._client = DurableClient(url, bounds)

        def execute(text: Any = None, *rest: Any) -> str:
            # A row can have any arguments. If they are no request, it gets an answer too.
            return self._execute(text)

        function = DurableFunction(EXECUTE, execute, queue, concurrency, _ATTEMPTS)
        options = {"lease": lease, "poll_interval": poll_interval, "keep": _KEPT, **bounds._asdict()}
        self._host = DurableHost(url, [function], set_up=set_up, **options)
        self._lock = threading.Lock()
        self._running: set[_RunningRequest] = set()
        self._interrupted = threading.Event()
        self._ended = threading.Event()
        self._watch: threading.Thread | None = None

    @property
    def id(self) -> str:
        """The name of this worker in results."""
        return self._host.executor_id

    def start(self) -> None:
        """Start taking requests. Raises `DurableUnavailable` if the database is out of reach, or not set up."""
        self._interrupted.clear()
        self._ended.clear()
        self._host.start()
        self._watch = start_watched(
            *(self._watch_over, "actionengine-worker", self._ended),
            without="the worker does not notice withdrawn requests",
        )

    def stop(self, grace: float = 10.0) -> None:
        """Stop taking requests. Requests that run longer than `grace` seconds are ended, and restarted elsewhere."""
        timer = threading.Timer(grace, self._interrupt)
        timer.daemon = True
        timer.start()
        self._host.stop(grace + _STOP_TIMEOUT)
        timer.cancel()
        timer.join()
        self._interrupt()
        self._ended.set()
        if self._watch is not None:
            self._watch.join()
            self._watch = None
        self._client.close()

    def __enter__(self) -> RunnerWorker:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _execute(self, text: Any) -> str:
        """Execute a request as the durable function. Raises `Interrupted` if this worker must not answer it."""
        id = current_id()
        execution = self._own(id)
        try:
            order = WorkMessage.from_text(text)
            module = validate_module(order.request)
            assert order.request.tenant is not None
            here = self._roots.context(order.request.tenant, module.id)
        except ActionError as refusal:
            return answer_to_text(Failure(refusal.without_traceback()))
        if _has_expired(execution, order.wait_seconds):
            message = f"no worker started the work {order.request.id} ({order.request.action}) in time"
            return answer_to_text(Failure(ActionError(ErrorCode.UNAVAILABLE, message)))
        running = _RunningRequest(id, execution.began_at)
        with self._lock:
            self._running.add(running)
        try:
            if self._interrupted.is_set():
                raise Interrupted(_STOPS)
            request = order.request.model_copy(update={"module": here})
            answer = self._runner.execute(request, cancelled=running.cancelled)
        finally:
            with self._lock:
                self._running.discard(running)
        if running.cancelled.is_set():
            self._release(running, answer)
        return answer_to_text(answer.map(lambda result: result.model_copy(update={"worker": self.id})))

    def _own(self, id: str) -> DurableExecution:
        """Return the execution that this worker has just started."""
        found = self._find_with_retry(id)
        if found is None or found.status != "PENDING" or found.executor != self.id:
            self._forget_cancelled(id, found)
            raise Interrupted("the request was withdrawn")
        return found

    def _find_with_retry(self, id: str) -> DurableExecution | None:
        while not self._interrupted.is_set():
            try:
                return self._client.find(id).get(id)
            except DurableUnavailable:
                self._interrupted.wait(_POLL_INTERVAL)
        raise Interrupted(_STOPS)

    def _release(self, running: _RunningRequest, answer: RunnerResult) -> None:
        """Return if this worker may give the answer of a cancelled request; otherwise raise `Interrupted`."""
        try:
            found = self._client.find(running.id).get(running.id)
        except DurableUnavailable:
            found = None
        if self._is_own(running, found):
            if isinstance(answer, Success):
                return
            raise Interrupted(_STOPS)
        self._forget_cancelled(running.id, found)
        raise Interrupted("the request was withdrawn, or another worker has it")

    def _forget_cancelled(self, id: str, found: DurableExecution | None) -> None:
        """Remove a cancelled request: this tells its caller that the work has stopped."""
        if found is None or found.status != "CANCELLED" or found.executor != self.id:
            return
        try:
            self._client.forget(id)
        except DurableUnavailable as error:
            logger.warning("the cancelled work %s stays in the queue until workers remove it: %s", id, error)

    def _is_own(self, running: _RunningRequest, found: DurableExecution | None) -> bool:
        return (
            found is not None
            and found.status == "PENDING"
            and found.executor == self.id
            and found.began_at == running.began_at
        )

    def _interrupt(self) -> None:
        self._interrupted.set()
        with self._lock:
            for each in self._running:
                each.cancelled.set()

    def _watch_over(self) -> None:
        """Cancel the requests that this worker has lost, until it stops."""
        never_begun: set[str] = set()
        while not self._ended.wait(_POLL_INTERVAL):
            with self._lock:
                running = tuple(self._running)
            try:
                found = self._client.find(*(each.id for each in running))
                # A request that was cancelled after it was taken, and before it started, never starts: no other code
                # removes it. At the first check it may be about to start.
                cancelled = self._client.cancelled(self.id) - {each.id for each in running}
                for id in cancelled & never_begun:
                    self._client.forget(id)
                never_begun = cancelled
            except DurableUnavailable:
                # The thread that renews the lease logs this.
                continue
            for each in running:
                if not self._is_own(each, found.get(each.id)):
                    each.cancelled.set()


def _has_expired(execution: DurableExecution, wait_seconds: float) -> bool:
    """Return whether a request started for the first time only after its caller should have withdrawn it."""
    waited = (execution.began_at or execution.created_at) - execution.created_at
    return execution.attempts <= 1 and waited > (wait_seconds + 1) * 1000
