"""Resource routes for change control, workflows and invoices. Each executes an action; all hosts serve them.

They add nothing to `POST /api/{service}/{action}`: `POST /api/changes/merge` with a `change_id` merges as
`POST /api/changes/{change_id}/merge` does.
"""

from actionengine.http import HTTPRoute as Route

_RECORD_TYPE = "/api/projects/{project_id}/record_types/{key}"
_CHANGE = "/api/changes/{change_id}"
_WORKFLOW = "/api/workflows/{key}"
_RUN = "/api/runs/{run_id}"
_TRIGGER = "/api/triggers/{trigger_id}"
_ASSIGNMENT = "/api/assignments/{assignment_id}"
_APPROVAL = "/api/approvals/{approval_id}"
_INVOICE = "/api/invoices/{invoice_id}"

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
    Route("GET", f"{_RECORD_TYPE}/invalid", "record_types", "check_documents"),
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
    Route("GET", f"{_CHANGE}/transitions", "changes", "transitions"),
    Route("POST", f"{_CHANGE}/transition", "changes", "transition"),
    Route("POST", f"{_CHANGE}/execute", "changes", "execute"),
    Route("POST", f"{_CHANGE}/merge", "changes", "merge"),
    Route("POST", f"{_CHANGE}/compensation", "changes", "plan_compensation"),
    Route("GET", f"{_CHANGE}/workspace", "changes", "workspace"),
    Route("POST", f"{_CHANGE}/workspace", "changes", "start_workspace"),
    Route("DELETE", f"{_CHANGE}/workspace", "changes", "stop_workspace"),
    Route("POST", f"{_CHANGE}/write_files", "changes", "write_files"),
    Route("GET", "/api/workflows", "workflows", "list_definitions"),
    Route("POST", "/api/workflows", "workflows", "define"),
    Route("GET", _WORKFLOW, "workflows", "get_definition"),
    Route("POST", f"{_WORKFLOW}/activate", "workflows", "activate"),
    Route("POST", f"{_WORKFLOW}/runs", "workflows", "start"),
    Route("GET", "/api/runs", "workflows", "list"),
    Route("GET", _RUN, "workflows", "get"),
    Route("POST", f"{_RUN}/resume", "workflows", "resume"),
    Route("POST", f"{_RUN}/cancel", "workflows", "cancel"),
    Route("POST", "/api/runs/purge", "workflows", "purge"),
    Route("GET", "/api/assignments", "workflow_assignments", "list"),
    Route("GET", _ASSIGNMENT, "workflow_assignments", "get"),
    Route("POST", f"{_ASSIGNMENT}/complete", "workflow_assignments", "complete"),
    Route("GET", "/api/triggers", "triggers", "list"),
    Route("POST", "/api/triggers", "triggers", "create"),
    Route("GET", _TRIGGER, "triggers", "get"),
    Route("DELETE", _TRIGGER, "triggers", "delete"),
    Route("POST", f"{_TRIGGER}/enable", "triggers", "enable"),
    Route("POST", f"{_TRIGGER}/disable", "triggers", "disable"),
    Route("GET", "/api/approvals", "approvals", "list"),
    Route("POST", f"{_APPROVAL}/approve", "approvals", "approve"),
    Route("POST", f"{_APPROVAL}/reject", "approvals", "reject"),
    Route("GET", "/api/invoices", "invoices", "list"),
    Route("POST", f"{_INVOICE}/issue", "invoices", "issue"),
    Route("POST", f"{_INVOICE}/mark_overdue", "invoices", "mark_overdue"),
    Route("POST", f"{_INVOICE}/escalate", "invoices", "escalate"),
    Route("POST", f"{_INVOICE}/pay", "invoices", "pay"),
    Route("GET", "/api/log", "action_log", "list"),
)
