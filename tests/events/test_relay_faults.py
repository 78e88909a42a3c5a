"""Relays are killed, frozen, stopped and cancelled, their brokers and databases go away, and some events are poison.

All that was written arrives, in order per subject, and no more is repeated than a batch for each fault.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from examples.embedded_postgres import Database

from actionengine import InMemoryStorage, PostgresStorage, SQLiteStorage
from actionengine.concurrency.run_sync import run_sync
from actionengine.events.event import Event
from actionengine.events.publishers.port import CallbackPublisher, Publisher
from actionengine.events.relay import worker
from actionengine.events.relay.relay import Relay
from tests.backends import AnyStorage
from tests.crash.servers import StopMode, StoppableServer, stoppable_server
from tests.events.relay_hosts import Process, Site, postgres_site, sqlite_site
from tests.events.relay_publishers import AsyncBroker, Broker
from tests.events.relay_work import (
    Arrival,
    Emission,
    Writer,
    check_all_arrived,
    check_order,
    duplicates,
    running,
    written,
)
from tests.programs import ROOT, Program
from tests.waiting import wait_until

BATCH = 20
KILLS = 3
CAMPAIGN = 200
PAUSES = 3
STOPS = 2
TERMINATIONS = 6
SHORT_LEASE: dict[str, Any] = {"publish_timeout": 0.6, "leeway": 0.6}
"""For relays in other processes: a lease of 1.2 s."""


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_MAX_RETRY_INTERVAL", 0.02)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Return the program that forks the processes of all tests."""
    program = Program("tests.events.relay_host", tmp_path_factory.mktemp("program"))
    yield program
    program.close()


@pytest.fixture(params=["sqlite", "postgres"])
def site(request: pytest.FixtureRequest, tmp_path: Path, program: Program) -> Iterator[Site]:
    if request.param == "sqlite":
        site = sqlite_site(tmp_path, program)
    else:
        site = postgres_site(request.getfixturevalue("fresh_postgres_database"), tmp_path, program)
    with site.storage:
        yield site
        site.close()


def finish(site: Site, *writers: Process, **order: Any) -> list[Arrival]:
    """End the writers, deliver the remaining events, check that all have arrived, and return the arrivals."""
    for writer in writers:
        writer.terminate()
    last = site.relay(name="the-last", stops=True, **order)
    site.wait_until_drained()
    last.terminate()
    arrivals = site.broker.arrivals()
    check_all_arrived(site.storage, site.tenants, arrivals)
    acknowledged = {mark for writer in writers for mark in writer.acknowledged()}
    assert acknowledged <= {arrival.subject for arrival in arrivals}
    return arrivals


def report(site: Site, arrivals: list[Arrival], faults: str) -> None:
    unique = len({arrival.id for arrival in arrivals})
    kind = type(site.storage).__name__
    print(f"\n{kind}: {faults}; {unique} events, {duplicates(arrivals)} deliveries repeated")


# Killed


def test_each_killed_relay_repeats_a_batch_at_most(site: Site) -> None:
    kill_relays(site, KILLS, random.Random(7))


@pytest.mark.soak
def test_hundreds_of_killed_relays_repeat_a_batch_each_at_most(site: Site) -> None:
    kill_relays(site, CAMPAIGN, random.Random())


def kill_relays(site: Site, kills: int, dice: random.Random) -> None:
    writers = [site.writer(site.tenant()), site.writer(site.tenant())]

    def another() -> Process:
        return site.relay(
            mode=dice.choice(["sync", "async"]),
            batch_size=BATCH,
            calls_of=dice.choice([1, 1, 7]),
            pause=dice.choice([0.0, 0.001, 0.003]),
        )

    relays = [another() for _ in range(3 if isinstance(site.storage, PostgresStorage) else 2)]
    for _ in range(kills):
        if dice.random() < 0.7:
            site.wait_for_arrivals(dice.randint(1, 30))
        time.sleep(dice.uniform(0.0, 0.03))
        victim = dice.randrange(len(relays))
        relays[victim].kill()
        relays[victim] = another()
    for relay in relays:
        relay.kill()
    arrivals = finish(site, *writers)

    report(site, arrivals, f"{kills + len(relays)} relays killed")
    assert duplicates(arrivals) <= (kills + len(relays)) * BATCH


def test_what_a_killed_writer_was_told_is_done_arrives(site: Site) -> None:
    dice = random.Random(3)
    tenant = site.tenant()
    relay = site.relay(stops=True)
    writers = []
    for _ in range(3):
        writer = site.writer(tenant)
        wait_for_acknowledgements(writer, dice.randint(1, 8))
        writer.kill()
        writers.append(writer)
    site.wait_until_drained()
    relay.terminate()

    arrivals = site.broker.arrivals()
    acknowledged = [mark for writer in writers for mark in writer.acknowledged()]
    check_all_arrived(site.storage, site.tenants, arrivals)
    report(site, arrivals, f"{len(writers)} writers killed, {len(acknowledged)} actions acknowledged")
    assert set(acknowledged) <= {arrival.subject for arrival in arrivals}
    assert duplicates(arrivals) == 0


def wait_for_acknowledgements(writer: Process, enough: int) -> None:
    wait_until(lambda: len(writer.acknowledged()) > enough)


# Frozen


def test_a_relay_frozen_past_its_lease_repeats_a_batch_at_most(site: Site) -> None:
    freeze(site, calls_of=7, pauses=1)


@pytest.mark.soak
@pytest.mark.parametrize("calls_of", [1, 7])
def test_a_relay_frozen_often_repeats_a_batch_each_time_at_most(site: Site, calls_of: int) -> None:
    freeze(site, calls_of, pauses=PAUSES)


def freeze(site: Site, calls_of: int, pauses: int) -> None:
    writer = site.writer(site.tenant())
    options: dict[str, Any] = {"batch_size": BATCH, "calls_of": calls_of, "pause": 0.002, **SHORT_LEASE}
    frozen = site.relay(stops=True, **options)
    site.wait_for_arrivals(5)
    # Its own leases are long enough for a busy machine: only those of the frozen relay end.
    other = site.relay(stops=True, **{**options, "publish_timeout": 10.0, "leeway": None})
    for _ in range(pauses):
        with frozen_between_transactions(site, frozen):
            time.sleep(1.3)
            taken_over = len(site.broker.arrivals())
            site.wait_for_arrivals(60)
            assert {arrival.relay for arrival in site.broker.arrivals()[taken_over:]} == {other.name}
        time.sleep(0.3)
    other.terminate()
    before = len(site.broker.arrivals())
    site.wait_for_arrivals(40)

    assert frozen.name in {arrival.relay for arrival in site.broker.arrivals()[before:]}
    frozen.terminate()
    arrivals = finish(site, writer)
    report(site, arrivals, f"{pauses} pauses")
    assert duplicates(arrivals) <= pauses * BATCH


@contextmanager
def frozen_between_transactions(site: Site, process: Process) -> Iterator[None]:
    """Freeze a process during the block, at a moment when it has not locked the SQLite file."""
    while True:
        with process.frozen():
            if site.can_be_written():
                yield
                return
        time.sleep(0.01)


# The broker is out


def quick_relay(storage: AnyStorage, publisher: Publisher, **options: Any) -> Relay:
    options = {"publish_timeout": 5.0, "first_backoff": 0.02, "longest_backoff": 0.1, "max_attempts": 3} | options
    return Relay(storage, publisher, poll_interval=0.2, **options)


@pytest.fixture
def writer(any_storage: AnyStorage) -> Writer:
    return Writer(any_storage)


@pytest.mark.parametrize("outage", ["refuse", "unavailable", "hang"])
def test_an_outage_of_the_broker_stops_no_action(any_storage: AnyStorage, writer: Writer, outage: str) -> None:
    broker = Broker(batch_size=4)
    broker.outage = outage
    options: dict[str, Any] = {"publish_timeout": 0.15} if outage == "hang" else {}
    relay = quick_relay(any_storage, broker, **options)
    with running(relay):
        for number in range(12):
            writer.execute(f"s/{number % 3}", f"s/{number % 3}")
        wait_until(lambda: broker.calls.total() >= 4)
        assert relay.status().pending == 24
        for number in range(12):
            writer.execute(f"s/{number % 3}")
    assert relay.status().pending == 36
    assert broker.arrivals == []
    outbox = any_storage.outbox("sync")
    assert {pending.attempts for pending in run_sync(outbox.take(100, 30.0))} == {0}
    run_sync(outbox.close())

    with running(relay):
        wait_until(lambda: broker.calls.total() >= 7)
        broker.outage = ""
        wait_until(lambda: not relay.status().pending)
    broker.release()

    check_all_arrived(any_storage, [writer.tenant], broker.arrivals)
    # Within so short a time, a busy machine makes a call that does not hang late as well: it is made again.
    assert duplicates(broker.arrivals) == 0 or outage == "hang"
    assert relay.dead_letters() == []


def test_after_an_outage_the_batch_size_still_holds() -> None:
    with InMemoryStorage() as storage:
        writer = Writer(storage)
        writer.execute(*(f"s/{number}" for number in range(40)))
        is_out, may_end = threading.Event(), threading.Event()
        calls = itertools.count(1)

        def publish(event: Event) -> None:
            if next(calls) == 1:
                raise ConnectionRefusedError("nobody is at home")
            is_out.set()
            may_end.wait(90.0)

        with running(quick_relay(storage, CallbackPublisher(publish), batch_size=2, publish_timeout=90.0)):
            assert is_out.wait(90)
            outbox = storage.outbox("sync")
            left = run_sync(outbox.take(100, 30.0))
            run_sync(outbox.close())
            may_end.set()

    assert 40 - len(left) <= 2


# Poison

POISON = {
    "refuse": (1, "nobody wants a", 3),
    "for ever": (1, "nobody wants a", 1),
    "batch": (5, "something in this call is wrong", 3),
    "partly": (5, "nobody wants a", 3),
    "hang": (1, "did not answer within", 3),
}
"""By the trouble of an event: the publisher's batch size, the dead letter's reason, and its attempts."""


@pytest.mark.parametrize(
    "kind", [pytest.param(Broker, id="def"), pytest.param(AsyncBroker, id="async def", marks=pytest.mark.soak)]
)
@pytest.mark.parametrize("trouble", POISON)
def test_poison_holds_its_own_subject_until_redriven_or_skipped(
    any_storage: AnyStorage, writer: Writer, trouble: str, kind: type[Broker]
) -> None:
    size, reason, attempts = POISON[trouble]
    broker = kind(batch_size=size)
    relay = quick_relay(any_storage, broker, publish_timeout=0.2 if trouble == "hang" else 5.0)
    writer.execute("a", Emission("a", trouble), "a", "b", "c", None)
    a1, poison, a3, *_ = ids = [id for id, _ in written(any_storage, writer.tenant)]
    with running(relay):
        for number in itertools.count():
            # Other subjects have events all the time.
            writer.execute("b", f"d/{number}")
            if relay.dead_letters() or number > 400:
                break
            time.sleep(0.03)
        held = writer.emit("a")[-1]
        others = {id for id, subject in written(any_storage, writer.tenant) if subject != "a"}
        wait_until(lambda: others <= set(broker.ids()))
        (letter,) = relay.dead_letters()
        assert (letter.event.id, letter.attempts, letter.skipped) == (poison, attempts, False)
        assert reason in letter.reason
        assert broker.ids("a") == [a1]

        # In vain first, then cured.
        assert relay.redrive([poison]) == 1
        until_dead(relay, writer)
        assert broker.ids("a") == [a1]
        broker.cure(poison)
        assert relay.redrive() == 1
        wait_until(lambda: not relay.status().pending)
        assert broker.ids("a") == [a1, poison, a3, held]

        # The next one is given up.
        *_, b4, b5 = writer.emit(Emission("a", "for ever"), "a", "a")
        until_dead(relay, writer)
        (letter,) = relay.dead_letters()
        assert relay.skip([letter.event.id], "the partner has closed its account") == 1
        wait_until(lambda: not relay.status().pending)
        assert broker.ids("a") == [a1, poison, a3, held, b4, b5]
    broker.release()
    # Within so short a time, a busy machine makes a call that does not hang late as well: it is made again.
    assert duplicates(arrival for arrival in broker.arrivals if arrival.id != poison) == 0 or trouble == "hang"
    assert set(ids) <= set(broker.ids())


def until_dead(relay: Relay, writer: Writer) -> None:
    """Wait for a dead letter, while other subjects go on."""

    def is_dead() -> bool:
        writer.execute("b")
        time.sleep(0.02)
        return relay.status().dead == 1

    wait_until(is_dead)


def test_hanging_events_hold_up_no_other_subject(any_storage: AnyStorage, writer: Writer) -> None:
    broker = AsyncBroker()
    writer.execute(*(Emission(f"bad/{number}", "hang") for number in range(15)))
    writer.execute("good/1", "good/2")
    with running(quick_relay(any_storage, broker, publish_timeout=0.05)):
        wait_until(lambda: {arrival.subject for arrival in broker.arrivals} == {"good/1", "good/2"})


def test_an_event_that_always_hangs_leaves_room_for_others() -> None:
    broker = Broker()
    with InMemoryStorage() as storage:
        writer = Writer(storage)
        writer.execute(Emission("bad", "hang"))
        relay = quick_relay(storage, broker, publish_timeout=0.02)
        try:
            with running(relay):
                wait_until(lambda: broker.calls.total() >= 64 or relay.status().dead)
                writer.execute("good")
                wait_until(lambda: broker.ids("good"))
        finally:
            broker.release()


@pytest.mark.parametrize("odd", ["\0", "\udce9"], ids=["a NUL", "half a surrogate pair"])
def test_an_unstorable_reason_still_makes_a_dead_letter(any_storage: AnyStorage, writer: Writer, odd: str) -> None:
    def publish(event: Event) -> None:
        if event.subject == "bad":
            raise ValueError(f"the file caf{odd}.txt is not there")
        arrived.append(event.subject)

    arrived: list[str | None] = []
    writer.execute("bad", "good")
    relay = quick_relay(any_storage, CallbackPublisher(publish), max_attempts=1)
    with running(relay):
        wait_until(lambda: relay.status().dead == 1)
    assert arrived == ["good"]
    assert "is not there" in relay.dead_letters()[0].reason


async def await_what_was_cancelled(event: Event) -> None:
    """Do as a client that loses its connection: it cancels the future of an answer."""
    answer = asyncio.get_running_loop().create_future()
    answer.cancel()
    await answer


def end_the_process(event: Event) -> None:
    sys.exit(f"cannot go on with {event.id}")


@pytest.mark.parametrize("take_poison", [await_what_was_cancelled, end_the_process])
def test_a_relay_survives_a_base_exception_of_its_publisher(take_poison: Callable[[Event], Any]) -> None:
    arrived: list[str | None] = []

    async def publish_async(event: Event) -> None:
        if event.subject == "bad":
            await take_poison(event)
        arrived.append(event.subject)

    def publish(event: Event) -> None:
        if event.subject == "bad":
            take_poison(event)
        arrived.append(event.subject)

    with InMemoryStorage() as storage:
        Writer(storage).execute("bad", "good")
        publisher = CallbackPublisher(publish if take_poison is end_the_process else publish_async)
        with running(quick_relay(storage, publisher)):
            wait_until(lambda: arrived == ["good"])


def test_a_failed_settlement_does_not_lock_writers_out(tmp_path: Path) -> None:
    def refuse(event: Event) -> None:
        tries.append(event)
        raise ValueError("caf\udce9")

    tries: list[Event] = []
    with SQLiteStorage(tmp_path / "events.db", busy_timeout=300.0) as storage:
        writer = Writer(storage)
        writer.execute("bad")
        relay = quick_relay(storage, CallbackPublisher(refuse))
        with running(relay):
            # The second try comes after the settlement of the first.
            wait_until(lambda: len(tries) > 1)
            began = time.monotonic()
            writer.execute("good")
            assert time.monotonic() - began < 150.0


# PostgreSQL goes away


@pytest.fixture(scope="module")
def server() -> Iterator[StoppableServer]:
    with stoppable_server() as server:
        yield server


@pytest.mark.parametrize("mode", [pytest.param("fast", marks=pytest.mark.soak), "immediate"])
def test_relays_recover_when_postgres_was_stopped(
    server: StoppableServer, program: Program, tmp_path: Path, mode: StopMode
) -> None:
    site = postgres_site(server.database, tmp_path, program)
    with site.storage:
        writer = site.writer(site.tenant())
        relays = [site.relay(stops=True, mode=mode, batch_size=BATCH, pause=0.001) for mode in ("sync", "async")]
        site.wait_for_arrivals(20)
        server.stop(mode)
        try:
            time.sleep(0.5)
        finally:
            server.start()
        site.wait_for_arrivals(60)
        writer.terminate()
        site.wait_until_drained()
        assert all(relay.is_alive() for relay in relays)
        for relay in relays:
            relay.terminate()
        arrivals = finish(site)
        assert set(writer.acknowledged()) <= {arrival.subject for arrival in arrivals}
        report(site, arrivals, f"stopped ({mode}) under {len(relays)} relays")
        site.close()
    assert duplicates(arrivals) <= len(relays) * BATCH


def test_relays_recover_from_terminated_connections(
    fresh_postgres_database: Database, postgres_server: str, program: Program, tmp_path: Path
) -> None:
    dice = random.Random(11)
    site = postgres_site(fresh_postgres_database, tmp_path, program)
    ended = 0
    with site.storage, psycopg.connect(postgres_server, autocommit=True) as connection:
        writer = site.writer(site.tenant())
        relays = [site.relay(stops=True, mode=mode, batch_size=BATCH, pause=0.001) for mode in ("sync", "async")]
        site.wait_for_arrivals(20)
        while ended < TERMINATIONS:
            victim = dice.choice(relays)
            assert victim.is_alive(), site.errors()
            row = connection.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = %s",
                (victim.name,),
            ).fetchone()
            assert row is not None
            ended += row[0] > 0
            time.sleep(dice.uniform(0.0, 0.3))
        writer.terminate()
        site.wait_until_drained()
        assert all(relay.is_alive() for relay in relays)
        for relay in relays:
            relay.terminate()
        arrivals = finish(site)
        report(site, arrivals, f"{ended} times all connections of a relay terminated")
        site.close()
    assert duplicates(arrivals) <= ended * BATCH


# Stopped


@pytest.mark.parametrize("mode", ["sync", pytest.param("async", marks=pytest.mark.soak)])
def test_relays_that_are_stopped_by_a_signal_repeat_nothing(site: Site, mode: str) -> None:
    dice = random.Random(5)
    writer = site.writer(site.tenant())
    for _ in range(STOPS):
        relay = site.relay(mode=mode, stops=True, batch_size=BATCH, calls_of=dice.choice([1, 5]), pause=0.001)
        site.wait_for_arrivals(dice.randint(1, 30))
        relay.terminate()
    arrivals = finish(site, writer)

    report(site, arrivals, f"{STOPS} stops by a signal")
    assert site.errors() == ""
    assert duplicates(arrivals) == 0


def test_relays_stopped_from_another_thread_repeat_nothing(any_storage: AnyStorage, writer: Writer) -> None:
    dice = random.Random(9)
    broker = Broker()
    for _ in range(12):
        writer.execute(*(f"s/{dice.randrange(7)}" for _ in range(20)))
        enough = len(broker.arrivals) + dice.randint(0, 10)
        with running(quick_relay(any_storage, broker, batch_size=BATCH)):
            wait_for_more(broker, enough)
    relay = quick_relay(any_storage, broker)
    relay.drain()

    check_all_arrived(any_storage, [writer.tenant], broker.arrivals)
    assert duplicates(broker.arrivals) == 0


def wait_for_more(broker: Broker, enough: int) -> None:
    wait_until(lambda: len(broker.arrivals) > enough)


SIGNALLED = """
import signal
from actionengine import InMemoryStorage
from actionengine.events.relay.relay import Relay
from tests.events.relay_publishers import Broker
from tests.events.relay_work import Writer

storage = InMemoryStorage()
writer = Writer(storage)
for number in range(30):
    writer.execute(*(f"s/{number}/{subject}" for subject in range(100)))
broker = Broker(batch_size=10_000)
broker.outage = "refuse"
relay = Relay(storage, broker, batch_size=10_000)
signal.signal(signal.SIGALRM, lambda *_: relay.stop())
for milliseconds in range(1, 40, 4):
    signal.setitimer(signal.ITIMER_REAL, milliseconds / 1000)
    relay.run()
"""


def test_a_signal_handler_may_stop_a_relay_at_any_point() -> None:
    process = subprocess.Popen([sys.executable, "-c", SIGNALLED], cwd=ROOT)
    try:
        assert process.wait(120.0) == 0
    finally:
        process.kill()
        process.wait()


def test_a_task_that_is_cancelled_leaves_nothing_taken(any_storage: AnyStorage, writer: Writer) -> None:
    broker = AsyncBroker(batch_size=3)
    cancels = 24

    async def cancel_often() -> None:
        for number in range(cancels):
            writer.execute(*(f"s/{subject % 7}" for subject in range(8)))
            # Its lease is ten minutes long.
            relay = quick_relay(any_storage, broker, batch_size=BATCH, publish_timeout=600.0)
            task = asyncio.create_task(relay.run_async())
            await asyncio.sleep(number * 0.0005)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            assert await can_be_taken()

    async def can_be_taken() -> bool:
        """Return whether another relay can take the events, long before a lease ends."""
        outbox = any_storage.outbox("async")
        try:
            deadline = time.monotonic() + 60.0
            while (await outbox.status()).pending and not await outbox.take(1000, 30.0):
                if time.monotonic() > deadline:
                    return False
                await asyncio.sleep(0.01)
            return True
        finally:
            await outbox.close()

    async def cancel_and_close() -> None:
        try:
            await cancel_often()
            await quick_relay(any_storage, broker).drain_async()
        finally:
            if not isinstance(any_storage, InMemoryStorage):
                await any_storage.aclose()

    asyncio.run(cancel_and_close())

    count = check_all_arrived(any_storage, [writer.tenant], broker.arrivals)
    kind = type(any_storage).__name__
    print(f"\n{kind}: {cancels} cancelled, {count} events, {duplicates(broker.arrivals)} repeated")
    assert duplicates(broker.arrivals) <= cancels * BATCH


# Many at once

MANY = 8


def deliver_in_threads(relays: list[Relay], is_done: Callable[[], bool]) -> None:
    with running(*relays):
        wait_until(is_done)


def deliver_in_tasks(relays: list[Relay], is_done: Callable[[], bool]) -> None:
    async def run() -> None:
        tasks = [asyncio.create_task(relay.run_async()) for relay in relays]
        deadline = time.monotonic() + 90.0
        while not is_done() and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        for relay in relays:
            relay.stop()
        await asyncio.gather(*tasks)
        storage = relays[0]._storage
        if not isinstance(storage, InMemoryStorage):
            await storage.aclose()  # type: ignore[attr-defined]

    asyncio.run(run())


@pytest.mark.parametrize("deliver", [deliver_in_threads, deliver_in_tasks])
def test_of_many_relays_at_once_each_event_comes_once(
    any_storage: AnyStorage, writer: Writer, deliver: Callable[[list[Relay], Callable[[], bool]], None]
) -> None:
    log: list[Arrival] = []
    lock = threading.Lock()

    def publisher(name: str) -> CallbackPublisher:
        def publish(event: Event) -> None:
            with lock:
                log.append(Arrival(name, event.id, event.subject))

        async def publish_async(event: Event) -> None:
            await asyncio.sleep(0)
            publish(event)

        return CallbackPublisher(publish_async if deliver is deliver_in_tasks else publish, concurrency=3)

    def write() -> None:
        dice = random.Random(1)
        for _ in range(60):
            writer.execute(*(f"s/{dice.randrange(25)}" for _ in range(10)))

    relays = [quick_relay(any_storage, publisher(f"relay {number}"), batch_size=BATCH) for number in range(MANY)]
    writing = threading.Thread(target=write)
    writing.start()
    deliver(relays, lambda: not writing.is_alive() and len(log) >= 600)
    writing.join()

    assert check_all_arrived(any_storage, [writer.tenant], log) == 600
    shares = Counter(arrival.relay for arrival in log)
    print(f"\n{type(any_storage).__name__}: {sorted(shares.values())} of {len(log)} deliveries")
    assert duplicates(log) == 0
    check_order(written(any_storage, writer.tenant), log)


# Asleep


@pytest.fixture
def postgres(fresh_postgres_database: Database) -> Iterator[PostgresStorage]:
    with PostgresStorage(fresh_postgres_database.app_url) as storage:
        yield storage


def relay_asleep(storage: AnyStorage, broker: Broker) -> Relay:
    """Return a relay that polls once an hour."""
    return Relay(storage, broker, poll_interval=3600.0)


def wait_until_somebody_sleeps(url: str, does: bool = True) -> None:
    statement = "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND classid = 1634037602 AND objid = 64"
    with psycopg.connect(url, autocommit=True) as connection:
        wait_until(lambda: connection.execute(statement).fetchone() == (does,))


def test_a_commit_in_another_process_wakes_a_sleeping_relay(site: Site) -> None:
    relay = site.relay(poll_interval=3600.0, stops=True)
    if isinstance(site.storage, PostgresStorage):
        wait_until_somebody_sleeps(site.url)
    else:
        time.sleep(0.5)
    writer = Writer(site.storage, site.tenant())
    for number in range(3):
        ids = writer.emit("s")
        wait_until(lambda number=number: len(site.broker.arrivals()) > number)  # type: ignore[misc]
        time.sleep(0.1 * number)

    relay.terminate()
    assert [arrival.id for arrival in site.broker.arrivals()] == ids


def test_a_commit_in_this_process_wakes_a_sleeping_relay(any_storage: AnyStorage, writer: Writer) -> None:
    broker = Broker()
    with running(relay_asleep(any_storage, broker)):
        for number in range(4):
            time.sleep(0.15)
            writer.execute("s")
            wait_for_more(broker, number)


def test_a_commit_wakes_one_of_several_relays_after_one_died(site: Site) -> None:
    relays = [site.relay(poll_interval=3600.0, stops=True) for _ in range(2)]
    writer = Writer(site.storage, site.tenant())
    while relays:
        time.sleep(0.5)
        before = len(site.broker.arrivals())
        writer.execute("s")
        wait_until(lambda before=before: len(site.broker.arrivals()) > before)  # type: ignore[misc]
        relays.pop().kill()
    assert check_all_arrived(site.storage, site.tenants, site.broker.arrivals()) == 2


def test_a_relay_without_listening_polls_and_never_listens(fresh_postgres_database: Database) -> None:
    url = fresh_postgres_database.app_url
    broker = Broker()
    with PostgresStorage(url, listens=False, application_name="deaf") as storage:
        writer = Writer(storage)
        with running(relay_asleep(storage, broker)), psycopg.connect(url, autocommit=True) as connection:
            time.sleep(0.5)
            writer.execute("s")
            wait_for_more(broker, 0)
            statement = "SELECT query FROM pg_stat_activity WHERE application_name = 'deaf' AND query LIKE 'LISTEN%'"
            assert connection.execute(statement).fetchall() == []


def test_nobody_is_notified_as_long_as_no_relay_sleeps(
    postgres: PostgresStorage, fresh_postgres_database: Database
) -> None:
    url = fresh_postgres_database.app_url
    writer = Writer(postgres)
    with psycopg.connect(url, autocommit=True) as listener:
        listener.execute("LISTEN ae_outbox")
        for _ in range(20):
            writer.execute("s")
        assert list(listener.notifies(timeout=0.3)) == []

        broker = Broker()
        notified = 0
        with running(relay_asleep(postgres, broker)):
            # A writer need not notify at a moment when the relay looks itself.
            for written in range(20, 40):
                wait_until_somebody_sleeps(url)
                writer.execute("s")
                wait_for_more(broker, written)
                if notified := len(list(listener.notifies(timeout=0.3))):
                    break
        assert notified
        # A server keeps the locks of a closed connection for a moment more.
        wait_until_somebody_sleeps(url, False)
        list(listener.notifies(timeout=0.3))

        for _ in range(20):
            writer.execute("s")
        assert list(listener.notifies(timeout=0.3)) == []
