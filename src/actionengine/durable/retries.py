"""How long DBOS pauses before it asks again for a connection that it has lost.

By itself it doubles its pause up to a minute and a half, so that after a long outage nothing moves for that long.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

from dbos import _sys_db, _sys_db_postgres

LONGEST_PAUSE = 3.0
"""Seconds between two attempts, at most."""

_BACKOFF = (0.5, LONGEST_PAUSE / 1.5)
"""The first backoff and the longest one, as DBOS counts them: it makes them longer by half, at random."""

_lock = Lock()


def shorten_pauses() -> None:
    """Let DBOS's methods that try again pause no longer than `LONGEST_PAUSE`, in this process."""
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
