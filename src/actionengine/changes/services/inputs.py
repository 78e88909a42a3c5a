"""Inputs of the actions of change control."""

from __future__ import annotations

import warnings
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, Field, model_validator

from actionengine.changes.models import RecordTypeStatus, TargetType
from actionengine.changes.ops import OpType, in_a_module
from actionengine.changes.states import ChangeStatus
from actionengine.schemas.fields import SchemaDefinition
from actionengine.schemas.models import Description, Flag, Id, Input, Name, Page, Reference, Title, UniqueName
from actionengine.storage.records import RESERVED_PREFIX
from actionengine.text.names import spelled

_SELECTORS = {
    "form": "form_key",
    "workflow": "workflow_key",
    "rule": "rule_key",
    "record_type": "record_type_key",
    "script": "script_key",
    "file": "file_path",
}
"""The member of a selector, by the type of the target."""


def _unreserved(key: str) -> str:
    if key.startswith(RESERVED_PREFIX):
        raise ValueError(f"keys that begin with {RESERVED_PREFIX!r} are reserved: choose another key")
    return key


Key = Annotated[Name, AfterValidator(_unreserved)]


# Projects


class CreateProject(Input):
    """A project; with `require_review`, its changes must be `Ready` before they are merged."""

    name: UniqueName
    description: Description = ""
    require_review: Flag = False


class ProjectReference(Input):
    """One project."""

    project_id: Id


# Record types

with warnings.catch_warnings():
    # The contract has the name "schema"; an attribute of Pydantic's with that name is deprecated.
    warnings.filterwarnings("ignore", 'Field name "schema"')

    class CreateRecordType(Input):
        """A record type, a draft at first. `name` is the key by default."""

        project_id: Id
        key: Key
        name: UniqueName | None = None
        description: Description = ""
        base_type: Name | None = None
        schema: SchemaDefinition = SchemaDefinition()  # type: ignore[assignment]


class RecordTypeReference(Input):
    """One record type."""

    project_id: Id
    key: Reference


class ListRecordTypes(Page):
    """A page of a project's record types, by key."""

    project_id: Id
    status: RecordTypeStatus | None = None


class GetSchemaAt(RecordTypeReference):
    """A record type, and either a change or a time."""

    change_id: Id | None = None
    at: AwareDatetime | None = None

    @model_validator(mode="after")
    def _check_one_selector(self) -> GetSchemaAt:
        if (self.change_id is None) == (self.at is None):
            raise ValueError("give either change_id or at")
        return self


class CheckDocuments(RecordTypeReference):
    """A page of a record type's documents, by id; `change_id` checks them against the schema after that change."""

    change_id: Id | None = None
    after: Id | None = None
    limit: int = Field(default=1000, ge=1, le=1000)


# Changes


class CreateChange(Input):
    """A new change of a project."""

    project_id: Id
    title: Title
    description: Description = ""


class ChangeReference(Input):
    """One change."""

    change_id: Id


class ListOfChange(Page):
    """A page of a change's targets, by id, or of its snapshots, by the key of the record type."""

    change_id: Id


class ListPatchOps(Input):
    """A page of a change's ops, by position; `after` is a position."""

    change_id: Id
    after: int | None = Field(default=None, ge=0, lt=2**31)
    limit: int = Field(default=100, ge=1, le=1000)


class ListChanges(Page):
    """A page of changes, by id; a filter that is not given matches all."""

    project_id: Id | None = None
    status: ChangeStatus | None = None


class AddTarget(Input):
    """A target, named by a `selector` such as `{"record_type_key": "job"}` or `{"file_path": "main.py"}`."""

    change_id: Id
    type: TargetType
    selector: dict[str, Any]

    @model_validator(mode="after")
    def _check_selector(self) -> AddTarget:
        name = _SELECTORS[self.type]
        value = self.selector.get(name)
        if set(self.selector) != {name} or not isinstance(value, str) or not 0 < len(value) <= 1000:
            raise ValueError(f"the selector of a target of the type {self.type!r} is {{{name!r}: '…'}}")
        if self.type == "file":
            in_a_module(value)
        else:
            self.selector[name] = spelled(value)
        return self


class AddPatchOp(Input):
    """An edit of a target, with the payload of its `op_type`. The default target is the one of the record type, or of
    the file, that the payload names."""

    change_id: Id
    target_id: Id | None = None
    op_type: OpType
    payload: dict[str, Any]


class PatchOpReference(Input):
    """One op of a change."""

    change_id: Id
    op_id: Id


class Transition(Input):
    """A change and its next status."""

    change_id: Id
    status: ChangeStatus


class PlanCompensation(Input):
    """An executed change, and the title of the new one; by default it is derived from the first."""

    change_id: Id
    title: Title | None = None


# Workspaces


class StopWorkspace(Input):
    """A change whose workspace stops; `keep` keeps the working copy until the change is merged."""

    change_id: Id
    keep: Flag = False
