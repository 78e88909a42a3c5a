"""`Relay.drain()` on PostgreSQL against hand-written psycopg that reads and deletes the same rows in batches.

Ours runs as the restricted app role, through the functions of the schema, with a publisher that takes its events and
does nothing. The peer (`benchmarks.relay_by_hand`) takes as many at once, in plain tables, and hands on nothing. Rows
are seconds an event.

The backlog has many subjects with a few events each; in the row without an aim it has one, whose events a relay hands
on one after the other: the peer, which knows no order, does not.
"""

from __future__ import annotations

from time import perf_counter

import psycopg

from actionengine.events.relay.relay import Relay
from actionengine.storage.postgres.storage import PostgresStorage
from benchmarks import relay_by_hand
from benchmarks.outbox import BATCH, EVENTS_OF_A_SUBJECT, MAX_EVENTS, Backlog, Taker, backlog
from benchmarks.postgres import Bench, database
from benchmarks.report import Aim, Row, throughput_of
from benchmarks.timing import FEWEST_ROUNDS, settled, take_samples

_BACKLOGS: dict[str, tuple[str, int, Aim | None]] = {
    "many_subjects": (
        f"subjects of {EVENTS_OF_A_SUBJECT} events",
        MAX_EVENTS // EVENTS_OF_A_SUBJECT,
        throughput_of(0.5),
    ),
    "one_subject": ("one hot subject", 1, None),
}


def run(seconds: float) -> list[Row]:
    """Each kind of backlog."""
    rows: list[Row] = []
    with database() as made:
        relay_by_hand.make_tables(made)
        for name, (what, subjects, aim) in _BACKLOGS.items():
            waiting = backlog(made, subjects)
            relay_by_hand.copy(waiting)
            rows.append(_row(name, what, made, waiting, seconds / len(_BACKLOGS), aim))
    return rows


def _row(name: str, what: str, made: Bench, waiting: Backlog, seconds: float, aim: Aim | None) -> Row:
    storage = PostgresStorage(made.app_url)
    with psycopg.connect(made.app_url, autocommit=True) as connection:

        def ours(events: int) -> float:
            waiting.queue(events)
            with settled():
                started = perf_counter()
                delivered = Relay(storage, Taker(), batch_size=BATCH).drain()
                return _each(events, delivered, perf_counter() - started)

        def peer(events: int) -> float:
            relay_by_hand.queue(waiting, events)
            with settled():
                started = perf_counter()
                delivered = relay_by_hand.drain(connection, BATCH, lambda rows: None)
                return _each(events, delivered, perf_counter() - started)

        for warm_up in (peer, ours):
            warm_up(BATCH)
        fitting = int(seconds / FEWEST_ROUNDS / 2 / ours(BATCH))
        events = max(BATCH, min(MAX_EVENTS, fitting))
        times = take_samples({"ours": lambda: ours(events), "peer": lambda: peer(events)}, seconds)
    storage.close()
    return Row(
        f"relay_drain_{name}",
        f"Relay.drain() on PostgreSQL, an event: {what}",
        "psycopg by hand: read and delete in batches of the same size",
        times["ours"],
        times["peer"],
        aim,
    )


def _each(events: int, delivered: int, seconds: float) -> float:
    if delivered != events:
        raise AssertionError(f"{delivered} of {events} events were delivered")
    return seconds / events
