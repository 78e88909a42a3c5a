"""Events to publish, and their form in the CloudEvents SDK."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from uuid_utils import uuid7

from actionengine.events.event import Event

EVENT = Event(
    id="01890a5d-ac96-774b-bcce-b302099a8057",
    position=42,
    type="job.booked",
    subject="job/17",
    version=2,
    data=b'{"day":"2026-11-21","price":12.50,"note":"caf\xc3\xa9"}',
    tenant_id=UUID("6f1f64b4-6d3c-4c0f-9d53-0b6d0f0c7a11"),
    actor_type="human",
    actor_id="ann",
    action="jobs.book",
    action_id="01890a5d-ac96-774b-bcce-b302099a8000",
    occurred_at=datetime(2026, 11, 21, 10, 30, 0, 123456, tzinfo=UTC),
)


def some_events(count: int, **changes: Any) -> list[Event]:
    """Return events of different subjects."""
    return [
        EVENT._replace(**{"id": str(uuid7()), "position": n, "subject": f"job/{n}", **changes}) for n in range(count)
    ]
