"""The documents of workflows in a unit of work: definitions, runs, the steps that they took, triggers, locks.

ae_workflows        <key>/<version>       a version of a workflow
ae_workflow_heads   <key>                 its newest version, and its active one
ae_workflow_runs    <run id>              a run: its step, and the outputs of earlier steps
ae_workflow_steps   <run id>/<position>   a step that the run took
ae_workflow_ends    <time>/<run id>       the end of a run
ae_triggers         <trigger id>          a trigger
ae_trigger_counts   <type>                the number of triggers of a type
ae_record_locks     <collection>/<id>     the lock of a document: its run, and its end
"""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from typing import Any
from urllib.parse import quote
from uuid import UUID

from pydantic_core import to_json

from actionengine.authorization.cache import BoundedCache
from actionengine.builtin.causes import RUN_SUBJECTS
from actionengine.errors import ActionError, ErrorCode, conflict, not_found
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.stored_actor import StoredActor
from actionengine.storage.clock import sortable
from actionengine.storage.port import UnitOfWork
from actionengine.storage.records import MAX_ID_LENGTH, RUNS, AsyncRecords
from actionengine.storage.rows import Record
from actionengine.workflows.definitions.definition import Definition
from actionengine.workflows.definitions.parse import parse_definition

WORKFLOWS = "ae_workflows"
HEADS = "ae_workflow_heads"
STEPS = "ae_workflow_steps"
ENDS = "ae_workflow_ends"
TRIGGERS = "ae_triggers"
TRIGGER_COUNTS = "ae_trigger_counts"
LOCKS = "ae_record_locks"

DEFINITION_BYTES = 64 * 1024 * 1024
"""Bytes of the parsed definitions that a process caches. A version never changes."""

_PARSED_BYTES_PER_BYTE = 20
"""Approximate bytes of a parsed definition per byte of its JSON."""

_definitions: BoundedCache[Definition] = BoundedCache(DEFINITION_BYTES, "workflow_definitions")
"""Definitions by `definition_id`, which is unique across tenants and storages, and across rolled-back transactions."""


class Store:
    """The documents in one unit of work."""

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
        """Return a version of a workflow, by default the newest. Raise `ActionError(not_found)`."""
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
        """Return the definition of a run."""
        cached = _definitions.find(run.data["definition_id"])
        if cached is None:
            cached = load_definition(await self.workflow(run.data["workflow_key"], run.data["workflow_version"]))
        return cached

    async def run(self, id: str) -> Record:
        """Return a run. Raise `ActionError(not_found)`."""
        record = await self.runs.get(id)
        if record is None:
            raise not_found("run", id)
        return record

    async def record_end(self, run: Record) -> None:
        """Record that a run has ended, so a purge finds it."""
        await self.ends.insert({}, f"{sortable(datetime.fromisoformat(run.data['ended_at']))}/{run.id}")

    async def trigger(self, id: str) -> Record:
        """Return a trigger. Raise `ActionError(not_found)`."""
        record = await self.triggers.get(id)
        if record is None:
            raise not_found("trigger", id)
        return record

    async def release_locks(self, run: Record) -> None:
        """Release the locks of a run."""
        for id in run.data["locks"]:
            held = await self.locks.get(id)
            if held is not None and held.data["run_id"] == run.id:
                await self.locks.delete(id, held.version)


def open_store(ctx: InternalContext) -> Store:
    """Return the documents in the unit of work of an action."""
    return Store(ctx.unit_of_work)


def load_definition(workflow: Record) -> Definition:
    """Return the definition of a version of a workflow, from the cache if it is there."""
    id, document = workflow.data["definition_id"], workflow.data["definition"]
    cached = _definitions.find(id)
    if cached is None:
        cached = parse_definition(document, stored=True)
        _definitions.keep(id, cached, _PARSED_BYTES_PER_BYTE * len(to_json(document)))
    return cached


class RecordLockGuard:
    """The guard that refuses changes of documents that another run has locked."""

    async def check(self, unit_of_work: UnitOfWork, collection: str, id: str, holder: str | None) -> None:
        """Raise `ActionError(conflict)` if another run than `holder` has locked the document."""
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
    """Return whether a lock has not expired."""
    return datetime.fromisoformat(lock.data["expires_at"]) > now


async def insert_once(records: AsyncRecords, data: dict[str, Any], id: str) -> bool:
    """Insert a document unless its id exists, and return whether it was inserted."""
    try:
        await records.insert(data, id)
    except ActionError as refusal:
        if refusal.code is not ErrorCode.CONFLICT:
            raise
        return False
    return True


def version_id(key: str, version: int) -> str:
    """Return the id of a version of a workflow. Versions sort by number."""
    return f"{key}/{version:06}"


def step_id(run_id: str, position: int) -> str:
    """Return the id of a step that a run took. Steps sort by position."""
    return f"{run_id}/{position:06}"


def derived_run_id(at: datetime, *cause: str) -> str:
    """Return the id of the run that a cause starts, however often it is repeated: a UUID of version 7 with the time of
    the cause, and a hash as its random part."""
    milliseconds = int(at.timestamp() * 1000).to_bytes(6, "big")
    random = bytearray(sha256("/".join(cause).encode()).digest()[:10])
    random[0] = random[0] & 0x0F | 0x70
    random[2] = random[2] & 0x3F | 0x80
    return str(UUID(bytes=milliseconds + bytes(random)))


def lock_id(collection: str, id: str) -> str:
    """Return the id of a lock. Slashes in the collection are escaped. What is too long for an id is hashed; a hash has
    no slash."""
    whole = f"{quote(collection, safe=' ')}/{id}"
    return whole if len(whole) <= MAX_ID_LENGTH else sha256(whole.encode()).hexdigest()


def principal_of(run: Record) -> StoredActor | None:
    """Return the actor that a run acts for, with the chain behind it."""
    stored = run.data.get("on_behalf_of")
    return StoredActor.model_validate(stored) if stored is not None else None


def workflow_subject(key: str) -> str:
    """Return the name of a workflow in rules and in the action log."""
    return f"workflow/{key}"


def run_subject(run_id: str) -> str:
    """Return the name of a run in events and in the action log."""
    return f"{RUN_SUBJECTS}{run_id}"


async def timestamp(ctx: InternalContext) -> str:
    """Return the time by the storage's clock, as an ISO text in UTC."""
    return (await ctx.time()).isoformat()
