"""Definitions of the fields of a record type, validated as callers send them."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema

from actionengine.schemas.json_schemas import NOT_NULL, NULL, JsonSchema
from actionengine.schemas.models import VISIBLE_PATTERN, Flag, Input, Name, shorten
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


_CHOICES = {
    "anyOf": [
        {
            "type": "array",
            "items": {"type": "string", "minLength": 1, "maxLength": MAX_CHOICE_LENGTH, "pattern": VISIBLE_PATTERN},
            "minItems": 1,
            "maxItems": MAX_CHOICES,
            "uniqueItems": True,
        },
        NULL,
    ]
}


class Definition(BaseModel):
    """The definition of a field, without its name. It keeps members that the library does not know, such as labels."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)

    type: FieldType = Field(
        description="The type of its values: `reference` is the id of a document, `date` and `datetime` are texts in "
        "ISO 8601, `text` is long."
    )
    required: Flag = Field(default=False, description="True if each document must have the field.")
    choices: Annotated[tuple[str, ...] | None, BeforeValidator(_choices), WithJsonSchema(_CHOICES)] = Field(
        default=None, description="The values of a field of the type `choice`; null allows any text."
    )

    @model_validator(mode="after")
    def _check_choices(self) -> Definition:
        if self.choices is not None and self.type != "choice":
            raise ValueError(f"choices are for fields of the type 'choice', not {self.type!r}")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        """Return the schema, which allows choices for a `choice` only."""
        whole = handler.resolve_ref_schema(handler(schema))
        whole["if"] = {"required": ["choices"], "properties": {"choices": NOT_NULL}}
        whole["then"] = {"properties": {"type": {"const": "choice"}}}
        return whole


class FieldDefinition(Definition):
    """A field: its name and its definition."""

    name: Name = Field(description="The name of the field, unique in its record type.")


class SchemaDefinition(Input):
    """The fields of a record type, in their order."""

    fields: tuple[FieldDefinition, ...] = Field(
        default=(), max_length=MAX_FIELDS, description="The fields, in their order. Each has its own name."
    )

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
