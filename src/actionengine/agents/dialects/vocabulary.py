"""Facts about JSON Schemas that hold in every dialect."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from actionengine.agents.dialects.rules import ANNOTATIONS, LISTS, NUMBERS, OBJECTS, STRINGS

UNIONS = ("anyOf", "oneOf")
COMBINATIONS = (*UNIONS, "allOf", "not", "if", "then", "else", "dependentSchemas")
STRUCTURE = frozenset({"type", "properties", "required", "additionalProperties", "items", "prefixItems"})
ANY_KIND = frozenset({"object", "array", "string", "boolean", "integer", "number", "null"})
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_OF_KIND = {
    "object": OBJECTS | {"properties", "required", "additionalProperties"},
    "array": LISTS | {"items", "prefixItems"},
    "string": STRINGS,
    "integer": NUMBERS,
    "number": NUMBERS,
}
_MAX_SHOWN = 100


def definition_name(reference: object) -> str:
    """Return the name of the definition that a `$ref` points at; an empty one for another reference."""
    if not isinstance(reference, str) or not reference.startswith("#/$defs/"):
        return ""
    return reference.removeprefix("#/$defs/").replace("~1", "/").replace("~0", "~")


def reference_to(name: str) -> dict[str, str]:
    """Return the reference to a definition."""
    return {"$ref": f"#/$defs/{name.replace('~', '~0').replace('/', '~1')}"}


def recursive_names(definitions: Mapping[str, Any]) -> frozenset[str]:
    """Return the definitions that lead to themselves."""
    leads = {name: set(references_in(schema)) & definitions.keys() for name, schema in definitions.items()}
    found = set()
    for name in definitions:
        reached: set[str] = set()
        ahead = list(leads[name])
        while ahead:
            each = ahead.pop()
            if each not in reached:
                reached.add(each)
                ahead += leads[each]
        if name in reached:
            found.add(name)
    return frozenset(found)


def references_in(schema: Any) -> Iterator[str]:
    """Yield the names of the definitions that a schema refers to, at any depth."""
    parts = [schema]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            if "$ref" in part:
                yield definition_name(part["$ref"])
            parts += part.values()
        elif isinstance(part, list):
            parts += part


def is_record(schema: Mapping[str, Any]) -> bool:
    """Return whether a schema admits only objects with named properties."""
    if schema.get("type", "object") != "object" or "properties" not in schema:
        return False
    return bool(schema["properties"]) or not (schema.get("additionalProperties") or schema.get("patternProperties"))


def resolved(schema: Any, definitions: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema with the definition that it refers to, if any."""
    for _ in range(len(definitions) + 1):
        if not isinstance(schema, dict) or definition_name(schema.get("$ref")) not in definitions:
            break
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**definitions[definition_name(schema["$ref"])], **beside}
    return schema if isinstance(schema, dict) else {}


def kinds_of(schema: Any, definitions: Mapping[str, Any], seen: int = 0) -> frozenset[str]:
    """Return the JSON types that a schema may admit."""
    schema = resolved(schema, definitions)
    if "const" in schema or "enum" in schema:
        return frozenset(map(kind_of, schema.get("enum", [schema.get("const")])))
    kind = schema.get("type")
    if kind is not None:
        return frozenset([kind] if isinstance(kind, str) else kind)
    for keyword in UNIONS:
        if keyword in schema and seen < 20:
            return frozenset[str]().union(*(kinds_of(each, definitions, seen + 1) for each in schema[keyword]))
    if "properties" in schema:
        return frozenset({"object"})
    return ANY_KIND


def kind_of(value: Any) -> str:
    """Return the JSON type of a value."""
    return _TYPES.get(type(value)) or ("object" if isinstance(value, Mapping) else "array")


def of_kind(schema: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the part of a schema that concerns values of one type."""
    own = _OF_KIND.get(kind, frozenset())
    kept = {key: value for key, value in schema.items() if key in own or key not in _ANY_OF_KIND}
    if "enum" in kept:
        kept["enum"] = [each for each in kept["enum"] if kind_of(each) == kind]
    return {**kept, "type": kind}


_ANY_OF_KIND = frozenset().union(*_OF_KIND.values())


def merged(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema with its `allOf` written into it: properties together, of other keywords the last."""
    whole: dict[str, Any] = {}
    for part in (*schema["allOf"], {key: value for key, value in schema.items() if key != "allOf"}):
        for key, value in (part if isinstance(part, dict) else {}).items():
            if key == "properties":
                value = {**whole.get(key, {}), **value}
            elif key == "required":
                value = list(dict.fromkeys([*whole.get(key, []), *value]))
            whole[key] = value
    return whole


def with_notes(schema: dict[str, Any], notes: Mapping[str, Any], words: str = "") -> dict[str, Any]:
    """Return a schema whose description also has these words and keywords."""
    said = [words] if words else []
    said += [f"{key}: {_short(value)}" for key, value in notes.items()]
    if not said:
        return schema
    description = schema.get("description")
    text = ", ".join(said)
    return {**schema, "description": f"{description} ({text})" if description else text}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


def with_items(value: Any) -> Any:
    """Return a condition in which each list has items. OpenAI refuses a list without; of a condition, nothing else
    changes."""
    if isinstance(value, list):
        return [with_items(each) for each in value]
    if not isinstance(value, dict):
        return value
    found = {key: with_items(each) for key, each in value.items()}
    return {"items": {}, **found} if found.get("type") == "array" else found


def nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that admits null too."""
    kind = schema.get("type")
    choices = {"enum": [*schema["enum"], None]} if "enum" in schema and None not in schema["enum"] else {}
    if isinstance(kind, list):
        return schema if "null" in kind else {**schema, "type": [*kind, "null"], **choices}
    if "anyOf" in schema:
        null = {"type": "null"}
        return schema if null in schema["anyOf"] else {**schema, "anyOf": [*schema["anyOf"], null]}
    if kind == "null":
        return schema
    if kind in ("string", "boolean", "integer", "number") and "const" not in schema:
        return {**schema, "type": [kind, "null"], **choices}
    about = {key: value for key, value in schema.items() if key in ANNOTATIONS}
    rest = {key: value for key, value in schema.items() if key not in ANNOTATIONS}
    return {"anyOf": [rest, {"type": "null"}], **about}
