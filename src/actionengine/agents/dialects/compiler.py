"""Compiles the schema of an action's input for a dialect: the schema of the arguments, and their reader."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from actionengine.agents.dialects.keywords import Keywords, listed
from actionengine.agents.dialects.readers import (
    Branch,
    ListReader,
    MapReader,
    ObjectReader,
    PairsReader,
    Property,
    Reader,
    Trail,
    UnionReader,
    read_json_text,
)
from actionengine.agents.dialects.rules import ANNOTATIONS, Rules
from actionengine.agents.dialects.size import Size
from actionengine.agents.dialects.vocabulary import (
    ANY_KIND,
    COMBINATIONS,
    UNIONS,
    definition_name,
    is_record,
    kind_of,
    kinds_of,
    merged,
    nullable,
    of_kind,
    recursive_names,
    reference_to,
    references_in,
    resolved,
    with_notes,
)

WRAPPED = "input"
"""The property that carries an input that is not an object with named properties."""

_UNROLLED = 1
"""Recursive schemas inside each other that are written out where a dialect has no `$ref`."""

_MAX_NODES = 10_000
"""Subschemas of one tool, at most, where references are written out."""

_MAX_DEPTH = 10
"""Nested objects, at most, where references are written out."""


class TooLargeError(Exception):
    """The schema is too large for the dialect at any depth. The message says what is too large."""


class Compiled(NamedTuple):
    """The arguments of a tool: their schema and their reader.

    `is_wrapped` says that the input is the property `input`. `renamed` has the names of properties that the dialect
    refuses, with those that replace them.
    """

    schema: dict[str, Any]
    reader: ObjectReader
    is_wrapped: bool
    renamed: Mapping[str, str]


class _Node(NamedTuple):
    schema: dict[str, Any]
    reader: Reader | None = None
    kinds: frozenset[str] = ANY_KIND
    """The JSON types of the arguments, not of the payload."""


def compile_input(schema: Mapping[str, Any], rules: Rules) -> Compiled:
    """Return the arguments for an action's input schema.

    Where the schema is too large for the dialect, the parts that are nested deepest become JSON text. Raises
    `TooLargeError` if it is too large even so.
    """
    if rules.references == "kept":
        return _Compiler(schema, rules, None).compile()
    excess = f"its schema has more than {_MAX_NODES} parts"
    depth = rules.limits.depth if rules.limits else _MAX_DEPTH
    while depth:
        try:
            compiled = _Compiler(schema, rules, depth).compile()
        except _TooManyNodesError:
            depth -= 1
            continue
        if rules.limits is None:
            return compiled
        size = Size.of(compiled.schema, rules.limits.long_enum)
        found = size.excess(rules.limits)
        if found is None:
            return compiled
        excess, depth = found, min(depth, size.depth) - 1
    raise TooLargeError(excess)


class _TooManyNodesError(Exception):
    pass


class _Compiler:
    def __init__(self, schema: Mapping[str, Any], rules: Rules, max_depth: int | None) -> None:
        self._root = {key: value for key, value in schema.items() if key not in ("$defs", "$schema")}
        self._rules = rules
        self._keywords = Keywords(rules)
        self._kept = self._keywords.kept
        self._max_depth = max_depth
        self._definitions: Mapping[str, Any] = schema.get("$defs", {})
        self._recursive = recursive_names(self._definitions)
        self._shared: dict[str, Any] = {}
        self._readers: dict[str, Reader | None] = {}
        self._written: list[str] = []
        self._nodes = 0
        self._renamed: dict[str, str] = {}

    def compile(self) -> Compiled:
        root = resolved(self._root, self._definitions)
        if "allOf" in root:
            root = merged(root)
        is_wrapped = not is_record(root)
        if is_wrapped:
            required = [WRAPPED] if self._root.keys() - ANNOTATIONS else []
            root = {"type": "object", "properties": {WRAPPED: self._root}, "required": required}
        schema, reader, _ = self._record(root, 1)
        if not self._rules.root_unions:
            schema = {key: value for key, value in schema.items() if key not in COMBINATIONS}
        if self._rules.references == "kept":
            self._define_rest(schema)
        if self._shared:
            schema["$defs"] = self._shared
        assert isinstance(reader, ObjectReader)
        return Compiled(schema, reader, is_wrapped, self._renamed)

    def _node(self, given: Any, depth: int) -> _Node:
        self._nodes += 1
        if self._max_depth is not None and self._nodes > _MAX_NODES:
            raise _TooManyNodesError
        schema: dict[str, Any] = given if isinstance(given, dict) else {}
        if "$ref" in schema:
            return self._reference(schema, depth)
        if "allOf" in schema and not self._rules.all_of:
            return self._node(merged(schema), depth)
        for keyword in UNIONS:
            if keyword in schema and "properties" not in schema:
                return self._union(schema, keyword, depth)
        kind = schema.get("type")
        if isinstance(kind, list) and not self._rules.type_lists:
            about = {key: value for key, value in schema.items() if key in ANNOTATIONS}
            rest = {key: value for key, value in schema.items() if key not in ANNOTATIONS}
            return self._union({**about, "anyOf": [of_kind(rest, each) for each in kind]}, "anyOf", depth)
        if "const" in schema or "enum" in schema:
            return self._choice(schema, depth)
        kinds = kinds_of(schema, self._definitions)
        if kinds == ANY_KIND:
            return self._any(schema)
        if "object" in kinds:
            return self._object(schema, depth)
        if "array" in kinds:
            return self._list(schema, depth)
        if kind == "null" and not self._rules.null_type:
            kept = with_notes({**self._kept(schema), "type": "string", "nullable": True}, {}, "always null")
            return _Node(kept, None, kinds)
        return _Node({**self._kept(schema), "type": kind}, None, kinds)

    # References

    def _reference(self, schema: dict[str, Any], depth: int) -> _Node:
        name, references = definition_name(schema["$ref"]), self._rules.references
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        if name not in self._definitions:
            return self._any(beside)
        if references == "kept" or (references == "recursive" and name in self._recursive):
            return self._kept_reference(name, beside)
        if name in self._recursive and sum(each in self._recursive for each in self._written) >= _UNROLLED:
            return self._as_text(beside, f"a nested {name} as JSON text")
        self._written.append(name)
        try:
            return self._node({**self._definitions[name], **beside}, depth)
        finally:
            self._written.pop()

    def _kept_reference(self, name: str, beside: dict[str, Any]) -> _Node:
        if name not in self._shared:
            self._shared[name] = {}
            node = self._node(self._definitions[name], 1)
            self._shared[name], self._readers[name] = node.schema, node.reader
        reader = self._readers[name] if name in self._readers else _Deferred(self._readers, name)
        kinds = kinds_of(self._definitions[name], self._definitions)
        about = self._kept(beside)
        if about and self._rules.references == "recursive":
            return _Node({"anyOf": [reference_to(name)], **about}, reader, kinds)
        return _Node({**reference_to(name), **about}, reader, kinds)

    def _define_rest(self, schema: dict[str, Any]) -> None:
        """Define what only constraints refer to, such as the names of properties."""
        while missing := set(references_in([schema, *self._shared.values()])) & self._definitions.keys() - self._shared:
            for name in missing:
                self._kept_reference(name, {})

    # Types

    def _object(self, schema: dict[str, Any], depth: int) -> _Node:
        if self._max_depth is not None and depth > self._max_depth:
            return self._as_text(schema, "an object as JSON text")
        return self._record(schema, depth) if is_record({**schema, "type": "object"}) else self._map(schema, depth)

    def _record(self, schema: dict[str, Any], depth: int) -> _Node:
        rules = self._rules
        properties: dict[str, Any] = {}
        read: dict[str, Property] = {}
        constants: dict[str, Any] = {}
        required: list[str] = []
        legal = {name for name in schema["properties"] if self._is_legal(name)}
        for name, given in schema["properties"].items():
            shown = name if name in legal else self._replaced(name, legal | properties.keys())
            node = self._node(given, depth + 1)
            leaves_out_null = False
            if name in schema.get("required", ()):
                required.append(shown)
            elif rules.all_required:
                leaves_out_null = node.reader is read_json_text or "null" not in kinds_of(given, self._definitions)
                words = "null leaves it out" if leaves_out_null else ""
                node = node._replace(schema=with_notes(nullable(node.schema), {}, words))
            properties[shown] = node.schema
            read[shown] = Property(name, node.reader, leaves_out_null)
            if isinstance(given, dict) and "const" in given:
                constants[shown] = given["const"]
        extra = schema.get("additionalProperties") or False
        is_closed = not rules.open_objects or (extra is False and "patternProperties" not in schema)
        rest = None
        if isinstance(extra, dict) and not is_closed:
            extra, rest, _ = self._node(extra, depth + 1)
        kept = {**self._kept(schema), "type": schema.get("type", "object")}
        if properties or rules.empty_properties:
            kept["properties"] = properties
        if rules.all_required or required:
            kept["required"] = list(properties) if rules.all_required else required
        if rules.closes_objects:
            kept["additionalProperties"] = extra if rules.open_objects else False
        return _Node(kept, ObjectReader(read, frozenset(required), constants, rest, is_closed), _OBJECT)

    def _map(self, schema: dict[str, Any], depth: int) -> _Node:
        patterns: dict[str, Any] = schema.get("patternProperties", {})
        extra = schema.get("additionalProperties", not patterns)
        if not self._rules.open_objects:
            return self._pairs(schema, patterns, extra, depth)
        kept = {**self._kept(schema), "type": schema.get("type", "object")}
        if patterns:
            kept["patternProperties"] = {key: self._node(each, depth + 1).schema for key, each in patterns.items()}
        if "additionalProperties" in schema:
            kept["additionalProperties"] = extra
        if not isinstance(extra, dict):
            return _Node(kept, None, _OBJECT)
        kept["additionalProperties"], reader, _ = self._node(extra, depth + 1)
        return _Node(kept, MapReader(reader) if reader else None, _OBJECT)

    def _pairs(self, schema: dict[str, Any], patterns: dict[str, Any], extra: Any, depth: int) -> _Node:
        key = schema.get("propertyNames", {})
        if len(patterns) == 1 and not extra:
            ((pattern, extra),) = patterns.items()
            key = {"pattern": pattern, **key}
        keys, values = self._node({**key, "type": "string"}, depth + 1), self._node(extra, depth + 1)
        pair = {"properties": {"key": keys.schema, "value": values.schema}, "required": ["key", "value"]}
        closed = {"additionalProperties": False} if self._rules.closes_objects else {}
        about = {name: value for name, value in schema.items() if name in ANNOTATIONS}
        about |= {ours: schema[theirs] for ours, theirs in _PAIR_BOUNDS if theirs in schema}
        kept = with_notes(self._kept(about), {}, "an object, as a list of its keys with their values")
        kept |= {"type": "array", "items": {"type": "object", **pair, **closed}}
        return _Node(kept, PairsReader(values.reader), frozenset({"array", "object"}))

    def _list(self, schema: dict[str, Any], depth: int) -> _Node:
        first = [self._node(each, depth) for each in schema.get("prefixItems", ())]
        items = schema.get("items", False if first else {})
        rest = [] if items is False else [self._node(items, depth)]
        kept = {**self._kept(schema), "type": schema.get("type", "array")}
        if first and self._rules.tuples:
            kept["prefixItems"] = [each.schema for each in first]
            kept["items"] = rest[0].schema if rest else False
        else:
            kept["items"] = _one_of([each.schema for each in (*first, *rest)])
        readers = [each.reader for each in first]
        last = rest[0].reader if rest else None
        return _Node(kept, ListReader(readers, last) if any((*readers, last)) else None, frozenset({"array"}))

    def _union(self, schema: dict[str, Any], keyword: str, depth: int) -> _Node:
        rules = self._rules
        given = schema[keyword]
        rest = {key: value for key, value in schema.items() if key not in (keyword, "discriminator")}
        if not rules.any_value and any(kinds_of(each, self._definitions) == ANY_KIND for each in given):
            return self._any(rest)
        is_null = [each == {"type": "null"} for each in given]
        nodes = [self._node(each, depth) for each in given]
        schemas = [node.schema for node, null in zip(nodes, is_null, strict=True) if rules.null_type or not null]
        kept = self._kept(rest) | ({"type": rest["type"]} if "type" in rest and rules.type_lists else {})
        if len(schemas) == 1 and not rules.null_type:
            kept = {**schemas[0], **kept}
        else:
            kept[keyword if rules.one_of else "anyOf"] = schemas
        if any(is_null) and not rules.null_type:
            kept["nullable"] = True
        kinds = frozenset[str]().union(*(node.kinds for node in nodes))
        if not any(node.reader for node in nodes):
            return _Node(kept, None, kinds)
        chosen = schema.get("discriminator", {})
        by_reference = {each.get("$ref"): node.reader for each, node in zip(given, nodes, strict=True)}
        choices = {
            value: by_reference[reference]
            for value, reference in chosen.get("mapping", {}).items()
            if reference in by_reference
        }
        name = chosen.get("propertyName")
        shown = self._renamed.get(name, name)
        return _Node(kept, UnionReader([Branch(node.kinds, node.reader) for node in nodes], shown, choices), kinds)

    def _choice(self, schema: dict[str, Any], depth: int) -> _Node:
        rules = self._rules
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        kinds = frozenset(map(kind_of, values))
        if rules.references == "kept":
            return _Node(self._kept(schema) | {key: schema[key] for key in _CHOICE if key in schema}, None, kinds)
        if kinds & {"object", "array"}:
            return self._as_text(schema, f"one of {listed(values)} as JSON text")
        if not rules.type_lists and len(kinds) > 1:
            rest = {key: value for key, value in schema.items() if key not in (*_CHOICE, *ANNOTATIONS)}
            about = {key: value for key, value in schema.items() if key in ANNOTATIONS}
            parts = [
                of_kind({**rest, "enum": values}, kind) if kind != "null" else {"type": "null"}
                for kind in sorted(kinds)
            ]
            return self._union({**about, "anyOf": parts}, "anyOf", depth)
        kept = {**self._kept(schema), "type": next(iter(kinds)) if len(kinds) == 1 else sorted(kinds)}
        if self._keywords.takes_enum(values, kinds):
            choice = {"const": values[0]} if "const" in schema and rules.const else {"enum": values}
            return _Node(kept | choice, None, kinds)
        return _Node(with_notes(kept, {}, f"one of {listed(values)}"), None, kinds)

    def _any(self, schema: dict[str, Any]) -> _Node:
        return _Node(self._kept(schema)) if self._rules.any_value else self._as_text(schema, "any value as JSON text")

    def _as_text(self, schema: dict[str, Any], words: str) -> _Node:
        about = {key: value for key, value in schema.items() if key in ANNOTATIONS}
        kept = with_notes(self._kept(about), {}, words)
        return _Node({**kept, "type": "string"}, read_json_text, frozenset({"string"}))

    # Names

    def _is_legal(self, name: str) -> bool:
        return self._rules.property_name is None or bool(self._rules.property_name.fullmatch(name))

    def _replaced(self, name: str, taken: Collection[str]) -> str:
        """Return a legal name for a property, which no other one has."""
        safe = base = re.sub(r"[^a-zA-Z0-9_]", "_", name)[:50].lstrip("0123456789") or "field"
        number = 1
        while safe in taken:
            number += 1
            safe = f"{base}_{number}"
        self._renamed[name] = safe
        return safe


class _Deferred:
    """The reader of a recursive definition, which is known when the whole schema is compiled."""

    def __init__(self, readers: Mapping[str, Reader | None], name: str) -> None:
        self._readers = readers
        self._name = name

    def __call__(self, value: Any, trail: Trail) -> Any:
        reader = self._readers[self._name]
        return value if reader is None else reader(value, trail)

    def misfit(self, value: Any) -> int:
        misfit = getattr(self._readers[self._name], "misfit", None)
        return 0 if misfit is None else int(misfit(value))


def _one_of(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a schema that admits what one of these admits."""
    distinct = list({json.dumps(each, sort_keys=True): each for each in schemas}.values())
    return distinct[0] if len(distinct) == 1 else {"anyOf": distinct}


_OBJECT = frozenset({"object"})
_CHOICE = ("enum", "const", "type")
_PAIR_BOUNDS = (("minItems", "minProperties"), ("maxItems", "maxProperties"))
