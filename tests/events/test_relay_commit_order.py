"""Transactions commit in another order than they have taken their positions in: no reader passes what comes late. And
whatever a publisher does, the events of a subject arrive in their order, and each failure is counted once."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from examples.embedded_postgres import Database
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actionengine import InMemoryStorage, PostgresStorage, Tenant
from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.events.event import Event
from actionengine.events.publishers.port import CallbackPublisher, PublishError, PublisherUnavailable
from actionengine.events.relay.relay import Relay
from actionengine.events.replay import replay
from actionengine.storage.postgres.driver import Statement
from actionengine.storage.postgres.unit_of_work import PostgresUnitOfWork
from actionengine.storage.rows import Recording
from actionengine.testing.rows import event_row
from tests.events.relay_work import Arrival, Writer, check_all_arrived, check_order, duplicates, written
from tests.waiting import wait_until

READERS = 3
RELAYS = 3


class SlowToCommit(PostgresUnitOfWork):
    """A unit of work that waits between its writes, positions included, and its COMMIT or ROLLBACK."""

    wait: Callable[[], object]
    ends_with: Statement

    def _send_last(self, *statements: Statement, first: Sequence[Statement] = ()) -> None:
        if ("COMMIT", ()) in statements:
            self._driver.execute(*statements[: statements.index(("COMMIT", ()))])
            self.wait()
            statements = (self.ends_with,)
        super()._send_last(*statements, first=first)


class SlowStorage(PostgresStorage):
    """A storage whose transactions in this thread call `waiting` before their COMMIT."""

    def __init__(self, url: str) -> None:
        super().__init__(url, pool_size=20)
        self.waiting = threading.local()

    def unit_of_work(self, tenant: Tenant, action_id: str, mode: Mode, read_only: bool = False) -> PostgresUnitOfWork:
        wait = getattr(self.waiting, "wait", None)
        if wait is None:
            return super().unit_of_work(tenant, action_id, mode, read_only)
        unit = SlowToCommit(self.database, tenant, action_id, mode, read_only)
        unit.wait = wait
        unit.ends_with = ("COMMIT", ()) if getattr(self.waiting, "commits", True) else ("ROLLBACK", ())
        return unit


@pytest.fixture
def postgres(fresh_postgres_database: Database) -> Iterator[SlowStorage]:
    with SlowStorage(fresh_postgres_database.app_url) as storage:
        yield storage


def record(storage: SlowStorage, tenant: Tenant, subjects: Sequence[str]) -> list[str]:
    """Commit events about these subjects in one transaction, and return their ids."""
    rows = [event_row(tenant, subject=subject) for subject in subjects]
    unit = storage.unit_of_work(tenant, rows[0].action_id, "sync")
    try:
        run_sync(unit.record(Recording((), rows)))
        run_sync(unit.commit())
    except BaseException:
        run_sync(unit.rollback())
        raise
    return [row.id for row in rows]


def record_slowly(
    storage: SlowStorage, tenant: Tenant, subjects: Sequence[str], wait: Callable[[], object], commits: bool = True
) -> list[str]:
    """Do the same, with a wait before the end, which may be a ROLLBACK."""
    storage.waiting.wait, storage.waiting.commits = wait, commits
    try:
        return record(storage, tenant, subjects)
    finally:
        storage.waiting.wait = None


class Readers:
    """Relays and replays that run all the time, and the events that they have seen."""

    def __init__(self, storage: SlowStorage, tenant: Tenant) -> None:
        self.arrivals: list[Arrival] = []
        self.seen: list[list[str]] = [[] for _ in range(READERS)]
        self._storage = storage
        self._tenant = tenant
        self._is_over = threading.Event()
        self._relays = [
            Relay(storage, CallbackPublisher(self._publisher(f"relay {number}")), batch_size=7, poll_interval=0.05)
            for number in range(RELAYS)
        ]
        self._threads = ThreadPoolExecutor(READERS + RELAYS)
        self._work = [self._threads.submit(relay.run) for relay in self._relays]
        self._work += [self._threads.submit(self._read, number) for number in range(READERS)]

    def end(self) -> None:
        self._is_over.set()
        for _ in range(1200):
            for relay in self._relays:
                relay.stop()
            if all(work.done() for work in self._work):
                break
            time.sleep(0.05)
        for work in self._work:
            work.result(60)
        self._threads.shutdown()

    def has_all(self, count: int) -> bool:
        return len({arrival.id for arrival in self.arrivals}) >= count and all(len(ids) >= count for ids in self.seen)

    def _publisher(self, name: str) -> Callable[[Event], None]:
        return lambda event: self.arrivals.append(Arrival(name, event.id, event.subject))

    def _read(self, number: int) -> None:
        position = 0
        while not self._is_over.is_set():
            if number % 2:
                for event in replay(self._storage, self._tenant, after=position, batch_size=5):
                    self.seen[number].append(event.id)
                    position = event.position
            else:
                for stored in self._storage.read_events(self._tenant, after=position, limit=5):
                    self.seen[number].append(stored.event.id)
                    position = stored.position
            time.sleep(0.001)


@contextmanager
def reading(storage: SlowStorage, tenant: Tenant) -> Iterator[Readers]:
    readers = Readers(storage, tenant)
    try:
        yield readers
    finally:
        readers.end()


def test_no_reader_passes_an_event_that_commits_late(postgres: SlowStorage) -> None:
    tenant = postgres.create_tenant(slug="acme", name="Acme")
    may_commit, has_recorded = threading.Event(), threading.Event()

    def wait() -> None:
        has_recorded.set()
        may_commit.wait(90.0)

    with reading(postgres, tenant) as readers, ThreadPoolExecutor(1) as thread:
        early = record(postgres, tenant, ["a"])
        late = thread.submit(record_slowly, postgres, tenant, ["a", "b"], wait)
        assert has_recorded.wait(90.0)
        after = record(postgres, tenant, ["a", "c"])
        wait_until(lambda: readers.has_all(1))
        time.sleep(0.3)
        assert [arrival.id for arrival in readers.arrivals] == early
        may_commit.set()
        wait_until(lambda: readers.has_all(5))

    assert readers.seen == [early + late.result() + after] * READERS
    check_order(written(postgres, tenant), readers.arrivals)
    assert duplicates(readers.arrivals) == 0


def test_an_event_that_is_rolled_back_late_frees_later_ones(postgres: SlowStorage) -> None:
    tenant = postgres.create_tenant(slug="acme", name="Acme")
    may_end, has_recorded = threading.Event(), threading.Event()

    def wait() -> None:
        has_recorded.set()
        may_end.wait(90.0)

    with reading(postgres, tenant) as readers, ThreadPoolExecutor(1) as thread:
        late = thread.submit(record_slowly, postgres, tenant, ["a", "b"], wait, False)
        assert has_recorded.wait(90.0)
        after = record(postgres, tenant, ["a", "c"])
        time.sleep(0.2)
        may_end.set()
        with suppress(Exception):
            late.result(90)
        wait_until(lambda: readers.has_all(2))

    assert readers.seen == [after] * READERS


def interleave(storage: SlowStorage, seed: int, writers: int, transactions: int) -> None:
    """Run long and short transactions of few subjects in many threads, together with relays and replays."""
    tenant = storage.create_tenant(slug=f"t-{seed}", name="A tenant")
    told: list[tuple[float, float, list[str]]] = []

    def write(worker: int) -> None:
        dice = random.Random(f"{seed} {worker}")
        for _ in range(transactions):
            subjects = [f"s/{dice.randrange(4)}" for _ in range(dice.randint(1, 3))]
            pause = dice.choice([0.0, 0.0, 0.001, 0.005, 0.02])
            commits = dice.random() < 0.9
            began = time.monotonic()
            ids = record_slowly(storage, tenant, subjects, lambda pause=pause: time.sleep(pause), commits)  # type: ignore[misc]
            if commits:
                told.append((began, time.monotonic(), ids))

    with reading(storage, tenant) as readers:
        with ThreadPoolExecutor(writers) as threads:
            for work in [threads.submit(write, number) for number in range(writers)]:
                work.result(120)
        events = written(storage, tenant)
        wait_until(lambda: readers.has_all(len(events)))

    committed = {id for _, _, ids in told for id in ids}
    assert {id for id, _ in events} == committed
    assert readers.seen == [[id for id, _ in events]] * READERS
    check_all_arrived(storage, [tenant], readers.arrivals)
    assert duplicates(readers.arrivals) == 0
    check_commit_order(told, dict(events), readers.arrivals)
    print(f"\nseed {seed}: {len(events)} events of {len(told)} transactions")


def check_commit_order(
    told: Sequence[tuple[float, float, list[str]]], subject_of: Mapping[str, str | None], arrivals: Sequence[Arrival]
) -> None:
    """Check for each subject that an event that began after the end of another one arrived after it."""
    place = {arrival.id: number for number, arrival in enumerate(arrivals)}
    by_subject: dict[str | None, list[tuple[float, float, int]]] = defaultdict(list)
    for began, ended, ids in told:
        for id in ids:
            by_subject[subject_of[id]].append((began, ended, place[id]))
    for events in by_subject.values():
        for _, ended, earlier in events:
            assert all(earlier < later for began, _, later in events if began > ended)


@pytest.mark.parametrize("seed", [1, 2])
def test_no_interleaving_makes_a_reader_pass_an_event(postgres: SlowStorage, seed: int) -> None:
    interleave(postgres, seed, writers=8, transactions=25)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3, 9))
def test_no_long_interleaving_makes_a_reader_pass_an_event(postgres: SlowStorage, seed: int) -> None:
    interleave(postgres, seed, writers=12, transactions=150)


# Whatever a publisher does

MAX_ATTEMPTS = 3

FAULTS = st.sampled_from(["ok", "ok", "ok", "once", "twice", "always", "for ever", "partly", "hang once", "out once"])


class Whimsical:
    """Treats each event as its plan says, and counts its answers."""

    def __init__(self, batch_size: int, concurrency: int) -> None:
        self.batch_size = batch_size
        self.concurrency = concurrency
        self.plan: dict[str, str] = {}
        self.arrived: list[str] = []
        self.blamed: Counter[str] = Counter()
        self.left: dict[str, int] = {}
        self.calls = 0

    async def publish(self, events: Sequence[Event]) -> dict[str, PublishError] | None:
        self.calls += 1
        assert len(events) <= self.batch_size
        assert len({event.subject or event.id for event in events}) == len(events)
        await asyncio.sleep(0)
        whims = {event.id: self._whim(event.id) for event in events}
        for id, whim in whims.items():
            if whim == "hang once":
                self.left[id] -= 1
                await asyncio.sleep(60.0)
            if whim == "out once":
                self.left[id] -= 1
                raise ConnectionResetError("gone")
        for id, whim in whims.items():
            if whim in {"once", "twice", "always"}:
                # The error does not tell which event is at fault: each is tried alone then.
                if len(events) == 1:
                    self._blame(id)
                raise ValueError("no")
        failures: dict[str, PublishError] = {}
        for id, whim in whims.items():
            if whim:
                self._blame(id)
                failures[id] = PublishError("not this one", retry=whim == "partly")
        self.arrived += [event.id for event in events if event.id not in failures]
        return failures or None

    def _whim(self, id: str) -> str:
        plan = self.plan[id]
        times = {"ok": 0, "twice": 2, "always": 1000, "for ever": 1000}
        return plan if self.left.setdefault(id, times.get(plan, 1)) else ""

    def _blame(self, id: str) -> None:
        self.left[id] -= 1
        self.blamed[id] += 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    events=st.lists(st.tuples(st.sampled_from(["a", "b", "c", "d", None]), FAULTS), min_size=1, max_size=14),
    batch_size=st.integers(1, 20),
    calls_of=st.integers(1, 6),
    concurrency=st.integers(1, 4),
)
def test_any_publisher_keeps_orders_and_counts_failures_once(
    events: list[tuple[str | None, str]], batch_size: int, calls_of: int, concurrency: int
) -> None:
    with InMemoryStorage() as storage:
        writer = Writer(storage)
        writer.execute(*(subject for subject, _ in events))
        rows = written(storage, writer.tenant)
        publisher = Whimsical(calls_of, concurrency)
        publisher.plan = {id: fault for (id, _), (_, fault) in zip(rows, events, strict=True)}
        relay = Relay(
            storage,
            publisher,
            batch_size=batch_size,
            publish_timeout=0.02,
            max_attempts=MAX_ATTEMPTS,
            first_backoff=0.0001,
            longest_backoff=0.0002,
        )
        drain_all(relay, publisher)

        dead = {letter.event.id: letter for letter in relay.dead_letters()}
        arrivals = [Arrival("a relay", id, dict(rows)[id]) for id in publisher.arrived]
        assert relay.status().pending == sum(is_held(rows, id, dead) for id, _ in rows)
        assert set(publisher.arrived) | set(dead) | {id for id, _ in rows if is_held(rows, id, dead)} == set(
            publisher.plan
        )
        assert len(publisher.arrived) == len(set(publisher.arrived))
        check_order(rows, arrivals)
        for id, letter in dead.items():
            assert letter.attempts == publisher.blamed[id]
            assert letter.attempts == (1 if publisher.plan[id] == "for ever" else MAX_ATTEMPTS)
            assert publisher.plan[id] in {"for ever", "always"}

        while relay.skip([letter.event.id for letter in relay.dead_letters()], "it is of no use"):
            drain_all(relay, publisher)
        skipped = {letter.event.id for letter in relay.dead_letters()}
        assert set(publisher.arrived) | skipped == set(publisher.plan)
        assert skipped == {id for id, fault in publisher.plan.items() if fault in {"for ever", "always"}}
        assert not relay.status().pending
        check_skipping_order(rows, publisher.arrived)


def is_held(rows: Sequence[tuple[str, str | None]], id: str, dead: Mapping[str, Any]) -> bool:
    """Return whether an event waits behind a dead letter."""
    subjects = dict(rows)
    before = [earlier for earlier, _ in rows[: [each for each, _ in rows].index(id)]]
    return subjects[id] is not None and any(earlier in dead and subjects[earlier] == subjects[id] for earlier in before)


def check_skipping_order(rows: Sequence[tuple[str, str | None]], arrived: Sequence[str]) -> None:
    place = {id: number for number, (id, _) in enumerate(rows)}
    for subject in {subject for _, subject in rows if subject is not None}:
        mine = [place[id] for id in arrived if dict(rows)[id] == subject]
        assert mine == sorted(mine)


def drain_all(relay: Relay, publisher: Whimsical) -> None:
    """Drain until no event waits, also through outages of the broker."""
    deadline = time.monotonic() + 90.0
    while time.monotonic() < deadline:
        calls, waiting = publisher.calls, relay.status().waiting
        with suppress(PublisherUnavailable):
            relay.drain()
        if not waiting and publisher.calls == calls:
            return
        time.sleep(0.0005)
    raise AssertionError(f"this did not come to an end: {relay.status()}")
