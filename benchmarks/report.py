"""A row of the report: what was measured, against what, the aim, and whether it is met."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.timing import Timing

Unit = Literal["s", "KB", "statements", "VM steps", "buffers"]
"""Of the numbers of a row: seconds a call, kilobytes a thing, statements sent, or what a database reads."""


@dataclass(frozen=True, slots=True)
class Aim:
    """The aim of a row, in words and as a check. A row without one is for comparison."""

    text: str
    holds: Callable[[Row], bool]


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison."""

    name: str
    what: str
    against: str
    ours: Timing
    peer: Timing
    aim: Aim | None = None
    unit: Unit = "s"

    @property
    def ratio(self) -> float:
        """Our time (or memory) over the peer's."""
        return self.ours.ratio_to(self.peer)

    @property
    def more(self) -> float:
        """The difference to the peer, in `unit`."""
        return self.ours.more_than(self.peer)

    @property
    def met(self) -> bool | None:
        """True if the aim is met; None without an aim."""
        return None if self.aim is None else self.aim.holds(self)

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON values; numbers are in `unit`."""
        return {
            "name": self.name,
            "what": self.what,
            "against": self.against,
            "unit": self.unit,
            "rounds": len(self.ours.rounds),
            "ours": {"min": self.ours.min, "median": self.ours.median},
            "peer": {"min": self.peer.min, "median": self.peer.median},
            "ratio": self.ratio,
            "more": self.more,
            "aim": self.aim.text if self.aim else None,
            "met": self.met,
        }


def at_most_ratio(bound: float) -> Aim:
    """At most so many times the peer's time."""
    return Aim(f"ratio ≤ {bound:g}", lambda row: row.ratio <= bound)


def at_most_more(seconds: float) -> Aim:
    """At most so much more than the peer."""
    return Aim(f"≤ {duration(seconds)} more", lambda row: row.more <= seconds)


def throughput_of(times: float) -> Aim:
    """At least so many times the peer's throughput."""
    return Aim(f"≥ {times:g} times its throughput", lambda row: row.ratio * times <= 1)


def at_most(seconds: float) -> Aim:
    """At most so long, whatever the peer takes."""
    return Aim(f"≤ {duration(seconds)}", lambda row: row.ours.median <= seconds)


def amount(number: float, unit: Unit) -> str:
    """A measured number for people to read."""
    return duration(number) if unit == "s" else f"{number:.3g} {unit}"


def duration(seconds: float) -> str:
    """A time for people to read."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(seconds) >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
