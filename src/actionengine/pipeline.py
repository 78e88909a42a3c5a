"""The pipeline: every execution goes through these stages, in this order, in both worlds.

     1  route            the engine's two look-ups
     2  guard            the global before handler passes or refuses
     3  authorize        actor present, of an allowed type, with the roles and the permission
     4  validate         here when there are no before hooks
     5  open             the unit of work, when something first needs it
     6  claim            the idempotency key: ours, or an answer that is there already
     7  before hooks     each output is the next input
     8  validate         here when there are before hooks
     9  approval         a policy that applies stops here
    10  handler
    11  after hooks      each output is the next value
    12  record           log rows, events, idempotent result, in the same transaction
    13  commit
    14  after            the global after handler

The stages themselves are in `stages`. Under a synchronous storage none of them suspends, so that the synchronous entry
point drives them with `send(None)`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pydantic_core import PydanticSerializationError, from_json
from returns.result import Failure, Success

from actionengine.actions import PipelineResult
from actionengine.approval_record import PendingApproval, error_for, mark_expired, store_approval
from actionengine.authorization.questions import Questions
from actionengine.calling import check_deadline, log_crash, logger, timed_out
from actionengine.context import RequestContext
from actionengine.errors import ActionError, ActionException, ErrorCode, failing
from actionengine.execution_state import ApprovalNeeded, Approved, Execution, FailureWrite, outcome_of
from actionengine.payload import check_approvable, fingerprint
from actionengine.plan import ActionPlan
from actionengine.routing import route
from actionengine.stages import Answer, Replayed, Stages
from actionengine.storage.port import (
    Claim,
    LogRow,
    Mode,
    Recording,
    SerializationFailure,
    StorageError,
    StorageSilent,
    StorageUnavailable,
)

_BACKOFF = 0.002
"""Seconds that the first pause before a rerun has at most; the bound doubles with each."""


_FOR_THE_ROW = 2.0
"""Seconds that writing the row of a failed execution may take, where the action has a deadline."""


class Pipeline(Stages):
    """The one flow through the stages, and how an execution ends."""

    # The flow

    async def execute(self, plan: ActionPlan, payload: Any, request: RequestContext, mode: Mode) -> Answer:
        """One execution from its guard to its commit: the value, or why not."""
        execution = Execution(plan, payload, request, mode)
        if request.tenant is None:
            return Failure(ActionError(ErrorCode.UNAUTHENTICATED, f"{plan.name}: the request has no tenant"))
        try:
            try:
                await self._admit(execution)
                value = await self._run(execution)
            except Replayed as replayed:
                return await self._settle_replay(execution, replayed)
            except ApprovalNeeded as needed:
                return await self._settle_approval(execution, needed)
            except ActionException as refusal:
                return await self._settle_failure(execution, refusal.error)
            except Exception as error:
                return await self._settle_failure(execution, self._storage_error(execution, error))
        except BaseException:
            # An interruption or a cancellation, at whatever point: it goes on, and nothing stays open.
            execution.ended = True
            await self._roll_back(execution)
            raise
        if execution.after_commit:
            await self.follow_commit(execution)
        if self._after is not None:
            await self.after(execution)
        return Success(value)

    async def execute_nested(self, parent: Execution, service: str, action: str, payload: Any, mode: Mode) -> Answer:
        """Stages 1 to 11 in a savepoint of the parent's unit of work."""
        plan = route(self.plans, service, action)
        if isinstance(plan, ActionError):
            return Failure(plan)
        return await self._nest(Execution(plan, payload, parent.request, mode, parent), parent)

    async def execute_approved(
        self, parent: Execution, pending: PendingApproval, approved: Approved
    ) -> tuple[Any, str | None]:
        """Run an approved action in the unit of work of its approval, as its requester.

        Gives its value and None; or None and the id of the approval that a further policy makes it wait for. Raises
        `ActionException` with what it fails with.
        """
        plan = route(self.plans, pending.service, pending.action)
        if isinstance(plan, ActionError):
            raise ActionException(plan)
        request = pending.request(parent.request)
        execution = Execution(plan, from_json(pending.payload.encode()), request, parent.mode, parent)
        execution.approved = approved
        # What its requester is asked is no question for a replay of the approver's.
        execution.asked = Questions()
        if pending.idempotency_key is not None:
            execution.claim = Claim(plan.name, pending.idempotency_key, pending.fingerprint, pending.id)
            answer = await self.open(execution).claim(execution.claim, self.limits.idempotency_wait)
            if answer.status != "claimed":
                raise failing(ErrorCode.CONFLICT, f"the key of the approval {pending.id} has been used since")
        try:
            answered = await self._nest(execution, parent)
        except ApprovalNeeded as needed:
            parent.root.needed = None
            return None, (await self._ask_for(execution, needed)).id
        if isinstance(answered, Failure):
            raise ActionException(answered.failure())
        value = answered.unwrap()
        if execution.claim is not None:
            value = self._remember(execution, value, await self.open(execution).now())
        return value, None

    async def _admit(self, execution: Execution) -> None:
        if self._before is not None:
            await self.guard(execution)
        await self.authorize(execution)
        if execution.received is None:
            self.keep_payload(execution)
        if not execution.plan.before:
            await self.validate(execution)

    async def _run(self, execution: Execution) -> Any:
        """Stages 5 to 13, again where the transaction lost against another one."""
        reruns = 0
        while True:
            try:
                if execution.claim is not None or self._wants_claim(execution):
                    await self.claim(execution)
                await self._perform(execution)
                value = _answered(execution)
                if execution.claim is not None:
                    value = self._remember(execution, value, await self.open(execution).now())
                await self.record(execution)
                await self.commit(execution)
                return value
            except SerializationFailure:
                await self._roll_back(execution)
                if reruns == self.limits.reruns:
                    raise
                reruns += 1
                await self._pause(execution, reruns)
                execution.reset()
                assert execution.received is not None
                execution.incoming = execution.received.again()
                if not execution.plan.before:
                    await self.validate(execution)

    async def _perform(self, execution: Execution) -> None:
        plan = execution.plan
        if plan.before:
            await self.before_hooks(execution)
            await self.validate(execution)
        if plan.action.approval is not None:
            await self.approval(execution)
        await self.handler(execution)
        check_deadline(execution)
        if execution.root.needed is not None:
            raise execution.root.needed
        if plan.after:
            await self.after_hooks(execution)
        try:
            if execution.output is None:
                execution.show_result(execution.value)
        except (PydanticSerializationError, ValueError, TypeError) as error:
            raise failing(
                ErrorCode.INTERNAL, f"{plan.name} returned something that has no JSON form: {error}"
            ) from None
        if not plan.action.read_only and not execution.emitted and not plan.is_silent:
            execution.add_default_event(self.limits.event_bytes)

    async def _nest(self, execution: Execution, parent: Execution) -> Answer:
        plan, root = execution.plan, execution.root
        with root.lock:
            if parent.child is not None:
                message = f"{parent.plan.name} is executing {parent.child.plan.name}: it executes one action at a time"
                return Failure(ActionError(ErrorCode.INTERNAL, message))
            parent.child = execution
            marks = len(root.rows), len(root.events), len(root.results)
        unit_of_work = self.open(root)
        savepoint = None
        try:
            self._check_nesting(execution, parent)
            await self._admit(execution)
            savepoint = await unit_of_work.savepoint(execution.plan.action.read_only)
            # What was pending in the session was written before the savepoint.
            if root.has_session:
                parent.add_flushed(await unit_of_work.flushed_subjects())
            await self._perform(execution)
            # From here on, tasks and threads that its handler has left running do nothing more in it.
            execution.ended = True
            if root.has_session or root.unanswered:
                execution.add_flushed(await unit_of_work.flushed_subjects())
            await unit_of_work.release(savepoint)
            execution.add_row("succeeded")
            # Of what has failed inside it.
            parent.after_failure += execution.after_failure
            parent.after_commit += execution.after_commit
            return Success(_answered(execution))
        except ApprovalNeeded as needed:
            root.needed = needed
            await self._undo(execution, savepoint, *marks)
            execution.add_row("approval_required")
            raise
        except (SerializationFailure, StorageUnavailable):
            # The transaction is beyond saving: the outermost execution deals with it.
            raise
        except ActionException as refusal:
            failure = refusal.error
        except Exception as crash:
            failure = self._storage_error(execution, crash)
        except GeneratorExit:
            # Nothing can be awaited here.
            unit_of_work.abandon()
            raise
        except BaseException as cut:
            await self._undo_cut_off(execution, savepoint, marks, cut)
            raise
        finally:
            execution.ended = True
            parent.child = None
            # It may have changed record types, or have undone that.
            root.document_checks = None
        if root.left_behind:
            raise timed_out(execution)
        await self._undo(execution, savepoint, *marks)
        failure = execution.scrubbed_error(failure)
        execution.add_row(outcome_of(failure), failure)
        for write in execution.after_failure:
            await self._write_after_failure(execution, write)
        parent.after_failure += execution.after_failure
        logger.debug("%s failed inside %s: %s", plan.name, parent.plan.name, failure.code)
        return Failure(failure)

    async def _write_after_failure(self, execution: Execution, write: FailureWrite) -> None:
        """What a nested execution wants written although it has failed. Where it can't be, that is the end of it."""
        unit_of_work = self.open(execution.root)
        savepoint = await unit_of_work.savepoint()
        try:
            await write(unit_of_work)
            await unit_of_work.release(savepoint)
        except ActionException as refusal:
            await unit_of_work.rollback_to(savepoint)
            logger.warning("%s failed, and could not say so in its data: %s", execution.plan.name, refusal)

    async def _undo(self, execution: Execution, savepoint: object, rows: int, events: int, results: int) -> None:
        """Take back all that a nested execution did; from now on its context is of no use."""
        execution.ended = True
        root = execution.root
        if savepoint is not None:
            await self.open(root).rollback_to(savepoint)
        del root.events[events:]
        del root.results[results:]
        execution.undo_rows(rows)

    async def _undo_cut_off(
        self, execution: Execution, savepoint: object, marks: tuple[int, int, int], cut: BaseException
    ) -> None:
        """Take back a nested execution that was cancelled or interrupted: its caller may catch that and go on. Where it
        cannot be taken back, nothing of the outermost one can be committed."""
        try:
            await self._undo(execution, savepoint, *marks)
        except BaseException as error:
            logger.debug("%s was cut off, and could not be undone alone: %r", execution.plan.name, error)
            self.open(execution.root).abandon()
            return
        message = f"{execution.plan.name} was cut off: {type(cut).__name__}"
        execution.add_row("failed", ActionError(ErrorCode.INTERNAL, message))

    def _check_nesting(self, execution: Execution, parent: Execution) -> None:
        plan = execution.plan
        if execution.depth > self.limits.nested_depth:
            raise failing(ErrorCode.INTERNAL, f"{plan.name}: actions are nested deeper than {self.limits.nested_depth}")
        if parent.plan.action.read_only and not plan.action.read_only:
            raise failing(ErrorCode.INTERNAL, f"{parent.plan.name} is read-only and cannot execute {plan.name}")
        check_deadline(parent)
        if plan.action.idempotency == "required" and not execution.is_claimed:
            raise failing(
                ErrorCode.INVALID_INPUT,
                f"{plan.name} needs an idempotency key, and {execution.root.plan.name}, which executes it, got none",
            )

    # How an execution ends

    async def _settle_replay(self, execution: Execution, replayed: Replayed) -> Answer:
        try:
            value, execution.kept_input, output = execution.plan.results.load(replayed.encoded)
            if replayed.asked is not None:
                await self.ask_again(execution, replayed.asked)
            execution.output = output
            if execution.output is None:
                execution.show_result(value.data if isinstance(value, PipelineResult) else value)
            execution.add_row("replayed")
            await self.open(execution).record(Recording(execution.scrubbed_rows()))
            await self.commit(execution)
        except Exception as error:
            return await self._settle_failure(execution, self._storage_error(execution, error))
        return Success(value)

    async def _settle_approval(self, execution: Execution, needed: ApprovalNeeded) -> Answer:
        """Store the outermost action as a pending approval, in a transaction of its own."""
        await self._roll_back(execution)
        execution.unit_of_work = None
        execution.events.clear()
        execution.undo_rows()
        try:
            unit_of_work = self.open(execution)
            if execution.claim is not None:
                await self.claim(execution)
            pending = await self._ask_for(execution, needed)
            error = error_for(pending)
            execution.ended = True
            execution.output = None
            execution.add_row("approval_required", error)
            await unit_of_work.record(
                Recording(execution.scrubbed_rows(), execution.scrubbed_events(), execution.results)
            )
            await unit_of_work.commit()
        except Replayed as replayed:
            return await self._settle_replay(execution, replayed)
        except ActionException as refusal:
            return await self._settle_failure(execution, refusal.error)
        except Exception as crash:
            return await self._settle_failure(execution, self._storage_error(execution, crash))
        await self._mark_expired(execution)
        return Failure(error)

    async def _mark_expired(self, execution: Execution) -> None:
        """Mark some approvals that have expired, in a transaction of its own: another one may be at them."""
        tenant = execution.request.tenant
        assert tenant is not None
        unit_of_work = self.storage.unit_of_work(tenant, execution.id, execution.mode)
        unit_of_work.limit(_FOR_THE_ROW)
        try:
            await mark_expired(unit_of_work)
            await unit_of_work.commit()
        except Exception as error:
            logger.debug("the approvals that have expired are marked later: %r", error)
        finally:
            await unit_of_work.rollback()

    async def _settle_failure(self, execution: Execution, error: ActionError) -> Answer:
        """Roll back, and put the failure on the action log in a transaction of its own.

        The execution keeps its dead unit of work: a handler that was left behind at its deadline finds no other.
        """
        execution.ended = True
        await self._roll_back(execution)
        self._keep_quietly(execution)
        error = execution.scrubbed_error(error)
        execution.output = None
        execution.drop_row()
        execution.undo_rows()
        execution.add_row(outcome_of(error), error)
        if execution.is_unlogged:
            # The storage has used up all the time there was; it does not get another turn for the row.
            logger.error(
                "%s is not on the action log: the storage did not answer (%s)", execution.plan.name, execution.id
            )
            return Failure(error)
        # Neither the other writes of a failure nor the content of its row may keep the row from the log.
        for writes in dict.fromkeys((execution.after_failure, ())):
            for form in (Execution.scrubbed_rows, Execution.reduced_rows):
                refusal = await self._write_failure(execution, writes, form)
                if refusal is None:
                    return Failure(error)
                if isinstance(refusal, StorageUnavailable):
                    break
        return Failure(error)

    async def _write_failure(
        self, execution: Execution, writes: Sequence[FailureWrite], form: Callable[[Execution], Sequence[LogRow]]
    ) -> Exception | None:
        """Write the rows of a failed execution in this form, and what it has asked for besides; return what refuses
        them."""
        tenant = execution.request.tenant
        assert tenant is not None
        unit_of_work = self.storage.unit_of_work(tenant, execution.id, execution.mode)
        if execution.deadline is not None:
            unit_of_work.limit(_FOR_THE_ROW)
        try:
            for write in writes:
                await write(unit_of_work)
            await unit_of_work.record(Recording(tuple(form(execution))))
            await unit_of_work.commit()
            return None
        except ActionException as refusal:
            logger.warning("%s is not on the action log (execution %s): %s", execution.plan.name, execution.id, refusal)
            return refusal
        except Exception as crash:
            log_crash(execution, "the action log", crash)
            return crash
        finally:
            await unit_of_work.rollback()

    async def _ask_for(self, execution: Execution, needed: ApprovalNeeded) -> PendingApproval:
        """Store what an execution waits for, with what it wants written along."""
        unit_of_work = self.open(execution)
        pending = await self._pending(execution, needed)
        await store_approval(unit_of_work, pending)
        self._remember_approval(execution, pending)
        if execution.when_asked is not None:
            await execution.when_asked(unit_of_work, pending.id)
        return pending

    async def _pending(self, execution: Execution, needed: ApprovalNeeded) -> PendingApproval:
        plan, received = execution.plan, execution.received
        assert received is not None
        check_approvable(received, plan.validator)
        claimed = execution.claim.fingerprint if execution.claim else fingerprint(received.again())
        return PendingApproval.for_execution(execution, claimed, needed, await self.open(execution).now())

    def _storage_error(self, execution: Execution, error: Exception) -> ActionError:
        if isinstance(error, ActionException):
            return error.error
        name = execution.plan.name
        if isinstance(error, SerializationFailure):
            return ActionError(ErrorCode.CONFLICT, f"{name} lost against other executions too often: try again")
        log_crash(execution, "the storage" if isinstance(error, StorageError) else "the pipeline", error)
        if isinstance(error, StorageUnavailable) and execution.remaining(1.0) == 0.0:
            execution.is_unlogged = isinstance(error, StorageSilent)
            return timed_out(execution).error
        if isinstance(error, StorageUnavailable):
            return ActionError(ErrorCode.UNAVAILABLE, f"{name}: the storage is unavailable, try again later")
        if isinstance(error, StorageError):
            return ActionError(ErrorCode.INTERNAL, f"{name}: {error}", {"action_id": execution.id})
        return ActionError(
            ErrorCode.INTERNAL, f"{name} failed with {type(error).__name__}", {"action_id": execution.id}
        )

    async def _pause(self, execution: Execution, reruns: int) -> None:
        """Full jitter: a random time up to a bound that doubles ("Exponential Backoff And Jitter", AWS Architecture
        Blog, 2015)."""
        seconds = random.uniform(0, _BACKOFF * 2**reruns)
        if execution.mode == "sync":
            time.sleep(seconds)  # noqa: ASYNC251 - there is no event loop here
        else:
            await asyncio.sleep(seconds)


def _answered(execution: Execution) -> Any:
    if execution.plan.action.result.pipeline:
        return PipelineResult(execution.value, replace(execution.hook_context.log))
    return execution.value
