"""The tree of causes around an execution, an approval, an event or a run: `action_log.tree`.

The tree is built from the cause of all downwards, level by level: a level takes a constant number of statements. The
way from the cause of all to the thing that was asked for is in it first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Self

from pydantic import Field, model_validator
from returns.result import Result, Success

from actionengine.builtin.action_log import LogEntry
from actionengine.builtin.causes import Causes, Key, Kind, Thing
from actionengine.errors import ActionError, not_found
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.pending_approval import PendingApproval
from actionengine.pipeline.plan import sync_and_async
from actionengine.schemas.models import Id, Input, Output
from actionengine.storage.pages import MAX_PAGE_BYTES
from actionengine.storage.records import event_id
from actionengine.storage.rows import Record, log_id

MAX_NODES = 500
"""Nodes of a tree."""

MAX_LEVELS = 100
"""Levels of a tree, and steps from a thing to the cause of all."""

MAX_TREE_BYTES = MAX_PAGE_BYTES
"""Bytes of the inputs, outputs and errors of a tree."""


class TreeOf(Input):
    """One execution, approval, event or run: exactly one of the fields is given."""

    id: Id | None = Field(default=None, description="The id of an execution on the action log.")
    approval_id: Id | None = Field(default=None, description="The id of an approval.")
    event_id: Id | None = Field(default=None, description="The id of an event.")
    run_id: Id | None = Field(default=None, description="The id of a run of a workflow.")

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if len(self.model_fields_set - {name for name, value in self if value is None}) != 1:
            raise ValueError("give exactly one of id, approval_id, event_id and run_id")
        return self

    @property
    def given(self) -> tuple[Kind, str]:
        """The kind and the id of the thing."""
        kinds: Sequence[tuple[Kind, str | None]] = (
            ("execution", self.id),
            ("approval", self.approval_id),
            ("event", self.event_id),
            ("run", self.run_id),
        )
        return next((kind, id) for kind, id in kinds if id is not None)


class ApprovalCause(Output):
    """An approval in a tree."""

    policy: str = Field(description="The action whose policy asked for it.")
    permission: str = Field(description="The permission that an approver needs.")
    expires_at: datetime = Field(description="The time, in UTC, after which no approver can decide it.")
    decided_by: str | None = Field(description="The actor that decided, as type:id; null while it is pending.")
    decided_at: datetime | None = Field(description="The time of the decision, in UTC; null while it is pending.")
    comment: str | None = Field(description="The reason for the decision.")


class EventCause(Output):
    """An event in a tree."""

    subject: str | None = Field(description="The thing that it is about, such as jobs/17.")
    position: int = Field(description="Its position in the tenant's event log.")


class RunCause(Output):
    """A run in a tree."""

    workflow_version: int = Field(description="The version of the workflow.")
    step: str | None = Field(description="The step that it is at; null once it has ended.")
    paused_for: str | None = Field(description="The reason of a pause: an approval, an assignment or an error.")
    approval_id: str | None = Field(description="The approval that it waits for.")
    assignment_id: str | None = Field(description="The assignment that it waits for.")
    trigger_id: str | None = Field(description="The trigger that started it; null for a caller.")
    ended_at: datetime | None = Field(description="The end, in UTC; null until then.")


class CauseNode(Output):
    """An execution, an approval, an event or a run, with the field that describes its kind; the other ones are None.

    `title` is an action, the type of an event or the key of a workflow. `status` is the outcome of an execution, or the
    state of an approval or of a run. It is None for an event, and for an approval or a run whose document is gone.
    """

    kind: Kind = Field(description="An execution, an approval, an event or a run.")
    id: str = Field(description="The id of it.")
    parent: str | None = Field(description="The id of the node that caused it; null for the root.")
    depth: int = Field(description="The number of nodes above it.")
    title: str = Field(description="The action, the type of the event, or the key of the workflow.")
    status: str | None = Field(description="The outcome, or the state of an approval or a run; null for an event.")
    at: datetime | None = Field(description="The time, in UTC; null where it is not known.")
    actor: str | None = Field(description="The actor, as type:id; null without one.")
    is_complete: bool = Field(description="False where the tree may lack things that it has caused.")
    entry: LogEntry | None = Field(default=None, description="The row of an execution; null for anything else.")
    approval: ApprovalCause | None = Field(default=None, description="An approval; null for anything else.")
    event: EventCause | None = Field(default=None, description="An event; null for anything else.")
    run: RunCause | None = Field(default=None, description="A run; null for anything else.")


class LogTree(Output):
    """The tree of causes around a thing: the cause of all and everything that came of it, each node after its cause.

    A tree has at most 500 nodes on 100 levels and 4 MiB of JSON; `truncated` says what is left out.
    """

    id: str = Field(description="The id of the thing that was asked for.")
    root: str = Field(description="The id of the first node.")
    nodes: tuple[CauseNode, ...] = Field(description="The nodes, the root first, each after the node that caused it.")
    truncated: tuple[str, ...] = Field(description="What the tree leaves out; empty for a whole tree.")


class _Tree:
    """A tree while it grows."""

    def __init__(self, causes: Causes) -> None:
        self._causes = causes
        self._things: dict[Key, Thing] = {}
        self._children: dict[Key | None, list[Thing]] = {}
        self._incomplete: dict[Key, None] = {}
        self._cut_off: Thing | None = None
        self._bytes = 0

    async def grow(self, start: Thing) -> None:
        """Add the way from the cause of all to a thing, and then the effects of all that is in the tree."""
        level = await self._way_to(start)
        for cause, thing in zip((None, *level), level, strict=False):
            self._put(cause and cause.key, thing)
        for _ in range(MAX_LEVELS):
            if not level:
                return
            effects = await self._causes.effects_of(level, MAX_NODES - len(self._things) + 1)
            self._incomplete.update((thing.key, None) for thing in level if thing.kind in effects.unread)
            found = sorted(effects.found, key=lambda each: each[1].id)
            level = [thing for cause, thing in found if self._add(cause, thing)]
        self._incomplete.update((thing.key, None) for thing in level)

    async def _way_to(self, thing: Thing) -> list[Thing]:
        """Return the cause of all, the thing that it caused, and so on to the given one."""
        way, size = {thing.key: thing}, _bytes_of(thing)
        cause = await self._causes.cause_of(thing)
        while cause is not None and cause.key not in way:
            if len(way) == MAX_LEVELS or size >= MAX_TREE_BYTES:
                self._cut_off = cause
                break
            way[cause.key] = cause
            size += _bytes_of(cause)
            cause = await self._causes.cause_of(cause)
        return list(way.values())[::-1]

    def _add(self, cause: Key, thing: Thing) -> bool:
        """Add a new thing below its cause, if there is room. Return whether it was added."""
        if thing.key in self._things or cause not in self._things:
            return False
        if len(self._things) >= MAX_NODES or self._bytes >= MAX_TREE_BYTES:
            self._incomplete[cause] = None
            return False
        self._put(cause, thing)
        return True

    def _put(self, cause: Key | None, thing: Thing) -> None:
        self._things[thing.key] = thing
        self._children.setdefault(cause, []).append(thing)
        self._bytes += _bytes_of(thing)

    def nodes(self, now: datetime) -> Iterator[CauseNode]:
        """Yield the nodes, each before those that it caused; these by their ids, which begin with their time."""
        waiting: list[tuple[Thing, str | None, int]] = [(thing, None, 0) for thing in self._children[None]]
        while waiting:
            thing, parent, depth = waiting.pop()
            yield CauseNode(
                kind=thing.kind,
                id=thing.id,
                parent=parent,
                depth=depth,
                is_complete=thing.key not in self._incomplete,
                **_description(thing, now),
            )
            below = sorted(self._children.get(thing.key, ()), key=lambda each: each.id, reverse=True)
            waiting += [(each, thing.id, depth + 1) for each in below]

    def truncated(self) -> tuple[str, ...]:
        """Return what is left out, as sentences."""
        left_out = []
        if self._cut_off is not None:
            left_out.append(
                f"{self._cut_off.kind} {self._cut_off.id} and its causes: at most {MAX_LEVELS} are followed, and "
                f"{MAX_TREE_BYTES >> 20} MiB"
            )
        if self._incomplete:
            (kind, id), *others = self._incomplete
            more = f" and {len(others)} more" if others else ""
            left_out.append(
                f"effects of {kind} {id}{more}: a tree has at most {MAX_NODES} nodes, {MAX_LEVELS} levels and "
                f"{MAX_TREE_BYTES >> 20} MiB"
            )
        return tuple(left_out)


def _bytes_of(thing: Thing) -> int:
    row = thing.row
    return sum(len(each or b"") for each in (row.input, row.output, row.error)) if row is not None else 0


def _description(thing: Thing, now: datetime) -> dict[str, Any]:
    """Return the fields of a node that depend on its kind."""
    if thing.row is not None:
        entry = LogEntry.of(thing.row)
        return {
            "title": entry.action,
            "status": entry.outcome,
            "at": entry.started_at,
            "entry": entry,
            "actor": f"{entry.actor_type}:{entry.actor_id}" if entry.actor_type is not None else None,
        }
    if thing.event is not None:
        event = thing.event
        return {
            "title": event.type,
            "status": None,
            "at": event.occurred_at,
            "actor": f"{event.actor_type}:{event.actor_id}" if event.actor_type is not None else None,
            "event": EventCause(subject=event.subject, position=event.position),
        }
    if thing.record is None:
        return {"title": thing.kind, "status": None, "at": None, "actor": None}
    return _approval(thing.record, now) if thing.kind == "approval" else _run(thing.record)


def _approval(record: Record, now: datetime) -> dict[str, Any]:
    pending = PendingApproval.of(record)
    is_expired = pending.status == "pending" and not pending.is_open(now)
    return {
        "title": f"{pending.service}.{pending.action}",
        "status": "expired" if is_expired else pending.status,
        "at": pending.created_at,
        "actor": pending.requested_by,
        "approval": ApprovalCause.model_validate(pending, from_attributes=True),
    }


def _run(record: Record) -> dict[str, Any]:
    data = record.data
    return {
        "title": data["workflow_key"],
        "status": data["status"],
        "at": data["created_at"],
        "actor": data["started_by"],
        "run": RunCause.model_validate(data),
    }


@sync_and_async
async def tree(data: TreeOf, ctx: InternalContext) -> Result[LogTree, ActionError]:
    """Return the tree of causes around a thing of the caller's tenant."""
    kind, id = data.given
    if kind == "execution":
        id = log_id(id)
    elif kind == "event":
        id = event_id(id)
    causes = Causes(ctx.unit_of_work)
    start = await causes.find(kind, id) or await causes.remembered(kind, id)
    if start is None:
        raise not_found(kind, id)
    tree = _Tree(causes)
    await tree.grow(start)
    nodes = tuple(tree.nodes(await ctx.unit_of_work.now()))
    found = LogTree(id=start.id, root=nodes[0].id, nodes=nodes, truncated=tree.truncated())
    # If the log had this tree, a later tree around it would repeat it.
    ctx.set_logged_output({"root": found.root, "nodes": len(nodes), "truncated": found.truncated})
    return Success(found)
