"""JSON Schemas (2020-12) of the inputs and results of actions, made by Pydantic."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from enum import Flag
from math import isfinite
from typing import Any

from pydantic import TypeAdapter, create_model
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue, JsonSchemaWarningKind
from pydantic_core import CoreSchema, PydanticSerializationError
from pydantic_core.core_schema import DatetimeSchema, DictSchema, EnumSchema, TimeSchema

from actionengine.hooks import HookLog
from actionengine.masking.masking import mask
from actionengine.masking.secret_types import Everything
from actionengine.pipeline.plan import ActionPlan

logger = logging.getLogger("actionengine")

MAPS = frozenset({"properties", "patternProperties", "$defs", "dependentSchemas"})
LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
SCHEMAS = frozenset(
    {"items", "additionalProperties", "contains", "contentSchema", "propertyNames", "not", "if", "then", "else"}
)
_VALUES = frozenset({"default", "example", "examples"})


def input_schema(plan: ActionPlan) -> dict[str, Any]:
    """Return the schema of the payloads that an action's own validation admits; `{}` admits any JSON."""
    if plan.action.validation is None:
        return {}
    return without_secrets(_schema_of(plan, plan.action.validation, "validation") or {}, plan.sensitive)


def output_schema(plan: ActionPlan) -> dict[str, Any] | None:
    """Return the schema of the JSON of an action's result; None where no annotation names its type."""
    last = _last_handler(plan)
    if last is None or last.result_type is None:
        return None
    kind = last.result_type
    if plan.action.result.pipeline:
        kind = create_model("PipelineResult", data=(kind, ...), pipeline=(HookLog, ...))
    schema = _schema_of(last, kind, "serialization")
    if schema is None:
        return None
    return without_secrets(schema, last.result_names)


def without_secrets(schema: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """Return a schema without the defaults and examples of secret fields, and with those of others masked under the
    names of the secret ones."""
    if not names:
        return schema
    return _Redaction(schema, names).redacted()


def _last_handler(plan: ActionPlan) -> ActionPlan | None:
    """Return the action whose handler makes the result: the last after hook's. None where that may be one of two: the
    hook may fail, and its input passes on."""
    while plan.after:
        hook, after = plan.after[-1]
        if not hook.is_critical or after.action.result.pipeline:
            return None
        plan = after
    return plan


def _schema_of(plan: ActionPlan, type: Any, mode: JsonSchemaMode) -> dict[str, Any] | None:
    try:
        return schema_of(type, mode)
    except Exception as error:
        # Types have hooks of the host's own for their schemas.
        logger.warning("%s: %r has no JSON Schema in the catalogue: %r", plan.name, type, error)
        return None


def schema_of(type: Any, mode: JsonSchemaMode) -> dict[str, Any]:
    """Return the schema of a type or a `TypeAdapter`, of what it reads (`validation`) or writes (`serialization`)."""
    adapter = type if isinstance(type, TypeAdapter) else TypeAdapter(type)
    return adapter.json_schema(mode=mode, schema_generator=_Generator)


_DAY = r"\d{4}-\d{2}-\d{2}"
_TIME = r"\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?"
"""Patterns of a date and a time without a zone: the formats `date-time` and `time` require one."""


class _Generator(GenerateJsonSchema):
    """Makes `{}` of a part that no JSON Schema can express, such as an instance of a class."""

    ignored_warning_kinds: set[JsonSchemaWarningKind] = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012

    def handle_invalid_for_json_schema(self, schema: CoreSchema, error_info: str) -> JsonSchemaValue:
        """Return the schema of any JSON."""
        return {}

    def encode_default(self, dft: Any) -> Any:
        """Return a default as JSON. Raise for an infinite one, which has no JSON form: Pydantic leaves it out then."""
        if isinstance(dft, float) and not isfinite(dft):
            raise PydanticSerializationError("the default is not finite")
        return super().encode_default(dft)

    def enum_schema(self, schema: EnumSchema) -> JsonSchemaValue:
        """Return Pydantic's schema. A flag has the sums of its members, too."""
        made = super().enum_schema(schema)
        if issubclass(schema["cls"], Flag):
            del made["enum"]
        return made

    def datetime_schema(self, schema: DatetimeSchema) -> JsonSchemaValue:
        """Return Pydantic's schema, which asks for a zone. A time may have none in a result, and where validation
        refuses one."""
        return self._zoned(super().datetime_schema(schema), schema.get("tz_constraint"), f"^{_DAY}T{_TIME}$")

    def time_schema(self, schema: TimeSchema) -> JsonSchemaValue:
        """Return the schema of a time of the day, as `datetime_schema` does."""
        return self._zoned(super().time_schema(schema), schema.get("tz_constraint"), f"^{_TIME}$")

    def _zoned(self, made: JsonSchemaValue, zone: str | int | None, naive: str) -> JsonSchemaValue:
        if made["type"] != "string" or zone == "aware":
            return made
        if zone == "naive":
            return {"type": "string", "pattern": naive}
        either = [{"format": made["format"]}, {"pattern": naive}]
        return {"type": "string", "anyOf": either} if self.mode == "serialization" else made

    def dict_schema(self, schema: DictSchema) -> JsonSchemaValue:
        """Return Pydantic's schema, with texts for keys that are an enum of numbers: JSON has no other keys."""
        made = super().dict_schema(schema)
        keys: JsonSchemaValue | None = made.get("propertyNames", {})
        while keys is not None and "$ref" in keys:
            keys = self.get_schema_from_definitions(keys["$ref"])
        if keys is None or (keys.get("type") == "integer" and "enum" not in keys):
            del made["propertyNames"]  # Validation alone checks the keys.
        elif keys.get("type") == "integer":
            made["propertyNames"] = {"enum": [str(key) for key in keys["enum"]]}
        return made


class _Redaction:
    """One pass over a schema. What a secret property refers to is secret, too."""

    def __init__(self, schema: dict[str, Any], names: frozenset[str]) -> None:
        self._schema = schema
        self._names = names
        self._secret_definitions: set[str] = set()

    def redacted(self) -> dict[str, Any]:
        if isinstance(self._names, Everything):
            return self._redacted(self._schema, is_secret=True)
        definitions: Mapping[str, Any] = self._schema.get("$defs", {})
        waiting = list(self._secret_references(self._schema, is_secret=False))
        for name in waiting:
            if name in definitions and name not in self._secret_definitions:
                self._secret_definitions.add(name)
                waiting += self._secret_references(definitions[name], is_secret=True)
        return self._redacted(self._schema, is_secret=False)

    def _redacted(self, schema: dict[str, Any], is_secret: bool) -> dict[str, Any]:
        redacted: dict[str, Any] = {}
        for key, value in schema.items():
            if key in _VALUES:
                if not is_secret:
                    redacted[key] = mask(value, self._names)
            elif key in MAPS:
                redacted[key] = {
                    name: self._redacted_item(item, is_secret or self._makes_secret(key, name))
                    for name, item in value.items()
                }
            elif key in LISTS:
                redacted[key] = [self._redacted_item(item, is_secret) for item in value]
            elif key in SCHEMAS:
                redacted[key] = self._redacted_item(value, is_secret)
            else:
                redacted[key] = value
        return redacted

    def _redacted_item(self, item: Any, is_secret: bool) -> Any:
        return self._redacted(item, is_secret) if isinstance(item, dict) else item

    def _makes_secret(self, key: str, name: str) -> bool:
        return name in (self._secret_definitions if key == "$defs" else self._names)

    def _secret_references(self, schema: Any, is_secret: bool) -> Iterator[str]:
        """Yield the names of the definitions that secret parts refer to."""
        if not isinstance(schema, dict):
            return
        for key, value in schema.items():
            if key == "$ref" and is_secret:
                yield value.removeprefix("#/$defs/")
            elif key in MAPS:
                for name, item in value.items():
                    yield from self._secret_references(item, is_secret or (key != "$defs" and name in self._names))
            elif key in LISTS:
                for item in value:
                    yield from self._secret_references(item, is_secret)
            elif key in SCHEMAS:
                yield from self._secret_references(value, is_secret)
