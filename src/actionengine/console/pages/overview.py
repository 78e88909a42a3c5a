"""The overview: a card for each thing that may need an operator, as far as the caller may read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actionengine.console.page import Page
from actionengine.console.visit import Visit


async def show_overview(visit: Visit) -> Mapping[str, Any]:
    """Return the variables of the overview."""
    waiting = (
        await visit.read("approvals.list", {"status": "pending", "limit": 50})
        if "approvals.list" in visit.may
        else None
    )
    return {"waiting": waiting}


PAGES = (Page(path="/", title="Overview", view=show_overview, template="overview.html", in_navigation=True),)
