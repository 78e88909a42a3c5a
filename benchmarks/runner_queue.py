"""Several workers on one queue: module work through the queue on PostgreSQL, by one, two and four worker processes.

Each request runs a command that waits for a tenth of a second, as work does that waits for something else. They are
asked for at once, from threads of this process; rows are seconds a request. Each number of workers has a queue of its
own, so that they take turns.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from uuid import uuid4

from actionengine import Tenant
from actionengine.boundary.capabilities import WORKFLOW_MODULE_DEFAULT, Capability
from actionengine.boundary.remote.queue_runner import QueueRunner
from actionengine.boundary.request import ExecutionRequest, ModuleContext
from actionengine.boundary.roots import ModuleRoots
from actionengine.durable.host import upgrade
from benchmarks.postgres import database
from benchmarks.report import Row
from benchmarks.timing import take_samples
from benchmarks.workers import in_threads

WORKERS = (1, 2, 4)
AT_ONCE = 2
"""Requests that a worker runs at once."""

REQUESTS = 16
_WAIT = ("sleep", "0.1")


def run(seconds: float) -> list[Row]:
    """Each number of workers against one."""
    tenant = Tenant(uuid4(), "acme")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        module = ModuleRoots(folder).create(tenant, "bench")
        url = stack.enter_context(database()).superuser_url
        upgrade(url)
        runners = {}
        for workers in WORKERS:
            queue = f"bench-{workers}"
            for _ in range(workers):
                stack.enter_context(_worker(url, folder, queue))
            runner = QueueRunner(url, WORKFLOW_MODULE_DEFAULT, queue=queue, poll_interval=0.05)
            runners[workers] = stack.enter_context(runner)
        measures = {str(workers): partial(_timed, runner, tenant, module) for workers, runner in runners.items()}
        for measure in measures.values():
            measure()
        times = take_samples(measures, seconds)
    return [
        Row(
            f"runner_queue_{workers}",
            f"module work through the queue, {workers} workers, a request",
            "1 worker",
            times[str(workers)],
            times["1"],
        )
        for workers in WORKERS
        if workers > 1
    ]


def _timed(runner: QueueRunner, tenant: Tenant, module: ModuleContext) -> float:
    def ask() -> None:
        request = ExecutionRequest(
            tenant=tenant,
            module=module,
            action="run",
            input={"argv": _WAIT},
            capabilities=frozenset({Capability.CMD_RUN}),
        )
        runner.execute(request).unwrap()

    return in_threads([ask] * REQUESTS, 1)


@contextmanager
def _worker(url: str, modules: Path, queue: str) -> Iterator[None]:
    options = {"url": url, "modules": modules, "queue": queue, "profile": WORKFLOW_MODULE_DEFAULT.name}
    more = {"runner": "in-process", "concurrency": AT_ONCE, "grace": 0}
    arguments = [text for name, value in {**options, **more}.items() for text in (f"--{name}", str(value))]
    command = str(Path(sys.executable).with_name("actionengine"))
    program = [command, "runner", "work", "--no-set-up", *arguments]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        ready = process.stderr.readline()
        if "takes requests" not in ready:
            raise RuntimeError(f"the worker did not start: {ready}{process.stderr.read()}")
        try:
            yield
        finally:
            process.kill()
