"""The library's own tables that a unit of work reads and writes by rows: those of change control.

The backends derive their statements from a declaration. The migrations declare keys, references and triggers; the
storage in memory takes them from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

Kind = Literal["text", "integer", "boolean", "json", "time"]
"""The type of a column: `str`, `int`, `bool`, any JSON value, or a `datetime` in UTC; each may be None."""

Row = dict[str, Any]
"""A row by column, without `tenant_id`: a unit of work has one tenant."""


class Table(NamedTuple):
    """A table of the library: its columns besides `tenant_id`, its key, and its unique columns in a tenant.

    Each of the `indexed_values` of a column has an index, and a statement that names the value uses it. `unique_while`
    names columns that are unique among the rows with a value in another column, as in (`key`, `status`, `active`).
    """

    name: str
    columns: Mapping[str, Kind]
    key: tuple[str, ...]
    unique: tuple[tuple[str, ...], ...] = ()
    indexed_values: Mapping[str, tuple[str, ...]] = {}
    unique_while: tuple[tuple[str, str, str], ...] = ()


class AsyncRows(Protocol):
    """A tenant's rows of one of the library's own tables. Each method is one statement for any number of rows.

    Each method that writes raises `ActionError`: `conflict` for a taken key, or for a refusal of the database.
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
        """Return the rows whose columns equal `where` (a value, None, or a tuple of accepted values) and exceed
        `above`, with all columns or those named, in ascending or `descending` order: by `order`, or by the table's key.

        A page has at most `limit` rows, and also ends at 4 MiB of JSON. With `lock`, other units of work cannot change
        or lock the rows until this one ends. If one already has, this waits for it, and sees its commits from then on.
        """

    async def insert(self, rows: Sequence[Row]) -> None:
        """Add rows with all their columns."""

    async def update(self, rows: Sequence[Row]) -> None:
        """Change rows, found by their key, to the other given columns, which are the same in each row. Raise `conflict`
        for a row that does not exist."""

    async def delete(self, where: Mapping[str, Any]) -> int:
        """Remove rows, found as by `find`; return their number."""


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
