"""The services and actions of the business, for a client that looks around."""

from typing import Any

from pydantic import TypeAdapter
from returns.result import Result

from actionengine import Action, ActionError, Engine

DISCOVERY = ("/api/services", "/api/services/{service}", "/api/services/{service}/{action}")
"""The paths of `discover`, with the names of its arguments."""


def discover(engine: Engine, service: str | None = None, action: str | None = None) -> Result[Any, ActionError]:
    """Return all services, the actions of one, or one action with the JSON schema of its input."""
    if service is None:
        return engine.get_services()
    if action is None:
        return engine.get_service_actions(service)
    return engine.get_action(service, action).map(_describe)


def _describe(action: Action) -> dict[str, Any]:
    return {
        "name": action.name,
        "description": action.description,
        "is_protected": action.is_protected,
        "permission": action.permission,
        "read_only": action.read_only,
        "idempotency": action.idempotency,
        "input": None if action.validation is None else TypeAdapter(action.validation).json_schema(),
    }
