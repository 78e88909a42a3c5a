"""A program that starts workers for tests to kill: processes with a runtime, a relay, and an actor that decides.

It reads orders, one a line. For `["start", order]` it forks a worker and prints its process id; for `["wait", id]` it
prints the exit code. At the end of its input it kills the remaining workers.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from returns.result import Failure

from actionengine import Actor, Engine, Relay, RequestContext, Tenant
from actionengine.concurrency.run_sync import Mode
from actionengine.durable.client import DurableClient, DurableUnavailable
from actionengine.durable.leases import Leases
from actionengine.storage.sql.storage import SQLStorage
from actionengine.workflows import WorkflowPublisher, WorkflowRuntime
from actionengine.workflows.runtime.run_executor import RunExecutor
from actionengine.workflows.runtime.scheduler import Scheduler
from actionengine.workflows.runtime.step_actions import StepActions
from tests.crash.host import POINTS as STORAGE_POINTS
from tests.crash.host import Fuse, FusedPostgresStorage, FusedSQLiteStorage
from tests.workflows_crash.business import clearance, desk_engine

POINTS = (
    *STORAGE_POINTS,
    "before it is queued",
    "after it is queued",
    "before the relay has settled",
    "once a step is performed",
    "before a timer is set",
    "before the turn is noted",
    "before the first lease",
    "after the first lease",
    "before a takeover",
    "in the middle of a takeover",
)
"""The points at which a worker can die."""

AT_A_TAKEOVER = POINTS[-2:]
AT_THE_START = POINTS[-4:]
"""The points that a worker reaches once, when it starts after another one has died."""

LEASE = 2.0
LIFETIME = 600.0
"""Seconds after which a worker ends by itself."""


class Order(NamedTuple):
    """The work of a worker: the databases, a folder and tenants; whether it relays events, and decides approvals and
    assignments; and the point at which it dies or freezes."""

    url: str
    durable_url: str
    folder: str
    tenants: list[list[str]]
    decides: bool = True
    point: str | None = None
    number: int = 1
    lease: float = LEASE
    relays: bool = True
    freezes: bool = False
    mode: Mode = "sync"


class FreezingFuse(Fuse):
    """A fuse that stops this process at its point, until SIGCONT."""

    def reach(self, point: str) -> None:
        if self.is_due(point):
            # To this thread, which would continue for a moment if another one took the signal.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def live(order: Order) -> None:
    """Run a worker until SIGTERM."""
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    fuse = (FreezingFuse if order.freezes else Fuse)(order.point, order.number)
    lay(fuse)
    storage = fused_storage(order.url, fuse)
    engine = desk_engine(storage, Path(order.folder), fuse.reach, order.mode)
    runtime = WorkflowRuntime(
        engine,
        order.durable_url,
        lease=order.lease,
        poll_interval=0.05,
        concurrency=8,
        set_up=order.durable_url.startswith("sqlite"),
    )
    relay = Relay(storage, runtime.publisher, poll_interval=0.1, first_backoff=0.05, longest_backoff=0.5)
    while not started(runtime, ending):
        time.sleep(0.2)
    relaying = threading.Thread(target=relay.run)
    if order.relays:
        relaying.start()
    if order.decides:
        tenants = [Tenant(UUID(id), slug) for id, slug in order.tenants]
        threading.Thread(target=decide, args=(engine, tenants, Path(order.folder)), daemon=True).start()
    # No wait for the event: a signal may come right before it blocks, and its handler would set the event inside of it.
    dies_at = time.monotonic() + LIFETIME
    while not ending.is_set() and time.monotonic() < dies_at:
        time.sleep(0.05)
    if order.relays:
        relay.stop()
        relaying.join(10.0)
    runtime.stop(5.0)
    os._exit(0)


def started(runtime: WorkflowRuntime, ending: threading.Event) -> bool:
    """Return whether the runtime has started. If its database is away, the caller tries again, as a supervisor does."""
    try:
        runtime.start()
    except DurableUnavailable as error:
        sys.stderr.write(f"{os.getpid()} cannot start: {error!r}\n")
        return ending.is_set()
    return True


def decide(engine: Engine, tenants: list[Tenant], folder: Path) -> None:
    """Decide approvals as the run's input says, complete assignments, and resume runs that are stuck."""
    while True:
        for tenant in tenants:
            decide_for(engine, tenant, folder)
        time.sleep(0.2)


def decide_for(engine: Engine, tenant: Tenant, folder: Path) -> None:
    boss = RequestContext(tenant, Actor.human("boss", permissions=("desk.approve",)))

    def ask(service: str, action: str, payload: Any) -> Any:
        answer = engine.execute_action(service, action, payload, boss)
        # Other workers decide too, so a late decision is refused.
        return None if isinstance(answer, Failure) else answer.unwrap()

    for run in ask("workflows", "list", {"status": "paused", "limit": 1000}) or ():
        if run.paused_for == "failure" and run.workflow_key == "stuck":
            clearance(folder, run.id).touch()
            ask("workflows", "resume", {"run_id": run.id})
        elif run.workflow_key == "approved":
            decision = "approve" if run.input["approve"] else "reject"
            ask("approvals", decision, {"approval_id": run.approval_id})
        elif run.paused_for == "assignment":
            ask("workflow_assignments", "complete", {"assignment_id": run.assignment_id})


def fused_storage(url: str, fuse: Fuse) -> SQLStorage:
    """Return a storage whose units of work have a fuse."""
    storage: Any = FusedSQLiteStorage(url, busy_timeout=60.0) if url.startswith("sqlite") else FusedPostgresStorage(url)
    storage.fuse = fuse
    fused: SQLStorage = storage
    return fused


def lay(fuse: Fuse) -> None:
    """Add the fuse between the storage and the durable engine."""
    around(DurableClient, "enqueue", fuse, "before it is queued", "after it is queued")
    around(Leases, "renew", fuse, "before the first lease", "after the first lease")
    around(DurableClient, "take_over", fuse, "before a takeover", "in the middle of a takeover")
    around_async(WorkflowPublisher, "publish", fuse, "before the relay has settled")
    around_async(StepActions, "perform", fuse, "once a step is performed")
    around(Scheduler, "schedule_expiry", fuse, "before a timer is set", "once a timer is set")
    around_async(RunExecutor, "execute_run", fuse, "before the turn is noted")


def around(owner: type, name: str, fuse: Fuse, before: str, after: str) -> None:
    wrapped: Callable[..., Any] = getattr(owner, name)

    def call(*arguments: Any, **named: Any) -> Any:
        fuse.reach(before)
        answer = wrapped(*arguments, **named)
        fuse.reach(after)
        return answer

    setattr(owner, name, call)


def around_async(owner: type, name: str, fuse: Fuse, after: str) -> None:
    wrapped: Callable[..., Any] = getattr(owner, name)

    async def call(*arguments: Any, **named: Any) -> Any:
        answer = await wrapped(*arguments, **named)
        fuse.reach(after)
        return answer

    setattr(owner, name, call)


def begin(order: Order) -> None:
    """Run a worker in a fork."""
    try:
        live(order)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(4)


def main() -> None:
    # A worker that is stopped while it starts ends in order.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    alive: set[int] = set()
    for line in sys.stdin:
        word, told = json.loads(line)
        if word == "start":
            child = os.fork()
            if child == 0:
                begin(Order(*told))
            alive.add(child)
            print(child, flush=True)
        else:
            _, status = os.waitpid(told, 0)
            alive.discard(told)
            print(os.waitstatus_to_exitcode(status), flush=True)
    for child in alive:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
