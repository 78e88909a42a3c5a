"""Approvals: those that the caller asked for or may decide, and one of them with the writes that approving makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actionengine.console.buttons import Button, Field, Offer
from actionengine.console.page import Page
from actionengine.console.visit import Visit

_COMMENT = Field(name="comment", label="Comment", lines=3)

APPROVE = Button(
    action="approvals.approve",
    label="Approve",
    done="Approved: the action was executed.",
    fields=(_COMMENT,),
    style="primary",
    has_preview=True,
)
REJECT = Button(
    action="approvals.reject",
    label="Reject",
    done="Rejected: the action will not be executed.",
    fields=(_COMMENT,),
    style="danger",
)
CANCEL = Button(
    action="approvals.cancel",
    label="Cancel the request",
    done="Cancelled: the action will not be executed.",
    fields=(_COMMENT,),
)

_STATUSES = ("pending", "approved", "rejected", "cancelled", "expired", "all")


async def list_approvals(visit: Visit) -> Mapping[str, Any]:
    """Return the variables of the list. Without a status, it has those that wait."""
    status = visit.parameter("status") or "pending"
    asked = None if status == "all" else status
    after = visit.cursor("after")
    listed = await visit.read("approvals.list", {"status": asked, "after": after, "limit": 50})
    return {"listed": listed, "status": status, "statuses": _STATUSES, "after": after}


async def show_approval(visit: Visit) -> Mapping[str, Any]:
    """Return the variables of one approval."""
    approval = await visit.read("approvals.get", {"approval_id": visit.path_parameter("id")})
    payload = {"approval_id": approval.id}
    buttons = await visit.offer(
        Offer(APPROVE, payload, when=approval.can_approve),
        Offer(REJECT, payload, when=approval.can_decide),
        Offer(CANCEL, payload, when=approval.can_cancel),
    )
    return {"approval": approval, "buttons": buttons}


PAGES = (
    Page(
        path="/approvals",
        title="Approvals",
        view=list_approvals,
        template="approvals.html",
        action="approvals.list",
        live=("approvals",),
        in_navigation=True,
    ),
    Page(
        path="/approvals/{id}",
        title="Approval",
        view=show_approval,
        template="approval.html",
        action="approvals.get",
        buttons=(APPROVE, REJECT, CANCEL),
    ),
)
