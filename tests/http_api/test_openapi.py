"""The OpenAPI document of an engine: valid, complete, and with schemas that say what validation does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from fastapi.openapi.models import OpenAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from pydantic_core import to_json
from returns.result import Result, Success

from actionengine import (
    ActionError,
    Actor,
    ApprovalPolicy,
    Engine,
    InMemoryStorage,
    RequestContext,
    create_engine,
    create_service,
)
from actionengine import create_action as declare
from actionengine.http import HTTPRoute, openapi
from tests.agents.family import STYLES, draw_input
from tests.agents.instances import draw_instance
from tests.agents.rules import as_json_schema
from tests.catalogue.test_built_in import built_in

ENGINE = built_in()
ROUTES = (
    HTTPRoute("GET", "/api/projects/{project_id}/record_types", "record_types", "list"),
    HTTPRoute("POST", "/api/projects/{project_id}/record_types", "record_types", "create"),
    HTTPRoute("DELETE", "/api/changes/{change_id}/ops/{op_id}", "changes", "delete_patch_op"),
    HTTPRoute("GET", "/api/log", "action_log", "list"),
)
DOCUMENT = openapi(ENGINE, title="Built in", version="3", routes=ROUTES, previews=True)


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for each in part.values():
            yield from references(each)
    elif isinstance(part, list):
        for each in part:
            yield from references(each)


def found(document: Any, reference: str) -> Any:
    for name in reference.removeprefix("#/").split("/"):
        document = document[name]
    return document


def check(document: dict[str, Any]) -> None:
    """Check what a validator of OpenAPI checks."""
    OpenAPI.model_validate(document)
    for reference in references(document):
        found(document, reference)
    jsonschema_rs.meta.validate(standalone(document, {}))
    assert all(re.fullmatch(r"[a-zA-Z0-9._-]+", name) for name in document["components"]["schemas"])
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    for path, _, operation in operations(document):
        named = [each["name"] for each in operation["parameters"] if each.get("in") == "path"]
        assert sorted(named) == sorted(re.findall(r"{(\w+)}", path))


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, each) for path, item in document["paths"].items() for method, each in item.items()]


def standalone(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema of a document with its components as definitions."""
    whole = {**schema, "$defs": document["components"]["schemas"]}
    moved: dict[str, Any] = json.loads(json.dumps(whole).replace("#/components/schemas/", "#/$defs/"))
    return moved


def body_schema(document: dict[str, Any], path: str) -> dict[str, Any]:
    body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return standalone(document, body)


def result_schema(document: dict[str, Any], path: str) -> dict[str, Any]:
    answer = document["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    return standalone(document, answer["properties"]["data"])


def create_action(name: str, input: Any, **options: Any) -> Any:
    def handle(data: Any) -> Result[None, ActionError]:
        return Success(None)

    return declare(name=name, description=f"Do {name}", handler=handle, validation=input, **options)


def engine_of(*actions: Any) -> Engine:
    shop = create_service(name="shop", description="A shop", actions=actions)
    return create_engine(services=[shop], storage=InMemoryStorage())


def test_the_document_of_all_built_in_actions_is_valid() -> None:
    check(DOCUMENT)
    assert (DOCUMENT["openapi"], DOCUMENT["info"]) == ("3.1.1", {"title": "Built in", "version": "3"})


def test_each_action_has_its_path_and_each_route_one_more() -> None:
    by_name = {
        f"/api/{service.name}/{action}" for service in ENGINE.get_services().unwrap() for action in service.actions
    }
    assert set(DOCUMENT["paths"]) == by_name | {route.path for route in ROUTES} | {"/api/{service}/{action}/preview"}
    assert [tag["name"] for tag in DOCUMENT["tags"]] == [each.name for each in ENGINE.get_services().unwrap()]


def test_a_document_is_a_new_value_each_time() -> None:
    again = openapi(ENGINE, title="Built in", version="3", routes=ROUTES, previews=True)
    assert again == DOCUMENT
    again["paths"].clear()
    again["components"]["schemas"].clear()
    check(openapi(ENGINE))


def test_a_caller_sees_the_actions_that_it_may_execute() -> None:
    tenant = ENGINE.storage.create_tenant(slug="acme", name="Acme")
    reader = RequestContext(tenant, Actor.human("ann", permissions=["action_log.read"]))
    document = openapi(ENGINE, routes=ROUTES, actions=ENGINE.catalogue(reader).unwrap())
    check(document)
    assert "/api/action_log/list" in document["paths"]
    assert "/api/log" in document["paths"]
    assert not [path for path in document["paths"] if "projects" in path or "roles" in path]
    assert "roles" not in json.dumps(document["tags"])


def test_values_of_a_path_are_parameters_and_not_in_the_body() -> None:
    listing = DOCUMENT["paths"]["/api/projects/{project_id}/record_types"]
    names = [(each.get("name"), each.get("in")) for each in listing["get"]["parameters"][:2]]
    assert names[0] == ("project_id", "path")
    assert {where for _, where in names[1:]} <= {"query", None}
    body = listing["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "project_id" not in body["properties"]
    assert body["required"] == ["key"]
    assert not [each for each in listing["post"]["parameters"] if each.get("in") == "query"]
    limit = {each["name"]: each for each in DOCUMENT["paths"]["/api/log"]["get"]["parameters"] if "name" in each}
    assert limit["limit"]["in"] == "query"


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"idempotency": "required"}, "RequiredIdempotencyKey"),
        ({"idempotency": "optional"}, "IdempotencyKey"),
        ({"idempotency": "none"}, None),
        ({"read_only": True}, None),
    ],
)
def test_an_operation_takes_the_key_that_its_action_takes(options: Any, parameter: str | None) -> None:
    document = openapi(engine_of(create_action("buy", None, **options)))
    check(document)
    named = {each["$ref"].rpartition("/")[2] for each in document["paths"]["/api/shop/buy"]["post"]["parameters"]}
    assert {each for each in named if "Key" in each} == ({parameter} if parameter else set())
    assert ("Plan" in named) is not options.get("read_only", False)


def test_an_operation_says_what_the_declaration_says() -> None:
    needs = ApprovalPolicy(permission="shop.approve", when=lambda data, ctx: True)
    action = create_action("buy", None, permission="shop.buy", approval=needs, emits=["shop.bought"], title="Buy it")
    document = openapi(engine_of(action), prefix="/v1/actions")
    operation = document["paths"]["/v1/actions/shop/buy"]["post"]
    assert {key: value for key, value in operation.items() if key.startswith("x-")} == {
        "x-permission": "shop.buy",
        "x-approval": "depends",
        "x-idempotency": "optional",
        "x-read-only": False,
        "x-destructive": True,
        "x-emits": ["shop.bought"],
    }
    assert (operation["summary"], operation["description"], operation["tags"]) == ("Buy it", "Do buy", ["shop"])
    assert "202" in operation["responses"]
    assert "202" not in openapi(engine_of(create_action("buy", None)))["paths"]["/api/shop/buy"]["post"]["responses"]


def test_security_schemes_are_alternatives() -> None:
    schemes = {"token": {"type": "http", "scheme": "bearer"}, "cookie": {"type": "apiKey", "in": "cookie", "name": "s"}}
    document = openapi(engine_of(create_action("buy", None)), security_schemes=schemes)
    check(document)
    assert document["components"]["securitySchemes"] == schemes
    assert document["security"] == [{"token": []}, {"cookie": []}]
    assert "security" not in DOCUMENT


def test_a_document_behind_a_proxy_names_its_root() -> None:
    assert openapi(engine_of(create_action("buy", None)), root_path="/shop")["servers"] == [{"url": "/shop"}]
    assert "servers" not in DOCUMENT


def test_strange_names_have_valid_paths_and_components() -> None:
    strange = create_service(name="Büro/1 {x}", description="x", actions=[create_action("a b?#", dict[str, int])])
    document = openapi(create_engine(services=[strange], storage=InMemoryStorage()))
    check({**document, "paths": {}})
    assert "/api/B%C3%BCro%2F1%20%7Bx%7D/a%20b%3F%23" in document["paths"]


class Error(BaseModel):
    """A model with the name of a component of the document."""

    line: int


class Node(BaseModel):
    name: str
    children: list[Node] = Field(default=[], max_length=3)


def part_of(kind: Any) -> Any:
    class Part(BaseModel):
        size: kind

    class Whole(BaseModel):
        part: Part
        again: Part | None = None

    return Whole


def test_models_of_one_name_are_kept_apart_and_equal_ones_shared() -> None:
    document = openapi(
        engine_of(
            create_action("one", part_of(int)),
            create_action("same", part_of(int)),
            create_action("other", part_of(str)),
            create_action("error", list[Error]),
            create_action("tree", Node),
        )
    )
    check(document)
    schemas = document["components"]["schemas"]
    sizes = {name: schema["properties"]["size"]["type"] for name, schema in schemas.items() if name.endswith("Part")}
    assert sizes == {"Part": "integer", "shop.other.input.Part": "string"}
    assert set(schemas["Error"]["properties"]) == {"error"}
    assert jsonschema_rs.is_valid(body_schema(document, "/api/shop/error"), [{"line": 1}])
    tree = body_schema(document, "/api/shop/tree")
    assert jsonschema_rs.is_valid(tree, {"name": "a", "children": [{"name": "b", "children": []}]})
    assert not jsonschema_rs.is_valid(tree, {"name": "a", "children": [{"name": 1}]})


class Tricky(BaseModel):
    """Values that look like references, and are none."""

    ref: str = Field(alias="$ref", default="#/$defs/Node")
    defs: str = Field(alias="$defs", examples=["#/$defs/Node"])
    node: Node


def test_values_that_look_like_references_stay_as_they_are() -> None:
    document = openapi(engine_of(create_action("tricky", Tricky)))
    properties = document["components"]["schemas"]["shop.tricky.input"]["properties"]
    assert properties["$ref"]["default"] == "#/$defs/Node"
    assert properties["$defs"]["examples"] == ["#/$defs/Node"]
    assert properties["node"]["$ref"] == "#/components/schemas/Node"


@settings(max_examples=30)
@given(data=st.data())
def test_the_document_admits_what_validation_admits(data: st.DataObject) -> None:
    shapes = [draw_input(data.draw) for _ in range(2)]
    engine = engine_of(*(create_action(f"action{n}", shape.type) for n, shape in enumerate(shapes)))
    document = openapi(engine)
    for n, shape in enumerate(shapes):
        schema = body_schema(document, f"/api/shop/action{n}")
        declared = engine.descriptions()["shop"][n].input_schema
        validator = jsonschema_rs.Draft202012Validator(as_json_schema(schema), validate_formats=True)
        expected = jsonschema_rs.Draft202012Validator(as_json_schema(declared), validate_formats=True)
        drawn = draw_instance(data.draw, schema, schema["$defs"])
        payload, _ = shape.give(data.draw, STYLES["mcp"])
        for each in (json.loads(to_json(payload)), drawn, [drawn], {"more": drawn}, None):
            assert validator.is_valid(each) == expected.is_valid(each)
        assert validator.is_valid(json.loads(to_json(payload)))
        assert validator.is_valid(drawn)
