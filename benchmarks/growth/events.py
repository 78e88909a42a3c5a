"""Events: what came before a reader, between the events of its types, and for other tenants should not matter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from actionengine.events.projections.projection import Projection
from actionengine.events.replay import replay
from benchmarks.growth.backends import Backend, id_at, time_of
from benchmarks.growth.operation import Operation

RARE = 10
TYPES = [f"type_{number}" for number in range(100)]
"""Each has ten events, spread over the log."""


def fill(backend: Backend) -> None:
    """A long log of one type, ten rare events before it, and a thousand of a hundred types in it."""
    backend.do("notes", "put", idempotency_key="one")
    row = backend.sample("ae_events", tenant_id=str(backend.tenant.id))
    del row["position"]
    last = backend.size + RARE
    step = max(1, last // 1000)

    def event(number: int) -> dict[str, Any]:
        type = "common"
        if number < RARE:
            type = "rare"
        elif number % step == 0:
            type = TYPES[number // step % len(TYPES)]
        return {"id": id_at(number), "type": type, "subject": f"notes/{number}", "occurred_at": time_of(number)}

    backend.clone("ae_events", row, event, last)
    backend.clone("ae_events", {**row, "tenant_id": str(backend.other_tenant.id)}, event)
    newest = backend.storage.read_events(backend.tenant, after=0, limit=1)[0].position
    backend.notes["first"] = newest
    for name in ("rare", "none"):
        _projection(backend, name).catch_up(backend.tenant).unwrap()


def _projection(backend: Backend, type: str) -> Projection:
    return Projection(backend.engine, name=type, types=[type], apply=lambda event, view: None)


def _reading(name: str, **asked: Any) -> Operation:
    return Operation(
        f"read_events, {name}",
        lambda backend: backend.storage.read_events(backend.tenant, limit=20, **asked),
        ("storage.read_events",),
    )


def _rebuild(backend: Backend) -> object:
    return _projection(backend, "rare").rebuild(backend.tenant).unwrap()


OPERATIONS = [
    _reading("all types"),
    _reading("a rare type", types=["rare"]),
    _reading("a type that none has", types=["none"]),
    replace(
        _reading("a hundred types", types=TYPES),
        at_worst="logarithmic",
        why="each type is found from the root of its index",
    ),
    Operation("replay of a rare type", lambda backend: list(replay(backend.storage, backend.tenant, types=["rare"]))),
    Operation("a look of a projection", lambda backend: _projection(backend, "rare").catch_up(backend.tenant).unwrap()),
    Operation(
        "a look of one without events", lambda backend: _projection(backend, "none").catch_up(backend.tenant).unwrap()
    ),
    Operation(
        "count_events, of a rare type",
        lambda backend: backend.storage.count_events(backend.tenant, types=["rare"]),
        ("storage.count_events",),
    ),
    Operation(
        "count_events, of all types",
        lambda backend: backend.storage.count_events(backend.tenant),
        at_worst="grows",
        why="it counts to 10,000, without reading an event",
    ),
    Operation("projection.status", lambda backend: _projection(backend, "rare").status(backend.tenant).unwrap()),
    Operation("projection.rebuild, of a rare type", _rebuild),
]
