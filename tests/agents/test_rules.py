"""The rules of each dialect: what its provider documents, each with a schema that would break it as declared."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import jsonschema_rs
import pytest

from actionengine import Actor, InMemoryStorage, RequestContext, Tools
from actionengine.changes import change_control_services
from actionengine.workflows import workflow_services
from tests.agents.rules import depth, lone_references, nodes
from tests.agents.shapes import TYPES, make_shapes

Check = Callable[[dict[str, Any]], bool]
STRICT = "anthropic_strict"
SCHEMA_KEYS = {"mcp": "inputSchema", "anthropic": "input_schema", STRICT: "input_schema"}


@cache
def schemas(dialect: str) -> dict[str, dict[str, Any]]:
    """Return the schema of the arguments of each tool: of all shapes, and of the library's own services."""
    storage = InMemoryStorage()
    system = RequestContext(storage.create_tenant(slug="acme", name="Acme"), Actor.system())
    engine = make_shapes([*workflow_services(), *change_control_services()], storage=storage)
    if dialect == STRICT:
        sets = [Tools(engine, "anthropic", ["shapes"], strict=[f"shapes.{name}"]) for name in TYPES if name != "tree"]
        made = [each for tools in sets for each in tools.list(system) if each.get("strict")]
    else:
        made = Tools(engine, dialect).list(system)  # type: ignore[arg-type]
    key = SCHEMA_KEYS.get(dialect, "parameters")
    return {each["name"]: each.get(key, {"type": "object"}) for each in made}


@cache
def declared() -> dict[str, dict[str, Any]]:
    """Return the schemas of the inputs, as the catalogue has them."""
    return {each.name: each.input_schema for each in make_shapes().descriptions()["shapes"]}


def each_node(check: Check) -> Check:
    return lambda schema: all(check(node) for _, node in nodes(schema))


def only(keyword: str, *values: Any) -> Check:
    return each_node(lambda node: keyword not in node or node[keyword] in values)


def none_of(*keywords: str) -> Check:
    return each_node(lambda node: not node.keys() & set(keywords))


def is_object(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "object"


def is_plain_root(schema: dict[str, Any]) -> bool:
    return not schema.keys() & {"anyOf", "oneOf", "allOf", "not", "enum", "const", "$ref"}


def is_closed(node: dict[str, Any]) -> bool:
    return "object" not in _types(node) or node.get("additionalProperties") is False


def requires_all(node: dict[str, Any]) -> bool:
    return "properties" not in node or list(node["properties"]) == node.get("required")


def is_typed(node: dict[str, Any]) -> bool:
    return bool(node.keys() & {"type", "anyOf", "$ref", "enum", "const"})


def has_items(node: dict[str, Any]) -> bool:
    return "array" not in _types(node) or "items" in node


def lone_reference(node: dict[str, Any]) -> bool:
    return "$ref" not in node or len(node) == 1


def looks_around(node: dict[str, Any]) -> bool:
    return bool(re.search(r"\(\?<?[=!]", node.get("pattern", "")))


def property_names(pattern: str) -> Check:
    return each_node(lambda node: all(re.fullmatch(pattern, name) for name in node.get("properties", {})))


def is_text_enum(node: dict[str, Any]) -> bool:
    return all(isinstance(each, str) for each in node.get("enum", ()))


def _types(node: dict[str, Any]) -> list[str]:
    kind = node.get("type", [])
    return kind if isinstance(kind, list) else [kind]


AT_MOST_TEN = "at most ten nested objects"
RESOLVED = "every reference is resolved"
KEPT_BY_PYDANTIC = (AT_MOST_TEN, RESOLVED)
"""The rules that no schema of a shape breaks as it is declared; they have tests of their own."""
ROOT: dict[str, Check] = {
    "the root is an object": is_object,
    "the root is no union and no reference": is_plain_root,
}
REFERENCES: dict[str, Check] = {RESOLVED: lambda schema: not lone_references(schema)}
NO_REFERENCES: dict[str, Check] = {"no references": none_of("$ref", "$defs")}
STRICT_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")
LENGTHS = ("minLength", "maxLength")
OBJECT_BOUNDS = ("patternProperties", "propertyNames", "minProperties", "maxProperties", "unevaluatedProperties")
LIST_BOUNDS = ("contains", "minContains", "maxContains", "uniqueItems", "unevaluatedItems", "prefixItems")
COMBINATIONS = ("oneOf", "allOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas")

RULES: dict[str, dict[str, Check]] = {
    "mcp": {**ROOT, **REFERENCES},
    "openai": {**ROOT, **REFERENCES, "a list has items": each_node(has_items)},
    "openai_strict": {
        **ROOT,
        **REFERENCES,
        "additionalProperties is false": each_node(is_closed),
        "all properties are required": each_node(requires_all),
        "no default": none_of("default"),
        "no oneOf, allOf, not or condition": none_of(*COMBINATIONS),
        "no lengths of texts": none_of(*LENGTHS),
        "no bounds of objects": none_of(*OBJECT_BOUNDS),
        "no bounds of lists but their length": none_of(*LIST_BOUNDS),
        "known formats only": only("format", *STRICT_FORMATS),
        "no pattern looks around": each_node(lambda node: not looks_around(node)),
        "each part has a type": each_node(is_typed),
        "a list has items": each_node(has_items),
        "nothing beside a reference": each_node(lone_reference),
        "no title or example": none_of("title", "examples", "discriminator"),
        AT_MOST_TEN: lambda schema: depth(schema) <= 10,
    },
    "anthropic": {**ROOT, **REFERENCES, "safe names": property_names(r"[a-zA-Z0-9_.-]{1,64}")},
    STRICT: {
        **ROOT,
        "no recursion": none_of("$ref", "$defs"),
        "additionalProperties is false": each_node(is_closed),
        "no bounds of numbers": none_of("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        "no lengths of texts": none_of(*LENGTHS),
        "no pattern": none_of("pattern"),
        "no bounds of lists but minItems 0 or 1": none_of("maxItems", *LIST_BOUNDS),
        "minItems is 0 or 1": only("minItems", 0, 1),
        "no bounds of objects": none_of(*OBJECT_BOUNDS),
        "known formats only": only("format", "uri", *STRICT_FORMATS),
        "each part has a type": each_node(is_typed),
        "no oneOf, allOf, not or condition": none_of(*COMBINATIONS),
        "safe names": property_names(r"[a-zA-Z0-9_.-]{1,64}"),
    },
    "gemini": {
        **ROOT,
        **NO_REFERENCES,
        "no additionalProperties": none_of("additionalProperties"),
        "no const": none_of("const"),
        "enums have texts": each_node(is_text_enum),
        "type is one name": each_node(lambda node: isinstance(node.get("type", ""), str)),
        "no type null": each_node(lambda node: node.get("type") != "null"),
        "no exclusive bounds": none_of("exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        "no oneOf, allOf, not or condition": none_of(*COMBINATIONS),
        "no bounds of lists but their length": none_of(*LIST_BOUNDS),
        "no patterns of names": none_of("patternProperties", "propertyNames"),
        "no format": none_of("format"),
        "no default, title or example": none_of("default", "title", "examples", "discriminator"),
        "properties are not empty": each_node(lambda node: node.get("properties", True)),
        "each part has a type": each_node(is_typed),
        "a list has items": each_node(has_items),
        "safe names": property_names(r"[a-zA-Z_][a-zA-Z0-9_]{0,63}"),
    },
}
CASES = [pytest.param(dialect, rule, id=f"{dialect}: {rule}") for dialect, rules in RULES.items() for rule in rules]


@pytest.mark.parametrize(("dialect", "rule"), CASES)
def test_every_tool_keeps_the_rule(dialect: str, rule: str) -> None:
    check = RULES[dialect][rule]
    assert [name for name, schema in schemas(dialect).items() if not check(schema)] == []


@pytest.mark.parametrize(("dialect", "rule"), [each for each in CASES if each.values[1] not in KEPT_BY_PYDANTIC])
def test_a_declared_schema_would_break_the_rule(dialect: str, rule: str) -> None:
    assert not all(map(RULES[dialect][rule], declared().values()))


@pytest.mark.parametrize("dialect", RULES)
def test_every_schema_is_valid_json_schema(dialect: str) -> None:
    for schema in schemas(dialect).values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


@pytest.mark.parametrize("dialect", RULES)
def test_no_tool_takes_up_a_models_context(dialect: str) -> None:
    assert max(len(json.dumps(schema)) for schema in schemas(dialect).values()) < 40_000
