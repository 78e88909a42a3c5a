"""Changes of record types and files: a list, and one change with its edits, its diff, and what comes next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actionengine.changes.models import Change, Transitions
from actionengine.changes.states import STATUSES
from actionengine.console.buttons import Button, Offer
from actionengine.console.page import Page
from actionengine.console.pages.paging import next_after
from actionengine.console.visit import POSITION, Visit
from actionengine.errors import ActionError, ErrorCode

EXECUTE = Button(
    action="changes.execute",
    label="Apply the edits",
    done="Applied: the edits are in force. The change stays open.",
    style="danger",
)
MERGE = Button(
    action="changes.merge",
    label="Merge",
    done="Merged: the edits are in force, and the change is closed.",
    style="primary",
)
MOVES = {
    status: Button(action="changes.transition", label=f"Move to {status}", done="Moved to another status.")
    for status in STATUSES
    if status != "Merged"
}
"""The button for each next status. A change becomes Merged by the button of its own."""

COMPENSATE = Button(
    action="changes.plan_compensation",
    label="Draft a change that takes it back",
    done="Drafted: the list of changes has the new one.",
)

_LIMIT = 50
_NOT_APPLICABLE = (ErrorCode.CONFLICT, ErrorCode.UNPROCESSABLE, ErrorCode.NOT_FOUND)


async def list_changes(visit: Visit) -> Mapping[str, Any]:
    """Return the variables of the list."""
    status, after = visit.parameter("status"), visit.cursor("after")
    changes = await visit.read("changes.list", {"status": status, "after": after, "limit": _LIMIT})
    return {
        "changes": changes,
        "status": status,
        "statuses": STATUSES,
        "after": after,
        "next": next_after(changes, _LIMIT),
    }


async def show_change(visit: Visit) -> Mapping[str, Any]:
    """Return the variables of one change."""
    about = {"change_id": visit.path_parameter("id")}
    change = await visit.read("changes.get", about)
    after = visit.cursor("after", POSITION)
    listing = {**about, "after": None if after is None else int(after), "limit": _LIMIT}
    ops = await visit.read("changes.list_patch_ops", listing)
    preview, problem = await _preview(visit, change)
    transitions = await visit.read("changes.transitions", about)
    return {
        "title": change.title,
        "change": change,
        "ops": ops,
        "next": next_after(ops, _LIMIT, "position"),
        "preview": preview,
        "why_no_preview": problem,
        "buttons": await visit.offer(*_offers(change, transitions)),
    }


async def _preview(visit: Visit, change: Change) -> tuple[Any, str | None]:
    """Return the effect of a change, or the reason for which it cannot be applied; neither for a merged one."""
    if change.status == "Merged":
        return None, None
    try:
        return await visit.read("changes.preview", {"change_id": change.id}), None
    except ActionError as error:
        if error.code not in _NOT_APPLICABLE:
            raise
        return None, error.message


def _offers(change: Change, transitions: Transitions) -> Sequence[Offer]:
    """Return the buttons of a change in its status."""
    about, resource = {"change_id": change.id}, f"change/{change.id}"
    is_reviewed = change.status == "Ready" or not transitions.require_review
    moves = [status for status in transitions.next_statuses if status != "Merged"]
    return [
        Offer(MERGE, about, resource, when="Merged" in transitions.next_statuses),
        Offer(EXECUTE, about, resource, when=change.status != "Merged" and is_reviewed),
        *(Offer(MOVES[status], {**about, "status": status}, resource) for status in moves),
        Offer(COMPENSATE, about, resource, when=change.status == "Merged"),
    ]


PAGES = (
    Page(
        path="/changes",
        title="Changes",
        view=list_changes,
        template="changes.html",
        action="changes.list",
        in_navigation=True,
    ),
    Page(
        path="/changes/{id}",
        title="Change",
        view=show_change,
        template="change.html",
        action="changes.get",
        buttons=(MERGE, EXECUTE, *MOVES.values(), COMPENSATE),
    ),
)
