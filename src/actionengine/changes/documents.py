"""Documents of record types: the Pydantic model that a schema stands for, and what does not fit it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any
from unicodedata import normalize

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import from_json, to_json

from actionengine.changes.models import DocumentCheck, InvalidDocument
from actionengine.pipeline.payload import field_errors
from actionengine.schemas.schema import Field as SchemaField
from actionengine.schemas.schema import Schema
from actionengine.storage.port import AsyncRecords
from actionengine.storage.records import same_json

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_DATETIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:?\d\d)?")


def _is_date(value: str) -> str:
    return _is_iso(value, _DATE, "it is no date, as 2030-01-31 is one")


def _is_datetime(value: str) -> str:
    return _is_iso(value, _DATETIME, "it is no date and time, as 2030-01-31T09:30:00Z is one")


def _is_iso(value: str, form: re.Pattern[str], complaint: str) -> str:
    try:
        if form.fullmatch(value):
            datetime.fromisoformat(value)
            return value
    except ValueError:
        pass
    raise ValueError(complaint)


def _choice_of(choices: Sequence[str]) -> Any:
    """Return the type of one of these texts. A refusal shows some of them: there may be very many."""
    known = frozenset(choices)
    shown = ", ".join(map(repr, choices[:_MAX_SHOWN_CHOICES]))
    cut = len(choices) > _MAX_SHOWN_CHOICES or len(shown) > _MAX_SHOWN_LENGTH
    complaint = f"it is none of the {len(choices)} choices: {shown[:_MAX_SHOWN_LENGTH]}{' …' if cut else ''}"

    def check(value: str) -> str:
        if value not in known:
            raise ValueError(complaint)
        return value

    return Annotated[str, AfterValidator(check)]


_MAX_SHOWN_CHOICES = 20
_MAX_SHOWN_LENGTH = 400
"""Choices, and characters of them, that a refusal shows."""


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
"""What a value of each field type is, in JSON: a reference is an id, dates and times are texts (ISO 8601)."""


OWN_FIELDS: Mapping[str, Sequence[str]] = {
    "workflow_assignments": (
        "assignee",
        "title",
        "details",
        "run_id",
        "workflow_key",
        "step",
        "status",
        "result",
        "completed_by",
        "completed_at",
    )
}
"""By collection: the fields that the library writes there. A record type of this key need not have them."""


def model_of(key: str, schema: Schema, own: Sequence[str] = ()) -> type[BaseModel]:
    """Return the model of the documents of a record type: its fields and no others, taken strictly. The `own` fields
    that it does not have may be anything."""
    # Names of fields may be any texts, so that they are aliases here.
    declared = [*map(_declared, schema), *((Any, Field(None, alias=name)) for name in own if name not in schema)]
    fields: dict[str, Any] = {f"field_{number}": each for number, each in enumerate(declared)}
    model: type[BaseModel] = create_model(key, __config__=ConfigDict(strict=True, extra="forbid"), **fields)
    return model


def _declared(field: SchemaField) -> tuple[Any, Any]:
    choices = field.definition.get("choices")
    type: Any = _choice_of(choices) if choices else _TYPES[field.type]
    return (type, Field(alias=field.name)) if field.required else (type | None, Field(None, alias=field.name))


def field_problems(
    model: type[BaseModel], document: bytes, stored: Mapping[str, Any] | None = None
) -> list[dict[str, str]]:
    """Return each field of a document (JSON) that does not fit: its `path`, the `reason` and its `type`, as
    `field_errors` has them; nothing of what is in it is shown. With the `stored` document that this one replaces, a
    field that is the same in both, or is in neither, counts as fitting."""
    try:
        model.__pydantic_validator__.validate_json(document)
    except ValidationError as error:
        places = [item["loc"] for item in error.errors(include_url=False, include_context=False, include_input=False)]
        given = from_json(document) if stored is not None else {}
        return [
            refusal | ({"reason": _unknown(model, str(place[0]))} if refusal["type"] == "extra_forbidden" else {})
            for refusal, place in zip(field_errors(error), places, strict=True)
            if stored is None or not place or not _is_same(str(place[0]), stored, given)
        ]
    return []


def _is_same(name: str, stored: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    if name in stored and name in given:
        return same_json(stored[name], given[name])
    return name not in stored and name not in given


def _unknown(model: type[BaseModel], name: str) -> str:
    """Return why a field is refused that the schema does not have; it may have it in Unicode's form NFC."""
    plain = normalize("NFC", name)
    if plain != name and any(field.alias == plain for field in model.model_fields.values()):
        return f"the record type has the field {plain!r}, and this is another spelling of it: write it in the form NFC"
    return "the record type has no such field"


async def check_documents(
    records: AsyncRecords, key: str, schema: Schema, limit: int = 1000, after: str | None = None
) -> DocumentCheck:
    """Which documents of a collection do not fit a schema: of a page, by id."""
    page = await records.list(limit=limit, after=after)
    model = model_of(key, schema, OWN_FIELDS.get(key, ())) if page else BaseModel
    found = [
        InvalidDocument(id=record.id, problems={refusal["path"]: refusal["reason"] for refusal in refused})
        for record in page
        if (refused := field_problems(model, to_json(record.data)))
    ]
    return DocumentCheck(
        record_type_key=key,
        checked=len(page),
        invalid=tuple(found),
        next=page.next,
    )
