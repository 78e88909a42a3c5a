"""Change control: other record types, changes, and ops of other types should not matter."""

from __future__ import annotations

from itertools import count
from typing import Any, get_args

from actionengine import Actor
from actionengine.changes.models import RecordTypeStatus
from actionengine.changes.states import ChangeStatus
from benchmarks.growth.operation import Operation
from benchmarks.growth.worlds import World, id_at, time_of

VERSIONS = 8
"""Of the record type that is asked about."""

_ANN = Actor.human("ann")
_NUMBERS = count()


def fill(world: World) -> None:
    """A record type with a short history, and many types, changes and executed ops beside it."""
    project = do(world, "projects", "create", name="Bench").id
    world.notes["project"] = project
    for key in ("task", "idle"):
        do(world, "record_types", "create", project_id=project, key=key, schema={"fields": []})
    changes = [merged(world, f"field_{number}") for number in range(VERSIONS)]
    world.notes["change"] = changes[VERSIONS // 2]
    tenant = str(world.tenant.id)
    record_type = world.sample("ae_record_types", tenant_id=tenant)
    change = world.sample("ae_changes", tenant_id=tenant)
    target = world.sample("ae_change_targets", tenant_id=tenant)
    op = world.sample("ae_patch_ops", tenant_id=tenant)
    snapshot = world.sample("ae_snapshots", tenant_id=tenant)
    world.clone(
        "ae_record_types",
        record_type,
        lambda number: {"id": id_at(number), "key": f"type_{number}", "name": f"Type {number}"},
    )
    other = {**record_type, "key": "task", "status": "retired"}
    world.clone(
        "ae_record_types",
        other,
        lambda number: {"id": id_at(world.size + number), "project_id": id_at(number), "name": f"Task {number}"},
    )
    world.clone("ae_projects", world.sample("ae_projects"), lambda n: {"id": id_at(n), "name": f"Project {n}"})
    world.clone("ae_changes", change, lambda number: {"id": id_at(number), "title": f"Change {number}"})
    ready = {**change, "status": "Ready", "merged_at": None, "project_id": id_at(0)}
    world.clone("ae_changes", ready, lambda number: {"id": id_at(world.size + number)})
    world.clone("ae_change_targets", target, lambda number: {"id": id_at(number), "change_id": id_at(number)})
    world.clone(
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
    world.clone(
        "ae_snapshots",
        snapshot,
        lambda number: {
            "change_id": id_at(number),
            "record_type_key": f"type_{number % 10}",
            "version": number // 10 + 1,
        },
    )


def do(world: World, service: str, action: str, **payload: Any) -> Any:
    """The value of an action that a person executes."""
    return world.do(service, action, payload, actor=_ANN)


def drafted(world: World, field: str) -> str:
    """A change that adds a field to the type `task`."""
    change = str(do(world, "changes", "create", project_id=world.notes["project"], title=field).id)
    do(world, "changes", "add_target", change_id=change, type="record_type", selector={"record_type_key": "task"})
    payload = {"record_type": "task", "field": field, "definition": {"type": "string"}}
    do(world, "changes", "add_patch_op", change_id=change, op_type="add_field", payload=payload)
    return change


def merged(world: World, field: str) -> str:
    """Such a change, merged."""
    change = drafted(world, field)
    do(world, "changes", "merge", change_id=change)
    return change


def _merge_and_take_back(world: World) -> object:
    back = do(world, "changes", "plan_compensation", change_id=merged(world, f"extra_{next(_NUMBERS)}")).id
    return do(world, "changes", "merge", change_id=back)


def _draft_and_look(world: World) -> object:
    change = drafted(world, f"field_{next(_NUMBERS)}_more")
    do(world, "changes", "list_targets", change_id=change)
    (op,) = do(world, "changes", "list_patch_ops", change_id=change)
    do(world, "changes", "preview", change_id=change)
    do(world, "changes", "delete_patch_op", change_id=change, op_id=op.id)
    return do(world, "changes", "transition", change_id=change, status="Implementing")


def _execute(world: World) -> object:
    change = drafted(world, f"field_{next(_NUMBERS)}_executed")
    do(world, "changes", "execute", change_id=change)
    return do(world, "changes", "list_snapshots", change_id=change)


def _type(action: str, key: str = "task", **payload: Any) -> Operation:
    def call(world: World) -> object:
        change = {"change_id": world.notes["change"]} if payload.get("change") else {}
        asked = {name: value for name, value in payload.items() if name != "change"}
        return do(world, "record_types", action, project_id=world.notes["project"], key=key, **asked, **change)

    about = ", a change" if payload.get("change") else ", a time" if payload.get("at") else ""
    return Operation(f"record_types.{action}{about}", call, (f"record_types.{action}",))


def _create_type(world: World) -> object:
    key = f"new_{next(_NUMBERS)}"
    about = {"project_id": world.notes["project"], "key": key}
    do(world, "record_types", "create", **about, schema={"fields": []})
    do(world, "record_types", "activate", **about)
    return do(world, "record_types", "retire", **about)


def _page(service: str, of_project: bool = False, **asked: str) -> Operation:
    def call(world: World) -> object:
        about = {"project_id": world.notes["project"]} if of_project else {}
        return do(world, service, "list", limit=20, **about, **asked)

    about = " of a project" if of_project else ""
    return Operation(
        f"{service}.list, a page{about}{''.join(f', {each}' for each in asked.values())}", call, (f"{service}.list",)
    )


def _among_ready_ones(status: str) -> Operation:
    return Operation(
        f"changes.list, a page of a project with other changes, {status}",
        lambda world: do(world, "changes", "list", project_id=id_at(0), status=status, limit=20),
        ("changes.list",),
    )


OPERATIONS = [
    Operation(
        "projects.create",
        lambda world: do(world, "projects", "create", name=f"New {next(_NUMBERS)}"),
        ("projects.create",),
    ),
    Operation(
        "projects.get", lambda world: do(world, "projects", "get", project_id=world.notes["project"]), ("projects.get",)
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
        "changes.get", lambda world: do(world, "changes", "get", change_id=world.notes["change"]), ("changes.get",)
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
        ),
    ),
    Operation("a change, executed", _execute, ("changes.execute", "changes.list_snapshots")),
    Operation("a change, merged and taken back", _merge_and_take_back, ("changes.merge", "changes.plan_compensation")),
]
