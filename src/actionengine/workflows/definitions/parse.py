"""Reading definitions and triggers, as a caller wrote them or as the storage has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from actionengine.errors import ActionError, ErrorCode
from actionengine.schemas.field_errors import field_errors, summarize
from actionengine.workflows.definitions.definition import Definition
from actionengine.workflows.definitions.triggers import STORED, EventTrigger, ScheduleTrigger, Trigger

MAX_BYTES = 256 * 1024
"""Bytes of the JSON of a definition."""

_TRIGGER: TypeAdapter[EventTrigger | ScheduleTrigger] = TypeAdapter(Trigger)


def parse_definition(given: Mapping[str, Any], *, stored: bool = False) -> Definition:
    """Return a definition. The schedule of a `stored` one is not checked again.

    Raises `ActionError(invalid_input)`, whose details name each wrong part and the reason.
    """
    try:
        size = len(to_json(given))
        if size > MAX_BYTES:
            message = f"the definition has {size} bytes of JSON; at most {MAX_BYTES >> 10} KB are allowed"
            raise ActionError(ErrorCode.INVALID_INPUT, message)
        return Definition.model_validate(given, context=STORED if stored else None)
    except ValidationError as error:
        raise _invalid("definition", error) from None
    except (PydanticSerializationError, RecursionError):
        raise ActionError(ErrorCode.INVALID_INPUT, "the definition is nested too deeply, or is not JSON") from None


def parse_trigger(given: Mapping[str, Any], *, stored: bool = False) -> EventTrigger | ScheduleTrigger:
    """Return a trigger. The schedule of a `stored` one is not checked again.

    Raises `ActionError(invalid_input)`, whose details name each wrong part and the reason.
    """
    try:
        return _TRIGGER.validate_python(given, context=STORED if stored else None)
    except ValidationError as error:
        raise _invalid("trigger", error) from None


def _invalid(what: str, error: ValidationError) -> ActionError:
    fields = field_errors(error)
    return ActionError(ErrorCode.INVALID_INPUT, f"the {what}: {summarize(fields, whole='')}", {"fields": fields})


def to_document(part: Definition | EventTrigger | ScheduleTrigger) -> dict[str, Any]:
    """Return the document of a definition or a trigger: what its author wrote, without the defaults."""
    return part.model_dump(mode="json", by_alias=True, exclude_unset=True)
