"""One execution of one action: its place in the tree of nested executions, its payload and its deadline.

The pipeline makes it, never shares it, and drops it at the end.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from math import inf
from time import perf_counter
from typing import Any, Literal, NamedTuple

from uuid_utils import uuid7

from actionengine.actions import ApprovalPolicy
from actionengine.authorization.questions import Questions
from actionengine.concurrency.run_sync import Mode
from actionengine.context import Actor, AIUsage, RequestContext
from actionengine.errors import ActionError, ErrorCode
from actionengine.hooks import HookContext
from actionengine.pipeline.action_log import LogBuffer, LogRowBuilder
from actionengine.pipeline.capture import Capture
from actionengine.pipeline.event_log import EventBuffer
from actionengine.pipeline.payload import Payload
from actionengine.pipeline.plan import ActionPlan
from actionengine.pipeline.secrets import Secrets
from actionengine.storage.counters import Reservation
from actionengine.storage.errors import StorageError
from actionengine.storage.guards import DocumentValidator
from actionengine.storage.port import Storage, UnitOfWork
from actionengine.storage.records import is_id
from actionengine.storage.rows import Claim, IdempotentResult, Outcome

Phase = Literal["before", "after"]
FailureWrite = Callable[[UnitOfWork], Awaitable[None]]
AfterCommitCallback = Callable[[], object]
AskedWrite = Callable[[UnitOfWork, str], Awaitable[None]]
"""Takes the unit of work that stores an approval, and the approval's id."""
NO_APPROVERS: Mapping[str, str] = {}


class GrantedApproval(NamedTuple):
    """The approval that an execution runs on: its id, the approvers as a text, the approver of each action's policy,
    the stored action, the time at which it was stored, and the key of its request, None for none."""

    approval_id: str
    approved_by: str
    granted: Mapping[str, Actor]
    action: str
    asked_at: datetime
    request_key: str | None


class ApprovedRun(NamedTuple):
    """The run of an approved action: its id on the action log, and its value or the id of a further approval."""

    action_id: str
    value: Any
    further_approval_id: str | None


class ApprovalNeeded(BaseException):
    """Unwinds to the outermost action, which is then stored as a pending approval. A handler must not catch it."""

    def __init__(self, action: str, policy: ApprovalPolicy, resource: str | None) -> None:
        super().__init__(f"{action} needs an approval")
        self.action = action
        self.policy = policy
        self.resource = resource


class Execution:
    """One execution of one action. A nested one shares the unit of work, log, events and secrets of its root."""

    # Defaults stand on the class, so that a new execution sets only what differs.
    _root: Execution | None = None
    parent: Execution | None = None
    hooked: Execution | None = None
    child: Execution | None = None
    depth = 0
    ended = False
    received: Payload | None = None
    incoming: Payload | None = None
    is_refused = False
    """True if the payload cannot be accepted: it is not JSON, or exceeds a limit."""
    data: Any = None
    resource: str | None = None
    value: Any = None
    has_own_value = True
    """True while the value is the handler's; a hook that replaces it sets False."""
    claim: Claim | None = None
    asked: Questions | None = None
    """The questions that were allowed, kept where a result under an idempotency key may be replayed."""
    deadline: float | None = None
    approved: GrantedApproval | None = None
    unit_of_work: UnitOfWork | None = None
    approval_needed: ApprovalNeeded | None = None
    is_abandoned = False
    is_unlogged = False
    after_failure: tuple[FailureWrite, ...] = ()
    """Writes that survive a failure of this execution. They run in the surrounding transaction, and again if that one
    fails."""
    after_commit: tuple[AfterCommitCallback, ...] = ()
    """Calls that follow the outermost commit."""
    when_asked: AskedWrite | None = None
    """A write in the transaction that stores the pending approval of this execution."""
    excluded_approvers: Mapping[str, str] = NO_APPROVERS
    """Actors (`type:id`), beside the requesters, that may not approve this execution, each with the reason."""
    document_checks: dict[str, DocumentValidator | None] | None = None
    """Of the root: the check of each collection's documents. Kept until another execution runs in this unit of work."""
    external_effect_count = 0
    """The number of external effects that began under this claim."""
    has_session = False
    """Of the root: True if a handler has used its session, which may have rows to write."""
    unanswered = 0
    """Of the root: the number of document writes that tasks of a handler have begun and that have not returned."""
    capture: Capture | None = None
    """The capture of a preview, or of an execution that has to equal one."""
    announced: Sequence[Reservation] = ()
    """The reservations that were sent with the claim."""
    counted_usage: AIUsage | None = None
    """The AI usage that budgets have counted."""
    deferred: tuple[Reservation, ...] = ()
    """Reservations of read-only executions, which a read-only transaction cannot write."""
    lock_holder: str | None = None
    """The workflow run on whose behalf this execution, and its nested ones, may change locked documents."""
    _hook_context: HookContext | None = None
    _storage: Storage

    def __init__(
        self,
        plan: ActionPlan,
        payload: Any,
        request: RequestContext,
        mode: Mode,
        storage: Storage | None = None,
        parent: Execution | None = None,
    ) -> None:
        self.plan = plan
        self.payload = payload
        self.request = request
        self.mode = mode
        self.id = str(uuid7())
        if parent is None:
            assert storage is not None
            self._storage = storage
            # Guards state that threads of a handler change at the same time. No holder waits while it holds the lock.
            self.lock = threading.RLock()
            self.secrets = Secrets(plan)
            self.entry = LogRowBuilder(self.id, None, plan.name, request, self.secrets, self.lock)
            self.entry.usage = request.ai_usage
            self.log = LogBuffer()
            self.events = EventBuffer()
            self.results: list[IdempotentResult] = []
        else:
            root = parent.root
            self.parent = parent
            self._root = root
            self.lock = root.lock
            self.secrets = Secrets(plan, parent.secrets)
            self.entry = LogRowBuilder(self.id, parent.id, plan.name, request, self.secrets, self.lock)
            self.log = root.log
            self.events = root.events
            self.results = root.results
            self.depth = parent.depth + 1
            self.approved = parent.approved
            self.asked = parent.asked
            self.deadline = parent.deadline
            if parent.capture is not None:
                self.capture = parent.capture
                self.capture.secrets.append(self.secrets)
        timeout = plan.action.timeout
        if timeout is not None:
            deadline = self.entry.started + timeout
            self.deadline = deadline if self.deadline is None else min(self.deadline, deadline)

    def reset(self) -> None:
        """Drop the state of a lost attempt at the unit of work, before the next attempt."""
        self.unit_of_work = None
        self.log.clear()
        self.events.clear()
        self.results.clear()
        self.entry.reset()
        self.approval_needed = self.asked = None
        self.ended = False
        self.value = self._hook_context = None
        self.has_own_value = True
        self.after_failure = ()
        self.after_commit = ()
        self.when_asked = None
        self.excluded_approvers = NO_APPROVERS
        self.document_checks = None
        self.external_effect_count = 0
        if self.capture is not None:
            self.capture.reset()
        self.announced = self.deferred = ()

    @property
    def root(self) -> Execution:
        """The outermost execution. It holds no reference to itself, so that it is freed as soon as it ends."""
        return self._root or self

    def open(self, writable: bool = False) -> UnitOfWork:
        """Return the unit of work of the outermost execution. The storage opens the transaction at first use."""
        root = self._root or self
        unit_of_work = root.unit_of_work or self.begin(root, writable)
        return unit_of_work if self.capture is None else self.capture.over(unit_of_work)

    def open_uncaptured(self) -> UnitOfWork:
        """Return the unit of work of the outermost execution, for writes that are not captured."""
        root = self._root or self
        return root.unit_of_work or self.begin(root, writable=False)

    @staticmethod
    def begin(root: Execution, writable: bool) -> UnitOfWork:
        """Return the unit of work of an outermost execution. Its writes are not captured."""
        with root.lock:
            if root.unit_of_work is None:
                tenant = root.request.tenant
                assert tenant is not None
                read_only = root.plan.action.read_only and not writable
                unit_of_work = root._storage.unit_of_work(tenant, root.id, root.mode, read_only)
                if root.deadline is not None:
                    unit_of_work.set_deadline(root.remaining(inf))
                root.unit_of_work = unit_of_work
            return root.unit_of_work

    @property
    def now(self) -> datetime:
        """The time of the outermost execution, or of the preview that this one has to equal."""
        return self.root.entry.started_at if self.capture is None else self.capture.now

    def new_id(self) -> str:
        """Return a new id, which sorts by time: the next one of the preview that this execution has to equal."""
        return str(uuid7()) if self.capture is None else self.capture.new_id()

    async def roll_back(self) -> None:
        """Roll back the unit of work of the outermost execution, where there is one."""
        if self.root.unit_of_work is not None:
            await self.root.unit_of_work.rollback()

    def remaining(self, seconds: float) -> float:
        """Return the shorter of `seconds` and the time until the deadline."""
        return seconds if self.deadline is None else max(0.0, min(seconds, self.deadline - perf_counter()))

    @property
    def is_over(self) -> bool:
        """True if this execution, or one around it, has ended. Its context can no longer be used then."""
        return self.ended or (self.parent is not None and self.parent.is_over)

    def check_alone(self) -> None:
        """Raise `StorageError` while a nested execution runs: its rollback would undo writes of other tasks and
        threads."""
        if self.child is not None:
            raise StorageError(
                f"{self.plan.name} is executing {self.child.plan.name}: its other tasks and threads must wait "
                f"until that has ended"
            )

    @property
    def effective_lock_holder(self) -> str | None:
        """The run on whose behalf locked documents may be changed here."""
        if self.lock_holder is not None or self.parent is None:
            return self.lock_holder
        return self.parent.effective_lock_holder

    @property
    def is_claimed(self) -> bool:
        """True if this execution, or one around it, holds an idempotency key."""
        return self.claim is not None or (self.parent is not None and self.parent.is_claimed)

    @property
    def has_work_after_commit(self) -> bool:
        """True if this execution, or one around it, has asked for work after the commit."""
        return bool(self.after_commit) or (self.parent is not None and self.parent.has_work_after_commit)

    @property
    def hook_context(self) -> HookContext:
        """The execution as its hooks see it."""
        if self._hook_context is None:
            with self.lock:
                if self._hook_context is None:
                    value = self.received.value if self.received is not None else None
                    self._hook_context = HookContext(self.plan.name, value)
        return self._hook_context

    def accept_payload(self, received: Payload) -> None:
        """Accept the payload, and remember its secrets."""
        self.received = self.entry.received = received
        self.incoming = received if received.is_plain else received.copy()
        if received.secrets or self.secrets.has_names:
            self.secrets.learn_input(received)

    def add_event(self, type: str, subject: str | None, payload: bytes, version: int = 1) -> None:
        """Add an event of this execution."""
        self.events.add(self.entry, type, subject, payload, version)

    def add_row(self, outcome: Outcome, error: ActionError | None = None) -> None:
        """Add the row of this execution to the action log."""
        key = self.claim.key if self.claim is not None else None
        if self.capture is not None and self.capture.rehearses:
            outcome = "previewed"
        by, approval_id = (self.approved.approved_by, self.approved.approval_id) if self.approved else (None, None)
        if approval_id is None and error is not None and error.code is ErrorCode.APPROVAL_REQUIRED:
            awaited = error.details.get("approval_id")
            approval_id = awaited if is_id(awaited) else None
        self.log.append(self.entry.to_row(outcome, error, key, by, approval_id))
