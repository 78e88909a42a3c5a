"""Publishers that treat an event as its payload says, and record their calls."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Mapping, Sequence

from actionengine.events.event import Event
from actionengine.events.publishers.port import PublishError, PublisherUnavailable
from tests.events.relay_work import Arrival, trouble_of


class Broker:
    """Takes events one at a time, or several in a call; in this process.

    An event with `trouble` is poison: "refuse" raises for it, "for ever" with `retry=False`; "hang" does not answer;
    "batch" raises for the whole call; "partly" names it in the failures. `cure` heals it. With `outage` the broker
    takes nothing: "refuse" raises a `ConnectionError`, "unavailable" says so, "hang" does not answer.
    """

    def __init__(self, batch_size: int = 1, concurrency: int = 1, name: str = "a broker") -> None:
        self.batch_size = batch_size
        self.concurrency = concurrency
        self.name = name
        self.outage = ""
        self.arrivals: list[Arrival] = []
        self.calls: Counter[str] = Counter()
        self._cured: set[str] = set()
        self._released = threading.Event()

    def publish(self, events: Sequence[Event]) -> Mapping[str, PublishError]:
        assert len({(event.tenant_id, event.subject or event.id) for event in events}) == len(events)
        assert len(events) <= self.batch_size
        self.calls.update(event.id for event in events)
        self._be_out()
        failures: dict[str, PublishError] = {}
        for event in events:
            trouble = "" if event.id in self._cured else trouble_of(event)
            if trouble == "hang":
                self._released.wait(60.0)
            elif trouble == "refuse":
                raise ValueError(f"nobody wants {event.subject}")
            elif trouble == "for ever":
                raise PublishError(f"nobody wants {event.subject}", retry=False)
            elif trouble == "batch":
                raise RuntimeError("something in this call is wrong")
            elif trouble == "partly":
                failures[event.id] = PublishError(f"nobody wants {event.subject}")
        self.arrivals += [Arrival(self.name, event.id, event.subject) for event in events if event.id not in failures]
        return failures

    def cure(self, id: str) -> None:
        """Make an event harmless."""
        self._cured.add(id)

    def release(self) -> None:
        """End the calls that hang."""
        self._released.set()

    def ids(self, subject: str | None = None) -> list[str]:
        """Return the ids that have arrived, of a subject or of all."""
        return [arrival.id for arrival in list(self.arrivals) if subject is None or arrival.subject == subject]

    def _be_out(self) -> None:
        if self.outage == "refuse":
            raise ConnectionRefusedError("nobody is at home")
        if self.outage == "unavailable":
            raise PublisherUnavailable("come back later")
        if self.outage == "hang":
            self._released.wait(60.0)
            raise ConnectionResetError("gone meanwhile")


class AsyncBroker(Broker):
    """A broker with an `async def publish`."""

    async def publish(self, events: Sequence[Event]) -> Mapping[str, PublishError]:  # type: ignore[override]
        hangs = self.outage == "hang" or any(
            trouble_of(event) == "hang" and event.id not in self._cured for event in events
        )
        if hangs:
            self.calls.update(event.id for event in events)
            await asyncio.sleep(60.0)
        await asyncio.sleep(0)
        return super().publish(events)
