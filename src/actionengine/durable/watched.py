"""Threads that serve the whole process, and so must survive the errors of their work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic

from actionengine.concurrency.backoff import next_delay
from actionengine.durable.database import DurableUnavailable
from actionengine.errors import ConfigurationError
from actionengine.storage.errors import StorageError

logger = logging.getLogger("actionengine")

_MIN_RETRY_INTERVAL = 0.5
_MAX_RETRY_INTERVAL = 10.0
"""The first and the longest pause in seconds before failed work is restarted."""


def start_watched(work: Callable[[], None], name: str, stopping: threading.Event, without: str) -> threading.Thread:
    """Start a thread that calls `watch`."""
    thread = threading.Thread(target=watch, args=(work, stopping, without), name=name, daemon=True)
    thread.start()
    return thread


def watch(work: Callable[[], None], stopping: threading.Event, without: str) -> None:
    """Do work until it returns. If it raises, log the effect of its absence, `without`, and restart it after a pause,
    unless `stopping` is set by then."""
    pause = _MIN_RETRY_INTERVAL
    while not stopping.is_set():
        began = monotonic()
        try:
            work()
            return
        except BaseException as error:
            if stopping.is_set():
                return
            if monotonic() - began > _MAX_RETRY_INTERVAL:
                pause = _MIN_RETRY_INTERVAL
            is_known = isinstance(error, ConfigurationError | StorageError | DurableUnavailable)
            reason = str(error) if is_known else f"{type(error).__name__}: {error}"
            logger.error("%s: %s; the next attempt is in %.1f s", without, reason, pause, exc_info=not is_known)
        stopping.wait(pause)
        pause = next_delay(pause, _MAX_RETRY_INTERVAL)
