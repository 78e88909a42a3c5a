"""Routes of an API: by the name of an action, and by resources that a host declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple


class HTTPRoute(NamedTuple):
    """A method and a path for an action. Its payload is the body, the query, and the values in the path: `path` has
    their names in braces, such as `/api/jobs/{job_id}/complete`."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    service: str
    action: str


def payload_of(path: Mapping[str, str], query: Mapping[str, str], body: Any) -> Any:
    """Return the payload of a request to a route. Values of the path win over the body, and the body over the query.

    A body that is no object is returned as it is: the action refuses it.
    """
    return {**query, **body, **path} if isinstance(body, dict) else body
