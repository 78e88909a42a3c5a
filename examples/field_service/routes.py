"""The routes of change control, by resources. Each is an action; both hosts serve them, and answer as they always do.

They say nothing that `POST /api/{service}/{action}` could not say: `POST /api/changes/merge` with a `change_id` merges
as `POST /api/changes/{change_id}/merge` does.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple


class Route(NamedTuple):
    """A method and a path for an action. What the path names, the query and the body are its payload."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    service: str
    action: str


_RECORD_TYPE = "/api/projects/{project_id}/record_types/{key}"
_CHANGE = "/api/changes/{change_id}"

ROUTES = (
    Route("GET", "/api/projects", "projects", "list"),
    Route("POST", "/api/projects", "projects", "create"),
    Route("GET", "/api/projects/{project_id}", "projects", "get"),
    Route("GET", "/api/projects/{project_id}/record_types", "record_types", "list"),
    Route("POST", "/api/projects/{project_id}/record_types", "record_types", "create"),
    Route("GET", _RECORD_TYPE, "record_types", "get"),
    Route("POST", f"{_RECORD_TYPE}/activate", "record_types", "activate"),
    Route("POST", f"{_RECORD_TYPE}/retire", "record_types", "retire"),
    Route("GET", f"{_RECORD_TYPE}/schema", "record_types", "schema_at"),
    Route("GET", f"{_RECORD_TYPE}/history", "record_types", "verify_history"),
    Route("GET", f"{_RECORD_TYPE}/misfits", "record_types", "check_documents"),
    Route("GET", "/api/changes", "changes", "list"),
    Route("POST", "/api/changes", "changes", "create"),
    Route("GET", _CHANGE, "changes", "get"),
    Route("GET", f"{_CHANGE}/targets", "changes", "list_targets"),
    Route("POST", f"{_CHANGE}/targets", "changes", "add_target"),
    Route("GET", f"{_CHANGE}/ops", "changes", "list_patch_ops"),
    Route("POST", f"{_CHANGE}/ops", "changes", "add_patch_op"),
    Route("DELETE", f"{_CHANGE}/ops/{{op_id}}", "changes", "delete_patch_op"),
    Route("GET", f"{_CHANGE}/preview", "changes", "preview"),
    Route("GET", f"{_CHANGE}/snapshots", "changes", "list_snapshots"),
    Route("POST", f"{_CHANGE}/transition", "changes", "transition"),
    Route("POST", f"{_CHANGE}/execute", "changes", "execute"),
    Route("POST", f"{_CHANGE}/merge", "changes", "merge"),
    Route("POST", f"{_CHANGE}/compensation", "changes", "plan_compensation"),
)


def payload_of(path: Mapping[str, Any], query: Mapping[str, Any], body: Any) -> Any:
    """The payload of a request: the path has the last word. A body that is no object is the action's to refuse."""
    return {**query, **body, **path} if isinstance(body, dict) else body
