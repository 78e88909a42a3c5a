"""The catalogue: the actions that the caller may execute, and one of them with its schema, rights and examples."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any
from urllib.parse import unquote

from returns.result import Failure

from actionengine.console.errors import ErrorPage, refusal_text
from actionengine.console.page import Page
from actionengine.console.visit import Visit

JsonSchema = Mapping[str, Any]


async def list_actions(visit: Visit) -> Mapping[str, Any]:
    """Return the variables of the list: the actions of each service, described."""
    listed = await visit.engine.catalogue_async(visit.context)
    if isinstance(listed, Failure):
        raise listed.failure()
    by_service = groupby(listed.unwrap(), lambda each: each.name.rpartition(".")[0])
    actions = {service: [(_path(each.name), each) for each in found] for service, found in by_service}
    about = {each.name: each.description for each in visit.engine.get_services().unwrap()}
    return {"services": [(name, about[name], found) for name, found in actions.items()]}


async def show_action(visit: Visit) -> Mapping[str, Any]:
    """Return the variables of one action. Raises `ErrorPage` for one that the caller may not execute."""
    service, name = (unquote(visit.path_parameter(each)) for each in ("service", "action"))
    answer = await visit.engine.can_async(visit.context, service, name)
    if isinstance(answer, Failure):
        raise answer.failure()
    action = visit.engine.get_action(service, name).unwrap()
    permission = answer.unwrap()
    if not permission.allowed:
        message = refusal_text(action.permission, permission.reason)
        raise ErrorPage(403, "You may not execute this action", message)
    listed = await visit.engine.catalogue_async(visit.context, [service])
    described = next(each for each in listed.unwrap() if each.name == f"{service}.{name}")
    schema = described.input_schema
    return {
        "title": described.name,
        "action": action,
        "described": described,
        "reason": permission.reason,
        "schema": schema,
        "fields": fields_of(schema),
        "output_schema": described.output_schema,
        "examples": described.examples,
    }


def _path(name: str) -> str:
    """Return the path of the page of an action. Servers decode a path, so that a slash in a name is encoded twice."""
    return "/catalogue/" + name.replace("%", "%25").replace("/", "%2F").replace(".", "/")


def fields_of(schema: JsonSchema) -> list[Mapping[str, Any]]:
    """Return the fields of an object's schema: name, type in words, and description."""
    required = schema.get("required", ())
    return [
        {
            "name": name,
            "type": type_in_words(field, schema),
            "is_required": name in required,
            "description": field.get("description", ""),
        }
        for name, field in schema.get("properties", {}).items()
    ]


def type_in_words(schema: Any, root: JsonSchema) -> str:
    """Return the type of a value, such as `string or null`."""
    if not isinstance(schema, Mapping):
        return "any"
    if "$ref" in schema:
        return type_in_words(root.get("$defs", {}).get(schema["$ref"].rpartition("/")[2], {}), {})
    if "enum" in schema or "const" in schema:
        return ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(type_in_words(each, root) for each in schema[several]))
    type = schema.get("type", "any")
    if isinstance(type, list):
        return " or ".join(type)
    if type == "array":
        return f"array of {type_in_words(schema.get('items'), root)}"
    return f"{type}, {schema['format']}" if "format" in schema else str(type)


PAGES = (
    Page(path="/catalogue", title="Catalogue", view=list_actions, template="catalogue.html", in_navigation=True),
    Page(path="/catalogue/{service}/{action}", title="Action", view=show_action, template="action.html"),
)
