"""The clock of storages without a server. Changes of the machine's clock do not affect it."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from functools import partial

if sys.platform == "linux":
    # It runs while the machine sleeps.
    _running = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
else:
    _running = time.monotonic

_BEGAN = time.time() - _running()
"""The time of the machine's start, in seconds, by its clock at the start of this process."""

_fromtimestamp = datetime.fromtimestamp


def steady_now() -> datetime:
    """Return the time in UTC: the machine's clock at the start of this process, plus the time that has passed since.
    Setting the machine's clock does not end anything too early or too late."""
    return _fromtimestamp(_BEGAN + _running(), UTC)


def sortable(time: datetime) -> str:
    """Return a time as a text that sorts by time."""
    return time.astimezone(UTC).isoformat(timespec="microseconds")
