"""The schema of a tool and the validation of its action admit the same, as far as the dialect can say it."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from actionengine.agents.dialects import DIALECTS
from actionengine.agents.dialects.compiler import WRAPPED, Compiled, compile_input
from actionengine.agents.dialects.readers import Trail
from tests.agents.family import STYLES, draw_input
from tests.agents.instances import draw_instance
from tests.agents.rules import as_json_schema

EACH_DIALECT = [
    # Their rules differ from those of `mcp` only in names and annotations.
    pytest.param(name, marks=pytest.mark.soak if name in ("openai", "anthropic") else ())
    for name in STYLES
]


def compiled_for(dialect: str, type: Any) -> Compiled:
    schema = TypeAdapter(type).json_schema()
    if dialect == "anthropic_strict":
        rules = DIALECTS["anthropic"].strict_rules
        assert rules is not None
        return compile_input(schema, rules)
    return compile_input(schema, DIALECTS[dialect].rules)


def read(compiled: Compiled, arguments: Any) -> Any:
    trail = Trail()
    payload = compiled.reader(arguments, trail)
    assert trail.problems == []
    return payload[WRAPPED] if compiled.is_wrapped else payload


@pytest.mark.parametrize("dialect", EACH_DIALECT)
@given(data=st.data())
def test_every_valid_payload_can_be_said(dialect: str, data: st.DataObject) -> None:
    shape = draw_input(data.draw)
    payload, arguments = shape.give(data.draw, STYLES[dialect])
    adapter = TypeAdapter(shape.type)
    adapter.validate_json(to_json(payload))
    compiled = compiled_for(dialect, shape.type)
    if compiled.is_wrapped:
        arguments = {WRAPPED: arguments}
    validator = jsonschema_rs.Draft202012Validator(as_json_schema(compiled.schema), validate_formats=True)
    validator.validate(arguments)
    assert read(compiled, arguments) == payload


UNSAID: dict[str, set[str]] = {
    "mcp": set(),
    "openai": set(),
    "anthropic": set(),
    "openai_strict": {"string_too_short", "string_too_long", "json_invalid"},
    "anthropic_strict": {
        *("string_too_short", "string_too_long", "string_pattern_mismatch", "json_invalid"),
        *("greater_than", "greater_than_equal", "less_than", "less_than_equal", "multiple_of"),
        *("too_long", "too_short"),
    },
    "gemini": {
        *("greater_than", "less_than", "multiple_of", "json_invalid", "literal_error"),
        *("date_from_datetime_parsing", "datetime_from_date_parsing", "uuid_parsing", "time_delta_parsing"),
    },
}
"""The types of errors that a dialect has no words to prevent; their words are in descriptions."""
IN_NO_SCHEMA = {"decimal_parsing", "decimal_max_places", "decimal_max_digits", "decimal_whole_digits"}
"""The types of errors that Pydantic's own schemas do not prevent: a decimal is any text there."""


@pytest.mark.parametrize("dialect", EACH_DIALECT)
@given(data=st.data())
def test_validation_admits_what_the_schema_admits(dialect: str, data: st.DataObject) -> None:
    shape = draw_input(data.draw)
    # Without `prefixItems`, a schema does not say which type is at which position.
    assume(not STYLES[dialect].pairs or "prefixItems" not in str(TypeAdapter(shape.type).json_schema()))
    compiled = compiled_for(dialect, shape.type)
    arguments = draw_instance(data.draw, compiled.schema, compiled.schema.get("$defs", {}))
    jsonschema_rs.Draft202012Validator(as_json_schema(compiled.schema), validate_formats=True).validate(arguments)
    trail = Trail()
    payload = compiled.reader(arguments, trail)
    unsaid = {problem["type"] for problem in trail.problems}
    if not trail.problems:
        try:
            TypeAdapter(shape.type).validate_json(to_json(payload.get(WRAPPED) if compiled.is_wrapped else payload))
        except ValidationError as error:
            unsaid = {problem["type"] for problem in error.errors()}
    # Of a union, Pydantic reports the errors of all alternatives.
    assert not unsaid or unsaid & (UNSAID[dialect] | IN_NO_SCHEMA)
