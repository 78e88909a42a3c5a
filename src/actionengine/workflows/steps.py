"""The service `workflow_steps`: what drives a run. Each step is performed by one action, in one transaction with its
effect: the step's row, and where the run goes next.

Who drives, calls `next`, and then `perform` with the key `<run>/<position>`, until the run ends or pauses. It does not
matter how often, or by how many at once: a step that is taken is not taken again, since a run moves on from the version
in which it was read, or not at all. Only workflow actors may; the host makes these.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import AwareDatetime, Field
from pydantic_core import from_json, to_json
from returns.result import Result, Success

from actionengine.action_context import ActionContext
from actionengine.actions import Service, create_action, create_service
from actionengine.approval_record import PendingApproval
from actionengine.changes.models import Input
from actionengine.errors import ActionError, ActionException, ErrorCode, failing
from actionengine.plan import native
from actionengine.services.access import access_of
from actionengine.storage.port import APPROVALS, Record
from actionengine.workflows.conditions import holds
from actionengine.workflows.definition import END, FAIL, PAUSE, RESERVED, ApprovalStep, Definition, EventTrigger, Step
from actionengine.workflows.events import (
    PAUSED,
    STEP_TAKEN,
    RunPaused,
    StepTold,
)
from actionengine.workflows.models import RunPoint, StepStatus
from actionengine.workflows.performing import Done, Scene, about, known_to, perform
from actionengine.workflows.starting import start_run
from actionengine.workflows.store import Store, caused_id, run_subject, step_id, store_of, timestamp
from actionengine.workflows.telling import tell_end, tell_going
from actionengine.workflows.triggers import parse_trigger
from actionengine.workflows.values import filled

SERVICE = "workflow_steps"

FAILED_STEP = "failed_step"
"""In an error's details: the step that may be tried again. Without it, what has failed is not the step's doing."""

MOST_OUTPUT = 64 * 1024
"""Bytes of JSON of a step's output that later steps can refer to; of a longer one they see only how long it is."""

MOST_OUTPUTS = 1024 * 1024
"""Bytes of JSON of what all steps of a run have given."""

_MOST_TOLD = 1000
"""Characters of the message of an error that is too long to be kept."""

MAY_PASS = frozenset(
    {
        ErrorCode.CONFLICT,
        ErrorCode.TIMEOUT,
        ErrorCode.UNAVAILABLE,
        ErrorCode.HANDLER_ERROR,
        ErrorCode.IDEMPOTENCY_IN_PROGRESS,
    }
)
"""What another attempt may mend."""


class AtRun(Input):
    """A run, wherever it is."""

    run_id: str


class AtStep(AtRun):
    """A run, at a position."""

    position: int = Field(ge=0)


class Told(Input):
    """An error, as `ActionError.to_dict` tells it."""

    code: ErrorCode
    message: str
    details: dict[str, Any] = Field(default_factory=dict)


class GiveUp(AtStep):
    """The step at this position has failed as often as it may."""

    error: Told


class WaitFor(AtStep):
    """The step at this position waits for an approval."""

    approval_id: str


class Fire(Input):
    """What has set off a trigger: what its condition and its input refer to as `input`. `cause` is the event's id, or
    the scheduled time, and `at` when that was."""

    trigger_id: str
    input: dict[str, Any]
    started_by: str
    cause: str
    at: AwareDatetime


class Decline(Input):
    """An approval that will not be given: rejected, cancelled or expired."""

    approval_id: str


@native
async def _next(data: AtRun, ctx: ActionContext) -> Result[RunPoint, ActionError]:
    store = store_of(ctx)
    run = await store.run(data.run_id)
    _check_driver(ctx, run)
    return Success(_point(run, await store.definition(run)))


@native
async def _perform(data: AtStep, ctx: ActionContext) -> Result[RunPoint, ActionError]:
    journey = await Journey.at(ctx, data)
    if journey is None:
        return await _moved_on(data, ctx)
    step = journey.step
    try:
        if (bound := journey.bound()) is not None:
            await journey.fail_at(bound)
            return Success(_point(journey.run, journey.definition))
        done = await perform(journey.scene, step)
    except ActionException as refusal:
        if access_of(ctx).approved is not None:
            raise
        if (error := refusal.error).code in MAY_PASS:
            raise failing(error.code, error.message, **{**error.details, FAILED_STEP: step.name}) from None
        await journey.fail(refusal.error)
    else:
        await journey.go_on(done)
    return Success(_point(journey.run, journey.definition))


@native
async def _give_up(data: GiveUp, ctx: ActionContext) -> Result[RunPoint, ActionError]:
    journey = await Journey.at(ctx, data)
    if journey is None:
        return await _moved_on(data, ctx)
    await journey.fail(ActionError(data.error.code, data.error.message, data.error.details))
    return Success(_point(journey.run, journey.definition))


@native
async def _wait(data: WaitFor, ctx: ActionContext) -> Result[RunPoint, ActionError]:
    journey = await Journey.at(ctx, data)
    if journey is None or journey.run.data["status"] == "paused":
        return await _moved_on(data, ctx)
    await journey.pause("approval", approval_id=data.approval_id)
    return Success(_point(journey.run, journey.definition))


@native
async def _decline(data: Decline, ctx: ActionContext) -> Result[RunPoint | None, ActionError]:
    access = access_of(ctx)
    record = await access.records(APPROVALS).get(data.approval_id)
    pending = PendingApproval.of(record) if record is not None else None
    if pending is None or f"{pending.service}.{pending.action}" != f"{SERVICE}.perform" or _is_open(pending):
        access.nothing_changed()
        return Success(None)
    at = AtStep.model_validate(from_json(pending.payload))
    journey = await Journey.at(ctx, at)
    if journey is None or pending.status == "approved":
        return await _moved_on(at, ctx)
    how = pending.status if pending.status != "pending" else "expired"
    by = f" by {pending.decided_by}" if pending.decided_by else ""
    comment = f": {pending.comment}" if pending.comment else ""
    error = ActionError(
        ErrorCode.FORBIDDEN, f"the approval was {how}{by}{comment}", {"approval_id": pending.id, "status": how}
    )
    await journey.decline(error)
    return Success(_point(journey.run, journey.definition))


@native
async def _fire(data: Fire, ctx: ActionContext) -> Result[str | None, ActionError]:
    store = store_of(ctx)
    record = await store.triggers.get(data.trigger_id)
    head = await store.heads.get(record.data["workflow_key"]) if record is not None else None
    known = {"input": data.input}
    id = caused_id(data.at, data.trigger_id, data.cause)
    if head is not None:
        _check_actor(ctx, head.id, f"the trigger {data.trigger_id} is fired")
    if record is not None and head is not None and record.data["status"] == "active" and head.data["active"]:
        trigger = parse_trigger(record.data["trigger"])
        if not isinstance(trigger, EventTrigger) or trigger.when is None or holds(trigger.when, known):
            input = filled(trigger.input, known)
            # Its idempotency key may have expired since.
            if await store.runs.get(id) is None:
                await start_run(ctx, head.id, input, started_by=data.started_by, trigger_id=record.id, id=id)
                return Success(id)
    access_of(ctx).nothing_changed()
    return Success(None)


async def _moved_on(data: AtStep, ctx: ActionContext) -> Result[Any, ActionError]:
    """The answer where a run is somewhere else by now: where that is."""
    access_of(ctx).nothing_changed()
    store = store_of(ctx)
    run = await store.run(data.run_id)
    return Success(_point(run, await store.definition(run)))


def _check_driver(ctx: ActionContext, run: Record) -> None:
    _check_actor(ctx, run.data["workflow_key"], f"the run {run.id} is driven")


def _check_actor(ctx: ActionContext, key: str, what: str) -> None:
    if ctx.actor is None or ctx.actor.id != key:
        raise failing(ErrorCode.FORBIDDEN, f"{what} by workflow:{key} alone")


def _is_open(pending: PendingApproval) -> bool:
    return pending.is_open(datetime.now(UTC))


def _point(run: Record, definition: Definition) -> RunPoint:
    data = run.data
    retry = definition.step(data["step"]).retry if data["step"] is not None else None
    return RunPoint(
        run_id=run.id,
        workflow_key=data["workflow_key"],
        status=data["status"],
        step=data["step"],
        position=data["position"],
        turn=data["turn"],
        retry_attempts=retry.attempts if retry else 1,
        retry_seconds=retry.seconds if retry else 0.0,
        about=about(run, definition.step(data["step"])) if data["step"] is not None else None,
    )


class Journey:
    """A run at the step that is to be taken, and how it goes on from there."""

    def __init__(self, ctx: ActionContext, store: Store, run: Record, definition: Definition) -> None:
        self._ctx = ctx
        self._store = store
        self.run = run
        self.definition = definition
        self.step: Step = definition.step(run.data["step"])
        self.scene = Scene(ctx, access_of(ctx), store, run, known_to(run))

    @classmethod
    async def at(cls, ctx: ActionContext, data: AtStep) -> Journey | None:
        """The run, where it still is at this position."""
        store = store_of(ctx)
        run = await store.run(data.run_id)
        _check_driver(ctx, run)
        access_of(ctx).add_subject(run_subject(run.id))
        access_of(ctx).hold_locks_of(run.id)
        is_waiting = run.data["status"] == "paused" and run.data["paused_for"] == "approval"
        if run.data["position"] != data.position or not (run.data["status"] == "running" or is_waiting):
            return None
        return cls(ctx, store, run, await store.definition(run))

    def bound(self) -> ActionError | None:
        """What a run meets that goes round too often."""
        data, step = self.run.data, self.step
        if data["position"] >= self.definition.max_steps:
            message = f"the run has taken {data['position']} steps: that is all it may"
            return ActionError(ErrorCode.UNPROCESSABLE, message, {"max_steps": self.definition.max_steps})
        if step.max_visits is not None and self._visits >= step.max_visits:
            message = f"the run has been at {step.name!r} {step.max_visits} times: that is all it may"
            return ActionError(ErrorCode.UNPROCESSABLE, message, {"step": step.name, "max_visits": step.max_visits})
        return None

    async def fail_at(self, bound: ActionError) -> None:
        """The step is not taken. Where its failure leads to another step, it does so once: from there a run may come
        back, and has to end."""
        is_way_out = self.step.on_failure not in RESERVED and self._visits == self.step.max_visits
        has_steps_left = self.run.data["position"] < self.definition.max_steps
        may_go_on = has_steps_left and (is_way_out or self.step.on_failure == PAUSE)
        await self._stumble("failed", self.step.on_failure if may_go_on else FAIL, bound)

    @property
    def _visits(self) -> int:
        visits: int = self.run.data["visits"].get(self.step.name, 0)
        return visits

    async def go_on(self, done: Done) -> None:
        """The step has succeeded."""
        output = _kept(done.output, {**self.run.data["outputs"], self.step.name: None})
        locks = [lock for lock in self.run.data["locks"] if lock != done.released]
        if done.locked is not None and done.locked not in locks:
            locks.append(done.locked)
        target = done.next or self.step.next or self.definition.following(self.step.name)
        await self._take("succeeded", target, output, None, locks=locks)

    async def fail(self, error: ActionError) -> None:
        """The step has failed for good."""
        await self._stumble("failed", self.step.on_failure, error)

    async def decline(self, error: ActionError) -> None:
        """What the step waited for is refused."""
        target = self.step.on_reject if isinstance(self.step, ApprovalStep) else self.step.on_failure
        await self._stumble("rejected", target, error, wakes=True)

    async def _stumble(self, status: StepStatus, target: str, error: ActionError, wakes: bool = False) -> None:
        told = _storable(error.to_dict())
        await self._take(status, target, {"error": told}, told, wakes=wakes)

    async def pause(self, reason: str, *, approval_id: str | None) -> None:
        """Stop here until somebody acts."""
        await self._write({"status": "paused", "paused_for": reason, "approval_id": approval_id})
        self._tell_pause()

    async def _take(
        self,
        status: StepStatus,
        target: str,
        output: Any,
        error: dict[str, Any] | None,
        *,
        locks: list[str] | None = None,
        wakes: bool = False,
    ) -> None:
        """Write the step, and move the run on: to a step, to its end, or into a pause where it is."""
        data, step, now = self.run.data, self.step, timestamp()
        changed: dict[str, Any] = {
            "position": data["position"] + 1,
            "visits": {**data["visits"], step.name: self._visits + 1},
            "outputs": {**data["outputs"], step.name: output},
            "locks": data["locks"] if locks is None else locks,
            "approval_id": None,
        }
        if target == END:
            changed |= {"status": "succeeded", "step": None, "paused_for": None, "error": None, "ended_at": now}
        elif target == FAIL:
            changed |= {"status": "failed", "step": None, "paused_for": None, "error": error, "ended_at": now}
        elif target == PAUSE:
            # It is tried again from here.
            changed |= {"status": "paused", "paused_for": "failure", "error": error}
        else:
            changed |= {"status": "running", "step": target, "paused_for": None, "error": None}
        # Somebody else than its driver has moved the run: it has to be set going.
        wakes = (wakes or access_of(self._ctx).approved is not None) and changed["status"] == "running"
        if wakes:
            changed["turn"] = data["turn"] + 1
        await self._store.steps.insert(
            {
                "run_id": self.run.id,
                "position": data["position"],
                "step": step.name,
                "type": step.type,
                "status": status,
                "output": None if error is not None else output,
                "error": error,
                "action_id": self._ctx.action_id,
                "ended_at": now,
            },
            step_id(self.run.id, data["position"]),
        )
        await self._write(changed)
        self._tell_step(status)
        if changed.get("ended_at") is not None:
            await self._store.release_locks(self.run)
            tell_end(self._ctx, self.run)
        elif changed["status"] == "paused":
            self._tell_pause()
        elif wakes:
            tell_going(self._ctx, self.run)

    async def _write(self, changed: dict[str, Any]) -> None:
        data = {**self.run.data, **changed, "updated_at": timestamp()}
        self.run = await self._store.runs.update(self.run.id, data, self.run.version)

    def _tell_step(self, status: StepStatus) -> None:
        data = self.run.data
        told = StepTold(
            run_id=self.run.id,
            workflow_key=data["workflow_key"],
            position=data["position"] - 1,
            step=self.step.name,
            type=self.step.type,
            status=status,
            next=data["step"],
            run_status=data["status"],
        )
        self._ctx.emit(STEP_TAKEN, told, subject=run_subject(self.run.id))

    def _tell_pause(self) -> None:
        data = self.run.data
        told = RunPaused(
            run_id=self.run.id,
            workflow_key=data["workflow_key"],
            step=data["step"],
            approval_id=data["approval_id"],
            error=data["error"],
        )
        self._ctx.emit(PAUSED, told, subject=run_subject(self.run.id))


def _kept(output: Any, others: dict[str, Any]) -> Any:
    size = len(to_json(output))
    return output if size <= min(MOST_OUTPUT, MOST_OUTPUTS - len(to_json(others))) else {"omitted_bytes": size}


def _storable(told: dict[str, Any]) -> dict[str, Any]:
    """An error that can be kept: without the one character that no database keeps, and no longer than an output. What
    has gone wrong is told in any case."""
    if len(to_json(told)) > MOST_OUTPUT:
        told = {**told, "message": f"{told['message'][:_MOST_TOLD]}…", "details": {}}
    storable: dict[str, Any] = _without_nul(told)
    return storable


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, dict):
        return {_without_nul(name): _without_nul(each) for name, each in value.items()}
    return list(map(_without_nul, value)) if isinstance(value, list | tuple) else value


def _internal(name: str, description: str, handler: Any, validation: Any, *, read_only: bool = False) -> Any:
    return create_action(
        name=name,
        description=description,
        handler=handler,
        validation=validation,
        allowed_actors=("workflow",),
        read_only=read_only,
    )


workflow_steps: Service = create_service(
    name=SERVICE,
    description="What drives the runs of workflows: for workflow actors alone",
    actions=[
        _internal("next", "Where a run is", _next, AtRun, read_only=True),
        _internal("perform", "Take the step that a run is at", _perform, AtStep),
        _internal("give_up", "Have the step that a run is at failed for good", _give_up, GiveUp),
        _internal("wait", "Pause a run for an approval", _wait, WaitFor),
        _internal("fire", "Start the run that a trigger is for, where its condition holds", _fire, Fire),
        _internal("decline", "Move on a run whose approval is refused", _decline, Decline),
    ],
)
