"""What `ctx.records` asks before it writes: whether the document is what its record type says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import BaseModel

from actionengine.changes.documents import misfits, model_of
from actionengine.changes.store import Store, conflict, state_of
from actionengine.changes.transform import TypeGraph
from actionengine.context import Tenant
from actionengine.errors import ErrorCode, failing
from actionengine.payload import summary
from actionengine.storage.port import DocumentCheck, UnitOfWork
from actionengine.storage.records import encode_document
from actionengine.storage.tables import Row

_MOST = 1000
"""Models that are kept: one of fifty fields takes some 200 KB."""

_SEEN = ("key", "status", "version", "updated_at")


Version = tuple[int, datetime]
"""Of a record type: its number, and when it came, since what is rolled back leaves its number to another one."""


class _Known(NamedTuple):
    """A record type as it was last seen, with its base types, whose keys never change."""

    project_id: str
    keys: tuple[str, ...]
    versions: Mapping[str, Version]
    check: DocumentCheck


class RecordTypeGuard:
    """Checks documents against active record types, one engine's. Models are kept as long as no version has changed,
    so that a merged change holds from the next look on: one statement for each collection that an action writes to."""

    def __init__(self) -> None:
        self._known: dict[tuple[UUID, str], _Known] = {}

    async def check(self, unit_of_work: UnitOfWork, tenant: Tenant, collection: str) -> DocumentCheck | None:
        """What checks the documents of a collection; None where its name is no record type's in use.

        Raises `ActionException(conflict)` for a record type that is retired.
        """
        store, known = Store(unit_of_work), self._known.get((tenant.id, collection))
        if known is not None:
            rows = await store.record_types.find(
                {"project_id": known.project_id, "key": known.keys}, columns=_SEEN, order=("key",)
            )
            is_active = any(row["key"] == collection and row["status"] == "active" for row in rows)
            if is_active and _versions(rows) == known.versions:
                return known.check
        named = {row["status"]: row for row in await store.record_types.find({"key": collection})}
        if "active" in named:
            return await self._learn(store, tenant, named["active"])
        if named.keys() == {"retired"}:
            raise conflict(f"the record type {collection!r} is retired: it takes no documents", record_type=collection)
        return None

    async def _learn(self, store: Store, tenant: Tenant, row: Row) -> DocumentCheck:
        key, rows = row["key"], await store.lineage(row)
        graph = TypeGraph(map(state_of, rows))
        model = model_of(key, graph.effective(key, graph.schemas))
        while len(self._known) >= _MOST:
            self._known.pop(next(iter(self._known)), None)
        versions = _versions(rows)
        check = partial(_check_fit, key, model)
        self._known[tenant.id, key] = _Known(row["project_id"], tuple(versions), versions, check)
        return check


def _versions(rows: Sequence[Row]) -> dict[str, Version]:
    return {row["key"]: (row["version"], row["updated_at"]) for row in rows}


def _check_fit(collection: str, model: type[BaseModel], data: Mapping[str, Any]) -> None:
    """Raises `ActionException(invalid_input)` for a document that does not fit, naming each field and the reason."""
    fields = misfits(model, encode_document(collection, data))
    if fields:
        message = f"this is no {collection!r} document: {summary(fields)}"
        raise failing(ErrorCode.INVALID_INPUT, message, record_type=collection, fields=fields)
