"""Keyed work in forks, each killed at one of its system calls.

`python -m tests.boundary.killed_work <folder> <seed> <rounds>`: each round makes a module, kills the work in it once
or more often, has it done, and tells in a line of JSON how it went.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from actionengine.boundary.boundary import AdmittedRequest
from actionengine.boundary.declarations import create_module_action
from actionengine.boundary.files.unified_diff import unified_diff
from actionengine.boundary.idempotency.journal import Journal
from actionengine.boundary.idempotency.run_once import recover, run_once
from actionengine.boundary.module_handle import ModuleHandle
from actionengine.boundary.request import ExecutionResult
from actionengine.errors import ActionError
from tests.boundary.modules import EVERYTHING, admit, perform, tree

SCRIPT = """
echo line >> log.txt
rm -r old
mkdir -p new/deep && echo new > new/deep/file && chmod 700 new/deep/file
ln -s ../log.txt new/link
rm turns && mkdir turns && echo in > turns/in
rm -r folds && echo file > folds
chmod 750 kept
"""
CALLS = ("open", "rename", "fsync", "unlink", "rmdir", "mkdir", "symlink", "fchmod", "utime", "close", "stat", "chmod")


class Nothing(BaseModel):
    """No input."""


def in_journal(root: Path) -> list[str]:
    """Return the entries of a module's journal, without the files that always exist."""
    folder = Journal(root).folder
    return [
        name for name in (*os.listdir(folder), *os.listdir(folder / "done")) if name not in ("lock", "done", "purge")
    ]


def change_all(data: Nothing, work: ModuleHandle) -> int:
    """Changes of every kind."""
    ran = work.run(["sh", "-ec", SCRIPT])
    work.edit_file("edited.txt", unified_diff("one\ntwo\n", "one\n2\n", "edited.txt"))
    work.write("kept/tool", b"#!/bin/sh\n", executable=True)
    return ran.exit_code


ACTION = create_module_action(
    name="change_all", description="Changes.", validation=Nothing, handler=change_all, capabilities=EVERYTHING
)


def make_module(root: Path) -> None:
    """Create a module in which the work was not done."""
    for folder in ("old/er", "kept", "folds/deep"):
        (root / folder).mkdir(parents=True)
    for name in ("log.txt", "old/a", "old/er/b", "kept/c", "turns", "folds/deep/d"):
        (root / name).write_text(f"{name}\n")
    (root / "edited.txt").write_text("one\ntwo\n")
    (root / "out").symlink_to("/nowhere")


def keyed(root: Path) -> AdmittedRequest:
    """The request."""
    return admit(root, "change_all", actions=[ACTION], idempotency_key="one", timeout=120.0)


def count_calls(then: Callable[[int], None]) -> None:
    """Call `then` before and after each counted system call, with its number."""
    number = 0

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            nonlocal number
            number += 1
            then(number)
            try:
                return function(*arguments, **named)
            finally:
                number += 1
                then(number)

        return counted

    for name in CALLS:
        setattr(os, name, counting(getattr(os, name)))


def killed_at(point: int, admitted: AdmittedRequest) -> bool:
    """Do keyed work in a fork that is killed at this call. Return whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            count_calls(lambda number: os.kill(os.getpid(), signal.SIGKILL) if number == point else None)
            run_once(admitted, perform)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def points(root: Path) -> int:
    """Return the number of counted calls."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        count = [0]
        count_calls(lambda number: count.__setitem__(0, number))
        run_once(keyed(root), perform)
        os.write(writing, str(count[0]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    found = int(os.read(reading, 100))
    os.close(reading)
    os.close(writing)
    return found


def settle(root: Path) -> ExecutionResult:
    """Repeat the request until it has an answer: while a killed command ends, it may be refused."""
    while True:
        try:
            return run_once(keyed(root), perform)
        except ActionError as refusal:
            if refusal.code not in ("unavailable", "conflict"):
                raise


def main(folder: Path, seed: int, rounds: int) -> None:
    """See above."""
    dice = random.Random(seed)
    before, after = folder / "before", folder / "after"
    for root in (before, after):
        make_module(root)
    perform(keyed(after))
    states = {
        json.dumps(sorted(map(str, tree(root).items()))): name for root, name in ((before, "before"), (after, "after"))
    }
    assert len(states) == 2

    def state(root: Path) -> str:
        return states.get(json.dumps(sorted(map(str, tree(root).items()))), "between")

    make_module(folder / "counted")
    most = points(folder / "counted")
    for number in range(rounds):
        root = folder / f"module-{number}"
        make_module(root)
        # The first kills are spread evenly over the work.
        tried = [1 + (number * most) // rounds + dice.randrange(max(1, most // rounds))]
        tried += [dice.randint(1, most) for _ in range(dice.choice((0, 0, 1, 2)))]
        killed = [killed_at(point, keyed(root)) for point in tried]
        left = state(root)
        strange = sorted(tree(root).keys() - tree(before).keys() - tree(after).keys())
        interrupted = Journal(root).is_interrupted()
        recover(root)
        recovered = state(root)
        result = settle(root)
        done = state(root)
        again = settle(root)
        told = {
            "points": tried,
            "of": most,
            "killed": killed,
            "left": left,
            "strange": strange,
            "interrupted": interrupted,
            "recovered": recovered,
            "replayed": result.replayed,
            "done": done,
            "again": [again.replayed, again.output, state(root)],
            "beside": sorted(name[64:] for name in in_journal(root)),
        }
        print(json.dumps(told), flush=True)
        shutil.rmtree(Journal(root).folder)
        shutil.rmtree(root)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
