"""The cost of events for the writer: a governed action on PostgreSQL with two and five events against one.

A relay that sleeps holds a lock, and each commit that finds it held notifies; notifications make commits queue up. Here
it is held all the time by a connection that listens and does nothing more: the worst there can be. A relay that works
is one in a process of its own, which is given what the writers write meanwhile, and before. Both are compared with no
relay at all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection

import psycopg

from actionengine.events.relay.relay import Relay
from actionengine.storage.outbox import EVENTS
from actionengine.storage.postgres.outbox import SLEEP, WAKE
from actionengine.storage.postgres.statements import SLEEP_LOCKS
from actionengine.storage.postgres.storage import PostgresStorage
from benchmarks.outbox import Taker
from benchmarks.postgres import MORE_EVENTS, PAYLOAD, Application, Bench, database, with_workers
from benchmarks.report import Row
from benchmarks.timing import FEWEST_ROUNDS, Timing, take_samples
from benchmarks.workers import WARM_UP, in_process, in_threads, number_of

WORKERS = (1, 4)
_MAX_CALLS = 240
"""In one slice, by all workers together."""

Measure = Callable[[int], float]
"""Seconds a call, where each worker makes so many."""


def run(seconds: float) -> list[Row]:
    """More events, then relays; each with one writer and with several."""
    rows: list[Row] = []
    each = seconds / (2 * len(WORKERS))
    with database() as made:
        for workers in WORKERS:
            app = with_workers(made.app_url, workers)
            rows += _events(app, workers, each)
            rows += _relays(app, made, workers, each)
            app.storage.close()
    return rows


def _events(app: Application, workers: int, seconds: float) -> list[Row]:
    actions = {"1": "refund", **{str(events): f"refund_{events}" for events in MORE_EVENTS}}
    times = _times({events: _writers(app, workers, action) for events, action in actions.items()}, workers, seconds)
    return [
        Row(
            f"event_cost_{events}_events_{workers}",
            f"governed action with {events} events, {number_of(workers)}",
            "the same with one event",
            times[str(events)],
            times["1"],
        )
        for events in MORE_EVENTS
    ]


def _relays(app: Application, made: Bench, workers: int, seconds: float) -> list[Row]:
    write = _writers(app, workers, "refund")
    with _sleeper(made) as sleeper, in_process(_relay, made.app_url) as relay:

        def asleep(calls: int) -> float:
            sleeper.execute(SLEEP, (SLEEP_LOCKS[EVENTS],))
            try:
                return write(calls)
            finally:
                sleeper.execute(WAKE, (SLEEP_LOCKS[EVENTS],))

        def busy(calls: int) -> float:
            _tell(relay, "run")
            try:
                return write(calls)
            finally:
                _tell(relay, "stop")

        times = _times({"none": write, "asleep": asleep, "busy": busy}, workers, seconds)
    return [
        Row(
            f"event_cost_relay_{state}_{workers}",
            f"governed action with one event, a relay {what}, {number_of(workers)}",
            "the same without a relay",
            times[state],
            times["none"],
        )
        for state, what in (("asleep", "asleep: each commit notifies"), ("busy", "at work"))
    ]


def _times(measures: dict[str, Measure], workers: int, seconds: float) -> dict[str, Timing]:
    for measure in measures.values():
        measure(WARM_UP)
    slowest = max(measure(1) for measure in measures.values())
    fitting = int(seconds / FEWEST_ROUNDS / len(measures) / slowest)
    calls = max(1, min(_MAX_CALLS, fitting) // workers)
    return take_samples({name: partial(measure, calls) for name, measure in measures.items()}, seconds)


def _writers(app: Application, workers: int, action: str) -> Measure:
    execute = app.engine.execute_action

    def call() -> object:
        return execute("payments", action, PAYLOAD, app.request()).unwrap()

    return partial(in_threads, [call] * workers)


@contextmanager
def _sleeper(made: Bench) -> Iterator[psycopg.Connection]:
    with psycopg.connect(made.app_url, autocommit=True) as connection:
        connection.execute("LISTEN ae_outbox")
        yield connection


def _tell(relay: Connection, what: str) -> None:
    relay.send(what)
    relay.recv()


def _relay(url: str) -> Callable[[str], object]:
    """In a process of its own: what lets a relay run, and stop."""
    storage = PostgresStorage(url)
    running: list[tuple[Relay, threading.Thread]] = []

    def obey(what: str) -> object:
        if what == "run":
            relay = Relay(storage, Taker())
            thread = threading.Thread(target=relay.run)
            thread.start()
            running.append((relay, thread))
        else:
            relay, thread = running.pop()
            relay.stop()
            thread.join()
        return None

    return obey
