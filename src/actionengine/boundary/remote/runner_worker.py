"""The worker behind `QueueRunner`: takes requests from a queue, and has them run behind a boundary of its own."""

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
"""Seconds between two looks at whether what is in hand is still asked for."""

_KEPT = 3600.0
"""Seconds for which an answer stays for whoever asked, where nobody fetches it."""

_ATTEMPTS = 10
"""Work that has ended so many workers is what ended them."""

_STOP_TIMEOUT = 5.0
"""Seconds beyond the grace, in which work is ended that is given back."""


@dataclass(frozen=True, slots=True, eq=False)
class _RunningRequest:
    id: str
    began_at: int | None
    cancelled: threading.Event = field(default_factory=threading.Event)


class RunnerWorker:
    """Takes requests of `QueueRunner`s, in this process, beside any number of other workers.

    What a request says of where its module lies is not believed, nor that it has passed a boundary. The tenant that it
    names is: whoever can write into the durable engine's database can have done, for any tenant, what the runner's
    profile grants, in the modules of `roots`.

    A worker that is killed is noticed by the others, or by the next one that starts, and what it had in hand is begun
    anew. What has ended ten workers is given up.

    Args:
        url: of the durable engine's database: PostgreSQL, or a SQLite file for the processes of one machine.
        runner: what runs the requests here: an `InProcessRunner` or a `SubprocessRunner`.
        roots: where modules lie for this worker.
        queue: what it takes requests from.
        concurrency: requests that it runs at once. What the worker that has started last says counts for all on the
            queue.
        lease: seconds after which a worker that is not heard of counts as dead.
        poll_interval: seconds between two looks at the queue.
        set_up: whether to make the durable engine's tables; without, `actionengine workflows upgrade` has.
        connect_timeout: seconds to wait for a new connection to the durable engine's database (PostgreSQL).
        answer_timeout: seconds to wait for the answer to a statement there; then the connection counts as lost, and
            another one is opened (PostgreSQL).

    Raises:
        ConfigurationError: for a URL of neither kind, and for seconds or a `concurrency` that are not positive; in
            `start`, where the process has a durable engine already.
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
            # Whatever a row has for arguments: one that is no order gets an answer, too.
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
        """What results call this worker."""
        return self._host.executor_id

    def start(self) -> None:
        """Begin to take requests. Raises `DurableUnavailable` where the database is out of reach, or not set up."""
        self._interrupted.clear()
        self._ended.clear()
        self._host.start()
        self._watch = start_watched(
            *(self._watch_over, "actionengine-worker", self._ended),
            without="the worker sees no withdrawals",
        )

    def stop(self, grace: float = 10.0) -> None:
        """End: nothing new is taken; what runs longer than `grace` seconds is ended, and begun anew elsewhere."""
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
        """The durable function. Raises `Interrupted` where the work is not this worker's to answer."""
        id = current_id()
        execution = self._own(id)
        try:
            order = WorkMessage.from_text(text)
            module = validate_module(order.request)
            assert order.request.tenant is not None
            here = self._roots.context(order.request.tenant, module.id)
        except ActionError as refusal:
            return answer_to_text(Failure(refusal.without_traceback()))
        if _expired_error(execution, order.wait_seconds):
            message = f"no worker took the work {order.request.id} ({order.request.action}) in time"
            return answer_to_text(Failure(ActionError(ErrorCode.UNAVAILABLE, message)))
        running = _RunningRequest(id, execution.began_at)
        with self._lock:
            self._running.add(running)
        try:
            if self._interrupted.is_set():
                raise Interrupted("this worker stops")
            request = order.request.model_copy(update={"module": here})
            answer = self._runner.execute(request, cancelled=running.cancelled)
        finally:
            with self._lock:
                self._running.discard(running)
        if running.cancelled.is_set():
            self._release(running, answer)
        return answer_to_text(_by(self.id, answer))

    def _own(self, id: str) -> DurableExecution:
        """The execution that this worker has just begun with."""
        found = self._find_with_retry(id)
        if found is None or found.status != "PENDING" or found.executor != self.id:
            self._forget_cancelled(id, found)
            raise Interrupted("it was withdrawn just now")
        return found

    def _find_with_retry(self, id: str) -> DurableExecution | None:
        while not self._interrupted.is_set():
            try:
                return self._client.find(id).get(id)
            except DurableUnavailable:
                self._interrupted.wait(_POLL_INTERVAL)
        raise Interrupted("this worker stops")

    def _release(self, running: _RunningRequest, answer: RunnerResult) -> None:
        """Leave the answer to others, where there is none, or it is not this worker's to give any more."""
        try:
            found = self._client.find(running.id).get(running.id)
        except DurableUnavailable:
            found = None
        if self._is_own(running, found):
            if isinstance(answer, Success):
                return
            raise Interrupted("this worker stops")
        self._forget_cancelled(running.id, found)
        raise Interrupted("nobody waits for it any more, or another worker has it")

    def _forget_cancelled(self, id: str, found: DurableExecution | None) -> None:
        """Tell whoever has cancelled it that it has stopped."""
        if found is None or found.status != "CANCELLED" or found.executor != self.id:
            return
        try:
            self._client.forget(id)
        except DurableUnavailable as error:
            logger.warning("the cancelled work %s stays in the queue for now: %s", id, error)

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
        """Cancel what is not this worker's any more, until the end."""
        never_begun: set[str] = set()
        while not self._ended.wait(_POLL_INTERVAL):
            with self._lock:
                running = tuple(self._running)
            try:
                found = self._client.find(*(each.id for each in running))
                # What was cancelled between being taken and being begun is not begun, and nobody says that it stopped.
                # At the first look it may be just about to get in hand.
                cancelled = self._client.cancelled(self.id) - {each.id for each in running}
                for id in cancelled & never_begun:
                    self._client.forget(id)
                never_begun = cancelled
            except DurableUnavailable:
                # Said where the lease is renewed.
                continue
            for each in running:
                if not self._is_own(each, found.get(each.id)):
                    each.cancelled.set()


def _expired_error(execution: DurableExecution, wait_seconds: float) -> bool:
    """Return whether it was begun for the first time only after whoever asked has gone, or should have withdrawn it."""
    waited = (execution.began_at or execution.created_at) - execution.created_at
    return execution.attempts <= 1 and waited > (wait_seconds + 1) * 1000


def _by(worker: str, answer: RunnerResult) -> RunnerResult:
    if isinstance(answer, Failure):
        return answer
    return Success(answer.unwrap().model_copy(update={"worker": worker}))
