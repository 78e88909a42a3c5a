"""Several relays on one queue: one backlog on PostgreSQL, drained by one, two and four of them at once.

In threads, which share an interpreter, and in processes, which do not; with a publisher that does nothing, and with one
that takes 2 ms a call, as a broker does that has to answer. Rows are seconds an event, of all relays together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from time import perf_counter

from actionengine.events.relay.relay import Relay
from actionengine.storage.postgres.storage import PostgresStorage
from benchmarks.outbox import BATCH, EVENTS_OF_A_SUBJECT, MAX_EVENTS, Backlog, Taker, backlog
from benchmarks.postgres import Bench, database
from benchmarks.report import Row
from benchmarks.timing import FEWEST_ROUNDS, Call, take_samples
from benchmarks.workers import in_process, in_threads

RELAYS = (1, 2, 4)
PUBLISHERS = {"idle": ("a publisher that does nothing", 0.0), "slow": ("a publisher of 2 ms a call", 0.002)}

Drain = Callable[[int], float]
"""Seconds that so many relays take for what waits."""


def run(seconds: float) -> list[Row]:
    """Threads and processes, each publisher, each number of relays."""
    rows: list[Row] = []
    each = seconds / (2 * len(PUBLISHERS))
    with database() as made:
        waiting = backlog(made, MAX_EVENTS // EVENTS_OF_A_SUBJECT)
        for where, drains in (("threads", _threads), ("processes", _processes)):
            for publisher in PUBLISHERS:
                with drains(made, publisher) as drain:
                    rows += _rows(where, publisher, waiting, drain, each)
    return rows


def _rows(where: str, publisher: str, waiting: Backlog, drain: Drain, seconds: float) -> list[Row]:
    def measure(relays: int, events: int) -> float:
        waiting.queue(events)
        return drain(relays) / events

    measure(max(RELAYS), BATCH)
    fitting = int(seconds / FEWEST_ROUNDS / len(RELAYS) / measure(1, BATCH))
    events = max(BATCH, min(MAX_EVENTS, fitting))
    times = take_samples({str(relays): partial(measure, relays, events) for relays in RELAYS}, seconds)
    return [
        Row(
            f"relay_relays_{where}_{publisher}_{relays}",
            f"{relays} relays in {where}, {PUBLISHERS[publisher][0]}, an event",
            "the same with 1 relay",
            times[str(relays)],
            times["1"],
        )
        for relays in RELAYS
        if relays > 1
    ]


@contextmanager
def _threads(made: Bench, publisher: str) -> Iterator[Drain]:
    storage = PostgresStorage(made.app_url, pool_size=max(RELAYS), max_overflow=max(RELAYS))
    yield lambda relays: in_threads([_relay(storage, publisher)] * relays, 1) * relays
    storage.close()


@contextmanager
def _processes(made: Bench, publisher: str) -> Iterator[Drain]:
    with ExitStack() as stack:
        processes = [stack.enter_context(in_process(_serve, made.app_url, publisher)) for _ in range(max(RELAYS))]

        def drain(relays: int) -> float:
            started = perf_counter()
            for process in processes[:relays]:
                process.send("drain")
            for process in processes[:relays]:
                process.recv()
            return perf_counter() - started

        yield drain


def _relay(storage: PostgresStorage, publisher: str) -> Call:
    return lambda: Relay(storage, Taker(PUBLISHERS[publisher][1])).drain()


def _serve(url: str, publisher: str) -> Callable[[object], object]:
    drain = _relay(PostgresStorage(url), publisher)
    return lambda asked: drain()
