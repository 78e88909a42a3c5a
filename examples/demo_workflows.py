"""The workflow's part of the demo's story: a long run, and a worker that is killed in the middle of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table

from actionengine import Actor, Relay, RequestContext, Tenant
from actionengine.workflows import Run
from examples.field_service.app import HostStorage, create_business, open_storage
from examples.field_service.background import create_runtime, create_subscriptions
from examples.short import short, short_ids

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from examples.demo import Story

CARLA, MARIA = Actor.human("carla"), Actor.human("maria")
_WAIT_TIMEOUT = 90.0


def tell_of_workflows(
    story: Story, storage: HostStorage, tenant: Tenant, job_id: str, url: str, workflows_url: str
) -> None:
    """Tell of an overdue invoice: an agent judges, a person gets a task, another approves, and a process dies."""
    story.chapter("An invoice is overdue: a workflow, in a worker process that dies")
    doomed = _start_worker(url, workflows_url)
    with _relaying(story, storage):
        _make_overdue(story, tenant, job_id)
        run = _until(story, tenant, lambda run: run.status != "running")
        story.line(
            f"[yellow]{run.status}[/] at {run.step!r}, after {run.position} steps; an AI has said what it thinks"
        )
        doomed.kill()
        doomed.join()
        story.line(f"[red]the worker is killed[/], exit code {doomed.exitcode}: no process is left to take a step")
        story.chapter("A manager approves; another worker starts, and the run continues")
        _approve(story, tenant)
        successor = _start_worker(url, workflows_url)
        try:
            run = _until(story, tenant, lambda run: run.ended_at is not None)
        finally:
            successor.terminate()
            successor.join()
    story.line(f"[green]{run.status}[/], by a second worker:")
    story.console.print(_steps_table(run))
    _who_and_why(story, tenant, run)


def _make_overdue(story: Story, tenant: Tenant, job_id: str) -> None:
    invoice = {"invoice_id": job_id}
    issued = {**invoice, "due": "2027-03-21", "amount": 240_000}
    story.execute(tenant, CARLA, "invoices.issue", issued, show=_in_brief)
    late = {**invoice, "day": "2027-05-30"}
    story.execute(tenant, CARLA, "invoices.mark_overdue", late, reason="it is the end of May", show=_in_brief)


def _approve(story: Story, tenant: Tenant) -> None:
    pending = story.execute(tenant, MARIA, "approvals.list", {"status": "pending"}, show=_reasons).unwrap().items
    (approval,) = (each for each in pending if each.permission == "invoices.escalate")
    decision = {"approval_id": approval.id, "comment": "they never answer the phone"}
    story.execute(
        tenant,
        MARIA,
        "approvals.approve",
        decision,
        reason="70 days are enough",
        show=lambda told: told.approval.status,
    )


def _who_and_why(story: Story, tenant: Tenant, run: Run) -> None:
    story.chapter("Who raised the dunning level of this invoice, and why? Ask the action log")
    auditor = RequestContext(tenant=tenant, actor=Actor.system("auditor"), source="audit")

    def log(**query: Any) -> Any:
        return story.engine.execute_action("action_log", "list", query, auditor).unwrap().items

    (raised,) = log(subject=f"invoices/{run.input['invoice_id']}", action="invoices.escalate")
    (asked,) = log(subject=f"invoices/{run.input['invoice_id']}", action="agent.assess_risk")
    (overdue,) = log(subject=f"invoices/{run.input['invoice_id']}", action="invoices.mark_overdue")
    (approve,) = (entry for entry in log(action="approvals.approve") if entry.reason == "70 days are enough")
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", expand=True, pad_edge=False)
    table.add_column("who", no_wrap=True)
    table.add_column("what", no_wrap=True)
    table.add_column("why", ratio=1)
    for entry in (overdue, asked, approve, raised):
        why = [short_ids(entry.reason or "")]
        if entry.model:
            why.append(f"{entry.model} ({entry.prompt_version}), {entry.input_tokens} + {entry.output_tokens} tokens")
        table.add_row(f"{entry.actor_type}:{entry.actor_id}", entry.action, "\n".join(why))
    story.console.print(table)
    # The model's answer is in the output of its step; the step's row names the execution.
    story.line(f"[dim]approved by {escape(run.steps[3].output['approved_by'])}, who saw: {short(asked.output)}[/]")


def _steps_table(run: Run) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", expand=True, pad_edge=False)
    table.add_column("#", justify="right")
    table.add_column("step", no_wrap=True)
    table.add_column("type", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    table.add_column("output", ratio=1, no_wrap=True, overflow="ellipsis")
    for step in run.steps:
        colour = "green" if step.status == "succeeded" else "red"
        outcome = f"[{colour}]{step.status}[/]"
        table.add_row(str(step.position + 1), step.step, step.type, outcome, short(step.output))
    return table


def _start_worker(url: str, workflows_url: str) -> SpawnProcess:
    """Start a process that takes steps, and wait until it is ready."""
    context = get_context("spawn")
    here, there = context.Pipe()
    worker = context.Process(target=_work, args=(url, workflows_url, there), daemon=True)
    worker.start()
    there.close()
    with here:
        here.recv()
    return worker


def _work(url: str, workflows_url: str, ready: Connection) -> None:
    """Take steps until the process ends."""
    with open_storage(url) as storage, create_runtime(create_business(storage), workflows_url):
        ready.send("ready")
        threading.Event().wait()


@contextmanager
def _relaying(story: Story, storage: HostStorage) -> Iterator[None]:
    """Run a relay to the host's subscriptions. Workers relay the events that advance runs."""
    relay = Relay(storage, create_subscriptions(story.engine), event_types=story.engine.event_types)
    thread = threading.Thread(target=relay.run, name="relay")
    thread.start()
    try:
        yield
    finally:
        relay.stop()
        thread.join()


def _until(story: Story, tenant: Tenant, check: Callable[[Run], bool]) -> Run:
    """Wait for a run that meets the condition, and return it."""
    context = RequestContext(tenant=tenant, actor=MARIA, source="status")
    deadline = time.monotonic() + _WAIT_TIMEOUT
    while time.monotonic() < deadline:
        for summary in story.engine.execute_action("workflows", "list", {}, context).unwrap():
            run: Run = story.engine.execute_action("workflows", "get", {"run_id": summary.id}, context).unwrap()
            if check(run):
                return run
        time.sleep(0.05)
    raise TimeoutError(f"no such run within {_WAIT_TIMEOUT:g} seconds")


def _in_brief(invoice: Any) -> Any:
    return invoice.model_dump(mode="json", include={"status", "amount", "due", "dunning_level"})


def _reasons(page: Any) -> list[str]:
    return [approval.reason for approval in page.items if approval.permission == "invoices.escalate"]
