"""Counters of budgets: the values that go through the storage port.

A counter belongs to one tenant, one budget and one scope of it. Its window begins with the first reservation, and the
first reservation after its end begins another one. Amounts are whole numbers of trillionths, so that they add
up exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from actionengine.errors import ActionError, ErrorCode

DECIMALS = 12
"""Decimals of an amount that a counter keeps."""

ONE: int = 10**DECIMALS
"""The amount 1, in trillionths."""

MAX_LIMIT: int = 10**18
"""The largest limit of a counter, in whole units: with it, no sum exceeds the integers of a database."""

MAX_WAIT = 10.0
"""Seconds that a reservation waits at most for other units of work on the same counters; then it is a `conflict`."""


class Reservation(NamedTuple):
    """An amount to add to a counter that takes up to `limit` in each `window`. Both are in trillionths."""

    budget: str
    scope: str
    amount: int
    limit: int
    window: timedelta


class Counter(NamedTuple):
    """A counter as stored: the amount in its window, in trillionths, and the end of the window, in UTC."""

    used: int
    expires_at: datetime

    def used_at(self, now: datetime) -> int:
        """Return the amount in the present window: none where it is over."""
        return self.used if self.expires_at > now else 0


def to_text(amount: int) -> str:
    """Return trillionths as a decimal number."""
    return f"{amount // ONE}.{amount % ONE:0{DECIMALS}d}"


def from_text(text: str) -> int:
    """Return a decimal number in trillionths."""
    whole, _, decimals = text.partition(".")
    return int(whole) * ONE + int(decimals.ljust(DECIMALS, "0") or 0)


def waited_too_long() -> ActionError:
    """Return the error of a reservation whose wait is over."""
    return ActionError(
        ErrorCode.CONFLICT, "another execution that uses the same budget has not ended in time: try again later"
    )


def merged(reservations: Iterable[Reservation]) -> list[Reservation]:
    """Return one reservation for each counter, in the order in which all transactions lock counters."""
    reservations = list(reservations)
    if len(reservations) < 2:
        return reservations
    counters: dict[tuple[str, str], Reservation] = {}
    for each in reservations:
        before = counters.get(each[:2])
        counters[each[:2]] = each if before is None else each._replace(amount=before.amount + each.amount)
    return [counters[key] for key in sorted(counters)]
