"""Counters of budgets in memory: committed amounts, and those that running units of work hold."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Generic, NamedTuple, TypeVar

from actionengine.storage.counters import Counter, Reservation

Owner = TypeVar("Owner")


class CounterKey(NamedTuple):
    """The budget and the scope of a counter. The type tells it from the key of a document."""

    budget: str
    scope: str


class Hold(NamedTuple):
    """An amount that a running unit of work has reserved at this time."""

    key: CounterKey
    amount: int
    at: datetime
    window: timedelta


class CounterState(Generic[Owner]):
    """One counter. `Owner` is a unit of work: what it holds leaves no room for others, and counts once it commits."""

    __slots__ = ("counter", "holds")

    def __init__(self) -> None:
        self.counter: Counter | None = None
        self.holds: list[tuple[Owner, Hold]] = []

    def room(self, wanted: Reservation, now: datetime) -> int:
        """Return the amount that would be left in the window if only this reservation were added."""
        used = self.counter.used_at(now) if self.counter is not None else 0
        return wanted.limit - used - wanted.amount

    def held(self, owner: Owner | None = None) -> int:
        """Return the amount that all units of work hold, or this one."""
        return sum(hold.amount for holder, hold in self.holds if owner is None or holder is owner)

    def other_holder(self, owner: Owner) -> Owner | None:
        """Return another unit of work that holds an amount."""
        return next((holder for holder, _ in self.holds if holder is not owner), None)

    def seen_by(self, owner: Owner) -> Counter | None:
        """Return the counter with the amounts of one unit of work."""
        counter = self.counter
        for holder, hold in self.holds:
            if holder is owner:
                counter = _added(counter, hold)
        return counter

    def commit(self, hold: Hold) -> bool:
        """Add a held amount. Return whether it begins a window."""
        before, self.counter = self.counter, _added(self.counter, hold)
        return before is None or before.expires_at != self.counter.expires_at


def _added(counter: Counter | None, hold: Hold) -> Counter:
    if counter is None or counter.expires_at <= hold.at:
        return Counter(hold.amount, hold.at + hold.window)
    return counter._replace(used=counter.used + hold.amount)
