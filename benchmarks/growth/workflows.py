"""Workflows: runs that have ended, assignments that are done, and triggers of other workflows should not matter."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import count

from actionengine.storage.clock import sortable
from benchmarks.growth.backends import Backend, id_at, time_of
from benchmarks.growth.operation import Operation

_NUMBERS = count()
STEPS = {"steps": [{"name": "look", "type": "assignment", "assignee": "ann", "title": "Look", "wait": True}]}
EVENT = {"type": "event", "event_type": "job.done"}
ENDED = time_of(10**9)


def fill(backend: Backend) -> None:
    """A workflow that has run often, with many triggers, and one that is new."""
    for key in ("old", "new"):
        backend.do("workflows", "define", {"key": key, "definition": STEPS})
        backend.do("workflows", "activate", {"key": key})
    backend.do("workflows", "start", {"key": "old"})
    backend.notes["trigger"] = backend.do("triggers", "create", {"key": "new", "trigger": EVENT}).id
    backend.do("triggers", "create", {"key": "old", "trigger": {**EVENT, "event_type": "job.begun"}})
    tenant = str(backend.tenant.id)
    run = backend.sample("ae_documents", collection="ae_workflow_runs", tenant_id=tenant)
    ended = {"status": "succeeded", "step": None, "ended_at": ENDED.isoformat()}
    backend.clone_documents(run, ((id_at(number), ended) for number in range(backend.size)))
    end = {**run, "collection": "ae_workflow_ends", "data": "{}"}
    backend.clone_documents(end, ((f"{sortable(ENDED)}/{id_at(number)}", {}) for number in range(backend.size)))
    trigger = backend.sample("ae_documents", collection="ae_triggers", tenant_id=tenant)
    backend.clone_documents(trigger, ((id_at(number), {}) for number in range(backend.size)))
    assignment = {
        "assignee": "bob",
        "title": "Look",
        "details": {},
        "run_id": "r",
        "workflow_key": "old",
        "step": "look",
        "status": "completed",
    }
    sample = {**run, "collection": "workflow_assignments", "data": "{}"}
    backend.clone_documents(sample, ((id_at(number), assignment) for number in range(backend.size)))
    open_one = {**assignment, "assignee": "ann", "status": "open"}
    backend.notes["assignment"] = id_at(10**6)
    backend.clone_documents(sample, [(backend.notes["assignment"], open_one)])
    backend.notes["one more"] = lambda id_: (sample, [(id_, open_one)])
    backend.notes["run"] = backend.do("workflows", "start", {"key": "new"}).id


def _start_and_cancel(backend: Backend) -> object:
    run = backend.do("workflows", "start", {"key": "new"})
    return backend.do("workflows", "cancel", {"run_id": run.id})


def _complete(backend: Backend) -> object:
    id = id_at(2 * 10**6 + next(_NUMBERS))
    backend.clone_documents(*backend.notes["one more"](id))
    return backend.do("workflow_assignments", "complete", {"assignment_id": id})


def _define(backend: Backend) -> object:
    key = f"key_{next(_NUMBERS)}"
    backend.do("workflows", "define", {"key": key, "definition": {**STEPS, "trigger": EVENT}})
    return backend.do("workflows", "activate", {"key": key})


def _trigger(backend: Backend) -> object:
    made = {"trigger_id": backend.do("triggers", "create", {"key": "new", "trigger": EVENT}).id}
    for action in ("disable", "enable", "delete"):
        backend.do("triggers", action, made)
    return None


def _list(service: str, about: str, **asked: object) -> Operation:
    return Operation(
        f"{service}.list, {about}",
        lambda backend: backend.do(service, "list", {"limit": 20, **asked}),
        (f"{service}.list",),
    )


def _purge(about: str, ended_before: datetime) -> Operation:
    asked = {"ended_before": ended_before.isoformat(), "limit": 5}
    return Operation(
        f"workflows.purge {about}", lambda backend: backend.do("workflows", "purge", asked), ("workflows.purge",)
    )


OPERATIONS = [
    Operation("workflows.start, cancel", _start_and_cancel, ("workflows.start", "workflows.cancel")),
    Operation("workflows.define, activate", _define, ("workflows.define", "workflows.activate")),
    Operation(
        "workflows.get",
        lambda backend: backend.do("workflows", "get", {"run_id": backend.notes["run"]}),
        ("workflows.get",),
    ),
    Operation(
        "workflows.get_definition",
        lambda backend: backend.do("workflows", "get_definition", {"key": "new"}),
        ("workflows.get_definition",),
    ),
    Operation(
        "workflows.list_definitions",
        lambda backend: backend.do("workflows", "list_definitions", {"limit": 2, "after": "a"}),
        ("workflows.list_definitions",),
    ),
    _purge("of nothing", time_of(-1)),
    _purge("of nothing, after all have begun", ENDED),
    _purge("of five", ENDED + timedelta(seconds=1)),
    _list("workflows", "a page"),
    _list("workflows", "running", status="running"),
    _list("workflows", "failed", status="failed"),
    _list("workflows", "of a workflow", key="new"),
    _list("workflows", "of a workflow, paused", key="old", status="paused"),
    Operation(
        "triggers.create, disable, enable, delete",
        _trigger,
        tuple(f"triggers.{name}" for name in ("create", "disable", "enable", "delete")),
    ),
    Operation(
        "triggers.get",
        lambda backend: backend.do("triggers", "get", {"trigger_id": backend.notes["trigger"]}),
        ("triggers.get",),
    ),
    _list("triggers", "of a workflow", key="new"),
    Operation(
        "workflow_assignments.get",
        lambda backend: backend.do("workflow_assignments", "get", {"assignment_id": backend.notes["assignment"]}),
        ("workflow_assignments.get",),
    ),
    Operation("workflow_assignments.complete", _complete, ("workflow_assignments.complete",)),
    _list("workflow_assignments", "of a person", assignee="ann"),
    _list("workflow_assignments", "of a person, open", assignee="bob", status="open"),
    _list("workflow_assignments", "open", status="open"),
    _list("workflow_assignments", "of a run, open", run_id="none", status="open"),
    _list("workflow_assignments", "of a run with many, open", run_id="r", status="open"),
]
