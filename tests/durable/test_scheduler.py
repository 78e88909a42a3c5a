"""The scheduler serves each schedule, even if others are broken."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import dbos._queue
import pytest

from actionengine.durable import scheduler as module
from actionengine.durable.client import DurableClient, DurableUnavailable, Enqueued, Schedule
from actionengine.durable.host import DurableFunction, DurableHost
from actionengine.durable.scheduler import Scheduler
from actionengine.durable.watched import start_watched
from tests.clocks import host_clock
from tests.durable.databases import Durable, change, eventually, lines_of

NINE = datetime(2026, 3, 2, 9, tzinfo=UTC)


class Client(DurableClient):
    """A durable engine that records its calls."""

    def __init__(self) -> None:
        self.listed: dict[str, Schedule] = {}
        self.enqueued: list[Enqueued] = []
        self.is_away = False
        self.times_read = 0

    def schedules_mark(self) -> str:
        if self.is_away:
            raise DurableUnavailable("away")
        return str(self.listed)

    def schedules(self) -> list[Schedule]:
        if self.is_away:
            raise DurableUnavailable("away")
        self.times_read += 1
        return list(self.listed.values())

    def enqueue_all(self, orders: object) -> None:
        if self.is_away:
            raise DurableUnavailable("away")
        assert isinstance(orders, list)
        self.enqueued += orders

    def add(self, name: str, cron: str = "* * * * *", zone: str | None = "UTC", context: str = '{"a": 1}') -> None:
        self.listed[name] = Schedule(name, "fire", cron, zone, context, "q")

    def take(self) -> list[tuple[str, str]]:
        """Return the names and times of new executions."""
        taken = [(id.split("-", 2)[1], at) for _, (at, _), _, id in self.enqueued]
        self.enqueued = []
        return taken


class Clock:
    def __init__(self) -> None:
        self.now = NINE

    def __call__(self) -> datetime:
        return self.now


class Shift:
    """A scheduler, its clock, and its steps."""

    def __init__(self) -> None:
        self.client = Client()
        self.clock = Clock()
        self.scheduler = Scheduler(self.client, self.clock)

    def after(self, seconds: float) -> list[tuple[str, str]]:
        self.clock.now += timedelta(seconds=seconds)
        self.scheduler.read()
        self.scheduler.enqueue_due()
        return self.client.take()


@pytest.fixture
def shift() -> Shift:
    return Shift()


def at(minute: int, hour: int = 9, offset: str = "+00:00") -> str:
    return f"2026-03-02T{hour:02}:{minute:02}:00{offset}"


def test_each_time_from_now_on_is_enqueued_once(shift: Shift) -> None:
    shift.client.add("a")
    shift.client.add("b", "30 10 * * *", "Europe/Berlin")

    assert shift.after(0) == []
    assert shift.after(61) == [("a", at(1))]
    assert shift.after(0) == []
    assert shift.after(28 * 60) == [("a", at(minute)) for minute in range(2, 30)]
    assert shift.after(60) == [("a", at(30)), ("b", at(30, 10, "+01:00"))]


def test_the_order_names_the_function_its_queue_and_the_context(shift: Shift) -> None:
    shift.client.add("a")
    shift.scheduler.read()
    shift.clock.now += timedelta(minutes=1)
    shift.scheduler.enqueue_due()

    assert shift.client.enqueued == [Enqueued("fire", (at(1), {"a": 1}), "q", f"sched-a-{at(1)}")]


@pytest.mark.parametrize(
    ("cron", "zone", "context"),
    [
        ("* * * * *", "Mars/Base", "{}"),
        ("* * * * *", "/etc/passwd", "{}"),
        ("* * * * *", "", "{}"),
        ("every day", "UTC", "{}"),
        ("0 0 30 2 *", "UTC", "{}"),
        ("", "UTC", "{}"),
        ("* * * * *", "UTC", "no JSON"),
        ("* * * * *", "UTC", "gASVBQAAAAAAAACMAWGULg=="),
    ],
)
def test_a_schedule_that_cannot_be_read_holds_up_no_other_one(
    shift: Shift, caplog: pytest.LogCaptureFixture, cron: str, zone: str, context: str
) -> None:
    for number in range(3):
        shift.client.add(f"bad{number}", cron, zone, context)
        shift.client.add(f"good{number}")

    shift.after(0)
    with caplog.at_level(logging.ERROR):
        seen = [shift.after(60) for _ in range(5)]

    expected = [[(f"good{number}", at(minute)) for number in range(3)] for minute in range(1, 6)]
    assert [[each for each in some if each[0].startswith("good")] for some in seen] == expected
    assert not any(name.startswith("bad") for some in seen for name, _ in some)
    said = [record for record in caplog.records if "this process does not serve the schedule" in record.message]
    assert len(said) <= 3


def test_what_was_put_aside_is_tried_again(
    shift: Shift, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known: set[str] = set()

    def zone(name: str) -> ZoneInfo:
        if name not in known:
            raise ZoneInfoNotFoundError(f"No time zone found with key {name}")
        return ZoneInfo("UTC")

    monkeypatch.setattr(module, "ZoneInfo", zone)
    for number in range(4):
        shift.client.add(f"s{number}", zone="Europe/Berlin")
    assert shift.after(0) == shift.after(60) == []
    assert caplog.text.count("No time zone found") == 1, "one reason is logged once in a while"

    known.add("Europe/Berlin")
    assert shift.after(60) == [], "it is not asked at each look"
    monkeypatch.setattr(module, "_AGAIN", 0.0)
    shift.scheduler._aside = {name: (schedule, 0.0) for name, (schedule, _) in shift.scheduler._aside.items()}
    shift.after(0)
    assert len(shift.after(60)) == 4


def test_a_schedule_that_is_changed_or_removed_is_served_no_more(shift: Shift) -> None:
    shift.client.add("a")
    shift.client.add("b")
    shift.client.add("c", zone="Mars/Base")
    shift.after(0)
    shift.client.add("a", "*/5 * * * *")
    del shift.client.listed["b"]
    shift.client.add("c")

    assert shift.after(0) == shift.after(0) == []
    assert shift.after(60) == [("c", at(1))]
    assert sorted(shift.after(240)) == [("a", at(5)), *(("c", at(minute)) for minute in (2, 3, 4, 5))]
    shift.client.listed.clear()
    assert shift.after(600) == []


def test_times_during_an_outage_are_enqueued_afterwards(shift: Shift) -> None:
    shift.client.add("a")
    shift.after(0)
    shift.client.is_away = True
    shift.clock.now += timedelta(minutes=3)
    for _ in range(2):
        with pytest.raises(DurableUnavailable):
            shift.scheduler.enqueue_due()
    shift.client.is_away = False

    assert shift.after(0) == [("a", at(minute)) for minute in (1, 2, 3)]


def test_a_clock_that_is_set_back_stops_nothing(shift: Shift) -> None:
    shift.client.add("a")
    shift.after(0)
    assert shift.after(60) == [("a", at(1))]

    assert shift.after(-3600) == []
    assert shift.after(60) == [("a", at(2, 8))]


@pytest.mark.parametrize("skew", [-7200.0, -90.0, 90.0, 7200.0])
def test_the_next_time_is_by_the_clock_of_the_database(file_database: Durable, skew: float) -> None:
    client = DurableClient(file_database.url)
    client.schedule("a", "fire", "* * * * * *", timezone=None, context={}, queue="q")
    before = datetime.now(UTC)
    with host_clock(skew):
        scheduler = Scheduler(client)
        scheduler.read()
        [(at, _, _)] = scheduler._coming
    client.close()

    assert before - timedelta(seconds=2) <= at <= datetime.now(UTC) + timedelta(seconds=2)


def test_many_that_are_due_at_once_are_enqueued_in_their_order(shift: Shift) -> None:
    for number in range(1100):
        shift.client.add(f"s{number:04}")
    shift.after(0)

    assert shift.after(120) == [(f"s{number:04}", at(minute)) for minute in (1, 2) for number in range(1100)]


def test_schedules_that_change_all_the_time_leave_nothing_behind(shift: Shift) -> None:
    for minute in range(1500):
        shift.client.add("a", f"{minute % 60} {minute % 24} 1 1 *")
        shift.scheduler.read()

    assert len(shift.scheduler._coming) < 1000


def test_schedules_are_read_when_one_has_changed(shift: Shift) -> None:
    shift.client.add("a")
    assert [shift.after(60) for _ in range(5)][1:] == [[("a", at(minute))] for minute in (2, 3, 4, 5)]
    assert shift.client.times_read == 1

    shift.client.add("b")
    shift.after(0)
    assert shift.after(60) == [("a", at(6)), ("b", at(6))]
    assert shift.client.times_read == 2
    shift.scheduler._read_all_at -= module._AGAIN
    shift.after(0)
    assert shift.client.times_read == 3


def test_slow_schedules_are_not_read_at_each_change(shift: Shift) -> None:
    shift.after(0)
    shift.scheduler._read_all_took = 3600.0
    for number in range(5):
        shift.client.add(f"s{number}")
        assert shift.after(60) == []
    assert shift.client.times_read == 1

    shift.scheduler._read_all_at -= module._SHARE * 3600.0
    shift.after(0)
    assert len(shift.after(60)) == 5


def test_each_change_of_a_schedule_is_seen(file_database: Durable) -> None:
    client, other = DurableClient(file_database.url), DurableClient(file_database.url)
    marks = [other.schedules_mark()]
    for minute in range(2):
        client.schedule("a", "fire", f"{minute} * * * *", timezone=None, context={}, queue="q")
        marks.append(other.schedules_mark())
    client.unschedule("a")
    marks.append(other.schedules_mark())
    client.unschedule("a")

    assert len(set(marks)) == 4
    assert other.schedules_mark() == marks[-1], "nothing was removed"
    assert other.schedules() == []
    client.close()
    other.close()


def test_a_thread_that_fails_begins_again_until_it_is_stopped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("actionengine.durable.watched._MIN_RETRY_INTERVAL", 0.001)
    calls, stopping = [], threading.Event()

    def work() -> None:
        calls.append(threading.current_thread().name)
        if len(calls) == 3:
            return
        raise DurableUnavailable("away") if len(calls) == 1 else KeyError("a")

    thread = start_watched(work, "watched", stopping, without="nothing is done")
    thread.join(30)
    assert calls == ["watched"] * 3
    assert "nothing is done: away; the next attempt is in 0.0 s" in caplog.text
    assert "nothing is done: KeyError: 'a'" in caplog.text

    stopping.set()
    start_watched(work, "watched", stopping, without="nothing is done").join(30)
    assert len(calls) == 3


def test_a_host_serves_each_of_its_schedules_and_all_else(
    file_database: Durable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lines"

    def fire(at: str, context: str) -> None:
        with path.open("a") as file:
            file.write(f"{context}\n")

    client = DurableClient(file_database.url)
    options = {"context": "good", "queue": "q"}
    client.schedule("a", "fire", "* * * * * *", timezone="Mars/Base", **options)
    client.schedule("b", "fire", "never", timezone=None, **options)
    client.schedule("c", "fire", "* * * * * *", timezone=None, context="undecodable", queue="q")
    change(
        file_database, "UPDATE workflow_schedules SET context = 'gASVBQAAAAAAAACMAWGULg==' WHERE schedule_name = 'c'"
    )
    client.enqueue("unknown here", queue="q", id="unknown")
    client.enqueue("fire", at(1), "undecodable", queue="q", id="undecodable")
    change(file_database, "UPDATE workflow_input SET inputs = 'no JSON' WHERE workflow_uuid = 'undecodable'")
    log_queues, failed = dbos._queue.log_queues, Event()

    def fail_once(*arguments: Any) -> None:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("can't start new thread")
        log_queues(*arguments)

    monkeypatch.setattr(dbos._queue, "log_queues", fail_once)
    with DurableHost(file_database.url, [DurableFunction("fire", fire, "q")], lease=1.0, poll_interval=0.05):
        client.schedule("d", "fire", "* * * * * *", timezone="Europe/Berlin", **options)
        assert eventually(lambda: lines_of(path)[:2] == ["good"] * 2)
        assert failed.is_set()

        for name in "abcd":
            client.unschedule(name)
        assert client.schedules() == []
    client.close()
