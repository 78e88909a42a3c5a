"""The reads of a look at the outbox do not grow with delivered events, nor with events behind dead letters: counts,
not times. And nothing that is marked as held back stays so when an operator redrives meanwhile."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import psycopg
import pytest
from benchmarks.growth import postgres_backends
from benchmarks.growth.backends import Backend, PostgresBackend, SQLiteBackend, sqlite_backend_of_size
from benchmarks.postgres import Bench

from actionengine import InMemoryStorage
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.errors import StorageUnavailable
from actionengine.storage.outbox import EVENTS, QUEUES, TRIGGERS, WORKFLOWS, Outbox, PendingEvent
from actionengine.storage.postgres import outbox as postgres_outbox
from actionengine.storage.rows import Recording, Route
from actionengine.testing import SyncBackend
from actionengine.testing.outbox import LEASE, commit_about, failed_delivery, ids
from actionengine.testing.rows import event_row
from tests.waiting import wait_until

PARTITIONS = 64
"""A look finds each event by the index: this many more pages are read if the index has one more level."""


@pytest.fixture
def postgres(postgres_server: str) -> Iterator[PostgresBackend]:
    with postgres_backends([1], Bench("", "", postgres_server)) as (backend,):
        yield backend


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "sqlite":
        with sqlite_backend_of_size(1) as file:
            yield file
    else:
        yield request.getfixturevalue("postgres")


def emit(backend: Backend, subjects: Iterable[str]) -> list[str]:
    """Commit events about these subjects, in every queue, and return their ids."""
    rows = [event_row(backend.tenant, subject=subject) for subject in subjects]
    unit = backend.storage.unit_of_work(backend.tenant, rows[0].action_id, "sync")
    run_sync(unit.record(Recording((), rows, routes=(Route(WORKFLOWS), Route(TRIGGERS)))))
    run_sync(unit.commit())
    return [row.id for row in rows]


@contextmanager
def taking(backend: Backend, queue: str = EVENTS) -> Iterator[Outbox]:
    """Return the outbox of a queue, for a relay."""
    outbox = backend.storage.outbox("sync", queue)
    try:
        yield outbox
    finally:
        run_sync(outbox.close())


def deliver(backend: Backend, queue: str = EVENTS) -> list[str]:
    """Deliver all due events, and return their ids."""
    found: list[str] = []
    with taking(backend, queue) as outbox:
        while batch := run_sync(outbox.take(1000, LEASE)):
            run_sync(outbox.settle(batch, ()))
            found += ids(batch)
    return found


def kill(backend: Backend, subject: str) -> str:
    """Make the only event of a subject a dead letter, and return its id."""
    emit(backend, [subject])
    with taking(backend) as outbox:
        (pending,) = run_sync(outbox.take(1000, LEASE))
        run_sync(outbox.settle((), [failed_delivery(pending, None)]))
    return pending.event.id


def look(backend: Backend, queue: str = EVENTS) -> int:
    """Return the number of pages that a look reads at a queue without due events."""

    def call(backend: Backend) -> None:
        with taking(backend, queue) as outbox:
            assert run_sync(outbox.take(1000, LEASE)) == []

    return backend.read(call)


def test_a_look_passes_no_delivered_event_beside_a_held_snapshot(postgres: PostgresBackend) -> None:
    emit(postgres, ["notes/1"])
    for queue in QUEUES:
        deliver(postgres, queue)
    before = {queue: look(postgres, queue) for queue in QUEUES}
    with psycopg.connect(postgres.app_url) as holder:
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT 1").fetchone()
        written = [emit(postgres, [f"notes/{number}" for number in range(200)]) for _ in range(5)]
        for queue in QUEUES:
            assert sorted(deliver(postgres, queue)) == sorted(id for ids in written for id in ids)
        during = {queue: look(postgres, queue) for queue in QUEUES}

    assert all(during[queue] <= before[queue] + PARTITIONS for queue in QUEUES), (before, during)


def test_a_full_look_is_repeated_now_and_then(postgres: PostgresBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    known = postgres.storage.known
    emit(postgres, ["notes/1"])
    deliver(postgres)
    marks = known.of(EVENTS)
    assert marks is not None
    now = time.monotonic()
    monkeypatch.setattr(postgres_outbox, "monotonic", lambda: now + 59.0)
    assert known.of(EVENTS) is not None
    monkeypatch.setattr(postgres_outbox, "monotonic", lambda: now + 61.0)
    assert known.of(EVENTS) is None


def test_marks_of_a_database_that_was_restored_are_not_believed(postgres: PostgresBackend) -> None:
    emit(postgres, ["notes/1"])
    deliver(postgres)
    postgres.storage.known.record(EVENTS, "{" + "1000000," * 64 + "0}", True)
    written = emit(postgres, ["notes/1"])
    assert deliver(postgres) == written


def test_a_look_passes_nothing_that_a_dead_letter_holds_back(backend: Backend) -> None:
    dead = kill(backend, "busy")
    behind = emit(backend, ["busy"] * 150)
    before = look(backend)
    behind += emit(backend, ["busy"] * 300)
    assert look(backend) <= before + PARTITIONS

    # Also where each look has something to deliver.
    behind += emit(backend, ["busy"] * 300)
    others = emit(backend, ["other"])
    assert deliver(backend) == others
    assert look(backend) <= before + PARTITIONS
    with taking(backend) as outbox:
        assert run_sync(outbox.status()).pending == len(behind)
        assert run_sync(outbox.redrive([dead])) == 1
    assert deliver(backend) == [dead, *behind]


def test_a_settled_batch_leaves_nothing_to_pass_for_the_next(backend: Backend) -> None:
    kill(backend, "busy")
    behind = emit(backend, ["busy"] * 500)

    def deliver_one(backend: Backend) -> None:
        emit(backend, ["other"])
        with taking(backend) as outbox:
            batch = run_sync(outbox.take(1, LEASE))
            run_sync(outbox.settle(batch, ()))

    assert backend.read(deliver_one) < 2000
    with taking(backend) as outbox:
        assert run_sync(outbox.status()).pending == len(behind)


def test_dead_letters_cost_a_look_on_sqlite_nothing() -> None:
    def steps(dead: int) -> int:
        with sqlite_backend_of_size(1) as backend:
            emit(backend, [f"dead/{number}" for number in range(dead)])
            with taking(backend) as outbox:
                batch = run_sync(outbox.take(1000, LEASE))
                run_sync(outbox.settle((), [failed_delivery(pending, None) for pending in batch]))
            emit(backend, [f"notes/{number}" for number in range(200)])

            def call(backend: Backend) -> None:
                with taking(backend) as outbox:
                    assert len(run_sync(outbox.take(1000, LEASE))) == 200

            return backend.read(call)

    assert steps(500) <= 1.1 * steps(100)


def retry(backend: Backend, subject: str, seconds: float) -> str:
    """Make the only event of a subject wait for another attempt, and return its id."""
    (id,) = emit(backend, [subject])
    with taking(backend) as outbox:
        (pending,) = run_sync(outbox.take(1000, LEASE))
        run_sync(outbox.settle((), [failed_delivery(pending, seconds)]))
    return id


def come_due(backend: Backend, which: str = "true") -> None:
    """Make all events due that wait for another attempt."""
    due = "due_at = '2026-01-01T00:00:00.000000+00:00'"
    statement = f"UPDATE ae_outbox SET {due} WHERE due_at IS NOT NULL AND {which}"
    if isinstance(backend, PostgresBackend):
        backend.superuser.execute(statement.encode())
    else:
        assert isinstance(backend, SQLiteBackend)
        with closing(sqlite3.connect(backend.path)) as connection, connection:
            connection.create_function("ae_writing_tenant", 0, lambda: None)
            connection.execute(statement)


def test_a_look_passes_nothing_that_waits_behind_a_retry(backend: Backend) -> None:
    waiting = retry(backend, "busy", 3600.0)
    behind = emit(backend, ["busy"] * 150)
    before = look(backend)
    behind += emit(backend, ["busy"] * 300)
    assert look(backend) <= before + PARTITIONS
    behind += emit(backend, ["busy"] * 300)
    others = emit(backend, ["other"])
    assert deliver(backend) == others
    assert look(backend) <= before + PARTITIONS
    with taking(backend) as outbox:
        status = run_sync(outbox.status())
        assert (status.pending, status.waiting, status.held) == (751, 1, 750)

    come_due(backend)
    assert deliver(backend) == [waiting, *behind]
    with taking(backend) as outbox:
        assert run_sync(outbox.status()).pending == 0


def test_what_waits_behind_a_retry_is_let_go_in_parts(backend: Backend) -> None:
    waiting = retry(backend, "busy", 3600.0)
    behind = emit(backend, ["busy"] * 1000)
    look(backend)
    come_due(backend)
    with taking(backend) as outbox:
        batch = run_sync(outbox.take(1000, LEASE))
        assert ids(batch) == [waiting, *behind[:100]]
        # The second fails for good, and is skipped.
        run_sync(outbox.settle(batch[:1], [failed_delivery(batch[1], None)]))
        assert run_sync(outbox.take(1000, LEASE)) == []
        assert run_sync(outbox.status()).held == 999
        assert run_sync(outbox.skip([behind[0]], "no")) == 1
        assert run_sync(outbox.status()).held == 899
        batch = run_sync(outbox.take(10, LEASE))
        assert ids(batch) == behind[1:11]
        # One that fails holds the others back again.
        run_sync(outbox.settle(batch[:4], [failed_delivery(batch[4], 3600.0)]))
    look(backend)
    late = emit(backend, ["busy"])
    look(backend)
    with taking(backend) as outbox:
        assert run_sync(outbox.status()).held == 995
    come_due(backend)
    assert deliver(backend) == [*behind[5:], *late]


def test_an_event_behind_a_held_one_is_never_taken_first(backend: Backend) -> None:
    waiting = retry(backend, "busy", 3600.0)
    behind = emit(backend, ["busy"] * 250)
    look(backend)
    come_due(backend)
    late = emit(backend, ["busy"] * 2)
    found: list[str] = []
    with taking(backend) as outbox:
        while batch := run_sync(outbox.take(7, LEASE)):
            found += ids(batch)
            run_sync(outbox.settle(batch, ()))
            if len(found) < 100:
                late += emit(backend, ["busy"])
    assert found == [waiting, *behind, *late]


def test_a_redriven_event_goes_before_the_later_ones(backend: Backend) -> None:
    first = kill(backend, "busy")
    behind = emit(backend, ["busy"] * 150)
    look(backend)
    with taking(backend) as outbox:
        assert run_sync(outbox.skip([first], "no")) == 1
        (second, *_) = run_sync(outbox.take(1, LEASE))
        run_sync(outbox.settle((), [failed_delivery(second, 3600.0)]))
        assert run_sync(outbox.redrive([first])) == 1
        batch = run_sync(outbox.take(1000, LEASE))
        assert ids(batch) == [first]
        run_sync(outbox.settle((), [failed_delivery(batch[0], 3600.0)]))
    look(backend)
    come_due(backend)
    assert deliver(backend) == [first, *behind]


def test_an_event_that_waits_longer_than_the_one_before_is_freed(backend: Backend) -> None:
    first = kill(backend, "busy")
    behind = emit(backend, ["busy"] * 3)
    with taking(backend) as outbox:
        assert run_sync(outbox.skip([first], "no")) == 1
        (second, *_) = run_sync(outbox.take(1000, LEASE))
        run_sync(outbox.settle((), [failed_delivery(second, 3600.0)]))
        # It has lost its place, and fails, while that one waits for longer.
        assert run_sync(outbox.redrive([first])) == 1
        batch = run_sync(outbox.take(1000, LEASE))
        run_sync(outbox.settle((), [failed_delivery(batch[0], 1800.0)]))
        assert run_sync(outbox.take(1000, LEASE)) == []
        status = run_sync(outbox.status())
        assert (status.waiting, status.held) == (2, 2)
    come_due(backend, "position = (SELECT min(position) FROM ae_outbox)")
    assert deliver(backend) == [first]
    with taking(backend) as outbox:
        status = run_sync(outbox.status())
        assert (status.waiting, status.held) == (1, 2)
    come_due(backend)
    assert deliver(backend) == behind


def test_who_has_lost_a_lease_leaves_nothing_held() -> None:
    with sqlite_backend_of_size(1) as backend, taking(backend) as frozen, taking(backend) as other:
        emit(backend, ["busy"])
        batch = run_sync(frozen.take(1000, 0.0))
        (pending,) = run_sync(other.take(1000, LEASE))
        run_sync(other.settle((), [failed_delivery(pending, 3600.0)]))
        behind = emit(backend, ["busy"] * 3)
        assert run_sync(other.take(1000, LEASE)) == []
        with pytest.raises(StorageUnavailable):
            run_sync(frozen.settle(batch, ()))
        come_due(backend)
        assert deliver(backend) == [pending.event.id, *behind]


def test_a_relay_that_takes_again_leaves_nothing_behind() -> None:
    storage = InMemoryStorage()
    backend = SyncBackend(storage)
    first, second = run_sync(commit_about(backend, "jobs/1", "jobs/2"))
    outbox = storage.outbox("sync")
    run_sync(outbox.take(1, LEASE))
    assert sorted(ids(run_sync(outbox.take(1000, LEASE)))) == sorted([first, second])


def test_a_delivery_during_marking_leaves_nothing_held(postgres: PostgresBackend) -> None:
    retry(postgres, "busy", 1.0)
    behind = emit(postgres, ["busy"] * 3)
    signature = postgres.storage.database.signature("relay")
    with taking(postgres) as marking, taking(postgres) as delivering, ThreadPoolExecutor() as threads:
        assert isinstance(marking, postgres_outbox.PostgresOutbox)
        # The statements of a look that finds nothing, but for its COMMIT.
        _, *found = marking._execute(("BEGIN", ()), (postgres_outbox.TAKE, (10, 16, EVENTS, None, signature)))
        assert found == []
        batch: Sequence[PendingEvent] = ()
        while not batch:
            batch = run_sync(delivering.take(1000, LEASE))
        settling = threads.submit(lambda: run_sync(delivering.settle(batch[:1], ())))
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        wait_until(lambda: settling.done() or postgres.superuser.execute(waiting).fetchone() != (0,))
        marking._execute(("COMMIT", ()))
        settling.result()
    assert deliver(postgres) == behind


def test_who_redrives_while_a_relay_marks_leaves_nothing_held(postgres: PostgresBackend) -> None:
    dead = kill(postgres, "busy")
    behind = emit(postgres, ["busy"] * 3)
    storage = postgres.storage
    with taking(postgres) as marking, taking(postgres) as operator, ThreadPoolExecutor() as threads:
        assert isinstance(marking, postgres_outbox.PostgresOutbox)
        signature = storage.database.signature("relay")
        # The statements of a look that finds nothing, but for its COMMIT.
        _, *found = marking._execute(("BEGIN", ()), (postgres_outbox.TAKE, (10, 16, EVENTS, None, signature)))
        assert found == []
        redriving = threads.submit(lambda: run_sync(operator.redrive()))
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        wait_until(lambda: redriving.done() or postgres.superuser.execute(waiting).fetchone() != (0,))
        marking._execute(("COMMIT", ()))
        assert redriving.result() == 1
    assert deliver(postgres) == [dead, *behind]


def test_a_relay_marks_nothing_behind_what_is_being_redriven(postgres: PostgresBackend) -> None:
    dead = kill(postgres, "busy")
    behind = emit(postgres, ["busy"] * 3)
    with psycopg.connect(postgres.app_url) as operator:
        signature = postgres.storage.database.signature("redrive")
        operator.execute("SELECT public.ae_redrive(NULL, %s, %s)", (EVENTS, signature))
        look(postgres)
    assert deliver(postgres) == [dead, *behind]


def test_what_a_crash_leaves_half_marked_is_delivered(postgres: PostgresBackend) -> None:
    dead = kill(postgres, "busy")
    behind = emit(postgres, ["busy"] * 3)
    with taking(postgres) as dying:
        assert isinstance(dying, postgres_outbox.PostgresOutbox)
        signature = postgres.storage.database.signature("relay")
        dying._execute(("BEGIN", ()), (postgres_outbox.TAKE, (10, 16, EVENTS, None, signature)))
        dying._drop()
    with taking(postgres) as outbox:
        assert run_sync(outbox.skip([dead], "no")) == 1
    assert deliver(postgres) == behind
