"""The paired timer: contenders take turns in short slices, and are compared slice by slice.

A machine's speed drifts while a benchmark runs, and with it every absolute time. So the contenders alternate
(A B A B …), a ratio is taken between the two slices of one round, which ran within milliseconds of each other, and the
median of the rounds' ratios is the result.

Each slice starts with a fresh contender and a collected heap, whose survivors are frozen: the collector stays on, as it
is in a host, but nobody pays for what another one left behind.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from statistics import median
from time import perf_counter

Call = Callable[[], object]

FEWEST_ROUNDS = 3
MAX_ROUNDS = 300
MAX_CALLS = 1000
"""A slice is short, so that what a contender keeps in memory stays small."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Something to time: `prepare` is called, untimed, before each slice and gives what is called in it."""

    name: str
    prepare: Callable[[], Call]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds a call (or what else a benchmark measures), one for each round."""

    rounds: tuple[float, ...]

    @property
    def min(self) -> float:
        """The fastest round."""
        return min(self.rounds)

    @property
    def median(self) -> float:
        """The round in the middle."""
        return median(self.rounds)

    def ratio_to(self, peer: Timing) -> float:
        """The median of the rounds' ratios to a peer that took turns with this one."""
        return median(ours / theirs for ours, theirs in zip(self.rounds, peer.rounds, strict=True))

    def more_than(self, peer: Timing) -> float:
        """The median of the rounds' differences (seconds) to a peer that took turns with this one."""
        return median(ours - theirs for ours, theirs in zip(self.rounds, peer.rounds, strict=True))


def take_turns(contenders: tuple[Contender, ...], seconds: float, most_calls: int = MAX_CALLS) -> dict[str, Timing]:
    """Time the contenders in rounds for about so many seconds in all; a timing for each name.

    `most_calls` bounds the calls in one slice: 1 for a contender that is spent by its first call.
    """
    calls = {
        item.name: _calls_in_a_slice(item, seconds / FEWEST_ROUNDS / len(contenders), most_calls) for item in contenders
    }
    rounds: dict[str, list[float]] = {item.name: [] for item in contenders}
    started = perf_counter()
    for done in range(MAX_ROUNDS):
        if done >= FEWEST_ROUNDS and perf_counter() - started >= seconds:
            break
        for item in contenders:
            rounds[item.name].append(_slice(item, calls[item.name]))
    return {name: Timing(tuple(times)) for name, times in rounds.items()}


def take_samples(
    measures: Mapping[str, Callable[[], float]], seconds: float, fewest: int = FEWEST_ROUNDS
) -> dict[str, Timing]:
    """The same for contenders that measure themselves: each call gives the seconds that it took (or what else it is
    that they measure). At least `fewest` rounds."""
    rounds: dict[str, list[float]] = {name: [] for name in measures}
    started = perf_counter()
    for done in range(MAX_ROUNDS):
        if done >= fewest and perf_counter() - started >= seconds:
            break
        for name, measure in measures.items():
            rounds[name].append(measure())
    return {name: Timing(tuple(times)) for name, times in rounds.items()}


@contextmanager
def settled() -> Iterator[None]:
    """A collected heap, whose survivors are frozen while the block runs."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _slice(contender: Contender, calls: int) -> float:
    call = contender.prepare()
    for _ in repeat(None, calls // 20):
        call()
    with settled():
        return _timed(call, calls)


def _timed(call: Call, calls: int) -> float:
    started = perf_counter()
    for _ in repeat(None, calls):
        call()
    return (perf_counter() - started) / calls


def _calls_in_a_slice(contender: Contender, seconds: float, most_calls: int) -> int:
    if most_calls == 1:
        return 1
    call = contender.prepare()
    call()
    return max(1, min(most_calls, int(seconds / _timed(call, 10))))
