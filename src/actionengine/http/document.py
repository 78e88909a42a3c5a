"""An OpenAPI 3.1 document of an engine, made of its catalogue."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from itertools import groupby
from typing import Any, Final

from actionengine.catalogue.descriptions import ActionDescription
from actionengine.catalogue.schemas import schema_of
from actionengine.engine import Engine
from actionengine.errors import ErrorCode
from actionengine.http.components import Components
from actionengine.http.responses import ErrorAnswer
from actionengine.http.routes import HTTPRoute, action_routes
from actionengine.pipeline.preview import Preview

Json = dict[str, Any]

_VERSION: Final = "3.1.1"
_JSON: Final = "application/json"
_IN_PATH: Final = re.compile(r"{([^{}]+)}")
_HEADERS: Final[Mapping[str, Json]] = {
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "A key for this request and its repetitions: they all get the first answer.",
        "schema": {"type": "string", "minLength": 1},
    },
    "Reason": {
        "name": "X-Reason",
        "in": "header",
        "description": "The reason of the request, for the action log.",
        "schema": {"type": "string"},
    },
    "RequestId": {
        "name": "X-Request-Id",
        "in": "header",
        "description": "The id of the request, for the action log.",
        "schema": {"type": "string"},
    },
    "Plan": {
        "name": "X-Plan",
        "in": "header",
        "description": "The plan of a preview: the execution writes what the preview showed, or is a 409.",
        "schema": {"type": "string"},
    },
}
_REQUIRED_KEY: Final = "RequiredIdempotencyKey"


def openapi(
    engine: Engine,
    *,
    title: str = "Actions",
    version: str = "1",
    prefix: str = "/api",
    root_path: str = "",
    routes: Iterable[HTTPRoute] = (),
    actions: Iterable[ActionDescription] | None = None,
    previews: bool = False,
    security_schemes: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return an OpenAPI 3.1 document, as JSON values, of the actions as a host serves them.

    Each action has the operation `POST {prefix}/{service}/{action}`, and one more for each of the `routes` to it. The
    schemas are those of the catalogue, in `components`. An operation tells in `x-permission`, `x-approval`,
    `x-idempotency`, `x-read-only`, `x-destructive` and `x-emits` what the declaration says.

    Args:
        engine: the engine that the host serves.
        title: the title of the API.
        version: the version of the API.
        prefix: the path before `/{service}/{action}`.
        root_path: the path below which a proxy serves the host, such as `/shop`.
        routes: the routes by resource. A route to an action that is not in the document is left out.
        actions: the actions to describe, such as `engine.catalogue(context).unwrap()` for those that one caller may
            execute. Without it, all.
        previews: the host serves `POST {prefix}/{service}/{action}/preview` with `engine.preview`.
        security_schemes: OpenAPI security schemes by name. A request needs one of them.
    """
    document = _Document()
    wanted = None if actions is None else {action.name for action in actions}
    by_action: dict[tuple[str, str], list[HTTPRoute]] = {}
    for route in (*action_routes(engine, prefix), *routes):
        by_action.setdefault((route.service, route.action), []).append(route)
    described = engine.descriptions()
    tags = []
    for service in engine.get_services().unwrap():
        shown = [each for each in described[service.name] if wanted is None or each.name in wanted]
        if shown:
            tags.append({"name": service.name, "description": service.description})
        for action in shown:
            name = action.name.removeprefix(f"{service.name}.")
            declared = engine.get_action(service.name, name).unwrap()
            operations = _Operations(document, service.name, action, declared.permission)
            for number, route in enumerate(by_action[service.name, name], 1):
                operations.add(route, action.name if number == 1 else f"{action.name}.{number}")
    if previews:
        document.add_preview(f"{prefix}/{{service}}/{{action}}/preview")
    made = document.made(title, version, tags, security_schemes or {})
    if root_path:
        made["servers"] = [{"url": root_path}]
    return made


class _Document:
    """The paths and the components, while they are collected."""

    def __init__(self) -> None:
        self.paths: dict[str, Json] = {}
        self.components = Components()
        self._error = self.components.add("Error", schema_of(ErrorAnswer, "serialization"))

    def add_preview(self, path: str) -> None:
        """Add the operation that previews an action."""
        schema = {**schema_of(Preview, "serialization"), "description": "What an execution would return and write."}
        data = self.components.add("Preview", schema)
        in_path = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in ("service", "action")
        ]
        self.paths[path] = {
            "post": {
                "operationId": "preview",
                "summary": "Preview an action",
                "description": "Execute an action and roll it back. The answer has its result, its writes and events, "
                "and a plan for the header `X-Plan` of an execution. The body is that of the action.",
                "parameters": [*in_path, _parameter("Reason"), _parameter("RequestId")],
                "requestBody": {"content": {_JSON: {"schema": {}}}},
                "responses": _responses(data, needs_approval=False),
            }
        }

    def made(self, title: str, version: str, tags: Sequence[Json], security_schemes: Mapping[str, Any]) -> Json:
        components: Json = {
            "schemas": self.components.schemas,
            "responses": dict(_error_responses(self._error)),
            "parameters": {
                **_HEADERS,
                _REQUIRED_KEY: {**_HEADERS["IdempotencyKey"], "required": True},
            },
        }
        made: Json = {
            "openapi": _VERSION,
            "info": {"title": title, "version": version},
            "tags": list(tags),
            "paths": self.paths,
            "components": components,
        }
        if security_schemes:
            components["securitySchemes"] = {name: dict(scheme) for name, scheme in security_schemes.items()}
            made["security"] = [{name: []} for name in security_schemes]
        return made


class _Operations:
    """The operations of one action."""

    def __init__(self, document: _Document, service: str, action: ActionDescription, permission: str | None) -> None:
        self._document = document
        self._action = action
        components = document.components
        self._input = components.add(f"{action.name}.input", action.input_schema)
        output = action.output_schema
        data = {} if output is None else components.add(f"{action.name}.output", output)
        self._common = {
            "tags": [service],
            "summary": action.title,
            "description": action.description,
            "x-permission": permission,
            "x-approval": action.approval,
            "x-idempotency": action.idempotency,
            "x-read-only": action.read_only,
            "x-destructive": action.destructive,
            "x-emits": list(action.emits),
        }
        self._responses = _responses(data, action.approval != "never")
        self._headers = [_parameter(name) for name in _header_names(action)]

    def add(self, route: HTTPRoute, id: str) -> None:
        """Add the operation of one route to the paths."""
        in_path = _IN_PATH.findall(route.path)
        schema = self._document.components.resolved(self._input)
        properties = dict(schema.get("properties", {}))
        parameters = [
            {"name": name, "in": "path", "required": True, "schema": properties.pop(name, {"type": "string"})}
            for name in in_path
        ]
        operation: Json = {"operationId": id, **self._common}
        if route.method in ("GET", "DELETE"):
            parameters += _in_query(properties, schema.get("required", ()))
        else:
            body = self._body(schema, properties, in_path)
            operation["requestBody"] = {
                "required": bool(self._document.components.resolved(body).get("required")),
                "content": {_JSON: {"schema": body, **self._examples(in_path)}},
            }
        operation["parameters"] = parameters + self._headers
        operation["responses"] = self._responses
        self._document.paths.setdefault(route.path, {})[route.method.lower()] = operation

    def _body(self, schema: Json, properties: Json, in_path: Sequence[str]) -> Json:
        """Return the schema of a body: the input without the values that are in the path."""
        if not in_path or "properties" not in schema:
            return self._input
        required = [name for name in schema.get("required", ()) if name not in in_path]
        rest = {key: value for key, value in schema.items() if key not in ("required", "title")}
        return {**rest, "properties": properties, **({"required": required} if required else {})}

    def _examples(self, in_path: Sequence[str]) -> Json:
        if in_path or not self._action.examples:
            return {}
        return {"examples": {f"example{n}": {"value": each} for n, each in enumerate(self._action.examples, 1)}}


def _parameter(name: str) -> Json:
    return {"$ref": f"#/components/parameters/{name}"}


def _in_query(properties: Mapping[str, Any], required: Iterable[str]) -> Iterator[Json]:
    for name, schema in properties.items():
        yield {"name": name, "in": "query", "schema": schema, **({"required": True} if name in required else {})}


def _header_names(action: ActionDescription) -> Iterator[str]:
    if not action.read_only and action.idempotency != "none":
        yield _REQUIRED_KEY if action.idempotency == "required" else "IdempotencyKey"
    yield from ("Reason", "RequestId")
    if not action.read_only:
        yield "Plan"


def _responses(data: Json, needs_approval: bool) -> Json:
    success = {"type": "object", "required": ["data"], "properties": {"data": data}}
    errors = {
        str(status): {"$ref": f"#/components/responses/{status}"}
        for status, _ in _codes_by_status()
        if needs_approval or status != HTTPStatus.ACCEPTED
    }
    return {
        "200": {"description": "The result", "content": {_JSON: {"schema": success}}},
        **errors,
        "default": {"$ref": "#/components/responses/default"},
    }


def _error_responses(error: Json) -> Iterator[tuple[str, Json]]:
    content = {_JSON: {"schema": error}}
    for status, codes in _codes_by_status():
        response: Json = {"description": " or ".join(f"`{code}`" for code in codes), "content": content}
        if status in (HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
            response["headers"] = {
                "Retry-After": {
                    "description": "Seconds after which a repetition may succeed.",
                    "schema": {"type": "integer", "minimum": 0},
                }
            }
        yield str(status), response
    yield "default", {"description": "Any other refusal, such as a body that is too long", "content": content}


def _codes_by_status() -> list[tuple[int, list[ErrorCode]]]:
    by_status = sorted(ErrorCode, key=lambda code: code.http_status)
    return [(status, list(codes)) for status, codes in groupby(by_status, key=lambda code: code.http_status)]
