"""What a tenant says of its jobs beside what our table has: a record type, which evolves through changes.

The record type is the tenant's own: it says which details a job may have, and they are kept as documents.
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
"""What each tenant begins with."""


def takes_fields_away(data: Any, ctx: ActionContext) -> bool:
    """Whether a change removes or renames a field. One that cannot be executed takes nothing away: merging says why."""
    preview = ctx.execute("changes", "preview", {"change_id": data.change_id})
    return isinstance(preview, Success) and any(each.removed or each.renamed for each in preview.unwrap().diff)


change_control = change_control_services(
    merge_approval=ApprovalPolicy(when=takes_fields_away, permission="changes.approve"),
)
