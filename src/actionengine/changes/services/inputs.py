"""Inputs of the actions of change control."""

from __future__ import annotations

import warnings
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from actionengine.boundary.files.paths import NO_EDITED_PATH, PATH_PATTERN
from actionengine.changes.models import RecordTypeStatus, TargetType
from actionengine.changes.ops import PAYLOADS, OpType, Payload, in_a_module
from actionengine.changes.states import ChangeStatus
from actionengine.schemas.fields import SchemaDefinition
from actionengine.schemas.json_schemas import JsonSchema, SchemaExtra, SchemaOf, by_case, exactly_one_of
from actionengine.schemas.models import (
    VISIBLE_PATTERN,
    Description,
    Flag,
    Id,
    Input,
    Name,
    Page,
    Reference,
    Title,
    UniqueName,
)
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


def _selector_schema(name: str) -> JsonSchema:
    text: JsonSchema = {"type": "string", "minLength": 1, "maxLength": 1000, "description": "The name of the thing."}
    if name == "file_path":
        text |= {"pattern": PATH_PATTERN, "not": {"pattern": NO_EDITED_PATH}}
    else:
        text |= {"pattern": VISIBLE_PATTERN}
    return {"type": "object", "properties": {name: text}, "required": [name], "additionalProperties": False}


def _unreserved(key: str) -> str:
    if key.startswith(RESERVED_PREFIX):
        raise ValueError(f"keys that begin with {RESERVED_PREFIX!r} are reserved: choose another key")
    return key


Key = Annotated[Name, AfterValidator(_unreserved), SchemaExtra(not_={"pattern": f"^{RESERVED_PREFIX}"})]
ProjectId = Annotated[Id, Field(description="The id of the project.")]
ChangeId = Annotated[Id, Field(description="The id of the change.")]


# Projects


class CreateProject(Input):
    """A project; with `require_review`, its changes must be `Ready` before they are merged."""

    name: UniqueName = Field(description="The name of the project, unique in the tenant.")
    description: Description = Field(default="", description="The purpose of the project.")
    require_review: Flag = Field(default=False, description="True if changes must be `Ready` before they are merged.")


class ProjectReference(Input):
    """One project."""

    project_id: ProjectId


# Record types

with warnings.catch_warnings():
    # The contract has the name "schema"; an attribute of Pydantic's with that name is deprecated.
    warnings.filterwarnings("ignore", 'Field name "schema"')

    class CreateRecordType(Input):
        """A record type, a draft at first. `name` is the key by default."""

        project_id: ProjectId
        key: Key = Field(description="The key of the record type, unique in its project.")
        name: UniqueName | None = Field(
            default=None, description="The name of the record type, unique in the tenant; by default the key."
        )
        description: Description = Field(default="", description="The meaning of the record type.")
        base_type: Name | None = Field(
            default=None, description="The key of the record type whose fields it inherits; null for none."
        )
        schema: SchemaDefinition = Field(  # type: ignore[assignment]
            default=SchemaDefinition(), description="The first fields of the record type."
        )


class RecordTypeReference(Input):
    """One record type."""

    project_id: ProjectId
    key: Reference = Field(description="The key of the record type.")


class ListRecordTypes(Page):
    """A page of a project's record types, by key."""

    project_id: ProjectId
    status: RecordTypeStatus | None = Field(default=None, description="Only types of this status; null for all.")


class GetSchemaAt(RecordTypeReference):
    """A record type, and either a change or a time."""

    change_id: Id | None = Field(default=None, description="The change after which to read the schema.")
    at: AwareDatetime | None = Field(
        default=None, description="The time at which to read the schema, in ISO 8601 with an offset."
    )

    @model_validator(mode="after")
    def _check_one_selector(self) -> GetSchemaAt:
        if (self.change_id is None) == (self.at is None):
            raise ValueError("give either change_id or at")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        """Return the schema, which asks for one of the two."""
        return exactly_one_of(handler.resolve_ref_schema(handler(schema)), "change_id", "at")


class CheckDocuments(RecordTypeReference):
    """A page of a record type's documents, by id; `change_id` checks them against the schema after that change."""

    change_id: Id | None = Field(
        default=None, description="The change after which the documents have to fit; null checks them as of now."
    )
    after: Id | None = Field(default=None, description="The id after which the page begins; null for the first page.")
    limit: int = Field(default=1000, ge=1, le=1000, description="The most documents to check.")


# Changes


class CreateChange(Input):
    """A new change of a project."""

    project_id: ProjectId
    title: Title = Field(description="The title of the change.")
    description: Description = Field(default="", description="The reason for the change.")


class ChangeReference(Input):
    """One change."""

    change_id: ChangeId


class ListOfChange(Page):
    """A page of a change's targets, by id, or of its snapshots, by the key of the record type."""

    change_id: ChangeId


class ListPatchOps(Input):
    """A page of a change's ops, by position; `after` is a position."""

    change_id: ChangeId
    after: int | None = Field(
        default=None, ge=0, lt=2**31, description="The position after which the page begins; null for the first page."
    )
    limit: int = Field(default=100, ge=1, le=1000, description="The most ops of the page.")


class ListChanges(Page):
    """A page of changes, by id; a filter that is not given matches all."""

    project_id: Id | None = Field(default=None, description="Only changes of this project; null for all.")
    status: ChangeStatus | None = Field(default=None, description="Only changes of this status; null for all.")


class AddTarget(Input):
    """A target, named by a `selector` such as `{"record_type_key": "job"}` or `{"file_path": "main.py"}`."""

    change_id: ChangeId
    type: TargetType = Field(description="The kind of the thing that the change edits.")
    selector: dict[str, Any] = Field(description="The name of the thing, under the member that its type asks for.")

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

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        """Return the schema, in which the type decides over the selector."""
        whole = handler.resolve_ref_schema(handler(schema))
        selectors = {type: _selector_schema(name) for type, name in _SELECTORS.items()}
        about = {name: whole["properties"]["selector"][name] for name in ("title", "description")}
        whole["properties"]["selector"] = {"anyOf": list(selectors.values()), **about}
        return by_case(whole, "type", {(type,): {"properties": {"selector": each}} for type, each in selectors.items()})


class AddPatchOp(Input):
    """An edit of a target, with the payload of its `op_type`. The default target is the one of the record type, or of
    the file, that the payload names."""

    change_id: ChangeId
    target_id: Id | None = Field(
        default=None, description="The target that is edited; by default the one that the payload names."
    )
    op_type: OpType = Field(description="The kind of the edit.")
    payload: Annotated[dict[str, Any], SchemaOf(Payload)] = Field(
        description="The edit: the members that its `op_type` asks for."
    )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        """Return the schema, in which the `op_type` decides over the payload."""
        whole = handler.resolve_ref_schema(handler(schema))
        payloads = {type: handler(model.__pydantic_core_schema__) for type, model in PAYLOADS.items()}
        return by_case(
            whole, "op_type", {(type,): {"properties": {"payload": each}} for type, each in payloads.items()}
        )


class PatchOpReference(Input):
    """One op of a change."""

    change_id: ChangeId
    op_id: Id = Field(description="The id of the op.")


class Transition(Input):
    """A change and its next status."""

    change_id: ChangeId
    status: ChangeStatus = Field(description="The status that the change gets.")


class PlanCompensation(Input):
    """An executed change, and the title of the new one; by default it is derived from the first."""

    change_id: ChangeId
    title: Title | None = Field(
        default=None, description="The title of the new change; by default it is derived from the title of the first."
    )


# Workspaces


class StopWorkspace(Input):
    """A change whose workspace stops; `keep` keeps the working copy until the change is merged."""

    change_id: ChangeId
    keep: Flag = Field(default=False, description="True if the working copy stays until the change is merged.")
