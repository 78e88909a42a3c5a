"""Rows of the port as SQLite takes and returns them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any
from uuid import UUID

from pydantic_core import from_json, to_json

from actionengine.storage.outbox import DeadLetter
from actionengine.storage.rows import EventRow, LogRow
from actionengine.storage.sql.rows import json_bytes, json_text, names_in, names_text


def bind_time(time: datetime) -> str:
    """Return a time as text that sorts."""
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def log_values(row: LogRow) -> tuple[Any, ...]:
    """Return a row of the action log as parameters."""
    return row._replace(
        tenant_id=str(row.tenant_id),  # type: ignore[arg-type]
        subjects=to_json(row.subjects).decode(),  # type: ignore[arg-type]
        input=json_text(row.input),  # type: ignore[arg-type]
        output=json_text(row.output),  # type: ignore[arg-type]
        error=json_text(row.error),  # type: ignore[arg-type]
        on_behalf_of=names_text(row.on_behalf_of),  # type: ignore[arg-type]
        started_at=bind_time(row.started_at),  # type: ignore[arg-type]
    )


def log_row(values: Sequence[Any]) -> LogRow:
    """Return a row of the action log from the values that were read."""
    row: Any = LogRow(*values)
    read: LogRow = row._replace(
        tenant_id=UUID(row.tenant_id),
        subjects=tuple(from_json(row.subjects)),
        input=json_bytes(row.input),
        output=json_bytes(row.output),
        error=json_bytes(row.error),
        on_behalf_of=names_in(row.on_behalf_of),
        started_at=datetime.fromisoformat(row.started_at),
    )
    return read


def event_values(row: EventRow) -> tuple[Any, ...]:
    """Return an event as parameters."""
    return row._replace(
        tenant_id=str(row.tenant_id),  # type: ignore[arg-type]
        payload=row.payload.decode(),  # type: ignore[arg-type]
        occurred_at=bind_time(row.occurred_at),  # type: ignore[arg-type]
        on_behalf_of=names_text(row.on_behalf_of),  # type: ignore[arg-type]
        chain=json_text(row.chain),  # type: ignore[arg-type]
    )


def event_row(values: Sequence[Any]) -> EventRow:
    """Return an event from the values that were read."""
    event: Any = EventRow(*values)
    read: EventRow = event._replace(
        tenant_id=UUID(event.tenant_id),
        payload=event.payload.encode(),
        occurred_at=datetime.fromisoformat(event.occurred_at),
        on_behalf_of=names_in(event.on_behalf_of),
        chain=json_bytes(event.chain),
    )
    return read


def dead_letters_of(rows: Iterable[tuple[Any, ...]], queue: str) -> list[DeadLetter]:
    """Return dead letters of a queue from the values that were read."""
    return [
        DeadLetter(event_row(event), attempts, reason, datetime.fromisoformat(dead_at), bool(skipped), queue)
        for attempts, reason, dead_at, skipped, *event in rows
    ]


def partition_key(event: EventRow) -> int:
    """Return the lane of an event, a hash of 63 bits: of its tenant and subject, or of its id if it has no subject."""
    name = event.id if event.subject is None else event.subject
    return int.from_bytes(blake2b(name.encode(), digest_size=8, key=event.tenant_id.bytes).digest()) >> 1
