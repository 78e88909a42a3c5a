"""Outputs of the actions of change control."""

from __future__ import annotations

import warnings
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from actionengine.changes.diff import TypeDiff
from actionengine.changes.ops import OpType, Payload
from actionengine.changes.states import ChangeStatus
from actionengine.schemas.fields import SchemaDefinition
from actionengine.schemas.json_schemas import SchemaExtra, SchemaOf
from actionengine.schemas.models import Output

RecordTypeStatus = Literal["draft", "active", "retired"]
TargetType = Literal["form", "workflow", "rule", "record_type", "script", "file"]

SchemaDocument = Annotated[dict[str, Any], SchemaOf(SchemaDefinition)]
"""The JSON form of a schema."""


class EditedFile(Output):
    """A file before and after an edit of it."""

    file_path: str = Field(description="The path of the file.")
    text: str | None = Field(description="The text before the edit; null for no file.")
    sha256: str | None = Field(description="The hash of the text before the edit.")
    sha256_after: str | None = Field(description="The hash of the text after the edit.")


# Projects


class Project(Output):
    """A project of the tenant."""

    id: str = Field(description="The id of the project.")
    name: str = Field(description="The name, unique in the tenant.")
    description: str = Field(description="The purpose of the project.")
    require_review: bool = Field(description="True if changes must be `Ready` before they are merged.")
    created_at: datetime = Field(description="The time of its creation, in UTC.")


# Record types

with warnings.catch_warnings():
    # The contract has the name "schema"; an attribute of Pydantic's with that name is deprecated.
    warnings.filterwarnings("ignore", 'Field name "schema"')

    class RecordType(Output):
        """A record type. `schema` has its own fields, without inherited ones."""

        id: str = Field(description="The id of the record type.")
        project_id: str = Field(description="The id of its project.")
        key: str = Field(description="The key, unique in the project.")
        name: str = Field(description="The name, unique in the tenant.")
        description: str = Field(description="The meaning of the record type.")
        base_type: str | None = Field(description="The key of the type whose fields it inherits; null for none.")
        schema: SchemaDocument = Field(description="Its own fields, without inherited ones.")  # type: ignore[assignment]
        version: int = Field(description="The version of the schema.")
        status: RecordTypeStatus = Field(description="The status: documents are validated against an active type.")
        created_at: datetime = Field(description="The time of its creation, in UTC.")
        updated_at: datetime = Field(description="The time of its last change, in UTC.")

    class SchemaAt(Output):
        """The schema of a record type at a version; `change_id` names its change, None for the first version."""

        record_type_key: str = Field(description="The key of the record type.")
        version: int = Field(description="The version of the schema.")
        schema: SchemaDocument = Field(description="The fields at that version.")  # type: ignore[assignment]
        change_id: str | None = Field(description="The change that led to it; null for the first version.")

    class Snapshot(Output):
        """The schema of a record type at the `version` before a change touched it."""

        project_id: str = Field(description="The id of the project.")
        change_id: str = Field(description="The id of the change.")
        record_type_key: str = Field(description="The key of the record type.")
        version: int = Field(description="The version before the change.")
        schema: SchemaDocument = Field(description="The fields before the change.")  # type: ignore[assignment]
        created_at: datetime = Field(description="The time of the snapshot, in UTC.")


class History(Output):
    """The result of a replay; `mismatches` describes each snapshot and schema that the ops do not lead to."""

    record_type_key: str = Field(description="The key of the record type.")
    versions: int = Field(description="The number of versions.")
    ops: int = Field(description="The number of replayed ops.")
    snapshots: int = Field(description="The number of compared snapshots.")
    is_intact: bool = Field(description="True if the ops lead to all stored schemas.")
    mismatches: tuple[str, ...] = Field(description="Each snapshot or schema that the ops do not lead to.")


class InvalidDocument(Output):
    """A document that does not fit; `problems` has the reason for each such field, without its value."""

    id: str = Field(description="The id of the document.")
    problems: dict[str, str] = Field(description="The reason for each field that does not fit, by its name.")


class DocumentCheck(Output):
    """The number of checked documents, and those that do not fit; `next` is the `after` of the next page, if any."""

    record_type_key: str = Field(description="The key of the record type.")
    checked: int = Field(description="The number of checked documents.")
    invalid: tuple[InvalidDocument, ...] = Field(description="The documents that do not fit.")
    next: str | None = Field(description="The `after` of the next page; null at the end.")


# Changes


class Change(Output):
    """A change. `compensates` is the id of the change that it takes back."""

    id: str = Field(description="The id of the change.")
    project_id: str = Field(description="The id of its project.")
    title: str = Field(description="The title.")
    description: str = Field(description="The reason for the change.")
    status: ChangeStatus = Field(description="The status.")
    compensates: str | None = Field(description="The change that it takes back; null for none.")
    created_at: datetime = Field(description="The time of its creation, in UTC.")
    updated_at: datetime = Field(description="The time of its last change, in UTC.")
    merged_at: datetime | None = Field(description="The time of its merge, in UTC; null before.")


class Transitions(Output):
    """The statuses to which the caller may move a change now. `Merged` is among them if the caller may merge it."""

    change_id: str = Field(description="The id of the change.")
    status: ChangeStatus = Field(description="The status now.")
    require_review: bool = Field(description="True if the change must be `Ready` before it is executed or merged.")
    next_statuses: tuple[ChangeStatus, ...] = Field(description="The statuses to which you may move it.")


class FieldOfType(Output):
    """A field and the record type that declares it."""

    record_type_key: str = Field(description="The key of the record type.")
    field: str = Field(description="The name of the field.")


class Compensation(Change):
    """A drafted change that takes back another one. It `removes` the fields that the other one added, with their
    contents. It `restores_empty` the fields that the other one removed: their contents do not come back."""

    removes: tuple[FieldOfType, ...] = Field(default=(), description="The fields that it removes, with their contents.")
    restores_empty: tuple[FieldOfType, ...] = Field(
        default=(), description="The fields that come back without their contents."
    )


class Target(Output):
    """A thing that a change edits."""

    id: str = Field(description="The id of the target.")
    change_id: str = Field(description="The id of the change.")
    project_id: str = Field(description="The id of the project.")
    type: TargetType = Field(description="The kind of the thing.")
    selector: Annotated[dict[str, Any], SchemaExtra(additionalProperties={"type": "string"})] = Field(
        description="The name of the thing, under the member that its type asks for."
    )
    created_at: datetime = Field(description="The time of its creation, in UTC.")


class StoredPatchOp(Output):
    """An op of a change. `record_type_version` is the version that its author saw. Once the op is executed,
    `previous_snapshot` is the schema before it, and `applied_version` the version that it led to.

    The `previous_snapshot` of an `edit_file` is `{file_path, text, sha256, sha256_after}`: the text before it (None for
    no file), the hash of that text, and the hash of the text after it; `applied_version` counts the edits of the file.
    """

    id: str = Field(description="The id of the op.")
    change_id: str = Field(description="The id of the change.")
    target_id: str = Field(description="The id of its target.")
    position: int = Field(description="Its position in the change.")
    op_type: OpType = Field(description="The kind of the edit.")
    payload: Annotated[dict[str, Any], SchemaOf(Payload)] = Field(description="The edit.")
    record_type_version: int | None = Field(
        description="The version of the record type that its author saw; null for a file."
    )
    applied_version: int | None = Field(description="The version that it led to; null before it is executed.")
    previous_snapshot: Annotated[dict[str, Any], SchemaOf(SchemaDefinition | EditedFile)] | None = Field(
        description="The schema, or the file, before it was executed; null before."
    )
    executed_at: datetime | None = Field(description="The time of its execution, in UTC; null before.")
    created_at: datetime = Field(description="The time of its creation, in UTC.")


class Applied(Change):
    """A change after an execution or a merge; `diff` has the effect of this execution on record types, `files` the
    paths of the edited files."""

    applied_count: int = Field(description="The number of ops that this execution applied.")
    diff: tuple[TypeDiff, ...] = Field(description="The effect on record types.")
    files: tuple[str, ...] = Field(default=(), description="The paths of the edited files.")


class FileDiff(Output):
    """A unified diff of a file, with the number of lines that it adds and removes."""

    path: str = Field(description="The path of the file.")
    diff: str = Field(description="The unified diff.")
    added: int = Field(description="The number of added lines.")
    removed: int = Field(description="The number of removed lines.")


class Preview(Output):
    """The effect that a change would have on record types and files, and the documents that would no longer fit."""

    change_id: str = Field(description="The id of the change.")
    op_count: int = Field(description="The number of its ops.")
    diff: tuple[TypeDiff, ...] = Field(description="The effect on record types.")
    documents: tuple[DocumentCheck, ...] = Field(description="The documents that would no longer fit, by record type.")
    files: tuple[FileDiff, ...] = Field(default=(), description="The effect on files.")


class WrittenFile(Output):
    """A file that a change has edited: `written` now, `there` already, or in `conflict` with an edit from outside,
    which was not overwritten."""

    path: str = Field(description="The path of the file.")
    outcome: Literal["written", "there", "conflict"] = Field(
        description="The outcome: written now, there already, or in conflict with an edit from outside."
    )


class WrittenFiles(Output):
    """The files that a change has edited, by path."""

    change_id: str = Field(description="The id of the change.")
    files: tuple[WrittenFile, ...] = Field(description="The edited files, by path.")


# Workspaces


class Workspace(Output):
    """The working copy of a module, in which a change is tried; `kept` says whether it stays once it is stopped."""

    change_id: str = Field(description="The id of the change.")
    module_id: str = Field(description="The id of the module.")
    status: Literal["running", "stopped"] = Field(description="The status.")
    started_by: str | None = Field(description="The actor that started it, as type:id.")
    started_at: datetime = Field(description="The time of its start, in UTC.")
    stopped_at: datetime | None = Field(description="The time of its end, in UTC; null while it runs.")
    kept: bool = Field(description="True if the working copy stays once it is stopped.")


class OpPreview(Output):
    """A pending op of a change, tried in its workspace. `problem` says why it does not fit; `hunk`, `header`,
    `expected` and `found` describe the hunk that does not."""

    op_id: str = Field(description="The id of the op.")
    file_path: str = Field(description="The path of the file.")
    fits: bool = Field(description="True if the op fits the working copy.")
    problem: str | None = Field(default=None, description="The reason why it does not fit.")
    hunk: int | None = Field(default=None, description="The number of the hunk that does not fit.")
    header: str | None = Field(default=None, description="The header of that hunk.")
    expected: tuple[str, ...] = Field(default=(), description="The lines that the hunk expects.")
    found: tuple[str, ...] = Field(default=(), description="The lines that are there.")


class WorkspaceView(Workspace):
    """A workspace with the pending ops, tried in order, and the `diff` of the working copy against the module.
    `skipped_files` are files of ops that were edited in the working copy itself, and are not overwritten."""

    ops: tuple[OpPreview, ...] = Field(default=(), description="The pending ops, tried in order.")
    diff: str = Field(default="", description="The diff of the working copy against the module.")
    skipped_files: tuple[str, ...] = Field(
        default=(), description="Files that were edited in the working copy itself, and are not overwritten."
    )
