"""An operation whose reading is measured at two sizes, and the verdict on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmarks.growth.backends import Backend
from benchmarks.report import Unit

Verdict = Literal["flat", "logarithmic", "grows", "explodes"]

VERDICTS: tuple[Verdict, ...] = ("flat", "logarithmic", "grows", "explodes")
"""From the best to the worst."""

_FLAT = 1.3
_LOGARITHMIC = 2.0


@dataclass(frozen=True, slots=True)
class Operation:
    """A public operation, `call`. `covers` names the actions that it executes, and the
    methods of the storage and of its outbox (`storage.…`, `outbox.…`) that it calls. `at_worst` is the recorded
    verdict: a worse one fails the check; `why` says why it is not flat."""

    name: str
    call: Callable[[Backend], object]
    covers: tuple[str, ...] = ()
    at_worst: Verdict = "flat"
    why: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """The rows that an operation reads on a backend, with few unrelated rows and with many."""

    operation: Operation
    label: str
    unit: Unit
    slack: int
    sizes: tuple[int, int]
    few: int
    many: int

    @property
    def ratio(self) -> float:
        """The ratio of both."""
        return self.many / max(1, self.few)

    @property
    def verdict(self) -> Verdict:
        """The growth of the reads with the rows."""
        more = (self.many - self.slack) / max(1, self.few)
        if more <= _FLAT:
            return "flat"
        if more <= _LOGARITHMIC:
            return "logarithmic"
        return "grows" if more <= 1.5 * self.sizes[1] / self.sizes[0] else "explodes"

    @property
    def is_worse(self) -> bool:
        """True if the verdict is worse than the recorded one."""
        return VERDICTS.index(self.verdict) > VERDICTS.index(self.operation.at_worst)
