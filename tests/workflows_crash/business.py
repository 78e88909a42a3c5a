"""The work of the workflows that are killed: what their steps leave behind, and what each run should have left."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel
from returns.result import Failure, Result, Success

from actionengine import ActionContext, Engine, ErrorCode, Service, create_action, create_engine, create_service
from actionengine.concurrency.run_sync import Mode
from actionengine.errors import ActionError
from actionengine.storage.sql.storage import SQLStorage
from actionengine.workflows import workflow_services

FAILURES = 2
"""Failures of a flaky step before it succeeds."""

DOCUMENTS = 2
"""Shared documents of a tenant, which runs lock."""

Reach = Callable[[str], None]


class Entry(BaseModel):
    """An effect of a step: its run, its label, and the tenant of the run."""

    run: str
    step: str
    whose: str


class Addition(Entry):
    """An entry, and the shared document that counts it."""

    document: str


class Ended(NamedTuple):
    """The expected end of a run: its status, its steps with theirs, and the labels of its effects, in order."""

    status: str
    steps: Sequence[tuple[str, str]]
    effects: Sequence[str]


def _unharmed(point: str) -> None:
    """A function that handlers call at each point at which their process may be killed."""


def desk_engine(storage: SQLStorage, folder: Path, reach: Reach = _unharmed, mode: Mode = "sync") -> Engine:
    """Return an engine with workflows and the service `desk`, whose handlers keep files in `folder`."""
    services = [
        *workflow_services(open=True),
        desk_service(folder, reach),
        *([of_event_loops] if mode == "async" else []),
    ]
    return create_engine(services=services, storage=storage)


async def _rest(data: None, ctx: ActionContext) -> Result[None, Any]:
    return Success(None)


of_event_loops = create_service(
    name="rest",
    description="What makes an engine one of event loops",
    actions=[create_action(name="rest", description="Do nothing", handler=_rest)],
)


def desk_service(folder: Path, reach: Reach) -> Service:
    """Return the service. Each action adds an effect, and an entry to the journal of its run, in one transaction."""

    def write(data: Entry, ctx: ActionContext) -> Result[dict[str, Any], Any]:
        return Success({"count": _write(data, ctx)})

    def _write(data: Entry, ctx: ActionContext) -> int:
        entry = data.model_dump(include={"run", "step", "whose"})
        ctx.records("effects").insert(entry)
        reach("in the handler")
        journals = ctx.records("journals")
        journal = journals.get(data.run)
        if journal is None:
            journals.insert({"whose": data.whose, "steps": [data.step]}, data.run)
            return 1
        steps = [*journal.data["steps"], data.step]
        journals.update(data.run, {**journal.data, "steps": steps}, journal.version)
        return len(steps)

    def write_twice(data: Entry, ctx: ActionContext) -> Result[dict[str, Any], Any]:
        for number in (1, 2):
            nested = ctx.execute("desk", "write", {**data.model_dump(), "step": f"{data.step} {number}"})
            if isinstance(nested, Failure):
                return nested
        return Success({"count": nested.unwrap()["count"]})

    def write_after_failures(data: Entry, ctx: ActionContext) -> Result[dict[str, Any], Any]:
        attempts = folder / f"attempts-{data.run}"
        with attempts.open("ab") as file:
            os.write(file.fileno(), b".")
        _write(data, ctx)
        if attempts.stat().st_size <= FAILURES:
            raise ActionError(ErrorCode.CONFLICT, "not yet")
        return Success({})

    def write_where_cleared(data: Entry, ctx: ActionContext) -> Result[dict[str, Any], Any]:
        _write(data, ctx)
        if not clearance(folder, data.run).exists():
            raise ActionError(ErrorCode.UNPROCESSABLE, "somebody has to clear this")
        return Success({})

    def refuse(data: Entry, ctx: ActionContext) -> Result[dict[str, Any], Any]:
        _write(data, ctx)
        raise ActionError(ErrorCode.UNPROCESSABLE, "this never succeeds")

    def start_child(data: Entry, ctx: ActionContext) -> Result[dict[str, Any], Any]:
        _write(data, ctx)
        input = {"whose": data.whose, "parent": data.run}
        started = ctx.execute("workflows", "start", {"key": "child", "input": input})
        return started if isinstance(started, Failure) else Success({"child": started.unwrap().id})

    def ring(data: Entry, ctx: ActionContext) -> Result[dict[str, Any], Any]:
        _write(data, ctx)
        ctx.emit("desk.rung", {"whose": data.whose, "run": data.run}, subject=f"bell/{data.run}")
        return Success({})

    def add(data: Addition, ctx: ActionContext) -> Result[dict[str, Any], Any]:
        _write(data, ctx)
        documents = ctx.records("documents")
        found = documents.get(data.document)
        assert found is not None
        documents.update(found.id, {**found.data, "runs": [*found.data["runs"], data.run]}, found.version)
        return Success({})

    def open_desk(data: Any, ctx: ActionContext) -> Result[None, Any]:
        for number in range(DOCUMENTS):
            ctx.records("documents").insert({"whose": data["whose"], "runs": []}, str(number))
        return Success(None)

    entries = {
        "write": write,
        "write_twice": write_twice,
        "write_after_failures": write_after_failures,
        "write_where_cleared": write_where_cleared,
        "refuse": refuse,
        "start_child": start_child,
        "ring": ring,
    }
    return create_service(
        name="desk",
        description="What the steps of the workflows do",
        actions=[
            *(create_action(name=name, description=name, handler=handler, validation=Entry)
              for name, handler in entries.items()),
            create_action(name="add", description="Count a run", handler=add, validation=Addition),
            create_action(name="open", description="Make the shared documents", handler=open_desk),
        ],
    )  # fmt: skip


def clearance(folder: Path, run_id: str) -> Path:
    """Return the file that lets a stuck step succeed."""
    return folder / f"cleared-{run_id}"


# The workflows

RETRY = {"attempts": 16, "seconds": 0.02}


def _step(name: str, action: str = "write", **more: Any) -> dict[str, Any]:
    input = {"run": "${run.id}", "step": name, "whose": "${input.whose}", **more.pop("input", {})}
    return {"name": name, "type": "action", "action": f"desk.{action}", "input": input, "retry": RETRY, **more}


def _paper(name: str, operation: str, state: str) -> dict[str, Any]:
    data = {"whose": "${input.whose}", "state": state}
    return {
        "name": name,
        "type": "record_mutation",
        "collection": "papers",
        "operation": operation,
        "id": "${run.id}",
        "data": data,
        "retry": RETRY,
    }


def _lock(name: str, **more: Any) -> dict[str, Any]:
    document = {"collection": "documents", "id": "${input.document}"}
    return {"name": name, "type": "record_lock", **document, "retry": RETRY, **more}


def _approval(**more: Any) -> dict[str, Any]:
    told = {"permission": "desk.approve", "message": "may ${input.whose} go on?"}
    return {"name": "ok", "type": "approval", "on_reject": "declined", "retry": RETRY, **told, **more}


_IS_LARGE = {"when": {"field": "input.number", "op": "gt", "value": 1}, "next": "large"}
_IS_NOT_OVER = {"when": {"field": "steps.round.count", "op": "lt", "value": 3}, "next": "round"}
_ADDITION = {"input": {"document": "${input.document}"}}
_ASSIGNED = {"assignee": "ann", "title": "Look at ${run.id}", "details": {"whose": "${input.whose}"}}

DEFINITIONS: Mapping[str, Mapping[str, Any]] = {
    "plain": {
        "steps": [
            _step("first"),
            _paper("file", "insert", "open"),
            {"name": "assign", "type": "assignment", "retry": RETRY, **_ASSIGNED},
            {"name": "tell", "type": "notification", "to": "ann", "message": "of ${input.whose}", "retry": RETRY},
            {"name": "size", "type": "decision", "branches": [_IS_LARGE], "otherwise": "close", "retry": RETRY},
            _step("large"),
            _paper("close", "update", "closed"),
            _step("last"),
        ]
    },
    "approved": {
        "steps": [_step("first"), _approval(expires_after=3600), _step("granted", next="end"), _step("declined")]
    },
    "asked": {
        "steps": [
            _step("first"),
            {"name": "look", "type": "assignment", "wait": True, "retry": RETRY, **_ASSIGNED},
            _step("last"),
        ]
    },
    "expiring": {
        "steps": [_step("first"), _approval(expires_after=0.3), _step("granted", next="end"), _step("declined")]
    },
    "flaky": {
        "steps": [
            _step("flaky", "write_after_failures"),
            _step("hopeless", "refuse", on_failure="mended"),
            _step("never", next="end"),
            _step("mended"),
        ]
    },
    "failing": {"steps": [_step("first"), _step("hopeless", "refuse", on_failure="fail")]},
    "rounds": {
        "steps": [
            _step("round", max_visits=5),
            {"name": "again", "type": "decision", "branches": [_IS_NOT_OVER], "otherwise": "spin", "retry": RETRY},
            _step("spin", max_visits=2, next="spin", on_failure="mended"),
            _step("mended"),
        ]
    },
    "nested": {"steps": [_step("twice", "write_twice"), _step("last")]},
    "locking": {"steps": [_lock("lock"), _step("add", "add", **_ADDITION), _step("last")]},
    "releasing": {
        "steps": [_lock("lock"), _step("add", "add", **_ADDITION), _lock("release", operation="release"), _step("last")]
    },
    "parent": {"steps": [_step("start", "start_child"), _step("last")]},
    "child": {"steps": [_step("child")]},
    "ringing": {"steps": [_step("ring", "ring"), _step("last")]},
    "echo": {
        "trigger": {
            "type": "event",
            "event_type": "desk.rung",
            "from_workflows": True,
            "input": {"whose": "${input.payload.whose}", "rung_by": "${input.payload.run}"},
        },
        "steps": [_step("echo")],
    },
    "stuck": {"steps": [_step("stuck", "write_where_cleared"), _step("last")]},
}

BEGUN_BY_HAND = tuple(sorted(set(DEFINITIONS) - {"child", "echo"}))
"""The workflows whose runs the tests start; the others are started by these."""


def expected(key: str, input: Mapping[str, Any]) -> Ended:
    """Return the expected end of a run of a workflow."""
    match key:
        case "plain":
            names = ["first", "file", "assign", "tell", "size", *["large"] * (input["number"] > 1), "close", "last"]
            return Ended("succeeded", _well(*names), [name for name in names if name in ("first", "large", "last")])
        case "approved" if input["approve"]:
            return Ended("succeeded", _well("first", "ok", "granted"), ["first", "granted"])
        case "asked":
            return Ended("succeeded", _well("first", "look", "last"), ["first", "last"])
        case "approved" | "expiring":
            steps = [("first", "succeeded"), ("ok", "rejected"), ("declined", "succeeded")]
            return Ended("succeeded", steps, ["first", "declined"])
        case "flaky":
            steps = [("flaky", "succeeded"), ("hopeless", "failed"), ("mended", "succeeded")]
            return Ended("succeeded", steps, ["flaky", "mended"])
        case "failing":
            return Ended("failed", [("first", "succeeded"), ("hopeless", "failed")], ["first"])
        case "rounds":
            rounds = _well(*["round", "again"] * 3, "spin", "spin")
            steps = [*rounds, ("spin", "failed"), ("mended", "succeeded")]
            return Ended("succeeded", steps, [*["round"] * 3, "spin", "spin", "mended"])
        case "nested":
            return Ended("succeeded", _well("twice", "last"), ["twice 1", "twice 2", "last"])
        case "locking":
            return Ended("succeeded", _well("lock", "add", "last"), ["add", "last"])
        case "releasing":
            return Ended("succeeded", _well("lock", "add", "release", "last"), ["add", "last"])
        case "parent":
            return Ended("succeeded", _well("start", "last"), ["start", "last"])
        case "ringing":
            return Ended("succeeded", _well("ring", "last"), ["ring", "last"])
        case "stuck":
            steps = [("stuck", "failed"), ("stuck", "succeeded"), ("last", "succeeded")]
            return Ended("succeeded", steps, ["stuck", "last"])
        case _:
            return Ended("succeeded", _well(key), [key])


def _well(*names: str) -> list[tuple[str, str]]:
    return [(name, "succeeded") for name in names]
