"""Helpers for tests of processes: to run them, to find the live ones, and to choose isolation methods."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from actionengine.boundary.commands import processes
from actionengine.boundary.commands.processes import CompletedCommand, IsolationMethod, run_process
from actionengine.errors import ActionError

PYTHON = (sys.executable, "-I", "-S", "-c")

DAEMONS = """
import os, signal, sys, time
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
print("made", flush=True)
time.sleep(float(sys.argv[2]))
"""


def alive(marker: str) -> list[int]:
    """Return the processes with a text in their environment."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if marker.encode() in Path(f"/proc/{name}/environ").read_bytes():
                found.append(int(name))
        except OSError:
            continue
    return found


def children(process: int | None = None) -> set[int]:
    """Return the children of a process, by default of this one, zombies included."""
    found: set[int] = set()
    for task in Path(f"/proc/{process or os.getpid()}/task").iterdir():
        with suppress(OSError):
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def insist_on(means: IsolationMethod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate commands by this method, or skip the test if the system does not have it."""
    for network in (False, True):
        monkeypatch.setitem(processes._known, network, means)
    if not has(means):
        pytest.skip(f"this system has no {means}")


@cache
def has(means: IsolationMethod) -> bool:
    """Return whether the system has the chosen method."""
    try:
        return run_process(("true",), folder="/", timeout=60.0).exit_code == 0
    except ActionError:
        return False


def run(*argv: str, **options: Any) -> CompletedCommand:
    return run_process(argv, **{"folder": "/", "timeout": 60.0, **options})


def refused(*argv: str, **options: Any) -> ActionError:
    with pytest.raises(ActionError) as caught:
        run(*argv, **options)
    return caught.value


def python(code: str, *arguments: str, **options: Any) -> CompletedCommand:
    return run(*PYTHON, code, *arguments, **options)
