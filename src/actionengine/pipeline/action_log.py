"""The action log of one execution: its own row while it is collected, and the rows of all nested executions."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

from pydantic_core import to_json

from actionengine.context import MAX_ACTOR_ID_LENGTH, MAX_TEXT_LENGTH, Actor, AIUsage, RequestContext
from actionengine.errors import ActionError, ErrorCode, bounded_text, storable_text
from actionengine.masking.masking import encode, mask_by_type
from actionengine.masking.secret_types import is_plain
from actionengine.pipeline.payload import Payload
from actionengine.pipeline.secrets import Secrets
from actionengine.storage.rows import MAX_FLUSHED_SUBJECTS, MAX_SUBJECT_LENGTH, UNNAMED_ROWS, LogRow, Outcome

_OUTCOMES: dict[ErrorCode, Outcome] = {
    ErrorCode.INVALID_INPUT: "invalid",
    ErrorCode.UNAUTHENTICATED: "denied",
    ErrorCode.FORBIDDEN: "denied",
    ErrorCode.RATE_LIMITED: "denied",
    ErrorCode.APPROVAL_REQUIRED: "approval_required",
}
MAX_ERROR_BYTES = 64 * 1024
"""The size of an error's JSON on the action log, at most. A larger error is cut to its code and the beginning of its
message."""
_ROLLED_BACK = to_json({"code": "rolled_back", "message": "rolled back with the action around it", "details": {}})


class LogRowBuilder:
    """Collects the row of one execution for the action log. Threads of the handler may add to it at the same time."""

    # Defaults stand on the class, so that a new entry sets only what differs.
    received: Payload | None = None
    kept_input: bytes | None = None
    """The payload as logged by an earlier execution with the same key."""
    output: bytes | None = None
    result_json: bytes | None = None
    """The JSON of the result, masked only by its types."""
    has_plain_value = False
    """True if the result consists of plain JSON values. Set together with the result."""
    decisions: str | None = None
    subjects: dict[str, None] | None = None
    """The subjects in order, each once; None for none."""
    usage: AIUsage | None = None
    has_emitted = False
    """True if the execution has emitted an event, or needs none."""
    _masked_input: bytes | None = None
    _flushed = 0
    """The number of subjects that are rows which the session has changed."""

    def __init__(
        self,
        id: str,
        parent_id: str | None,
        action: str,
        request: RequestContext,
        secrets: Secrets,
        lock: threading.RLock,
    ) -> None:
        self.id = id
        self.parent_id = parent_id
        self.action = action
        self.request = request
        self.started = perf_counter()
        self.started_at = datetime.now(UTC)
        self._secrets = secrets
        self._lock = lock

    def reset(self) -> None:
        """Drop the traces of a lost attempt."""
        self.subjects, self._flushed = None, 0
        self.output = self.result_json = None
        self.has_plain_value = self.has_emitted = False

    def record_decision(self, reason: str) -> None:
        """Add a decision about access, as far as the row has room."""
        if self._secrets.values:
            # Mask first: cutting could leave a part of a secret.
            reason = self._secrets.scrub_text(reason)
        reason = bounded_text(reason, MAX_TEXT_LENGTH)
        with self._lock:
            if self.decisions is None:
                self.decisions = reason
            elif len(self.decisions) < MAX_TEXT_LENGTH:
                self.decisions = bounded_text(f"{self.decisions}; {reason}", MAX_TEXT_LENGTH)

    def add_subject(self, subject: str) -> None:
        """Add a subject, once."""
        subject = storable_text(subject)
        if self._secrets.values:
            subject = self._secrets.scrub_text(subject)
        subject = subject[:MAX_SUBJECT_LENGTH]
        with self._lock:
            if self.subjects is None:
                self.subjects = {}
            self.subjects[subject] = None

    def add_flushed(self, subjects: Sequence[str]) -> None:
        """Add the rows that the session has changed, up to a bound."""
        for subject in subjects:
            if self._flushed >= MAX_FLUSHED_SUBJECTS:
                table = subject.partition("/")[0]
                subject = f"{table}/{UNNAMED_ROWS}"
            self._flushed += 1
            self.add_subject(subject)

    def add_usage(self, usage: AIUsage) -> None:
        """Add an AI call: tokens and cost add up, the latest model names stay."""
        with self._lock:
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

    def set_result(self, value: Any) -> None:
        """Set the result. Raises `ValueError` or `TypeError` for a value without a JSON form."""
        encoded = encode(value)
        self.has_plain_value = is_plain(value)
        self.result_json = encoded if self.has_plain_value else mask_by_type(encoded, value, self._secrets.learn)
        self.output = self.result_json
        if self._secrets.has_names:
            self.output = self._secrets.mask_result(self.result_json, value)

    @property
    def input(self) -> bytes | None:
        """The payload as logged; None where it was refused before it could be read."""
        if self.kept_input is not None or self.received is None:
            return self.kept_input
        received, secrets = self.received, self._secrets
        if not secrets.has_names:
            return received.masked or received.json
        if self._masked_input is None:
            self._masked_input = secrets.mask_input(received)
        return self._masked_input

    @property
    def input_or_none(self) -> bytes | None:
        """The payload for the row of a failure. A payload that cannot be masked is left out, and the row is still
        written."""
        try:
            return self.input
        except Exception:
            return None

    @property
    def input_to_keep(self) -> bytes | None:
        """The logged input, where it has a secret that a replay cannot know; else None."""
        masked = self.input_or_none if self._secrets.values else None
        scrubbed = masked and self._secrets.scrub_json(masked)
        return None if scrubbed == masked else scrubbed

    @property
    def output_to_keep(self) -> bytes | None:
        """The logged output, where a replay cannot derive it from the result; else None."""
        output = self.output and self._secrets.scrub_json(self.output)
        return None if output == self.result_json else output

    def to_row(
        self,
        outcome: Outcome,
        error: ActionError | None,
        idempotency_key: str | None,
        approved_by: str | None,
        approval_id: str | None,
    ) -> LogRow:
        """Return the row of this execution. It has ended."""
        request, usage = self.request, self.usage
        tenant, actor = request.tenant, request.actor
        assert tenant is not None
        return LogRow(
            self.id,
            self.parent_id,
            tenant.id,
            actor.type if actor else None,
            actor.id[:MAX_ACTOR_ID_LENGTH] if actor else None,
            approved_by,
            approval_id,
            request.source,
            request.reason,
            self.action,
            tuple(self.subjects) if self.subjects else (),
            self.input if outcome == "succeeded" else self.input_or_none,
            self.output,
            outcome,
            error_json(error) if error else None,
            self.decisions,
            self.started_at,
            perf_counter() - self.started,
            idempotency_key,
            request.request_id,
            usage.model if usage else None,
            usage.prompt_version if usage else None,
            usage.input_tokens if usage else None,
            usage.output_tokens if usage else None,
            usage.cost_usd if usage else None,
            principals_behind(actor) if actor is not None and actor.on_behalf_of is not None else (),
        )


class LogBuffer(list[LogRow]):
    """The rows of an execution and its nested executions, until they are written."""

    __slots__ = ()

    def has_row(self, id: str) -> bool:
        """Return whether the row of one execution is here, and so may have been written."""
        return any(row.id == id for row in self)

    def discard_row(self, id: str) -> None:
        """Drop the row of one execution whose commit failed."""
        self[:] = [row for row in self if row.id != id]

    def mark_rolled_back(self, start: int = 0) -> None:
        """Mark the rows since `start` as rolled back."""
        for index in range(start, len(self)):
            if self[index].outcome == "succeeded":
                self[index] = self[index]._replace(outcome="failed", error=_ROLLED_BACK, output=None)

    def reduced(self) -> Sequence[LogRow]:
        """Return the rows of failures in a form that every storage accepts."""
        return [row.reduced() for row in self]


def principals_behind(actor: Actor) -> tuple[str, ...]:
    """Return the principals that an actor acts for, as rows keep them: `type:id`, the nearest first."""
    return tuple(f"{each.type}:{each.id[:MAX_ACTOR_ID_LENGTH]}" for each in actor.chain[1:])


def outcome_of(error: ActionError) -> Outcome:
    """Return the outcome under which the action log keeps a failure."""
    return _OUTCOMES.get(error.code, "failed")


def error_json(error: ActionError) -> bytes:
    """Return an error for the log. One that is too large loses its details and the end of its message."""
    encoded = to_json(error.to_dict())
    if len(encoded) <= MAX_ERROR_BYTES:
        return encoded
    message = bounded_text(error.message, MAX_TEXT_LENGTH)
    return to_json({"code": error.code.value, "message": message, "details": {"omitted_bytes": len(encoded)}})
