"""The overview: a card for each thing that may need an operator, as far as the caller may read it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from actionengine.console.page import Page
from actionengine.console.visit import Visit
from actionengine.errors import ActionError, ErrorCode

_RECENT = timedelta(hours=24)
"""The time before now whose failures are counted."""

_COUNTED = 100
"""Approvals, runs and failures that a card counts, at most."""

_NEAR = 8
"""The tenths of a budget that are used, from which on the overview has it."""

_READS = ("approvals.list", "relay.status", "action_log.list", "workflows.list", "budgets.usage")


class Card(NamedTuple):
    """The value that a read returned, or the error that it failed with; both None where the caller may not read it."""

    value: Any = None
    error: ActionError | None = None


async def show_overview(visit: Visit) -> Mapping[str, Any]:
    """Return the variables of the overview."""
    now = datetime.now(UTC)
    since = (now - _RECENT).isoformat(timespec="seconds")
    runs = {"newest_first": True, "limit": _COUNTED}
    budgets = await _read(visit, "budgets.usage", {})
    usages = budgets.value.items if budgets.value is not None else ()
    return {
        "now": now,
        "counted": _COUNTED,
        "approvals": await _read(visit, "approvals.list", {"status": "pending", "limit": _COUNTED}),
        "relay": await _read(visit, "relay.status", {}),
        "failures": await _read(visit, "action_log.list", {"outcome": "failed", "since": since, "limit": _COUNTED}),
        "failed_runs": await _read(visit, "workflows.list", {"status": "failed", **runs}),
        "paused_runs": await _read(visit, "workflows.list", {"status": "paused", **runs}),
        "budgets": budgets,
        "near": [each for each in usages if 10 * each.used >= _NEAR * each.limit],
    }


async def _read(visit: Visit, action: str, payload: Mapping[str, Any]) -> Card:
    """Return the card of a read. Other cards do not depend on it, except where the storage is unavailable."""
    if action not in visit.may:
        return Card()
    try:
        return Card(await visit.read(action, payload))
    except ActionError as error:
        if error.code is ErrorCode.UNAVAILABLE:
            raise
        return Card(error=error)


PAGES = (
    Page(
        path="/",
        title="Overview",
        view=show_overview,
        template="overview.html",
        reads=_READS,
        live=("approvals", "runs", "lag"),
        in_navigation=True,
    ),
)
