"""Nothing that is read from the durable engine's tables is unpickled, whatever a row in them says of itself.

DBOS reads each value with the serializer that its row names, and pickle is always one of them: who can write a row
could have code run in each process that reads it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from dbos import _serialization

_reading: ContextVar[bool] = ContextVar("actionengine_reads_the_durable_engine", default=False)
_executing = threading.Event()
_lock = threading.Lock()


class _Guarded(_serialization.DefaultSerializer):
    """DBOS's own serializer, for whoever else uses DBOS in this process."""

    def deserialize(self, serialized_data: str) -> Any:
        if _executing.is_set() or _reading.get():
            raise ValueError("this row says that it is pickled, and actionengine writes JSON only")
        return super().deserialize(serialized_data)


def guard() -> None:
    """Have DBOS ask first."""
    with _lock:
        if not isinstance(_serialization.DBOSDefaultSerializer, _Guarded):
            _serialization.DBOSDefaultSerializer = _Guarded()


@contextmanager
def reading() -> Iterator[None]:
    """What is read in this block is JSON."""
    token = _reading.set(True)
    try:
        yield
    finally:
        _reading.reset(token)


def set_executing(whether: bool) -> None:
    """Return whether this process is an executor, all of whose threads read JSON only."""
    if whether:
        _executing.set()
    else:
        _executing.clear()
