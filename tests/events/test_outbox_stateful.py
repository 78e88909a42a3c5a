"""Two relays at a queue of the outbox, an operator, and the tenant, against a model of what they may do: no event
is lost, none is left held back, and those of a subject are taken in their order.

Few events are released at once here, so that a short history has many releases. Nobody sleeps: times are moved.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import psycopg
import pytest
from benchmarks.postgres import Bench, database
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from actionengine import InMemoryStorage, PostgresStorage, SQLiteStorage, Tenant
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.errors import StorageUnavailable
from actionengine.storage.memory import outbox as memory_outbox
from actionengine.storage.outbox import EVENTS, TRIGGERS, WORKFLOWS, FailedDelivery, Outbox, PendingEvent
from actionengine.storage.port import UnitOfWork
from actionengine.storage.postgres.outbox import PostgresOutbox
from actionengine.storage.rows import Recording, Route
from actionengine.storage.sqlite import outbox as sqlite_outbox
from actionengine.storage.sqlite import statements as sqlite_statements
from actionengine.storage.sqlite import unit_of_work as sqlite_unit_of_work
from actionengine.testing.rows import START, event_row
from tests.waiting import wait_until

LEASE = 30.0
SOON, LATER = 100.0, 1000.0
"""Seconds until the next attempt."""

RELEASED_AT_ONCE = 3
EVERYTHING = 1000
"""More events than there are."""

NOTHING_BEFORE = """
SELECT count(*)
FROM ae_outbox o
WHERE o.held AND NOT EXISTS (
    SELECT 1
    FROM ae_outbox first
    WHERE first.queue = o.queue AND first.lane = o.lane AND first.tenant_id = o.tenant_id
        AND first.position < o.position AND NOT first.skipped AND NOT first.held
        AND (first.dead_at IS NOT NULL OR first.due_at IS NOT NULL)
)
"""
"""Events that are held back, although nothing is left to release them."""


def fewer(statement: str) -> str:
    """Return a statement that releases few events at once."""
    assert statement.count("LIMIT 100\n") == 1
    return statement.replace("LIMIT 100\n", f"LIMIT {RELEASED_AT_ONCE}\n")


class Backend:
    """A storage, and its clock."""

    storage: InMemoryStorage | PostgresStorage | SQLiteStorage
    lease = LEASE
    keeps_lease = False

    def __init__(self) -> None:
        self.now = 0.0
        self.stack = ExitStack()

    @property
    def tenant(self) -> Tenant:
        """The tenant of all events."""
        return self.storage.list_tenants()[0]

    def reset(self) -> None:
        """Empty the outbox."""

    def pass_time(self, seconds: float) -> None:
        """Make waiting events wait this much less."""
        self.now += seconds

    def kill(self, outbox: Outbox) -> bool:
        """End a relay immediately, and return whether its lease has ended."""
        return False

    def left_behind(self) -> int:
        """Return the number of events that are held back permanently."""
        return 0

    def close(self) -> None:
        """Close the storage."""
        self.stack.close()


class Memory(Backend):
    """Memory, with the time of the process patched."""

    def __init__(self) -> None:
        super().__init__()
        patch = self.stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(memory_outbox, "monotonic", lambda: self.now)
        self.reset()

    def reset(self) -> None:
        """Make another storage."""
        self.storage = InMemoryStorage()
        self.storage.create_tenant(slug="acme", name="Acme")


class SQLite(Backend):
    """A file, with the time of the process patched. After a settlement the same relay takes the next batch."""

    keeps_lease = True

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(self.stack.enter_context(TemporaryDirectory())) / "outbox.db"
        patch = self.stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(sqlite_outbox, "monotonic", lambda: self.now)
        for module in (sqlite_outbox, sqlite_unit_of_work):
            patch.setattr(module, "steady_now", lambda: START + timedelta(seconds=self.now))
        for name in ("RELEASE", "RETURN", "RETURN_ALL"):
            patch.setattr(sqlite_statements, name, fewer(getattr(sqlite_statements, name)))
        self.storage = self.stack.enter_context(SQLiteStorage(self.path))
        self.storage.create_tenant(slug="acme", name="Acme")
        self.connection = self.stack.enter_context(closing(sqlite3.connect(self.path, isolation_level=None)))
        self.connection.create_function("ae_writing_tenant", 0, lambda: None)

    def reset(self) -> None:
        """Empty the outbox."""
        for table in ("ae_outbox", "ae_relay_lease"):
            self.connection.execute(f"DELETE FROM {table}")

    def left_behind(self) -> int:
        """Return their number."""
        ((number,),) = self.connection.execute(NOTHING_BEFORE)
        return int(number)


class Postgres(Backend):
    """A database whose time cannot be moved: the waiting events are moved instead. A lease ends with its relay."""

    lease = inf

    def __init__(self, server: str) -> None:
        super().__init__()
        self.bench = self.stack.enter_context(database(Bench("", "", server)))
        self.superuser = self.stack.enter_context(psycopg.connect(self.bench.superuser_url, autocommit=True))
        (definition,) = self.one("SELECT pg_get_functiondef('public.ae_outbox_release'::regproc)")
        self.superuser.execute(fewer(str(definition)).encode())
        self.storage = self.stack.enter_context(PostgresStorage(self.bench.app_url))
        self.storage.create_tenant(slug="acme", name="Acme")

    def one(self, statement: str) -> tuple[object, ...]:
        """Return the only row."""
        row = self.superuser.execute(statement.encode()).fetchone()
        assert row is not None
        return row

    def reset(self) -> None:
        """Empty the outbox."""
        self.superuser.execute("TRUNCATE ae_outbox")

    def pass_time(self, seconds: float) -> None:
        """Move the waiting events."""
        super().pass_time(seconds)
        self.superuser.execute(
            "UPDATE ae_outbox SET due_at = due_at - %s * interval '1 second' WHERE due_at > now()", (seconds,)
        )

    def kill(self, outbox: Outbox) -> bool:
        """Cut off its connection, and wait until the server has noticed."""
        assert isinstance(outbox, PostgresOutbox)
        if outbox._held is not None:
            (pid,) = outbox._execute(("SELECT pg_backend_pid()", ()))[0]
            outbox._drop()
            alive = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}"
            wait_until(lambda: self.one(alive) == (0,))
        return True

    def left_behind(self) -> int:
        """Return their number."""
        return int(str(self.one(NOTHING_BEFORE)[0]))


@dataclass
class Known:
    """The model of an event in a queue. A skipped event that is redriven has lost its place."""

    subject: int
    place: int
    is_dead: bool = False
    is_skipped: bool = False
    is_done: bool = False
    due: float = 0.0
    has_lost_its_place: bool = False

    @property
    def is_pending(self) -> bool:
        return not (self.is_dead or self.is_done)

    @property
    def blocks(self) -> bool:
        """Return whether later events must wait for it."""
        return not self.is_done and not self.is_skipped


@dataclass
class Taking:
    """A relay, its batch, and the end of its lease."""

    outbox: Outbox
    batch: list[PendingEvent] = field(default_factory=list)
    until: float = 0.0


class Queue:
    """A queue in the model: its events, by id, and two relays."""

    def __init__(self, name: str, open: Callable[[str], Outbox]) -> None:
        self.name = name
        self.events: dict[str, Known] = {}
        self.operator = open(name)
        self.relays = [Taking(open(name)) for _ in range(2)]
        self.frozen: list[Taking] = []

    def before(self, event: Known) -> list[tuple[str, Known]]:
        """Return the events that come before one."""
        return [(id, e) for id, e in self.events.items() if e.subject == event.subject and e.place < event.place]

    def is_deliverable(self, event: Known, now: float) -> bool:
        """Return whether a look must find this event, if no other relay holds any."""
        return (
            event.is_pending
            and event.due <= now
            and all(not e.blocks or (e.is_pending and e.due <= now) for _, e in self.before(event))
        )


WHICH = st.integers(0, 1)
QUEUE = st.sampled_from((*[EVENTS] * 8, WORKFLOWS, TRIGGERS))
OUTCOMES = st.lists(
    st.sampled_from(("ok", "ok", "soon", "later", "now", "dead", "dead", "left")), min_size=1, max_size=8
)


class TwoRelays(RuleBasedStateMachine):
    """The steps of two relays and an operator."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self.backend = backend
        backend.reset()
        self.tenant = backend.tenant
        self.queues = {name: Queue(name, self.opened) for name in (EVENTS, WORKFLOWS, TRIGGERS)}
        self.number = 0

    def opened(self, queue: str) -> Outbox:
        return self.backend.storage.outbox("sync", queue)

    # What happens

    @rule(subjects=st.lists(st.sampled_from((0, 0, 0, 1, 2)), min_size=1, max_size=6))
    def emit(self, subjects: list[int]) -> None:
        rows = [event_row(self.tenant, subject=f"jobs/{subject}") for subject in subjects]
        unit = self.backend.storage.unit_of_work(self.tenant, rows[0].action_id, "sync")
        run_sync(unit.record(Recording((), rows, routes=(Route(WORKFLOWS), Route(TRIGGERS)))))
        run_sync(unit.commit())
        for row, subject in zip(rows, subjects, strict=True):
            self.number += 1
            for queue in self.queues.values():
                queue.events[row.id] = Known(subject, self.number)

    @rule(name=QUEUE, which=WHICH, limit=st.sampled_from((1, 2, 5, EVERYTHING, EVERYTHING)))
    def look(self, name: str, which: int, limit: int) -> None:
        queue = self.queues[name]
        relay, other = queue.relays[which], queue.relays[1 - which]
        others = {each.event.id for each in other.batch} if other.until > self.backend.now else set()
        batch = run_sync(relay.outbox.take(limit, LEASE))
        if not batch:
            # What an operator has released since a look began is left to the next one.
            batch = run_sync(relay.outbox.take(limit, LEASE))
        relay.batch, relay.until = list(batch), self.backend.now + self.backend.lease if batch else 0.0
        taken: set[str] = set()
        for pending in batch:
            event = queue.events[pending.event.id]
            assert event.is_pending
            assert event.due <= self.backend.now
            assert pending.event.id not in others
            if not event.has_lost_its_place:
                for id, earlier in queue.before(event):
                    assert id in taken or not earlier.blocks or earlier.has_lost_its_place
            taken.add(pending.event.id)
        if all(each.until <= self.backend.now for each in (other, *queue.frozen)):
            assert batch or not any(queue.is_deliverable(event, self.backend.now) for event in queue.events.values())

    @rule(name=QUEUE, which=WHICH, outcomes=OUTCOMES)
    def settle(self, name: str, which: int, outcomes: list[str]) -> None:
        queue = self.queues[name]
        relay = queue.relays[which]
        if relay.batch:
            self.settle_one(queue, relay, outcomes)
        relay.batch = []
        if not self.backend.keeps_lease:
            relay.until = 0.0

    def settle_one(self, queue: Queue, relay: Taking, outcomes: list[str]) -> None:
        delivered: list[PendingEvent] = []
        failed: list[FailedDelivery] = []
        stopped: set[int] = set()
        for number, pending in enumerate(relay.batch):
            event = queue.events[pending.event.id]
            outcome = outcomes[number % len(outcomes)]
            if event.subject in stopped or outcome == "left":
                stopped.add(event.subject)
            elif outcome == "ok":
                delivered.append(pending)
            else:
                stopped.add(event.subject)
                pause = {"soon": SOON, "later": LATER, "now": 0.0, "dead": None}[outcome]
                failed.append(FailedDelivery(pending, "no such luck", pause))
        try:
            run_sync(relay.outbox.settle(delivered, failed))
        except StorageUnavailable:
            assert relay.until <= self.backend.now
            return
        for pending in delivered:
            queue.events[pending.event.id].is_done = True
        for failure in failed:
            event = queue.events[failure.pending.event.id]
            event.is_dead = failure.retry_in is None
            event.due = self.backend.now + (failure.retry_in or 0.0)

    @rule(name=QUEUE, which=WHICH, limit=st.sampled_from((2, EVERYTHING, EVERYTHING)), outcomes=OUTCOMES)
    def deliver(self, name: str, which: int, limit: int, outcomes: list[str]) -> None:
        self.look(name, which, limit)
        self.settle(name, which, outcomes)

    @rule(name=QUEUE, which=WHICH, how=st.sampled_from(("give back", "freeze", "thaw", "thaw")), outcomes=OUTCOMES)
    def interrupt(self, name: str, which: int, how: str, outcomes: list[str]) -> None:
        queue = self.queues[name]
        relay = queue.relays[which]
        if how == "give back":
            run_sync(relay.outbox.release())
            relay.batch, relay.until = [], 0.0
        elif how == "freeze":
            queue.relays[which] = Taking(self.opened(name))
            if self.backend.kill(relay.outbox):
                relay.until = 0.0
            queue.frozen.append(relay)
        elif queue.frozen:
            relay = queue.frozen.pop(0)
            if relay.batch:
                self.settle_one(queue, relay, outcomes)
            run_sync(relay.outbox.close())

    @rule(seconds=st.sampled_from((LEASE, SOON, SOON, LATER)))
    def pass_time(self, seconds: float) -> None:
        self.backend.pass_time(seconds)

    @contextmanager
    def as_tenant(self) -> Iterator[UnitOfWork]:
        """Open a unit of work of the tenant, and commit it."""
        unit = self.backend.storage.unit_of_work(self.tenant, str(uuid4()), "sync")
        yield unit
        run_sync(unit.commit())

    @rule(name=QUEUE, first=st.integers(0, 1), by_tenant=st.booleans())
    def skip(self, name: str, first: int, by_tenant: bool) -> None:
        queue = self.queues[name]
        ids = [id for id, event in queue.events.items() if event.is_dead and not event.is_skipped][first:]
        if by_tenant:
            with self.as_tenant() as unit:
                assert run_sync(unit.skip(name, ids, "no")) == sorted(ids)
        else:
            assert run_sync(queue.operator.skip(ids, "no")) == len(ids)
        for id in ids:
            queue.events[id].is_skipped = True

    @rule(name=QUEUE, which=st.sampled_from(("all", "dead", "skipped", "skipped", "first")), by_tenant=st.booleans())
    def redrive(self, name: str, which: str, by_tenant: bool = False) -> None:
        queue = self.queues[name]
        dead = [id for id, event in queue.events.items() if event.is_dead]
        ids = [id for id in dead if queue.events[id].is_skipped is (which == "skipped")]
        if which == "first":
            ids = dead[:1]
        if by_tenant:
            with self.as_tenant() as unit:
                assert run_sync(unit.redrive(name, ids)) == sorted(ids)
        else:
            assert run_sync(queue.operator.redrive(None if which == "all" else ids)) == len(ids)
        for id in ids:
            event = queue.events[id]
            event.has_lost_its_place |= event.is_skipped
            event.is_dead = event.is_skipped = False
            event.due = self.backend.now

    # What always holds

    @invariant()
    def the_status_counts_what_there_is(self) -> None:
        for queue in self.queues.values():
            status = run_sync(queue.operator.status())
            events = queue.events.values()
            assert status.pending == sum(event.is_pending for event in events)
            assert status.waiting == sum(event.is_pending and event.due > self.backend.now for event in events)
            assert status.dead == sum(event.is_dead and not event.is_skipped for event in events)
            assert status.skipped == sum(event.is_skipped for event in events)
            assert 0 <= status.held <= status.pending

    @invariant()
    def the_only_tenant_sees_the_same(self) -> None:
        unit = self.backend.storage.unit_of_work(self.tenant, str(uuid4()), "sync", read_only=True)
        for found in run_sync(unit.outbox_status()):
            status = run_sync(self.queues[found.queue].operator.status())
            counts = (status.pending, status.waiting, status.held, status.dead, status.skipped, status.oldest)
            assert found[1:] == counts
            dead = run_sync(unit.dead_letters(found.queue, limit=1000))
            assert len(dead) == found.dead + found.skipped
        run_sync(unit.rollback())

    @invariant()
    def nothing_is_held_back_for_ever(self) -> None:
        assert self.backend.left_behind() == 0

    def teardown(self) -> None:
        """Deliver the remaining events."""
        try:
            for name, queue in self.queues.items():
                for relay in queue.relays:
                    run_sync(relay.outbox.release())
                    relay.batch, relay.until = [], 0.0
                for relay in queue.frozen:
                    run_sync(relay.outbox.close())
                self.backend.pass_time(LATER + LEASE)
                self.redrive(name, "all")
                for _ in range(len(queue.events) + 1):
                    self.look(name, 0, EVERYTHING)
                    self.settle(name, 0, ["ok"])
                assert all(event.is_done or event.is_skipped for event in queue.events.values())
                status = run_sync(queue.operator.status())
                assert (status.pending, status.held, status.waiting, status.dead) == (0, 0, 0, 0)
        finally:
            for queue in self.queues.values():
                for outbox in (queue.operator, *(relay.outbox for relay in (*queue.relays, *queue.frozen))):
                    run_sync(outbox.close())


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Return each storage in turn."""
    if request.param == "postgres":
        backend: Backend = Postgres(request.getfixturevalue("postgres_server"))
    else:
        backend = Memory() if request.param == "memory" else SQLite()
    with closing(backend):
        yield backend


SHORT = {Memory: (40, 40), SQLite: (12, 30), Postgres: (8, 30)}
LONG = {Memory: (3000, 80), SQLite: (500, 80), Postgres: (300, 80)}


def campaign(backend: Backend, sizes: dict[type, tuple[int, int]]) -> None:
    examples, steps = sizes[type(backend)]
    wanted = settings(max_examples=examples, stateful_step_count=steps, deadline=None, report_multiple_bugs=False)

    class Machine(TwoRelays):
        def __init__(self) -> None:
            super().__init__(backend)

    run_state_machine_as_test(Machine, settings=wanted)


def test_two_relays_and_an_operator_keep_all_events_in_order(backend: Backend) -> None:
    campaign(backend, SHORT)


@pytest.mark.soak
def test_two_relays_and_an_operator_in_many_histories(backend: Backend) -> None:
    campaign(backend, LONG)
