"""Conditions as data, for decisions and triggers.

{"field": "input.amount", "op": "gt", "value": 1000}
{"all": [condition, …]}   {"any": [condition, …]}   {"not": condition}
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    Tag,
    model_validator,
)
from pydantic_core import CoreSchema

from actionengine.conditions.templates import PATH_PATTERN, Path, Renderer, look_up, parse_path, references
from actionengine.errors import ActionError, ErrorCode
from actionengine.schemas.json_schemas import NOT_EMPTY, JsonSchema, SchemaExtra, by_case

T = TypeVar("T")

Operator = Literal["eq", "ne", "lt", "le", "gt", "ge", "in", "not_in", "contains", "exists", "missing"]

MAX_CONDITION_DEPTH = 10
"""Levels of nested conditions."""

MAX_COMPARED = 10_000
"""Values that one condition compares; each member of a list or an object counts."""

_CHARACTERS_PER_VALUE = 1000
"""Characters of a searched text that count as one compared value."""

_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
_NEEDS_NO_VALUE = ("exists", "missing")


class _Condition(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def _path(text: str) -> str:
    parse_path(text)
    return text


def not_empty(members: tuple[T, ...]) -> tuple[T, ...]:
    """Return these members. Raises `ValueError` if there are none. (`min_length` would count valid members only.)"""
    if not members:
        raise ValueError("it has to have at least 1 member")
    return members


class Comparison(_Condition):
    """A field compared with a value, which may be a reference."""

    field: Annotated[str, AfterValidator(_path), SchemaExtra(pattern=PATH_PATTERN)] = Field(
        description="The path of the compared value: `input.amount`, `steps.assess.score`, `run.started_by`."
    )
    op: Operator = Field(
        description="The comparison: `eq`, `ne`, `lt`, `le`, `gt`, `ge`; `in` and `not_in` a list; `contains` a member "
        "or a part of a text; `exists` and `missing`, which take no value."
    )
    value: JsonValue = Field(default=None, description="The value to compare with, which may be a `${reference}`.")

    @model_validator(mode="after")
    def _check_value(self) -> Comparison:
        has_value = "value" in self.model_fields_set
        if has_value == (self.op in _NEEDS_NO_VALUE):
            raise ValueError(f"{self.op!r} takes {'no' if has_value else 'a'} value")
        is_reference = isinstance(self.value, str) and bool(list(references(self.value)))
        if self.op in ("in", "not_in") and not isinstance(self.value, list) and not is_reference:
            raise ValueError(f"the value of {self.op!r} is a list, or a reference to one")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        """Return the schema, in which `op` decides over the value."""
        whole = handler.resolve_ref_schema(handler(schema))
        a_list = {"anyOf": [{"type": "array"}, {"type": "string", "pattern": r"\$\{"}]}
        others = tuple(op for op in get_args(Operator) if op not in (*_NEEDS_NO_VALUE, "in", "not_in"))
        cases: dict[tuple[str, ...], JsonSchema] = {
            _NEEDS_NO_VALUE: {"properties": {"value": False}},
            ("in", "not_in"): {"properties": {"value": a_list}, "required": ["value"]},
            others: {"required": ["value"]},
        }
        return by_case(whole, "op", cases)


class AllOf(_Condition):
    """A condition that holds if each of these holds."""

    all: Annotated[tuple[Condition, ...], AfterValidator(not_empty), NOT_EMPTY] = Field(
        description="The conditions that all have to hold."
    )


class AnyOf(_Condition):
    """A condition that holds if at least one of these holds."""

    any: Annotated[tuple[Condition, ...], AfterValidator(not_empty), NOT_EMPTY] = Field(
        description="The conditions of which one has to hold."
    )


class Not(_Condition):
    """A condition that holds if the given one does not."""

    not_: Condition = Field(alias="not", description="The condition that must not hold.")


def _kind(given: Any) -> str | None:
    if isinstance(given, BaseModel):
        return _KINDS.get(type(given))
    names = given if isinstance(given, Mapping) else ()
    return next((kind for kind in _KINDS.values() if kind in names), None)


_KINDS: Mapping[type[BaseModel], str] = {Comparison: "field", AllOf: "all", AnyOf: "any", Not: "not"}

Condition = Annotated[
    Annotated[Comparison, Tag("field")]
    | Annotated[AllOf, Tag("all")]
    | Annotated[AnyOf, Tag("any")]
    | Annotated[Not, Tag("not")],
    Discriminator(
        _kind,
        custom_error_type="condition",
        custom_error_message='a condition has a "field", or is one of "all", "any" and "not"',
    ),
]
AllOf.model_rebuild()
AnyOf.model_rebuild()
Not.model_rebuild()


def comparisons(condition: Condition) -> Iterator[Comparison]:
    """Yield the comparisons in a condition."""
    match condition:
        case Comparison():
            yield condition
        case Not():
            yield from comparisons(condition.not_)
        case AllOf():
            for each in condition.all:
                yield from comparisons(each)
        case AnyOf():
            for each in condition.any:
                yield from comparisons(each)


def depth(condition: Condition) -> int:
    """Return the number of nested levels of a condition."""
    match condition:
        case Comparison():
            return 1
        case Not():
            return 1 + depth(condition.not_)
        case AllOf():
            return 1 + max(map(depth, condition.all))
        case AnyOf():
            return 1 + max(map(depth, condition.any))


def paths(condition: Condition) -> Iterator[tuple[Path, bool]]:
    """Yield the paths that a condition reads, each with whether it must exist."""
    for comparison in comparisons(condition):
        yield parse_path(comparison.field), comparison.op not in _NEEDS_NO_VALUE
        for path in references(comparison.value):
            yield path, True


def evaluate(condition: Condition, scope: Mapping[str, Any]) -> bool:
    """Return whether a condition holds.

    Raises `ActionError(unprocessable)` for a missing field, for values that cannot be compared, and for more than
    `MAX_COMPARED` compared values.
    """
    return _evaluate(condition, _Comparer(scope))


class _Comparer:
    """Compares the values of a condition, up to a limited number."""

    def __init__(self, scope: Mapping[str, Any]) -> None:
        self.scope = scope
        self.render = Renderer(scope).render
        self._left = MAX_COMPARED

    def count(self, number: int) -> None:
        """Count values before they are compared. Raises `ActionError(unprocessable)` past the limit."""
        self._left -= number
        if self._left < 0:
            message = f"the condition compares more than {MAX_COMPARED} values: compare fewer or smaller values"
            raise ActionError(ErrorCode.UNPROCESSABLE, message, {"limit": MAX_COMPARED})

    def same(self, one: Any, other: Any) -> bool:
        """Return whether two values are equal as JSON."""
        self.count(1)
        if isinstance(one, list) and isinstance(other, list):
            return len(one) == len(other) and all(map(self.same, one, other))
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            return one.keys() == other.keys() and all(self.same(one[name], other[name]) for name in one)
        # In JSON, true is not 1.
        return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _evaluate(condition: Condition, comparer: _Comparer) -> bool:
    match condition:
        case Comparison():
            return _compares(condition, comparer)
        case Not():
            return not _evaluate(condition.not_, comparer)
        case AllOf():
            return all(_evaluate(each, comparer) for each in condition.all)
        case AnyOf():
            return any(_evaluate(each, comparer) for each in condition.any)


def _compares(comparison: Comparison, comparer: _Comparer) -> bool:
    path, op = parse_path(comparison.field), comparison.op
    if op in _NEEDS_NO_VALUE:
        return _exists(path, comparer.scope) == (op == "exists")
    found, value = look_up(path, comparer.scope), comparer.render(comparison.value)
    match op:
        case "eq":
            return comparer.same(found, value)
        case "ne":
            return not comparer.same(found, value)
        case "in" | "not_in":
            if not isinstance(value, list):
                raise _incomparable(comparison, found, value)
            return any(comparer.same(found, each) for each in value) == (op == "in")
        case "contains":
            if isinstance(found, str) and isinstance(value, str):
                comparer.count(len(found) // _CHARACTERS_PER_VALUE)
                return value in found
            if isinstance(found, list):
                return any(comparer.same(each, value) for each in found)
            raise _incomparable(comparison, found, value)
    if not _ordered(found, value):
        raise _incomparable(comparison, found, value)
    return bool(_COMPARE[op](found, value))


def _exists(path: Path, scope: Mapping[str, Any]) -> bool:
    try:
        return look_up(path, scope) is not None
    except ActionError:
        return False


def _ordered(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return False
    return (isinstance(one, int | float) and isinstance(other, int | float)) or (
        isinstance(one, str) and isinstance(other, str)
    )


def _incomparable(comparison: Comparison, found: Any, value: Any) -> ActionError:
    return ActionError(
        ErrorCode.UNPROCESSABLE,
        f"{comparison.field} is {_shown(found)}, which {comparison.op!r} cannot compare with {_shown(value)}",
        {"path": comparison.field, "op": comparison.op},
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
