"""Instances at random of a JSON Schema, with the keywords that dialects have."""

from __future__ import annotations

from datetime import date
from typing import Any

from hypothesis import strategies as st

from tests.agents.family import BOOLEANS, JSON, TEXTS, Draw

_TEXTS: dict[Any, st.SearchStrategy[str]] = {
    "date": st.dates().map(date.isoformat),
    "date-time": st.datetimes().map(lambda time: f"{time.isoformat()}Z"),
    "duration": st.sampled_from(["PT5M", "P1DT2H"]),
    "uuid": st.uuids().map(str),
}


def draw_instance(draw: Draw, schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """Draw a value that a schema admits."""
    if "$ref" in schema:
        return draw_instance(draw, definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            return draw_instance(draw, draw(st.sampled_from(schema[keyword])), definitions)
    if schema.get("nullable") and draw(BOOLEANS):
        return None
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = draw(st.sampled_from(kind))
    if kind is None:
        return draw(JSON)
    return _DRAW[kind](draw, {**schema, "type": kind}, definitions)


def _object(draw: Draw, schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    required = schema.get("required", ())
    found = {
        name: draw_instance(draw, part, definitions)
        for name, part in schema.get("properties", {}).items()
        if name in required or draw(BOOLEANS)
    }
    if extra := schema.get("additionalProperties", "properties" not in schema):
        part = extra if isinstance(extra, dict) else {}
        found |= {name: draw_instance(draw, part, definitions) for name in draw(st.sets(TEXTS, max_size=2))}
    return found


def _array(draw: Draw, schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    if "prefixItems" in schema:
        return [draw_instance(draw, part, definitions) for part in schema["prefixItems"]]
    least = schema.get("minItems", 0)
    count = draw(st.integers(least, schema.get("maxItems", least + 2)))
    return [draw_instance(draw, schema.get("items", {}), definitions) for _ in range(count)]


def _string(draw: Draw, schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    if "pattern" in schema:
        return draw(st.from_regex(schema["pattern"], fullmatch=True))
    if "format" in schema:
        return draw(_TEXTS[schema["format"]])
    return draw(st.text("abü", min_size=schema.get("minLength", 0), max_size=schema.get("maxLength", 9)))


def _number(draw: Draw, schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    if schema["type"] == "integer":
        step = schema.get("multipleOf", 1)
        return draw(st.integers(schema.get("minimum", -99), schema.get("maximum", 99))) // step * step
    above, below = schema.get("exclusiveMinimum", -9), schema.get("exclusiveMaximum", 99)
    return draw(st.integers(1, 9)) / 10 * (below - above) + above


_DRAW: dict[str, Any] = {
    "object": _object,
    "array": _array,
    "string": _string,
    "integer": _number,
    "number": _number,
    "boolean": lambda draw, schema, definitions: draw(BOOLEANS),
    "null": lambda draw, schema, definitions: None,
}
