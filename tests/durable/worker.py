"""The program of a child process with a `RunnerWorker`."""

from __future__ import annotations

import tempfile
from multiprocessing.connection import Connection
from typing import Any

from actionengine.boundary.capabilities import PROFILES
from actionengine.boundary.in_process import InProcessRunner
from actionengine.boundary.module_actions import MODULE_ACTIONS
from actionengine.boundary.remote.runner_worker import RunnerWorker
from actionengine.boundary.roots import ModuleRoots
from actionengine.boundary.runner import BoundaryRunner
from actionengine.boundary.subprocess_runner import SubprocessRunner
from tests.durable.actions import ACTIONS


def main(options: dict[str, Any], test: Connection) -> None:
    profile = PROFILES[options.get("profile", "CODE_MODULE_DEFAULT")]
    # Commands of the tests report their progress by files there.
    outside = [tempfile.gettempdir()]
    runner: BoundaryRunner = (
        SubprocessRunner(profile, writable=outside)
        if options.get("subprocess")
        else InProcessRunner(profile, (*MODULE_ACTIONS, *ACTIONS), writable=outside)
    )
    worker = RunnerWorker(
        options["url"],
        runner,
        ModuleRoots(options["modules"]),
        queue=options["queue"],
        concurrency=options.get("concurrency", 8),
        lease=options.get("lease", 10.0),
        poll_interval=0.1,
        set_up=options.get("set_up", False),
    )
    worker.start()
    test.send("ready")
    test.recv()
    worker.stop(options.get("grace", 10.0))
    test.send("ended")
