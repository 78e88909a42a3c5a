"""Rows of the port as PostgreSQL takes and returns them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

from pydantic_core import from_json, to_json

from actionengine.storage.outbox import DeadLetter, PendingEvent
from actionengine.storage.rows import EventRow, LogRow
from actionengine.storage.sql.rows import json_bytes, json_text, names_in, names_text
from actionengine.storage.words import words_of


def array(items: Iterable[object]) -> str:
    """Return an array's literal, with each item quoted ("Array Value Input", PostgreSQL's manual)."""
    quoted = (str(item).replace("\\", "\\\\").replace('"', '\\"') for item in items)
    return "{" + ",".join(f'"{item}"' for item in quoted) + "}"


def log_values(row: LogRow) -> list[Any]:
    """Return a row of the action log as parameters."""
    values: list[Any] = list(row)
    for index in _LOG_JSON:
        if values[index] is not None:
            values[index] = values[index].decode()
    values[_LOG_SUBJECTS] = to_json(row.subjects).decode()
    values[_LOG_PRINCIPALS] = names_text(row.on_behalf_of)
    return values


def word_values(rows: Sequence[LogRow]) -> tuple[str, str] | None:
    """Return the words of the reasons, and the id of the row of each, as parameters; None for no words."""
    found = [(words_of(row.reason), row.id) for row in rows if row.reason]
    words = [word for words, _ in found for word in words]
    if not words:
        return None
    # Letters, digits and hyphens need no escapes.
    ids = ",".join([",".join([id] * len(words)) for words, id in found if words])
    return '{"' + '","'.join(words) + '"}', f"{{{ids}}}"


def log_row(values: tuple[Any, ...]) -> LogRow:
    """Return a row of the action log from the values that were read."""
    fields = list(values)
    fields[0] = str(fields[0])
    fields[1] = str(fields[1]) if fields[1] is not None else None
    for index in _LOG_JSON:
        if fields[index] is not None:
            fields[index] = fields[index].encode()
    fields[_LOG_SUBJECTS] = tuple(from_json(fields[_LOG_SUBJECTS]))
    fields[_LOG_PRINCIPALS] = names_in(fields[_LOG_PRINCIPALS])
    fields[_LOG_STARTED] = fields[_LOG_STARTED].astimezone(UTC)
    return LogRow(*fields)


def event_values(row: EventRow) -> list[Any]:
    """Return an event as parameters."""
    values: list[Any] = list(row)
    values[_EVENT_PAYLOAD] = row.payload.decode()
    values[_EVENT_PRINCIPALS] = names_text(row.on_behalf_of)
    values[_EVENT_CHAIN] = json_text(row.chain)
    return values


def event_row(values: list[Any]) -> EventRow:
    """Return an event from the values that were read."""
    event = EventRow(*values)
    return event._replace(
        id=str(event.id),
        payload=values[_EVENT_PAYLOAD].encode(),
        action_id=str(event.action_id),
        occurred_at=event.occurred_at.astimezone(UTC),
        on_behalf_of=names_in(values[_EVENT_PRINCIPALS]),
        chain=json_bytes(event.chain),  # type: ignore[arg-type]
    )


def dead_letters_of(rows: Iterable[tuple[Any, ...]], queue: str) -> list[DeadLetter]:
    """Return dead letters of a queue from the values that were read."""
    return [
        DeadLetter(event_row(event), attempts, reason, dead_at.astimezone(UTC), skipped, queue)
        for attempts, reason, dead_at, skipped, *event in rows
    ]


def taken_event(
    attempts: int,
    position: int,
    id: str,
    tenant_id: str,
    type: str,
    subject: str | None,
    payload: str,
    action: str,
    action_id: str,
    actor_type: str | None,
    actor_id: str | None,
    occurred_at: int,
    version: int,
    on_behalf_of: str | None,
) -> PendingEvent:
    """Return an event of the outbox from the values that were read, its time in microseconds since 1970. A relay reads
    many of them."""
    return PendingEvent(
        position,
        EventRow(
            id,
            _tenant_id(tenant_id),
            type,
            subject,
            payload.encode(),
            action,
            action_id,
            actor_type,
            actor_id,
            _EPOCH + timedelta(0, 0, occurred_at),
            version,
            names_in(on_behalf_of),
        ),
        attempts,
    )


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_tenant_id = lru_cache(maxsize=4096)(UUID)
tenant_text = lru_cache(maxsize=4096)(str)
"""A tenant's id as text. There are few of them, and they recur."""


_LOG_JSON = [LogRow._fields.index(name) for name in ("input", "output", "error")]
_LOG_SUBJECTS = LogRow._fields.index("subjects")
_LOG_PRINCIPALS = LogRow._fields.index("on_behalf_of")
_LOG_STARTED = LogRow._fields.index("started_at")
_EVENT_PAYLOAD = EventRow._fields.index("payload")
_EVENT_CHAIN = EventRow._fields.index("chain")
_EVENT_PRINCIPALS = EventRow._fields.index("on_behalf_of")
