"""The relay as a host uses it, on every storage and in both modes."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from returns.result import Failure, Success

from actionengine import (
    ActionError,
    CallbackPublisher,
    ConfigurationError,
    ErrorCode,
    Event,
    InMemoryStorage,
    PublishError,
    PublisherUnavailable,
    Relay,
    create_event_type,
)
from actionengine.testing import Backend
from tests.events.harness import Harness
from tests.events.relay_work import running
from tests.waiting import wait_until


@pytest.fixture
def harness(fresh_backend: Backend) -> Harness:
    return Harness(fresh_backend)


def test_an_event_arrives_with_everything_that_is_known_of_it(harness: Harness) -> None:
    arrived: list[Event] = []
    harness.tell("jobs/1", colour="grün")

    assert harness.drain(harness.relay(CallbackPublisher(arrived.append))) == 1

    (event,) = arrived
    assert (event.type, event.subject, event.version) == ("told", "jobs/1", 1)
    assert event.payload == {"number": 0, "subject": "jobs/1", "colour": "grün"}
    assert (event.tenant_id, event.actor_type, event.actor_id) == (harness.tenant.id, "human", "ann")
    assert event.action == "desk.tell"
    (stored,) = harness.backend.run(harness.backend.read_events(harness.tenant))
    assert (stored.event.id, stored.position) == (event.id, event.position)


def test_what_was_delivered_is_not_delivered_again(harness: Harness) -> None:
    arrived: list[Event] = []
    relay = harness.relay(CallbackPublisher(arrived.append))
    harness.tell("jobs/1", number=5)

    assert [harness.drain(relay), harness.drain(relay)] == [5, 0]
    assert [event.payload["number"] for event in arrived] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_callback_is_a_def_or_an_async_def(harness: Harness, is_async: bool) -> None:
    arrived: list[str] = []

    async def asynchronous(event: Event) -> None:
        await asyncio.sleep(0)
        arrived.append(event.id)

    def synchronous(event: Event) -> None:
        arrived.append(event.id)

    harness.tell(number=3)

    assert harness.drain(harness.relay(CallbackPublisher(asynchronous if is_async else synchronous))) == 3
    assert len(arrived) == 3


class Recorder:
    """A publisher that records its calls."""

    def __init__(self, batch_size: int = 100) -> None:
        self.batch_size = batch_size
        self.calls: list[list[Event]] = []
        self.told: list[str] = []

    def start(self) -> None:
        self.told.append("start")

    async def stop(self) -> None:
        self.told.append("stop")

    async def publish(self, events: Sequence[Event]) -> None:
        self.calls.append(list(events))


def test_a_publisher_is_started_first_and_stopped_at_the_end(harness: Harness) -> None:
    recorder = Recorder()
    harness.tell()

    harness.drain(harness.relay(recorder))

    assert recorder.told == ["start", "stop"]


def test_a_call_has_one_event_a_subject_and_at_most_batch_size(harness: Harness) -> None:
    recorder = Recorder(batch_size=4)
    for number in range(20):
        harness.tell(f"jobs/{number % 7}")
    harness.tell(number=3)

    assert harness.drain(harness.relay(recorder)) == 23

    for call in recorder.calls:
        subjects = [event.subject for event in call if event.subject]
        assert len(call) <= 4
        assert len(set(subjects)) == len(subjects)


def test_old_events_of_given_types_are_published_upcast(harness: Harness) -> None:
    told = create_event_type(type="told", version=2, upcasters={1: lambda old: {"count": old["number"]}})
    arrived: list[Event] = []
    harness.tell("jobs/1")

    harness.drain(harness.relay(CallbackPublisher(arrived.append), event_types=[told]))

    assert [(event.version, event.payload) for event in arrived] == [(2, {"count": 0})]


def test_an_event_that_cannot_be_upcast_becomes_a_dead_letter(harness: Harness) -> None:
    told = create_event_type(type="told", version=2, upcasters={1: lambda old: old["nothing of the kind"]})
    harness.tell("jobs/1")
    relay = harness.relay(CallbackPublisher(print), event_types=[told], max_attempts=2)

    harness.drain_until(relay, lambda: relay.status().dead == 1)

    (letter,) = relay.dead_letters()
    assert "the upcaster of told from version 1 raised KeyError" in letter.reason


# Failures


def test_a_poison_event_holds_back_its_own_subject_only(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    arrived: list[tuple[str | None, int]] = []

    def publish(event: Event) -> None:
        if event.subject == "jobs/2" and event.payload["number"] == 1:
            raise ValueError("no broker takes this")
        arrived.append((event.subject, event.payload["number"]))

    for subject in ("jobs/1", "jobs/2", "jobs/3"):
        harness.tell(subject, number=3)
    relay = harness.relay(CallbackPublisher(publish), max_attempts=3)

    with caplog.at_level(logging.ERROR, logger="actionengine"):
        harness.drain_until(relay, lambda: relay.status().dead == 1)

    assert sorted(arrived) == sorted(
        [("jobs/1", 0), ("jobs/1", 1), ("jobs/1", 2), ("jobs/2", 0), ("jobs/3", 0), ("jobs/3", 1), ("jobs/3", 2)]
    )
    (letter,) = relay.dead_letters()
    assert (letter.attempts, letter.reason) == (3, "ValueError: no broker takes this")
    assert letter.event.id in caplog.text
    assert relay.status()[:4] == (1, 0, 1, 0)


def test_a_refusal_for_good_is_not_tried_again(harness: Harness) -> None:
    calls: list[str] = []

    def publish(event: Event) -> None:
        calls.append(event.id)
        raise PublishError("300 KB, and 256 KB is the limit", retry=False)

    harness.tell("jobs/1")
    relay = harness.relay(CallbackPublisher(publish))
    harness.drain(relay)

    (letter,) = relay.dead_letters()
    assert (letter.attempts, letter.reason, len(calls)) == (1, "300 KB, and 256 KB is the limit", 1)


def test_skipping_frees_a_subject_and_a_redrive_comes_first(harness: Harness) -> None:
    arrived: list[int] = []
    is_mended = False

    def publish(event: Event) -> None:
        if event.payload["number"] < 2 and not is_mended:
            raise PublishError("no", retry=False)
        arrived.append(event.payload["number"])

    harness.tell("jobs/1", number=4)
    relay = harness.relay(CallbackPublisher(publish))
    harness.drain(relay)
    (first,) = relay.dead_letters()
    assert relay.skip([first.event.id], "nobody needs it") == 1
    harness.drain(relay)
    assert arrived == []

    is_mended = True
    assert relay.redrive() == 1
    harness.drain(relay)

    assert arrived == [1, 2, 3]
    (skipped,) = relay.dead_letters()
    assert skipped.skipped
    assert skipped.reason == "no; skipped: nobody needs it"
    assert relay.redrive(first.event.id) == 1
    harness.drain(relay)
    assert arrived == [1, 2, 3, 0]


def test_a_failure_of_a_batch_is_found_to_be_that_of_one_event(harness: Harness) -> None:
    arrived: set[str] = set()

    class Batches:
        def publish(self, events: Sequence[Event]) -> None:
            if any(event.subject == "jobs/3" for event in events):
                raise ValueError("one of these is bad")
            arrived.update(event.subject or "" for event in events)

    for number in range(6):
        harness.tell(f"jobs/{number}")
    relay = harness.relay(Batches(), max_attempts=1)
    harness.drain(relay)

    assert arrived == {"jobs/0", "jobs/1", "jobs/2", "jobs/4", "jobs/5"}
    assert [letter.event.subject for letter in relay.dead_letters()] == ["jobs/3"]


def test_returned_failures_count_against_their_events(harness: Harness) -> None:
    class Partial:
        def publish(self, events: Sequence[Event]) -> dict[str, PublishError]:
            return {event.id: PublishError("not this one") for event in events if event.subject == "jobs/1"}

    for number in range(3):
        harness.tell(f"jobs/{number}")
    relay = harness.relay(Partial(), max_attempts=1)

    assert harness.drain(relay) == 2
    assert [letter.event.subject for letter in relay.dead_letters()] == ["jobs/1"]


def test_an_outage_counts_against_no_event(harness: Harness) -> None:
    arrived: list[int] = []
    is_out = True

    def publish(event: Event) -> None:
        if is_out:
            raise ConnectionRefusedError("nobody listens")
        arrived.append(event.payload["number"])

    relay = harness.relay(CallbackPublisher(publish), max_attempts=1)
    harness.tell("jobs/1", number=3)
    for _ in range(5):
        with pytest.raises(PublisherUnavailable, match="nobody listens"):
            harness.drain(relay)
    harness.tell("jobs/1", number=3)
    assert relay.status()[:4] == (6, 0, 0, 0)

    is_out = False
    assert harness.drain(relay) == 6
    assert arrived == [0, 1, 2, 0, 1, 2]


def test_one_event_that_hangs_is_found_among_others_and_given_up(harness: Harness) -> None:
    arrived: list[str | None] = []

    class Hanging:
        async def publish(self, events: Sequence[Event]) -> None:
            if any(event.subject == "jobs/hang" for event in events):
                await asyncio.sleep(3600)
            arrived.extend(event.subject for event in events)

    relay = harness.relay(Hanging(), publish_timeout=0.05, max_attempts=2)
    harness.tell("jobs/hang")

    def settled() -> bool:
        harness.tell("jobs/fine")
        return relay.status().dead == 1

    with pytest.raises(PublisherUnavailable, match="did not answer within"):
        harness.drain(relay)
    for _ in range(100):
        with suppress(PublisherUnavailable):
            harness.drain(relay)
        if settled():
            break
        harness.backend.run(harness.backend.sleep(0.03))
    (letter,) = relay.dead_letters()
    assert (letter.event.subject, letter.attempts) == ("jobs/hang", 2)
    assert "did not answer within 0.05 s" in letter.reason
    assert "jobs/fine" in arrived


def test_a_def_that_hangs_is_left_behind(harness: Harness) -> None:
    forever = threading.Event()
    arrived: list[str | None] = []

    def publish(event: Event) -> None:
        if event.subject == "jobs/hang":
            forever.wait()
        arrived.append(event.subject)

    for subject in ("jobs/fine", "jobs/hang", "jobs/good"):
        harness.tell(subject)
    relay = harness.relay(CallbackPublisher(publish), publish_timeout=0.05, max_attempts=1)
    try:
        # Within so short a time, a busy machine makes others late as well.
        while "jobs/hang" not in {letter.event.subject for letter in relay.dead_letters()}:
            harness.tell("jobs/more")
            with suppress(PublisherUnavailable):
                harness.drain(relay)
            harness.backend.run(harness.backend.sleep(0.03))
        assert {"jobs/fine", "jobs/good"} <= set(arrived)
    finally:
        forever.set()


def test_a_publisher_that_answers_nonsense_is_told_so(harness: Harness) -> None:
    class Nonsense:
        def publish(self, events: Sequence[Event]) -> Any:
            return len(events)

    harness.tell("jobs/1")
    relay = harness.relay(Nonsense(), max_attempts=1)
    harness.drain(relay)

    assert "publish() returned a int" in relay.dead_letters()[0].reason


def test_a_publisher_that_cannot_start_is_an_outage(harness: Harness) -> None:
    class NoBroker:
        def start(self) -> None:
            raise OSError("no credentials in sight")

        def publish(self, events: Sequence[Event]) -> None:
            raise AssertionError("it was never started")

    harness.tell()
    with pytest.raises(PublisherUnavailable, match="no credentials in sight"):
        harness.drain(harness.relay(NoBroker()))


def test_a_failure_that_a_callback_returns_is_a_failed_attempt(harness: Harness) -> None:
    answers = iter([Failure(ActionError(ErrorCode.CONFLICT, "somebody else has it")), Success(True)])
    relay = harness.relay(CallbackPublisher(lambda event: next(answers)), first_backoff=0.3, longest_backoff=0.3)
    harness.tell("jobs/1")

    assert harness.drain(relay) == 0
    harness.drain_until(relay, lambda: relay.status().pending == 0)
    assert relay.status().dead == 0


def test_a_permanent_failure_makes_a_dead_letter_immediately(harness: Harness) -> None:
    refusal = Failure(ActionError(ErrorCode.FORBIDDEN, "not for you"))
    relay = harness.relay(CallbackPublisher(lambda event: refusal))
    harness.tell("jobs/1")
    harness.drain(relay)

    assert [letter.reason for letter in relay.dead_letters()] == ["forbidden: not for you"]


def test_what_a_def_returns_to_be_awaited_is_awaited(harness: Harness) -> None:
    arrived: list[str] = []

    async def later(event: Event) -> Any:
        arrived.append(event.id)
        return Failure("no")

    relay = harness.relay(CallbackPublisher(lambda event: later(event)), max_attempts=1)
    harness.tell("jobs/1")

    assert harness.drain(relay) == 0
    assert len(arrived) == 1
    assert relay.status().dead == 1


def test_a_failure_of_what_is_no_event_of_the_call_is_no_success(harness: Harness) -> None:
    class Mistaken:
        def publish(self, events: Sequence[Event]) -> Any:
            return {event: PublishError("no") for event in events}

    relay = harness.relay(Mistaken(), max_attempts=1)
    harness.tell("jobs/1")

    assert harness.drain(relay) == 0
    assert "which is not the id of one of its events" in relay.dead_letters()[0].reason


def test_an_event_that_breaks_the_connection_fails_alone(harness: Harness) -> None:
    arrived: list[str | None] = []

    def publish(event: Event) -> None:
        if event.subject == "jobs/bad":
            raise ConnectionResetError("this is too large for me")
        arrived.append(event.subject)

    harness.tell("jobs/bad")
    for number in range(5):
        harness.tell(f"jobs/{number}")
    relay = harness.relay(CallbackPublisher(publish), max_attempts=2)
    for _ in range(100):
        with suppress(PublisherUnavailable):
            harness.drain(relay)
        if relay.status().dead:
            break
        harness.tell("jobs/more")
        harness.backend.run(harness.backend.sleep(0.01))

    assert {f"jobs/{number}" for number in range(5)} <= set(arrived)
    assert [letter.event.subject for letter in relay.dead_letters()] == ["jobs/bad"]


@pytest.mark.parametrize(
    "worse",
    [lambda old: object(), lambda old: float("nan") / 0, lambda old: old["no"]],
    ids=["no JSON", "a division", "a key"],
)
def test_a_broken_upcaster_holds_up_its_own_subject_only(harness: Harness, worse: Callable[[Any], Any]) -> None:
    told = create_event_type(type="told", version=2, upcasters={1: lambda old: worse(old) if old["bad"] else old})
    arrived: list[str | None] = []
    harness.tell("jobs/bad", bad=True)
    harness.tell("jobs/fine", bad=False)
    publisher = CallbackPublisher(lambda event: arrived.append(event.subject))
    relay = harness.relay(publisher, event_types=[told], max_attempts=1)
    harness.drain(relay)

    assert arrived == ["jobs/fine"]
    assert relay.status().dead == 1


def test_an_error_of_a_kind_of_its_own_does_not_end_the_relay(harness: Harness) -> None:
    class Odd(PublishError):
        def __init__(self) -> None:
            pass

        def __str__(self) -> str:
            raise ValueError("nothing to say")

    def publish(event: Event) -> None:
        raise Odd

    relay = harness.relay(CallbackPublisher(publish), max_attempts=1)
    harness.tell("jobs/1")
    harness.drain(relay)

    assert relay.dead_letters()[0].reason == "its text raised ValueError"


# Running


def test_a_running_relay_delivers_new_events_until_it_is_stopped(harness: Harness) -> None:
    arrived: list[Event] = []
    relay = harness.relay(CallbackPublisher(arrived.append), name="the-only-one")
    with running(relay, is_async=harness.is_async):
        for number in range(5):
            harness.tell_now("jobs/1")
            wait_until(lambda: len(arrived) > number)  # noqa: B023 - it is called at once
        assert [beat.name for beat in relay.status().relays] == ["the-only-one"]
    assert relay.status().pending == 0


def test_a_running_relay_survives_an_outage_and_reports_it(harness: Harness) -> None:
    arrived: list[Event] = []
    tries = 0
    is_out = True

    def publish(event: Event) -> None:
        nonlocal tries
        if is_out:
            tries += 1
            raise PublisherUnavailable("the broker is being moved")
        arrived.append(event)

    harness.tell_now("jobs/1")
    relay = harness.relay(CallbackPublisher(publish))
    with running(relay, is_async=harness.is_async):
        wait_until(lambda: tries >= 2)
        (beat,) = relay.status().relays
        assert beat.error == "PublisherUnavailable: the broker is being moved"
        is_out = False
        wait_until(lambda: len(arrived) == 1)


def test_a_relay_that_was_stopped_before_its_run_ends_at_once(harness: Harness) -> None:
    relay = harness.relay(CallbackPublisher(print))
    relay.stop()
    with running(relay, is_async=harness.is_async):
        pass


def test_a_relay_runs_once_at_a_time(harness: Harness) -> None:
    relay = harness.relay(CallbackPublisher(print), poll_interval=0.05)
    with running(relay, is_async=harness.is_async):
        wait_until(lambda: bool(relay.status().relays))
        with pytest.raises(RuntimeError, match="running already"):
            relay.drain()


def test_the_status_tells_how_much_there_is_and_since_when(harness: Harness) -> None:
    relay = harness.relay(CallbackPublisher(print))
    assert relay.status()[:5] == (0, 0, 0, 0, None)
    harness.tell("jobs/1", number=3)
    (first, *_) = harness.backend.run(harness.backend.read_events(harness.tenant))

    status = relay.status()

    assert (status.pending, status.oldest) == (3, first.event.occurred_at)


# Declarations


def test_something_that_is_no_publisher_is_refused(storage: InMemoryStorage) -> None:
    with pytest.raises(ConfigurationError, match="CallbackPublisher makes one of a function"):
        Relay(storage, print)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["batch_size", "publish_timeout", "max_attempts", "first_backoff", "poll_interval"])
def test_numbers_that_make_no_sense_are_refused(storage: InMemoryStorage, option: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{option} must be above 0, not 0"):
        Relay(storage, CallbackPublisher(print), **{option: 0})  # type: ignore[arg-type]
