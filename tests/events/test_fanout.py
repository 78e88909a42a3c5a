"""A fanout of several publishers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from actionengine import ConfigurationError
from actionengine.events.event import Event
from actionengine.events.publishers.fanout import Fanout
from actionengine.events.publishers.port import CallbackPublisher, PublishError, PublisherUnavailable
from tests.events.samples import some_events

EVENTS = some_events(7)
IDS = [event.id for event in EVENTS]


class Listener:
    """Keeps its events, and fails as scripted."""

    def __init__(self, **attributes: Any) -> None:
        self.calls: list[list[str]] = []
        self.threads: set[threading.Thread] = set()
        self.failures: dict[str, PublishError] = {}
        self.raises: Exception | None = None
        self.happened: list[str] = []
        vars(self).update(attributes)

    def publish(self, events: Sequence[Event]) -> dict[str, PublishError] | None:
        self.threads.add(threading.current_thread())
        self.calls.append([event.id for event in events])
        if self.raises is not None:
            raise self.raises
        return {event.id: self.failures[event.id] for event in events if event.id in self.failures} or None

    @property
    def got(self) -> list[str]:
        return [id for call in self.calls for id in call]

    def start(self) -> None:
        self.happened.append("start")
        if self.raises is not None:
            raise self.raises

    async def stop(self) -> None:
        self.happened.append("stop")
        if self.raises is not None:
            raise self.raises


class AsyncListener(Listener):
    at_once = 0
    most_at_once = 0

    async def publish(self, events: Sequence[Event]) -> dict[str, PublishError] | None:  # type: ignore[override]
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        for _ in range(5):
            await asyncio.sleep(0)
        self.at_once -= 1
        return super().publish(events)


def test_each_event_goes_to_all_publishers() -> None:
    listeners = [Listener(), AsyncListener()]

    assert asyncio.run(Fanout(*listeners).publish(EVENTS)) == {}

    assert [listener.got for listener in listeners] == [IDS, IDS]


def test_a_def_runs_in_a_thread_and_an_async_def_in_the_loop() -> None:
    listeners = [Listener(), AsyncListener()]

    asyncio.run(Fanout(*listeners).publish(EVENTS))

    assert listeners[0].threads.isdisjoint({threading.main_thread()})
    assert listeners[1].threads == {threading.main_thread()}


def test_a_retry_skips_the_publishers_that_have_the_event() -> None:
    fine, failing = Listener(), Listener(failures={IDS[2]: PublishError("not this one")})
    fanout = Fanout(fine, failing)

    failures = asyncio.run(fanout.publish(EVENTS))
    failing.failures.clear()
    again = asyncio.run(fanout.publish([EVENTS[2]]))

    assert {id: str(failure) for id, failure in failures.items()} == {IDS[2]: "not this one"}
    assert again == {}
    assert fine.got == IDS
    assert failing.got == [*IDS, IDS[2]]


def test_what_was_delivered_to_all_is_not_remembered() -> None:
    listeners = [Listener(), Listener()]
    fanout = Fanout(*listeners)

    for _ in range(2):
        asyncio.run(fanout.publish(EVENTS))

    assert [listener.got for listener in listeners] == [IDS * 2] * 2


def test_the_memory_is_bounded() -> None:
    fine, failing = Listener(), Listener(raises=PublisherUnavailable("gone"))
    fanout = Fanout(fine, failing, remember=3)

    for events in (EVENTS, EVENTS[4:]):
        with pytest.raises(PublisherUnavailable):
            asyncio.run(fanout.publish(events))
    assert fine.got == IDS

    with pytest.raises(PublisherUnavailable):
        asyncio.run(fanout.publish(EVENTS[:1]))
    assert fine.got == [*IDS, IDS[0]]


def test_a_publisher_that_raises_for_a_batch_gets_single_events() -> None:
    class Choosy(Listener):
        def publish(self, events: Sequence[Event]) -> None:
            super().publish(events)
            if any(event.id == IDS[3] for event in events):
                raise ZeroDivisionError("no")

    choosy, fine = Choosy(), Listener()

    failures = asyncio.run(Fanout(choosy, fine).publish(EVENTS))

    assert {id: str(failure) for id, failure in failures.items()} == {IDS[3]: "ZeroDivisionError: no"}
    assert choosy.calls == [IDS, *([id] for id in IDS)]


def test_several_failures_of_an_event_are_told_together() -> None:
    def told(*failures: PublishError) -> PublishError:
        listeners = [Listener(failures={IDS[0]: failure}) for failure in failures]
        return asyncio.run(Fanout(*listeners, Listener()).publish(EVENTS[:1]))[IDS[0]]

    final, hopeful, away = PublishError("never", retry=False), PublishError("later"), PublisherUnavailable("away")

    assert (str(told(final, final)), told(final, final).retry) == ("never; never", False)
    assert (str(told(final, hopeful)), told(final, hopeful).retry) == ("never; later", True)
    assert told(final) is final
    with pytest.raises(PublisherUnavailable, match="never; away"):
        told(final, away)


def test_where_nothing_goes_through_the_relay_is_told_to_wait() -> None:
    lost = Listener(raises=ConnectionRefusedError("nobody there"))
    fine = Listener()

    with pytest.raises(PublisherUnavailable, match="nobody there"):
        asyncio.run(Fanout(lost, fine).publish(EVENTS))
    lost.raises = None
    assert not asyncio.run(Fanout(lost, fine).publish(EVENTS))


def test_a_partial_outage_is_reported_event_by_event() -> None:
    away = Listener(failures={IDS[0]: PublisherUnavailable("not that one")})

    failures = asyncio.run(Fanout(away, Listener()).publish(EVENTS))

    assert list(failures) == IDS[:1]
    assert isinstance(failures[IDS[0]], PublisherUnavailable)


def test_each_publisher_has_its_own_batch_size_and_concurrency() -> None:
    singles = AsyncListener(batch_size=1, concurrency=3)
    threes = AsyncListener(batch_size=3)
    fanout = Fanout(singles, threes)

    async def main() -> None:
        await asyncio.gather(fanout.publish(EVENTS), fanout.publish(some_events(7)))

    asyncio.run(main())

    assert (fanout.batch_size, fanout.concurrency) == (3, 3)
    assert (singles.most_at_once, threes.most_at_once) == (3, 1)
    assert {len(call) for call in singles.calls} == {1}
    assert sorted(len(call) for call in threes.calls) == [1, 1, 3, 3, 3, 3]


def test_it_can_go_on_under_another_event_loop() -> None:
    listener = AsyncListener(batch_size=1)
    fanout = Fanout(listener)

    for _ in range(2):
        asyncio.run(fanout.publish(EVENTS))

    assert listener.got == IDS * 2


def test_a_hanging_publisher_does_not_hold_up_the_others() -> None:
    class Hanging(Listener):
        async def publish(self, events: Sequence[Event]) -> None:  # type: ignore[override]
            await asyncio.sleep(60)

    fine = Listener()
    fanout = Fanout(fine, Hanging())

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(fanout.publish(EVENTS), 0.4)

    asyncio.run(main())

    assert fine.got == IDS


def test_publishers_are_started_again_after_an_outage() -> None:
    steady, shaky, plain = Listener(), Listener(), CallbackPublisher(lambda event: None)
    fanout = Fanout(steady, shaky, plain)

    async def main() -> None:
        await fanout.start()
        await fanout.start()
        shaky.raises = PublisherUnavailable("gone")
        with pytest.raises(PublisherUnavailable):
            await fanout.publish(EVENTS)
        with pytest.raises(PublisherUnavailable):
            await fanout.start()
        shaky.raises = None
        await fanout.start()
        await fanout.stop()

    asyncio.run(main())

    assert steady.happened == ["start", "stop"]
    assert shaky.happened == ["start", "start", "start", "stop"]


def test_all_are_stopped_though_one_fails_to() -> None:
    listeners = [Listener(raises=ZeroDivisionError()), Listener()]

    with pytest.raises(ZeroDivisionError):
        asyncio.run(Fanout(*listeners).stop())

    assert [listener.happened for listener in listeners] == [["stop"], ["stop"]]


def test_what_is_no_publisher_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="needs one publisher or more"):
        Fanout()
    with pytest.raises(ConfigurationError, match=r"has no publish\(events\)"):
        Fanout(print)  # type: ignore[arg-type]
