"""A model of change control in plain dictionaries and lists, written from the contract and not from the library.

Ids are numbers here. Each method does what an action does, or raises `Refused` with the code of its error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

Fields = list[dict[str, Any]]
"""The fields of a record type, in their order: each has a name, a type, and whether it is required."""

Op = dict[str, Any]
"""An op: `op_type` and `payload`."""

Thing = dict[str, Any]

NEXT = {
    "Draft": {"Implementing", "Validating"},
    "Implementing": {"WorkspaceRunning", "Validating", "Draft"},
    "WorkspaceRunning": {"Validating", "Implementing"},
    "Validating": {"Ready", "ValidationFailed"},
    "ValidationFailed": {"Implementing", "Validating"},
    "Ready": {"ValidationFailed"},
    "Merged": set(),
}
EDITABLE = {"Draft", "Implementing", "WorkspaceRunning", "ValidationFailed"}


class Refused(Exception):
    """The action fails, with this code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def named(fields: Fields, name: str) -> dict[str, Any] | None:
    return next((field for field in fields if field["name"] == name), None)


def touched(op: Op) -> set[str]:
    """Return the field names of an op."""
    payload = op["payload"]
    return {payload[part] for part in ("field", "old_name", "new_name") if part in payload}


def field_of(op: Op) -> str | None:
    name: str | None = op["payload"].get("field") or op["payload"].get("old_name")
    return name


def given_by(op: Op) -> str | None:
    name: str | None = op["payload"]["field"] if op["op_type"] == "add_field" else op["payload"].get("new_name")
    return name


def edited(fields: Fields, op: Op) -> Fields:
    """Return fields with an op applied. Raises `Refused` if it cannot be applied."""
    kind, payload = op["op_type"], op["payload"]
    fields = deepcopy(fields)
    old = named(fields, field_of(op) or "")
    if kind != "add_field" and old is None:
        raise Refused("unprocessable")
    if (new_name := given_by(op)) is not None and named(fields, new_name) is not None:
        raise Refused("unprocessable")
    if kind == "remove_field":
        fields.remove(old or {})
    elif kind == "rename_field":
        assert old is not None
        old["name"] = payload["new_name"]
    else:
        new = {"required": False, **payload["definition"], "name": payload["field"]}
        before = payload.get("before")
        if before is not None and named(fields, before) is None:
            raise Refused("unprocessable")
        if before is None:
            place = len(fields) if old is None else fields.index(old)
        if old is not None:
            fields.remove(old)
        if before is not None:
            place = next(number for number, field in enumerate(fields) if field["name"] == before)
        fields.insert(place, new)
    return fields


class Model:
    """One tenant."""

    def __init__(self) -> None:
        self.projects: dict[int, Thing] = {}
        self.types: dict[tuple[int, str], Thing] = {}
        self.changes: dict[int, Thing] = {}
        self.targets: dict[int, Thing] = {}
        self.ops: dict[int, Thing] = {}
        self.snapshots: dict[tuple[int, str], Thing] = {}
        self._ids = iter(range(1, 10**9))

    def new_id(self) -> int:
        return next(self._ids)

    # Actions

    def create_project(self, require_review: bool) -> int:
        id = self.new_id()
        self.projects[id] = {"require_review": require_review, "events": 0}
        return id

    def create_type(self, project: int, key: str, base: str | None, fields: Fields) -> None:
        if project not in self.projects:
            raise Refused("not_found")
        if (project, key) in self.types:
            raise Refused("conflict")
        if base == key:
            raise Refused("unprocessable")
        if base is not None and (project, base) not in self.types:
            raise Refused("not_found")
        self.types[project, key] = {
            "base": base,
            "fields": fields,
            "initial": fields,
            "version": 1,
            "status": "draft",
            "changed_by": None,
        }
        if self.is_weakened(project, self.schemas(project)):
            del self.types[project, key]
            raise Refused("unprocessable")
        self.projects[project]["events"] += 1

    def set_type_status(self, project: int, key: str, status: str) -> None:
        if (project, key) not in self.types:
            raise Refused("not_found")
        others = [each for (its, other), each in self.types.items() if other == key and its != project]
        if status == "active" and any(other["status"] == "active" for other in others):
            raise Refused("conflict")
        self.types[project, key]["status"] = status

    def create_change(self, project: int) -> int:
        if project not in self.projects:
            raise Refused("not_found")
        id = self.new_id()
        self.changes[id] = {
            "project": project,
            "status": "Draft",
            "compensates": None,
            "op_count": 0,
            # The numbers of the project's events that were executions of this change.
            "executions": [],
        }
        return id

    def add_target(self, change: int, type: str, name: str) -> int:
        row = self.change(change)
        if row["status"] != "Draft":
            raise Refused("conflict")
        if type == "record_type" and (row["project"], name) not in self.types:
            raise Refused("not_found")
        id = self.new_id()
        self.targets[id] = {"change": change, "type": type, "name": name}
        return id

    def add_op(self, change: int, target: int, op: Op) -> int:
        row = self.change(change)
        if row["status"] not in EDITABLE:
            raise Refused("conflict")
        if self.targets.get(target, {}).get("change") != change:
            raise Refused("not_found")
        key = op["payload"].get("record_type")
        if key is not None and (row["project"], key) not in self.types:
            raise Refused("not_found")
        kind, name = ("record_type", key) if key is not None else ("file", op["payload"]["file_path"])
        if (self.targets[target]["type"], self.targets[target]["name"]) != (kind, name):
            raise Refused("unprocessable")
        for other in self.pending(change):
            if other["payload"].get("record_type") == key is not None and (
                field_of(other) == field_of(op) or (given_by(op) is not None and given_by(other) == given_by(op))
            ):
                raise Refused("conflict")
        return self.put_op(change, target, op)

    def put_op(self, change: int, target: int, op: Op) -> int:
        id = self.new_id()
        row = self.change(change)
        row["op_count"] += 1
        key = op["payload"].get("record_type")
        self.ops[id] = {
            **op,
            "change": change,
            "target": target,
            "position": row["op_count"],
            "seen": self.types[row["project"], key]["version"] if key is not None else None,
            "before": None,
            "applied": None,
        }
        return id

    def delete_op(self, change: int, op: int) -> None:
        row = self.change(change)
        if self.ops.get(op, {}).get("change") != change:
            raise Refused("not_found")
        if self.ops[op]["applied"] is not None or row["status"] not in EDITABLE:
            raise Refused("conflict")
        del self.ops[op]

    def transition(self, change: int, status: str, is_ai: bool) -> None:
        if is_ai and status in {"Ready", "Merged"}:
            raise Refused("forbidden")
        if status == "Merged":
            self.merge(change, is_ai)
            return
        row = self.change(change)
        if row["status"] != status and status not in NEXT[row["status"]]:
            raise Refused("conflict")
        row["status"] = status

    def preview(self, change: int) -> int:
        """Return the number of ops that an execution would apply."""
        self.change(change)
        return len(self.outcome(change)[1])

    def execute(self, change: int, is_ai: bool) -> int:
        """Return the number of applied ops."""
        if is_ai:
            raise Refused("forbidden")
        row = self.change(change)
        if row["status"] == "Merged":
            raise Refused("conflict")
        if self.projects[row["project"]]["require_review"] and row["status"] != "Ready":
            raise Refused("conflict")
        return self.apply(change)

    def merge(self, change: int, is_ai: bool) -> int:
        """Return the number of applied ops."""
        if is_ai:
            raise Refused("forbidden")
        row = self.change(change)
        if row["status"] == "Merged":
            return 0
        needs_review = self.projects[row["project"]]["require_review"]
        if row["status"] != "Ready" and (needs_review or row["status"] != "Draft"):
            raise Refused("conflict")
        try:
            applied = self.apply(change)
        except Refused:
            row["status"] = "ValidationFailed"
            raise
        row["status"] = "Merged"
        return applied

    def can_surely_be_compensated(self, change: int) -> bool:
        """Return whether the project has not changed since."""
        row = self.change(change)
        executions = row["executions"]
        last = self.projects[row["project"]]["events"]
        return bool(executions) and executions == list(range(last - len(executions) + 1, last + 1))

    def has_executed(self, change: int) -> bool:
        return any(op["change"] == change and op["applied"] is not None for op in self.ops.values())

    # Helpers

    def change(self, id: int) -> Thing:
        if id not in self.changes:
            raise Refused("not_found")
        return self.changes[id]

    def pending(self, change: int) -> list[Thing]:
        found = [op for op in self.ops.values() if op["change"] == change and op["applied"] is None]
        return sorted(found, key=lambda op: op["position"])

    def schemas(self, project: int) -> dict[str, Fields]:
        return {key: each["fields"] for (its, key), each in self.types.items() if its == project}

    def above(self, project: int, key: str) -> Iterator[str]:
        base = self.types[project, key]["base"]
        while base is not None:
            yield base
            base = self.types[project, base]["base"]

    def is_weakened(self, project: int, schemas: Mapping[str, Fields]) -> bool:
        """Return whether a type has a field as optional that one of its base types requires (E7)."""
        return any(
            not field["required"] and (inherited := named(schemas[base], field["name"])) and inherited["required"]
            for key, fields in schemas.items()
            for base in self.above(project, key)
            for field in fields
        )

    def outcome(self, change: int) -> tuple[dict[str, Fields], list[tuple[Thing, Fields]]]:
        """Return the schemas after the pending ops, and each op with the fields before it."""
        project = self.changes[change]["project"]
        pending = self.pending(change)
        for op in pending:
            for other in self.ops.values():
                if (
                    other["change"] != change
                    and self.changes[other["change"]]["project"] == project
                    and other["payload"].get("record_type") == op["payload"].get("record_type")
                    and other["applied"] is not None
                    and other["applied"] > op["seen"]
                    and touched(op) & touched(other)
                ):
                    raise Refused("conflict")
        schemas = self.schemas(project)
        steps: list[tuple[Thing, Fields]] = []
        for op in pending:
            key = op["payload"].get("record_type")
            if key is None:
                raise Refused("unprocessable")
            self.check_inherited(project, key, op, schemas)
            steps.append((op, schemas[key]))
            schemas = {**schemas, key: edited(schemas[key], op)}
            if self.is_weakened(project, schemas):
                raise Refused("unprocessable")
        return schemas, steps

    def check_inherited(self, project: int, key: str, op: Op, schemas: Mapping[str, Fields]) -> None:
        new_name = given_by(op)
        for base in self.above(project, key):
            field = named(schemas[base], field_of(op) or "")
            if op["op_type"] in {"remove_field", "rename_field"} and field is not None and field["required"]:
                raise Refused("unprocessable")
            hidden = named(schemas[base], new_name or "")
            if hidden is not None and (hidden["required"] or not op["payload"].get("override")):
                raise Refused("unprocessable")

    def apply(self, change: int) -> int:
        schemas, steps = self.outcome(change)
        row = self.changes[change]
        project = row["project"]
        for key in {op["payload"]["record_type"] for op, _ in steps}:
            type = self.types[project, key]
            self.snapshots.setdefault((change, key), {"version": type["version"], "fields": type["fields"]})
            type.update(fields=schemas[key], version=type["version"] + 1, changed_by=change)
        for op, before in steps:
            op.update(before=before, applied=self.types[project, op["payload"]["record_type"]]["version"])
        if steps:
            self.projects[project]["events"] += 1
            row["executions"].append(self.projects[project]["events"])
        return len(steps)
