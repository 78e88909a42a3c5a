"""The stages: each a coroutine of one argument, the execution, that refuses by raising `ActionException`.

Their order is the pipeline's business (`pipeline`).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from datetime import datetime, timedelta
from functools import partial
from math import inf
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json
from returns.result import Result, Success

from actionengine.action_context import ActionContext
from actionengine.actions import HookDefinition, HookLogEntry, PipelineResult
from actionengine.approval_record import PendingApproval, error_for
from actionengine.authorization.port import AccessRequest, Authorizer, Decision
from actionengine.authorization.questions import Question, Questions, decode_questions
from actionengine.calling import call, call_plainly, check_deadline, log_crash, logger, unwrap
from actionengine.context import MAX_ACTOR_ID_LENGTH, Actor
from actionengine.driving import drive
from actionengine.errors import ActionError, ActionException, ErrorCode, check_length, failing, sendable
from actionengine.execution_state import ApprovalNeeded, Execution, Phase
from actionengine.masking import masked_json, searchable_json
from actionengine.payload import Limits, carry, check_claimable, fingerprint, receive, refusals, summary
from actionengine.plan import ActionPlan, is_async
from actionengine.routing import Plans
from actionengine.secret_types import typed_secrets
from actionengine.storage.port import (
    APPROVALS,
    LONGEST_SUBJECT,
    Claim,
    ClaimAnswer,
    DocumentGuard,
    IdempotentResult,
    Mode,
    RecordGuard,
    Recording,
    Route,
    Storage,
    StorageError,
    UnitOfWork,
)
from actionengine.stored_form import NotStorable, store_plain, with_shown

Stage = Callable[[Execution], Awaitable[None]]
Answer = Result[Any, ActionError]

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


class Replayed(Exception):
    """The claim has found an answer: nothing is left to run."""

    def __init__(self, encoded: bytes, asked: bytes | None) -> None:
        super().__init__("replayed")
        self.encoded = encoded
        self.asked = asked


class Stages(ABC):
    """The stages, and what they share."""

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
        document_guard: DocumentGuard | None = None,
        record_guard: RecordGuard | None = None,
        routes: Sequence[Route] = (),
    ) -> None:
        self.plans = plans
        self.storage = storage
        self.limits = limits
        self.resources = resources
        self.document_guard = document_guard
        self.record_guard = record_guard
        self._routes = routes
        self._idempotency_ttl = timedelta(seconds=limits.idempotency_ttl)
        self._authorizer = authorizer
        self._before = before
        self._before_is_async = before is not None and is_async(before)
        self._after = after
        self._after_is_async = after is not None and is_async(after)
        if observe is not None:
            for name in STAGES:
                setattr(self, name, observe(name, getattr(self, name)))

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
        check_length("the id of the actor", actor.id, MAX_ACTOR_ID_LENGTH)
        if allowed is not None and actor.type not in allowed:
            execution.decide(f"{actor.type} actors are not allowed")
            raise failing(
                ErrorCode.FORBIDDEN,
                f"{execution.plan.name} is not for {actor.type} actors, only for {', '.join(sorted(allowed))}",
            )
        if allowed is not None and execution.asked is not None:
            execution.asked.add(Question(execution.plan.name, tuple(sorted(allowed)), (), None, None), actor)
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
            if plan.sensitive:
                execution.learn_secrets(searchable_json(execution.data))
                execution.learn(typed_secrets(execution.data, plan.model).values)
        if plan.action.resource is not None:
            resource = await call(execution, None, "resource()", plan.action.resource, False, execution.data)
            if not isinstance(resource, str) or not resource:
                raise failing(ErrorCode.INTERNAL, f"resource() of {plan.name} has to return a name, not {resource!r}")
            check_length("the resource", resource, LONGEST_SUBJECT)
            execution.add_subject(resource)
            execution.resource = resource
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
        while answer.status == "replay" and answer.approval_id is not None:
            answer = await self._after_approval(execution, unit_of_work, answer.approval_id)
        if answer.status == "claimed":
            execution.asked = Questions()
            return
        check_deadline(execution)
        if answer.status == "replay":
            assert answer.result is not None
            raise Replayed(answer.result, answer.asked)
        key = execution.claim.key
        if answer.status == "mismatch":
            raise failing(
                ErrorCode.IDEMPOTENCY_MISMATCH,
                f"the idempotency key {key!r} was used for {execution.plan.name} with another payload",
            )
        raise self._in_progress(execution)

    async def before_hooks(self, execution: Execution) -> None:
        """7: each output is the next input. Fails with `hook_failed`."""
        received = execution.received
        assert received is not None
        value = await self._run_hooks(execution, execution.plan.before, "before", received.value)
        if value is not received.value:
            execution.incoming = carry(value, execution.plan.model, self.limits)
            execution.learn(execution.incoming.secrets)
            if execution.plan.sensitive:
                execution.learn_secrets(execution.incoming.json)
            execution.hook_context.input = execution.incoming.value

    async def approval(self, execution: Execution) -> None:
        """9: raises `ApprovalNeeded` where the policy applies and nobody has granted it yet. Fails with `forbidden`
        where the approver that granted it may not approve what this turns out to be about."""
        plan = execution.plan
        policy = plan.action.approval
        assert policy is not None
        granted = execution.approved.granted if execution.approved is not None else {}
        refusal = None
        if plan.name in granted:
            approver, resource = granted[plan.name], execution.resource
            question = Question(plan.name, None, (), policy.permission, resource)
            decision = await self._put(execution, question, approver, False)
            if decision.allowed:
                return
            refusal = failing(ErrorCode.FORBIDDEN, f"{approver} may not approve {plan.name}: {decision.reason}")
        unit_of_work = self.open(execution)
        arguments = (execution.data, ActionContext(execution, self, is_async=False))
        applies = await call(execution, unit_of_work, "the approval condition", policy.when, False, *arguments)
        if applies and refusal is not None:
            raise refusal
        if applies:
            execution.decide(f"needs an approval with the permission {policy.permission}")
            raise ApprovalNeeded(plan.name, policy, execution.resource)

    async def handler(self, execution: Execution) -> None:
        """10: fails with what it returned, or `handler_error`."""
        plan = execution.plan
        handler = plan.action.handler
        arguments = (
            (execution.data, ActionContext(execution, self, plan.is_async)) if plan.takes_context else (execution.data,)
        )
        if plan.is_native:
            returned = await handler(*arguments)
        elif execution.mode == "sync" and execution.deadline is None and not plan.is_async:
            returned = call_plainly(execution, "the handler", handler, *arguments)
        else:
            # Opened before a handler that may be left behind at its deadline, so that it never opens one afterwards.
            unit_of_work = self.open(execution)
            try:
                returned = await call(execution, unit_of_work, "the handler", handler, plan.is_async, *arguments)
            except BaseExceptionGroup:
                # A task group wraps what unwinds through it.
                if execution.root.needed is None:
                    raise
                raise execution.root.needed from None
        execution.value = unwrap(execution, "the handler", returned)

    async def after_hooks(self, execution: Execution) -> None:
        """11: each output is the next value. Fails with `hook_failed`."""
        returned = execution.hook_context.output = execution.value
        if execution.plan.result_names:
            execution.learn_result(returned)
        execution.value = await self._run_hooks(execution, execution.plan.after, "after", returned)
        execution.has_own_value = execution.value is returned
        execution.hook_context.output = execution.value

    async def record(self, execution: Execution) -> None:
        """12: log rows, events and idempotent results, in the transaction of the handler's writes."""
        # From here on, tasks and threads that its handler has left running do nothing more in it.
        execution.ended = True
        if (execution.has_session or execution.unanswered) and execution.unit_of_work is not None:
            # What those tasks are in the middle of comes first, and is a subject too.
            execution.add_flushed(await execution.unit_of_work.flushed_subjects())
        execution.add_row("succeeded")
        if execution.plan.action.read_only and execution.unit_of_work is not None:
            # There is nothing to write, and a commit looks at what SQL of the handler has made of the transaction.
            await execution.unit_of_work.commit()
            execution.unit_of_work = None
        recording = Recording(execution.scrubbed_rows(), execution.scrubbed_events(), execution.results, self._routes)
        await self.open(execution, writable=True).record(recording)

    async def commit(self, execution: Execution) -> None:
        """13: all or nothing."""
        assert execution.unit_of_work is not None
        await execution.unit_of_work.commit()
        execution.ended = True

    async def follow_commit(self, execution: Execution) -> None:
        """13, once the commit stands: what was to wait for it. It may block, and no deadline holds for it; what goes
        wrong in it is only logged."""
        if execution.mode == "sync":
            _follow_commit(execution)
        else:
            # All of it in one thread: whoever cancels the caller by now does not cut it short, nor takes it out of the
            # queue for a thread.
            call_it = partial(copy_context().run, _follow_commit, execution)
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, call_it))

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
        if root.unit_of_work is not None:
            return root.unit_of_work
        with root.lock:
            if root.unit_of_work is None:
                tenant = root.request.tenant
                assert tenant is not None
                read_only = root.plan.action.read_only and not writable
                unit_of_work = self.storage.unit_of_work(tenant, root.id, root.mode, read_only)
                if root.deadline is not None:
                    unit_of_work.limit(root.remaining(inf))
                root.unit_of_work = unit_of_work
            return root.unit_of_work

    async def decide(self, execution: Execution, permission: str | None, resource: str | None) -> Decision:
        """The authorizer's answer to a handler's own question, put on record."""
        return await self._ask(execution, (), permission, resource, False)

    def permission_to_approve(self, pending: PendingApproval) -> str:
        """Return what an approver needs today: what the policy names, or named where the policy is gone."""
        service, _, action = pending.policy.partition(".")
        plan = self.plans.get(service, {}).get(action)
        policy = plan.action.approval if plan is not None else None
        return policy.permission if policy is not None else pending.permission

    async def _ask(
        self, execution: Execution, roles: tuple[str, ...], permission: str | None, resource: str | None, more: bool
    ) -> Decision:
        actor = execution.request.actor
        if actor is None:
            return Decision(False, "no actor")
        question = Question(execution.plan.name, None, roles, permission, resource)
        decision = await self._put(execution, question, actor, more)
        if decision.allowed and execution.asked is not None and not more:
            execution.asked.add(question, actor)
        return decision

    async def ask_again(self, execution: Execution, encoded: bytes) -> None:
        """Ask, for the actor of a replay, what the first execution asked. Fails with `forbidden`."""
        questions, actor, name = decode_questions(encoded), execution.request.actor, execution.plan.name
        execution.learn(questions.secret)
        if questions.for_actor is not None and questions.for_actor != str(actor):
            execution.decide("the result is for the actor that got it first")
            raise failing(ErrorCode.FORBIDDEN, f"{name}: the idempotency key is another actor's, and so is its result")
        for question in questions.asked:
            if actor is None:
                decision = Decision(False, "no actor")
            elif question.allowed_actors is None:
                decision = await self._put(execution, question, actor, False)
            elif actor.type in question.allowed_actors:
                continue
            else:
                decision = Decision(False, f"{question.action} is not for {actor.type} actors")
                execution.decide(decision.reason)
            _enforce(execution, decision)

    async def _put(self, execution: Execution, question: Question, actor: Actor, more: bool) -> Decision:
        """Put a question to the authorizer, and the decision on record."""
        tenant, mode = execution.request.tenant, execution.root.mode
        assert tenant is not None
        action, _, roles, permission, resource = question
        request = AccessRequest(tenant, actor, action, roles, permission, resource, more, mode)
        try:
            decision = self._authorizer.authorize(request)
            if not isinstance(decision, Decision):
                # Driven apart, so that an authorizer that waits for an event loop where there is none is a refusal.
                decision = drive(_awaited(decision)) if mode == "sync" else await decision
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
            try:
                nested.keep(carry(value, plan.model, self.limits))
            except ActionException as refusal:
                raise failing(
                    ErrorCode.INTERNAL,
                    f"{execution.plan.name}: its {phase} hook {hook.name} cannot get its input: {refusal}",
                ) from None
            shown = execution.shown(value, plan.sensitive, plan.names)
            answered = await self._nest(nested, execution)
            if isinstance(answered, Success):
                value = nested.value
                told = execution.shown(value, plan.result_names, plan.names)
                log.append(HookLogEntry(hook.name, shown, told, True))
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

    @abstractmethod
    async def execute_nested(self, parent: Execution, service: str, action: str, payload: Any, mode: Mode) -> Answer:
        """Stages 1 to 11 in a savepoint of the parent's unit of work."""

    @abstractmethod
    async def _nest(self, execution: Execution, parent: Execution) -> Answer:
        """The same for an execution that is routed already."""

    async def _roll_back(self, execution: Execution) -> None:
        if execution.root.unit_of_work is not None:
            await execution.root.unit_of_work.rollback()

    def _keep_quietly(self, execution: Execution) -> None:
        """Keep the payload before its turn, if it can be kept; its own stage says why not."""
        with suppress(Exception):
            if execution.received is None and not execution.is_refused:
                self.keep_payload(execution)

    def keep_payload(self, execution: Execution) -> None:
        """Keep the payload. Raises `ActionException(invalid_input)` as `receive` does; it is then read no second
        time."""
        try:
            execution.keep(receive(execution.payload, execution.plan.model, self.limits))
        except ActionException:
            execution.is_refused = execution.received is None
            raise

    # Idempotency

    def _wants_claim(self, execution: Execution) -> bool:
        action, key = execution.plan.action, execution.request.idempotency_key
        if action.read_only or action.idempotency == "none":
            return False
        if key is None:
            if action.idempotency == "required":
                raise failing(ErrorCode.INVALID_INPUT, f"{execution.plan.name} needs an idempotency key")
            return False
        if not isinstance(key, str) or not 0 < len(key) <= self.limits.key_length or sendable(key) != key:
            raise failing(
                ErrorCode.INVALID_INPUT,
                f"an idempotency key is a text of 1 to {self.limits.key_length} characters in UTF-8",
            )
        return True

    def _claim_of(self, execution: Execution) -> Claim:
        key = execution.request.idempotency_key
        assert key is not None
        received = execution.received
        assert received is not None
        print_of_payload = fingerprint(
            received if received.is_plain else check_claimable(received, execution.plan.validator)
        )
        if execution.plan.before and execution.plan.action.resource is not None:
            # What a replay is about is known only after the hooks, which it does not run: so it is for its actor only.
            print_of_payload = f"{print_of_payload}:{execution.request.actor}"
        return Claim(execution.plan.name, key, print_of_payload)

    def _remember(self, execution: Execution, value: Any, now: datetime) -> Any:
        """Queue what the claimed key answers from now on, and return it: the caller gets the same as every retry.

        Raises `ActionException(internal)` for a result that a retry could not get.
        """
        assert execution.claim is not None
        plan, masked = execution.plan, execution.result_json or masked_json(execution.value)
        try:
            if execution.has_plain_value and value is execution.value and plan.results.is_plain:
                encoded = store_plain(masked)
            else:
                encoded, value = plan.results.store(value, masked, execution.has_own_value)
                execution.value = value.data if isinstance(value, PipelineResult) else value
        except NotStorable as error:
            raise failing(
                ErrorCode.INTERNAL,
                f"{plan.name} has an idempotency key, and a retry with it would not get the same result: "
                f"{error}. Return what comes back from its JSON as the type that the handler's annotation names, or "
                f"declare the action with idempotency='none'",
            ) from None
        encoded = with_shown(encoded, execution.input_to_keep, execution.output_to_keep)
        until = now + self._idempotency_ttl
        asked = execution.asked.encode(execution.has_secret_in) if execution.asked is not None else None
        execution.root.results.append(IdempotentResult(execution.claim, encoded, None, until, asked))
        return value

    def _remember_approval(self, execution: Execution, pending: PendingApproval) -> None:
        """Queue that the claimed key waits for an approval."""
        if execution.claim is not None:
            until = max(pending.created_at + self._idempotency_ttl, pending.expires_at)
            execution.root.results.append(IdempotentResult(execution.claim, None, pending.id, until))

    async def _after_approval(self, execution: Execution, unit_of_work: UnitOfWork, approval_id: str) -> ClaimAnswer:
        """The answer of a key that waits for an approval: that it still does, or a claim if that came to nothing."""
        record = await unit_of_work.records(APPROVALS).get(approval_id)
        if record is None:
            # Committed since this transaction began to read: the next try sees it.
            raise self._in_progress(execution)
        pending = PendingApproval.of(record)
        execution.kept_input = to_json(pending.shown_input)
        if pending.is_open(await unit_of_work.now()):
            permission = self.permission_to_approve(pending)
            raise ActionException(error_for(pending.model_copy(update={"permission": permission})))
        assert execution.claim is not None
        execution.claim = execution.claim._replace(replaces=approval_id)
        return await unit_of_work.claim(execution.claim, execution.remaining(self.limits.idempotency_wait))

    def _in_progress(self, execution: Execution) -> ActionException:
        assert execution.claim is not None
        return failing(
            ErrorCode.IDEMPOTENCY_IN_PROGRESS,
            f"the first execution of {execution.plan.name} with the idempotency key {execution.claim.key!r} "
            f"still runs: try again",
        )


def _follow_commit(execution: Execution) -> None:
    for work in execution.after_commit:
        try:
            work()
        except Exception as error:
            log_crash(execution, "what was to follow the commit", error)


def _enforce(execution: Execution, decision: Decision) -> None:
    if not decision.allowed:
        raise failing(ErrorCode.FORBIDDEN, f"{execution.plan.name}: {decision.reason}")


async def _awaited(decision: Awaitable[Decision]) -> Decision:
    return await decision


def _invalid(plan: ActionPlan, error: ValidationError) -> ActionException:
    fields = refusals(error, plan.sensitive)
    return failing(ErrorCode.INVALID_INPUT, f"{plan.name}: {summary(fields)}", fields=fields)
