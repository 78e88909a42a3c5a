"""Checks the writes of `ctx.records`: every field of a new document, and the changed fields of a changed one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic_core import to_json

from actionengine.authorization.cache import BoundedCache
from actionengine.changes.documents import OWN_FIELDS
from actionengine.changes.store import Store, to_type_state
from actionengine.changes.type_graph import TypeGraph
from actionengine.context import Tenant
from actionengine.errors import ActionError, ErrorCode, conflict
from actionengine.schemas.field_errors import summarize
from actionengine.schemas.validation import field_problems, model_of
from actionengine.storage.guards import DocumentValidator
from actionengine.storage.port import UnitOfWork
from actionengine.storage.records import encode_document
from actionengine.storage.tables import Row

MODEL_BYTES = 64 * 1024 * 1024
"""Approximate bytes of the models that an engine keeps; a model of fifty fields takes some 250 KB."""

_FIELD_BYTES = 5000
"""Approximate bytes of a model's field without its definition."""

_COMPARED_FIELDS = ("key", "status", "version", "updated_at")

Version = tuple[int, datetime]
"""The version of a record type and its time, since a rolled-back version leaves its number to another one."""


class _CachedTypes(NamedTuple):
    """A record type and its base types (whose keys never change), as last read."""

    project_id: str
    keys: tuple[str, ...]
    versions: Mapping[str, Version]
    check: DocumentValidator


class RecordTypeGuard:
    """Checks the documents of one engine against active record types.

    Models are kept while no version changes. The versions are read in one statement for each collection that an action
    writes to, so that a merged change applies at once.
    """

    def __init__(self) -> None:
        self._known: BoundedCache[_CachedTypes] = BoundedCache(MODEL_BYTES, "record_types")

    async def check(self, unit_of_work: UnitOfWork, tenant: Tenant, collection: str) -> DocumentValidator | None:
        """Return the validator of a collection's documents; None if no record type of its name is or was active. Of
        several retired types, the last changed one counts."""
        store, known = Store(unit_of_work), self._known.find((tenant.id, collection))
        if known is not None:
            rows = await store.record_types.find(
                {"project_id": known.project_id, "key": known.keys}, columns=_COMPARED_FIELDS, order=("key",)
            )
            is_active = any(row["key"] == collection and row["status"] == "active" for row in rows)
            if is_active and _versions(rows) == known.versions:
                return known.check
        for row in await store.first_of_key(collection):
            if row["status"] == "active":
                return await self._load_types(store, tenant, row)
            for last in await store.first_of_key(collection, descending=True):
                if last["status"] == "retired":
                    model, _ = await _model(store, last)
                    return _Validator(collection, model, is_retired=True)
        return None

    async def _load_types(self, store: Store, tenant: Tenant, row: Row) -> DocumentValidator:
        key = row["key"]
        model, rows = await _model(store, row)
        versions = _versions(rows)
        check = _Validator(key, model)
        known = _CachedTypes(row["project_id"], tuple(versions), versions, check)
        size = _FIELD_BYTES * (1 + len(model.model_fields)) + 4 * sum(len(to_json(each["schema"])) for each in rows)
        self._known.keep((tenant.id, key), known, size)
        return check


def _versions(rows: Sequence[Row]) -> dict[str, Version]:
    return {row["key"]: (row["version"], row["updated_at"]) for row in rows}


async def _model(store: Store, row: Row) -> tuple[type[BaseModel], list[Row]]:
    """Return the model of a record type's documents, and the rows of the type and its base types."""
    key, rows = row["key"], await store.lineage(row)
    graph = TypeGraph(map(to_type_state, rows))
    return model_of(key, graph.effective(key, graph.schemas), OWN_FIELDS.get(key, ())), rows


@dataclass(frozen=True, slots=True)
class _Validator:
    """The validator of one record type's documents. Its errors name each field and the reason."""

    record_type: str
    model: type[BaseModel]
    is_retired: bool = False

    def check_new(self, data: Mapping[str, Any]) -> None:
        """Check a new document; a retired type accepts none."""
        if self.is_retired:
            raise conflict(
                f"the record type {self.record_type!r} is retired: it takes no new documents",
                record_type=self.record_type,
            )
        self._refuse(field_problems(self.model, encode_document(self.record_type, data)))

    def fits(self, data: Mapping[str, Any]) -> bool:
        """Return whether a document fits the type."""
        return not field_problems(self.model, encode_document(self.record_type, data))

    def check_change(self, data: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
        """Check the fields of a document that differ from the stored one."""
        self._refuse(field_problems(self.model, encode_document(self.record_type, data), stored))

    def _refuse(self, fields: Sequence[Mapping[str, str]]) -> None:
        if fields:
            message = f"this is no {self.record_type!r} document: {summarize(fields)}"
            raise ActionError(ErrorCode.INVALID_INPUT, message, {"record_type": self.record_type, "fields": fields})
