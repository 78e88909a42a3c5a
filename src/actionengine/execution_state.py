"""What one execution knows while it runs. Made by the pipeline, never shared, dropped at the end."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, Literal, NamedTuple

from pydantic_core import from_json, to_json
from uuid_utils import uuid7

from actionengine.actions import ApprovalPolicy, HookContext
from actionengine.authorization.questions import Questions
from actionengine.context import MAX_ACTOR_ID_LENGTH, MAX_TEXT_LENGTH, Actor, AIUsage, RequestContext
from actionengine.errors import ActionError, ErrorCode, bounded_text, sendable
from actionengine.masking import (
    NOTHING,
    Everything,
    encode,
    forms_of,
    mask_by_type,
    masked_by_name,
    masked_json,
    scrub,
    scrub_json,
    scrub_text,
    searchable_json,
    secrets_in,
)
from actionengine.payload import Received
from actionengine.plan import ActionPlan
from actionengine.secret_types import is_plain, typed_secrets
from actionengine.storage.port import (
    LONGEST_SUBJECT,
    MAX_FLUSHED_SUBJECTS,
    UNNAMED_ROWS,
    Claim,
    DocumentCheck,
    EventRow,
    IdempotentResult,
    LogRow,
    Mode,
    Outcome,
    StorageError,
    UnitOfWork,
)

_OUTCOMES: dict[ErrorCode, Outcome] = {
    ErrorCode.INVALID_INPUT: "invalid",
    ErrorCode.UNAUTHENTICATED: "denied",
    ErrorCode.FORBIDDEN: "denied",
    ErrorCode.APPROVAL_REQUIRED: "approval_required",
}
FailureWrite = Callable[[UnitOfWork], Awaitable[None]]
CommitWork = Callable[[], object]
AskedWrite = Callable[[UnitOfWork, str], Awaitable[None]]
"""What is given the unit of work that stores an approval, and the approval's id."""
MAX_ERROR_BYTES = 64 * 1024
"""Of the JSON of an error on the action log; of a larger one, the code and the beginning of the message stand there."""
_ROLLED_BACK = to_json({"code": "rolled_back", "message": "rolled back with the action around it", "details": {}})


class Approved(NamedTuple):
    """The approval that an execution runs on: which policies are satisfied (by action), and who granted each; what was
    stored to wait for it, and when."""

    approval_id: str
    approved_by: str
    granted: Mapping[str, Actor]
    action: str
    asked_at: datetime


class ApprovalNeeded(BaseException):
    """Unwinds to the outermost action, which is then stored as a pending approval. No handler should catch it."""

    def __init__(self, action: str, policy: ApprovalPolicy, resource: str | None) -> None:
        super().__init__(f"{action} needs an approval")
        self.action = action
        self.policy = policy
        self.resource = resource


class Execution:
    """One execution of one action; a nested one shares its root's unit of work, rows, events and secrets."""

    # Defaults stand on the class, so that making an execution sets only what differs.
    _root: Execution | None = None
    parent: Execution | None = None
    hooked: Execution | None = None
    child: Execution | None = None
    depth = 0
    ended = False
    received: Received | None = None
    incoming: Received | None = None
    is_refused = False
    """True if the payload cannot be kept: it is no JSON, or beyond a limit."""
    kept_input: bytes | None = None
    """The payload as an earlier execution with the same key has shown it."""
    data: Any = None
    resource: str | None = None
    value: Any = None
    output: bytes | None = None
    result_json: bytes | None = None
    """The result's JSON, masked by its types alone."""
    has_plain_value = False
    """True if the result is made of plain JSON values; known of one that has been put on record."""
    has_own_value = True
    """True if the value is the handler's, and no hook has made another one of it."""
    decisions: str | None = None
    subjects: dict[str, None] | None = None
    """What this execution is about, in order and each once; None for nothing."""
    flushed = 0
    """The number of subjects that are rows which the session has changed."""
    emitted = False
    usage: AIUsage | None = None
    claim: Claim | None = None
    asked: Questions | None = None
    """The questions that were allowed, where their answers are kept under an idempotency key."""
    deadline: float | None = None
    approved: Approved | None = None
    unit_of_work: UnitOfWork | None = None
    needed: ApprovalNeeded | None = None
    left_behind = False
    is_unlogged = False
    after_failure: tuple[FailureWrite, ...] = ()
    """What is to be written although the execution has failed: in the transaction that goes on without it, and again
    where that one fails too."""
    after_commit: tuple[CommitWork, ...] = ()
    """What is to be done once the outermost commit stands."""
    when_asked: AskedWrite | None = None
    """What writes, in the transaction that stores the approval which this execution waits for."""
    document_checks: dict[str, DocumentCheck | None] | None = None
    """Of the root: what checks the documents of each collection that was written to, as long as nothing else ran."""
    works = 0
    """How many pieces of work outside of the unit of work were begun under this claim."""
    has_session = False
    """Of the root: whether a handler has asked for its session, which may have rows to write."""
    unanswered = 0
    """Of the root: how many writes of documents have begun and are not answered yet, in tasks that a handler has left
    running."""
    lock_holder: str | None = None
    """For whom this execution, and what it executes, changes locked documents."""
    _hook_context: HookContext | None = None
    has_secrets = False
    """True if this action, or one around it, says of a name that it stands for a secret."""
    _names: frozenset[str] | None = None
    _masked_input: bytes | None = None

    def __init__(
        self, plan: ActionPlan, payload: Any, request: RequestContext, mode: Mode, parent: Execution | None = None
    ) -> None:
        self.plan = plan
        self.payload = payload
        self.request = request
        self.mode = mode
        has_secrets = plan.has_secrets
        if plan.find_secrets() if has_secrets is None else has_secrets:
            self.has_secrets = True
        self.id = str(uuid7())
        self.started = perf_counter()
        self.started_at = datetime.now(UTC)
        timeout = plan.action.timeout
        if timeout is not None:
            self.deadline = self.started + timeout
        if parent is None:
            # For what the threads of a handler change at once; nobody waits while holding it.
            self.lock = threading.RLock()
            self.usage = request.ai_usage
            self.rows: list[LogRow] = []
            self.events: list[EventRow] = []
            self.results: list[IdempotentResult] = []
            self.secrets: set[str] = set()
        else:
            self.parent = parent
            self._root = parent.root
            self.lock = self._root.lock
            self.has_secrets = self.has_secrets or parent.has_secrets
            self.depth = parent.depth + 1
            self.approved = parent.approved
            self.asked = parent.asked
            if parent.deadline is not None:
                self.deadline = min(parent.deadline, self.deadline or parent.deadline)

    def reset(self) -> None:
        """Forget what a lost attempt at the unit of work has left, before the next one."""
        self.unit_of_work = None
        self.rows.clear()
        self.events.clear()
        self.results.clear()
        self.needed = self.asked = None
        self.ended = False
        self.value = self.output = self.result_json = self._hook_context = None
        self.has_own_value, self.has_plain_value = True, False
        self.emitted = False
        self.subjects = None
        self.flushed = 0
        self.after_failure = ()
        self.after_commit = ()
        self.when_asked = None
        self.document_checks = None
        self.works = 0

    @property
    def root(self) -> Execution:
        """The outermost execution. It does not refer to itself, so that it is freed as soon as it is over."""
        return self._root or self

    def remaining(self, seconds: float) -> float:
        """The shorter of a time in seconds and what the deadline leaves."""
        return seconds if self.deadline is None else max(0.0, min(seconds, self.deadline - perf_counter()))

    @property
    def is_over(self) -> bool:
        """Whether this execution, or one around it, has ended: then its context is of no more use."""
        return self.ended or (self.parent is not None and self.parent.is_over)

    def check_alone(self) -> None:
        """Raise `StorageError` while this execution executes another action: what another task or thread of its handler
        did meanwhile would be undone with that one."""
        if self.child is not None:
            raise StorageError(
                f"{self.plan.name} is executing {self.child.plan.name}: its other tasks and threads have to wait for "
                f"the end of that"
            )

    @property
    def changes_locked_for(self) -> str | None:
        """For whom locked documents are changed here."""
        if self.lock_holder is not None or self.parent is None:
            return self.lock_holder
        return self.parent.changes_locked_for

    @property
    def is_claimed(self) -> bool:
        """Whether this execution, or one around it, holds an idempotency key."""
        return self.claim is not None or (self.parent is not None and self.parent.is_claimed)

    @property
    def has_work_after_commit(self) -> bool:
        """Whether this execution, or one around it, has asked for work after the commit."""
        return bool(self.after_commit) or (self.parent is not None and self.parent.has_work_after_commit)

    @property
    def hook_context(self) -> HookContext:
        """What hooks see of this execution."""
        if self._hook_context is None:
            with self.lock:
                if self._hook_context is None:
                    value = self.received.value if self.received is not None else None
                    self._hook_context = HookContext(self.plan.name, value)
        return self._hook_context

    def keep(self, received: Received) -> None:
        """Remember the payload, and what in it is secret."""
        self.received = received
        self.incoming = received if received.is_plain else received.again()
        if received.secrets:
            self.learn(received.secrets)
        if self.has_secrets:
            self.learn_secrets(received.json)

    @property
    def names(self) -> frozenset[str]:
        """The names under which this action, or one around it, has secrets: what they hand on keeps its names."""
        if self._names is None:
            names = self.plan.names
            self._names = names if self.parent is None else names | self.parent.names
        return self._names

    def learn(self, secrets: Iterable[str]) -> None:
        """Remember secrets in every form in which a text may repeat them."""
        for secret in secrets:
            self.root.secrets.update(forms_of(secret))

    def learn_secrets(self, encoded: bytes) -> None:
        """Remember what stands under a sensitive name in this JSON."""
        self.learn(secrets_in(from_json(encoded), _together(self.plan.sensitive, self.names)))

    def masked(self, encoded: bytes, *names: frozenset[str]) -> bytes:
        """Return JSON that leaves this execution: what its types have masked already, without what stands under the
        names of this action or under these. Remember those secrets, to mask them wherever else they turn up.

        Each row, event, hook log and approval passes here, or has been made of what has.
        """
        every = _together(self.names, *names) if self.has_secrets else _together(*names)
        return masked_by_name(encoded, every, self.learn) if every else encoded

    def decide(self, reason: str) -> None:
        """Put a decision about access on record, as far as the row has room."""
        if secrets := (self._root or self).secrets:
            # Before it is cut, which might leave a part of one.
            reason = scrub_text(reason, secrets)
        reason = bounded_text(reason, MAX_TEXT_LENGTH)
        with self.lock:
            if self.decisions is None:
                self.decisions = reason
            elif len(self.decisions) < MAX_TEXT_LENGTH:
                self.decisions = bounded_text(f"{self.decisions}; {reason}", MAX_TEXT_LENGTH)

    def has_secret_in(self, text: str) -> bool:
        """Return whether one of the secrets that are known by now is in a text."""
        secrets = self.root.secrets
        return bool(secrets) and scrub_text(text, secrets) != text

    def add_subject(self, subject: str) -> None:
        """Put what this execution is about on record, once."""
        subject = sendable(subject)
        if secrets := (self._root or self).secrets:
            subject = scrub_text(subject, secrets)
        subject = subject[:LONGEST_SUBJECT]
        with self.lock:
            if self.subjects is None:
                self.subjects = {}
            self.subjects[subject] = None

    def add_flushed(self, subjects: Sequence[str]) -> None:
        """Put the rows that the session has changed on record, up to a bound."""
        for subject in subjects:
            if self.flushed >= MAX_FLUSHED_SUBJECTS:
                table = subject.partition("/")[0]
                subject = f"{table}/{UNNAMED_ROWS}"
            self.flushed += 1
            self.add_subject(subject)

    def add_event(self, type: str, subject: str | None, payload: bytes, version: int = 1) -> None:
        """Put an event in the queue for the record stage."""
        self.emitted = True
        actor, tenant = self.request.actor, self.request.tenant
        assert tenant is not None
        (self._root or self).events.append(
            EventRow(
                str(uuid7()),
                tenant.id,
                type,
                subject,
                payload,
                self.plan.name,
                self.id,
                actor.type if actor else None,
                actor.id[:MAX_ACTOR_ID_LENGTH] if actor else None,
                self.started_at,
                version,
            )
        )

    def add_default_event(self, max_bytes: int) -> None:
        """The event of a command that emitted none: named after it, with its masked input and output. Where these are
        more than an event may have, it says how many bytes are left out."""
        subject = next(iter(self.subjects)) if self.subjects else None
        payload = b'{"input":%b,"output":%b}' % (self.masked_input() or b"null", self.output or b"null")
        if len(payload) > max_bytes:
            payload = b'{"input":null,"output":null,"omitted_bytes":%d}' % len(payload)
        self.add_event(self.plan.name, subject, payload)

    def add_row(self, outcome: Outcome, error: ActionError | None = None) -> None:
        """Put this execution's row of the action log in the queue for the record stage."""
        request, usage, approved = self.request, self.usage, self.approved
        tenant, actor = request.tenant, request.actor
        assert tenant is not None
        (self._root or self).rows.append(
            LogRow(
                self.id,
                self.parent.id if self.parent else None,
                tenant.id,
                actor.type if actor else None,
                actor.id[:MAX_ACTOR_ID_LENGTH] if actor else None,
                approved.approved_by if approved else None,
                approved.approval_id if approved else None,
                request.source,
                request.reason,
                self.plan.name,
                tuple(self.subjects) if self.subjects else (),
                self.masked_input() if outcome == "succeeded" else self._masked_input_or_none(),
                self.output,
                outcome,
                _error_json(error) if error else None,
                self.decisions,
                self.started_at,
                perf_counter() - self.started,
                self.claim.key if self.claim else None,
                request.request_id,
                usage.model if usage else None,
                usage.prompt_version if usage else None,
                usage.input_tokens if usage else None,
                usage.output_tokens if usage else None,
                usage.cost_usd if usage else None,
            )
        )

    def masked_input(self) -> bytes | None:
        """The payload as the log shows it; None where it was refused before it could be read."""
        if self.kept_input is not None or self.received is None:
            return self.kept_input
        encoded = self.received.masked or self.received.json
        if not self.has_secrets:
            return encoded
        if self._masked_input is None:
            self._masked_input = self.masked(encoded, self.plan.sensitive)
        return self._masked_input

    def _masked_input_or_none(self) -> bytes | None:
        """The same for the row of a failure, which a payload that cannot be masked does not keep from the log."""
        try:
            return self.masked_input()
        except Exception:
            return None

    def show_result(self, value: Any) -> None:
        """Put the result on record. Raises `ValueError` or `TypeError` for what has no JSON form."""
        encoded = encode(value)
        self.has_plain_value = is_plain(value)
        self.result_json = encoded if self.has_plain_value else mask_by_type(encoded, value, self.learn)
        self.output = self.result_json
        if self.has_secrets:
            self.output = self.masked(self.result_json, self.plan.result_names)
            if isinstance(self.plan.result_names, Everything):
                self.learn_result(value)

    def learn_result(self, value: Any) -> None:
        """Remember what the annotation of the handler says is secret in what it returned."""
        encoded = searchable_json(value)
        self.learn(secrets_in(from_json(encoded), self.plan.result_names))
        self.learn(typed_secrets(value, self.plan.result_type).values)

    @property
    def input_to_keep(self) -> bytes | None:
        """The input as the row shows it, where a replay does not know a secret in it: None where there is none."""
        secrets = self.root.secrets
        masked = self._masked_input_or_none() if secrets else None
        scrubbed = masked and scrub_json(masked, secrets)
        return None if scrubbed == masked else scrubbed

    @property
    def output_to_keep(self) -> bytes | None:
        """The output as the row shows it, where a replay could not tell it from the result: None where it can."""
        output, secrets = self.output, self.root.secrets
        if output is not None and secrets:
            output = scrub_json(output, secrets)
        return None if output == self.result_json else output

    def shown(self, value: Any, *names: frozenset[str]) -> Any:
        """A value as a hook log shows it: plain JSON, without what is secret by type or stands under these names."""
        shown = from_json(self.masked(masked_json(value, self.learn), *names))
        return scrub(shown, self.root.secrets) if self.root.secrets else shown

    def scrubbed_error(self, error: ActionError) -> ActionError:
        """An error without the secrets of this execution in it."""
        details = self._masked_details(error) if error.details else {}
        secrets = self.root.secrets
        if not secrets and not self.has_secrets:
            return error
        return ActionError(error.code, scrub_text(error.message, secrets), scrub(details, secrets))

    def _masked_details(self, error: ActionError) -> Any:
        """The details as plain JSON, masked; what they say is secret is remembered."""
        try:
            return from_json(self.masked(masked_json(dict(error.details), self.learn, str)))
        except Exception:
            # Whatever was put there: an error can always be told.
            return error.to_dict()["details"]

    def scrubbed_events(self) -> Sequence[EventRow]:
        """The queued events without the secrets of this execution in them."""
        secrets = self.secrets
        if not secrets:
            return self.events
        return [
            event._replace(
                type=scrub_text(event.type, secrets),
                subject=event.subject and scrub_text(event.subject, secrets),
                payload=scrub_json(event.payload, secrets),
            )
            for event in self.events
        ]

    def scrubbed_rows(self) -> Sequence[LogRow]:
        """The queued rows without the secrets of this execution in them."""
        secrets = self.secrets
        if not secrets:
            return self.rows
        return [
            row._replace(
                input=row.input and scrub_json(row.input, secrets),
                output=row.output and scrub_json(row.output, secrets),
                error=row.error and scrub_json(row.error, secrets),
                decision=row.decision and scrub_text(row.decision, secrets),
                subjects=tuple(scrub_text(subject, secrets) for subject in row.subjects),
                reason=row.reason and scrub_text(row.reason, secrets),
            )
            for row in self.rows
        ]

    def reduced_rows(self) -> Sequence[LogRow]:
        """The queued rows of failures in the form that no storage can refuse."""
        return [row.reduced() for row in self.rows]

    def drop_row(self) -> None:
        """Take back this execution's own row, where it was to be written with a commit that has failed."""
        rows = self.root.rows
        rows[:] = [row for row in rows if row.id != self.id]

    def undo_rows(self, start: int = 0) -> None:
        """Say of the rows since `start` that what they did was rolled back after all."""
        rows = self.root.rows
        for index in range(start, len(rows)):
            if rows[index].outcome == "succeeded":
                rows[index] = rows[index]._replace(outcome="failed", error=_ROLLED_BACK, output=None)

    def add_usage(self, usage: AIUsage) -> None:
        """Add an AI call to this execution's usage: tokens and cost add up, the newest model names stand."""
        with self.lock:
            before = self.usage
            if before is not None:
                usage = AIUsage(
                    usage.model,
                    usage.prompt_version or before.prompt_version,
                    before.input_tokens + usage.input_tokens,
                    before.output_tokens + usage.output_tokens,
                    before.cost_usd + usage.cost_usd,
                )
            self.usage = usage


def _together(*names: frozenset[str]) -> frozenset[str]:
    """Return all of these names as one, so that a value is walked through once."""
    return next((each for each in names if isinstance(each, Everything)), None) or NOTHING.union(*names)


def _error_json(error: ActionError) -> bytes:
    """An error as the log has it: without its details, and with part of its message, where it is too large."""
    encoded = to_json(error.to_dict())
    if len(encoded) <= MAX_ERROR_BYTES:
        return encoded
    message = bounded_text(error.message, MAX_TEXT_LENGTH)
    return to_json({"code": error.code.value, "message": message, "details": {"omitted_bytes": len(encoded)}})


def outcome_of(error: ActionError) -> Outcome:
    """The outcome under which a failure stands in the action log."""
    return _OUTCOMES.get(error.code, "failed")


Phase = Literal["before", "after"]
