"""Shorter pauses of DBOS after an error, and threads that survive errors.

By default it doubles its pause before it retries a lost connection, up to a minute and a half, so that after a long
outage it does nothing for that long; and its threads that serve all queues end at an error.
"""

from __future__ import annotations

from functools import partial
from threading import Event, Lock
from typing import Any

from dbos import _dbos, _sys_db, _sys_db_postgres

from actionengine.durable.watched import watch

MAX_RETRY_INTERVAL = 3.0
"""The most seconds between two attempts."""

_BACKOFF = (0.5, MAX_RETRY_INTERVAL / 1.5)
"""DBOS's first and longest backoff in seconds, to which it adds up to a half, at random."""

_lock = Lock()


def shorten_pauses() -> None:
    """Limit the pauses of DBOS's retries to `MAX_RETRY_INTERVAL`, in this process."""
    retry: Any = _sys_db.db_retry
    with _lock:
        if retry.__defaults__ == _BACKOFF:
            return
        retry.__defaults__ = _BACKOFF
        for owner in (_sys_db.SystemDatabase, _sys_db_postgres.PostgresSystemDatabase):
            for name, method in list(vars(owner).items()):
                # A decorated method keeps the default pauses of the time of its definition.
                if "max_backoff" in getattr(getattr(method, "__code__", None), "co_freevars", ()):
                    setattr(owner, name, retry()(method.__wrapped__))


_KEPT = {
    "queue_thread": "nothing is taken from the queues",
    "background_jobs_thread": "nothing that waits for a time is put on its queue",
}
"""The functions that DBOS runs in threads of its own, with the effect of their absence."""


def keep_threads() -> None:
    """Restart DBOS's threads when they fail, in this process."""
    with _lock:
        for name, without in _KEPT.items():
            work = getattr(_dbos, name)
            if not isinstance(work, partial):
                setattr(_dbos, name, partial(_keep, work, without))


def _keep(work: Any, without: str, stopping: Event, *arguments: Any) -> None:
    watch(partial(work, stopping, *arguments), stopping, without)
