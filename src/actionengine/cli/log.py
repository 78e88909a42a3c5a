"""`actionengine log ...`: search the action log, and show one execution with its causes and effects."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, get_args

import typer

from actionengine.builtin.action_log import LogEntry
from actionengine.cli.errors import ExitCode, fail
from actionengine.cli.governed import governed
from actionengine.cli.maintenance import time_before
from actionengine.cli.operator import Operator
from actionengine.cli.output import compact, write_item, write_listing
from actionengine.cli.terminal import age, duration, iso, shortened, write_block
from actionengine.cli.tree import write_tree
from actionengine.storage.rows import Outcome

log = typer.Typer(no_args_is_help=True, help="The action log: who changed what, when and why.")

OUTCOMES = ", ".join(get_args(Outcome))
Id = Annotated[str, typer.Argument(help="The id of the execution.")]


class ThingKind(StrEnum):
    """The kinds of things that a tree of causes begins at."""

    EXECUTION = "execution"
    APPROVAL = "approval"
    EVENT = "event"
    RUN = "run"


@log.callback()
def commands() -> None:
    """Search the action log."""


@governed(log, "search", "log search --subject jobs/17", "log search --text 'duplicate charge' --since 3d")
def search(
    operator: Operator,
    subject: Annotated[str | None, typer.Option(help="Only about this thing, such as jobs/17.")] = None,
    by: Annotated[str | None, typer.Option(help="Only by this actor, as human:ada.")] = None,
    principal: Annotated[str | None, typer.Option(help="Only on behalf of this actor, as human:ada.")] = None,
    action: Annotated[str | None, typer.Option(help="Only of this action, such as payments.refund.")] = None,
    outcome: Annotated[
        str | None, typer.Option(help=f"Only with this outcome: {', '.join(get_args(Outcome))}.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Only with all of these words in the reason.")] = None,
    request: Annotated[str | None, typer.Option(help="Only of the request with this id.")] = None,
    approval: Annotated[str | None, typer.Option(help="Only under, or waiting for, the approval with this id.")] = None,
    parent: Annotated[str | None, typer.Option(help="Only executed by the execution with this id.")] = None,
    key: Annotated[str | None, typer.Option(help="Only with this idempotency key.")] = None,
    since: Annotated[str | None, typer.Option(help="Only since then: 2h, 3d, or a time in ISO 8601 (UTC).")] = None,
    until: Annotated[str | None, typer.Option(help="Only before then, likewise.")] = None,
    before: Annotated[str | None, typer.Option(help="Only executions before the one with this id.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The most executions to list.")] = 20,
) -> None:
    """List executions, the newest first, of one tenant or of all."""
    type, colon, id = (by or ":").partition(":")
    if by is not None and not (type and id and colon):
        fail(f"--by is an actor as human:ada, not {by!r}", ExitCode.USAGE)
    asked = {
        "subject": subject,
        "actor_type": type or None,
        "actor_id": id or None,
        "principal": principal,
        "action": action,
        "outcome": outcome,
        "text": text,
        "request_id": request,
        "approval_id": approval,
        "parent_id": parent,
        "idempotency_key": key,
        "since": since and iso(time_before(since, datetime.now(UTC))),
        "until": until and iso(time_before(until, datetime.now(UTC))),
    }
    given = {name: value for name, value in asked.items() if value is not None}
    listing = operator.list_items("action_log.list", given, limit=limit, cursor=before, cursor_field="before")
    write_listing(operator, listing, write_line, "no execution matches", "--before")


@governed(log, "show", "log show $ID --tenant acme")
def show(operator: Operator, id: Id) -> None:
    """Show one execution, with its input and output, masked."""
    tenant, entry = operator.find("action_log.get", {"id": id})
    write_item(operator, tenant.slug, entry, write_entry)


@governed(log, "tree", "log tree $ID --tenant acme", "log tree $ID --of approval")
def tree(
    operator: Operator,
    id: Annotated[str, typer.Argument(help="The id of an execution, or of another thing.")],
    of: Annotated[ThingKind, typer.Option(help="The thing that has this id.")] = ThingKind.EXECUTION,
) -> None:
    """Draw the tree of causes around an execution, an approval, an event or a run: the cause of all, and all that came
    of it."""
    tenant, found = operator.find("action_log.tree", {"id" if of is ThingKind.EXECUTION else f"{of}_id": id})
    write_item(operator, tenant.slug, found, write_tree)


def title(tenant: str, entry: LogEntry) -> str:
    """Return the first line of an execution."""
    return f"{iso(entry.started_at)}  {entry.action}  {entry.outcome}  {tenant}"


def actors(entry: LogEntry) -> str:
    """Return the actor of an execution, with its principals."""
    actor = f"{entry.actor_type}:{entry.actor_id}" if entry.actor_type is not None else "no actor"
    return " for ".join((actor, *entry.on_behalf_of))


def write_line(tenant: str, entry: LogEntry) -> None:
    """Print an execution in a few lines."""
    details = [f"id {entry.id}", f"by {actors(entry)} via {entry.source}"]
    if entry.subjects:
        details.append(f"about {', '.join(entry.subjects)}")
    if entry.reason is not None:
        details.append(f"reason: {shortened(entry.reason)}")
    if entry.error is not None:
        details.append(f"error: {entry.error['code']}: {shortened(entry.error['message'])}")
    write_block(title(tenant, entry), details)


def write_entry(tenant: str, entry: LogEntry) -> None:
    """Print all fields of an execution."""
    usage = None
    if entry.model is not None:
        usage = f"{entry.model}, {entry.input_tokens} tokens in, {entry.output_tokens} out, {entry.cost_usd} USD"
    fields = {
        "id": entry.id,
        "parent": entry.parent_id,
        "by": actors(entry),
        "approved by": entry.approved_by,
        "approval": entry.approval_id,
        "source": entry.source,
        "reason": entry.reason,
        "about": ", ".join(entry.subjects) or None,
        "started": f"{iso(entry.started_at)} ({age(entry.started_at)})",
        "took": duration(entry.latency),
        "decision": entry.decision,
        "request": entry.request_id,
        "key": entry.idempotency_key,
        "model": usage,
        "error": None if entry.error is None else f"{entry.error['code']}: {entry.error['message']}",
        "input": compact(entry.input),
        "output": compact(entry.output),
    }
    write_block(title(tenant, entry), (f"{name}: {value}" for name, value in fields.items() if value is not None))
