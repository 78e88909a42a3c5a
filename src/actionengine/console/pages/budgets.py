"""Budgets: how much of them an actor has used, the caller itself unless it asks for another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actionengine.console.page import Page
from actionengine.console.visit import Visit


async def show_budgets(visit: Visit) -> Mapping[str, Any]:
    """Return the variables of the page."""
    asked = {"actor": visit.parameter("actor"), "principal": visit.parameter("principal")}
    return {"usages": await visit.read("budgets.usage", asked), "asked": asked}


PAGES = (
    Page(
        path="/budgets",
        title="Budgets",
        view=show_budgets,
        template="budgets.html",
        action="budgets.usage",
        in_navigation=True,
    ),
)
