"""Idempotency keys in memory: their holders, and the answers to claims."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

from actionengine.storage.clock import steady_now
from actionengine.storage.memory.versions import Key
from actionengine.storage.rows import Claim, ClaimAnswer, IdempotentResult

T = TypeVar("T")


class ClaimHolder:
    """A key that a running unit of work has claimed. The `waiters` are called when it ends."""

    __slots__ = ("before", "owner", "waiters")

    def __init__(self, owner: object, before: IdempotentResult | None) -> None:
        self.owner = owner
        self.before = before
        self.waiters: list[Callable[[], object]] = []


class Expiries(Generic[T]):
    """The expiry times of the used keys of all tenants. `T` is the data of a tenant."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: list[tuple[datetime, int, T, Key]] = []
        self._number = count()

    def add(self, at: datetime, data: T, key: Key) -> None:
        """Record the expiry of a key."""
        with self._lock:
            heappush(self._times, (at, next(self._number), data, key))

    def next(self, now: datetime) -> tuple[T, Key] | None:
        """Remove and return the key that expired first; None when none has."""
        with self._lock:
            if not self._times or self._times[0][0] > now:
                return None
            _, _, data, key = heappop(self._times)
        return data, key


def can_claim(entry: IdempotentResult, claim: Claim) -> bool:
    """Return whether a claim may take over a key that has a result."""
    if entry.approval_id is not None and entry.approval_id == claim.replaces:
        return True
    return entry.expires_at <= steady_now()


def to_answer(entry: IdempotentResult, claim: Claim) -> ClaimAnswer:
    """Return the answer to the claim of a key that has a result."""
    if entry.claim.fingerprint != claim.fingerprint:
        return ClaimAnswer("mismatch")
    return ClaimAnswer("replay", entry.result, entry.approval_id, entry.asked)
