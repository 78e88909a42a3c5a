"""Documents validated against the schema of their record type, by a Pydantic model made of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any
from unicodedata import normalize

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import from_json

from actionengine.schemas.field_errors import field_errors
from actionengine.schemas.schema import Field as SchemaField
from actionengine.schemas.schema import Schema
from actionengine.storage.records import same_json

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_DATETIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:?\d\d)?")

_MAX_SHOWN_CHOICES = 20
"""Choices that an error lists."""

_MAX_SHOWN_LENGTH = 400
"""Characters of the listed choices."""


def _is_date(value: str) -> str:
    return _is_iso(value, _DATE, "it is not a date such as 2030-01-31")


def _is_datetime(value: str) -> str:
    return _is_iso(value, _DATETIME, "it is not a date and time such as 2030-01-31T09:30:00Z")


def _is_iso(value: str, form: re.Pattern[str], complaint: str) -> str:
    try:
        if form.fullmatch(value):
            datetime.fromisoformat(value)
            return value
    except ValueError:
        pass
    raise ValueError(complaint)


_TYPES: Mapping[str, Any] = {
    "string": Annotated[str, Field(max_length=10_000)],
    "text": str,
    "number": Annotated[float, Field(allow_inf_nan=False)],
    "boolean": bool,
    "reference": Annotated[str, Field(min_length=1, max_length=255)],
    "choice": str,
    "date": Annotated[str, AfterValidator(_is_date)],
    "datetime": Annotated[str, AfterValidator(_is_datetime)],
}
"""The JSON value of each field type: a reference is an id, dates and times are texts (ISO 8601)."""


def model_of(key: str, schema: Schema, own: Sequence[str] = ()) -> type[BaseModel]:
    """Return the model of the documents of a record type: its fields and no others, validated strictly. `own` fields
    that the schema lacks may have any value."""
    # A field's name may be any text, and so cannot be the name of an attribute: it is an alias.
    declared = [*map(_declared, schema), *((Any, Field(None, alias=name)) for name in own if name not in schema)]
    fields: dict[str, Any] = {f"field_{number}": each for number, each in enumerate(declared)}
    model: type[BaseModel] = create_model(key, __config__=ConfigDict(strict=True, extra="forbid"), **fields)
    return model


def _declared(field: SchemaField) -> tuple[Any, Any]:
    choices = field.definition.get("choices")
    type: Any = _choice_of(choices) if choices else _TYPES[field.type]
    return (type, Field(alias=field.name)) if field.required else (type | None, Field(None, alias=field.name))


def _choice_of(choices: Sequence[str]) -> Any:
    """Return the type of one of these texts. Its error lists only the first, since there may be thousands."""
    known = frozenset(choices)
    shown = ", ".join(map(repr, choices[:_MAX_SHOWN_CHOICES]))
    cut = len(choices) > _MAX_SHOWN_CHOICES or len(shown) > _MAX_SHOWN_LENGTH
    complaint = f"it is none of the {len(choices)} choices: {shown[:_MAX_SHOWN_LENGTH]}{' …' if cut else ''}"

    def check(value: str) -> str:
        if value not in known:
            raise ValueError(complaint)
        return value

    return Annotated[str, AfterValidator(check)]


def field_problems(
    model: type[BaseModel], document: bytes, stored: Mapping[str, Any] | None = None
) -> list[dict[str, str]]:
    """Return the `path`, `reason` and `type` of each invalid field of a document (JSON), as `field_errors` does.

    If the document replaces a `stored` one, fields that are equal in both, or missing in both, count as valid.
    """
    try:
        model.__pydantic_validator__.validate_json(document)
    except ValidationError as error:
        places = [item["loc"] for item in error.errors(include_url=False, include_context=False, include_input=False)]
        given = from_json(document) if stored is not None else {}
        return [
            problem | ({"reason": _unknown(model, str(place[0]))} if problem["type"] == "extra_forbidden" else {})
            for problem, place in zip(field_errors(error), places, strict=True)
            if stored is None or not place or not _is_same(str(place[0]), stored, given)
        ]
    return []


def _is_same(name: str, stored: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    if name in stored and name in given:
        return same_json(stored[name], given[name])
    return name not in stored and name not in given


def _unknown(model: type[BaseModel], name: str) -> str:
    """Return the reason to refuse an unknown field, which may be another spelling of a known one."""
    plain = normalize("NFC", name)
    if plain != name and any(field.alias == plain for field in model.model_fields.values()):
        return f"the record type has the field {plain!r}, and this is another spelling of it: write it in the form NFC"
    return "the record type has no such field"
