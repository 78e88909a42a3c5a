"""The clock of storages that have no server of their own: it runs evenly, whatever becomes of the machine's clock. And
times as texts that sort."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from functools import partial

if sys.platform == "linux":
    # It goes on while the machine sleeps.
    _running = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
else:
    _running = time.monotonic

_BEGAN = time.time() - _running()
"""When the machine began, in seconds, by what its clock said when this process began."""

_fromtimestamp = datetime.fromtimestamp


def steady_now() -> datetime:
    """Return the time, in UTC: what the machine's clock said when this process began, and what has passed since. Where
    somebody sets that clock meanwhile, nothing here comes to its end too early or too late."""
    return _fromtimestamp(_BEGAN + _running(), UTC)


def sortable(time: datetime) -> str:
    """Return a time as a text, which sorts among others as the time does."""
    return time.astimezone(UTC).isoformat(timespec="microseconds")
