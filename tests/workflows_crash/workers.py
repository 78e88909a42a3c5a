"""Workers as the tests see them: started, killed, frozen and stopped."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from tests.programs import Program
from tests.workflows_crash.worker import Order


class Worker:
    """One worker process."""

    def __init__(self, starter: WorkerStarter, pid: int) -> None:
        self.pid = pid
        self.has_ended = False
        self._starter = starter

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.see_it_killed()

    def see_it_killed(self) -> None:
        """Wait for its end, which has to be by SIGKILL."""
        ended = self._wait()
        assert ended == -signal.SIGKILL, f"the worker ended with {ended}: {self._starter.errors()}"

    @property
    def is_frozen(self) -> bool:
        return bool(psutil.Process(self.pid).status() == psutil.STATUS_STOPPED)

    @property
    def is_dead(self) -> bool:
        return bool(psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Stop it, and check its exit code."""
        os.kill(self.pid, signal.SIGTERM)
        ended = self._wait()
        assert ended == 0, f"the worker ended with {ended}: {self._starter.errors()}"

    def discard(self) -> None:
        """Kill it if it still runs."""
        if not self.has_ended:
            os.kill(self.pid, signal.SIGKILL)
            self._wait()

    def _wait(self) -> int:
        ended = self._starter.wait(self.pid)
        self.has_ended = True
        return ended


class WorkerStarter:
    """A program that starts workers, each in its own process."""

    def __init__(self, folder: Path) -> None:
        self._program = Program("tests.workflows_crash.worker", folder)

    def start(self, order: Order) -> Worker:
        return Worker(self, int(self._program.ask(["start", order])))

    def wait(self, pid: int) -> int:
        """Wait for a worker, and return its exit code."""
        return int(self._program.ask(["wait", pid]))

    def errors(self) -> str:
        """Return the last error output of the workers."""
        return self._program.errors()

    def close(self) -> None:
        self._program.close()
