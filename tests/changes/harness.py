"""The harness of change control: an engine with its services and a host's, and a method for each step of a test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from returns.result import Result, Success

from actionengine import (
    ActionContext,
    ActionError,
    ApprovalPolicy,
    Storage,
    Tenant,
    create_action,
    create_service,
)
from actionengine.changes import ChangeControlPermissions, ProjectModules, change_control_services
from actionengine.testing import Backend
from tests.harness import Harness as BaseHarness
from tests.harness import expect, keep_document, remove_document, run_steps

Op = tuple[str, dict[str, Any]]
Dump = dict[str, dict[str, dict[str, Any]]]
"""Tables, by name: rows, by key: values, by column."""
ReadTables = Callable[[Sequence[Tenant]], Dump]

LOG = {"ae_action_log", "ae_action_log_subjects", "ae_action_log_principals", "ae_action_log_words"}


WAYS: Mapping[str, Sequence[str]] = {
    "Draft": (),
    "Implementing": ("Implementing",),
    "WorkspaceRunning": ("Implementing", "WorkspaceRunning"),
    "Validating": ("Validating",),
    "ValidationFailed": ("Validating", "ValidationFailed"),
    "Ready": ("Validating", "Ready"),
    "Merged": ("Validating", "Ready", "Merged"),
}
"""The transitions from a draft to each state."""


# Ops


def add(key: str, field: str, type: str = "string", **more: Any) -> Op:
    """Return an op that adds a field; `before` and `override` go to the op, other options to the definition."""
    return "add_field", _defining(key, field, type, more)


def put(key: str, field: str, type: str = "string", **more: Any) -> Op:
    """Return an op that redefines a field."""
    return "set_field", _defining(key, field, type, more)


def remove(key: str, field: str) -> Op:
    return "remove_field", {"record_type": key, "field": field}


def rename(key: str, old_name: str, new_name: str) -> Op:
    return "rename_field", {"record_type": key, "old_name": old_name, "new_name": new_name}


def edit_file(path: str = "main.py") -> Op:
    diff = f"--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n-one\n+two\n"
    return "edit_file", {"file_path": path, "diff": diff}


def _defining(key: str, field: str, type: str, more: dict[str, Any]) -> dict[str, Any]:
    placing: dict[str, Any] = {name: more.pop(name) for name in ("before", "override") if name in more}
    return {"record_type": key, "field": field, "definition": {"type": type, **more}, **placing}


def schema(**fields: str) -> dict[str, Any]:
    """Return a schema from `name="type"`, or `name="type!"` for a required field."""
    return {
        "fields": [
            {"name": name, "type": type.removesuffix("!"), "required": type.endswith("!")}
            for name, type in fields.items()
        ]
    }


# A host's actions


def _read(data: dict[str, Any], ctx: ActionContext) -> Result[Any, Any]:
    record = ctx.records(data["type"]).get(data["id"])
    return Success(record and record.data)


host = create_service(
    name="host",
    description="A host's own actions",
    actions=[
        create_action(name="keep", description="Insert a document, or update it", handler=keep_document),
        create_action(name="read", description="Read a document", handler=_read, read_only=True),
        create_action(name="remove", description="Delete a document", handler=remove_document),
        create_action(name="run", description="Execute other actions", handler=run_steps),
        create_action(
            name="run_approved",
            description="Execute other actions, once somebody else has agreed",
            handler=run_steps,
            approval=ApprovalPolicy(when=lambda data, ctx: True, permission="host.approve"),
        ),
    ],
)


class Harness(BaseHarness):
    """An engine with change control. Each method returns the value, or the `ActionError`."""

    def __init__(
        self,
        backend: Backend,
        read_tables: ReadTables,
        *,
        permissions: ChangeControlPermissions | None = None,
        merge_approval: ApprovalPolicy | None = None,
        storage: Storage | None = None,
        address: str | None = None,
        modules: ProjectModules | None = None,
        workspaces: Path | None = None,
    ) -> None:
        self.address = address
        """The path or URL of the database; None in memory."""
        self._read_tables = read_tables
        self._targets: dict[tuple[str, str], str] = {}
        control = change_control_services(
            permissions=permissions,
            open=permissions is None,
            merge_approval=merge_approval,
            modules=modules,
            workspaces=workspaces,
        )
        super().__init__(backend, [*control, host], storage=storage)

    def another(self, **options: Any) -> Harness:
        """Return a harness with another engine on the same storage."""
        return Harness(self.backend, self._read_tables, address=self.address, **options)

    # Actions

    async def project(self, name: str | None = None, *, require_review: bool = False, **who: Any) -> Any:
        payload = {"name": name or f"project {uuid4().hex}", "require_review": require_review}
        return await self.ask("projects.create", payload, **who)

    async def type(
        self,
        project: Any,
        key: str,
        fields: dict[str, Any] | None = None,
        *,
        base: str | None = None,
        name: str | None = None,
        active: bool = False,
        **who: Any,
    ) -> Any:
        """Create a record type; `fields` comes from `schema`."""
        payload = {"project_id": project.id, "key": key, "base_type": base, "name": name, "schema": fields or schema()}
        made = await self.ask("record_types.create", payload, **who)
        if active and not isinstance(made, ActionError):
            return await self.ask("record_types.activate", {"project_id": project.id, "key": key}, **who)
        return made

    async def job(self, fields: dict[str, Any] | None = None, **options: Any) -> Any:
        """Create a project with an active record type `job`."""
        project = await self.project(require_review=options.pop("require_review", False))
        fields = fields or schema(title="string!", hours="number")
        expect(await self.type(project, "job", fields, active=True, **options))
        return project

    async def change(self, project: Any, *ops: Op, **who: Any) -> Any:
        """Create a draft with these ops, all of which must be accepted."""
        made = await self.ask("changes.create", {"project_id": project.id, "title": "a change"}, **who)
        for op in ops:
            expect(await self.op(made, op, **who))
        return made

    async def target(self, change: Any, key: str, type: str = "record_type", **who: Any) -> Any:
        named = "file_path" if type == "file" else f"{type}_key"
        payload = {"change_id": change.id, "type": type, "selector": {named: key}}
        return await self.ask("changes.add_target", payload, **who)

    async def op(self, change: Any, op: Op, target: Any = None, **who: Any) -> Any:
        """Add an op; by default to the target of its record type or file, which is added if it is missing."""
        op_type, said = op
        if target is None:
            named: str = said["record_type"] if "record_type" in said else said["file_path"]
            if (change.id, named) not in self._targets:
                kind = "record_type" if "record_type" in said else "file"
                self._targets[change.id, named] = expect(await self.target(change, named, kind, **who)).id
            target_id = self._targets[change.id, named]
        else:
            target_id = target.id
        payload = {"change_id": change.id, "target_id": target_id, "op_type": op_type, "payload": said}
        return await self.ask("changes.add_patch_op", payload, **who)

    async def delete_op(self, change: Any, op: Any, **who: Any) -> Any:
        return await self.ask("changes.delete_patch_op", {"change_id": change.id, "op_id": op.id}, **who)

    async def move(self, change: Any, *statuses: str, **who: Any) -> Any:
        """Move a change through these states; return the last answer."""
        came_of_it = None
        for status in statuses:
            came_of_it = await self.ask("changes.transition", {"change_id": change.id, "status": status}, **who)
        return came_of_it

    async def preview(self, change: Any, **who: Any) -> Any:
        return await self.ask("changes.preview", {"change_id": change.id}, **who)

    async def execute_change(self, change: Any, **who: Any) -> Any:
        return await self.ask("changes.execute", {"change_id": change.id}, **who)

    async def merge(self, change: Any, **who: Any) -> Any:
        return await self.ask("changes.merge", {"change_id": change.id}, **who)

    async def merged(self, project: Any, *ops: Op) -> Any:
        """Merge a change with these ops."""
        return expect(await self.merge(await self.change(project, *ops)))

    async def keep(self, type: str, document: Any, id: str | None = None, **more: Any) -> Any:
        """Insert a document of a record type."""
        who = {name: more.pop(name) for name in ("by", "tenant") if name in more}
        given = {"id": id} if id is not None else {}
        return await self.ask("host.keep", {"type": type, "document": document, **given, **more}, **who)

    async def run(self, *steps: tuple[str, Any], fails: bool = False, **who: Any) -> Any:
        """Execute a host's action that executes others; return the outcome of each: its error code, or `succeeded`."""
        return await self.ask("host.run", {"steps": [list(step) for step in steps], "fails": fails}, **who)

    # Reads

    async def status(self, change: Any) -> str:
        status: str = expect(await self.ask("changes.get", {"change_id": change.id})).status
        return status

    async def get_type(self, project: Any, key: str = "job", **who: Any) -> Any:
        return await self.ask("record_types.get", {"project_id": project.id, "key": key}, **who)

    async def names(self, project: Any, key: str = "job") -> list[str]:
        """Return the names of a type's fields."""
        return [field["name"] for field in expect(await self.get_type(project, key)).schema["fields"]]

    async def ops(self, change: Any) -> Any:
        return await self.ask("changes.list_patch_ops", {"change_id": change.id})

    async def snapshots(self, change: Any) -> Any:
        return await self.ask("changes.list_snapshots", {"change_id": change.id})

    async def history(self, project: Any, key: str = "job") -> Any:
        return await self.ask("record_types.verify_history", {"project_id": project.id, "key": key})

    def dump(self) -> Dump:
        """Return all rows of both tenants in all tables."""
        return self._read_tables([self.backend.tenant, self.backend.other_tenant])


def fields_of(error: ActionError) -> list[str]:
    """Return the fields that an error names."""
    return [each["path"] for each in error.details["fields"]]


def differences(before: Dump, after: Dump) -> dict[str, list[set[str]]]:
    """Return for each table that differs the columns of each differing row; all columns of a new or deleted row."""
    found: dict[str, list[set[str]]] = {}
    for table in sorted({*before, *after}):
        old, new = before.get(table, {}), after.get(table, {})
        for key in sorted({*old, *new}):
            one, other = old.get(key, {}), new.get(key, {})
            if columns := {name for name in {*one, *other} if one.get(name) != other.get(name)}:
                found.setdefault(table, []).append(columns)
    return found


def besides_the_log(before: Dump, after: Dump) -> dict[str, list[set[str]]]:
    """Return the differences without the new rows of the action log."""
    return {table: rows for table, rows in differences(before, after).items() if table not in LOG}


def rows_of(table: str, columns: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the key of a row, and the row."""
    row = dict(columns)
    key = {"ae_snapshots": ("change_id", "record_type_key"), "ae_outbox": ("position",)}.get(table, ("id",))
    if not set(key) <= set(row):
        key = tuple(row)
    return " ".join(str(row[name]) for name in key), row
