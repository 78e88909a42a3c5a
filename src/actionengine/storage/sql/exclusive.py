"""Exclusive use of a unit of work: one thread or task at a time, in first-come order."""

from __future__ import annotations

import threading
from collections import deque
from math import inf

from greenlet import getcurrent  # type: ignore[import-untyped]

from actionengine.concurrency.one_shot_event import OneShotEvent
from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.storage.sql.bridge import await_, identity, is_off_loop, on_loop


class Exclusive:
    """A lock that its holder may acquire again. Its users are threads, and under an event loop greenlets."""

    __slots__ = ("_depth", "_holder", "_lock", "_mode", "_waiting")

    def __init__(self, mode: Mode) -> None:
        self._mode = mode
        self._lock = threading.Lock()
        self._holder: object | None = None
        self._depth = 0
        self._waiting: deque[tuple[object, OneShotEvent]] = deque()

    def enter_now(self) -> bool:
        """Acquire the lock without waiting. Return whether it was free, or the caller's."""
        me = identity(getcurrent())
        with self._lock:
            if self._holder is None:
                self._holder = me
            elif self._holder is not me:
                return False
            self._depth += 1
        return True

    def is_free(self) -> bool:
        """Return whether the lock is free."""
        return self._holder is None

    def is_mine(self) -> bool:
        """Return whether the caller holds the lock."""
        return self._holder is identity(getcurrent())

    def enter(self, seconds: float = inf) -> bool:
        """Acquire the lock, waiting up to `seconds`. Return whether it was free in time. Under an event loop, call this
        in a greenlet only."""
        if self.enter_now():
            return True
        if is_off_loop():
            return on_loop(self.enter, seconds)
        me = identity(getcurrent())
        signal = OneShotEvent(self._mode)
        with self._lock:
            if self._holder is None:
                self._holder, self._depth = me, 1
                return True
            self._waiting.append((me, signal))
        waiting = signal.wait(None if seconds == inf else seconds)
        try:
            if self._mode == "sync":
                run_sync(waiting)
            else:
                await_(waiting)
        except BaseException:
            if not self._withdraw(me):
                self.leave()
            raise
        return not self._withdraw(me)

    def leave(self) -> None:
        """Release the lock. The user that has waited longest holds it then."""
        with self._lock:
            self._depth -= 1
            if self._depth:
                return
            self._holder = None
            if self._waiting:
                self._holder, signal = self._waiting.popleft()
                self._depth = 1
                signal.set()

    def _withdraw(self, me: object) -> bool:
        """Stop waiting. Return False if the lock has been acquired meanwhile."""
        with self._lock:
            if self._holder is me:
                return False
            self._waiting = deque(entry for entry in self._waiting if entry[0] is not me)
            return True
