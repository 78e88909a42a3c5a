"""Stored documents compared with the schema of their record type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel
from pydantic_core import to_json

from actionengine.changes.models import DocumentCheck, InvalidDocument
from actionengine.schemas.schema import Schema
from actionengine.schemas.validation import field_problems, model_of
from actionengine.storage.records import AsyncRecords

OWN_FIELDS: Mapping[str, Sequence[str]] = {
    "workflow_assignments": (
        "assignee",
        "title",
        "details",
        "run_id",
        "workflow_key",
        "step",
        "status",
        "result",
        "completed_by",
        "completed_at",
    )
}
"""The fields that the library writes into each collection. A record type of this key need not declare them."""


async def check_documents(
    records: AsyncRecords, key: str, schema: Schema, limit: int = 1000, after: str | None = None
) -> DocumentCheck:
    """Check one page of a collection's documents, by id, against a schema."""
    page = await records.list(limit=limit, after=after)
    model = model_of(key, schema, OWN_FIELDS.get(key, ())) if page else BaseModel
    found = [
        InvalidDocument(id=record.id, problems={refusal["path"]: refusal["reason"] for refusal in refused})
        for record in page
        if (refused := field_problems(model, to_json(record.data)))
    ]
    return DocumentCheck(
        record_type_key=key,
        checked=len(page),
        invalid=tuple(found),
        next=page.next,
    )
