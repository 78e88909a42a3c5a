"""The details of jobs, in addition to our table: a record type, which evolves through changes.

Each tenant has its own record type. It defines the details that a job may have, which are stored as documents.
"""

from typing import Any

from returns.result import Success

from actionengine import ActionContext, ApprovalPolicy
from actionengine.changes import change_control_services

PROJECT: dict[str, Any] = {
    "name": "Field service",
    "description": "What the office says of its work",
    "require_review": True,
}
"""A change has to be made `Ready` before it is merged."""

JOB: dict[str, Any] = {
    "key": "job",
    "name": "Job details",
    "description": "What is good to know before one drives there",
    "schema": {
        "fields": [
            {"name": "parking", "type": "string"},
            {"name": "floor", "type": "number"},
            {"name": "ladder_needed", "type": "boolean"},
        ]
    },
}
"""The record type that each tenant starts with."""


def takes_fields_away(data: Any, ctx: ActionContext) -> bool:
    """Return whether a change removes or renames a field. False for one that cannot be executed: merging says why."""
    preview = ctx.execute("changes", "preview", {"change_id": data.change_id})
    return isinstance(preview, Success) and any(each.removed or each.renamed for each in preview.unwrap().diff)


change_control = change_control_services(
    merge_approval=ApprovalPolicy(when=takes_fields_away, permission="changes.approve"),
)
