"""The number of triggers of a tenant, by type: counted when they change, so no list is read."""

from __future__ import annotations

from actionengine.errors import ActionError, ErrorCode
from actionengine.storage.errors import SerializationFailure
from actionengine.workflows.runs.store import Store

MAX_TRIGGERS = 1000
"""Triggers of one type that a tenant may have. Each event, and each scheduler, reads all of its type."""


async def count_trigger(store: Store, type: str, change: int) -> None:
    """Count a trigger that is added or removed. Raise `ActionError(unprocessable)` beyond `MAX_TRIGGERS`."""
    record = await store.trigger_counts.get(type)
    number = (0 if record is None else record.data["number"]) + change
    if change > 0 and number > MAX_TRIGGERS:
        raise ActionError(
            ErrorCode.UNPROCESSABLE,
            f"the tenant has {MAX_TRIGGERS} triggers of the type {type!r}, its limit: delete one first",
            {"type": type, "limit": MAX_TRIGGERS},
        )
    document = {"number": max(0, number)}
    try:
        if record is None:
            await store.trigger_counts.insert(document, type)
        else:
            await store.trigger_counts.update(type, document, record.version)
    except ActionError as refusal:
        raise SerializationFailure("another trigger is added or removed at the same time: run it again") from refusal
