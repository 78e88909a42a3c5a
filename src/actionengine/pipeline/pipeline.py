"""The pipeline: every execution goes through these stages, in this order, in both modes.

     1  route            the engine's two look-ups
     2  guard            the global before handler passes or refuses
     3  authorize        actor present, of an allowed type, with the roles and the permission
     4  validate         here when there are no before hooks
     5  open             the unit of work, when something first needs it
     6  claim            the idempotency key: ours, or an answer that is there already
     7  before hooks     each output is the next input
     8  validate         here when there are before hooks
     9  approval         budgets are reserved; a policy that applies stops here
    10  handler
    11  after hooks      each output is the next value
    12  record           log rows, events, idempotent result, in the same transaction
    13  commit
    14  after            the global after handler

Each stage is in the file that bears its name; this one has their order, nesting and hooks. Under a synchronous storage
none of them suspends, so that the synchronous entry point runs them with `send(None)`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pydantic_core import PydanticSerializationError, from_json
from returns.result import Failure, Result, Success

from actionengine.action_context import ActionContext
from actionengine.actions import HookDefinition
from actionengine.authorization.port import Authorizer
from actionengine.authorization.questions import Questions
from actionengine.concurrency.backoff import delay, full_jitter, sleep
from actionengine.concurrency.run_sync import Mode
from actionengine.context import RequestContext
from actionengine.errors import ActionError, ErrorCode
from actionengine.hooks import HookLogEntry
from actionengine.pipeline.action_log import outcome_of
from actionengine.pipeline.approvals import Approvals, permission_to_approve
from actionengine.pipeline.authorization import Authorization
from actionengine.pipeline.budgets import BudgetRule
from actionengine.pipeline.execution import (
    ApprovalNeeded,
    ApprovedRun,
    Execution,
    FailureWrite,
    GrantedApproval,
    Phase,
)
from actionengine.pipeline.handler import Handlers
from actionengine.pipeline.handler_api import HandlerAPI, HandlerServices
from actionengine.pipeline.idempotency import Idempotency, Replayed
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.outcomes import RERUN_DELAY, Outcomes, storage_error
from actionengine.pipeline.payload import Limits, copy_payload
from actionengine.pipeline.pending_approval import PendingApproval
from actionengine.pipeline.plan import ActionPlan
from actionengine.pipeline.preview import Preview, Previews, answered
from actionengine.pipeline.rehearsal import Rehearsals, begin_rehearsal, captured, follow
from actionengine.pipeline.reservations import Reservations
from actionengine.pipeline.routing import Plans, route
from actionengine.pipeline.stages import STAGES, ActionResult, Observer
from actionengine.pipeline.stored_plan import find_plan, use_plan
from actionengine.pipeline.user_code import check_deadline, logger, timeout_error
from actionengine.pipeline.validation import Validation, accept_payload
from actionengine.pipeline.write_set import Effects
from actionengine.storage.errors import SerializationFailure, StorageUnavailable
from actionengine.storage.guards import DocumentGuard, RecordGuard
from actionengine.storage.port import Storage
from actionengine.storage.rows import Recording, Route


class Pipeline:
    """Runs every execution through the stages."""

    def __init__(
        self,
        *,
        plans: Plans,
        storage: Storage,
        authorizer: Authorizer,
        limits: Limits,
        resources: Mapping[str, Any],
        before: Callable[..., Any] | None = None,
        after: Callable[..., Any] | None = None,
        observe: Observer | None = None,
        document_guard: DocumentGuard | None = None,
        record_guard: RecordGuard | None = None,
        routes: Sequence[Route] = (),
        budgets: Sequence[BudgetRule] = (),
    ) -> None:
        self.plans = plans
        self.storage = storage
        self.limits = limits
        self.authorization = Authorization(authorizer)
        self._routes = routes
        self._has_guard = before is not None
        self._has_after = after is not None
        self._services = HandlerServices(
            plans=plans,
            storage=storage,
            resources=resources,
            limits=limits,
            authorization=self.authorization,
            nesting=self,
            permission_to_approve=partial(permission_to_approve, plans),
            document_guard=document_guard,
            record_guard=record_guard,
            budgets=budgets,
        )
        self._idempotency = Idempotency(limits, self._services.permission_to_approve)
        self._approvals = Approvals(self.authorization, self._idempotency, self._context_for_condition)
        self._reservations = Reservations(budgets)
        handlers = Handlers(limits, self._context_for, before, after)
        self.guard = handlers.guard
        self.authorize = self.authorization.authorize
        self.validate = Validation(self.authorization).validate
        self.claim = self._idempotency.claim
        self.approval = self._approvals.approval
        self.handler = handlers.handler
        self.after = handlers.after
        self._follow_commit = handlers.follow_commit
        if observe is not None:
            for name in STAGES:
                setattr(self, name, observe(name, getattr(self, name)))
        rehearsals = Rehearsals(self._rehearse, self._prepare, self._start_over)
        self._outcomes = Outcomes(
            storage, limits, self.authorization, self._approvals, rehearsals, self.claim, self.commit
        )
        self._previews = Previews(rehearsals, self._outcomes, self._admit)

    # The flow

    async def execute(
        self,
        plan: ActionPlan,
        payload: Any,
        request: RequestContext,
        mode: Mode,
        encoded: list[bytes] | None = None,
    ) -> ActionResult:
        """Run one execution from its guard to its commit. Return its value or the error.

        Where the action log has the JSON of the whole value, masked by its types, it is added to `encoded`.
        """
        if request.tenant is None:
            return Failure(_no_tenant(plan))
        execution = Execution(plan, payload, request, mode, self.storage)
        try:
            try:
                await self._admit(execution)
                value = await self._run(execution)
            except Replayed as replayed:
                return await self._outcomes.settle_replay(execution, replayed)
            except ApprovalNeeded as needed:
                return await self._outcomes.settle_approval(execution, needed)
            except ActionError as refusal:
                return await self._outcomes.settle_failure(execution, refusal.without_traceback())
            except Exception as error:
                return await self._outcomes.settle_failure(execution, storage_error(execution, error))
        except BaseException as cut:
            # An interruption or a cancellation passes on, and no transaction stays open.
            execution.ended = True
            await execution.roll_back()
            if mode == "async" and isinstance(cut, asyncio.CancelledError):
                await self._outcomes.settle_cancellation(execution)
            raise
        if execution.after_commit:
            await self._follow_commit(execution)
        if self._has_after:
            await self.after(execution)
        if encoded is not None and value is execution.value and execution.entry.result_json is not None:
            encoded.append(execution.entry.result_json)
        return Success(value)

    async def preview(
        self, plan: ActionPlan, payload: Any, request: RequestContext, mode: Mode
    ) -> Result[Preview, ActionError]:
        """Run one execution from its guard to its after hooks, and roll it back. Return its value and its writes."""
        if request.tenant is None:
            return Failure(_no_tenant(plan))
        return await self._previews.preview(Execution(plan, payload, request, mode, self.storage))

    async def refuse(
        self, plan: ActionPlan, payload: Any, error: ActionError, request: RequestContext, mode: Mode
    ) -> ActionResult:
        """Run stages 2 and 3, and answer with an error that the caller of the engine found, unless they refuse. The
        action log has a row of it."""
        if request.tenant is None:
            return Failure(_no_tenant(plan))
        execution = Execution(plan, payload, request, mode, self.storage)
        try:
            try:
                if self._has_guard:
                    await self.guard(execution)
                await self.authorize(execution)
            except ActionError as refusal:
                error = refusal.without_traceback()
            except Exception as crash:
                error = storage_error(execution, crash)
            return await self._outcomes.settle_failure(execution, error)
        except BaseException:
            execution.ended = True
            await execution.roll_back()
            raise

    async def _admit(self, execution: Execution) -> None:
        if self._has_guard:
            await self.guard(execution)
        await self.authorize(execution)
        if execution.received is None:
            accept_payload(execution, self.limits)
        if not execution.plan.before:
            await self.validate(execution)

    async def _run(self, execution: Execution) -> Any:
        """Run stages 5 to 13. Run them again where the transaction lost against another one."""
        reruns = 0
        while True:
            try:
                if execution.claim is not None or self._idempotency.is_wanted(execution):
                    if execution.plan.budgets or execution.plan.nested_budgets:
                        self._reservations.announce(execution)
                    await self.claim(execution)
                if execution.request.plan is not None:
                    await self._perform_plan(execution)
                else:
                    await self._perform(execution)
                value = answered(execution)
                if execution.claim is not None:
                    value = await self._idempotency.store_result(execution, value)
                await self.record(execution)
                await self.commit(execution)
                return value
            except SerializationFailure as lost:
                reruns = await self._start_over(execution, reruns, lost)

    async def _start_over(self, execution: Execution, reruns: int, lost: SerializationFailure) -> int:
        """Prepare the next attempt of an execution that lost against another, and count it. Raises the error after the
        last attempt."""
        await execution.roll_back()
        if reruns == self.limits.reruns:
            raise lost
        await sleep(execution.mode, full_jitter(delay(reruns + 1, RERUN_DELAY)))
        await self._prepare(execution)
        return reruns + 1

    async def _prepare(self, execution: Execution) -> None:
        """Prepare another attempt of an admitted execution."""
        execution.reset()
        assert execution.received is not None
        execution.incoming = execution.received.copy()
        if not execution.plan.before:
            await self.validate(execution)

    async def _perform_plan(self, execution: Execution) -> None:
        """Run stages 7 to 11 as a plan says. Raises `ActionError(conflict)` for writes that differ from the plan's."""
        execution.capture = None
        record, stored = await find_plan(execution)
        if not execution.plan.action.read_only:
            await use_plan(execution, record, stored)
        follow(execution, stored.effects)
        await self._perform(execution)
        # Where they differ, nothing is written at all.
        kept, execution.after_failure = execution.after_failure, ()
        stored.effects.check_equal(execution.plan.name, await captured(execution))
        execution.after_failure = kept
        if execution.plan.action.read_only:
            # The transaction of the handler refuses writes.
            assert execution.unit_of_work is not None
            await execution.unit_of_work.commit()
            execution.unit_of_work = execution.capture = None
            await use_plan(execution, record, stored)

    async def _rehearse(self, execution: Execution) -> None:
        await self._perform(execution)
        if execution.plan.budgets or execution.deferred:
            await self._reservations.rehearse(execution)

    async def _perform(self, execution: Execution) -> None:
        plan = execution.plan
        if plan.before:
            await self.before_hooks(execution)
            await self.validate(execution)
        if plan.budgets or plan.nested_budgets:
            await self._reservations.reserve(execution)
        if plan.action.approval is not None:
            await self.approval(execution)
        await self.handler(execution)
        check_deadline(execution)
        if execution.root.approval_needed is not None:
            raise execution.root.approval_needed
        if plan.after:
            await self.after_hooks(execution)
        entry = execution.entry
        try:
            if entry.output is None:
                entry.set_result(execution.value)
        except (PydanticSerializationError, ValueError, TypeError) as error:
            raise ActionError(
                ErrorCode.INTERNAL, f"{plan.name} returned a value without a JSON form: {error}"
            ) from None
        if not plan.action.read_only and not entry.has_emitted and not plan.emits_no_default_event:
            execution.events.add_default(entry, self.limits.event_bytes)

    async def record(self, execution: Execution) -> None:
        """Run stage 12: write log rows, events and idempotent results in the transaction of the handler's writes."""
        # From here on, tasks and threads that the handler left running change nothing in the transaction.
        execution.ended = True
        if (execution.has_session or execution.unanswered) and execution.unit_of_work is not None:
            # Writes that those tasks have begun come first, and are subjects too.
            execution.entry.add_flushed(await execution.unit_of_work.flushed_subjects())
        execution.add_row("succeeded")
        if execution.plan.action.read_only and execution.unit_of_work is not None:
            # Nothing is left to write. The commit detects statements of the handler that changed the transaction.
            await execution.unit_of_work.commit()
            execution.unit_of_work = None
        if execution.plan.budgets or execution.deferred:
            await self._reservations.finish(execution)
        secrets = execution.secrets
        rows, events = secrets.scrub_rows(execution.log), secrets.scrub_events(execution.events)
        await execution.open(writable=True).record(Recording(rows, events, execution.results, self._routes))

    async def commit(self, execution: Execution) -> None:
        """Run stage 13: commit everything or nothing."""
        assert execution.unit_of_work is not None
        await execution.unit_of_work.commit()
        execution.ended = True

    # Nesting

    async def execute_nested(
        self, parent: Execution, service: str, action: str, payload: Any, mode: Mode
    ) -> ActionResult:
        """Run stages 1 to 11 in a savepoint of the parent's unit of work."""
        plan = route(self.plans, service, action)
        if isinstance(plan, ActionError):
            return Failure(plan)
        return await self._nest(Execution(plan, payload, parent.request, mode, parent=parent), parent)

    async def execute_approved(
        self, parent: Execution, pending: PendingApproval, approved: GrantedApproval
    ) -> ApprovedRun:
        """Run an approved action in the unit of work of its approval, as its requester.

        Raises the `ActionError` of a failure.
        """
        plan = route(self.plans, pending.service, pending.action)
        if isinstance(plan, ActionError):
            raise plan
        request = pending.request(parent.request)
        execution = Execution(plan, from_json(pending.payload.encode()), request, parent.mode, parent=parent)
        execution.approved = approved
        # A replay of the approver's request does not repeat the requester's questions.
        execution.asked = Questions(request.actor)
        await self._idempotency.claim_approved(execution, pending)
        if pending.effects is not None:
            follow(execution, pending.effects)
        mark, before = len(execution.events), parent.after_failure
        try:
            answer = await self._nest(execution, parent)
        except ApprovalNeeded as needed:
            parent.root.approval_needed = None
            effects = pending.effects
            if effects is None and needed.policy.binds == "effects":
                effects = await self._rehearse_nested(execution, parent)
            claim = await self._approvals.meet(execution, needed)
            further = await self._approvals.ask_for(execution, needed, claim, effects)
            return ApprovedRun(execution.id, None, further.id)
        if isinstance(answer, Failure):
            raise answer.failure()
        if pending.effects is not None:
            kept, parent.after_failure = parent.after_failure, before
            pending.effects.check_equal(plan.name, await captured(execution, mark))
            parent.after_failure = kept
        return ApprovedRun(execution.id, await self._idempotency.store_result(execution, answer.unwrap()), None)

    async def _rehearse_nested(self, asking: Execution, parent: Execution) -> Effects:
        """Run an approved action past the further approval that it needs, and undo it. Return its effects."""
        rehearsal = Execution(asking.plan, asking.payload, asking.request, asking.mode, parent=parent)
        rehearsal.approved = asking.approved
        # These questions are the requester's too.
        rehearsal.asked = None
        capture = begin_rehearsal(rehearsal)
        kept, root = (parent.after_failure, parent.after_commit), parent.root
        marks = len(root.log), len(root.events), len(root.results)
        savepoint = await parent.open().savepoint()
        answer = await self._nest(rehearsal, parent)
        if isinstance(answer, Failure):
            raise answer.failure()
        effects = Effects.of(capture, await captured(rehearsal, marks[1]))
        parent.after_failure, parent.after_commit = kept
        await parent.open().rollback_to(savepoint)
        del root.events[marks[1] :]
        del root.results[marks[2] :]
        return effects

    async def _nest(self, execution: Execution, parent: Execution) -> ActionResult:
        plan, root = execution.plan, execution.root
        with root.lock:
            if parent.child is not None:
                message = f"{parent.plan.name} is executing {parent.child.plan.name}: it executes one action at a time"
                return Failure(ActionError(ErrorCode.INTERNAL, message))
            if parent.is_over:
                return Failure(ActionError(ErrorCode.INTERNAL, f"{parent.plan.name} has ended: it executes nothing"))
            parent.child = execution
            marks = len(root.log), len(root.events), len(root.results)
        unit_of_work = execution.open()
        savepoint = None
        try:
            self._check_nesting(execution, parent)
            await self._admit(execution)
            savepoint = await unit_of_work.savepoint(execution.plan.action.read_only)
            # The session flushed pending rows before the savepoint.
            if root.has_session:
                parent.entry.add_flushed(await unit_of_work.flushed_subjects())
            await self._perform(execution)
            # From here on, tasks and threads that the handler left running change nothing in the transaction.
            execution.ended = True
            if root.has_session or root.unanswered:
                execution.entry.add_flushed(await unit_of_work.flushed_subjects())
            if plan.budgets:
                await self._reservations.finish(execution)
            await unit_of_work.release(savepoint)
            execution.add_row("succeeded")
            # Of failed executions inside it.
            parent.after_failure += execution.after_failure
            parent.after_commit += execution.after_commit
            if execution.deferred:
                parent.deferred += execution.deferred
            return Success(answered(execution))
        except ApprovalNeeded as needed:
            root.approval_needed = needed
            await _undo(execution, savepoint, *marks)
            execution.add_row("approval_required")
            raise
        except (SerializationFailure, StorageUnavailable):
            # The transaction cannot continue: the outermost execution handles that.
            raise
        except ActionError as refusal:
            failure = refusal.without_traceback()
        except Exception as crash:
            failure = storage_error(execution, crash)
        except GeneratorExit:
            # Nothing can be awaited here.
            unit_of_work.abandon()
            raise
        except BaseException as cut:
            await _undo_cut_off(execution, savepoint, marks, cut)
            raise
        finally:
            execution.ended = True
            parent.child = None
            # The nested execution may have changed record types, or its rollback may have restored them.
            root.document_checks = None
        if root.is_abandoned:
            raise timeout_error(execution)
        await _undo(execution, savepoint, *marks)
        failure = execution.secrets.scrub_error(failure)
        execution.add_row(outcome_of(failure), failure)
        for write in execution.after_failure:
            await _write_after_failure(execution, write)
        parent.after_failure += execution.after_failure
        logger.debug("%s failed inside %s: %s", plan.name, parent.plan.name, failure.code)
        return Failure(failure)

    def _check_nesting(self, execution: Execution, parent: Execution) -> None:
        plan = execution.plan
        if execution.depth > self.limits.nested_depth:
            raise ActionError(
                ErrorCode.INTERNAL,
                f"{plan.name}: actions are nested deeper than {self.limits.nested_depth} levels (Limits.nested_depth)",
            )
        if parent.plan.action.read_only and not plan.action.read_only:
            raise ActionError(ErrorCode.INTERNAL, f"{parent.plan.name} is read-only and cannot execute {plan.name}")
        check_deadline(parent)
        rehearses = execution.capture is not None and execution.capture.rehearses
        if plan.action.idempotency == "required" and not execution.is_claimed and not rehearses:
            raise ActionError(
                ErrorCode.INVALID_INPUT,
                f"{plan.name} needs an idempotency key: call {execution.root.plan.name}, which executes it, with one",
            )

    # Hooks

    async def before_hooks(self, execution: Execution) -> None:
        """Run stage 7: each output is the next input. Raises `ActionError(hook_failed)`."""
        received, plan = execution.received, execution.plan
        assert received is not None
        value = await self._run_hooks(execution, plan.before, "before", received.value)
        if value is not received.value:
            execution.incoming = copy_payload(value, plan.model, self.limits)
            execution.secrets.learn(execution.incoming.secrets)
            if plan.sensitive:
                execution.secrets.learn_named(execution.incoming.json)
            execution.hook_context.input = execution.incoming.value

    async def after_hooks(self, execution: Execution) -> None:
        """Run stage 11: each output is the next value. Raises `ActionError(hook_failed)`."""
        returned = execution.hook_context.output = execution.value
        if execution.plan.result_names:
            execution.secrets.learn_result(returned)
        execution.value = await self._run_hooks(execution, execution.plan.after, "after", returned)
        execution.has_own_value = execution.value is returned
        execution.hook_context.output = execution.value

    async def _run_hooks(
        self, execution: Execution, hooks: tuple[tuple[HookDefinition, ActionPlan], ...], phase: Phase, value: Any
    ) -> Any:
        log, to_log_json = execution.hook_context.log[phase], execution.secrets.to_log_json
        for hook, plan in hooks:
            check_deadline(execution)
            nested = Execution(plan, value, execution.request, execution.mode, parent=execution)
            nested.hooked = execution
            try:
                nested.accept_payload(copy_payload(value, plan.model, self.limits))
            except ActionError as refusal:
                raise ActionError(
                    ErrorCode.INTERNAL,
                    f"{execution.plan.name}: its {phase} hook {hook.name} cannot get its input: {refusal}",
                ) from None
            input = to_log_json(value, plan.sensitive, plan.names)
            answered = await self._nest(nested, execution)
            if isinstance(answered, Success):
                value = nested.value
                log.append(HookLogEntry(hook.name, input, to_log_json(value, plan.result_names, plan.names), True))
                continue
            error = answered.failure()
            execution.hook_context.error = error
            log.append(HookLogEntry(hook.name, input, error.to_dict(), False))
            if hook.is_critical:
                raise ActionError(
                    ErrorCode.HOOK_FAILED,
                    f"the {phase} hook {hook.name} of {execution.plan.name} failed: {error}",
                    {"hook": hook.name, "error": error.to_dict()},
                )
            logger.warning("the %s hook %s of %s failed: %s", phase, hook.name, execution.plan.name, error)
        return value

    # Contexts

    def _context_for(self, execution: Execution) -> ActionContext:
        plan, api = execution.plan, HandlerAPI(execution, self._services)
        kind = InternalContext if plan.is_internal else ActionContext
        return kind(api, None if plan.is_sync_and_async else plan.is_async)

    def _context_for_condition(self, execution: Execution) -> ActionContext:
        return ActionContext(HandlerAPI(execution, self._services), is_async=False)


async def _undo(execution: Execution, savepoint: object, rows: int, events: int, results: int) -> None:
    """Undo all writes of a nested execution. Its context cannot be used any more."""
    execution.ended = True
    root = execution.root
    if savepoint is not None:
        await execution.open().rollback_to(savepoint)
    del root.events[events:]
    del root.results[results:]
    root.log.mark_rolled_back(rows)


async def _undo_cut_off(
    execution: Execution, savepoint: object, marks: tuple[int, int, int], cut: BaseException
) -> None:
    """Undo a nested execution that was cancelled or interrupted, since its caller may catch that and continue. Where it
    cannot be undone, the outermost execution cannot commit."""
    try:
        await _undo(execution, savepoint, *marks)
    except BaseException as error:
        logger.debug("%s was cut off, and could not be undone alone: %r", execution.plan.name, error)
        execution.open().abandon()
        return
    message = f"{execution.plan.name} was cut off: {type(cut).__name__}"
    execution.add_row("failed", ActionError(ErrorCode.INTERNAL, message))


async def _write_after_failure(execution: Execution, write: FailureWrite) -> None:
    """Run a write that survives the failure of a nested execution. A refused write is only logged."""
    unit_of_work = execution.open()
    savepoint = await unit_of_work.savepoint()
    try:
        await write(unit_of_work)
        await unit_of_work.release(savepoint)
    except ActionError as refusal:
        await unit_of_work.rollback_to(savepoint)
        logger.warning("%s failed, and its data could not be updated: %s", execution.plan.name, refusal)


def _no_tenant(plan: ActionPlan) -> ActionError:
    return ActionError(ErrorCode.UNAUTHENTICATED, f"{plan.name}: the request has no tenant")
