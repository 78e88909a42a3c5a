"""The relay: dead letters, what waits for another attempt, and what these hold back, should not matter to a look at the
outbox; nor to who counts it, or sees to one dead letter."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from actionengine import CallbackPublisher, Relay, Tenant
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.outbox import TRIGGERS, FailedDelivery, Outbox, RelayHeartbeat
from actionengine.storage.rows import StoredEvent
from benchmarks.growth.backends import Backend, PostgresBackend, id_at, time_of
from benchmarks.growth.events import TYPES
from benchmarks.growth.operation import Operation

BUSY = 1
"""The lane of the subject that one dead letter holds back, and of the one that waits for an attempt."""

_HEIGHT = "the marks of what is held back have left a taller index"


def fill(backend: Backend) -> None:
    """Many dead letters of one tenant, and one of another that holds back many events; in another queue, one that waits
    for an attempt, and many behind it. Their events are those that the area of events has added."""
    queued = {"queue": "events", "reason": "no such luck", "attempts": 12}

    def dead(tenant_id: object, position: int, event_id: str, lane: int) -> dict[str, Any]:
        row = {**queued, "tenant_id": tenant_id, "position": position, "event_id": event_id, "lane": lane}
        return {**row, "dead_at": time_of(position)}

    def behind(tenant_id: object, position: int) -> dict[str, Any]:
        return {"tenant_id": tenant_id, "position": position, "queue": "events", "lane": BUSY}

    mine = _events(backend, backend.tenant, ["common", *TYPES])
    others = _events(backend, backend.other_tenant, None)
    tenant, other = backend.tenant.id, backend.other_tenant.id
    backend.insert("ae_outbox", [dead(tenant, e.position, e.event.id, 1_000 + e.position) for e in mine])
    backend.insert("ae_outbox", [dead(other, others[0].position, others[0].event.id, BUSY)])
    backend.insert("ae_outbox", [behind(other, e.position) for e in others[1:]])
    waits = {**behind(other, others[0].position), "queue": TRIGGERS, "due_at": time_of(10**9)}
    backend.insert("ae_outbox", [waits])
    backend.insert("ae_outbox", [{**behind(other, e.position), "queue": TRIGGERS} for e in others[1:]])
    # What is held back there is marked by a look, and a vacuum takes away the index entries that it had before.
    _look(backend)


def _events(backend: Backend, tenant: Tenant, types: list[str] | None) -> list[StoredEvent]:
    found: list[StoredEvent] = []
    while len(found) < backend.size and (
        page := backend.storage.read_events(tenant, after=found[-1].position if found else 0, types=types)
    ):
        found += page
    return found[: backend.size]


def relay(backend: Backend) -> Relay:
    """Return a relay that delivers to nobody."""
    return Relay(backend.storage, CallbackPublisher(lambda event: None))


def _deliver(backend: Backend) -> object:
    backend.do("notes", "pass")
    return relay(backend).drain()


def _look(backend: Backend) -> None:
    outbox = backend.storage.outbox("sync", TRIGGERS)
    while batch := run_sync(outbox.take(1000, 30.0)):
        run_sync(outbox.settle(batch, ()))
    run_sync(outbox.close())


def _look_behind(backend: Backend) -> None:
    _look(backend)
    if isinstance(backend, PostgresBackend) and "marked" not in backend.notes:
        # As autovacuum does soon after a look has marked many. There are no statistics that know of the marks.
        backend.superuser.execute("VACUUM ae_outbox")
        backend.notes["marked"] = True


def _of_tenant(action: str, **given: str) -> Callable[[Backend], object]:
    """Return a call that kills an event, and has it decided by the action of its tenant."""

    def call(backend: Backend) -> object:
        return _kill_and(lambda _, event_id: backend.do("relay", action, {"ids": [event_id], **given}))(backend)

    return call


def _kill_and(then: Callable[[Relay, str], object]) -> Callable[[Backend], object]:
    def call(backend: Backend) -> object:
        relay(backend).drain()
        backend.do("notes", "pass")
        outbox = backend.storage.outbox("sync")
        (pending,) = run_sync(outbox.take(1000, 30.0))
        run_sync(outbox.settle((), [FailedDelivery(pending, "no such luck", None)]))
        run_sync(outbox.close())
        then(relay(backend), pending.event.id)
        return relay(backend).drain()

    return call


def _take_and_give_back(backend: Backend) -> object:
    backend.do("notes", "pass")
    outbox: Outbox = backend.storage.outbox("sync")
    assert run_sync(outbox.take(1000, 30.0))
    run_sync(outbox.extend())
    run_sync(outbox.release())
    run_sync(outbox.close())
    return relay(backend).drain()


def _sleep(backend: Backend) -> None:
    outbox = backend.storage.outbox("sync", TRIGGERS)
    run_sync(outbox.wait(0.01))
    run_sync(outbox.close())


def _beat(backend: Backend) -> None:
    now = datetime.now(UTC)
    outbox: Outbox = backend.storage.outbox("sync")
    run_sync(outbox.heartbeat(RelayHeartbeat(id_at(1), "here", "nobody", now, now, 0, 0, 0.0, None)))


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
        lambda backend: relay(backend).status(),
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
    Operation("relay: a look", lambda backend: relay(backend).drain(), at_worst="logarithmic", why=_HEIGHT),
    Operation(
        "relay: delivery of an action's events",
        _deliver,
        ("outbox.settle", "outbox.close"),
        at_worst="logarithmic",
        why=_HEIGHT,
    ),
    Operation(
        "relay: dead letters, a page", lambda backend: relay(backend).dead_letters(limit=20), ("outbox.dead_letters",)
    ),
    Operation(
        "relay: taking an event and giving it back",
        _take_and_give_back,
        ("outbox.extend", "outbox.release"),
        at_worst="logarithmic",
        why=_HEIGHT,
    ),
    Operation(
        "relay: sleep",
        _sleep,
        ("outbox.wait",),
        at_worst="grows",
        why="it asks for the next due event as often as it is woken, which the time of a run decides",
    ),
    Operation(
        "relay: status of a tenant",
        lambda backend: backend.do("relay", "status", {}),
        ("relay.status",),
        at_worst="grows",
        why="each number is counted to 10,000, without reading an event",
    ),
    Operation(
        "relay: dead letters of a tenant, a page",
        lambda backend: backend.do("relay", "dead_letters", {"limit": 20}),
        ("relay.dead_letters",),
    ),
    Operation(
        "relay: redrive of a tenant's dead letter",
        _of_tenant("redrive"),
        ("relay.redrive",),
        at_worst="grows",
        why="it counts the dead letters that are left, to 10,000",
    ),
    Operation(
        "relay: skip of a tenant's dead letter",
        _of_tenant("skip", reason="no"),
        ("relay.skip",),
        at_worst="grows",
        why="it counts the dead letters that are left, to 10,000",
    ),
    Operation("relay: heartbeat", _beat, ("outbox.heartbeat",)),
]
