"""Runs of workflows: a list, and one run with its steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actionengine.console.buttons import Button, Field, Offer
from actionengine.console.page import Page
from actionengine.console.pages.paging import next_after
from actionengine.console.visit import Visit

RESUME = Button(
    action="workflows.resume",
    label="Try the step again",
    done="Resumed: the run tries its step again.",
    style="primary",
)
CANCEL = Button(
    action="workflows.cancel",
    label="Cancel the run",
    done="Cancelled: the run has ended.",
    fields=(Field(name="reason", label="Reason", lines=2),),
    style="danger",
)

# The package of workflows needs an extra that a host with a console may not have.
STATUSES = ("running", "paused", "succeeded", "failed", "cancelled")
"""The statuses of runs."""

_LIMIT = 50


async def list_runs(visit: Visit) -> Mapping[str, Any]:
    """Return the variables of the list."""
    key, status = visit.parameter("key"), visit.parameter("status")
    after = visit.cursor("after")
    payload = {"key": key, "status": status, "after": after, "limit": _LIMIT, "newest_first": True}
    runs = await visit.read("workflows.list", payload)
    return {
        "runs": runs,
        "key": key,
        "status": status,
        "statuses": STATUSES,
        "after": after,
        "next": next_after(runs, _LIMIT),
    }


async def show_run(visit: Visit) -> Mapping[str, Any]:
    """Return the variables of one run."""
    run = await visit.read("workflows.get", {"run_id": visit.path_parameter("id")})
    payload, resource = {"run_id": run.id}, f"workflow_run/{run.id}"
    can_resume = run.status == "paused" and run.paused_for == "failure"
    return {
        "title": f"Run of {run.workflow_key}",
        "run": run,
        "subject": resource,
        "buttons": await visit.offer(
            Offer(RESUME, payload, resource, when=can_resume),
            Offer(CANCEL, payload, resource, when=run.ended_at is None),
        ),
    }


PAGES = (
    Page(
        path="/runs",
        title="Runs",
        view=list_runs,
        template="runs.html",
        action="workflows.list",
        live=("runs",),
        in_navigation=True,
    ),
    Page(
        path="/runs/{id}",
        title="Run",
        view=show_run,
        template="run.html",
        action="workflows.get",
        live=("runs",),
        buttons=(RESUME, CANCEL),
    ),
)
