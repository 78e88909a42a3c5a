"""Every built-in action is described in full: its title, its fields, and the shape of its input and its result."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema_rs
import pytest
from examples.field_service.services.config import own_services
from examples.field_service.services.config import services as business

from actionengine import ActionDescription, Actor, Budget, Engine, InMemoryStorage, RequestContext, create_engine
from actionengine.boundary import CODE_MODULE_DEFAULT, InProcessRunner, ModuleRoots, modules_service
from actionengine.changes import change_control_services
from actionengine.workflows import workflow_services


def built_in() -> Engine:
    """Return an engine with every service that comes with the library, and no other."""
    return create_engine(
        services=[
            *workflow_services(),
            *change_control_services(),
            modules_service(InProcessRunner(CODE_MODULE_DEFAULT), ModuleRoots(Path.cwd()).context),
        ],
        storage=InMemoryStorage(),
        budgets=[Budget("all", actions="*", per="tenant", limit=1, window=timedelta(hours=1))],
    )


def descriptions() -> list[ActionDescription]:
    engine = built_in()
    tenant = engine.storage.create_tenant(slug="acme", name="Acme")
    found: dict[str, ActionDescription] = {}
    for actor in (Actor.system(), Actor.workflow("all", permissions=["*"]), Actor.human("all", permissions=["*"])):
        found |= {each.name: each for each in engine.catalogue(RequestContext(tenant, actor)).unwrap()}
    names = {f"{each.name}.{action}" for each in engine.get_services().unwrap() for action in each.actions}
    assert set(found) == names
    return list(found.values())


DESCRIPTIONS = descriptions()

FREE = {
    "JsonValue": "any JSON, inside a type that says where",
    "input": "the input of a run, the payload of an approved action or of an event: others declare it",
    "output": "the result of an action or a step: others declare it",
    "result": "the result of an approved action or an assignment: others declare it",
    "payload": "the payload of an event: its type declares it",
    "before": "a document or a row of the host",
    "after": "a document or a row of the host",
    "parameters": "the parameters of a statement of the host",
    "details": "the details of an error or an assignment: its code, or the workflow, declares them",
    "data": "a document of the host",
}
"""The parts that may have any JSON, each with the reason."""

KEYWORDS = {
    *("type", "properties", "required", "additionalProperties", "items", "prefixItems", "enum", "const", "default"),
    *("title", "description", "examples", "anyOf", "oneOf", "not", "if", "then", "else", "$ref", "$defs", "format"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "pattern", "minItems"),
    *("maxItems", "uniqueItems", "discriminator", "writeOnly", "propertyNames", "contentEncoding"),
}


class Part(NamedTuple):
    """A schema inside a schema. A condition (`if`, `then`, `not`) describes nothing."""

    path: str
    name: str
    schema: Any
    is_condition: bool


def parts_of(schema: Any, path: str = "", name: str = "", is_condition: bool = False) -> Iterator[Part]:
    yield Part(path, name, schema, is_condition)
    if not isinstance(schema, dict):
        return
    for keyword in ("properties", "$defs"):
        for key, each in schema.get(keyword, {}).items():
            yield from parts_of(each, f"{path}.{key}", key, is_condition)
    for keyword in ("items", "additionalProperties", "if", "then", "else", "not", "propertyNames"):
        if isinstance(each := schema.get(keyword), dict):
            hides = is_condition or keyword in ("if", "then", "else", "not", "propertyNames")
            yield from parts_of(each, f"{path}[{keyword}]", name, hides)
    for keyword in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for number, each in enumerate(schema.get(keyword, ())):
            yield from parts_of(each, f"{path}<{number}>", name, is_condition)


def schemas_of(action: ActionDescription) -> Iterator[Any]:
    yield action.input_schema
    if action.output_schema is not None:
        yield action.output_schema


@pytest.mark.parametrize("action", DESCRIPTIONS, ids=lambda action: action.name)
def test_each_built_in_action_is_described_in_full(action: ActionDescription) -> None:
    assert len(action.title) > 3
    assert len(action.description) > 5
    assert action.input_schema["type"] == "object"
    for schema in schemas_of(action):
        jsonschema_rs.Draft202012Validator(schema)
        for part in parts_of(schema):
            if part.is_condition or isinstance(part.schema, bool):
                continue
            assert not set(part.schema) - KEYWORDS, part
            assert not is_bare(part.schema) or part.name in FREE, part
            for name, each in part.schema.get("properties", {}).items():
                assert each.get("description"), f"{action.name}: {part.path}.{name} has no description"


def is_bare(schema: dict[str, Any]) -> bool:
    """Return whether a schema says nothing about a value, or nothing but that it is an object."""
    says = set(schema) - {"title", "description", "default", "examples"}
    is_open = schema.get("additionalProperties", True) is True
    return not says or (schema.get("type") == "object" and says <= {"type", "additionalProperties"} and is_open)


def test_each_built_in_result_has_a_schema() -> None:
    # It succeeds with nothing.
    assert {each.name for each in DESCRIPTIONS if each.output_schema in (None, {"type": "null"})} == {"roles.delete"}


def test_what_destroys_says_so() -> None:
    destructive = {each.name for each in DESCRIPTIONS if each.destructive}
    assert {"roles.delete", "changes.merge", "modules.delete", "workflows.purge"} <= destructive
    assert not destructive & {"roles.assign", "changes.create", "workflows.start", "approvals.get", "workflows.define"}


def test_the_business_describes_its_actions_too() -> None:
    engine = create_engine(services=business)
    tenant = engine.storage.create_tenant(slug="acme", name="Acme")
    own = [service.name for service in own_services]
    for action in engine.catalogue(RequestContext(tenant, Actor.system()), own).unwrap():
        assert ":" not in action.title, action.name
        for name, field in action.input_schema["properties"].items():
            assert field.get("description"), f"{action.name}: {name}"
