"""The API of the business as an OpenAPI document, made of the catalogue."""

from typing import Any

from actionengine import Engine
from actionengine.http import openapi
from examples.field_service.routes import ROUTES

_SECURITY = {
    "tenant": {"type": "apiKey", "in": "header", "name": "x-tenant-id", "description": "The slug of the tenant"},
    "user": {"type": "apiKey", "in": "header", "name": "x-user-id", "description": "The person"},
    "agent": {"type": "apiKey", "in": "header", "name": "x-agent-id", "description": "The agent, for the person"},
}
"""The headers of the gateway. A request needs the tenant, with a person or an agent or both."""


def document(engine: Engine, root_path: str) -> dict[str, Any]:
    """Return the document of all actions. It has nothing of any tenant."""
    made = openapi(
        engine,
        title="Field service",
        root_path=root_path,
        routes=ROUTES,
        previews=True,
        security_schemes=_SECURITY,
    )
    made["security"] = [{"tenant": [], "user": []}, {"tenant": [], "agent": []}, {name: [] for name in _SECURITY}]
    return made
