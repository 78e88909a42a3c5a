"""Change control: other record types, changes, and ops of other types should not matter."""

from __future__ import annotations

from itertools import count
from typing import Any, get_args

from actionengine import Actor
from actionengine.changes.models import RecordTypeStatus
from actionengine.changes.states import ChangeStatus
from benchmarks.growth.backends import Backend, id_at, time_of
from benchmarks.growth.operation import Operation

VERSIONS = 8
"""Of the record type that is asked about."""

_ANN = Actor.human("ann")
_NUMBERS = count()


def fill(backend: Backend) -> None:
    """A record type with a short history, and many types, changes and executed ops beside it."""
    project = do(backend, "projects", "create", name="Bench").id
    backend.notes["project"] = project
    for key in ("task", "idle"):
        do(backend, "record_types", "create", project_id=project, key=key, schema={"fields": []})
    changes = [merged(backend, f"field_{number}") for number in range(VERSIONS)]
    backend.notes["change"] = changes[VERSIONS // 2]
    tenant = str(backend.tenant.id)
    record_type = backend.sample("ae_record_types", tenant_id=tenant)
    change = backend.sample("ae_changes", tenant_id=tenant)
    target = backend.sample("ae_change_targets", tenant_id=tenant)
    op = backend.sample("ae_patch_ops", tenant_id=tenant)
    snapshot = backend.sample("ae_snapshots", tenant_id=tenant)
    backend.clone(
        "ae_record_types",
        record_type,
        lambda number: {"id": id_at(number), "key": f"type_{number}", "name": f"Type {number}"},
    )
    other = {**record_type, "key": "task", "status": "retired"}
    backend.clone(
        "ae_record_types",
        other,
        lambda number: {"id": id_at(backend.size + number), "project_id": id_at(number), "name": f"Task {number}"},
    )
    backend.clone("ae_projects", backend.sample("ae_projects"), lambda n: {"id": id_at(n), "name": f"Project {n}"})
    backend.clone("ae_changes", change, lambda number: {"id": id_at(number), "title": f"Change {number}"})
    ready = {**change, "status": "Ready", "merged_at": None, "project_id": id_at(0)}
    backend.clone("ae_changes", ready, lambda number: {"id": id_at(backend.size + number)})
    backend.clone("ae_change_targets", target, lambda number: {"id": id_at(number), "change_id": id_at(number)})
    backend.clone(
        "ae_patch_ops",
        op,
        lambda number: {
            "id": id_at(number),
            "change_id": id_at(number),
            "target_id": id_at(number),
            "record_type_key": f"type_{number % 10}",
            "applied_version": number // 10 + 2,
            "executed_at": time_of(number),
        },
    )
    backend.clone(
        "ae_snapshots",
        snapshot,
        lambda number: {
            "change_id": id_at(number),
            "record_type_key": f"type_{number % 10}",
            "version": number // 10 + 1,
        },
    )


def do(backend: Backend, service: str, action: str, **payload: Any) -> Any:
    """The value of an action that a person executes."""
    return backend.do(service, action, payload, actor=_ANN)


def drafted(backend: Backend, field: str) -> str:
    """A change that adds a field to the type `task`."""
    change = str(do(backend, "changes", "create", project_id=backend.notes["project"], title=field).id)
    do(backend, "changes", "add_target", change_id=change, type="record_type", selector={"record_type_key": "task"})
    payload = {"record_type": "task", "field": field, "definition": {"type": "string"}}
    do(backend, "changes", "add_patch_op", change_id=change, op_type="add_field", payload=payload)
    return change


def merged(backend: Backend, field: str) -> str:
    """Such a change, merged."""
    change = drafted(backend, field)
    do(backend, "changes", "merge", change_id=change)
    return change


def _merge_and_take_back(backend: Backend) -> object:
    back = do(backend, "changes", "plan_compensation", change_id=merged(backend, f"extra_{next(_NUMBERS)}")).id
    return do(backend, "changes", "merge", change_id=back)


def _draft_and_look(backend: Backend) -> object:
    change = drafted(backend, f"field_{next(_NUMBERS)}_more")
    do(backend, "changes", "list_targets", change_id=change)
    (op,) = do(backend, "changes", "list_patch_ops", change_id=change)
    do(backend, "changes", "preview", change_id=change)
    do(backend, "changes", "delete_patch_op", change_id=change, op_id=op.id)
    do(backend, "changes", "transitions", change_id=change)
    return do(backend, "changes", "transition", change_id=change, status="Implementing")


def _execute(backend: Backend) -> object:
    change = drafted(backend, f"field_{next(_NUMBERS)}_executed")
    do(backend, "changes", "execute", change_id=change)
    return do(backend, "changes", "list_snapshots", change_id=change)


def _type(action: str, key: str = "task", **payload: Any) -> Operation:
    def call(backend: Backend) -> object:
        change = {"change_id": backend.notes["change"]} if payload.get("change") else {}
        asked = {name: value for name, value in payload.items() if name != "change"}
        return do(backend, "record_types", action, project_id=backend.notes["project"], key=key, **asked, **change)

    about = ", a change" if payload.get("change") else ", a time" if payload.get("at") else ""
    return Operation(f"record_types.{action}{about}", call, (f"record_types.{action}",))


def _create_type(backend: Backend) -> object:
    key = f"new_{next(_NUMBERS)}"
    about = {"project_id": backend.notes["project"], "key": key}
    do(backend, "record_types", "create", **about, schema={"fields": []})
    do(backend, "record_types", "activate", **about)
    return do(backend, "record_types", "retire", **about)


def _page(service: str, of_project: bool = False, **asked: str) -> Operation:
    def call(backend: Backend) -> object:
        about = {"project_id": backend.notes["project"]} if of_project else {}
        return do(backend, service, "list", limit=20, **about, **asked)

    about = " of a project" if of_project else ""
    return Operation(
        f"{service}.list, a page{about}{''.join(f', {each}' for each in asked.values())}", call, (f"{service}.list",)
    )


def _among_ready_ones(status: str) -> Operation:
    return Operation(
        f"changes.list, a page of a project with other changes, {status}",
        lambda backend: do(backend, "changes", "list", project_id=id_at(0), status=status, limit=20),
        ("changes.list",),
    )


OPERATIONS = [
    Operation(
        "projects.create",
        lambda backend: do(backend, "projects", "create", name=f"New {next(_NUMBERS)}"),
        ("projects.create",),
    ),
    Operation(
        "projects.get",
        lambda backend: do(backend, "projects", "get", project_id=backend.notes["project"]),
        ("projects.get",),
    ),
    _page("projects"),
    _page("record_types", of_project=True),
    *(_page("record_types", of_project=True, status=status) for status in get_args(RecordTypeStatus)),
    _page("changes", status="Ready"),
    _page("changes", of_project=True, status="Ready"),
    *(_among_ready_ones(status) for status in get_args(ChangeStatus) if status != "Ready"),
    _page("changes"),
    _page("changes", of_project=True),
    Operation(
        "changes.get",
        lambda backend: do(backend, "changes", "get", change_id=backend.notes["change"]),
        ("changes.get",),
    ),
    Operation(
        "record_types.create, activate, retire",
        _create_type,
        ("record_types.create", "record_types.activate", "record_types.retire"),
    ),
    _type("get"),
    _type("schema_at", at=time_of(10**8).isoformat()),
    _type("schema_at", change=True),
    _type("verify_history"),
    _type("check_documents"),
    Operation(
        "a change, drafted and previewed",
        _draft_and_look,
        (
            "changes.create",
            "changes.add_target",
            "changes.list_targets",
            "changes.add_patch_op",
            "changes.list_patch_ops",
            "changes.preview",
            "changes.delete_patch_op",
            "changes.transition",
            "changes.transitions",
        ),
    ),
    Operation("a change, executed", _execute, ("changes.execute", "changes.list_snapshots")),
    Operation("a change, merged and taken back", _merge_and_take_back, ("changes.merge", "changes.plan_compensation")),
]
