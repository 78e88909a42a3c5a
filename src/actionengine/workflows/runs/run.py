"""`RunStepper`: moves a run from its current step to another one, to its end, or into a pause."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json

from actionengine.context import Actor
from actionengine.errors import ActionError, ErrorCode
from actionengine.pipeline.internal_context import InternalContext
from actionengine.storage.port import UnitOfWork
from actionengine.storage.records import RUNS
from actionengine.storage.rows import Record
from actionengine.workflows.definitions.definition import Definition
from actionengine.workflows.definitions.steps import END, FAIL, PAUSE, RESERVED, ApprovalStep, Step
from actionengine.workflows.models import StepStatus
from actionengine.workflows.runs.events import (
    WORKFLOW_PAUSED,
    WORKFLOW_STEP_COMPLETED,
    RunPaused,
    StepCompleted,
    emit_run_ended,
    emit_run_started,
)
from actionengine.workflows.runs.step_handlers import StepContext, StepResult, run_scope
from actionengine.workflows.runs.store import Store, open_store, principal_of, run_subject, step_id, timestamp

MAX_OUTPUT_BYTES = 64 * 1024
"""Bytes of JSON of an output that later steps can read. Of a longer one, they read only its length."""

MAX_OUTPUTS_BYTES = 1024 * 1024
"""Bytes of JSON of the outputs of all steps of a run."""

_MAX_MESSAGE_LENGTH = 1000
"""Characters of the message of an error that is too long to be stored."""

_MAX_DETAILS_DEPTH = 32
"""Levels of nesting in the details of an error. They have to fit into a payload."""


class RunStepper:
    """A run at its current step."""

    def __init__(self, ctx: InternalContext, store: Store, run: Record, definition: Definition) -> None:
        self._ctx = ctx
        self._store = store
        self.run = run
        self.definition = definition
        self.step: Step = definition.step(run.data["step"])
        self.step_context = StepContext(ctx, store, run, run_scope(run))

    @classmethod
    async def load(cls, ctx: InternalContext, run_id: str, position: int) -> RunStepper | None:
        """Return the run if it still is at this position, or None."""
        store = open_store(ctx)
        run = await store.run(run_id)
        check_workflow_actor(ctx, run)
        ctx.add_subject(run_subject(run.id))
        ctx.act_as_lock_holder(run.id)
        if not is_at(run, position):
            return None
        return cls(ctx, store, run, await store.definition(run))

    @property
    def approval_id(self) -> str | None:
        """The id of the approval that the run waits for."""
        approval_id: str | None = self.run.data["approval_id"]
        return approval_id

    def limit_error(self) -> ActionError | None:
        """Return the error of a run that has reached its limit of steps, or of visits to this step; None otherwise."""
        step, taken, max_steps = self.step, self.run.data["position"], self.definition.max_steps
        if taken >= max_steps:
            message = f"the run has taken {taken} steps, its limit (max_steps={max_steps}): raise it, or end the loop"
            return ActionError(ErrorCode.UNPROCESSABLE, message, {"max_steps": max_steps})
        if step.max_visits is not None and self._visits >= step.max_visits:
            message = f"the run has visited {step.name!r} {self._visits} times, its limit (max_visits)"
            return ActionError(ErrorCode.UNPROCESSABLE, message, {"step": step.name, "max_visits": step.max_visits})
        return None

    async def fail_at_limit(self, limit_error: ActionError) -> None:
        """Fail without performing the step. Its failure leads to another step once; a run that comes back ends."""
        is_way_out = self.step.on_failure not in RESERVED and self._visits == self.step.max_visits
        has_steps_left = self.run.data["position"] < self.definition.max_steps
        can_continue = has_steps_left and (is_way_out or self.step.on_failure == PAUSE)
        await self._fail_step("failed", self.step.on_failure if can_continue else FAIL, limit_error)

    @property
    def _visits(self) -> int:
        visits: int = self.run.data["visits"].get(self.step.name, 0)
        return visits

    async def advance(self, result: StepResult, resumes: bool = False) -> None:
        """Continue after a step that has succeeded, or wait for its assignment. With `resumes`, another actor than the
        workflow has completed the step."""
        if result.assignment_id is not None:
            paused = {"status": "paused", "paused_for": "assignment", "assignment_id": result.assignment_id}
            await self._write(paused)
            self._emit_paused()
            return
        output = _storable_output(result.output, {**self.run.data["outputs"], self.step.name: None})
        locks = [lock for lock in self.run.data["locks"] if lock != result.released]
        if result.locked is not None and result.locked not in locks:
            locks.append(result.locked)
        target = result.next or self.step.next or self.definition.next_step(self.step.name)
        await self._complete_step("succeeded", target, output, None, locks=locks, resumes=resumes)

    async def fail(self, error: ActionError) -> None:
        """Continue after a step that has failed permanently."""
        await self._fail_step("failed", self.step.on_failure, error)

    async def decline(self, error: ActionError) -> None:
        """Continue after a step whose approval is refused."""
        target = self.step.on_reject if isinstance(self.step, ApprovalStep) else self.step.on_failure
        await self._fail_step("rejected", target, error, resumes=True)

    async def _fail_step(self, status: StepStatus, target: str, error: ActionError, resumes: bool = False) -> None:
        stored = storable_error(error.to_dict(), _room({**self.run.data["outputs"], self.step.name: None}))
        await self._complete_step(status, target, {"error": stored}, stored, resumes=resumes)

    async def _complete_step(
        self,
        status: StepStatus,
        target: str,
        output: Any,
        error: dict[str, Any] | None,
        *,
        locks: list[str] | None = None,
        resumes: bool = False,
    ) -> None:
        """Record the step, and move the run: to another step, to its end, or into a pause at this one."""
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
            changed |= {"status": "paused", "paused_for": "failure", "error": error}
        else:
            changed |= {"status": "running", "step": target, "paused_for": None, "error": None}
        # No executor performs this run now, so it needs a new dispatch.
        resumes = (resumes or self._ctx.approved is not None) and changed["status"] == "running"
        if resumes:
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
            await self._store.record_end(self.run)
            emit_run_ended(self._ctx, self.run)
        elif changed["status"] == "paused":
            self._emit_paused()
        elif resumes:
            emit_run_started(self._ctx, self.run)

    async def pause_when_asked(self, unit_of_work: UnitOfWork, approval_id: str) -> None:
        """Pause in the transaction that stores the approval, so the run and its approval never disagree, even if the
        process dies.

        Raises `ActionError(idempotency_in_progress)` if the run has moved in the meantime.
        """
        runs, approved = unit_of_work.records(RUNS), self.step_context.ctx.approved
        run = await runs.get(self.run.id)
        approval_before = None if approved is None else approved.approval_id
        if run is None or not is_at(run, self.run.data["position"]) or run.data["approval_id"] != approval_before:
            raise _moved_error(self.run)
        now = (await unit_of_work.now()).isoformat()
        paused = {"status": "paused", "paused_for": "approval", "approval_id": approval_id, "updated_at": now}
        try:
            self.run = await runs.update(run.id, {**run.data, **paused}, run.version)
        except ActionError as refusal:
            if refusal.code is not ErrorCode.CONFLICT:
                raise
            raise _moved_error(run) from None
        self.step_context.ctx.emit_asked(WORKFLOW_PAUSED, self._paused_payload(), run_subject(run.id))

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
        self._ctx.emit(WORKFLOW_STEP_COMPLETED, payload, subject=run_subject(self.run.id))

    def _emit_paused(self) -> None:
        self._ctx.emit(WORKFLOW_PAUSED, self._paused_payload(), subject=run_subject(self.run.id))

    def _paused_payload(self) -> RunPaused:
        return RunPaused.model_validate({"run_id": self.run.id, **self.run.data})


def is_at(run: Record, position: int) -> bool:
    """Return whether a run is at a position: its step is next, or waits for an approval."""
    data = run.data
    is_waiting = data["status"] == "paused" and data["paused_for"] == "approval"
    return bool(data["position"] == position and (data["status"] == "running" or is_waiting))


def _moved_error(run: Record) -> ActionError:
    # The executor waits, and reads the run again.
    message = f"the run {run.id} has moved while its step asked for an approval: read it again"
    return ActionError(ErrorCode.IDEMPOTENCY_IN_PROGRESS, message, {"run_id": run.id})


def _storable_output(output: Any, others: dict[str, Any]) -> Any:
    size = len(to_json(output))
    return output if size <= _room(others) else {"omitted_bytes": size}


def _room(others: dict[str, Any]) -> int:
    """Return the bytes that an output may have, given those of the other steps."""
    return min(MAX_OUTPUT_BYTES, MAX_OUTPUTS_BYTES - len(to_json(others)))


def storable_error(error: dict[str, Any], max_bytes: int = MAX_OUTPUT_BYTES) -> dict[str, Any]:
    """Return an error, as `ActionError.to_dict` gives it, in a form that databases store: without NUL, and shortened
    if it is longer than `max_bytes`. Its code is kept in any case."""
    if len(to_json(error)) > max_bytes or _is_deep(error):
        is_long = len(error["message"]) > _MAX_MESSAGE_LENGTH
        error = {
            **error,
            "message": f"{error['message'][:_MAX_MESSAGE_LENGTH]}…" if is_long else error["message"],
            "details": {},
        }
    stored: dict[str, Any] = _without_nul(error)
    return stored


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
    """Raise `ActionError(forbidden)` for another actor than the run's workflow. The workflow then acts for the run's
    principal, if it has one; an executor knows only the workflow."""
    key = run.data["workflow_key"]
    check_actor(ctx, key, f"the run {run.id} is advanced")
    ctx.replay_for(Actor.workflow(key))
    principal = principal_of(run)
    if principal is not None:
        ctx.act_on_behalf_of(principal.actor)


def check_actor(ctx: InternalContext, key: str, what: str) -> None:
    """Raise `ActionError(forbidden)` for another actor than this workflow."""
    if ctx.actor is None or ctx.actor.id != key:
        raise ActionError(ErrorCode.FORBIDDEN, f"{what} only by workflow:{key}, not {ctx.actor}")
