"""The latency of an event on PostgreSQL: from the return of `execute_action` to the publisher.

Idle: one event now and then, while the relay sleeps and is woken by a notification. The peer is psycopg by hand
(`benchmarks.relay_by_hand`), whose writer notifies with each commit, and whose listener then reads and deletes.

Under load: four writers at full speed, in threads. It is compared with the idle relay; there is no peer.

Writers are in other processes, so that what is measured is not who gets the interpreter. A few events are published
before the call that committed them has even returned.

Medians are those of the rounds. A 99th percentile is of the events of all rounds: it takes some seconds to tell much.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from statistics import median, quantiles
from time import perf_counter
from typing import Any
from uuid import UUID

import psycopg
from uuid_utils.compat import uuid7

from actionengine import Event
from actionengine.events.relay.relay import Relay
from actionengine.storage.postgres.storage import PostgresStorage
from benchmarks import relay_by_hand
from benchmarks.postgres import AMOUNT, Application, Bench, database, with_workers
from benchmarks.report import Row
from benchmarks.timing import FEWEST_ROUNDS, Timing, take_samples
from benchmarks.workers import WARM_UP, in_process, in_threads

WRITERS = 4
_PAUSE = 0.02
"""Seconds between two events, when idle."""

_FEWEST, _MAX_EVENTS = 5, 100
"""Events in a round, when idle; those of each writer, under load."""

_LEAST = 1e-6
"""Seconds that an event counts as, which came before its writer knew."""

_PATIENCE = 30.0


class Arrivals:
    """The times at which the events of each subject were published (`time.perf_counter`, shared by processes)."""

    def __init__(self) -> None:
        self._times: dict[str | None, float] = {}

    async def publish(self, events: Sequence[Event]) -> None:
        """Note events."""
        now = perf_counter()
        self._times.update((event.subject, now) for event in events)

    def note(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Note rows, of the peer."""
        now = perf_counter()
        self._times.update((row[4], now) for row in rows)

    def since(self, written: dict[str, float]) -> list[float]:
        """Seconds that each of these was on its way, once all have come."""
        until = perf_counter() + _PATIENCE
        while not written.keys() <= self._times.keys():
            if perf_counter() > until:
                raise AssertionError(f"{written.keys() - self._times.keys()} never came")
            time.sleep(0.005)
        return [max(_LEAST, self._times.pop(subject) - at) for subject, at in written.items()]


def run(seconds: float) -> list[Row]:
    """Median and 99th percentile, idle and under load."""
    each = max(_FEWEST, min(_MAX_EVENTS, int(seconds / 3 / FEWEST_ROUNDS / _PAUSE)))
    with database() as made:
        relay_by_hand.make_tables(made)
        with _ours(made) as (idle, load), _peer(made) as peer:
            on_the_way: dict[str, list[float]] = {"idle": [], "peer": [], "load": []}

            def measure(name: str, latencies: Callable[[int], list[float]]) -> float:
                taken = latencies(each)
                on_the_way[name] += taken
                return median(taken)

            measures = {"idle": idle, "peer": peer, "load": load}
            for latencies in measures.values():
                latencies(WARM_UP)
            medians = take_samples({name: partial(measure, name, each) for name, each in measures.items()}, seconds)
    tails = {name: Timing((quantiles(taken, n=100, method="inclusive")[-1],)) for name, taken in on_the_way.items()}
    return [
        *_rows("median", "median", medians),
        *_rows("p99", "99th percentile", tails),
    ]


def _rows(name: str, what: str, times: dict[str, Timing]) -> list[Row]:
    return [
        Row(
            f"relay_latency_idle_{name}",
            f"commit to publisher, idle: {what}",
            "psycopg by hand: LISTEN/NOTIFY, read and delete",
            times["idle"],
            times["peer"],
        ),
        Row(
            f"relay_latency_load_{name}",
            f"commit to publisher, {WRITERS} writers at full speed: {what}",
            "our own, idle",
            times["load"],
            times["idle"],
        ),
    ]


Latencies = Callable[[int], list[float]]
"""Seconds that each event was on its way, of so many (from each writer)."""

Written = dict[str, float]
"""The times of the commits by subject (`time.perf_counter`)."""


@contextmanager
def _ours(made: Bench) -> Iterator[tuple[Latencies, Latencies]]:
    arrivals, storage = Arrivals(), PostgresStorage(made.app_url)
    relay = Relay(storage, arrivals)
    running = threading.Thread(target=relay.run)
    running.start()
    try:
        with in_process(_refunder, made.app_url) as idle, in_process(_refunders, made.app_url) as load:
            yield partial(_latencies, arrivals, idle), partial(_latencies, arrivals, load)
    finally:
        relay.stop()
        running.join()
        storage.close()


@contextmanager
def _peer(made: Bench) -> Iterator[Latencies]:
    arrivals, stopped = Arrivals(), threading.Event()
    listener = threading.Thread(target=relay_by_hand.listen, args=(made.app_url, arrivals.note, stopped))
    listener.start()
    try:
        with in_process(_emitter, made.app_url) as writer:
            yield partial(_latencies, arrivals, writer)
    finally:
        stopped.set()
        listener.join()


def _latencies(arrivals: Arrivals, writer: Connection, events: int) -> list[float]:
    writer.send(events)
    return arrivals.since(writer.recv())


# In processes of their own: what writes so many events, and tells when.


def _refunder(url: str) -> Callable[[int], Written]:
    return partial(_now_and_then, partial(_refund, with_workers(url, 1)), count())


def _emitter(url: str) -> Callable[[int], Written]:
    connection = psycopg.connect(url, autocommit=True)
    return partial(_now_and_then, partial(_emit, connection, uuid7()), count())


def _refunders(url: str) -> Callable[[int], Written]:
    app, names = with_workers(url, WRITERS), count()

    def write(events: int) -> Written:
        written: Written = {}

        def one() -> None:
            subject = _refund(app, f"load-{next(names)}")
            written[subject] = perf_counter()

        in_threads([one] * WRITERS, events)
        return written

    return write


def _now_and_then(write: Callable[[str], str], names: Iterator[int], events: int) -> Written:
    written: Written = {}
    for _ in range(events):
        time.sleep(_PAUSE)
        subject = write(f"idle-{next(names)}")
        written[subject] = perf_counter()
    return written


def _refund(app: Application, job: str) -> str:
    app.engine.execute_action("payments", "refund", {"job": job, "amount": AMOUNT}, app.request()).unwrap()
    return f"jobs/{job}"


def _emit(connection: psycopg.Connection, tenant: UUID, job: str) -> str:
    relay_by_hand.emit(connection, tenant, job)
    return job
