"""Causes and effects of executions, approvals, events and runs, as the action log and the event log have them.

An execution is caused by the execution around it; a decision by its approval; and an outermost execution by the event,
the run or the approval that its request id names. An approval is caused by the execution that asked for it, an event by
the one that emitted it, and a run by the event of its start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from actionengine.storage.port import UnitOfWork
from actionengine.storage.records import APPROVALS, RUNS
from actionengine.storage.rows import EmittedEvent, LogRow, Record

Kind = Literal["execution", "approval", "event", "run"]
Key = tuple[Kind, str]
"""The kind and the id of a thing."""

RUN_STARTED = "workflows.started"
"""The type of the event of a run's start. Its subject names the run."""

RUN_SUBJECTS = "workflow_run/"
"""The beginning of the subject of a run."""

_APPROVAL_SUBJECTS = "approval/"
_DECISIONS = frozenset({"approvals.approve", "approvals.reject", "approvals.cancel"})
_MAX_ASKED = 20
"""Rows that are read to find the execution that asked for an approval, or that started a run: the first ones."""


class Thing(NamedTuple):
    """An execution with its row, an event, or an approval or a run with its document, which may be gone."""

    kind: Kind
    id: str
    row: LogRow | None = None
    event: EmittedEvent | None = None
    record: Record | None = None

    @property
    def key(self) -> Key:
        """The kind and the id."""
        return self.kind, self.id

    @classmethod
    def of_row(cls, row: LogRow) -> Thing:
        """Return an execution."""
        return cls("execution", row.id, row=row)

    @classmethod
    def of_event(cls, event: EmittedEvent) -> Thing:
        """Return an event."""
        return cls("event", event.id, event=event)


class Effects(NamedTuple):
    """The effects of things, each with the key of its cause. Things of the kinds in `unread` may have more."""

    found: Sequence[tuple[Key, Thing]]
    unread: frozenset[Kind]


def approval_subject(approval_id: str) -> str:
    """Return the name of an approval in the action log."""
    return f"{_APPROVAL_SUBJECTS}{approval_id}"


def _approvals_of(row: LogRow) -> list[str]:
    """Return the approvals of a decision: the one that it decides, and one that its action waits for in turn."""
    if row.action not in _DECISIONS:
        return []
    names = (subject for subject in row.subjects if subject.startswith(_APPROVAL_SUBJECTS))
    return [subject.removeprefix(_APPROVAL_SUBJECTS) for subject in names]


def _asked_by(row: LogRow) -> list[str]:
    """Return the approvals that an execution asked for."""
    if row.outcome == "approval_required" and row.approved_by is None and row.approval_id is not None:
        return [row.approval_id]
    return _approvals_of(row)[1:]


def _run_started(event: EmittedEvent) -> str | None:
    """Return the run that began with an event."""
    if event.type != RUN_STARTED or event.subject is None or not event.subject.startswith(RUN_SUBJECTS):
        return None
    return event.subject.removeprefix(RUN_SUBJECTS)


class Causes:
    """The causes and effects of one tenant, as one unit of work sees them."""

    def __init__(self, unit_of_work: UnitOfWork) -> None:
        self._unit_of_work = unit_of_work

    async def find(self, kind: Kind, id: str) -> Thing | None:
        """Return the thing of this kind and id; None for none."""
        if kind == "execution":
            return next(map(Thing.of_row, await self._unit_of_work.find_log("id", [id], 1)), None)
        if kind == "event":
            return next(map(Thing.of_event, await self._unit_of_work.find_events("id", [id], 1)), None)
        return next(iter(await self._documents(kind, [id])), None)

    async def remembered(self, kind: Kind, id: str) -> Thing | None:
        """Return an approval or a run whose document is gone, if the logs have its cause."""
        gone = Thing(kind, id)
        return gone if kind in ("approval", "run") and await self.cause_of(gone) is not None else None

    async def cause_of(self, thing: Thing) -> Thing | None:
        """Return the cause of a thing; None where the log has none."""
        if thing.row is not None:
            return await self._cause_of_execution(thing.row)
        if thing.event is not None:
            return await self.find("execution", thing.event.action_id)
        if thing.kind == "approval":
            rows = [
                *await self._unit_of_work.find_log("approval_id", [thing.id], _MAX_ASKED),
                *await self._unit_of_work.find_log("subject", [approval_subject(thing.id)], _MAX_ASKED),
            ]
            return next((Thing.of_row(row) for row in rows if thing.id in _asked_by(row)), None)
        rows = await self._unit_of_work.find_log("subject", [f"{RUN_SUBJECTS}{thing.id}"], _MAX_ASKED)
        events = await self._unit_of_work.find_events("action_id", [row.id for row in rows], _MAX_ASKED)
        return next((Thing.of_event(event) for event in events if _run_started(event) == thing.id), None)

    async def _cause_of_execution(self, row: LogRow) -> Thing | None:
        for id in _approvals_of(row)[:1]:
            return await self.find("approval", id) or Thing("approval", id)
        if row.parent_id is not None:
            return await self.find("execution", row.parent_id)
        if row.request_id is None:
            return None
        kinds: Sequence[Kind] = ("event", "run", "approval")
        for kind in kinds:
            if (found := await self.find(kind, row.request_id)) is not None:
                return found
        return None

    async def effects_of(self, things: Sequence[Thing], limit: int) -> Effects:
        """Return the direct effects of things, at most so many by each of the links, in a constant number of
        statements."""
        unit_of_work = self._unit_of_work
        executions = [thing.id for thing in things if thing.kind == "execution"]
        approvals = {approval_subject(thing.id): thing for thing in things if thing.kind == "approval"}
        others = {thing.id: thing for thing in things if thing.kind != "execution"}
        nested = await unit_of_work.find_log("parent_id", executions, limit)
        decisions = await unit_of_work.find_log("subject", list(approvals), limit)
        requested = await unit_of_work.find_log("request_id", list(others), limit)
        emitted = await unit_of_work.find_events("action_id", executions, limit)
        found: list[tuple[Key, Thing]] = [
            *((("execution", row.parent_id), Thing.of_row(row)) for row in nested if row.parent_id is not None),
            *((("approval", id), Thing.of_row(row)) for row in decisions for id in _approvals_of(row)[:1]),
            *(
                (others[row.request_id].key, Thing.of_row(row))
                for row in requested
                if row.parent_id is None and row.request_id is not None
            ),
            *((("execution", event.action_id), Thing.of_event(event)) for event in emitted),
            *await self._asked_and_started(things),
        ]
        unread: set[Kind] = set()
        if nested.next or emitted.next:
            unread.add("execution")
        if decisions.next or requested.next:
            unread.add("approval")
        if requested.next:
            unread |= {"event", "run"}
        return Effects(found, frozenset(unread))

    async def _asked_and_started(self, things: Sequence[Thing]) -> list[tuple[Key, Thing]]:
        """Return the approvals that executions asked for, and the runs that began with events."""
        approvals = {id: thing.key for thing in things if thing.row is not None for id in _asked_by(thing.row)}
        runs = {id: thing.key for thing in things if thing.event is not None and (id := _run_started(thing.event))}
        causes: Sequence[tuple[Kind, dict[str, Key]]] = (("approval", approvals), ("run", runs))
        return [
            (wanted[thing.id], thing)
            for kind, wanted in causes
            if wanted
            for thing in await self._documents(kind, list(wanted), missing=True)
        ]

    async def _documents(self, kind: Kind, ids: Sequence[str], missing: bool = False) -> list[Thing]:
        """Return approvals or runs with their documents, and if asked for, also those whose document is missing."""
        collection = APPROVALS if kind == "approval" else RUNS
        records = {record.id: record for record in await self._unit_of_work.records(collection).get_all(ids)}
        return [Thing(kind, id, record=records.get(id)) for id in ids if missing or id in records]
