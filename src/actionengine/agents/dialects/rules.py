"""The rules of a dialect for the JSON Schema of a tool's arguments, as a table that `compiler.py` applies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

ANNOTATIONS = frozenset({"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"})
"""Keywords that do not constrain a value."""

NUMBERS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
STRINGS = frozenset({"minLength", "maxLength", "pattern", "format"})
LISTS = frozenset({"minItems", "maxItems", "uniqueItems", "contains", "minContains", "maxContains"})
OBJECTS = frozenset({"minProperties", "maxProperties", "propertyNames", "patternProperties", "dependentRequired"})
CONSTRAINTS = NUMBERS | STRINGS | LISTS | OBJECTS
"""Keywords that constrain a value of one type, without a meaning for the structure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The largest schema that a dialect takes.

    `depth` counts nested objects, `properties` those of all objects, `enum_values` those of all enums, `text` the
    characters of all names of properties and values of enums. An enum of texts with more than `long_enum` values has
    at most `long_enum_text` characters in them.
    """

    depth: int
    properties: int
    enum_values: int
    text: int
    long_enum: int
    long_enum_text: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The subset of JSON Schema 2020-12 that a dialect takes. A keyword that it lacks moves into the description."""

    constraints: frozenset[str] = CONSTRAINTS
    """The constraints of values that it takes."""
    formats: frozenset[str] | None = None
    """The formats of texts that it takes; None stands for any."""
    annotations: frozenset[str] = ANNOTATIONS
    """The annotations that it takes."""
    max_min_items: int | None = None
    """The largest `minItems` that it takes."""
    lookaround: bool = True
    """True if a `pattern` may look ahead or behind."""
    references: Literal["kept", "recursive", "none"] = "kept"
    """The `$ref`s that it takes: all, those of recursive schemas, or none. The others are written out; a recursion that
    cannot be is cut."""
    open_objects: bool = True
    """True if an object may have properties that the schema does not name. Otherwise it becomes a list of pairs."""
    closes_objects: bool = True
    """True if `additionalProperties: false` may be there."""
    any_value: bool = True
    """True if a schema may admit a value of any type. Otherwise the value becomes a JSON text."""
    all_required: bool = False
    """True if every property is required. Null then stands for one that is left out."""
    one_of: bool = True
    """True if `oneOf` may stand for a union, as `anyOf` does."""
    all_of: bool = True
    """True if `allOf`, `not` and conditions may be there."""
    root_unions: bool = True
    """True if `anyOf` and its kind may be beside the properties of the root."""
    type_lists: bool = True
    """True if `type` may be a list."""
    null_type: bool = True
    """True if there is a type `null`. Otherwise `nullable: true` is beside the type."""
    const: bool = True
    """True if there is `const`. Otherwise an enum has one value."""
    text_enums_only: bool = False
    """True if an enum has only texts."""
    tuples: bool = True
    """True if `prefixItems` may give the items of a list by position."""
    empty_properties: bool = True
    """True if `properties` may be empty."""
    property_name: re.Pattern[str] | None = None
    """The names that a property may have; None stands for any. Other names are replaced."""
    limits: Limits | None = None
    """The largest schema; None if there is no published limit."""
