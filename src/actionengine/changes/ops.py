"""Patch ops: what each kind says, checked when it is added."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import to_json

from actionengine.boundary.errors import PathEscapeError
from actionengine.boundary.files.paths import module_path, write_denial_reason
from actionengine.boundary.files.unified_diff import check_diff
from actionengine.errors import ActionError, ErrorCode
from actionengine.pipeline.payload import field_errors, summarize
from actionengine.schemas.schema import FieldType
from actionengine.storage.records import MAX_ID_LENGTH
from actionengine.text.names import nfc, spelled

OpType = Literal["add_field", "set_field", "remove_field", "rename_field", "edit_file"]


def _plain(path: str) -> str:
    if path != path.strip() or not path.isprintable():
        raise ValueError("it begins or ends with a space, or has characters that cannot be printed")
    return path


MAX_CHOICES = 10_000
"""Texts from which a field of the type `choice` chooses."""

MAX_CHOICE_LENGTH = 10_000
"""Characters of one of them."""


def plain_form(given: Any) -> Any:
    """Return a text in Unicode's form NFC, in which its characters are counted; anything else as it is."""
    return nfc(given) if isinstance(given, str) else given


def _flag(given: Any) -> bool:
    if not isinstance(given, bool):
        raise ValueError(f"it is true or false, not {_shown(given)}")
    return given


def _number(given: Any) -> Any:
    if isinstance(given, str | bool):
        raise ValueError(f"it is a number, not {_shown(given)}")
    return given


def _choices(given: Any) -> tuple[str, ...] | None:
    if given is None:
        return None
    if not isinstance(given, list | tuple) or not given or not all(isinstance(each, str) for each in given):
        raise ValueError(f"choices are a list of at least one text, as in ['low', 'high'], not {_shown(given)}")
    if len(given) > MAX_CHOICES or any(len(each) > MAX_CHOICE_LENGTH for each in given):
        raise ValueError(f"choices are at most {MAX_CHOICES} texts of at most {MAX_CHOICE_LENGTH} characters")
    if not all(given):
        raise ValueError("the empty text is no choice: a field that is not required may be left out instead")
    choices = tuple(map(spelled, given))
    for choice, times in Counter(choices).items():
        if times > 1:
            raise ValueError(f"the choice {choice!r} is there {times} times: name it once")
    return choices


def _shown(given: Any) -> str:
    text = to_json(given, fallback=str).decode()
    return text if len(text) <= _MAX_SHOWN_LENGTH else f"{text[:_MAX_SHOWN_LENGTH]}…"


_MAX_SHOWN_LENGTH = 60
"""Characters of a value that a refusal shows."""

Name = Annotated[str, Field(min_length=1, max_length=100), BeforeValidator(plain_form), AfterValidator(spelled)]
"""A name of a field, or a key: 1 to 100 visible characters, in Unicode's form NFC."""

Reference = Annotated[str, Field(max_length=MAX_ID_LENGTH), AfterValidator(nfc)]
"""A name by which something is looked up."""

Flag = Annotated[bool, BeforeValidator(_flag)]
"""True or false: no text, and no number."""

Whole = Annotated[int, BeforeValidator(_number)]
"""A whole number: no text, and no truth value."""

Number = Annotated[float, BeforeValidator(_number)]
"""A number: no text, and no truth value."""


class Definition(BaseModel):
    """What is said of a field beside its name. What the library does not know is kept: labels, help, and so on."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)

    type: FieldType
    required: Flag = False
    choices: Annotated[tuple[str, ...] | None, BeforeValidator(_choices)] = None
    """For a `choice`: the values that there are; any text, where none are named."""

    @model_validator(mode="after")
    def _check_choices(self) -> Definition:
        if self.choices is not None and self.type != "choice":
            raise ValueError(f"choices are for fields of the type 'choice', not {self.type!r}")
        return self


class FieldDefinition(Definition):
    """A field: its name, and what is said of it."""

    name: Name


class _Payload(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _FieldOp(_Payload):
    record_type: Name
    field: Name


class _Defining(_FieldOp):
    definition: Definition
    before: Name | None = None
    """The field of the type before which it is to stand."""

    @model_validator(mode="after")
    def _check_one_field(self) -> _Defining:
        name = (self.definition.model_extra or {}).get("name", self.field)
        if not isinstance(name, str) or nfc(name) != self.field:
            raise ValueError(f"the definition is of {name!r}, the op of {self.field!r}")
        if self.before == self.field:
            raise ValueError(f"{self.field!r} cannot stand before itself")
        return self


class AddField(_Defining):
    """A new field, at the end or before another one. With `override` it may stand over an inherited one."""

    override: Flag = False


class SetField(_Defining):
    """Another definition of a field: all of it, so that what is left out is gone."""


class RemoveField(_FieldOp):
    """A field less."""


class RenameField(_Payload):
    """Another name for a field. With `override` it may stand over an inherited one of that name."""

    record_type: Name
    old_name: Name
    new_name: Name
    override: Flag = False

    @model_validator(mode="after")
    def _check_new_name(self) -> RenameField:
        if self.old_name == self.new_name:
            raise ValueError(f"{self.old_name!r} is to be renamed to itself")
        return self


def in_a_module(path: str) -> str:
    """The path of a file that edits may be of. Raises `ValueError` for another one."""
    try:
        module_path(path)
    except PathEscapeError as refusal:
        # As any other value that a field cannot have, with the others.
        raise ValueError(refusal.message) from None
    for reason in filter(None, map(write_denial_reason, path.split("/"))):
        raise ValueError(f"the path is refused: {reason}")
    return path


class EditFile(_Payload):
    """A unified diff of one file; its path is relative to the module of the project."""

    file_path: Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_plain), AfterValidator(in_a_module)]
    diff: str

    @field_validator("diff")
    @classmethod
    def _check_diff(cls, diff: str, info: ValidationInfo) -> str:
        return check_diff(diff, info.data.get("file_path"))


_PAYLOADS: Mapping[str, type[_Payload]] = {
    "add_field": AddField,
    "set_field": SetField,
    "remove_field": RemoveField,
    "rename_field": RenameField,
    "edit_file": EditFile,
}


@dataclass(frozen=True, slots=True)
class PatchOp:
    """One edit. `payload` is as it was checked; `id` is empty until the op is stored."""

    op_type: OpType
    payload: Mapping[str, Any]
    id: str = ""

    @property
    def record_type(self) -> str | None:
        """The key of the record type that it is for; None for a file."""
        return self.payload.get("record_type")

    @property
    def file_path(self) -> str:
        """The file that it edits; empty for an op on a record type."""
        path: str = self.payload.get("file_path", "")
        return path

    @property
    def selector(self) -> Mapping[str, str]:
        """How the target that it is for is named."""
        if self.record_type is not None:
            return {"record_type_key": self.record_type}
        return {"file_path": self.payload["file_path"]}

    @property
    def field(self) -> str | None:
        """The field that it touches: a rename counts by the old name."""
        return self.payload.get("field") or self.payload.get("old_name")

    @property
    def resulting_field(self) -> str | None:
        """The name that it brings into the type."""
        return self.payload["field"] if self.op_type == "add_field" else self.payload.get("new_name")

    @property
    def affected_fields(self) -> frozenset[str]:
        """The names that it is about."""
        return frozenset(name for name in (self.field, self.resulting_field) if name is not None)

    def __str__(self) -> str:
        names = " → ".join(dict.fromkeys(name for name in (self.field, self.resulting_field) if name is not None))
        about = f"{self.record_type}.{names}" if self.record_type is not None else self.payload["file_path"]
        return f"{self.op_type} {about}"


def parse_op(op_type: OpType, payload: Mapping[str, Any]) -> PatchOp:
    """An op of what a caller sent. Raises `ActionError(invalid_input)` naming the op and what is wrong in it."""
    try:
        checked = _PAYLOADS[op_type].model_validate(payload)
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
