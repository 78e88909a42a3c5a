"""Routes of an API: by the name of an action, and by resources that a host declares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from actionengine.engine import Engine


class HTTPRoute(NamedTuple):
    """A method and a path for an action. Its payload is the body, the query, and the values in the path: `path` has
    their names in braces, such as `/api/jobs/{job_id}/complete`."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    service: str
    action: str


def action_routes(engine: Engine, prefix: str = "/api") -> tuple[HTTPRoute, ...]:
    """Return the route `POST {prefix}/{service}/{action}` of each action, in the order of their declaration."""
    return tuple(
        HTTPRoute("POST", f"{prefix}/{quote(service.name, safe='')}/{quote(action, safe='')}", service.name, action)
        for service in engine.get_services().unwrap()
        for action in service.actions
    )


def by_path(routes: Iterable[HTTPRoute]) -> dict[str, dict[str, HTTPRoute]]:
    """Return the routes of each path, by method: most frameworks want one view for a path."""
    found: dict[str, dict[str, HTTPRoute]] = {}
    for route in routes:
        found.setdefault(route.path, {})[route.method] = route
    return found


def payload_of(path: Mapping[str, str], query: Mapping[str, str], body: Any) -> Any:
    """Return the payload of a request to a route. Values of the path win over the body, and the body over the query.

    A body that is no object is returned as it is: the action refuses it.
    """
    return {**query, **body, **path} if isinstance(body, dict) else body
