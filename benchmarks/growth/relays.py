"""The relay: dead letters, what waits for another attempt, and what these hold back, should not matter to a look at the
outbox; nor to who counts it, or sees to one dead letter."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from actionengine import CallbackPublisher, Relay, Tenant
from actionengine.concurrency.run_sync import drive
from actionengine.storage.port import TRIGGERS, FailedDelivery, Outbox, RelayBeat, StoredEvent
from benchmarks.growth.events import TYPES
from benchmarks.growth.operation import Operation
from benchmarks.growth.worlds import PostgresWorld, World, id_at, time_of

BUSY = 1
"""The lane of the subject that one dead letter holds back, and of the one that waits for an attempt."""

_HEIGHT = "the marks of what is held back have left a taller index"


def fill(world: World) -> None:
    """Many dead letters of one tenant, and one of another that holds back many events; in another queue, one that waits
    for an attempt, and many behind it. Their events are those that the area of events has added."""
    queued = {"queue": "events", "reason": "no such luck", "attempts": 12}

    def dead(tenant_id: object, position: int, event_id: str, lane: int) -> dict[str, Any]:
        row = {**queued, "tenant_id": tenant_id, "position": position, "event_id": event_id, "lane": lane}
        return {**row, "dead_at": time_of(position)}

    def behind(tenant_id: object, position: int) -> dict[str, Any]:
        return {"tenant_id": tenant_id, "position": position, "queue": "events", "lane": BUSY}

    mine = _events(world, world.tenant, ["common", *TYPES])
    others = _events(world, world.other_tenant, None)
    tenant, other = world.tenant.id, world.other_tenant.id
    world.insert("ae_outbox", [dead(tenant, e.position, e.event.id, 1_000 + e.position) for e in mine])
    world.insert("ae_outbox", [dead(other, others[0].position, others[0].event.id, BUSY)])
    world.insert("ae_outbox", [behind(other, e.position) for e in others[1:]])
    waits = {**behind(other, others[0].position), "queue": TRIGGERS, "due_at": time_of(10**9)}
    world.insert("ae_outbox", [waits])
    world.insert("ae_outbox", [{**behind(other, e.position), "queue": TRIGGERS} for e in others[1:]])
    # What is held back there is marked by a look, and a vacuum takes away the index entries that it had before.
    _look(world)


def _events(world: World, tenant: Tenant, types: list[str] | None) -> list[StoredEvent]:
    found: list[StoredEvent] = []
    while len(found) < world.size and (
        page := world.storage.read_events(tenant, after=found[-1].position if found else 0, types=types)
    ):
        found += page
    return found[: world.size]


def relay(world: World) -> Relay:
    """Return a relay that delivers to nobody."""
    return Relay(world.storage, CallbackPublisher(lambda event: None))


def _deliver(world: World) -> object:
    world.do("notes", "pass")
    return relay(world).drain()


def _look(world: World) -> None:
    outbox = world.storage.outbox("sync", TRIGGERS)
    while batch := drive(outbox.take(1000, 30.0)):
        drive(outbox.settle(batch, ()))
    drive(outbox.close())


def _look_behind(world: World) -> None:
    _look(world)
    if isinstance(world, PostgresWorld) and "marked" not in world.notes:
        # As autovacuum does soon after a look has marked many. There are no statistics that know of the marks.
        world.superuser.execute("VACUUM ae_outbox")
        world.notes["marked"] = True


def _kill_and(then: Callable[[Relay, str], object]) -> Callable[[World], object]:
    def call(world: World) -> object:
        relay(world).drain()
        world.do("notes", "pass")
        outbox = world.storage.outbox("sync")
        (pending,) = drive(outbox.take(1000, 30.0))
        drive(outbox.settle((), [FailedDelivery(pending, "no such luck", None)]))
        drive(outbox.close())
        then(relay(world), pending.event.id)
        return relay(world).drain()

    return call


def _take_and_give_back(world: World) -> object:
    world.do("notes", "pass")
    outbox: Outbox = world.storage.outbox("sync")
    assert drive(outbox.take(1000, 30.0))
    drive(outbox.extend())
    drive(outbox.give_back())
    drive(outbox.close())
    return relay(world).drain()


def _sleep(world: World) -> None:
    outbox = world.storage.outbox("sync", TRIGGERS)
    drive(outbox.wait(0.01))
    drive(outbox.close())


def _beat(world: World) -> None:
    now = datetime.now(UTC)
    outbox: Outbox = world.storage.outbox("sync")
    drive(outbox.beat(RelayBeat(id_at(1), "here", "nobody", now, now, 0, 0, 0.0, None)))


OPERATIONS = [
    Operation(
        "relay: a look, behind one that waits",
        _look_behind,
        ("outbox.take", "storage.outbox"),
        at_worst="logarithmic",
        why=_HEIGHT,
    ),
    Operation(
        "relay: status",
        lambda world: relay(world).status(),
        ("outbox.status",),
        at_worst="grows",
        why="each number is counted to 10,000, without reading an event",
    ),
    Operation(
        "relay: redrive of a dead letter",
        _kill_and(lambda relay, event_id: relay.redrive([event_id])),
        ("outbox.redrive",),
        at_worst="logarithmic",
        why=_HEIGHT,
    ),
    Operation(
        "relay: skip of a dead letter",
        _kill_and(lambda relay, event_id: relay.skip([event_id], "no")),
        ("outbox.skip",),
        at_worst="logarithmic",
        why=_HEIGHT,
    ),
    Operation("relay: a look", lambda world: relay(world).drain(), at_worst="logarithmic", why=_HEIGHT),
    Operation(
        "relay: delivery of an action's events",
        _deliver,
        ("outbox.settle", "outbox.close"),
        at_worst="logarithmic",
        why=_HEIGHT,
    ),
    Operation(
        "relay: dead letters, a page", lambda world: relay(world).dead_letters(limit=20), ("outbox.dead_letters",)
    ),
    Operation(
        "relay: taking an event and giving it back",
        _take_and_give_back,
        ("outbox.extend", "outbox.give_back"),
        at_worst="logarithmic",
        why=_HEIGHT,
    ),
    Operation("relay: sleep", _sleep, ("outbox.wait",), at_worst="logarithmic", why=_HEIGHT),
    Operation("relay: beat", _beat, ("outbox.beat",)),
]
