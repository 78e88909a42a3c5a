"""Module actions of the tests, on the workers."""

from __future__ import annotations

import os
import signal
from typing import Any

from pydantic import BaseModel

from actionengine.execution.declarations import create_module_action
from actionengine.execution.work import Work


class Size(BaseModel):
    size: int


class Nothing(BaseModel):
    pass


class Marked(BaseModel):
    marks: str


def _much(data: Size, work: Work) -> dict[str, Any]:
    return {"text": "\u00e4" * data.size}


def _deadly(data: Nothing, work: Work) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _faulty(data: Nothing, work: Work) -> None:
    raise RuntimeError("a fault")


def _appends(data: Marked, work: Work) -> None:
    """Append a line, and tell so outside, where commands do not reach. The first time, go on until it is cancelled."""
    work.run(("sh", "-c", "echo x >> lines"))
    with open(data.marks, "a+") as file:
        file.write("begun\n")
        file.seek(0)
        is_first = len(file.readlines()) == 1
    if is_first:
        work.run(("sleep", "60"))


ACTIONS = tuple(
    create_module_action(name=name, description="", validation=model, handler=handler, capabilities=needs)
    for name, model, handler, needs in (
        ("much", Size, _much, ()),
        ("deadly", Nothing, _deadly, ()),
        ("faulty", Nothing, _faulty, ()),
        ("appends", Marked, _appends, ("cmd:run",)),
    )
)
