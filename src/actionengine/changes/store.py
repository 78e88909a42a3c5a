"""The tables of change control inside a unit of work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from actionengine.changes.ops import PatchOp
from actionengine.changes.type_graph import RecordTypeState
from actionengine.errors import not_found
from actionengine.pipeline.internal_context import InternalContext
from actionengine.schemas.schema import Schema
from actionengine.storage.port import UnitOfWork
from actionengine.storage.records import new_id
from actionengine.storage.tables import (
    CHANGES,
    PATCH_OPS,
    PROJECTS,
    RECORD_TYPES,
    SNAPSHOTS,
    TARGETS,
    AsyncRows,
    Row,
)

TYPE_GRAPH = ("key", "base_type")
"""The columns of a record type that place it in the hierarchy."""


class Store:
    """The tables inside one unit of work."""

    def __init__(self, unit_of_work: UnitOfWork, ctx: InternalContext | None = None) -> None:
        rows = unit_of_work.rows
        self.now = unit_of_work.now if ctx is None else ctx.time
        """Returns the time for what is written, by the storage's clock."""
        self.new_id = new_id if ctx is None else ctx.new_id
        """Returns a new id, which sorts by time."""
        self.projects = rows(PROJECTS)
        self.record_types = rows(RECORD_TYPES)
        self.changes = rows(CHANGES)
        self.targets = rows(TARGETS)
        self.ops = rows(PATCH_OPS)
        self.snapshots = rows(SNAPSHOTS)

    async def project(self, id: str) -> Row:
        """Return a project. Raises `ActionError(not_found)`."""
        for row in await self.projects.find({"id": id}):
            return row
        raise not_found("project", id)

    async def change(self, id: str, lock: bool = False) -> Row:
        """Return a change; `lock` locks it until the commit. Raises `ActionError(not_found)`."""
        for row in await self.changes.find({"id": id}, lock=lock):
            return row
        raise not_found("change", id)

    async def record_type(self, project_id: str, key: str, lock: bool = False) -> Row:
        """Return a record type of a project. Raises `ActionError(not_found)`."""
        for row in await self.record_types.find({"project_id": project_id, "key": key}, lock=lock):
            return row
        raise not_found("record type", key, project_id=project_id)

    async def first_of_key(self, key: str, *, descending: bool = False, lock: bool = False) -> list[Row]:
        """Return, in a list of one or none, the first of the tenant's record types with a key: the active one if there
        is one; `descending`, the one that was retired last if there is one. Each project may have such a type, so the
        others are not read."""
        return await self.record_types.find(
            {"key": key}, order=("status", "updated_at", "id"), limit=1, lock=lock, descending=descending
        )

    async def lineage(self, record_type: Row) -> list[Row]:
        """Return a record type and its ancestors."""
        project_id, key = record_type["project_id"], record_type["key"]
        if record_type["base_type"] is None:
            return [record_type]
        bases = await self._with_ancestors(project_id, {key: record_type["base_type"]})
        return [
            record_type,
            *await self.record_types.find({"project_id": project_id, "key": tuple(ancestors(key, bases))}),
        ]

    async def bases(self, project_id: str, keys: Iterable[str]) -> dict[str, str | None]:
        """Return the base types of these record types, of their descendants, and of all their ancestors, by key. Each
        generation takes a statement."""
        found: dict[str, str | None] = {}
        rows = await self._bases_of(project_id, "key", keys)
        while rows:
            found |= rows
            below = await self._bases_of(project_id, "base_type", rows)
            rows = {key: base for key, base in below.items() if key not in found}
        return await self._with_ancestors(project_id, found)

    async def _with_ancestors(self, project_id: str, bases: dict[str, str | None]) -> dict[str, str | None]:
        missing = {base for base in bases.values() if base is not None} - bases.keys()
        while missing:
            above = await self._bases_of(project_id, "key", missing)
            bases = bases | above
            missing = {base for base in above.values() if base is not None} - bases.keys()
        return bases

    async def _bases_of(self, project_id: str, column: str, keys: Iterable[str]) -> dict[str, str | None]:
        where = {"project_id": project_id, column: tuple(sorted(keys))}
        rows = await self.record_types.find(where, columns=TYPE_GRAPH, order=("key",))
        return {row["key"]: row["base_type"] for row in rows}


def open_store(ctx: InternalContext) -> Store:
    """Return the tables inside an action's unit of work."""
    return Store(ctx.unit_of_work, ctx)


async def page(
    ctx: InternalContext, rows: AsyncRows, where: Mapping[str, Any], *, by: str, after: str | int | None, limit: int
) -> list[Row]:
    """Return a page of rows in the order of a column, those after a value of it; log their number."""
    found = await rows.find(where, above={by: after} if after is not None else None, order=(by,), limit=limit)
    ctx.set_logged_output({"count": len(found)})
    return found


def to_type_state(row: Row) -> RecordTypeState:
    """Return the state of a stored record type."""
    return RecordTypeState(
        row["key"], row["project_id"], row["base_type"], row["version"], Schema.from_document(row["schema"])
    )


def to_op(row: Row) -> PatchOp:
    """Return the op of a row."""
    return PatchOp(row["op_type"], row["payload"], row["id"])


def schema_reference(base_version: int, before: Schema) -> dict[str, Any]:
    """Return the `previous_snapshot` that an executed op stores: a reference to the schema before it."""
    return {"base_version": base_version, "sha256": before.sha256}


def ancestors(key: str, bases: Mapping[str, str | None]) -> list[str]:
    """Return the types that a type inherits from, the nearest first, as far as `bases` has them."""
    found: list[str] = []
    base = bases.get(key)
    while base is not None and base in bases and base not in found:
        found.append(base)
        base = bases[base]
    return found


def descendants(keys: Iterable[str], bases: Mapping[str, str | None]) -> set[str]:
    """Return the types that inherit from any of these."""
    children: dict[str | None, list[str]] = {}
    for key, base in bases.items():
        children.setdefault(base, []).append(key)
    found: set[str] = set()
    waiting = list(keys)
    while waiting:
        derived = set(children.get(waiting.pop(), ())) - found
        found |= derived
        waiting.extend(derived)
    return found


def record_type_subject(project_id: str, key: str) -> str:
    """Return the subject of a record type in events and in the action log."""
    return f"record_type/{project_id}/{key}"
