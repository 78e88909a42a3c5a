"""The relay: dead letters, and what they hold back, should not matter to a look at the outbox."""

from __future__ import annotations

from typing import Any

from actionengine import CallbackPublisher, Relay
from benchmarks.growth.events import TYPES
from benchmarks.growth.operation import Operation
from benchmarks.growth.worlds import World, time_of

BUSY = 1
"""The lane of the subject that one dead letter holds back."""

_HEIGHT = "the marks of what is held back have left a taller index"


def fill(world: World) -> None:
    """Many dead letters of one tenant, and one of another that holds back many events. Their events are those that the
    area of events has added."""
    queued = {"queue": "events", "reason": "no such luck", "attempts": 12}

    def dead(tenant_id: object, position: int, event_id: str, lane: int) -> dict[str, Any]:
        row = {**queued, "tenant_id": tenant_id, "position": position, "event_id": event_id, "lane": lane}
        return {**row, "dead_at": time_of(position)}

    def behind(tenant_id: object, position: int) -> dict[str, Any]:
        return {"tenant_id": tenant_id, "position": position, "queue": "events", "lane": BUSY}

    mine = world.storage.read_events(world.tenant, after=0, limit=world.size, types=["common", *TYPES])
    others = world.storage.read_events(world.other_tenant, after=0, limit=world.size)
    tenant, other = world.tenant.id, world.other_tenant.id
    world.insert("ae_outbox", [dead(tenant, e.position, e.event.id, 1_000 + e.position) for e in mine])
    world.insert("ae_outbox", [dead(other, others[0].position, others[0].event.id, BUSY)])
    world.insert("ae_outbox", [behind(other, e.position) for e in others[1:]])


def relay(world: World) -> Relay:
    """Return a relay that delivers to nobody."""
    return Relay(world.storage, CallbackPublisher(lambda event: None))


def _deliver(world: World) -> object:
    world.do("notes", "pass")
    return relay(world).drain()


OPERATIONS = [
    Operation("relay: a look", lambda world: relay(world).drain(), at_worst="logarithmic", why=_HEIGHT),
    Operation("relay: delivery of an action's events", _deliver, at_worst="logarithmic", why=_HEIGHT),
    Operation("relay: dead letters, a page", lambda world: relay(world).dead_letters(limit=20)),
]
