"""Outputs of the actions of change control."""

from __future__ import annotations

import warnings
from datetime import datetime
from typing import Any, Literal

from actionengine.changes.diff import TypeDiff
from actionengine.changes.ops import OpType
from actionengine.changes.states import ChangeStatus
from actionengine.schemas.models import Output

RecordTypeStatus = Literal["draft", "active", "retired"]
TargetType = Literal["form", "workflow", "rule", "record_type", "script", "file"]

# Projects


class Project(Output):
    """A project of the tenant."""

    id: str
    name: str
    description: str
    require_review: bool
    created_at: datetime


# Record types

with warnings.catch_warnings():
    # The contract has the name "schema"; an attribute of Pydantic's with that name is deprecated.
    warnings.filterwarnings("ignore", 'Field name "schema"')

    class RecordType(Output):
        """A record type. `schema` has its own fields, without inherited ones."""

        id: str
        project_id: str
        key: str
        name: str
        description: str
        base_type: str | None
        schema: dict[str, Any]  # type: ignore[assignment]
        version: int
        status: RecordTypeStatus
        created_at: datetime
        updated_at: datetime

    class SchemaAt(Output):
        """The schema of a record type at a version; `change_id` names its change, None for the first version."""

        record_type_key: str
        version: int
        schema: dict[str, Any]  # type: ignore[assignment]
        change_id: str | None

    class Snapshot(Output):
        """The schema of a record type at the `version` before a change touched it."""

        project_id: str
        change_id: str
        record_type_key: str
        version: int
        schema: dict[str, Any]  # type: ignore[assignment]
        created_at: datetime


class History(Output):
    """The result of a replay; `mismatches` describes each snapshot and schema that the ops do not lead to."""

    record_type_key: str
    versions: int
    ops: int
    snapshots: int
    is_intact: bool
    mismatches: tuple[str, ...]


class InvalidDocument(Output):
    """A document that does not fit; `problems` has the reason for each such field, without its value."""

    id: str
    problems: dict[str, str]


class DocumentCheck(Output):
    """The number of checked documents, and those that do not fit; `next` is the `after` of the next page, if any."""

    record_type_key: str
    checked: int
    invalid: tuple[InvalidDocument, ...]
    next: str | None


# Changes


class Change(Output):
    """A change. `compensates` is the id of the change that it takes back."""

    id: str
    project_id: str
    title: str
    description: str
    status: ChangeStatus
    compensates: str | None
    created_at: datetime
    updated_at: datetime
    merged_at: datetime | None


class FieldOfType(Output):
    """A field and the record type that declares it."""

    record_type_key: str
    field: str


class Compensation(Change):
    """A drafted change that takes back another one. It `removes` the fields that the other one added, with their
    contents. It `restores_empty` the fields that the other one removed: their contents do not come back."""

    removes: tuple[FieldOfType, ...] = ()
    restores_empty: tuple[FieldOfType, ...] = ()


class Target(Output):
    """A thing that a change edits."""

    id: str
    change_id: str
    project_id: str
    type: TargetType
    selector: dict[str, Any]
    created_at: datetime


class StoredPatchOp(Output):
    """An op of a change. `record_type_version` is the version that its author saw. Once the op is executed,
    `previous_snapshot` is the schema before it, and `applied_version` the version that it led to.

    The `previous_snapshot` of an `edit_file` is `{file_path, text, sha256, sha256_after}`: the text before it (None for
    no file), the hash of that text, and the hash of the text after it; `applied_version` counts the edits of the file.
    """

    id: str
    change_id: str
    target_id: str
    position: int
    op_type: OpType
    payload: dict[str, Any]
    record_type_version: int | None
    applied_version: int | None
    previous_snapshot: dict[str, Any] | None
    executed_at: datetime | None
    created_at: datetime


class Applied(Change):
    """A change after an execution or a merge; `diff` has the effect of this execution on record types, `files` the
    paths of the edited files."""

    applied_count: int
    diff: tuple[TypeDiff, ...]
    files: tuple[str, ...] = ()


class FileDiff(Output):
    """A unified diff of a file, with the number of lines that it adds and removes."""

    path: str
    diff: str
    added: int
    removed: int


class Preview(Output):
    """The effect that a change would have on record types and files, and the documents that would no longer fit."""

    change_id: str
    op_count: int
    diff: tuple[TypeDiff, ...]
    documents: tuple[DocumentCheck, ...]
    files: tuple[FileDiff, ...] = ()


class WrittenFile(Output):
    """A file that a change has edited: `written` now, `there` already, or in `conflict` with an edit from outside,
    which was not overwritten."""

    path: str
    outcome: Literal["written", "there", "conflict"]


class WrittenFiles(Output):
    """The files that a change has edited, by path."""

    change_id: str
    files: tuple[WrittenFile, ...]


# Workspaces


class Workspace(Output):
    """The working copy of a module, in which a change is tried; `kept` says whether it stays once it is stopped."""

    change_id: str
    module_id: str
    status: Literal["running", "stopped"]
    started_by: str | None
    started_at: datetime
    stopped_at: datetime | None
    kept: bool


class OpPreview(Output):
    """A pending op of a change, tried in its workspace. `problem` says why it does not fit; `hunk`, `header`,
    `expected` and `found` describe the hunk that does not."""

    op_id: str
    file_path: str
    fits: bool
    problem: str | None = None
    hunk: int | None = None
    header: str | None = None
    expected: tuple[str, ...] = ()
    found: tuple[str, ...] = ()


class WorkspaceView(Workspace):
    """A workspace with the pending ops, tried in order, and the `diff` of the working copy against the module.
    `skipped_files` are files of ops that were edited in the working copy itself, and are not overwritten."""

    ops: tuple[OpPreview, ...] = ()
    diff: str = ""
    skipped_files: tuple[str, ...] = ()
