"""What tests of processes share: running them, which ones are alive, and where the system has which means."""

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
    """The processes that have a text in their environment."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if marker.encode() in Path(f"/proc/{name}/environ").read_bytes():
                found.append(int(name))
        except OSError:
            continue
    return found


def children(process: int | None = None) -> set[int]:
    """The children of a process, of this one by default, zombies among them."""
    found: set[int] = set()
    for task in Path(f"/proc/{process or os.getpid()}/task").iterdir():
        with suppress(OSError):
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def insist_on(means: IsolationMethod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have commands isolated by these means, or skip the test where the system has them not."""
    for network in (False, True):
        monkeypatch.setitem(processes._known, network, means)
    if not has(means):
        pytest.skip(f"this system has no {means}")


@cache
def has(means: IsolationMethod) -> bool:
    """Whether the system has the means that are insisted on."""
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
