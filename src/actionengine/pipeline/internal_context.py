"""`InternalContext`: the rights of built-in handlers over the library's own collections and the action log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from typing import Any, TypeVar

from pydantic import BaseModel
from returns.result import Result

from actionengine.action_context import ActionContext
from actionengine.actions import Action, ApprovalPolicy
from actionengine.authorization.questions import Question
from actionengine.concurrency.run_sync import Mode
from actionengine.context import Actor, ActorType
from actionengine.errors import ActionError, ErrorCode
from actionengine.event_types import EventType
from actionengine.masking.masking import masked_json
from actionengine.pipeline.budgets import BudgetRule
from actionengine.pipeline.execution import (
    AfterCommitCallback,
    ApprovalNeeded,
    ApprovedRun,
    AskedWrite,
    Execution,
    FailureWrite,
    GrantedApproval,
)
from actionengine.pipeline.handler_api import HandlerAPI
from actionengine.pipeline.pending_approval import PendingApproval
from actionengine.pipeline.routing import route
from actionengine.storage.port import Storage, UnitOfWork

T = TypeVar("T")


class InternalContext(ActionContext):
    """The context of a built-in handler: an `ActionContext` that also reaches the library's own collections, tables and
    action log."""

    __slots__ = ()
    _port: HandlerAPI

    @property
    def unit_of_work(self) -> UnitOfWork:
        """The unit of work, with the library's own collections and tables, and the action log."""
        return self._port.running().open()

    @property
    def uncaptured(self) -> UnitOfWork:
        """The unit of work for writes that no preview shows: ids of executions, which each run makes anew."""
        return self._port.running().open_uncaptured()

    @property
    def storage(self) -> Storage:
        """The storage. A cache in the process is valid for one storage only."""
        return self._port.services.storage

    @classmethod
    def of(cls, ctx: ActionContext) -> InternalContext:
        """Return the context of a host's handler with these rights, for the library's own code."""
        assert isinstance(ctx._port, HandlerAPI)
        return cls(ctx._port, ctx._is_async)

    def as_action_context(self) -> ActionContext:
        """Return the context without these rights, for the host's code."""
        return ActionContext(self._port, self._is_async)

    async def time(self) -> datetime:
        """Return the time for what is written: by the storage's clock, or that of the preview that this execution has
        to equal. Compare an expiry with `unit_of_work.now` instead."""
        capture = self._port.execution.capture
        return await self.unit_of_work.now() if capture is None else capture.now

    def run_sync(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the unit of work to its end inside a `def` handler."""
        value: T = self._port.unit_of_work().run_sync(coroutine)
        return value

    async def is_allowed(self, permission: str, resource: str | None = None) -> bool:
        """Return whether the actor has a permission, optionally on one resource. The question is not logged."""
        execution = self._port.execution
        before, execution.asked = (execution.entry.decisions, execution.asked), None
        try:
            decision = await self._port.services.authorization.decide(execution, permission, resource)
        finally:
            execution.entry.decisions, execution.asked = before
        return decision.allowed

    def require_actor_type(self, allowed: Iterable[ActorType], refusal: str) -> None:
        """Raise `ActionError(forbidden)` with this message for an actor of another type, now and for each replay."""
        execution = self._port.execution
        actor, allowed = execution.request.actor, tuple(allowed)
        if actor is None or actor.type not in allowed:
            raise ActionError(ErrorCode.FORBIDDEN, refusal)
        if execution.asked is not None:
            execution.asked.add(Question(execution.plan.name, allowed, (), None, None), actor)

    def replay_for_actor_only(self) -> None:
        """Return the stored result to the first actor only: it depends on more than an authorizer can answer."""
        self.replay_for(self.actor)

    def replay_for(self, actor: Actor | None) -> None:
        """Return the stored result to this actor only."""
        if self._port.execution.asked is not None:
            self._port.execution.asked.keep_for(actor)

    def act_on_behalf_of(self, principal: Actor) -> None:
        """Continue this execution on behalf of a principal: its rights count from here on, and its row and events name
        it. The rest of the actor stays."""
        execution = self._port.execution
        request = execution.request
        assert request.actor is not None
        execution.request = replace(request, actor=replace(request.actor, on_behalf_of=principal))
        execution.entry.request = execution.request

    async def execute_action(self, service: str, action: str, payload: Any) -> Result[Any, ActionError]:
        """Execute another action in a savepoint, as the same actor."""
        return await self._port.execute(service, action, payload, self.mode)

    async def execute_approved(self, pending: PendingApproval, approved: GrantedApproval) -> ApprovedRun:
        """Run an approved action here. Raises the `ActionError` of its failure."""
        return await self._port.services.nesting.execute_approved(self._port.execution, pending, approved)

    @property
    def budgets(self) -> Sequence[BudgetRule]:
        """The budgets of this engine."""
        return self._port.services.budgets

    def known_permissions(self) -> frozenset[str]:
        """Return the permissions that the engine's actions, approval policies and handlers name, patterns included."""
        known: set[str] = set()
        for plans in self._port.services.plans.values():
            for plan in plans.values():
                known.update(plan.asks)
                if plan.action.permission is not None:
                    known.add(plan.action.permission)
                if plan.action.approval is not None:
                    known.add(plan.action.approval.permission)
        return frozenset(known)

    def known_roles(self) -> frozenset[str]:
        """Return the roles that actions of this engine name in `access_control`."""
        plans = (plan for plans in self._port.services.plans.values() for plan in plans.values())
        return frozenset(role for plan in plans for role in plan.action.access_control)

    def find_action(self, service: str, action: str) -> Action | ActionError:
        """Return the declaration of an action of this engine, or a `not_found` that names the nearest one."""
        plan = route(self._port.services.plans, service, action)
        return plan if isinstance(plan, ActionError) else plan.action

    def to_log_json(self, service: str, action: str, value: Any) -> Any:
        """Return the result of an action as logged: plain JSON values, masked, without the secrets given to this
        execution."""
        return self._port.execution.secrets.to_log_json(value, self._port.services.plans[service][action].result_names)

    def approval_needed(self, policy: str, wanted: ApprovalPolicy, resource: str) -> ApprovalNeeded:
        """Return the exception that makes the outermost action wait for an approval. `policy` names the action to
        approve, `resource` its resource."""
        return ApprovalNeeded(policy, wanted, resource)

    def permission_to_approve(self, pending: PendingApproval) -> str:
        """Return the permission that an approver needs today."""
        return self._port.services.permission_to_approve(pending)

    @property
    def approved(self) -> GrantedApproval | None:
        """The approval that this execution runs on; None for none."""
        return self._port.execution.approved

    def after_failure(self, write: FailureWrite) -> None:
        """Register a write that runs if this execution fails, after its rollback. It may run twice, and must read the
        current state from the unit of work."""
        self._port.execution.after_failure = (*self._port.execution.after_failure, write)

    def when_asked(self, write: AskedWrite) -> None:
        """Register a write in the transaction that stores the pending approval of this execution: both are stored, or
        neither."""
        self._port.execution.when_asked = write

    def exclude_approvers(self, reasons: Mapping[str, str]) -> None:
        """Name the actors (`type:id`), beside the requesters, that may not approve this execution. Each has a reason,
        such as `started the run 17`."""
        self._port.execution.excluded_approvers = reasons

    def emit_asked(self, event_type: EventType, payload: BaseModel, subject: str) -> None:
        """Emit an event about the writes of `when_asked`, after the end of the handler."""
        execution = self._port.execution
        execution.add_event(
            event_type.type, subject, event_type.encode(payload, execution.secrets.learn), event_type.version
        )

    def after_commit(self, work: AfterCommitCallback) -> None:
        """Register a call that follows the outermost commit.

        It runs once, in the order of registration, and not where this execution or one around it fails or is rolled
        back. It may block: under an event loop it runs in a thread. An exception in it is logged and fails nothing. A
        process that dies first never runs it.
        """
        self._port.execution.after_commit = (*self._port.execution.after_commit, work)

    @property
    def has_work_after_commit(self) -> bool:
        """True if this execution, or one around it, has registered a call that follows the commit."""
        return self._port.execution.has_work_after_commit

    async def run(self, work: Callable[[], T]) -> T:
        """Return the result of `work`, which may block: under an event loop it runs in a thread."""
        return work() if self._port.execution.mode == "sync" else await asyncio.to_thread(work)

    @property
    def mode(self) -> Mode:
        """The mode of the execution: in `"sync"` nothing may suspend."""
        return self._port.execution.mode

    def begin_external_work(self, what: str) -> None:
        """Raise `ActionError(unprocessable)` in a preview, and in an execution that has to equal one: work outside the
        transaction can be neither shown nor undone."""
        execution = self._port.execution
        if execution.capture is not None:
            raise ActionError(
                ErrorCode.UNPROCESSABLE,
                f"{execution.plan.name} {what}, which a rollback does not undo: it has no preview and no plan",
            )

    def derived_idempotency_key(self) -> str | None:
        """Return a key for an external effect that must happen once. It is the same when this execution runs again;
        None without an idempotency key."""
        holder: Execution | None = self._port.execution
        while holder is not None and holder.claim is None:
            holder = holder.parent
        if holder is None or holder.claim is None:
            return None
        holder.external_effect_count += 1
        return sha256(f"{holder.claim.action}/{holder.claim.key}/{holder.external_effect_count}".encode()).hexdigest()

    def act_as_lock_holder(self, holder: str) -> None:
        """Allow this execution, and its nested ones, to change documents that `holder` has locked."""
        self._port.execution.lock_holder = holder

    @property
    def lock_holder(self) -> str | None:
        """The run on whose behalf this execution, or one around it, may change locked documents."""
        return self._port.execution.effective_lock_holder

    def suppress_default_event(self) -> None:
        """Suppress the default event of a command that changed nothing."""
        self._port.execution.entry.has_emitted = True

    def set_logged_output(self, output: Any) -> None:
        """Set the output that the action log shows, in place of the whole result. Raises `ActionError(internal)` for a
        value that could not be read back."""
        execution = self._port.execution
        try:
            execution.entry.output = execution.secrets.mask(masked_json(output, execution.secrets.learn))
        except ValueError as error:
            message = f"{execution.plan.name} gave something that the action log cannot show: {error}"
            raise ActionError(ErrorCode.INTERNAL, message) from None

    def learn(self, secret: str) -> None:
        """Mask a secret in everything that leaves this execution."""
        self._port.execution.secrets.learn((secret,))

    def add_subject(self, subject: str) -> None:
        """Add a subject to the log row of this execution."""
        self._port.execution.entry.add_subject(subject)
