"""FairLock: a lock in first-come order for threads and tasks."""

from __future__ import annotations

import threading
from collections import deque

from actionengine.concurrency.one_shot_event import OneShotEvent
from actionengine.concurrency.run_sync import Mode


class FairLock:
    """A lock in first-come order for threads and tasks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: object | None = None
        self._waiting: deque[tuple[object, OneShotEvent]] = deque()

    @property
    def holder(self) -> object | None:
        """Return the holder."""
        return self._holder

    async def acquire(self, who: object, mode: Mode, seconds: float) -> bool:
        """Wait for the lock; return whether it came in time. The holder calls `release`."""
        with self._lock:
            if self._holder is None:
                self._holder = who
                return True
            signal = OneShotEvent(mode)
            self._waiting.append((who, signal))
        try:
            await signal.wait(seconds)
        except BaseException:
            self._withdraw(who)
            raise
        with self._lock:
            if self._holder is who:
                return True
            self._drop(who)
            return False

    def release(self, who: object) -> None:
        """Pass the lock on to the first waiter."""
        with self._lock:
            if self._holder is who:
                self._next()

    def _next(self) -> None:
        self._holder = None
        if self._waiting:
            self._holder, signal = self._waiting.popleft()
            signal.set()

    def _withdraw(self, who: object) -> None:
        with self._lock:
            if self._holder is who:
                self._next()
            else:
                self._drop(who)

    def _drop(self, who: object) -> None:
        for entry in self._waiting:
            if entry[0] is who:
                self._waiting.remove(entry)
                return
