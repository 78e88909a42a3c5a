"""Writers that are killed at each call that changes files, and at random moments. Afterwards every file is complete.

`killed_writers.py ROOT ROUNDS` prints `whole` if this holds.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from actionengine.boundary.files.files import ModuleFiles
from actionengine.boundary.files.paths import TEMPORARY_PREFIX

STEPS = ("mkdir", "open", "write", "fchmod", "fsync", "rename")
SIZE = 50_000


def content(number: int) -> bytes:
    return bytes([number % 256]) * SIZE


def killed_at(step: int, *, after: bool) -> None:
    """Make this process kill itself before or after its n-th step."""
    left = step

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*given: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0 and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return call(*given, **named)
            finally:
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        return counting

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))


def in_another(work: Callable[[], None], *, killed_after: float | None = None) -> int:
    """Run work in a fork, and kill it after some seconds if given. Return its exit code."""
    process = os.fork()
    if process == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    if killed_after is not None:
        time.sleep(killed_after)
        os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def check_whole(root: str) -> None:
    with ModuleFiles(root) as files:
        for entry in files.walk():
            found = files.read(entry.path)
            assert len(found) == SIZE, entry
            assert found == found[:1] * SIZE, entry
            assert TEMPORARY_PREFIX not in entry.path


def main(root: str, rounds: int) -> None:
    def write_once(step: int, after: bool) -> None:
        killed_at(step, after=after)
        with ModuleFiles(root) as files:
            files.write("new/folder/file", content(1))
            files.write("file", content(2))

    def write_for_ever() -> None:
        with ModuleFiles(root) as files:
            while True:
                for number in range(20):
                    files.write(f"{number % 3}/{number}", content(random.randrange(256)))

    for after in (False, True):
        step, ended, left_over = 0, -signal.SIGKILL, False
        while ended:
            assert ended == -signal.SIGKILL, ended
            step += 1
            os.system(f"rm -rf '{root}/new'")
            ended = in_another(partial(write_once, step, after))
            check_whole(root)
            left_over = left_over or any(Path(root).glob(f"**/{TEMPORARY_PREFIX}*"))
        assert left_over, "the kills were not in the middle of anything"
    for _ in range(rounds):
        assert in_another(write_for_ever, killed_after=random.uniform(0.001, 0.03)) == -signal.SIGKILL
        check_whole(root)
    print("whole")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
