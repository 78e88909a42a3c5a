"""The ends of an execution without success: a replay, a pending approval, a failure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

from returns.result import Failure, Success

from actionengine.concurrency.backoff import delay, full_jitter, sleep
from actionengine.concurrency.uninterrupted import uninterrupted
from actionengine.errors import ActionError, ErrorCode
from actionengine.hooks import PipelineResult
from actionengine.pipeline.action_log import LogBuffer, outcome_of
from actionengine.pipeline.approvals import Approvals
from actionengine.pipeline.authorization import Authorization
from actionengine.pipeline.execution import ApprovalNeeded, Execution, FailureWrite
from actionengine.pipeline.idempotency import Replayed
from actionengine.pipeline.payload import Limits
from actionengine.pipeline.pending_approval import error_for, mark_expired
from actionengine.pipeline.rehearsal import Rehearsals
from actionengine.pipeline.stages import ActionResult, Stage
from actionengine.pipeline.stored_plan import find_plan, use_plan
from actionengine.pipeline.user_code import log_crash, logger, timeout_error
from actionengine.pipeline.validation import try_accept_payload
from actionengine.pipeline.write_set import Effects
from actionengine.storage.errors import SerializationFailure, StorageError, StorageTimeout, StorageUnavailable
from actionengine.storage.port import Storage
from actionengine.storage.rows import LogRow, Recording

RERUN_DELAY = 0.004
"""The upper bound of the delay before the first rerun, in seconds. It doubles with each rerun."""

_FAILURE_ROW_TIMEOUT = 2.0
"""Seconds that writing the row of a failed execution may take, for an action with a deadline."""


class Outcomes:
    """Ends executions, each with its row on the action log. `claim` and `commit` are stages of the pipeline."""

    def __init__(
        self,
        storage: Storage,
        limits: Limits,
        authorization: Authorization,
        approvals: Approvals,
        rehearsals: Rehearsals,
        claim: Stage,
        commit: Stage,
    ) -> None:
        self._storage = storage
        self._limits = limits
        self._authorization = authorization
        self._approvals = approvals
        self._rehearsals = rehearsals
        self._claim = claim
        self._commit = commit

    async def settle_replay(self, execution: Execution, replayed: Replayed) -> ActionResult:
        """Return the stored result, if the actor may have it."""
        entry = execution.entry
        try:
            value, entry.kept_input, output = execution.plan.results.load(replayed.encoded)
            if replayed.asked is not None:
                await self._authorization.ask_again(execution, replayed.asked)
            entry.output = output
            if output is None:
                entry.set_result(value.data if isinstance(value, PipelineResult) else value)
            execution.add_row("replayed")
            await execution.open().record(Recording(execution.secrets.scrub_rows(execution.log)))
            await self._commit(execution)
        except Exception as error:
            return await self.settle_failure(execution, storage_error(execution, error))
        return Success(value)

    async def settle_approval(self, execution: Execution, needed: ApprovalNeeded) -> ActionResult:
        """Store the outermost action as a pending approval, in a transaction of its own."""
        try:
            error = await self._ask(execution, needed, await self._effects(execution, needed))
        except Replayed as replayed:
            return await self.settle_replay(execution, replayed)
        except ActionError as refusal:
            return await self.settle_failure(execution, refusal.without_traceback())
        except Exception as crash:
            return await self.settle_failure(execution, storage_error(execution, crash))
        await self.clean_up(execution, mark_expired, "the approvals that have expired are marked later")
        return Failure(error)

    async def _effects(self, execution: Execution, needed: ApprovalNeeded) -> Effects | None:
        """Return the effects that an approval will bind; None for none."""
        if needed.policy.binds != "effects" and execution.request.plan is None:
            return None
        await _start_over(execution)
        if execution.claim is None:
            # For an approval that is open already, nothing has to be rehearsed.
            await self._approvals.meet(execution, needed)
            await _start_over(execution)
        return await self._rehearsals.effects(execution)

    async def _ask(self, execution: Execution, needed: ApprovalNeeded, effects: Effects | None) -> ActionError:
        """Store a pending approval, again where the transaction lost against another one. Return the error for the
        caller."""
        reruns = 0
        while True:
            await _start_over(execution)
            try:
                return await self._store_approval(execution, needed, effects)
            except SerializationFailure:
                if reruns == self._limits.reruns:
                    raise
            reruns += 1
            await sleep(execution.mode, full_jitter(delay(reruns, RERUN_DELAY)))

    async def _store_approval(
        self, execution: Execution, needed: ApprovalNeeded, effects: Effects | None
    ) -> ActionError:
        unit_of_work = execution.open()
        if execution.claim is not None:
            await self._claim(execution)
        plan = await find_plan(execution) if execution.request.plan is not None else None
        claim = await self._approvals.meet(execution, needed)
        pending = await self._approvals.ask_for(execution, needed, claim, effects)
        if plan is not None:
            await use_plan(execution, *plan, approval_id=pending.id)
        error = error_for(pending)
        execution.ended = True
        execution.entry.output = None
        execution.add_row("approval_required", error)
        secrets = execution.secrets
        rows, events = secrets.scrub_rows(execution.log), secrets.scrub_events(execution.events)
        await unit_of_work.record(Recording(rows, events, execution.results))
        await unit_of_work.commit()
        return error

    async def settle_failure(self, execution: Execution, error: ActionError) -> ActionResult:
        """Roll back, and log the failure in a transaction of its own.

        The execution keeps its closed unit of work, so that a handler abandoned at its deadline cannot open another.
        """
        execution.ended = True
        await execution.roll_back()
        try_accept_payload(execution, self._limits)
        error = execution.secrets.scrub_error(error)
        execution.entry.output = None
        execution.log.discard_row(execution.id)
        execution.log.mark_rolled_back()
        execution.add_row(outcome_of(error), error)
        if execution.is_unlogged:
            # The storage has used up all the time: it gets no second attempt for the row.
            logger.error(
                "%s has no row on the action log: the storage did not answer (%s)", execution.plan.name, execution.id
            )
            return Failure(error)
        # Neither the other writes of a failure nor the content of the row may prevent the row.
        for writes in dict.fromkeys((execution.after_failure, ())):
            for form in (execution.secrets.scrub_rows, LogBuffer.reduced):
                refusal = await self._write_failure(execution, writes, form)
                if refusal is None:
                    return Failure(error)
                if isinstance(refusal, StorageUnavailable):
                    break
        return Failure(error)

    async def settle_cancellation(self, execution: Execution) -> None:
        """Log an execution that its caller has cancelled. It is rolled back; a row that the storage may have is not
        written again."""
        if execution.log.has_row(execution.id):
            return
        try_accept_payload(execution, self._limits)
        execution.entry.output = None
        execution.log.mark_rolled_back()
        message = f"{execution.plan.name} was cancelled by its caller, and nothing was committed"
        execution.add_row("failed", ActionError(ErrorCode.INTERNAL, message))
        execution.deadline = perf_counter() + _FAILURE_ROW_TIMEOUT
        await uninterrupted(self._write_failure(execution, (), execution.secrets.scrub_rows))

    async def _write_failure(
        self, execution: Execution, writes: Sequence[FailureWrite], form: Callable[[LogBuffer], Sequence[LogRow]]
    ) -> Exception | None:
        """Write the rows of a failed execution in this form, and its other writes. Return the error of a refusal."""
        tenant = execution.request.tenant
        assert tenant is not None
        unit_of_work = self._storage.unit_of_work(tenant, execution.id, execution.mode)
        if execution.deadline is not None:
            unit_of_work.set_deadline(_FAILURE_ROW_TIMEOUT)
        try:
            for write in writes:
                await write(unit_of_work)
            await unit_of_work.record(Recording(tuple(form(execution.log))))
            await unit_of_work.commit()
            return None
        except ActionError as refusal:
            logger.warning(
                "%s has no row on the action log (execution %s): %s", execution.plan.name, execution.id, refusal
            )
            return refusal
        except Exception as crash:
            log_crash(execution, "the action log", crash)
            return crash
        finally:
            await unit_of_work.rollback()

    async def clean_up(self, execution: Execution, write: FailureWrite, if_not: str) -> None:
        """Run a write that can wait, in a transaction of its own. Another execution may be writing the same; the log
        line of an error says `if_not`."""
        tenant = execution.request.tenant
        assert tenant is not None
        unit_of_work = self._storage.unit_of_work(tenant, execution.id, execution.mode)
        unit_of_work.set_deadline(_FAILURE_ROW_TIMEOUT)
        try:
            await write(unit_of_work)
            await unit_of_work.commit()
        except Exception as error:
            logger.debug("%s: %r", if_not, error)
        finally:
            await unit_of_work.rollback()


async def _start_over(execution: Execution) -> None:
    """Drop all writes of an execution, so that it can store its approval."""
    await execution.roll_back()
    execution.unit_of_work = None
    execution.events.clear()
    execution.results.clear()
    execution.log.discard_row(execution.id)
    execution.log.mark_rolled_back()


def storage_error(execution: Execution, error: Exception) -> ActionError:
    """Return the answer for an exception of the storage or of the pipeline. A crash is logged."""
    if isinstance(error, ActionError):
        return error.without_traceback()
    name = execution.plan.name
    if isinstance(error, SerializationFailure):
        return ActionError(ErrorCode.CONFLICT, f"{name} lost against other executions too often: retry later")
    log_crash(execution, "the storage" if isinstance(error, StorageError) else "the pipeline", error)
    if isinstance(error, StorageUnavailable) and execution.remaining(1.0) == 0.0:
        execution.is_unlogged = isinstance(error, StorageTimeout)
        return timeout_error(execution)
    if isinstance(error, StorageUnavailable):
        return ActionError(ErrorCode.UNAVAILABLE, f"{name}: the storage is unavailable: retry later")
    if isinstance(error, StorageError):
        return ActionError(ErrorCode.INTERNAL, f"{name}: {error}", {"action_id": execution.id})
    return ActionError(ErrorCode.INTERNAL, f"{name} failed with {type(error).__name__}", {"action_id": execution.id})
