"""The library's own tables that a unit of work reads and writes by rows: those of change control.

A declaration is what the backends make their statements of. What the rows must be like (keys, references, triggers) is
said in the migrations, and for memory here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

Kind = Literal["text", "integer", "boolean", "json", "time"]
"""What a column holds: `str`, `int`, `bool`, what JSON can carry, a `datetime` in UTC; each may be None."""

Row = dict[str, Any]
"""A row by column; `tenant_id` is not in it, since a unit of work has one tenant."""


class Table(NamedTuple):
    """A table of the library's: its columns beside `tenant_id`, its key, and what else is unique in a tenant.

    `indexed_values` are values of a column that have an index each: a statement names them, so that it implies them.
    `unique_while` names columns that are unique among the rows whose other column has a value, as in (`key`, `status`,
    `active`).
    """

    name: str
    columns: Mapping[str, Kind]
    key: tuple[str, ...]
    unique: tuple[tuple[str, ...], ...] = ()
    indexed_values: Mapping[str, tuple[str, ...]] = {}
    unique_while: tuple[tuple[str, str, str], ...] = ()


class AsyncRows(Protocol):
    """A tenant's rows of one of the library's own tables. Each method is one statement, however many rows there are.

    Each method that writes raises `ActionError`: `conflict` for a taken key, or for what the database refuses.
    """

    async def find(
        self,
        where: Mapping[str, Any] | None = None,
        *,
        above: Mapping[str, Any] | None = None,
        columns: Sequence[str] | None = None,
        order: Sequence[str] | None = None,
        limit: int | None = None,
        lock: bool = False,
        descending: bool = False,
    ) -> list[Row]:
        """Rows whose columns equal what `where` says (a value, None, or a tuple of values, any of which will do), and
        are greater than what `above` says. They have all columns, or those named, and come in ascending `order`, or in
        `descending`: by the table's key, where nothing else is said. A page, of at most `limit`, also ends once its
        rows have 4 MiB of JSON. With `lock`, nobody else changes or locks them until the end of the unit of work;
        where somebody has, this waits, and sees, as does what is read from then on, what they have committed."""

    async def insert(self, rows: Sequence[Row]) -> None:
        """Add rows, all columns given."""

    async def update(self, rows: Sequence[Row]) -> None:
        """Change rows, found by their key, to the other columns that are given, the same in each row. A row that is not
        there is `conflict`."""

    async def delete(self, where: Mapping[str, Any]) -> int:
        """Remove rows, found as by `find`; how many there were."""


PROJECTS = Table(
    "ae_projects",
    {"id": "text", "name": "text", "description": "text", "require_review": "boolean", "created_at": "time"},
    ("id",),
    (("name",),),
)

RECORD_TYPES = Table(
    "ae_record_types",
    {
        "id": "text",
        "project_id": "text",
        "key": "text",
        "name": "text",
        "description": "text",
        "base_type": "text",
        "schema": "json",
        "initial_schema": "json",
        "version": "integer",
        "base_version": "integer",
        "bytes_since_base": "integer",
        "status": "text",
        "changed_by": "text",
        "created_at": "time",
        "updated_at": "time",
    },
    ("id",),
    (("project_id", "key"), ("name",)),
    {"status": ("draft", "active", "retired")},
    (("key", "status", "active"),),
)

CHANGES = Table(
    "ae_changes",
    {
        "id": "text",
        "project_id": "text",
        "title": "text",
        "description": "text",
        "status": "text",
        "compensates": "text",
        "op_count": "integer",
        "created_at": "time",
        "updated_at": "time",
        "merged_at": "time",
    },
    ("id",),
    indexed_values={
        "status": ("Draft", "Implementing", "WorkspaceRunning", "Validating", "ValidationFailed", "Ready", "Merged"),
    },
)

TARGETS = Table(
    "ae_change_targets",
    {
        "id": "text",
        "change_id": "text",
        "project_id": "text",
        "type": "text",
        "selector": "json",
        "created_at": "time",
    },
    ("id",),
)

PATCH_OPS = Table(
    "ae_patch_ops",
    {
        "id": "text",
        "change_id": "text",
        "project_id": "text",
        "target_id": "text",
        "position": "integer",
        "op_type": "text",
        "payload": "json",
        "record_type_key": "text",
        "field": "text",
        "gives": "text",
        "record_type_version": "integer",
        "applied_version": "integer",
        "previous_snapshot": "json",
        "executed_at": "time",
        "created_at": "time",
        "turn": "integer",
    },
    ("id",),
    (("change_id", "position"),),
)

SNAPSHOTS = Table(
    "ae_snapshots",
    {
        "change_id": "text",
        "record_type_key": "text",
        "project_id": "text",
        "version": "integer",
        "schema": "json",
        "created_at": "time",
    },
    ("change_id", "record_type_key"),
)

CHANGE_CONTROL_TABLES = (PROJECTS, RECORD_TYPES, CHANGES, TARGETS, PATCH_OPS, SNAPSHOTS)
