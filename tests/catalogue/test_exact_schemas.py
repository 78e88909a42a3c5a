"""The schemas of definitions, triggers, ops and selectors admit what their validation admits.

Each valid input is changed in each place in many ways. What the schema refuses, validation refuses too; what validation
refuses and the schema admits is refused for a reason that no schema can express.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import jsonschema_rs
import pytest
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from actionengine import ActionError
from actionengine.boundary.errors import PathEscapeError
from actionengine.boundary.module_actions import FolderInput, RunInput, WriteInput
from actionengine.builtin.action_log import LogListing
from actionengine.builtin.approvals import ListApprovals
from actionengine.builtin.budgets import UsageQuery
from actionengine.builtin.roles import Assignment, RoleInput
from actionengine.catalogue.schemas import schema_of
from actionengine.changes.ops import parse_op
from actionengine.changes.services.inputs import (
    AddPatchOp,
    AddTarget,
    CreateRecordType,
    GetSchemaAt,
    ListPatchOps,
    Transition,
)
from actionengine.workflows.definitions.parse import parse_definition, parse_trigger
from actionengine.workflows.models import CreateTrigger, DefineWorkflow, ListAssignments, ListRuns, PurgeRuns
from tests.changes.test_ops import DIFF

VALUES: tuple[Any, ...] = (
    *(None, True, 0, 1, -1, 1.5, 10**6, 10**9, [], {}, [1], ["a"], ["a", "a"], [""], {"a": 1}, [{}]),
    *("", " ", "a", " a", "a ", "a  b", "a.b", "a/b", "a.b.c", "*", "end", "pause", "fail", "x" * 1001, "ae_x", "../a"),
    *("/a", "~", "C:a", ".git/a", "a\\b", "a//b", "input", "input.", ".a", "insert", "update", "delete", "lock", "eq"),
    *("in", "exists", "missing", "all", "string", "choice", "file", "form", "add_field", "remove_field", "edit_file"),
)

FIELD = {"name": "amount", "type": "choice", "required": True, "choices": ["low", "high"], "label": {"en": "Amount"}}

DEFINITION: dict[str, Any] = {
    "input": {"fields": [{"name": "amount", "type": "number"}, FIELD | {"name": "level"}]},
    "max_steps": 50,
    "trigger": {
        "type": "event",
        "event_type": "invoices.overdue",
        "when": {"field": "input.payload.n", "op": "gt", "value": 5},
        "input": {"amount": "${input.payload.n}", "level": "low"},
        "from_workflows": False,
    },
    "steps": [
        {
            "name": "pay",
            "type": "action",
            "action": "work.pay",
            "input": {"n": "${input.amount}"},
            "description": "pays",
            "next": "ask",
            "on_failure": "tell",
            "retry": {"attempts": 2, "seconds": 1.5},
            "max_visits": 3,
        },
        {
            "name": "ask",
            "type": "approval",
            "permission": "work.approve",
            "message": "${input.amount}?",
            "expires_after": 60,
            "on_reject": "pause",
            "by_starter": True,
        },
        {"name": "give", "type": "assignment", "assignee": "ann", "title": "do", "details": {"a": 1}, "wait": True},
        {
            "name": "choose",
            "type": "decision",
            "branches": [
                {"when": {"all": [{"field": "input.level", "op": "in", "value": ["low"]}]}, "next": "make"},
                {"when": {"any": [{"not": {"field": "steps.give.result", "op": "exists"}}]}, "next": "change"},
                {"when": {"field": "run.id", "op": "missing"}, "next": "tell"},
            ],
            "otherwise": "remove",
        },
        {"name": "make", "type": "record_mutation", "collection": "jobs", "operation": "insert", "data": {"a": 1}},
        {
            "name": "change",
            "type": "record_mutation",
            "collection": "jobs",
            "operation": "update",
            "id": "1",
            "data": {"a": 1},
            "drop": ["b"],
        },
        {"name": "remove", "type": "record_mutation", "collection": "jobs", "operation": "delete", "id": "1"},
        {
            "name": "hold",
            "type": "record_lock",
            "collection": "jobs",
            "id": "1",
            "operation": "release",
            "expires_after": 5,
        },
        {
            "name": "tell",
            "type": "notification",
            "to": ["ann", "bob"],
            "message": "done",
            "subject": "s",
            "channel": "email",
            "data": {"a": 1},
        },
    ],
}

SCHEDULE = {"type": "schedule", "schedule": "0 9 * * *", "timezone": "Europe/Berlin", "input": {"a": 1}}
CHANGE = {"change_id": "c"}


def define(given: dict[str, Any]) -> None:
    parse_definition(DefineWorkflow.model_validate_json(to_json(given)).definition)


def trigger(given: dict[str, Any]) -> None:
    parse_trigger(CreateTrigger.model_validate_json(to_json(given)).trigger)


def op(given: dict[str, Any]) -> None:
    data = AddPatchOp.model_validate_json(to_json(given))
    parse_op(data.op_type, data.payload)


def read(model: type[BaseModel]) -> Callable[[dict[str, Any]], Any]:
    # Pydantic would read 0 as false, and as a time.
    return lambda given: model.model_validate_json(to_json(given), strict=True)


INPUTS: Mapping[str, tuple[type[BaseModel], Callable[[dict[str, Any]], Any], dict[str, Any]]] = {
    "event trigger": (CreateTrigger, trigger, {"key": "k", "trigger": DEFINITION["trigger"]}),
    "schedule": (CreateTrigger, trigger, {"key": "k", "trigger": SCHEDULE}),
    "add_field": (
        AddPatchOp,
        op,
        CHANGE
        | {
            "op_type": "add_field",
            "payload": {"record_type": "job", "field": "f", "definition": FIELD | {"name": "f"}, "before": "g"}
            | {"override": True},
        },
    ),
    "set_field": (
        AddPatchOp,
        op,
        CHANGE
        | {
            "op_type": "set_field",
            "target_id": "t",
            "payload": {"record_type": "job", "field": "f", "definition": {"type": "text"}},
        },
    ),
    "remove_field": (
        AddPatchOp,
        op,
        CHANGE | {"op_type": "remove_field", "payload": {"record_type": "job", "field": "f"}},
    ),
    "rename_field": (
        AddPatchOp,
        op,
        CHANGE
        | {
            "op_type": "rename_field",
            "payload": {"record_type": "job", "old_name": "f", "new_name": "g", "override": False},
        },
    ),
    "edit_file": (
        AddPatchOp,
        op,
        CHANGE | {"op_type": "edit_file", "payload": {"file_path": "main.py", "diff": DIFF}},
    ),
    "record target": (
        AddTarget,
        read(AddTarget),
        CHANGE | {"type": "record_type", "selector": {"record_type_key": "job"}},
    ),
    "file target": (AddTarget, read(AddTarget), CHANGE | {"type": "file", "selector": {"file_path": "src/main.py"}}),
    "record type": (
        CreateRecordType,
        read(CreateRecordType),
        {"project_id": "p", "key": "job", "name": "Job", "base_type": "base", "schema": {"fields": [FIELD]}},
    ),
    "schema at a change": (GetSchemaAt, read(GetSchemaAt), {"project_id": "p", "key": "job", "change_id": "c"}),
    "schema at a time": (
        GetSchemaAt,
        read(GetSchemaAt),
        {"project_id": "p", "key": "job", "at": "2030-01-31T09:30:00Z", "change_id": None},
    ),
    "role": (
        RoleInput,
        read(RoleInput),
        {
            "name": "clerk",
            "description": "d",
            "allow": [{"permission": "jobs.*", "resource": "job/1"}],
            "deny": [{"permission": "*", "resource": None}],
        },
    ),
    "assignment": (Assignment, read(Assignment), {"actor_type": "human", "actor_id": "ann", "role": "clerk"}),
    "approvals": (
        ListApprovals,
        read(ListApprovals),
        {"status": "pending", "requested_by": "human:ann", "after": "a", "limit": 5},
    ),
    "log": (
        LogListing,
        read(LogListing),
        {"subject": "job/1", "actor_type": "ai", "principal": "human:ann", "outcome": "failed"}
        | {"since": "2030-01-31T09:30:00Z", "limit": 7},
    ),
    "runs": (ListRuns, read(ListRuns), {"key": "k", "status": "running", "newest_first": True, "limit": 7}),
    "purge": (PurgeRuns, read(PurgeRuns), {"ended_before": "2030-01-31T09:30:00Z", "limit": 5}),
    "assignments": (ListAssignments, read(ListAssignments), {"assignee": "ann", "run_id": "r", "status": "open"}),
    "ops": (ListPatchOps, read(ListPatchOps), {"change_id": "c", "after": 7, "limit": 5}),
    "transition": (Transition, read(Transition), {"change_id": "c", "status": "Ready"}),
    "usage": (UsageQuery, read(UsageQuery), {"actor": "ai:bot", "principal": "human:ann"}),
    "command": (RunInput, read(RunInput), {"argv": ["ls", "-l"], "folder": "src", "stdin": "x", "timeout": 2.5}),
    "folder": (FolderInput, read(FolderInput), {"folder": "src/main"}),
    "a text": (WriteInput, read(WriteInput), {"path": "a/b.txt", "text": "x", "expected_sha256": "absent"}),
    "bytes": (WriteInput, read(WriteInput), {"path": "a/b.txt", "base64": "eA==", "executable": True}),
}

TARGETS = {"next": "end", "on_failure": "pause", "otherwise": "end"}


def alone(step: dict[str, Any]) -> dict[str, Any]:
    """Return a definition of one step, which leads to no other and reads none."""
    step = deepcopy(step) | {name: target for name, target in TARGETS.items() if name in step}
    for branch in step.get("branches", ()):
        branch |= {"next": "end", "when": {"not": {"all": [{"any": [{"field": "run.id", "op": "exists"}]}]}}}
    return {"key": "k", "definition": {"steps": [step]}}


STEPS = {f"{step['name']}, a step": (DefineWorkflow, define, alone(step)) for step in DEFINITION["steps"]}

BEYOND = re.compile(
    # Names and steps that stand in other places.
    r"leads to|no run reaches|has no end|steps have the name|there is no step|before it|stands in both|"
    r"the input has no field|the output of|cannot read|the trigger sets|two fields of the name|a run has|"
    r"cannot stand before itself|the definition names the field|cannot be renamed to itself|"
    # Texts that another grammar reads.
    r"is not a schedule|time zone|is not valid base64|valid ISO|valid datetime|invalid datetime|unified diff|"
    r"for another file|"
    r"the path is refused: .* longer|timezone|is not a path"
)
"""The reasons that no schema can express."""


def changed(given: Any) -> Iterator[Any]:
    """Yield copies of a JSON value with one change each: a member removed, added or replaced, at any depth."""
    if isinstance(given, dict):
        yield given | {"unknown": 1}
        for name, value in given.items():
            yield {key: each for key, each in given.items() if key != name}
            for other in (*VALUES, *changed(value)):
                yield given | {name: deepcopy(other)}
    elif isinstance(given, list):
        for place, value in enumerate(given):
            yield given[:place] + given[place + 1 :]
            for other in (*VALUES, *changed(value)):
                yield [*given[:place], deepcopy(other), *given[place + 1 :]]


def refusal_of(check: Callable[[dict[str, Any]], Any], given: dict[str, Any]) -> str | None:
    try:
        check(given)
    except (ValidationError, ActionError, PathEscapeError) as error:
        return str(error)
    return None


WHOLE = (DefineWorkflow, define, {"key": "k", "name": "K", "definition": DEFINITION})


@pytest.mark.parametrize("name", [*INPUTS, *STEPS, pytest.param("a whole definition", marks=pytest.mark.soak)])
def test_a_schema_admits_what_validation_admits(name: str) -> None:
    model, check, valid = {**INPUTS, **STEPS}.get(name, WHOLE)
    schema = schema_of(model, "validation")
    validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
    for given in (valid, WHOLE[2] if model is DefineWorkflow else valid):
        assert refusal_of(check, given) is None
        assert validator.is_valid(given), list(validator.iter_errors(given))
    admitted = refused = 0
    for given in changed(valid):
        refusal, is_valid = refusal_of(check, given), validator.is_valid(given)
        if is_valid and refusal is not None:
            assert BEYOND.search(refusal), (refusal, given)
        assert is_valid or refusal is not None, (next(validator.iter_errors(given)).message, given)
        admitted, refused = admitted + is_valid, refused + (not is_valid)
    assert admitted > 1
    assert refused > 1
