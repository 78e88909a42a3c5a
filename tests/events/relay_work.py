"""Writers for the tests that try to break relays, and the log of a broker."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from returns.result import Result, Success

from actionengine import (
    ActionContext,
    Actor,
    Engine,
    Relay,
    RequestContext,
    Tenant,
    create_action,
    create_engine,
    create_service,
)
from actionengine.events.event import Event
from actionengine.testing.base import value_of
from tests.backends import AnyStorage

PAGE = 1000


class Emission(NamedTuple):
    """An event for a writer to emit; `trouble` says how a publisher treats it."""

    subject: str | None
    trouble: str = ""


class Arrival(NamedTuple):
    """An event that a relay has delivered to a broker."""

    relay: str
    id: str
    subject: str | None


def writing_engine(storage: AnyStorage) -> Engine:
    """Return an engine with `work.emit` and, for event loops, `work.emit_async`, which take lists of emissions."""

    def emit(data: list[Any], ctx: ActionContext) -> Result[None, Any]:
        for subject, trouble in data:
            ctx.emit("work.done", {"trouble": trouble}, subject)
        return Success(None)

    async def emit_async(data: list[Any], ctx: ActionContext) -> Result[None, Any]:
        return emit(data, ctx)

    actions = [
        create_action(name="emit", description="Emit events", handler=emit),
        create_action(name="emit_async", description="Emit events", handler=emit_async),
    ]
    return create_engine(services=[create_service(name="work", description="Work", actions=actions)], storage=storage)


def as_writer(tenant: Tenant) -> RequestContext:
    return RequestContext(tenant=tenant, actor=Actor.integration("a writer"))


def new_tenant(storage: AnyStorage) -> Tenant:
    return storage.create_tenant(slug=f"t-{uuid4().hex}", name="A tenant")


class Writer:
    """Emits for one tenant, in the thread of the caller."""

    def __init__(self, storage: AnyStorage, tenant: Tenant | None = None) -> None:
        self.storage = storage
        self.tenant = tenant or new_tenant(storage)
        self._engine = writing_engine(storage)

    def emit(self, *emissions: Emission | str | None) -> list[str]:
        """Emit events in one action, and return all ids of the tenant's events that are there from now on."""
        self.execute(*emissions)
        return [id for id, _ in written(self.storage, self.tenant)]

    def execute(self, *emissions: Emission | str | None) -> None:
        """Emit events in one action. Fails unless that succeeds."""
        value_of(self.try_to_emit(*emissions))

    def try_to_emit(self, *emissions: Emission | str | None) -> Result[Any, Any]:
        """Emit events in one action."""
        data = [list(each if isinstance(each, Emission) else Emission(each)) for each in emissions]
        return self._engine.execute_action("work", "emit", data, as_writer(self.tenant))


def written(storage: AnyStorage, tenant: Tenant) -> list[tuple[str, str | None]]:
    """Return id and subject of all events of a tenant, in the order of their positions."""
    found: list[tuple[str, str | None]] = []
    after = 0
    while page := storage.read_events(tenant, after=after, limit=PAGE):
        found += [(stored.event.id, stored.event.subject) for stored in page]
        after = page[-1].position
    return found


@contextmanager
def running(*relays: Relay, is_async: bool = False) -> Iterator[None]:
    """Run relays in threads during the block, each under an event loop of its own if it is async."""
    errors: list[BaseException] = []

    async def run_async(relay: Relay) -> None:
        try:
            await relay.run_async()
        finally:
            close = getattr(relay._storage, "aclose_loop", None)
            if close is not None:
                await close()

    def run(relay: Relay) -> None:
        try:
            asyncio.run(run_async(relay)) if is_async else relay.run()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(relay,), daemon=True) for relay in relays]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for relay, thread in zip(relays, threads, strict=True):
            # Once: a stop during the end of a run counts for the next run.
            relay.stop()
            thread.join(60.0)
    assert not any(thread.is_alive() for thread in threads)
    assert errors == []


def trouble_of(event: Event) -> str:
    return str(event.payload["trouble"])


class BrokerLog:
    """A broker that keeps everything: a file to which each relay appends its deliveries.

    The lines of a killed relay stay. An incomplete line is no delivery.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def opened(self) -> int:
        """Return a file descriptor for `append`."""
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @staticmethod
    def append(file: int, relay: str, event: Event) -> None:
        os.write(file, b"\n" + json.dumps([relay, event.id, event.subject]).encode() + b"\n")

    def arrivals(self) -> list[Arrival]:
        """Return all deliveries, in their order."""
        found = []
        for line in self.path.read_bytes().splitlines() if self.path.exists() else []:
            try:
                found.append(Arrival(*json.loads(line)))
            except ValueError:
                continue
        return found


def duplicates(arrivals: Iterable[Arrival]) -> int:
    """Return the number of repeated deliveries."""
    return sum(count - 1 for count in Counter(arrival.id for arrival in arrivals).values())


def first_arrivals(arrivals: Iterable[Arrival]) -> list[str]:
    """Return the ids of the events, in the order of their first arrivals."""
    return list(dict.fromkeys(arrival.id for arrival in arrivals))


def check_order(events: Sequence[tuple[str, str | None]], arrivals: Sequence[Arrival]) -> None:
    """Check that the arrivals of each subject are a prefix of its events."""
    subject_of = dict(events)
    expected: Mapping[str | None, list[str]] = defaultdict(list)
    for id, subject in events:
        expected[subject].append(id)
    arrived: Mapping[str | None, list[str]] = defaultdict(list)
    for id in first_arrivals(arrivals):
        if id in subject_of:
            arrived[subject_of[id]].append(id)
    for subject, ids in arrived.items():
        if subject is not None:
            assert ids == expected[subject][: len(ids)], f"the events of {subject} came out of order"


def check_all_arrived(storage: AnyStorage, tenants: Iterable[Tenant], arrivals: Sequence[Arrival]) -> int:
    """Check that all events have arrived, in order per subject, and no others. Return their number."""
    known: set[str] = set()
    for tenant in tenants:
        events = written(storage, tenant)
        known |= {id for id, _ in events}
        missing = {id for id, _ in events} - {arrival.id for arrival in arrivals}
        assert not missing, f"{len(missing)} of {len(events)} events are lost"
        check_order(events, arrivals)
    assert {arrival.id for arrival in arrivals} <= known
    return len(known)
