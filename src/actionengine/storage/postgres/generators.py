"""The driver's generators, with a bound: the driver resumes them at least ten times a second."""

from __future__ import annotations

from collections.abc import Callable, Generator
from time import monotonic
from typing import Any

import psycopg
from psycopg.waiting import Ready, Wait

Waiter = Generator[Wait, Any, Any]

INTERVAL = 0.1
"""Seconds between two checks whether a wait is over for another reason than an answer."""


class ResponseTimeout(psycopg.OperationalError):
    """The server was silent for too long."""


class TimeLimit:
    """A time after which a wait is over."""

    def __init__(self, seconds: float, error: type[psycopg.Error] = ResponseTimeout) -> None:
        self._until = monotonic() + seconds
        self._error = error

    def check(self, is_heard: bool) -> None:
        """Raise the error if the time is over."""
        if monotonic() > self._until:
            raise self._error("the server did not answer in time")


def checked(waiter: Waiter, check: Callable[[bool], None], is_resumed: bool = False) -> Waiter:
    """Run a generator, and call `check` each time that the driver resumes it, with whether the socket is ready.

    A generator with `is_resumed` was interrupted before.
    """
    try:
        wanted = waiter.send(Ready(0)) if is_resumed else next(waiter)
        while True:
            ready = yield wanted
            check(bool(ready))
            wanted = waiter.send(ready)
    except StopIteration as end:
        return end.value
