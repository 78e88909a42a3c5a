"""What the services of change control take and give."""

from __future__ import annotations

import warnings
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    Field,
    model_validator,
)

from actionengine.changes.diff import TypeDiff
from actionengine.changes.ops import OpType, in_a_module
from actionengine.changes.states import ChangeStatus
from actionengine.schemas.fields import SchemaDefinition
from actionengine.schemas.models import Description, Flag, Id, Input, Name, Output, Page, Reference, Title, UniqueName
from actionengine.storage.records import RESERVED_PREFIX
from actionengine.text.names import spelled

RecordTypeStatus = Literal["draft", "active", "retired"]
TargetType = Literal["form", "workflow", "rule", "record_type", "script", "file"]

SELECTORS = {
    "form": "form_key",
    "workflow": "workflow_key",
    "rule": "rule_key",
    "record_type": "record_type_key",
    "script": "script_key",
    "file": "file_path",
}
"""What the selector of a target of each type names."""


def _unreserved(key: str) -> str:
    if key.startswith(RESERVED_PREFIX):
        raise ValueError(f"keys that begin with {RESERVED_PREFIX!r} are the library's own")
    return key


Key = Annotated[Name, AfterValidator(_unreserved)]


# Projects


class CreateProject(Input):
    """A project; with `require_review`, none of its changes is merged that was not `Ready`."""

    name: UniqueName
    description: Description = ""
    require_review: Flag = False


class ProjectReference(Input):
    """One project."""

    project_id: Id


class Project(Output):
    """A project of the tenant's."""

    id: str
    name: str
    description: str
    require_review: bool
    created_at: datetime


# Record types

with warnings.catch_warnings():
    # "schema" is the name that the contract has; Pydantic's own attribute of that name is deprecated.
    warnings.filterwarnings("ignore", 'Field name "schema"')

    class CreateRecordType(Input):
        """A record type, which is a draft at first. `name` is its key where none is given."""

        project_id: Id
        key: Key
        name: UniqueName | None = None
        description: Description = ""
        base_type: Name | None = None
        schema: SchemaDefinition = SchemaDefinition()  # type: ignore[assignment]

    class RecordType(Output):
        """A record type. `schema` has its own fields; those of its base types are theirs."""

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
        """The schema of a record type as it was; `change_id` names the change that made it, None the first one."""

        record_type_key: str
        version: int
        schema: dict[str, Any]  # type: ignore[assignment]
        change_id: str | None

    class Snapshot(Output):
        """The schema of one record type just before one change touched it; `version` is the version it then had."""

        project_id: str
        change_id: str
        record_type_key: str
        version: int
        schema: dict[str, Any]  # type: ignore[assignment]
        created_at: datetime


class RecordTypeReference(Input):
    """One record type."""

    project_id: Id
    key: Reference


class ListRecordTypes(Page):
    """The record types of a project, by key: `after` is a key."""

    project_id: Id
    status: RecordTypeStatus | None = None


class GetSchemaAt(RecordTypeReference):
    """The schema as a change has left it, or as it was at a time; either of the two."""

    change_id: Id | None = None
    at: AwareDatetime | None = None

    @model_validator(mode="after")
    def _check_one_selector(self) -> GetSchemaAt:
        if (self.change_id is None) == (self.at is None):
            raise ValueError("give either change_id or at")
        return self


class History(Output):
    """What came of a replay: whether it led to every snapshot and to today's schema, and where not."""

    record_type_key: str
    versions: int
    ops: int
    snapshots: int
    is_intact: bool
    mismatches: tuple[str, ...]


class CheckDocuments(RecordTypeReference):
    """Documents of a record type, by id, against its schema; or against what a change would make of it."""

    change_id: Id | None = None
    after: Id | None = None
    limit: int = Field(default=1000, ge=1, le=1000)


class InvalidDocument(Output):
    """A document that does not fit, and each field that does not, with the reason. What is in it is not shown."""

    id: str
    problems: dict[str, str]


class DocumentCheck(Output):
    """How many documents were checked and which do not fit; `next` is the id to go on after, where there are more."""

    record_type_key: str
    checked: int
    invalid: tuple[InvalidDocument, ...]
    next: str | None


# Changes


class CreateChange(Input):
    """A change of a project."""

    project_id: Id
    title: Title
    description: Description = ""


class ChangeReference(Input):
    """One change."""

    change_id: Id


class ListSnapshots(Page):
    """The snapshots of a change, by the key of the record type: `after` is a key."""

    change_id: Id


class ListTargets(Page):
    """The targets of a change, by id."""

    change_id: Id


class ListPatchOps(Input):
    """The ops of a change, in the order in which they are applied: after this position, at most so many."""

    change_id: Id
    after: int | None = Field(default=None, ge=0, lt=2**31)
    limit: int = Field(default=100, ge=1, le=1000)


class ListChanges(Page):
    """Changes by id, of a project and of a status, or of any."""

    project_id: Id | None = None
    status: ChangeStatus | None = None


class AddTarget(Input):
    """What a change is about: `selector` names it, as `{"record_type_key": "job"}` or `{"file_path": "main.py"}`."""

    change_id: Id
    type: TargetType
    selector: dict[str, Any]

    @model_validator(mode="after")
    def _check_selector(self) -> AddTarget:
        name = SELECTORS[self.type]
        value = self.selector.get(name)
        if set(self.selector) != {name} or not isinstance(value, str) or not 0 < len(value) <= 1000:
            raise ValueError(f"the selector of a target of the type {self.type!r} is {{{name!r}: '…'}}")
        if self.type == "file":
            in_a_module(value)
        else:
            self.selector[name] = spelled(value)
        return self


class AddPatchOp(Input):
    """An edit of a target; the payload is as its `op_type` says. Where no target is named, it is the one of the record
    type, or of the file, that the payload is about."""

    change_id: Id
    target_id: Id | None = None
    op_type: OpType
    payload: dict[str, Any]


class PatchOpReference(Input):
    """One op of a change."""

    change_id: Id
    op_id: Id


class Transition(Input):
    """Where a change is to go."""

    change_id: Id
    status: ChangeStatus


class PlanCompensation(Input):
    """A change that was executed; the new one's title, where it is not to be given one."""

    change_id: Id
    title: Title | None = None


class Change(Output):
    """A change. `compensates` names the change that it takes back."""

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
    """A field, and the record type that declares it."""

    record_type_key: str
    field: str


class Compensation(Change):
    """A drafted change that takes back another one. It `removes` the fields that the other one added, with what
    documents have in them. What documents had in the fields that the other one removed does not come back:
    `restores_empty`."""

    removes: tuple[FieldOfType, ...] = ()
    restores_empty: tuple[FieldOfType, ...] = ()


class Target(Output):
    """What a change is about."""

    id: str
    change_id: str
    project_id: str
    type: TargetType
    selector: dict[str, Any]
    created_at: datetime


class StoredPatchOp(Output):
    """An op of a change. `record_type_version` is what its author saw; `previous_snapshot` the schema just before it,
    `applied_version` the version that it led to, once it is executed.

    Of an `edit_file`, `previous_snapshot` is `{file_path, text, sha256, sha256_after}`: the text just before it (None
    where there was no file), its hash, and that of the text after it; `applied_version` counts the edits of the file.
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
    """A change that was executed or merged; `diff` is what it has done to record types this time, `files` the paths of
    those that it has edited."""

    applied_count: int
    diff: tuple[TypeDiff, ...]
    files: tuple[str, ...] = ()


class FileDiff(Output):
    """What would become of a file: a unified diff, and how many lines it adds and removes."""

    path: str
    diff: str
    added: int
    removed: int


class Preview(Output):
    """What a change would do to record types and to files, and which documents would fit no longer."""

    change_id: str
    op_count: int
    diff: tuple[TypeDiff, ...]
    documents: tuple[DocumentCheck, ...]
    files: tuple[FileDiff, ...] = ()


class WrittenFile(Output):
    """What came of a file that a change has edited: `written` just now, `there` already, or in `conflict`: it is one
    that no change has left, and was left alone."""

    path: str
    outcome: Literal["written", "there", "conflict"]


class WrittenFiles(Output):
    """The files that a change has edited, by path."""

    change_id: str
    files: tuple[WrittenFile, ...]


# Workspaces


class StopWorkspace(Input):
    """The change whose workspace is to be stopped; with `keep`, the working copy stays until the change is merged."""

    change_id: Id
    keep: Flag = False


class Workspace(Output):
    """The working copy of a module in which a change is tried; `kept` says whether it stays although it is stopped."""

    change_id: str
    module_id: str
    status: Literal["running", "stopped"]
    started_by: str | None
    started_at: datetime
    stopped_at: datetime | None
    kept: bool


class OpPreview(Output):
    """A pending op of a change, tried in its workspace. Where it does not fit, `problem` says why; where it is a hunk
    that does not, `hunk`, `header`, `expected` and `found` say which."""

    op_id: str
    file_path: str
    fits: bool
    problem: str | None = None
    hunk: int | None = None
    header: str | None = None
    expected: tuple[str, ...] = ()
    found: tuple[str, ...] = ()


class WorkspaceView(Workspace):
    """What is in a workspace: the pending ops, tried one after the other, and how the working copy, with those in it
    that fit, differs from the module. `skipped_files` are files that ops are about and that somebody has edited there:
    they are as that one left them."""

    ops: tuple[OpPreview, ...] = ()
    diff: str = ""
    skipped_files: tuple[str, ...] = ()
