"""What writers and relays do in the tests that try to break relays: the action that emits, and the log of a broker."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from returns.result import Result, Success

from actionengine import (
    ActionContext,
    Actor,
    Engine,
    InMemoryStorage,
    PostgresStorage,
    RequestContext,
    SQLiteStorage,
    Tenant,
    create_action,
    create_engine,
    create_service,
)
from actionengine.events.event import Event
from actionengine.testing.base import value_of

AnyStorage = InMemoryStorage | PostgresStorage | SQLiteStorage

PAGE = 1000


class Emission(NamedTuple):
    """An event that a writer is to emit; `trouble` says what a publisher does with it."""

    subject: str | None
    trouble: str = ""


class Arrival(NamedTuple):
    """An event as a broker got it: from which relay."""

    relay: str
    id: str
    subject: str | None


def writing_engine(storage: AnyStorage) -> Engine:
    """An engine with `work.emit` and, for event loops, `work.emit_async`: a list of emissions, as lists."""

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
    """Emits for one tenant, in the thread of whoever calls it."""

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
    """Id and subject of all events of a tenant, in the order of their positions."""
    found: list[tuple[str, str | None]] = []
    after = 0
    while page := storage.read_events(tenant, after=after, limit=PAGE):
        found += [(stored.event.id, stored.event.subject) for stored in page]
        after = page[-1].position
    return found


def trouble_of(event: Event) -> str:
    return str(event.payload["trouble"])


class BrokerLog:
    """A broker that forgets nothing: a file, to which each relay appends what it delivers.

    What was appended outlives a relay that is killed. A line of which only a part was is no delivery.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def opened(self) -> int:
        """A file descriptor for `append`."""
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @staticmethod
    def append(file: int, relay: str, event: Event) -> None:
        os.write(file, b"\n" + json.dumps([relay, event.id, event.subject]).encode() + b"\n")

    def arrivals(self) -> list[Arrival]:
        """All deliveries, in the order in which they came."""
        found = []
        for line in self.path.read_bytes().splitlines() if self.path.exists() else []:
            try:
                found.append(Arrival(*json.loads(line)))
            except ValueError:
                continue
        return found


def duplicates(arrivals: Iterable[Arrival]) -> int:
    """How many deliveries were not the first ones of their events."""
    return sum(count - 1 for count in Counter(arrival.id for arrival in arrivals).values())


def first_arrivals(arrivals: Iterable[Arrival]) -> list[str]:
    """The events that arrived, each once, in the order of its first arrival."""
    return list(dict.fromkeys(arrival.id for arrival in arrivals))


def check_order(events: Sequence[tuple[str, str | None]], arrivals: Sequence[Arrival]) -> None:
    """Of each subject, what arrived is the beginning of what was written, in its order."""
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
    """All that was written arrived, in order per subject, and nothing else did. How many events there are."""
    known: set[str] = set()
    for tenant in tenants:
        events = written(storage, tenant)
        known |= {id for id, _ in events}
        missing = {id for id, _ in events} - {arrival.id for arrival in arrivals}
        assert not missing, f"{len(missing)} of {len(events)} events are lost"
        check_order(events, arrivals)
    assert {arrival.id for arrival in arrivals} <= known
    return len(known)
