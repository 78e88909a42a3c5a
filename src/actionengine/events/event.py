"""`Event`: a fact, in the form that consumers get."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from pydantic_core import PydanticSerializationError, from_json, to_json

from actionengine.event_types import EventType, EventVersionError
from actionengine.storage.rows import EventRow
from actionengine.text.json_bounds import check_readable


class Event(NamedTuple):
    """A fact: what happened (`type`, `payload`), to what (`subject`), for which tenant (`tenant_id`), by which actor
    (`actor_type`, `actor_id`), in which action (`action`, `action_id`), and when (`occurred_at`, UTC). `on_behalf_of`
    names the principals behind the actor (`type:id`), the nearest first.

    `id` is a UUIDv7, the same in each delivery; `position` grows in commit order within a tenant. `data` is the masked
    payload as JSON, in the schema `version` of its type.
    """

    id: str
    position: int
    type: str
    subject: str | None
    version: int
    data: bytes
    tenant_id: UUID
    actor_type: str | None
    actor_id: str | None
    action: str
    action_id: str
    occurred_at: datetime
    on_behalf_of: tuple[str, ...] = ()

    @property
    def payload(self) -> Any:
        """The payload as JSON values, parsed for each call."""
        return from_json(self.data)

    @classmethod
    def of(cls, position: int, row: EventRow, event_types: Mapping[str, EventType] | None = None) -> Event:
        """Return a stored event, upcast if its type is declared. Raise `EventVersionError`."""
        event = cls(
            row.id,
            position,
            row.type,
            row.subject,
            row.version,
            row.payload,
            row.tenant_id,
            row.actor_type,
            row.actor_id,
            row.action,
            row.action_id,
            row.occurred_at,
            row.on_behalf_of,
        )
        declared = event_types.get(row.type) if event_types else None
        return event if declared is None or declared.version == row.version else event.upcast(declared)

    def upcast(self, declared: EventType) -> Event:
        """Return the event with its payload in the newest version. Raise `EventVersionError`."""
        try:
            newest = to_json(declared.upcast(self.payload, self.version), inf_nan_mode="null")
            check_readable(newest)
        except (PydanticSerializationError, ValueError, TypeError) as error:
            message = f"{self.type}, version {self.version}, cannot be upcast to version {declared.version}: {error}"
            raise EventVersionError(message) from error
        return self._replace(data=newest, version=declared.version)

    def read(self, declared: EventType) -> Any:
        """Return the payload as an instance of the declared model. Raise `EventVersionError`."""
        return declared.read(self.payload, self.version)
