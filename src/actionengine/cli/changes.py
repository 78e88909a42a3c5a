"""`actionengine changes ...`: the changes of record types and files, with their diffs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, get_args

import typer

from actionengine.boundary.files.unified_diff import changed_lines
from actionengine.changes.diff import TypeDiff, diff_schemas
from actionengine.changes.models import Change, FileDiff, Preview, StoredPatchOp
from actionengine.changes.ops import PatchOp
from actionengine.changes.states import ChangeStatus
from actionengine.cli.governed import governed
from actionengine.cli.operator import Operator
from actionengine.cli.output import compact, with_tenant, write_json, write_listing
from actionengine.cli.terminal import age, escape, iso, wrap, write, write_block
from actionengine.context import Tenant
from actionengine.schemas.schema import Schema

changes = typer.Typer(no_args_is_help=True, help="Changes of record types and files.")

STATUSES = ", ".join(get_args(ChangeStatus))
Id = Annotated[str, typer.Argument(help="The id of the change.")]
_PAGE = 1000


@changes.callback()
def commands() -> None:
    """Read changes."""


@governed(changes, "list", "changes list --status Ready", "changes list --tenant acme --json")
def list_changes(
    operator: Operator,
    status: Annotated[str | None, typer.Option(help=f"Only of this status: {STATUSES}.")] = None,
    project: Annotated[str | None, typer.Option(help="Only of the project with this id.")] = None,
    after: Annotated[str | None, typer.Option(help="Only changes after the one with this id.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The most changes to list.")] = 50,
) -> None:
    """List changes, the oldest first, of one tenant or of all."""
    asked = {"status": status, "project_id": project}
    listing = operator.list_items("changes.list", asked, limit=limit, cursor=after, newest_first=False)
    write_listing(operator, listing, _write_change, "there are no changes", "--after")


@governed(changes, "show", "changes show $ID --tenant acme")
def show(operator: Operator, id: Id) -> None:
    """Show one change with its targets and edits."""
    tenant, change = operator.find("changes.get", {"change_id": id})
    targets = list(_pages(operator, tenant, "changes.list_targets", id, "id"))
    ops = list(_pages(operator, tenant, "changes.list_patch_ops", id, "position"))
    if operator.json:
        write_json({**with_tenant(tenant.slug, change), "targets": targets, "ops": ops})
        return
    _write_change(tenant.slug, change)
    for target in targets:
        write(*wrap(escape(f"target {target.type} {compact(target.selector)}"), 2))
    for op in ops:
        state = "pending" if op.executed_at is None else f"executed {age(op.executed_at)}"
        write_block(f"{op.position} {op.op_type}  {state}", (f"id {op.id}", compact(op.payload)), 2)


@governed(changes, "diff", "changes diff $ID --tenant acme", "changes diff $ID --json")
def diff(operator: Operator, id: Id) -> None:
    """Show the effect of a change on record types and files: of its pending edits, or of the executed ones."""
    tenant, change = operator.find("changes.get", {"change_id": id})
    ops = list(_pages(operator, tenant, "changes.list_patch_ops", id, "position"))
    if any(op.executed_at is None for op in ops):
        preview = operator.do(tenant, "changes.preview", {"change_id": id})
    else:
        preview = _executed(operator, tenant, change, ops)
    if operator.json:
        write_json(with_tenant(tenant.slug, preview))
        return
    for each in preview.diff:
        _write_type(each)
    for file in preview.files:
        # These lines are for `patch` too, so they are not wrapped.
        write(*map(escape, file.diff.splitlines()))
    if not preview.diff and not preview.files:
        write("the change has no effect")
    for check in preview.documents:
        if check.invalid:
            ids = (f"document {each.id}" for each in check.invalid)
            write_block(f"documents of {check.record_type_key} that would no longer fit:", ids)


def _executed(operator: Operator, tenant: Tenant, change: Change, ops: list[StoredPatchOp]) -> Preview:
    """Return the effect of an executed change, from its snapshots and its edits."""
    edits = [PatchOp(op.op_type, op.payload, op.id) for op in ops]
    diffs = []
    for snapshot in _pages(operator, tenant, "changes.list_snapshots", change.id, "record_type_key"):
        key = snapshot.record_type_key
        asked = {"project_id": change.project_id, "key": key, "change_id": change.id}
        after = operator.do(tenant, "record_types.schema_at", asked)
        before, now = (Schema.from_document(each.schema) for each in (snapshot, after))
        diffs.append(diff_schemas(key, snapshot.version, before, now, edits))
    return Preview(
        change_id=change.id,
        op_count=len(ops),
        diff=tuple(diffs),
        documents=(),
        files=tuple(_file_diff(op.payload) for op in ops if op.op_type == "edit_file"),
    )


def _file_diff(payload: dict[str, Any]) -> FileDiff:
    added, removed = changed_lines(payload["diff"])
    return FileDiff(path=payload["file_path"], diff=payload["diff"], added=added, removed=removed)


def _pages(operator: Operator, tenant: Tenant, action: str, change_id: str, key: str) -> Iterator[Any]:
    """Yield all items that an action lists of a change."""
    after = None
    while True:
        page = operator.do(tenant, action, {"change_id": change_id, "after": after, "limit": _PAGE})
        yield from page
        if not page:
            return
        after = getattr(page[-1], key)


def _write_change(tenant: str, change: Change) -> None:
    details = [f"id {change.id}", f"project {change.project_id}", f"updated {age(change.updated_at)}"]
    if change.description:
        details.append(f"reason: {change.description}")
    if change.compensates is not None:
        details.append(f"takes back the change {change.compensates}")
    if change.merged_at is not None:
        details.append(f"merged at {iso(change.merged_at)}")
    write_block(f"{iso(change.created_at)}  {change.title}  {change.status}  {tenant}", details)


def _write_type(diff: TypeDiff) -> None:
    moved = [f"> {name} is moved" for name in diff.moved]
    renamed = [f"~ {each.old_name} is renamed to {each.new_name}" for each in diff.renamed]
    removed = [f"- {compact(field)}" for field in diff.removed]
    added = [f"+ {compact(field)}" for field in diff.added]
    changed = [
        f"{sign} {compact(field)}" for each in diff.changed for sign, field in (("-", each.before), ("+", each.after))
    ]
    title = f"record type {diff.record_type_key}, version {diff.from_version} to {diff.to_version}"
    write_block(title, [*renamed, *removed, *added, *changed, *moved])
