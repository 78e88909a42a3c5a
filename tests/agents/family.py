"""Inputs at random: types of fields, and for each a payload with the arguments that stand for it in a dialect."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, Union
from uuid import UUID

from hypothesis import strategies as st
from pydantic import ConfigDict, Field, create_model

Draw = Callable[[st.SearchStrategy[Any]], Any]
Given = tuple[Any, Any]
"""A payload, and the arguments for it."""


@dataclass(frozen=True)
class Style:
    """The form of a dialect's arguments."""

    pairs: bool = False
    """An object with any keys is a list of pairs, and any value is JSON text."""
    nulls: bool = False
    """Null stands for a property that is left out."""


STYLES = {
    "mcp": Style(),
    "openai": Style(),
    "openai_strict": Style(pairs=True, nulls=True),
    "anthropic": Style(),
    "anthropic_strict": Style(pairs=True),
    "gemini": Style(pairs=True),
}


@dataclass(frozen=True)
class Shape:
    """A type, and the way to draw a payload of it. `kinds` are the JSON types of the payloads."""

    type: Any
    give: Callable[[Draw, Style], Given]
    kinds: frozenset[str]


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
INTS = st.integers(-(10**6), 10**6)
JSON = st.recursive(
    st.none() | st.booleans() | INTS | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
BOOLEANS = st.booleans()
ALL_KINDS = frozenset({"object", "array", "string", "boolean", "integer", "number", "null"})


def leaf(type: Any, values: st.SearchStrategy[Any], *kinds: str) -> Shape:
    def give(draw: Draw, style: Style) -> Given:
        value = draw(values)
        return value, value

    return Shape(type, give, frozenset(kinds))


def _any(draw: Draw, style: Style) -> Given:
    value = draw(JSON)
    return value, json.dumps(value) if style.pairs else value


ANY = Shape(Any, _any, ALL_KINDS)
LEAVES = [
    leaf(int, INTS, "integer"),
    leaf(Annotated[int, Field(ge=1, le=9)], st.integers(1, 9), "integer"),
    leaf(Annotated[int, Field(multiple_of=5)], INTS.map(lambda number: number * 5), "integer"),
    leaf(Annotated[float, Field(gt=0, lt=1)], st.sampled_from([0.25, 0.5]), "number"),
    leaf(bool, BOOLEANS, "boolean"),
    leaf(str, TEXTS, "string"),
    leaf(Annotated[str, Field(min_length=2, max_length=4)], st.text("abü", min_size=2, max_size=4), "string"),
    leaf(Annotated[str, Field(pattern="^[a-c]+$")], st.text("abc", min_size=1, max_size=5), "string"),
    leaf(Decimal, st.sampled_from(["1.50", "0", 7, 2.5]), "string", "number"),
    leaf(Annotated[Decimal, Field(gt=0, decimal_places=2, max_digits=6)], st.sampled_from(["1.50", 7]), "string"),
    leaf(date, st.dates().map(date.isoformat), "string"),
    leaf(datetime, st.datetimes().map(lambda time: f"{time.isoformat()}Z"), "string"),
    leaf(timedelta, st.sampled_from(["PT5M", "P1DT2H"]), "string"),
    leaf(UUID, st.uuids().map(str), "string"),
    leaf(Size, st.sampled_from(["s", "l"]), "string"),
    leaf(Literal["a", "b"], st.sampled_from(["a", "b"]), "string"),
    leaf(Literal[1, 2], st.sampled_from([1, 2]), "integer"),
    leaf(Literal[1, "x", None], st.sampled_from([1, "x", None]), "integer", "string", "null"),
    ANY,
]
_LEAF = st.sampled_from(LEAVES)
_COUNT = st.integers(1, 3)
_COMPOSITES = st.sampled_from(
    ["leaf", "leaf", "list", "map", "optional", "tuple", "union", "model", "chosen", "either"]
)
_EXTRA = st.sampled_from(["ignore", "forbid"])


def draw_input(draw: Draw) -> Shape:
    """Draw the type of an input: mostly a model."""
    return draw_model(draw, 2) if draw(st.integers(0, 3)) else draw_shape(draw, 2)


def draw_shape(draw: Draw, depth: int) -> Shape:
    """Draw a type, with at most so many types inside each other."""
    kind = draw(_COMPOSITES) if depth else "leaf"
    if kind == "model":
        return draw_model(draw, depth - 1)
    if kind == "chosen":
        one, two = draw_model(draw, depth - 1, "one"), draw_model(draw, depth - 1, "two")
        both = union(one, two)
        return Shape(Annotated[both.type, Field(discriminator="kind")], both.give, both.kinds)
    if kind == "either":
        return union(draw_model(draw, depth - 1), draw_model(draw, depth - 1, prefix="other"))
    if kind == "leaf":
        chosen: Shape = draw(_LEAF)
        return chosen
    inner = draw_shape(draw, depth - 1)
    if kind == "list":
        return list_of(inner)
    if kind == "map":
        return map_of(inner)
    if kind == "optional":
        return inner if "null" in inner.kinds else union(inner, leaf(None, st.none(), "null"))
    other = draw_shape(draw, depth - 1)
    if kind == "tuple":
        return tuple_of(inner, other)
    # A list and an object with any keys are both lists in some dialects.
    is_clear = not inner.kinds & other.kinds and not {"array", "object"} <= inner.kinds | other.kinds
    return union(inner, other) if is_clear else inner


def draw_model(draw: Draw, depth: int, kind: str | None = None, prefix: str = "field") -> Shape:
    """Draw a model. `kind` adds a constant that tells it from others."""
    fields = [(f"{prefix}_{number}", draw_shape(draw, depth), draw(BOOLEANS)) for number in range(draw(_COUNT))]
    declared: dict[str, Any] = {
        name: (shape.type, ... if is_required else Field(default_factory=lambda: None))
        for name, shape, is_required in fields
    }
    if kind is not None:
        declared["kind"] = (Literal[kind], ...)
    type = create_model("Model", __config__=ConfigDict(extra=draw(_EXTRA)), **declared)

    def give(draw: Draw, style: Style) -> Given:
        payload: dict[str, Any] = {} if kind is None else {"kind": kind}
        arguments: dict[str, Any] = dict(payload)
        for name, shape, is_required in fields:
            if is_required or draw(BOOLEANS):
                payload[name], arguments[name] = shape.give(draw, style)
            elif style.nulls:
                arguments[name] = None
                if shape is not ANY and "null" in shape.kinds:
                    payload[name] = None
        return payload, arguments

    return Shape(type, give, frozenset({"object"}))


def list_of(shape: Shape) -> Shape:
    def give(draw: Draw, style: Style) -> Given:
        return _unzipped([shape.give(draw, style) for _ in range(draw(_COUNT))])

    type: Any = shape.type
    return Shape(Annotated[list[type], Field(min_length=1, max_length=3)], give, frozenset({"array"}))


def tuple_of(first: Shape, second: Shape) -> Shape:
    one: Any = first.type
    two: Any = second.type
    give = lambda draw, style: _unzipped([first.give(draw, style), second.give(draw, style)])  # noqa: E731
    return Shape(tuple[one, two], give, frozenset({"array"}))


def map_of(shape: Shape) -> Shape:
    def give(draw: Draw, style: Style) -> Given:
        items = {key: shape.give(draw, style) for key in draw(st.sets(TEXTS, max_size=2))}
        payload = {key: value for key, (value, _) in items.items()}
        if style.pairs:
            return payload, [{"key": key, "value": arguments} for key, (_, arguments) in items.items()]
        return payload, {key: arguments for key, (_, arguments) in items.items()}

    type: Any = shape.type
    return Shape(dict[str, type], give, frozenset({"object"}))


def union(first: Shape, second: Shape) -> Shape:
    def give(draw: Draw, style: Style) -> Given:
        return (first if draw(BOOLEANS) else second).give(draw, style)

    return Shape(Union[first.type, second.type], give, first.kinds | second.kinds)  # noqa: UP007


def _unzipped(items: list[Given]) -> Given:
    return [payload for payload, _ in items], [arguments for _, arguments in items]
