"""JSON Schemas of fields and models that Pydantic cannot find out from their annotations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import GetJsonSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema

JsonSchema = dict[str, Any]

NOT_NULL: JsonSchema = {"not": {"type": "null"}}
NULL: JsonSchema = {"type": "null"}


class SchemaOf:
    """A mark of a field that a handler reads as another type: `Annotated[dict[str, Any], SchemaOf(Definition)]` has the
    JSON Schema of a `Definition`."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        return handler(TypeAdapter(self._kind).core_schema)


class SchemaExtra:
    """A mark of a field whose validators ask for more than its type: `Annotated[str, SchemaExtra(pattern="^[a-z]+$")]`.
    It changes nothing but the JSON Schema."""

    def __init__(self, **keywords: Any) -> None:
        self._keywords = {name.rstrip("_"): value for name, value in keywords.items()}

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        return handler(schema) | self._keywords


NOT_EMPTY = SchemaExtra(minItems=1)
"""A mark of a list that a validator keeps from being empty."""


def by_case(schema: JsonSchema, field: str, cases: Mapping[tuple[str, ...], JsonSchema]) -> JsonSchema:
    """Return a schema of objects in which the value of `field` decides over further conditions.

    The conditions are nested, since some clients refuse `allOf` at the root of a schema.
    """
    whole: JsonSchema = {}
    for values, then in reversed(list(cases.items())):
        condition = {"properties": {field: {"enum": list(values)}}, "required": [field]}
        whole = {"if": condition, "then": then} | ({"else": whole} if whole else {})
    return schema | whole


def exactly_one_of(schema: JsonSchema, one: str, other: str) -> JsonSchema:
    """Return a schema of objects that have one of two properties, and not null."""
    return schema | {
        "if": {"required": [one], "properties": {one: NOT_NULL}},
        "then": {"properties": {other: NULL}},
        "else": {"required": [other], "properties": {other: NOT_NULL}},
    }
