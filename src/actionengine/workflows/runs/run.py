"""A run at the step that is to be taken, and how it goes on: to another step, to its end, or into a pause."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json

from actionengine.errors import ActionError, ErrorCode
from actionengine.pipeline.internal_context import InternalContext
from actionengine.storage.port import UnitOfWork
from actionengine.storage.rows import Record
from actionengine.workflows.definitions.definition import Definition
from actionengine.workflows.definitions.steps import END, FAIL, PAUSE, RESERVED, ApprovalStep, Step
from actionengine.workflows.models import PausedFor, StepStatus
from actionengine.workflows.runs.events import (
    PAUSED,
    STEP_COMPLETED,
    RunPaused,
    StepCompleted,
    emit_run_ended,
    emit_run_started,
)
from actionengine.workflows.runs.step_handlers import StepContext, StepResult, run_scope
from actionengine.workflows.runs.store import RUNS, Store, open_store, run_subject, step_id, timestamp

MAX_OUTPUT_BYTES = 64 * 1024
"""Bytes of JSON of a step's output that later steps can refer to; of a longer one they see only how long it is."""

MAX_OUTPUTS_BYTES = 1024 * 1024
"""Bytes of JSON of what all steps of a run have given."""

_MAX_MESSAGE_LENGTH = 1000
"""Characters of the message of an error that is too long to be kept."""

_MAX_DETAILS_DEPTH = 32
"""Values within values of the details of an error: a payload has to hold them."""


class RunStepper:
    """A run at the step that is to be taken, and how it goes on from there."""

    def __init__(self, ctx: InternalContext, store: Store, run: Record, definition: Definition) -> None:
        self._ctx = ctx
        self._store = store
        self.run = run
        self.definition = definition
        self.step: Step = definition.step(run.data["step"])
        self.step_context = StepContext(ctx, store, run, run_scope(run))

    @classmethod
    async def load(cls, ctx: InternalContext, run_id: str, position: int) -> RunStepper | None:
        """The run, where it still is at this position."""
        store = open_store(ctx)
        run = await store.run(run_id)
        check_workflow_actor(ctx, run)
        ctx.add_subject(run_subject(run.id))
        ctx.act_as_lock_holder(run.id)
        if not is_at(run, position):
            return None
        return cls(ctx, store, run, await store.definition(run))

    @property
    def waits_for(self) -> str | None:
        """The approval that the step has asked for."""
        approval_id: str | None = self.run.data["approval_id"]
        return approval_id

    def limit_error(self) -> ActionError | None:
        """The error of a run that has taken all the steps, or been here as often, as it may; None before that."""
        data, step = self.run.data, self.step
        if data["position"] >= self.definition.max_steps:
            message = f"the run has taken {data['position']} steps: that is all it may"
            return ActionError(ErrorCode.UNPROCESSABLE, message, {"max_steps": self.definition.max_steps})
        if step.max_visits is not None and self._visits >= step.max_visits:
            message = f"the run has been at {step.name!r} {step.max_visits} times: that is all it may"
            return ActionError(ErrorCode.UNPROCESSABLE, message, {"step": step.name, "max_visits": step.max_visits})
        return None

    async def fail_at_limit(self, limit_error: ActionError) -> None:
        """Fail without taking the step. Where its failure leads to another step, it does so once: from there a run may
        come back, and has to end."""
        is_way_out = self.step.on_failure not in RESERVED and self._visits == self.step.max_visits
        has_steps_left = self.run.data["position"] < self.definition.max_steps
        may_go_on = has_steps_left and (is_way_out or self.step.on_failure == PAUSE)
        await self._fail_step("failed", self.step.on_failure if may_go_on else FAIL, limit_error)

    @property
    def _visits(self) -> int:
        visits: int = self.run.data["visits"].get(self.step.name, 0)
        return visits

    async def advance(self, done: StepResult, wakes: bool = False) -> None:
        """Go on from a step that has succeeded, or wait for whom it has asked to do something. With `wakes`, somebody
        else than the run's driver has done it."""
        if done.assignment_id is not None:
            await self.pause("assignment", assignment_id=done.assignment_id)
            return
        output = _kept(done.output, {**self.run.data["outputs"], self.step.name: None})
        locks = [lock for lock in self.run.data["locks"] if lock != done.released]
        if done.locked is not None and done.locked not in locks:
            locks.append(done.locked)
        target = done.next or self.step.next or self.definition.next_step(self.step.name)
        await self._take("succeeded", target, output, None, locks=locks, wakes=wakes)

    async def fail(self, error: ActionError) -> None:
        """The step has failed for good."""
        await self._fail_step("failed", self.step.on_failure, error)

    async def decline(self, error: ActionError) -> None:
        """What the step waited for is refused."""
        target = self.step.on_reject if isinstance(self.step, ApprovalStep) else self.step.on_failure
        await self._fail_step("rejected", target, error, wakes=True)

    async def _fail_step(self, status: StepStatus, target: str, error: ActionError, wakes: bool = False) -> None:
        stored = storable_error(error.to_dict(), _room({**self.run.data["outputs"], self.step.name: None}))
        await self._take(status, target, {"error": stored}, stored, wakes=wakes)

    async def pause(self, reason: PausedFor, **what: str) -> None:
        """Stop here until somebody acts: on what `approval_id` or `assignment_id` names."""
        await self._write({"status": "paused", "paused_for": reason, **what})
        self._emit_paused()

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
        data, step, now = self.run.data, self.step, await timestamp(self._ctx)
        changed: dict[str, Any] = {
            "position": data["position"] + 1,
            "visits": {**data["visits"], step.name: self._visits + (target != PAUSE)},
            "outputs": {**data["outputs"], step.name: output},
            "locks": data["locks"] if locks is None else locks,
            "approval_id": None,
            "assignment_id": None,
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
        wakes = (wakes or self._ctx.approved is not None) and changed["status"] == "running"
        if wakes:
            changed["dispatch"] = data["dispatch"] + 1
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
        self._emit_step(status)
        if changed.get("ended_at") is not None:
            await self._store.release_locks(self.run)
            await self._store.note_end(self.run)
            emit_run_ended(self._ctx, self.run)
        elif changed["status"] == "paused":
            self._emit_paused()
        elif wakes:
            emit_run_started(self._ctx, self.run)

    async def pause_when_asked(self, unit_of_work: UnitOfWork, approval_id: str) -> None:
        """Pause in the transaction that stores the approval which the step asks for: so whoever looks at the run, after
        the death of its driver too, finds that approval, and whoever decides it finds the run waiting.

        Raises `ActionError(idempotency_in_progress)` where somebody else has moved the run meanwhile.
        """
        runs, approved = unit_of_work.records(RUNS), self.step_context.ctx.approved
        run = await runs.get(self.run.id)
        waits_for = None if approved is None else approved.approval_id
        if run is None or not is_at(run, self.run.data["position"]) or run.data["approval_id"] != waits_for:
            raise _moved_meanwhile(self.run)
        now = (await unit_of_work.now()).isoformat()
        paused = {"status": "paused", "paused_for": "approval", "approval_id": approval_id, "updated_at": now}
        try:
            self.run = await runs.update(run.id, {**run.data, **paused}, run.version)
        except ActionError as refusal:
            if refusal.code is not ErrorCode.CONFLICT:
                raise
            raise _moved_meanwhile(run) from None
        self.step_context.ctx.emit_asked(PAUSED, self._paused_payload(), run_subject(run.id))

    async def _write(self, changed: dict[str, Any]) -> None:
        data = {**self.run.data, **changed, "updated_at": await timestamp(self._ctx)}
        self.run = await self._store.runs.update(self.run.id, data, self.run.version)

    def _emit_step(self, status: StepStatus) -> None:
        data = self.run.data
        payload = StepCompleted(
            run_id=self.run.id,
            workflow_key=data["workflow_key"],
            position=data["position"] - 1,
            step=self.step.name,
            type=self.step.type,
            status=status,
            next=data["step"],
            run_status=data["status"],
        )
        self._ctx.emit(STEP_COMPLETED, payload, subject=run_subject(self.run.id))

    def _emit_paused(self) -> None:
        self._ctx.emit(PAUSED, self._paused_payload(), subject=run_subject(self.run.id))

    def _paused_payload(self) -> RunPaused:
        data = self.run.data
        return RunPaused(
            run_id=self.run.id,
            workflow_key=data["workflow_key"],
            step=data["step"],
            approval_id=data["approval_id"],
            assignment_id=data["assignment_id"],
            error=data["error"],
        )


def is_at(run: Record, position: int) -> bool:
    """Return whether a run is at a position: about to take the step there, or waiting for the approval of that."""
    data = run.data
    is_waiting = data["status"] == "paused" and data["paused_for"] == "approval"
    return bool(data["position"] == position and (data["status"] == "running" or is_waiting))


def _moved_meanwhile(run: Record) -> ActionError:
    # The driver waits, and looks at the run again.
    message = f"the run {run.id} was moved by somebody else while its step asked for an approval"
    return ActionError(ErrorCode.IDEMPOTENCY_IN_PROGRESS, message, {"run_id": run.id})


def _kept(output: Any, others: dict[str, Any]) -> Any:
    size = len(to_json(output))
    return output if size <= _room(others) else {"omitted_bytes": size}


def _room(others: dict[str, Any]) -> int:
    """Bytes that an output may have beside those of the other steps."""
    return min(MAX_OUTPUT_BYTES, MAX_OUTPUTS_BYTES - len(to_json(others)))


def storable_error(error: dict[str, Any], most: int = MAX_OUTPUT_BYTES) -> dict[str, Any]:
    """An error, as `ActionError.to_dict` tells it, so that it can be kept: without the one character that no database
    keeps, and in `most` bytes, or shortened. What has gone wrong is told in any case."""
    if len(to_json(error)) > most or _is_deep(error):
        is_long = len(error["message"]) > _MAX_MESSAGE_LENGTH
        error = {
            **error,
            "message": f"{error['message'][:_MAX_MESSAGE_LENGTH]}…" if is_long else error["message"],
            "details": {},
        }
    kept: dict[str, Any] = _without_nul(error)
    return kept


def _is_deep(value: Any, depth: int = 0) -> bool:
    if not isinstance(value, dict | list):
        return False
    members = value.values() if isinstance(value, dict) else value
    return depth > _MAX_DETAILS_DEPTH or any(_is_deep(each, depth + 1) for each in members)


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, dict):
        return {_without_nul(name): _without_nul(each) for name, each in value.items()}
    return list(map(_without_nul, value)) if isinstance(value, list | tuple) else value


def check_workflow_actor(ctx: InternalContext, run: Record) -> None:
    """Raises `ActionError(forbidden)` for another actor than the run's workflow."""
    check_actor(ctx, run.data["workflow_key"], f"the run {run.id} is driven")


def check_actor(ctx: InternalContext, key: str, what: str) -> None:
    """Raises `ActionError(forbidden)` for another actor than a workflow."""
    if ctx.actor is None or ctx.actor.id != key:
        raise ActionError(ErrorCode.FORBIDDEN, f"{what} by workflow:{key} alone")
    ctx.replay_for_actor_only()
