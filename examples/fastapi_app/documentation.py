"""FastAPI's own documentation of an action, made of its declaration."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Body, Header
from pydantic import WrapValidator

from actionengine import Engine
from actionengine.http import Answer, ErrorAnswer, HTTPRoute, read_json

Key = Annotated[str | None, Header(description="A key for this request and its repetitions, which get its answer.")]
"""The header `Idempotency-Key`. It is read with the others."""


def body_annotation(engine: Engine, routes: Mapping[str, HTTPRoute]) -> Any:
    """Return the annotation of a body: FastAPI documents the action's own model, and does not validate.

    The pipeline validates after authorization, and its refusals are on the action log.
    """
    route, *others = routes.values()
    model = None if others else engine.get_action(route.service, route.action).unwrap().validation
    return Annotated[model or Any, WrapValidator(_as_sent), Body(default_factory=dict)]


def _as_sent(value: Any, validate: object) -> Any:
    """Return a payload without validation. FastAPI passes the bytes of a body that its header does not call JSON."""
    return read_json(value) if isinstance(value, bytes) else value


def docs(engine: Engine, routes: Mapping[str, HTTPRoute]) -> dict[str, Any]:
    """Return the arguments of `app.add_api_route` that describe an action, with its models.

    Routes by resource are further ways to actions. They are not in the documentation.
    """
    _, path, service, action = next(iter(routes.values()))
    if path != f"/api/{service}/{action}":
        return {"methods": [*routes], "include_in_schema": False}
    declared, result = engine.get_action(service, action).unwrap(), engine.plan_of(service, action).result_type
    return {
        "methods": [*routes],
        "operation_id": f"{service}.{action}",
        "tags": [service],
        "summary": declared.title,
        "description": declared.description,
        "responses": {200: {"model": Answer[result or Any]}, "default": {"model": ErrorAnswer}},  # type: ignore[misc]
        "openapi_extra": {"x-permission": declared.permission, "x-idempotency": declared.idempotency},
    }
