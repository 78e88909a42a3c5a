"""The things of workflows as documents of a unit of work: definitions, runs, the steps that they took, triggers, locks.

ae_workflows        <key>/<version>       a version of a workflow
ae_workflow_heads   <key>                 which of its versions is the newest, and which is active
ae_workflow_runs    <run id>              a run: where it is, and what its steps gave
ae_workflow_steps   <run id>/<position>   a step that was taken
ae_workflow_ends    <time>/<run id>       a run that has ended then
ae_triggers         <trigger id>
ae_trigger_counts   <type>                how many triggers of a type there are
ae_record_locks     <collection>/<id>     which run has locked a document, and until when
"""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from typing import Any
from urllib.parse import quote
from uuid import UUID

from pydantic_core import to_json

from actionengine.authorization.cache import BoundedCache
from actionengine.errors import ActionError, ErrorCode, conflict, not_found
from actionengine.pipeline.internal_context import InternalContext
from actionengine.storage.clock import sortable
from actionengine.storage.port import UnitOfWork
from actionengine.storage.records import MAX_ID_LENGTH, AsyncRecords
from actionengine.storage.rows import Record
from actionengine.workflows.definitions.definition import Definition
from actionengine.workflows.definitions.parse import parse_definition

WORKFLOWS = "ae_workflows"
HEADS = "ae_workflow_heads"
RUNS = "ae_workflow_runs"
STEPS = "ae_workflow_steps"
ENDS = "ae_workflow_ends"
TRIGGERS = "ae_triggers"
TRIGGER_COUNTS = "ae_trigger_counts"
LOCKS = "ae_record_locks"

DEFINITION_BYTES = 64 * 1024 * 1024
"""Of the parsed definitions that a process keeps: a version never changes."""
_OF_A_BYTE = 20
"""Bytes of a parsed definition, about, for one of its JSON."""

_definitions: BoundedCache[Definition] = BoundedCache(DEFINITION_BYTES, "workflow_definitions")
"""By the id that a version has for good, so that no other storage's or tenant's is taken for it, nor one that was never
committed."""


class Store:
    """The documents as one unit of work sees them."""

    def __init__(self, unit_of_work: UnitOfWork) -> None:
        self.workflows = unit_of_work.records(WORKFLOWS)
        self.heads = unit_of_work.records(HEADS)
        self.runs = unit_of_work.records(RUNS)
        self.steps = unit_of_work.records(STEPS)
        self.ends = unit_of_work.records(ENDS)
        self.triggers = unit_of_work.records(TRIGGERS)
        self.trigger_counts = unit_of_work.records(TRIGGER_COUNTS)
        self.locks = unit_of_work.records(LOCKS)

    async def workflow(self, key: str, version: int | None = None) -> Record:
        """A version of a workflow, the newest where none is named. Raises `ActionError(not_found)`."""
        if version is None:
            head = await self.heads.get(key)
            if head is None:
                raise not_found("workflow", key)
            version = head.data["newest"]
        record = await self.workflows.get(version_id(key, version))
        if record is None:
            raise not_found("version of the workflow", f"{key}/{version}", key=key, version=version)
        return record

    async def definition(self, run: Record) -> Definition:
        """The definition that a run goes by."""
        known = _definitions.find(run.data["definition_id"])
        if known is None:
            known = parsed(await self.workflow(run.data["workflow_key"], run.data["workflow_version"]))
        return known

    async def run(self, id: str) -> Record:
        """A run. Raises `ActionError(not_found)`."""
        record = await self.runs.get(id)
        if record is None:
            raise not_found("run", id)
        return record

    async def note_end(self, run: Record) -> None:
        """Let a purge find a run, which has ended."""
        await self.ends.insert({}, f"{sortable(datetime.fromisoformat(run.data['ended_at']))}/{run.id}")

    async def trigger(self, id: str) -> Record:
        """A trigger. Raises `ActionError(not_found)`."""
        record = await self.triggers.get(id)
        if record is None:
            raise not_found("trigger", id)
        return record

    async def release_locks(self, run: Record) -> None:
        """Give up the documents that a run has locked."""
        for id in run.data["locks"]:
            held = await self.locks.get(id)
            if held is not None and held.data["run_id"] == run.id:
                await self.locks.delete(id, held.version)


def open_store(ctx: InternalContext) -> Store:
    """The documents, from inside an action."""
    return Store(ctx.unit_of_work)


def parsed(workflow: Record) -> Definition:
    """The definition of a version of a workflow."""
    id = workflow.data["definition_id"]
    known = _definitions.find(id)
    if known is None:
        known = parse_definition(workflow.data["definition"], stored=True)
        _definitions.keep(id, known, _OF_A_BYTE * len(to_json(workflow.data["definition"])))
    return known


class RecordLockGuard:
    """Refuses changes of documents that another run has locked."""

    async def check(self, unit_of_work: UnitOfWork, collection: str, id: str, holder: str | None) -> None:
        """Raises `ActionError(conflict)` where another run than `holder` has locked the document."""
        held = await unit_of_work.records(LOCKS).get(lock_id(collection, id))
        if held is not None and held.data["run_id"] != holder and is_in_force(held, await unit_of_work.now()):
            raise conflict(
                f"the workflow run {held.data['run_id']} has locked {collection}/{id}",
                collection=collection,
                id=id,
                run_id=held.data["run_id"],
                expires_at=held.data["expires_at"],
            )


def is_in_force(lock: Record, now: datetime) -> bool:
    """Return whether a lock still holds."""
    return datetime.fromisoformat(lock.data["expires_at"]) > now


async def insert_once(records: AsyncRecords, data: dict[str, Any], id: str) -> bool:
    """Add a document, where none of its id is there; whether there was none."""
    try:
        await records.insert(data, id)
    except ActionError as refusal:
        if refusal.code is not ErrorCode.CONFLICT:
            raise
        return False
    return True


def version_id(key: str, version: int) -> str:
    """The id of a version of a workflow: versions sort by number."""
    return f"{key}/{version:06}"


def step_id(run_id: str, position: int) -> str:
    """The id of a step that a run took: steps sort by position."""
    return f"{run_id}/{position:06}"


def derived_run_id(at: datetime, *cause: str) -> str:
    """The id of the run that a cause has, whenever it is told again; it sorts by the time of the cause, as others do by
    theirs (a UUID of version 7, with a hash for its random part)."""
    milliseconds = int(at.timestamp() * 1000).to_bytes(6, "big")
    random = bytearray(sha256("/".join(cause).encode()).digest()[:10])
    random[0] = random[0] & 0x0F | 0x70
    random[2] = random[2] & 0x3F | 0x80
    return str(UUID(bytes=milliseconds + bytes(random)))


def lock_id(collection: str, id: str) -> str:
    """The id of a lock. The name of a collection may have a slash in it; what is too long for an id is hashed, which
    has none."""
    whole = f"{quote(collection, safe=' ')}/{id}"
    return whole if len(whole) <= MAX_ID_LENGTH else sha256(whole.encode()).hexdigest()


def workflow_subject(key: str) -> str:
    """What rules and the action log call a workflow."""
    return f"workflow/{key}"


def run_subject(run_id: str) -> str:
    """What events and the action log call a run."""
    return f"workflow_run/{run_id}"


async def timestamp(ctx: InternalContext) -> str:
    """Return the time by the storage's clock, in UTC, as documents have it."""
    return (await ctx.unit_of_work.now()).isoformat()
