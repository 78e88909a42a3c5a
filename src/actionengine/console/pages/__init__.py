"""The pages of the console. The navigation has those with `in_navigation`, in this order."""

from __future__ import annotations

from actionengine.console.page import Page
from actionengine.console.pages import approvals, budgets, catalogue, changes, dead_letters, log, overview, runs

PAGES: tuple[Page, ...] = (
    *overview.PAGES,
    *approvals.PAGES,
    *log.PAGES,
    *runs.PAGES,
    *changes.PAGES,
    *dead_letters.PAGES,
    *budgets.PAGES,
    *catalogue.PAGES,
)
"""All pages. Each module has a tuple `PAGES` of its own, and its templates in `templates/`."""
