"""How a run begins: by hand, by a trigger, or from inside another action; set going once that commits."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json

from actionengine.action_context import ActionContext
from actionengine.changes.documents import misfits, model_of
from actionengine.changes.schema import Schema
from actionengine.changes.store import conflict, new_id, not_found
from actionengine.errors import ErrorCode, failing
from actionengine.payload import summary
from actionengine.storage.port import Record
from actionengine.workflows.definition import Definition, parse_definition
from actionengine.workflows.store import store_of, timestamp
from actionengine.workflows.telling import tell_going

MOST_INPUT = 64 * 1024
"""Bytes of JSON of the input of a run."""


async def start_run(
    ctx: ActionContext, key: str, input: dict[str, Any], *, started_by: str, trigger_id: str | None = None
) -> Record:
    """A new run of a workflow's active version, set going once this commits.

    Raises `ActionException`: `not_found` for a workflow that there is not, `conflict` for one that is not active,
    `invalid_input` for an input that is not what the definition says.
    """
    store = store_of(ctx)
    head = await store.heads.get(key)
    if head is None:
        raise not_found("workflow", key)
    if head.data["active"] is None:
        raise conflict(f"no version of the workflow {key!r} is active: activate one", key=key)
    record = await store.workflow(key, head.data["active"])
    definition = parse_definition(record.data["definition"])
    _check_input(key, definition, input)
    now = timestamp()
    run = {
        "workflow_key": key,
        "workflow_version": record.data["version"],
        "status": "running",
        "step": definition.steps[0].name,
        "position": 0,
        "turn": 0,
        "visits": {},
        "outputs": {},
        "locks": [],
        "paused_for": None,
        "approval_id": None,
        "error": None,
        "input": input,
        "started_by": started_by,
        "trigger_id": trigger_id,
        "created_at": now,
        "updated_at": now,
        "ended_at": None,
    }
    inserted = await store.runs.insert(run, new_id())
    tell_going(ctx, inserted, first=True)
    return inserted


def _check_input(key: str, definition: Definition, input: dict[str, Any]) -> None:
    encoded = to_json(input)
    if len(encoded) > MOST_INPUT:
        raise failing(ErrorCode.INVALID_INPUT, f"the input of a run has at most {MOST_INPUT >> 10} KB", key=key)
    if definition.input is None:
        return
    fields = misfits(model_of(key, Schema.from_document(definition.input.document())), encoded)
    if fields:
        raise failing(ErrorCode.INVALID_INPUT, f"the input of {key!r}: {summary(fields)}", fields=fields)
