"""The things of change control as rows of a unit of work: what the executor and the services read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from actionengine.changes.ops import PatchOp
from actionengine.changes.transform import RecordTypeState
from actionengine.errors import not_found
from actionengine.pipeline.internal_context import InternalContext
from actionengine.schemas.schema import Schema
from actionengine.storage.port import UnitOfWork
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
"""The columns of a record type that say where it stands."""


class Store:
    """The tables as one unit of work sees them."""

    def __init__(self, unit_of_work: UnitOfWork) -> None:
        rows = unit_of_work.rows
        self.now = unit_of_work.now
        """Returns the time by the storage's clock."""
        self.projects = rows(PROJECTS)
        self.record_types = rows(RECORD_TYPES)
        self.changes = rows(CHANGES)
        self.targets = rows(TARGETS)
        self.ops = rows(PATCH_OPS)
        self.snapshots = rows(SNAPSHOTS)

    async def project(self, id: str) -> Row:
        """A project. Raises `ActionError(not_found)`."""
        for row in await self.projects.find({"id": id}):
            return row
        raise not_found("project", id)

    async def change(self, id: str, lock: bool = False) -> Row:
        """A change; locked, so that nobody else does anything to it. Raises `ActionError(not_found)`."""
        for row in await self.changes.find({"id": id}, lock=lock):
            return row
        raise not_found("change", id)

    async def record_type(self, project_id: str, key: str, lock: bool = False) -> Row:
        """A record type of a project. Raises `ActionError(not_found)`."""
        for row in await self.record_types.find({"project_id": project_id, "key": key}, lock=lock):
            return row
        raise not_found("record type", key, project_id=project_id)

    async def first_of_key(self, key: str, *, descending: bool = False, lock: bool = False) -> list[Row]:
        """The first of the record types that the tenant's projects have under a key: the active one, if any is; in
        descending order the one that was retired last, if any was. As many projects as there are may have one: so none
        of the others is read."""
        return await self.record_types.find(
            {"key": key}, order=("status", "updated_at", "id"), limit=1, lock=lock, descending=descending
        )

    async def lineage(self, record_type: Row) -> list[Row]:
        """A record type, and those that it inherits from."""
        project_id, key = record_type["project_id"], record_type["key"]
        if record_type["base_type"] is None:
            return [record_type]
        bases = await self._with_ancestors(project_id, {key: record_type["base_type"]})
        return [
            record_type,
            *await self.record_types.find({"project_id": project_id, "key": tuple(ancestors(key, bases))}),
        ]

    async def bases(self, project_id: str, keys: Iterable[str]) -> dict[str, str | None]:
        """Return the keys of these record types, of those that inherit from them, and of those that any of them
        inherits from, each with the key of its base type: a statement for each generation."""
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
    """The tables, from inside an action."""
    return Store(ctx.unit_of_work)


async def page(
    ctx: InternalContext, rows: AsyncRows, where: Mapping[str, Any], *, by: str, after: str | int | None, limit: int
) -> list[Row]:
    """A page of rows in the order of a column, those after a value of it. The action log says how many there were."""
    found = await rows.find(where, above={by: after} if after is not None else None, order=(by,), limit=limit)
    ctx.set_logged_output({"count": len(found)})
    return found


def to_type_state(row: Row) -> RecordTypeState:
    """A record type as transforms see it."""
    return RecordTypeState(
        row["key"], row["project_id"], row["base_type"], row["version"], Schema.from_document(row["schema"])
    )


def to_op(row: Row) -> PatchOp:
    """An op as transforms see it."""
    return PatchOp(row["op_type"], row["payload"], row["id"])


def ancestors(key: str, bases: Mapping[str, str | None]) -> list[str]:
    """The types that one inherits from, the nearest first; those that are not there are left out."""
    found: list[str] = []
    base = bases.get(key)
    while base is not None and base in bases and base not in found:
        found.append(base)
        base = bases[base]
    return found


def descendants(keys: Iterable[str], bases: Mapping[str, str | None]) -> set[str]:
    """The types that inherit from any of these."""
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
    """What events and the action log call a record type."""
    return f"record_type/{project_id}/{key}"
