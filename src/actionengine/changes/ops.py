"""Patch ops: the kinds, and the validation of their payloads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from actionengine.boundary.errors import PathEscapeError
from actionengine.boundary.files.paths import NO_EDITED_PATH, PATH_PATTERN, module_path, write_denial_reason
from actionengine.boundary.files.unified_diff import check_diff
from actionengine.errors import ActionError, ErrorCode
from actionengine.schemas.field_errors import field_errors, summarize
from actionengine.schemas.fields import Definition
from actionengine.schemas.json_schemas import SchemaExtra
from actionengine.schemas.models import Flag, Name
from actionengine.text.names import nfc

OpType = Literal["add_field", "set_field", "remove_field", "rename_field", "edit_file"]


def _plain(path: str) -> str:
    if path != path.strip() or not path.isprintable():
        raise ValueError("it begins or ends with a space, or has characters that cannot be printed")
    return path


class _Payload(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _FieldOp(_Payload):
    record_type: Name = Field(description="The key of the record type.")
    field: Name = Field(description="The name of the field.")


class _Defining(_FieldOp):
    definition: Definition = Field(description="The definition of the field, without its name.")
    before: Name | None = Field(
        default=None,
        description="The field before which it is placed; null leaves a field in its place, or adds a "
        "new one at the end.",
    )

    @model_validator(mode="after")
    def _check_one_field(self) -> _Defining:
        name = (self.definition.model_extra or {}).get("name", self.field)
        if not isinstance(name, str) or nfc(name) != self.field:
            raise ValueError(f"the definition names the field {name!r}, the op {self.field!r}")
        if self.before == self.field:
            raise ValueError(f"{self.field!r} cannot stand before itself")
        return self


class AddField(_Defining):
    """A new field, at the end or before another one. With `override` it may hide an inherited field."""

    override: Flag = Field(default=False, description="True if the field may hide an inherited one of its name.")


class SetField(_Defining):
    """A new definition of a field. It replaces the whole definition: members that are left out are removed."""


class RemoveField(_FieldOp):
    """The removal of a field."""


class RenameField(_Payload):
    """A new name for a field. With `override` it may hide an inherited field of that name."""

    record_type: Name = Field(description="The key of the record type.")
    old_name: Name = Field(description="The present name of the field.")
    new_name: Name = Field(description="The new name of the field.")
    override: Flag = Field(default=False, description="True if the new name may hide an inherited field.")

    @model_validator(mode="after")
    def _check_new_name(self) -> RenameField:
        if self.old_name == self.new_name:
            raise ValueError(f"{self.old_name!r} cannot be renamed to itself")
        return self


def in_a_module(path: str) -> str:
    """Return the path of a file in a module. Raises `ValueError` for a path that edits may not have."""
    try:
        module_path(path)
    except PathEscapeError as refusal:
        # Reported with the other invalid fields.
        raise ValueError(refusal.message) from None
    for reason in filter(None, map(write_denial_reason, path.split("/"))):
        raise ValueError(f"the path is refused: {reason}")
    return path


class EditFile(_Payload):
    """A unified diff of one file; its path is relative to the project's module."""

    file_path: Annotated[
        str,
        Field(min_length=1, max_length=1000),
        AfterValidator(_plain),
        AfterValidator(in_a_module),
        SchemaExtra(pattern=PATH_PATTERN, not_={"pattern": rf"{NO_EDITED_PATH}|^\s|\s$"}),
    ] = Field(description="The path of the file, relative to the project's module, with `/` between names.")
    diff: str = Field(description="A unified diff of this one file.")

    @field_validator("diff")
    @classmethod
    def _check_diff(cls, diff: str, info: ValidationInfo) -> str:
        return check_diff(diff, info.data.get("file_path"))


Payload = AddField | SetField | RemoveField | RenameField | EditFile

PAYLOADS: Mapping[str, type[Payload]] = {
    "add_field": AddField,
    "set_field": SetField,
    "remove_field": RemoveField,
    "rename_field": RenameField,
    "edit_file": EditFile,
}


@dataclass(frozen=True, slots=True)
class PatchOp:
    """One edit, with a validated payload; `id` is empty until the op is stored."""

    op_type: OpType
    payload: Mapping[str, Any]
    id: str = ""

    @property
    def record_type(self) -> str | None:
        """The key of the record type that it edits; None for an op on a file."""
        return self.payload.get("record_type")

    @property
    def file_path(self) -> str:
        """The file that it edits; empty for an op on a record type."""
        path: str = self.payload.get("file_path", "")
        return path

    @property
    def selector(self) -> Mapping[str, str]:
        """The selector of its target."""
        if self.record_type is not None:
            return {"record_type_key": self.record_type}
        return {"file_path": self.payload["file_path"]}

    @property
    def field(self) -> str | None:
        """The field that it edits; of a rename, the old name."""
        return self.payload.get("field") or self.payload.get("old_name")

    @property
    def resulting_field(self) -> str | None:
        """The name that it adds to the type, if any."""
        return self.payload["field"] if self.op_type == "add_field" else self.payload.get("new_name")

    @property
    def affected_fields(self) -> frozenset[str]:
        """The names of the fields that it edits or adds."""
        return frozenset(name for name in (self.field, self.resulting_field) if name is not None)

    def __str__(self) -> str:
        names = " → ".join(dict.fromkeys(name for name in (self.field, self.resulting_field) if name is not None))
        about = f"{self.record_type}.{names}" if self.record_type is not None else self.payload["file_path"]
        return f"{self.op_type} {about}"


def parse_op(op_type: OpType, payload: Mapping[str, Any]) -> PatchOp:
    """Return the op of a payload. Raises `ActionError(invalid_input)` with the op and its invalid fields."""
    try:
        checked = PAYLOADS[op_type].model_validate(payload)
    except ValidationError as error:
        fields = field_errors(error)
        message = f"{op_type}: {summarize(fields)}"
        raise ActionError(ErrorCode.INVALID_INPUT, message, {"op_type": op_type, "fields": fields}) from None
    return PatchOp(op_type, _without_defaults(checked))


def _without_defaults(checked: _Payload) -> dict[str, Any]:
    payload = checked.model_dump(mode="json", exclude_unset=True)
    if isinstance(checked, _Defining):
        payload["definition"].pop("name", None)
    return payload
