"""Schemas of types for which Pydantic's own schema refuses what validation admits, or is no JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime, tzinfo
from enum import IntEnum, IntFlag
from typing import Any

import jsonschema_rs
import pytest
from pydantic import NaiveDatetime, TypeAdapter, ValidationError, create_model

from actionengine.catalogue.schemas import schema_of


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Right(IntFlag):
    READ = 1
    WRITE = 2


@pytest.mark.parametrize(
    ("type", "good", "bad"),
    [
        pytest.param(dict[Level, str], {"1": "a", "2": "b"}, {"3": "a"}, id="keys of numbers"),
        pytest.param(dict[Right, str], {"1": "a"}, {"1": 1}, id="keys of a flag"),
        pytest.param(NaiveDatetime, "2030-01-02T03:04:05.5", "2030-01-02T03:04:05Z", id="no zone"),
        pytest.param(Right, 3, "read", id="flag"),
    ],
)
def test_a_schema_admits_what_validation_admits(type: Any, good: Any, bad: Any) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(type)
    valid = adapter.validate_json(json.dumps(good))
    schemas = [schema_of(type, "validation"), schema_of(type, "serialization")]
    for schema, payload in zip(schemas, [good, json.loads(adapter.dump_json(valid))], strict=True):
        validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
        assert validator.is_valid(payload)
        assert not validator.is_valid(bad)
    with pytest.raises(ValidationError):
        adapter.validate_json(json.dumps(bad))


@pytest.mark.parametrize("zone", [None, UTC])
def test_a_result_may_have_a_time_without_a_zone(zone: tzinfo | None) -> None:
    at = datetime(2030, 1, 2, 3, 4, 5, tzinfo=zone)
    for value in (at, at.timetz()):
        schema = schema_of(type(value), "serialization")
        validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
        assert validator.is_valid(value.isoformat())
        assert not validator.is_valid("2030-01-02")


def test_an_infinite_default_is_left_out() -> None:
    given: Any = {"limit": (float, float("inf")), "least": (float, float("nan")), "step": (float, 1.5)}
    properties = schema_of(create_model("Bounds", **given), "validation")["properties"]
    assert [name for name, schema in properties.items() if "default" in schema] == ["step"]
