"""A `BaseException` of a publisher counts against its event, and ends no thread or event loop of the library."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from returns.result import Success

from actionengine import Actor, Fanout, InMemoryStorage, Relay, RequestContext, create_action, create_service
from actionengine import create_engine as engine_of
from actionengine.durable.watched import start_watched
from actionengine.events.event import Event
from tests.waiting import wait_until

NUMBER = 3


class Odd(BaseException):
    """A `BaseException` of a host's library."""


ERRORS: dict[str, Callable[[], BaseException]] = {
    "odd": Odd,
    "exit": lambda: SystemExit(3),
    "interrupt": KeyboardInterrupt,
    "cancelled": asyncio.CancelledError,
    "generator": GeneratorExit,
}


class Escaping:
    """A publisher that raises at its first calls, and takes events afterwards."""

    def __init__(self, error: Callable[[], BaseException]) -> None:
        self.error = error
        self.calls = 0
        self.got: list[str] = []

    def publish(self, events: Sequence[Event]) -> None:
        self.calls += 1
        if self.calls <= 2:
            raise self.error()
        self.got += [event.id for event in events]


class AsyncEscaping(Escaping):
    async def publish(self, events: Sequence[Event]) -> None:  # type: ignore[override]
        super().publish(events)


class Starting(Escaping):
    """A publisher that raises in `start`."""

    def start(self) -> None:
        super().publish(())


class Ending(Escaping):
    """A publisher that ends its event loop, in which it has opened something: during a call, and after one."""

    batch_size = 1
    loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        self.loop = asyncio.get_running_loop()

    async def publish(self, events: Sequence[Event]) -> None:  # type: ignore[override]
        assert asyncio.get_running_loop() is self.loop
        self.calls += 1
        if self.calls == 1:
            self.loop.stop()
            await asyncio.sleep(60)
        self.got += [event.id for event in events]
        if self.calls == 2:
            self.loop.call_later(0.01, self.loop.stop)


def a_storage() -> InMemoryStorage:
    """Return a storage with this number of events to deliver."""
    storage = InMemoryStorage()
    tell = create_action(name="tell", description="", handler=lambda data: Success(None))
    engine = engine_of(services=[create_service(name="host", description="", actions=[tell])], storage=storage)
    tenant = storage.create_tenant(slug="acme", name="Acme")
    for _ in range(NUMBER):
        engine.execute_action("host", "tell", {}, RequestContext(tenant, Actor.system("ops"))).unwrap()
    return storage


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "fanout"])
@pytest.mark.parametrize("kind", [Escaping, AsyncEscaping, Starting])
@pytest.mark.parametrize("error", ERRORS)
def test_a_relay_goes_on_whatever_its_publisher_raises(error: str, kind: Any, beside: bool) -> None:
    escaping, other = kind(ERRORS[error]), Escaping(Odd)
    other.calls = 2
    relay = Relay(a_storage(), Fanout(escaping, other) if beside else escaping, first_backoff=0.01, poll_interval=0.05)
    thread = threading.Thread(target=relay.run)
    thread.start()
    try:
        wait_until(lambda: len(escaping.got) == NUMBER and (not beside or len(other.got) == NUMBER))
        assert thread.is_alive()
    finally:
        relay.stop()
        thread.join()


@pytest.mark.parametrize("error", ["odd", "exit", "cancelled", "generator"])
def test_an_async_relay_survives_whatever_its_publisher_raises(error: str) -> None:
    publisher = AsyncEscaping(ERRORS[error])
    relay = Relay(a_storage(), publisher, first_backoff=0.01, poll_interval=0.05)

    async def main() -> None:
        task = asyncio.ensure_future(relay.run_async())
        while len(publisher.got) < NUMBER and not task.done():
            await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())
    assert len(publisher.got) == NUMBER


def test_a_publisher_that_ended_its_event_loop_gets_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actionengine.concurrency.background_loop.CHECK_INTERVAL", 0.05)
    publisher = Ending(Odd)
    relay = Relay(a_storage(), publisher, poll_interval=0.05)
    thread = threading.Thread(target=relay.run)
    thread.start()
    try:
        wait_until(lambda: len(publisher.got) == NUMBER)
    finally:
        relay.stop()
        thread.join()


def test_a_watched_thread_goes_on_whatever_its_work_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actionengine.durable.watched._MIN_RETRY_INTERVAL", 0.001)
    raised = list(ERRORS.values())

    def work() -> None:
        if raised:
            raise raised.pop()()

    start_watched(work, "watched", threading.Event(), without="nothing is done").join(30)
    assert raised == []
