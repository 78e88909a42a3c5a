"""Protection from pickled values in the durable engine's tables.

DBOS reads each value with the serializer that its row names, and pickle is always one of them: a program that can write
a row could run code in each process that reads it.
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
    """DBOS's own serializer, for other users of DBOS in this process."""

    def deserialize(self, serialized_data: str) -> Any:
        if _executing.is_set() or _reading.get():
            raise ValueError("this row names pickle as its serializer, and actionengine writes JSON only")
        return super().deserialize(serialized_data)


def guard() -> None:
    """Install the protection in DBOS."""
    with _lock:
        if not isinstance(_serialization.DBOSDefaultSerializer, _Guarded):
            _serialization.DBOSDefaultSerializer = _Guarded()


@contextmanager
def reading() -> Iterator[None]:
    """Read JSON only in this block."""
    token = _reading.set(True)
    try:
        yield
    finally:
        _reading.reset(token)


def set_executing(is_executor: bool) -> None:
    """Set whether this process is an executor: then all its threads read JSON only."""
    if is_executor:
        _executing.set()
    else:
        _executing.clear()
