"""A wrong host clock in this process: `datetime.now` of the library's modules, and `time.time`."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_REAL = datetime.datetime
_real_time = time.time


class _SameInstances(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _REAL)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, _REAL)


@contextmanager
def host_clock(seconds: float) -> Iterator[None]:
    """Set the clock of the host `seconds` ahead (behind, if negative) within this block."""
    off = datetime.timedelta(seconds=seconds)

    class Wrong(_REAL, metaclass=_SameInstances):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return _REAL.now(tz) + off

    changed = [
        (module, name)
        for module in list(sys.modules.values())
        if (getattr(module, "__name__", "") or "").split(".")[0] == "actionengine"
        for name, value in list(vars(module).items())
        if value is _REAL
    ]
    for module, name in changed:
        setattr(module, name, Wrong)
    time.time = lambda: _real_time() + seconds
    try:
        yield
    finally:
        time.time = _real_time
        for module, name in changed:
            setattr(module, name, _REAL)
