"""`actionengine runs ...`: the runs of workflows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from actionengine.cli.governed import governed
from actionengine.cli.operator import Operator
from actionengine.cli.output import compact, with_tenant, write_item, write_json, write_listing
from actionengine.cli.terminal import age, escape, iso, write, write_block

if TYPE_CHECKING:
    from actionengine.workflows.models import Run, RunSummary

runs = typer.Typer(no_args_is_help=True, help="The runs of workflows.")

STATUSES = "running, paused, succeeded, failed, cancelled"
Id = Annotated[str, typer.Argument(help="The id of the run.")]


@runs.callback()
def commands() -> None:
    """Look after the runs of workflows."""


@governed(runs, "list", "runs list --status paused", "runs list --workflow onboarding --json", workflows=True)
def list_runs(
    operator: Operator,
    status: Annotated[str | None, typer.Option(help=f"Only of this status: {STATUSES}.")] = None,
    workflow: Annotated[str | None, typer.Option(help="Only of the workflow with this key.")] = None,
    after: Annotated[str | None, typer.Option(help="Only runs after the one with this id.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The most runs to list.")] = 50,
) -> None:
    """List runs, the newest first, of one tenant or of all."""
    asked = {"status": status, "key": workflow, "newest_first": True}
    listing = operator.list_items("workflows.list", asked, limit=limit, cursor=after)
    write_listing(operator, listing, _write_summary, "there are no runs", "--after")


@governed(runs, "show", "runs show $ID --tenant acme", workflows=True)
def show(operator: Operator, id: Id) -> None:
    """Show one run with its steps."""
    tenant, run = operator.find("workflows.get", {"run_id": id})
    write_item(operator, tenant.slug, run, _write_run)


@governed(runs, "resume", "runs resume $ID --tenant acme", workflows=True)
def resume(operator: Operator, id: Id) -> None:
    """Try the step again that a run is paused at."""
    _decide(operator, "workflows.resume", {"run_id": id}, "resumed")


@governed(runs, "cancel", "runs cancel $ID --tenant acme --reason 'sent twice'", workflows=True)
def cancel(operator: Operator, id: Id) -> None:
    """End a run at its current step. --reason is the reason."""
    _decide(operator, "workflows.cancel", {"run_id": id, "reason": operator.reason}, "cancelled")


def _decide(operator: Operator, action: str, payload: dict[str, str | None], done: str) -> None:
    tenant = operator.only_tenant()
    run = operator.do(tenant, action, payload)
    if operator.json:
        write_json(with_tenant(tenant.slug, run))
    else:
        write(f"{done} {escape(run.id)}, which is {run.status}, as {escape(operator.actor)}")


def _title(tenant: str, run: RunSummary) -> str:
    return f"{iso(run.created_at)}  {run.workflow_key} v{run.workflow_version}  {run.status}  {tenant}"


def _details(run: RunSummary) -> list[str]:
    details = [f"id {run.id}", f"started by {' for '.join((run.started_by, *run.on_behalf_of))}, {age(run.created_at)}"]
    if run.step is not None:
        waits = "" if run.paused_for is None else f", paused for {run.paused_for}"
        details.append(f"at step {run.step} after {run.position} steps{waits}, {age(run.updated_at)}")
    elif run.ended_at is not None:
        details.append(f"ended {age(run.ended_at)} after {run.position} steps")
    if run.approval_id is not None:
        details.append(f"waits for the approval {run.approval_id}")
    if run.assignment_id is not None:
        details.append(f"waits for the assignment {run.assignment_id}")
    if run.error is not None:
        details.append(f"error: {run.error['code']}: {run.error['message']}")
    return details


def _write_summary(tenant: str, run: RunSummary) -> None:
    write_block(_title(tenant, run), _details(run))


def _write_run(tenant: str, run: Run) -> None:
    write_block(_title(tenant, run), [*_details(run), f"input: {compact(run.input)}"])
    for step in run.steps:
        details = [f"execution {step.action_id}, {age(step.ended_at)}"]
        if step.error is not None:
            details.append(f"error: {step.error['code']}: {step.error['message']}")
        if step.output is not None:
            details.append(f"output: {compact(step.output)}")
        write_block(f"{step.position} {step.step} ({step.type})  {step.status}", details, 2)
