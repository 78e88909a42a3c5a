"""A campaign: generated actions, previewed and then executed with their plans, while others write the same things.

Each thing that an action changes is a cell with a count, and each change adds one to it. So each state of a cell is
reached once: by an execution with a plan, and then it is the state that the preview showed, or by another execution.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from returns.result import Failure, Result, Success
from sqlalchemy import select, update

from actionengine import (
    ActionContext,
    ActionError,
    Actor,
    Engine,
    ErrorCode,
    RequestContext,
    Tenant,
    create_action,
    create_service,
)
from tests.harness import ANN
from tests.previews.tables import Stock, stock

CELLS = ("doc/a", "doc/b", "row/a", "row/b", "core/c", "core/d")
DOCUMENT_CELLS = CELLS[:2]
KINDS = ("change", "insert", "emit", "nested", "failing")

OTHER = "other"
"""The `by` of executions without a plan."""

State = tuple[str, int]
"""A cell, and its count."""


def step(data: Mapping[str, Any], ctx: ActionContext) -> list[State]:
    """Do one step: change a cell, add a document, emit, or execute steps in another action. Return the changes."""
    kind, by = data["kind"], data["by"]
    if kind == "change":
        return [_change(data["cell"], by, ctx)]
    if kind == "insert":
        ctx.records("made").insert({"by": by, "at": ctx.now.isoformat(), "id": ctx.new_id()})
    elif kind == "emit":
        ctx.emit("Stepped", {"by": by, "id": ctx.new_id()})
    elif kind == "nested":
        # What the default event says of a result is compared, too, and would hide that the writes are not.
        name = "run" if data["by"] != OTHER else "disturb"
        answer = ctx.execute("campaign", name, {"steps": data["steps"]})
        if isinstance(answer, Failure):
            raise answer.failure()
        return list(answer.unwrap() or ())
    else:
        assert isinstance(ctx.execute("campaign", "failing", {"steps": data["steps"]}), Failure)
    return []


def _change(cell: str, by: str, ctx: ActionContext) -> State:
    kind, _, id = cell.partition("/")
    if kind == "doc":
        record = ctx.records("cells").get(id)
        assert record is not None
        ctx.records("cells").update(id, {"count": record.data["count"] + 1}, record.version)
        return cell, record.data["count"] + 1
    if kind == "row":
        # Without a plan, such a handler has to lock what it reads, or it overwrites what others write.
        locks = by == OTHER
        row = ctx.session.get(Stock, (ctx.tenant.id, id), populate_existing=True, with_for_update=locks)
        assert row is not None
        row.count += 1
        ctx.session.flush()
        return cell, row.count
    mine = (stock.c.tenant_id == ctx.tenant.id) & (stock.c.id == id)
    changed = update(stock).where(mine).values(count=stock.c.count + 1).returning(stock.c.count)
    return cell, ctx.session.execute(changed).scalar_one()


def disturb(data: dict[str, Any], ctx: ActionContext) -> Result[list[State], Any]:
    """Do the steps, and return the changes."""
    return Success([change for each in data["steps"] for change in step(each, ctx)])


def run(data: dict[str, Any], ctx: ActionContext) -> Result[Any, Any]:
    """Do the steps. Its result, and so its event, does not say what they have changed."""
    disturb(data, ctx)
    return Success(None)


def failing(data: dict[str, Any], ctx: ActionContext) -> Result[Any, Any]:
    """Do the steps, and fail."""
    run(data, ctx)
    return Failure("refused by the campaign")


def prepare(data: dict[str, Any], ctx: ActionContext) -> Result[Any, Any]:
    """Make the cells."""
    for cell in data["cells"]:
        kind, _, id = cell.partition("/")
        if kind == "doc":
            ctx.records("cells").insert({"count": 0}, id)
        else:
            ctx.session.add(Stock(tenant_id=ctx.tenant.id, id=id, count=0))
    return Success(None)


def counts(data: dict[str, Any], ctx: ActionContext) -> Result[Any, Any]:
    """Return the counts of the cells."""
    found = {f"doc/{record.id}": record.data["count"] for record in ctx.records("cells").list()}
    if len(data["cells"]) > len(DOCUMENT_CELLS):
        rows = ctx.session.execute(select(stock.c.id, stock.c.count).where(stock.c.tenant_id == ctx.tenant.id))
        found |= {f"{'row' if row.id in 'ab' else 'core'}/{row.id}": row.count for row in rows}
    return Success(found)


def made(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    """Return the added documents, by their `by`."""
    found: dict[str, list[Any]] = {}
    page = ctx.records("made").list(limit=1000)
    while page:
        for record in page:
            found.setdefault(record.data["by"], []).append([record.id, record.data])
        page = ctx.records("made").list(limit=1000, after=page.next) if page.next else []  # type: ignore[assignment]
    return Success(found)


SERVICE = create_service(
    name="campaign",
    description="A campaign",
    actions=[
        create_action(name="run", description="", handler=run),
        create_action(name="disturb", description="", handler=disturb, emits=["Stepped"]),
        create_action(name="failing", description="", handler=failing, emits=["Stepped"]),
        create_action(name="prepare", description="", handler=prepare),
        create_action(name="counts", description="", handler=counts, read_only=True),
        create_action(name="made", description="", handler=made, read_only=True),
    ],
)


def steps_for(dice: random.Random, cells: tuple[str, ...], by: str, depth: int = 0) -> list[dict[str, Any]]:
    """Return random steps."""
    kinds = KINDS if depth < 2 else KINDS[:3]
    weights = (6, 2, 1, 1, 1)[: len(kinds)]
    steps = []
    for kind in dice.choices(kinds, weights, k=dice.randint(1, 4)):
        made: dict[str, Any] = {"kind": kind, "by": by}
        if kind == "change":
            made["cell"] = dice.choice(cells)
        elif kind in ("nested", "failing"):
            made["steps"] = steps_for(dice, cells, by, depth + 1)
        steps.append(made)
    return steps


def effect_of(steps: list[dict[str, Any]]) -> dict[str, int]:
    """Return how often steps change each cell, without those that fail."""
    changed: dict[str, int] = {}
    for each in steps:
        if each["kind"] == "change":
            changed[each["cell"]] = changed.get(each["cell"], 0) + 1
        elif each["kind"] == "nested":
            for cell, times in effect_of(each["steps"]).items():
                changed[cell] = changed.get(cell, 0) + times
    return changed


def planned_changes(writes: Any) -> dict[str, tuple[int, int]]:
    """Return the first and the last count of each cell, as a preview showed them."""
    found: dict[str, tuple[int, int]] = {}

    def add(cell: str, before: int, after: int) -> None:
        first, last = found.get(cell, (before, after))
        found[cell] = min(before, first), max(after, last)

    for write in writes:
        if write.target == "cells":
            add(f"doc/{write.id}", write.before["count"], write.after["count"])
        elif write.target == "pv_stock" and write.kind == "update":
            add(f"row/{write.id}", write.before["count"], write.after["count"])
        elif write.target == "pv_stock":
            add(f"core/{write.before[0]['id']}", write.before[0]["count"], write.after[0]["count"])
    return found


@dataclass
class Campaign:
    """Runs previews and plans on one engine, and knows what must be there at the end."""

    engine: Engine
    tenant: Tenant
    cells: tuple[str, ...]
    states: set[State] = field(default_factory=set)
    made: dict[str, list[Any]] = field(default_factory=dict)
    committed = 0
    conflicts = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def context(self, by: Actor = ANN, **fields: Any) -> RequestContext:
        """Return the context of a request."""
        return RequestContext(self.tenant, by, source="campaign", **fields)

    def execute(self, name: str, payload: Any, **fields: Any) -> Any:
        """Return the value of an execution, or its error."""
        answer = self.engine.execute_action("campaign", name, payload, self.context(**fields))
        return answer.failure() if isinstance(answer, Failure) else answer.unwrap()

    def prepare(self) -> None:
        """Make the cells."""
        assert self.execute("prepare", {"cells": list(self.cells)}) is None

    def disturb(self, dice: random.Random) -> None:
        """Execute random steps without a plan."""
        steps = steps_for(dice, self.cells, OTHER)
        answer = self.execute("disturb", {"steps": steps})
        if isinstance(answer, ActionError):
            assert answer.code is ErrorCode.CONFLICT, answer.to_dict()
        else:
            self._reach(tuple(each) for each in answer)

    def play(self, dice: random.Random, number: str, between: Callable[[], object] | None = None) -> None:
        """Preview random steps, let others write, and execute the steps with the plan: what is committed is what the
        preview showed, or the answer is `conflict` and nothing is."""
        steps = steps_for(dice, self.cells, number)
        payload = {"steps": steps}
        previewed = self.engine.preview("campaign", "run", payload, self.context())
        if isinstance(previewed, Failure):
            assert previewed.failure().code is ErrorCode.CONFLICT, previewed.failure().to_dict()
            return
        preview = previewed.unwrap()
        changes = planned_changes(preview.writes)
        # Another writer may change a row between the handler's read and its write: both states are then shown.
        assert changes.keys() == effect_of(steps).keys()
        assert all(last - first <= effect_of(steps)[cell] for cell, (first, last) in changes.items())
        added = [[write.id, write.after] for write in preview.writes if write.target == "made"]
        self.note("planned", number, changes, added)
        if between is not None:
            between()
        answer = self.execute("run", payload, plan=preview.plan)
        if isinstance(answer, ActionError):
            assert answer.code is ErrorCode.CONFLICT, answer.to_dict()
            self.note("refused", number)
            with self._lock:
                self.conflicts += 1
            return
        self.note("committed", number)
        self.keep(number, changes, added)

    def note(
        self, what: str, number: str, changes: Mapping[str, Any] | None = None, added: list[Any] | None = None
    ) -> None:
        """Note what is about to happen, or has."""

    def keep(self, number: str, changes: Mapping[str, Any], added: list[Any]) -> None:
        """Remember what a plan has committed."""
        with self._lock:
            self.committed += 1
            if added:
                self.made[number] = sorted(added)
        self._reach((cell, count) for cell, (first, last) in changes.items() for count in range(first + 1, last + 1))

    def has_committed(self, number: str) -> bool:
        """Return whether the action log has a committed execution of these steps."""
        query = {"action": "campaign.run", "outcome": "succeeded", "limit": 100}
        page = self.engine.execute_action("action_log", "list", query, self.context(by=Actor.system())).unwrap()
        return any(entry.parent_id is None and entry.input["steps"][0]["by"] == number for entry in page.items)

    def check(self) -> None:
        """Check that the storage has what was committed, and nothing else."""
        found = self.execute("counts", {"cells": list(self.cells)})
        # Each state of a cell was reached once, and none is missing.
        assert self.states == {(cell, count) for cell in self.cells for count in range(1, found[cell] + 1)}
        kept = {by: sorted(each) for by, each in self.execute("made", None).items() if by != OTHER}
        assert kept == self.made

    def _reach(self, states: Iterable[State]) -> None:
        with self._lock:
            for state in states:
                assert state not in self.states, f"{state} was committed twice"
                self.states.add(state)
