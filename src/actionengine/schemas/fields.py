"""Definitions of the fields of a record type, validated as callers send them."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from actionengine.schemas.models import Flag, Input, Name, shorten
from actionengine.schemas.schema import MAX_FIELDS, FieldType
from actionengine.text.names import spelled

MAX_CHOICES = 10_000
"""Choices of a field of the type `choice`."""

MAX_CHOICE_LENGTH = 10_000
"""Characters of one choice."""


def _choices(given: Any) -> tuple[str, ...] | None:
    if given is None:
        return None
    if not isinstance(given, list | tuple) or not given or not all(isinstance(each, str) for each in given):
        raise ValueError(f"choices are a list of at least one text, as in ['low', 'high'], not {shorten(given)}")
    if len(given) > MAX_CHOICES or any(len(each) > MAX_CHOICE_LENGTH for each in given):
        raise ValueError(f"choices are at most {MAX_CHOICES} texts of at most {MAX_CHOICE_LENGTH} characters")
    if not all(given):
        raise ValueError("the empty text is not a choice: a field that is not required may be left out instead")
    choices = tuple(map(spelled, given))
    for choice, times in Counter(choices).items():
        if times > 1:
            raise ValueError(f"the choice {choice!r} is there {times} times: name it once")
    return choices


class Definition(BaseModel):
    """The definition of a field, without its name. It keeps members that the library does not know, such as labels."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)

    type: FieldType
    required: Flag = False
    choices: Annotated[tuple[str, ...] | None, BeforeValidator(_choices)] = None
    """The values of a `choice`; None allows any text."""

    @model_validator(mode="after")
    def _check_choices(self) -> Definition:
        if self.choices is not None and self.type != "choice":
            raise ValueError(f"choices are for fields of the type 'choice', not {self.type!r}")
        return self


class FieldDefinition(Definition):
    """A field: its name and its definition."""

    name: Name


class SchemaDefinition(Input):
    """The fields of a record type, in their order."""

    fields: tuple[FieldDefinition, ...] = Field(default=(), max_length=MAX_FIELDS)

    @model_validator(mode="after")
    def _check_unique_fields(self) -> SchemaDefinition:
        for name, count in Counter(field.name for field in self.fields).items():
            if count > 1:
                raise ValueError(f"there are two fields of the name {name!r}")
        return self

    def document(self) -> dict[str, Any]:
        """Return the stored form: the given members of each field, and always its name, type and `required`."""
        return {
            "fields": [
                {"name": field.name, "type": field.type, "required": field.required}
                | field.model_dump(mode="json", exclude_unset=True)
                for field in self.fields
            ]
        }
