"""Pauses of DBOS after an error.

By itself it doubles its pause before it asks for a lost connection, up to a minute and a half, so that after a long
outage nothing moves for that long; and of its threads that serve all queues, one that fails is gone.
"""

from __future__ import annotations

from functools import partial
from threading import Event, Lock
from typing import Any

from dbos import _dbos, _sys_db, _sys_db_postgres

from actionengine.durable.watched import watch

MAX_RETRY_INTERVAL = 3.0
"""Seconds between two attempts, at most."""

_BACKOFF = (0.5, MAX_RETRY_INTERVAL / 1.5)
"""The first backoff and the longest one, as DBOS counts them: it makes them longer by half, at random."""

_lock = Lock()


def shorten_pauses() -> None:
    """Let DBOS's methods that try again pause no longer than `MAX_RETRY_INTERVAL`, in this process."""
    retry: Any = _sys_db.db_retry
    with _lock:
        if retry.__defaults__ == _BACKOFF:
            return
        retry.__defaults__ = _BACKOFF
        for owner in (_sys_db.SystemDatabase, _sys_db_postgres.PostgresSystemDatabase):
            for name, method in list(vars(owner).items()):
                # A method with this decorator keeps the pauses that were the defaults when it was defined.
                if "max_backoff" in getattr(getattr(method, "__code__", None), "co_freevars", ()):
                    setattr(owner, name, retry()(method.__wrapped__))


_KEPT = {
    "queue_thread": "nothing is taken from the queues",
    "background_jobs_thread": "nothing that waits for a time is put on its queue",
}
"""The functions that DBOS runs in threads of its own, and what is left undone without them."""


def keep_threads() -> None:
    """Let DBOS's threads begin again when they fail, in this process."""
    with _lock:
        for name, without in _KEPT.items():
            work = getattr(_dbos, name)
            if not isinstance(work, partial):
                setattr(_dbos, name, partial(_keep, work, without))


def _keep(work: Any, without: str, stopping: Event, *arguments: Any) -> None:
    watch(partial(work, stopping, *arguments), stopping, without)
