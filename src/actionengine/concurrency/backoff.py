"""Pauses between attempts, after "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).

The delay doubles with each attempt, up to a bound. Jitter keeps callers that failed together from returning together.
All times are in seconds.
"""

from __future__ import annotations

import asyncio
import random
import time
from math import inf
from typing import Final

from actionengine.concurrency.run_sync import Mode

_MAX_DOUBLINGS: Final = 60


def delay(attempt: int, first: float, longest: float = inf) -> float:
    """Return the delay after the failure of this attempt, counted from 1, without jitter.

    A delay that is stored, compared or logged stays deterministic; add jitter where the caller waits.
    """
    return min(longest, first * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS))


def next_delay(previous: float, longest: float) -> float:
    """Return the delay that follows `previous`, without jitter."""
    return min(longest, 2 * previous)


def full_jitter(seconds: float) -> float:
    """Return a random time up to `seconds`: the fastest way out of a conflict."""
    return random.uniform(0, seconds)


def equal_jitter(seconds: float) -> float:
    """Return a random time between half of `seconds` and all of it: an outage needs some time to end."""
    return random.uniform(seconds / 2, seconds)


async def sleep(mode: Mode, seconds: float) -> None:
    """Wait for `seconds`."""
    if mode == "sync":
        time.sleep(seconds)  # noqa: ASYNC251 - there is no event loop here
    else:
        await asyncio.sleep(seconds)
