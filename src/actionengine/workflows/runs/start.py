"""The start of a run: by a caller, by a trigger, or from inside another action."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json

from actionengine.context import MAX_CHAIN_LENGTH, Actor
from actionengine.errors import ActionError, ErrorCode, conflict, not_found
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.stored_actor import StoredActor
from actionengine.schemas.field_errors import summarize
from actionengine.schemas.schema import Schema
from actionengine.schemas.validation import field_problems, model_of
from actionengine.storage.rows import Record
from actionengine.workflows.definitions.definition import Definition
from actionengine.workflows.runs.events import emit_run_started
from actionengine.workflows.runs.store import load_definition, open_store, timestamp

MAX_INPUT_BYTES = 64 * 1024
"""Bytes of JSON of the input of a run."""

MAX_RUN_DEPTH = 50
"""Levels of runs that steps of runs start. A workflow may start itself."""


def run_principal(starter: Actor | None) -> Actor | None:
    """Return the actor that a run acts for: its starter with the chain behind it, and in place of a workflow the actor
    that the workflow acted for. None for a starter without a principal.

    Raises `ActionError(unprocessable)` for a chain that leaves no place for the workflow.
    """
    if starter is None or starter.on_behalf_of is None:
        return None
    principal: Actor | None = starter
    while principal is not None and principal.type == "workflow":
        principal = principal.on_behalf_of
    if principal is not None and len(principal.chain) >= MAX_CHAIN_LENGTH:
        raise ActionError(
            ErrorCode.UNPROCESSABLE,
            f"{principal} is the first of {len(principal.chain)} actors that act for each other, and the workflow "
            f"would be one more: at most {MAX_CHAIN_LENGTH} may, so start it with a shorter chain",
            {"chain": list(map(str, principal.chain))},
        )
    return principal


async def start_run(
    ctx: InternalContext,
    key: str,
    input: dict[str, Any],
    *,
    started_by: str,
    trigger_id: str | None = None,
    id: str | None = None,
    outer: Record | None = None,
) -> Record:
    """Insert a run of a workflow's active version, and return it. It is enqueued once this transaction commits.

    The run acts for the actor of this execution if that acts for others (see `run_principal`). `outer` is the run that
    caused it; by default, the run whose step this is.

    Raises `ActionError`: `not_found` for an unknown workflow, `conflict` for one that is not active, `invalid_input`
    for an input that does not match the definition, `unprocessable` beyond `MAX_RUN_DEPTH` and for a chain of actors
    that is too long.
    """
    principal = run_principal(ctx.actor)
    store = open_store(ctx)
    head = await store.heads.get(key)
    if head is None:
        raise not_found("workflow", key)
    if head.data["active"] is None:
        raise conflict(f"no version of the workflow {key!r} is active: activate one", key=key)
    record = await store.workflow(key, head.data["active"])
    definition = load_definition(record)
    _check_input(key, definition, input)
    now = await timestamp(ctx)
    holder = ctx.lock_holder
    if outer is None and holder is not None:
        outer = await store.runs.get(holder)
    depth = 0 if outer is None else outer.data["depth"] + 1
    if depth > MAX_RUN_DEPTH:
        raise ActionError(
            ErrorCode.UNPROCESSABLE,
            f"the run of {key!r} would be number {depth} in a chain of runs that start each other: at most "
            f"{MAX_RUN_DEPTH} are allowed",
            {"key": key},
        )
    run = {
        "workflow_key": key,
        "workflow_version": record.data["version"],
        "definition_id": record.data["definition_id"],
        "status": "running",
        "step": definition.steps[0].name,
        "position": 0,
        "dispatch": 0,
        "visits": {},
        "outputs": {},
        "locks": [],
        "paused_for": None,
        "approval_id": None,
        "assignment_id": None,
        "error": None,
        "input": input,
        "depth": depth,
        "started_by": started_by,
        # The actors that started the runs which led to this one.
        "ancestors": [] if outer is None else list(dict.fromkeys((outer.data["started_by"], *outer.data["ancestors"]))),
        "on_behalf_of": StoredActor.of(principal).model_dump(mode="json") if principal is not None else None,
        "trigger_id": trigger_id,
        "created_at": now,
        "updated_at": now,
        "ended_at": None,
    }
    inserted = await store.runs.insert(run, id or ctx.new_id())
    emit_run_started(ctx, inserted, first=True)
    return inserted


def _check_input(key: str, definition: Definition, input: dict[str, Any]) -> None:
    encoded = to_json(input)
    if len(encoded) > MAX_INPUT_BYTES:
        message = f"the input has {len(encoded)} bytes of JSON; at most {MAX_INPUT_BYTES >> 10} KB are allowed"
        raise ActionError(ErrorCode.INVALID_INPUT, message, {"key": key})
    if definition.input is None:
        return
    fields = field_problems(model_of(key, Schema.from_document(definition.input.document())), encoded)
    if fields:
        raise ActionError(ErrorCode.INVALID_INPUT, f"the input of {key!r}: {summarize(fields)}", {"fields": fields})
