"""The rules of each dialect, as providers document them, checked on a finished definition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MAPS = ("properties", "patternProperties", "$defs", "dependentSchemas")
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
SINGLE = ("items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else")


def nodes(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each subschema with its path."""
    if not isinstance(schema, dict):
        return
    yield path or "#", schema
    for keyword in MAPS:
        for name, part in schema.get(keyword, {}).items():
            yield from nodes(part, f"{path}/{keyword}/{name}")
    for keyword in LISTS:
        for index, part in enumerate(schema.get(keyword, ())):
            yield from nodes(part, f"{path}/{keyword}/{index}")
    for keyword in SINGLE:
        yield from nodes(schema.get(keyword), f"{path}/{keyword}")


def lone_references(schema: dict[str, Any]) -> list[str]:
    """Return the references that no definition of the schema resolves."""
    known = {f"#/$defs/{name}" for name in schema.get("$defs", {})}
    return [node["$ref"] for _, node in nodes(schema) if "$ref" in node and node["$ref"] not in known]


def depth(schema: Any, level: int = 1) -> int:
    """Return the nested objects of a schema, counted along its properties, items and alternatives."""
    if not isinstance(schema, dict):
        return 0
    inner = level + ("properties" in schema)
    parts = [*schema.get("properties", {}).values(), *schema.get("anyOf", ()), schema.get("items")]
    own = level if "properties" in schema else 0
    return max([own, *(depth(part, inner) for part in parts)])


def as_json_schema(schema: Any) -> Any:
    """Return a schema of any dialect as JSON Schema: OpenAPI's `nullable` is a type."""
    if isinstance(schema, list):
        return [as_json_schema(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: as_json_schema(value) for key, value in schema.items()}
    if found.get("nullable") is True:
        del found["nullable"]
        return {"anyOf": [found, {"type": "null"}]}
    return found
