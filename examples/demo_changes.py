"""The third part of the demo's story: the record type of jobs changes. An agent drafts it, and people decide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table

from actionengine import Actor, Tenant
from actionengine.changes import Change, DocumentCheck, Preview, TypeDiff
from examples.short import short_ids

if TYPE_CHECKING:
    from examples.demo import Story

CARLA, MARIA, MAX, BOT = Actor.human("carla"), Actor.human("maria"), Actor.human("max"), Actor.ai("helper-bot")
URGENCY = {"type": "choice", "choices": ["today", "this week", "whenever"]}


def tell_of_changes(story: Story, tenant: Tenant, job_id: str) -> None:
    """Tell the draft, its preview, the merge, and the history."""
    change_id = _draft(story, tenant, job_id)
    _decision(story, tenant, job_id, change_id)
    _way_back(story, tenant, change_id)


def _draft(story: Story, tenant: Tenant, job_id: str) -> str:
    story.chapter("The tenant defines the fields of a job, and an agent drafts a change")
    details = {"parking": "in the yard", "floor": 3}
    story.execute(tenant, CARLA, "jobs.set_details", {"job_id": job_id, "details": details})
    story.execute(tenant, CARLA, "jobs.set_details", {"job_id": job_id, "details": {**details, "urgency": "today"}})
    project = story.execute(tenant, BOT, "projects.list", {}, show=_names).unwrap()[0]
    draft = {"project_id": project.id, "title": "How urgent is it?"}
    change_id: str = story.execute(tenant, BOT, "changes.create", draft, show=_status).unwrap().id
    target = {"change_id": change_id, "type": "record_type", "selector": {"record_type_key": "job"}}
    target_id = story.execute(tenant, BOT, "changes.add_target", target, show=_id).unwrap().id

    def add(op_type: str, field: str, definition: Mapping[str, Any]) -> str:
        payload = {"record_type": "job", "field": field, "definition": definition}
        op = {"change_id": change_id, "target_id": target_id, "op_type": op_type, "payload": payload}
        return str(story.execute(tenant, BOT, "changes.add_patch_op", op, show=_id).unwrap().id)

    add("set_field", "parking", {"type": "text", "help": "street, yard, or a number to call"})
    hasty = add("add_field", "urgency", {**URGENCY, "required": True})
    _preview(story, tenant, change_id)
    story.line("[dim]nothing is written yet, and an existing job would no longer fit, so:[/]")
    story.execute(tenant, BOT, "changes.delete_patch_op", {"change_id": change_id, "op_id": hasty}, show=_id)
    add("add_field", "urgency", URGENCY)
    _preview(story, tenant, change_id)
    return change_id


def _decision(story: Story, tenant: Tenant, job_id: str, change_id: str) -> None:
    story.chapter("A person decides")
    _move(story, tenant, BOT, change_id, "Validating")
    _move(story, tenant, BOT, change_id, "Ready")
    story.execute(tenant, BOT, "changes.merge", {"change_id": change_id})
    _move(story, tenant, MARIA, change_id, "Ready")
    story.execute(tenant, MARIA, "changes.merge", {"change_id": change_id}, reason="the office asked", show=_status)
    for urgency in ("yesterday", "today"):
        details = {"parking": "in the yard", "floor": 3, "urgency": urgency}
        story.execute(tenant, CARLA, "jobs.set_details", {"job_id": job_id, "details": details})


def _way_back(story: Story, tenant: Tenant, change_id: str) -> None:
    story.chapter("The way back is a change too, and removing a field needs two managers")
    _move(story, tenant, MARIA, change_id, "Draft")
    back: Change = story.execute(
        tenant, BOT, "changes.plan_compensation", {"change_id": change_id}, show=lambda change: change.title
    ).unwrap()
    _preview(story, tenant, back.id)
    _move(story, tenant, BOT, back.id, "Validating")
    _move(story, tenant, MARIA, back.id, "Ready")
    asked = story.execute(tenant, MARIA, "changes.merge", {"change_id": back.id})
    rejection = {"approval_id": asked.failure().details["approval_id"], "comment": "we have just begun to use it"}
    story.execute(tenant, MAX, "approvals.reject", rejection, show=lambda approval: approval.status)
    job = {"project_id": back.project_id, "key": "job"}
    at = {**job, "change_id": change_id}
    story.execute(tenant, CARLA, "record_types.schema_at", at, show=lambda then: _fields(then.schema))
    story.execute(tenant, CARLA, "record_types.verify_history", job)


def _move(story: Story, tenant: Tenant, actor: Actor, change_id: str, status: str) -> None:
    story.execute(tenant, actor, "changes.transition", {"change_id": change_id, "status": status}, show=_status)


def _preview(story: Story, tenant: Tenant, change_id: str) -> None:
    asked = story.execute(tenant, BOT, "changes.preview", {"change_id": change_id}, show=_count)
    story.console.print(preview_table(asked.unwrap()))


def preview_table(preview: Preview) -> Table:
    """Return a table of a change's effects on fields, and of the documents that would no longer fit."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", expand=True, pad_edge=False)
    table.add_column("record type", no_wrap=True)
    table.add_column("field", no_wrap=True)
    table.add_column("before", ratio=2)
    table.add_column("after", ratio=3)
    for diff in preview.diff:
        of = f"{escape(diff.record_type_key)} [dim]{diff.from_version} → {diff.to_version}[/]"
        for row in _rows(diff):
            table.add_row(of, *row)
            of = ""
    for check in preview.documents:
        table.add_section()
        table.add_row(
            f"[dim]{escape(check.record_type_key)} documents[/]", "", f"[dim]{check.checked} checked[/]", _fit(check)
        )
    return table


def _rows(diff: TypeDiff) -> Iterator[tuple[str, str, str]]:
    for field in diff.added:
        yield f"[green]+ {escape(str(field['name']))}[/]", "", _definition(field)
    for field in diff.removed:
        yield f"[red]- {escape(str(field['name']))}[/]", _definition(field), ""
    for renamed in diff.renamed:
        yield "[yellow]~[/]", escape(renamed.old_name), escape(renamed.new_name)
    for changed in diff.changed:
        yield f"[yellow]~ {escape(changed.field)}[/]", _definition(changed.before), _definition(changed.after)


def _definition(field: Mapping[str, object]) -> str:
    """Return the definition of a field without its name."""
    rest = {name: value for name, value in field.items() if name not in ("name", "type", "required", "choices")}
    choices = field.get("choices")
    said = [str(field["type"]) + (f": {', '.join(map(str, choices))}" if isinstance(choices, list | tuple) else "")]
    said += ["required"] if field["required"] else []
    said += [f"{name}: {value}" for name, value in rest.items()]
    return escape("; ".join(said))


def _fit(check: DocumentCheck) -> str:
    if not check.invalid:
        return "[green]all of them fit[/]"
    lines = [
        f"[red]{short_ids(misfit.id)}[/] {escape(field)}: {escape(problem)}"
        for misfit in check.invalid
        for field, problem in misfit.problems.items()
    ]
    return "\n".join(lines)


def _count(preview: Preview) -> Any:
    return {"op_count": preview.op_count}


def _id(value: Any) -> Any:
    return {"id": value.id}


def _status(change: Change) -> Any:
    return {"id": change.id, "status": change.status}


def _names(projects: Any) -> list[str]:
    return [project.name for project in projects]


def _fields(schema: Mapping[str, Any]) -> list[str]:
    return [field["name"] for field in schema["fields"]]
