"""Reading of arguments: unions, recursion, and names that a dialect refuses."""

from __future__ import annotations

from time import process_time
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter

from actionengine.agents.dialects import DIALECTS
from actionengine.agents.dialects.compiler import Compiled, compile_input
from actionengine.agents.dialects.readers import Trail
from tests.agents.shapes import Loose, Names, Tree


class Add(BaseModel):
    left: Add | Multiply | int
    right: Add | Multiply | int
    label: str = ""


class Multiply(BaseModel):
    left: Add | Multiply | int
    right: Add | Multiply | int
    note: str = ""


class Circle(BaseModel):
    kind: Literal["circle"] = "circle"
    radius: int


class Square(BaseModel):
    kind: Literal["square"] = "square"
    side: int


class Drawing(BaseModel):
    shapes: list[Circle | Square] = []


def compiled(type: Any, dialect: str = "openai") -> Compiled:
    return compile_input(TypeAdapter(type).json_schema(), DIALECTS[dialect].rules)


def read(type: Any, arguments: Any, dialect: str = "openai") -> tuple[Any, list[str]]:
    """Return the payload, and the path of each problem."""
    trail = Trail()
    payload = compiled(type, dialect).reader(arguments, trail)
    return payload, [problem["path"] for problem in trail.problems]


def test_a_union_is_read_by_the_alternative_that_fits_best() -> None:
    shapes = [{"kind": "square", "side": 1}, {"radius": 2}, {"kind": "circle", "radius": 1, "colour": "red"}]
    assert read(Drawing, {"shapes": shapes}) == ({"shapes": shapes}, ["shapes.2.colour"])


@pytest.mark.parametrize("dialect", ["mcp", "openai_strict", "gemini"])
def test_a_recursive_union_takes_no_exponential_time(dialect: str) -> None:
    value: Any = 1
    for _ in range(60):
        value = {"left": value, "right": 1, "wrong": 1}
    began = process_time()
    _, problems = read(Add, value, dialect)
    assert problems
    assert process_time() - began < 5


def test_an_unknown_property_deep_in_a_recursion_is_found() -> None:
    tree = {"name": "a", "left": {"name": "b", "right": {"name": "c", "weight": 1}}}
    assert read(Tree, tree)[1] == ["left.right.weight"]


def test_a_recursion_that_is_cut_is_read_from_json_text() -> None:
    deep: Any = {"name": "a", "left": {"name": "b", "left": '{"name": "c"}'}}
    payload, problems = read(Tree, deep, "gemini")
    assert (payload["left"]["left"], problems) == ({"name": "c"}, [])
    deep["left"]["left"] = "{"
    assert read(Tree, deep, "gemini")[1] == ["left.left"]


def test_a_replaced_name_is_read_back() -> None:
    made = compiled(Names, "gemini")
    assert list(made.schema["properties"]) == ["gr__e_in_m_", "a_b", "idempotency_key"]
    payload, problems = read(Names, {"gr__e_in_m_": 1, "a_b": 2}, "gemini")
    assert (payload, problems) == ({"größe in m²": 1, "a.b": 2}, [])


def test_replaced_names_stay_apart() -> None:
    class Similar(BaseModel):
        first: int = Field(alias="a b")
        second: int = Field(alias="a-b")
        third: int = Field(alias="a_b")

    made = compiled(Similar, "gemini")
    assert sorted(made.schema["properties"]) == ["a_b", "a_b_2", "a_b_3"]
    arguments = {shown: number for number, shown in enumerate(made.schema["properties"])}
    assert made.reader(arguments, Trail()) == {"a b": 0, "a-b": 1, "a_b": 2}
    assert made.schema["properties"]["a_b"] == {"type": "integer"}


def test_other_properties_pass_where_the_model_takes_them() -> None:
    assert read(Loose, {"name": "a", "more": [1]}) == ({"name": "a", "more": [1]}, [])
    assert read(Loose, {"name": "a", "more": [1]}, "openai_strict")[1] == ["more"]


def test_a_map_may_be_given_as_an_object_too() -> None:
    table = {"input": {"a": 1}}
    assert read(dict[str, int], table, "gemini") == (table, [])
    assert read(dict[str, int], {"input": [{"key": "a", "value": 1}]}, "gemini") == (table, [])
    wrong = {"input": [{"key": "a", "values": 1}]}
    assert read(dict[str, int], wrong, "gemini") == (wrong, [])


def test_names_of_problems_can_be_stored() -> None:
    assert read(Loose, {"name": "a", "\ud800\0": 1}, "openai_strict")[1] == ["?\N{REPLACEMENT CHARACTER}"]
