"""`actionengine approvals ...`: list and show what waits for a decision, and decide it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Annotated, Any, get_args

import typer
from returns.result import Failure

from actionengine.builtin.approvals import Approval, ApprovalState
from actionengine.cli.errors import ExitCode, fail
from actionengine.cli.governed import governed
from actionengine.cli.operator import Operator
from actionengine.cli.output import compact, with_tenant, write_json, write_listing
from actionengine.cli.terminal import age, escape, iso, wrap, write, write_block
from actionengine.context import Tenant
from actionengine.pipeline.pending_approval import ApprovalStatus
from actionengine.pipeline.write_set import PreviewedEvent, Write
from actionengine.storage.records import APPROVALS

approvals = typer.Typer(no_args_is_help=True, help="Actions that wait for the decision of a second person.")

STATUSES = ", ".join(get_args(ApprovalStatus))
Id = Annotated[str, typer.Argument(help="The id of the approval.")]
Yes = Annotated[bool, typer.Option("--yes", help="Ask for no confirmation, as with --json.")]


@approvals.callback()
def commands() -> None:
    """Decide approvals."""


@governed(approvals, "list", "approvals list --tenant acme", "approvals list --status rejected --json")
def list_approvals(
    operator: Operator,
    status: Annotated[str, typer.Option(help=f"Only of this status: {STATUSES}; or any.")] = "pending",
    requested_by: Annotated[str | None, typer.Option(help="Only asked for by this actor, as ai:bot.")] = None,
    after: Annotated[str | None, typer.Option(help="Only approvals after the one with this id.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="The most approvals to list.")] = 50,
) -> None:
    """List approvals, the newest first, of one tenant or of all."""
    asked = {"status": None if status == "any" else status, "requested_by": requested_by}
    listing = operator.list_items("approvals.list", asked, limit=limit, cursor=after)
    none = "there are no approvals" if status == "any" else f"no approval is {status}"
    write_listing(operator, listing, _write_approval, none, "--after")


@governed(approvals, "show", "approvals show $ID --tenant acme")
def show(operator: Operator, id: Id) -> None:
    """Show one approval, with the writes that approving it makes: those that it binds, or a preview by --engine."""
    tenant, state = operator.find("approvals.get", {"approval_id": id})
    _show(operator, tenant, state)


def _show(operator: Operator, tenant: Tenant, state: ApprovalState) -> None:
    """Print an approval and its writes."""
    effects, missing = _effects(operator, tenant, state)
    if operator.json:
        writes, events = effects if effects is not None else (None, None)
        write_json({**with_tenant(tenant.slug, state), "writes": writes, "events": events})
        return
    _write_state(tenant.slug, state)
    if effects is not None:
        write("  approving writes:")
        write_effects(*effects, state.omitted)
    elif missing is not None:
        write(*wrap(escape(f"the writes are not shown: {missing}"), 2))


def _effects(
    operator: Operator, tenant: Tenant, state: ApprovalState
) -> tuple[tuple[Iterable[Write], Iterable[PreviewedEvent]] | None, str | None]:
    """Return the writes and events that approving makes, or the reason why they are missing."""
    if state.writes is not None:
        return (state.writes, state.events or ()), None
    if state.status != "pending":
        return None, None
    if not operator.is_hosts_engine:
        return None, "they need the host's engine, --engine module:attribute"
    result = operator.preview(tenant, "approvals.approve", {"approval_id": state.id, "comment": operator.reason})
    if isinstance(result, Failure):
        return None, result.failure().message
    preview = result.unwrap()
    # The record of the decision itself is no effect of the action.
    writes = [each for each in preview.writes if each.target != APPROVALS]
    return (writes, [each for each in preview.events if each.type != "approvals.approve"]), None


@governed(approvals, "approve", "approvals approve $ID --tenant acme --engine app:engine")
def approve(operator: Operator, id: Id, yes: Yes = False) -> None:
    """Approve: the original action is executed, as its requester. It needs the host's engine, which has that action.

    On a terminal, the writes are shown first, and you confirm them. --reason is the comment.
    """
    if not operator.is_hosts_engine:
        fail(
            "approving executes the original action, which only the host's engine has: give --engine module:attribute",
            ExitCode.USAGE,
        )
    tenant = operator.only_tenant()
    if not (yes or operator.json) and is_terminal():
        _show(operator, tenant, operator.do(tenant, "approvals.get", {"approval_id": id}))
        typer.confirm("approve it?", abort=True, err=True)
    operator.do(tenant, "approvals.approve", {"approval_id": id, "comment": operator.reason})
    # The result as the log has it, masked: a terminal is no place for secrets.
    state: ApprovalState = operator.do(tenant, "approvals.get", {"approval_id": id})
    if operator.json:
        write_json(with_tenant(tenant.slug, state))
        return
    write(f"approved {escape(state.action)}, as {escape(operator.actor)}")
    if state.further_approval_id is not None:
        write_block("it waits for a further approval:", (state.further_approval_id,))
    else:
        write_block("the result:", (compact(state.result),))


@governed(approvals, "reject", "approvals reject $ID --tenant acme --reason 'not this month'")
def reject(operator: Operator, id: Id) -> None:
    """Reject: the original action is not executed. --reason is the comment."""
    tenant = operator.only_tenant()
    if not operator.is_hosts_engine:
        state = operator.do(tenant, "approvals.get", {"approval_id": id})
        if str(state.requested_by).startswith("workflow:"):
            fail(
                "a run of a workflow waits for this approval: give the host's engine, as --engine module:attribute",
                ExitCode.USAGE,
            )
    rejected = operator.do(tenant, "approvals.reject", {"approval_id": id, "comment": operator.reason})
    if operator.json:
        write_json(with_tenant(tenant.slug, rejected))
    else:
        write(f"rejected {escape(rejected.action)}, as {escape(operator.actor)}")


def is_terminal() -> bool:
    """Return whether a person can answer."""
    return sys.stdin.isatty()


def _details(approval: Approval) -> list[str]:
    details = [
        f"id {approval.id}",
        f"asked by {' for '.join((approval.requested_by or 'no actor', *approval.on_behalf_of))}, "
        f"{age(approval.created_at)}",
    ]
    if approval.reason is not None:
        details.append(f"reason: {approval.reason}")
    if approval.status == "pending":
        details.append(f"needs {approval.permission}; expires {age(approval.expires_at)}")
    if approval.decided_by is not None and approval.decided_at is not None:
        details.append(f"{approval.status} by {approval.decided_by}, {age(approval.decided_at)}")
    if approval.comment is not None:
        details.append(f"comment: {approval.comment}")
    return details


def _title(tenant: str, approval: Approval) -> str:
    return f"{iso(approval.created_at)}  {approval.action}  {approval.status}  {tenant}"


def _write_approval(tenant: str, approval: Approval) -> None:
    write_block(_title(tenant, approval), _details(approval))


def _write_state(tenant: str, state: ApprovalState) -> None:
    details = [*_details(state), f"expires at {iso(state.expires_at)}", f"input: {compact(state.input)}"]
    if state.action_id is not None:
        details.append(f"executed as {state.action_id}; result: {compact(state.result)}")
    if state.further_approval_id is not None:
        details.append(f"waits for the further approval {state.further_approval_id}")
    if state.failure is not None:
        details.append(f"failed {age(state.failure.failed_at)}: {state.failure.code}: {state.failure.message}")
    write_block(_title(tenant, state), details)


def write_effects(writes: Iterable[Write], events: Iterable[PreviewedEvent], omitted: int) -> None:
    """Print writes and events, and the number of those that are left out."""
    for each in writes:
        write_block(f"{each.kind} {each.target} {each.id or ''}".rstrip(), _sides(each), 2)
    for event in events:
        write_block(f"event {event.type} {event.subject or ''}".rstrip(), (compact(event.payload),), 2)
    if omitted:
        write(f"  and {omitted} more")


def _sides(each: Write) -> list[str]:
    if isinstance(each.before, dict) and isinstance(each.after, dict):
        names = [name for name in {**each.before, **each.after} if each.before.get(name) != each.after.get(name)]
        return [f"{name}: {compact(each.before.get(name))} -> {compact(each.after.get(name))}" for name in names]
    sides: list[tuple[str, Any]] = [("-", each.before), ("+", each.after), ("with", each.parameters)]
    shown = [f"{sign} {compact(value)}" for sign, value in sides if value is not None]
    return [*([each.statement] if each.statement is not None else []), *shown]
