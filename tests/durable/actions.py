"""Module actions of the tests, on the workers."""

from __future__ import annotations

import os
import signal
from typing import Any

from pydantic import BaseModel

from actionengine.boundary.declarations import create_module_action
from actionengine.boundary.module_handle import ModuleHandle


class Size(BaseModel):
    size: int


class Nothing(BaseModel):
    pass


def _much(data: Size, work: ModuleHandle) -> dict[str, Any]:
    return {"text": "\u00e4" * data.size}


def _deadly(data: Nothing, work: ModuleHandle) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _faulty(data: Nothing, work: ModuleHandle) -> None:
    raise RuntimeError("a fault")


ACTIONS = tuple(
    create_module_action(name=name, description="", validation=model, handler=handler, capabilities=())
    for name, model, handler in (("much", Size, _much), ("deadly", Nothing, _deadly), ("faulty", Nothing, _faulty))
)
