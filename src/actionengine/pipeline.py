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

A stage is a coroutine of one argument, the execution; it refuses by raising `ActionException`. Under a synchronous
storage none of them suspends, so that the synchronous entry point drives them with `send(None)`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, from_json
from returns.result import Failure, Result, Success

from actionengine.action_context import ActionContext
from actionengine.actions import HookDefinition, HookLogEntry, PipelineResult
from actionengine.approval_record import PendingApproval, error_for
from actionengine.authorization.port import AccessRequest, Authorizer, Decision
from actionengine.calling import call, call_plainly, check_deadline, log_crash, logger, unwrap
from actionengine.context import RequestContext
from actionengine.driving import drive
from actionengine.errors import ActionError, ActionException, ErrorCode, failing
from actionengine.execution_state import ApprovalNeeded, Approved, Execution, Phase, outcome_of
from actionengine.masking import MASK, masked_json, revealed_json
from actionengine.payload import Limits, carry, fingerprint, receive
from actionengine.plan import ActionPlan, is_async
from actionengine.storage.port import (
    APPROVALS,
    Claim,
    ClaimAnswer,
    IdempotentResult,
    Mode,
    Recording,
    SerializationFailure,
    Storage,
    StorageError,
    StorageUnavailable,
    UnitOfWork,
)

Stage = Callable[[Execution], Awaitable[None]]
Answer = Result[Any, ActionError]
Plans = Mapping[str, Mapping[str, ActionPlan]]

STAGES = (
    "guard",
    "authorize",
    "validate",
    "claim",
    "before_hooks",
    "approval",
    "handler",
    "after_hooks",
    "record",
    "commit",
    "after",
)
"""The names of the stages, which an observer can wrap."""

_MASK = MASK.encode()
_BACKOFF = 0.002


class Replayed(Exception):
    """The claim has found an answer: nothing is left to run."""

    def __init__(self, encoded: bytes) -> None:
        super().__init__("replayed")
        self.encoded = encoded


class Pipeline:
    """The stages, and the one flow through them."""

    def __init__(
        self,
        plans: Plans,
        storage: Storage,
        authorizer: Authorizer,
        limits: Limits,
        resources: Mapping[str, Any],
        before: Callable[..., Any] | None = None,
        after: Callable[..., Any] | None = None,
        observe: Callable[[str, Stage], Stage] | None = None,
    ) -> None:
        self.plans = plans
        self.storage = storage
        self.limits = limits
        self.resources = resources
        self._idempotency_ttl = timedelta(seconds=limits.idempotency_ttl)
        self._authorizer = authorizer
        self._before = before
        self._before_is_async = before is not None and is_async(before)
        self._after = after
        self._after_is_async = after is not None and is_async(after)
        if observe is not None:
            for name in STAGES:
                setattr(self, name, observe(name, getattr(self, name)))

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
        if self._after is not None:
            await self.after(execution)
        return Success(value)

    async def execute_nested(self, parent: Execution, service: str, action: str, payload: Any, mode: Mode) -> Answer:
        """Stages 1 to 11 in a savepoint of the parent's unit of work."""
        plan = self.plans.get(service, {}).get(action)
        if plan is None:
            return Failure(ActionError(ErrorCode.NOT_FOUND, f"there is no action {service}.{action}"))
        return await self._nest(Execution(plan, payload, parent.request, mode, parent), parent)

    async def execute_approved(
        self, parent: Execution, pending: PendingApproval, approved: Approved
    ) -> tuple[Any, str | None]:
        """Run an approved action in the unit of work of its approval, as its requester.

        Gives its value and None; or None and the id of the approval that a further policy makes it wait for. Raises
        `ActionException` with what it fails with.
        """
        plan = self.plans.get(pending.service, {}).get(pending.action)
        if plan is None:
            raise failing(ErrorCode.NOT_FOUND, f"there is no action {pending.service}.{pending.action} any more")
        request = pending.request(parent.request)
        execution = Execution(plan, from_json(pending.payload.encode()), request, parent.mode, parent)
        execution.approved = approved
        if pending.idempotency_key is not None:
            execution.claim = Claim(plan.name, pending.idempotency_key, pending.fingerprint, pending.id)
            answer = await self.open(execution).claim(execution.claim, self.limits.idempotency_wait)
            if answer.status != "claimed":
                raise failing(ErrorCode.CONFLICT, f"the key of the approval {pending.id} has been used since")
        try:
            answered = await self._nest(execution, parent)
        except ApprovalNeeded as needed:
            parent.root.needed = None
            further = self._pending(execution, needed)
            await self.open(execution).records(APPROVALS).insert(further.document(), further.id)
            self._remember(execution, None, further)
            return None, further.id
        if isinstance(answered, Failure):
            raise ActionException(answered.failure())
        self._remember(execution, execution.value)
        return answered.unwrap(), None

    async def _admit(self, execution: Execution) -> None:
        if self._before is not None:
            await self.guard(execution)
        await self.authorize(execution)
        if execution.received is None:
            execution.keep(receive(execution.payload, execution.plan.model, self.limits))
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
                if not execution.plan.action.read_only:
                    self._remember(execution, value)
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
        if execution.root.needed is not None:
            raise execution.root.needed
        if plan.after:
            await self.after_hooks(execution)
        try:
            execution.output = masked_json(execution.value)
        except (PydanticSerializationError, ValueError, TypeError) as error:
            raise failing(
                ErrorCode.INTERNAL, f"{plan.name} returned something that has no JSON form: {error}"
            ) from None
        if not plan.action.read_only and not execution.emitted:
            execution.add_default_event()

    async def _nest(self, execution: Execution, parent: Execution) -> Answer:
        plan, root = execution.plan, execution.root
        rows, events = len(root.rows), len(root.events)
        unit_of_work = self.open(root)
        savepoint = None
        try:
            self._check_nesting(execution, parent)
            await self._admit(execution)
            savepoint = await unit_of_work.savepoint()
            await self._perform(execution)
            await unit_of_work.release(savepoint)
            execution.add_row("succeeded")
            return Success(_answered(execution))
        except ApprovalNeeded as needed:
            root.needed = needed
            if savepoint is not None:
                await unit_of_work.rollback_to(savepoint)
            del root.events[events:]
            execution.undo_rows(rows)
            execution.add_row("approval_required")
            raise
        except (SerializationFailure, StorageUnavailable):
            # The transaction is beyond saving: the outermost execution deals with it.
            raise
        except ActionException as refusal:
            failure = refusal.error
        except Exception as crash:
            failure = self._storage_error(execution, crash)
        if savepoint is not None:
            await unit_of_work.rollback_to(savepoint)
        del root.events[events:]
        execution.undo_rows(rows)
        failure = execution.scrubbed_error(failure)
        execution.add_row(outcome_of(failure), failure)
        logger.debug("%s failed inside %s: %s", plan.name, parent.plan.name, failure.code)
        return Failure(failure)

    # The stages

    async def guard(self, execution: Execution) -> None:
        """2: the global before handler. Fails with what it returns; it gets a copy of the payload."""
        what = "the global before handler"
        assert self._before is not None
        self._keep_quietly(execution)
        payload = execution.received.again().value if execution.received else execution.payload
        arguments = (execution.plan.action, payload, execution.request)
        unwrap(execution, what, await call(execution, None, what, self._before, self._before_is_async, *arguments))

    async def authorize(self, execution: Execution) -> None:
        """3: who asks. Fails with `unauthenticated` or `forbidden`."""
        action, actor = execution.plan.action, execution.request.actor
        allowed = action.allowed_actors
        if actor is None:
            if action.is_protected or allowed is not None:
                execution.decide("no actor")
                raise failing(ErrorCode.UNAUTHENTICATED, f"{execution.plan.name} needs a signed-in actor")
            return
        if allowed is not None and actor.type not in allowed:
            execution.decide(f"{actor.type} actors are not allowed")
            raise failing(
                ErrorCode.FORBIDDEN,
                f"{execution.plan.name} is not for {actor.type} actors, only for {', '.join(sorted(allowed))}",
            )
        if action.is_protected:
            roles, more = action.access_control, action.resource is not None
            _enforce(execution, await self._ask(execution, roles, action.permission, None, more))

    async def validate(self, execution: Execution) -> None:
        """4 or 8: the payload becomes the handler's input. Fails with `invalid_input` and each field's path and reason;
        with `forbidden` where a policy speaks of the resource that the input names."""
        plan, received = execution.plan, execution.incoming
        assert received is not None
        if plan.validator is None:
            execution.data = received.value
        else:
            try:
                if received.is_plain:
                    execution.data = plan.validator.validate_json(received.json)
                else:
                    execution.data = plan.validator.validate_python(received.value)
            except ValidationError as error:
                raise _invalid(plan, error) from None
            except ActionException:
                raise
            except Exception as error:
                log_crash(execution, "the validation", error)
                raise failing(
                    ErrorCode.INTERNAL, f"the validation of {plan.name} raised {type(error).__name__}"
                ) from None
        if plan.action.resource is not None:
            resource = await call(execution, None, "resource()", plan.action.resource, False, execution.data)
            if not isinstance(resource, str) or not resource:
                raise failing(ErrorCode.INTERNAL, f"resource() of {plan.name} has to return a name, not {resource!r}")
            execution.add_subject(resource)
            if plan.action.is_protected and execution.request.actor is not None:
                roles, permission = plan.action.access_control, plan.action.permission
                _enforce(execution, await self._ask(execution, roles, permission, resource, False))

    async def claim(self, execution: Execution) -> None:
        """6: the idempotency key. Fails with `idempotency_mismatch` or `idempotency_in_progress`; raises `Replayed`
        where the answer is there."""
        if execution.claim is None:
            execution.claim = self._claim_of(execution)
        unit_of_work = self.open(execution)
        answer = await unit_of_work.claim(execution.claim, execution.remaining(self.limits.idempotency_wait))
        if answer.status == "replay" and answer.approval_id is not None:
            answer = await self._after_approval(execution, unit_of_work, answer.approval_id)
        if answer.status == "claimed":
            return
        check_deadline(execution)
        if answer.status == "replay":
            assert answer.result is not None
            raise Replayed(answer.result)
        key = execution.claim.key
        if answer.status == "mismatch":
            raise failing(
                ErrorCode.IDEMPOTENCY_MISMATCH,
                f"the idempotency key {key!r} was used for {execution.plan.name} with another payload",
            )
        raise failing(
            ErrorCode.IDEMPOTENCY_IN_PROGRESS,
            f"the first execution of {execution.plan.name} with the idempotency key {key!r} still runs: try again",
        )

    async def before_hooks(self, execution: Execution) -> None:
        """7: each output is the next input. Fails with `hook_failed`."""
        received = execution.received
        assert received is not None
        value = await self._run_hooks(execution, execution.plan.before, "before", received.value)
        if value is not received.value:
            execution.incoming = carry(value, execution.plan.model, self.limits)
            execution.hook_context.input = execution.incoming.value

    async def approval(self, execution: Execution) -> None:
        """9: raises `ApprovalNeeded` where the policy applies and nobody has granted it yet."""
        plan = execution.plan
        policy = plan.action.approval
        assert policy is not None
        if execution.approved is not None and plan.name in execution.approved.granted:
            return
        unit_of_work = self.open(execution)
        arguments = (execution.data, ActionContext(execution, self))
        applies = await call(execution, unit_of_work, "the approval condition", policy.when, False, *arguments)
        if applies:
            execution.decide(f"needs an approval with the permission {policy.permission}")
            raise ApprovalNeeded(plan.name, policy)

    async def handler(self, execution: Execution) -> None:
        """10: fails with what it returned, or `handler_error`."""
        plan = execution.plan
        handler = plan.action.handler
        arguments = (execution.data, ActionContext(execution, self)) if plan.takes_context else (execution.data,)
        if plan.is_native:
            returned = await handler(*arguments)
        elif execution.mode == "sync" and execution.deadline is None and not plan.is_async:
            returned = call_plainly(execution, "the handler", handler, *arguments)
        else:
            unit_of_work = None if execution.mode == "sync" else self.open(execution)
            returned = await call(execution, unit_of_work, "the handler", handler, plan.is_async, *arguments)
        execution.value = unwrap(execution, "the handler", returned)

    async def after_hooks(self, execution: Execution) -> None:
        """11: each output is the next value. Fails with `hook_failed`."""
        execution.hook_context.output = execution.value
        execution.value = await self._run_hooks(execution, execution.plan.after, "after", execution.value)
        execution.hook_context.output = execution.value

    async def record(self, execution: Execution) -> None:
        """12: log rows, events and idempotent results, in the transaction of the handler's writes."""
        execution.add_row("succeeded")
        if execution.plan.action.read_only and execution.unit_of_work is not None:
            await self._roll_back(execution)
            execution.unit_of_work = None
        recording = Recording(execution.scrubbed_rows(), execution.scrubbed_events(), execution.results)
        await self.open(execution, writable=True).record(recording)

    async def commit(self, execution: Execution) -> None:
        """13: all or nothing."""
        assert execution.unit_of_work is not None
        await execution.unit_of_work.commit()
        execution.ended = True

    async def after(self, execution: Execution) -> None:
        """14: the global after handler. The commit stands, so what goes wrong here is only logged."""
        what = "the global after handler"
        assert self._after is not None
        arguments = (execution.plan.action, execution.payload, execution.request, Success(execution.value))
        execution.deadline = None
        try:
            unwrap(execution, what, await call(execution, None, what, self._after, self._after_is_async, *arguments))
        except ActionException as refusal:
            error = execution.scrubbed_error(refusal.error)
            logger.warning("%s of %s failed: %s (%s)", what, execution.plan.name, error, error.code)

    # What the stages use

    def open(self, execution: Execution, writable: bool = False) -> UnitOfWork:
        """The unit of work of the outermost execution. Storage opens its transaction at the first use."""
        root = execution.root
        if root.unit_of_work is None:
            tenant = root.request.tenant
            assert tenant is not None
            read_only = root.plan.action.read_only and not writable
            root.unit_of_work = self.storage.unit_of_work(tenant, root.id, root.mode, read_only)
        return root.unit_of_work

    async def decide(self, execution: Execution, permission: str | None, resource: str | None) -> Decision:
        """The authorizer's answer to a handler's own question, put on record."""
        return await self._ask(execution, (), permission, resource, False)

    async def _ask(
        self, execution: Execution, roles: tuple[str, ...], permission: str | None, resource: str | None, more: bool
    ) -> Decision:
        tenant, actor = execution.request.tenant, execution.request.actor
        assert tenant is not None
        if actor is None:
            return Decision(False, "no actor")
        name = execution.plan.name
        request = AccessRequest(tenant, actor, name, roles, permission, resource, more, execution.root.mode)
        try:
            decision = self._authorizer.authorize(request)
            if not isinstance(decision, Decision):
                # Driven apart, so that an authorizer that waits for an event loop where there is none is a refusal.
                decision = drive(_awaited(decision)) if execution.root.mode == "sync" else await decision
        except (ActionException, StorageError):
            raise
        except Exception as error:
            log_crash(execution, "the authorizer", error)
            raise failing(ErrorCode.INTERNAL, f"the authorizer raised {type(error).__name__}") from None
        execution.decide(decision.reason)
        return decision

    async def _run_hooks(
        self, execution: Execution, hooks: tuple[tuple[HookDefinition, ActionPlan], ...], phase: Phase, value: Any
    ) -> Any:
        log = execution.hook_context.log[phase]
        for hook, plan in hooks:
            check_deadline(execution)
            nested = Execution(plan, value, execution.request, execution.mode, execution)
            nested.hooked = execution
            nested.keep(carry(value, plan.model, self.limits))
            shown = execution.shown(value, execution.plan, plan)
            answered = await self._nest(nested, execution)
            if isinstance(answered, Success):
                value = nested.value
                log.append(HookLogEntry(hook.name, shown, execution.shown(value, execution.plan, plan), True))
                continue
            error = answered.failure()
            execution.hook_context.error = error
            log.append(HookLogEntry(hook.name, shown, error.to_dict(), False))
            if hook.is_critical:
                raise failing(
                    ErrorCode.HOOK_FAILED,
                    f"the {phase} hook {hook.name} of {execution.plan.name} failed: {error}",
                    hook=hook.name,
                    error=error.to_dict(),
                )
            logger.warning("the %s hook %s of %s failed: %s", phase, hook.name, execution.plan.name, error)
        return value

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

    # Idempotency

    def _wants_claim(self, execution: Execution) -> bool:
        action, key = execution.plan.action, execution.request.idempotency_key
        if action.read_only or action.idempotency == "none":
            return False
        if key is None:
            if action.idempotency == "required":
                raise failing(ErrorCode.INVALID_INPUT, f"{execution.plan.name} needs an idempotency key")
            return False
        if not isinstance(key, str) or not 0 < len(key) <= self.limits.key_length:
            raise failing(
                ErrorCode.INVALID_INPUT,
                f"an idempotency key is a text of 1 to {self.limits.key_length} characters",
            )
        return True

    def _claim_of(self, execution: Execution) -> Claim:
        key = execution.request.idempotency_key
        assert key is not None
        assert execution.received is not None
        return Claim(execution.plan.name, key, fingerprint(execution.received))

    def _remember(self, execution: Execution, value: Any, waits_for: PendingApproval | None = None) -> None:
        """Queue what the claimed key answers from now on."""
        if execution.claim is None:
            return
        encoded = None
        until = execution.root.started_at + self._idempotency_ttl
        if waits_for is None:
            encoded = execution.output if value is execution.value else masked_json(value)
            assert encoded is not None
            if _MASK in encoded:
                encoded = revealed_json(value)
        else:
            until = max(until, waits_for.expires_at)
        approval_id = waits_for.id if waits_for else None
        execution.root.results.append(IdempotentResult(execution.claim, encoded, approval_id, until))

    async def _after_approval(self, execution: Execution, unit_of_work: UnitOfWork, approval_id: str) -> ClaimAnswer:
        """The answer of a key that waits for an approval: that it still does, or a claim if that came to nothing."""
        record = await unit_of_work.records(APPROVALS).get(approval_id)
        pending = PendingApproval.of(record) if record else None
        if pending is not None and pending.is_open(datetime.now(UTC)):
            raise ActionException(error_for(pending))
        assert execution.claim is not None
        execution.claim = execution.claim._replace(replaces=approval_id)
        return await unit_of_work.claim(execution.claim, self.limits.idempotency_wait)

    # How an execution ends

    async def _settle_replay(self, execution: Execution, replayed: Replayed) -> Answer:
        try:
            value = execution.plan.decode_result(replayed.encoded)
            execution.output = masked_json(value.data if isinstance(value, PipelineResult) else value)
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
        pending = self._pending(execution, needed)
        error = error_for(pending)
        try:
            unit_of_work = self.open(execution)
            if execution.claim is not None:
                await self.claim(execution)
            await unit_of_work.records(APPROVALS).insert(pending.document(), pending.id)
            self._remember(execution, None, pending)
            execution.ended = True
            execution.output = None
            execution.add_row("approval_required", error)
            await unit_of_work.record(Recording(execution.scrubbed_rows(), (), execution.results))
            await unit_of_work.commit()
        except Replayed as replayed:
            return await self._settle_replay(execution, replayed)
        except ActionException as refusal:
            return await self._settle_failure(execution, refusal.error)
        except Exception as crash:
            return await self._settle_failure(execution, self._storage_error(execution, crash))
        return Failure(error)

    async def _settle_failure(self, execution: Execution, error: ActionError) -> Answer:
        """Roll back, and put the failure on the action log in a transaction of its own."""
        await self._roll_back(execution)
        execution.unit_of_work = None
        execution.ended = True
        self._keep_quietly(execution)
        error = execution.scrubbed_error(error)
        execution.output = None
        execution.undo_rows()
        execution.add_row(outcome_of(error), error)
        try:
            unit_of_work = self.open(execution, writable=True)
            await unit_of_work.record(Recording(execution.scrubbed_rows()))
            await unit_of_work.commit()
        except Exception as crash:
            log_crash(execution, "the action log", crash)
            await self._roll_back(execution)
        return Failure(error)

    def _pending(self, execution: Execution, needed: ApprovalNeeded) -> PendingApproval:
        assert execution.received is not None
        return PendingApproval.for_execution(execution, fingerprint(execution.received.again()), needed)

    async def _roll_back(self, execution: Execution) -> None:
        if execution.root.unit_of_work is not None:
            await execution.root.unit_of_work.rollback()

    def _keep_quietly(self, execution: Execution) -> None:
        """Keep the payload before its turn, if it can be kept; its own stage says why not."""
        with suppress(ActionException):
            if execution.received is None:
                execution.keep(receive(execution.payload, execution.plan.model, self.limits))

    def _storage_error(self, execution: Execution, error: Exception) -> ActionError:
        if isinstance(error, ActionException):
            return error.error
        name = execution.plan.name
        if isinstance(error, SerializationFailure):
            return ActionError(ErrorCode.CONFLICT, f"{name} lost against other executions too often: try again")
        log_crash(execution, "the storage" if isinstance(error, StorageError) else "the pipeline", error)
        if isinstance(error, StorageUnavailable):
            return ActionError(ErrorCode.UNAVAILABLE, f"{name}: the storage is unavailable, try again later")
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


def _enforce(execution: Execution, decision: Decision) -> None:
    if not decision.allowed:
        raise failing(ErrorCode.FORBIDDEN, f"{execution.plan.name}: {decision.reason}")


async def _awaited(decision: Awaitable[Decision]) -> Decision:
    return await decision


def _answered(execution: Execution) -> Any:
    if execution.plan.action.result.pipeline:
        return PipelineResult(execution.value, replace(execution.hook_context.log))
    return execution.value


def _invalid(plan: ActionPlan, error: ValidationError) -> ActionException:
    """The paths and reasons of a failed validation, without the input, and without a reason that may quote a secret."""
    fields = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        path = ".".join(str(part) for part in item["loc"])
        secret = any(str(part) in plan.sensitive for part in item["loc"])
        fields.append({"path": path, "reason": "is not valid" if secret else item["msg"], "type": item["type"]})
    summary = "; ".join(f"{item['path'] or 'payload'}: {item['reason']}" for item in fields)
    return failing(ErrorCode.INVALID_INPUT, f"{plan.name}: {summary}", fields=fields)
