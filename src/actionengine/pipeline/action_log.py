"""The action log of one execution: its own entry while it is collected, and the rows of all that it executed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

from pydantic_core import to_json

from actionengine.context import MAX_ACTOR_ID_LENGTH, MAX_TEXT_LENGTH, AIUsage, RequestContext
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
    ErrorCode.APPROVAL_REQUIRED: "approval_required",
}
MAX_ERROR_BYTES = 64 * 1024
"""Of the JSON of an error on the action log; of a larger one, the code and the beginning of the message stand there."""
_ROLLED_BACK = to_json({"code": "rolled_back", "message": "rolled back with the action around it", "details": {}})


class LogRowBuilder:
    """Collects the row of one execution for the action log. Threads of its handler add to it at once."""

    # Defaults stand on the class, so that making an entry sets only what differs.
    received: Payload | None = None
    kept_input: bytes | None = None
    """The payload as an earlier execution with the same key has shown it."""
    output: bytes | None = None
    result_json: bytes | None = None
    """The result's JSON, masked by its types alone."""
    has_plain_value = False
    """True if the result is made of plain JSON values; known of one that has been set."""
    decisions: str | None = None
    subjects: dict[str, None] | None = None
    """The subjects in order, each once; None for nothing."""
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
        """Drop what a lost attempt has left."""
        self.subjects, self._flushed = None, 0
        self.output = self.result_json = None
        self.has_plain_value = self.has_emitted = False

    def record_decision(self, reason: str) -> None:
        """Add a decision about access, as far as the row has room."""
        if self._secrets.values:
            # Before it is cut, which might leave a part of a secret.
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
        """Add an AI call: tokens and cost add up, the newest model names stand."""
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
        """Set the result. Raises `ValueError` or `TypeError` for one that has no JSON form."""
        encoded = encode(value)
        self.has_plain_value = is_plain(value)
        self.result_json = encoded if self.has_plain_value else mask_by_type(encoded, value, self._secrets.learn)
        self.output = self.result_json
        if self._secrets.has_names:
            self.output = self._secrets.mask_result(self.result_json, value)

    @property
    def input(self) -> bytes | None:
        """The payload as the log shows it; None where it was refused before it could be read."""
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
        """The same for the row of a failure, which a payload that cannot be masked does not keep from the log."""
        try:
            return self.input
        except Exception:
            return None

    @property
    def input_to_keep(self) -> bytes | None:
        """The input as the row shows it, where a replay does not know a secret in it: None where there is none."""
        masked = self.input_or_none if self._secrets.values else None
        scrubbed = masked and self._secrets.scrub_json(masked)
        return None if scrubbed == masked else scrubbed

    @property
    def output_to_keep(self) -> bytes | None:
        """The output as the row shows it, where a replay could not tell it from the result: None where it can."""
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
        """Return the row of this execution, which has ended."""
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
            _error_json(error) if error else None,
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
        )


class LogBuffer(list[LogRow]):
    """The rows of an execution and of those that it executed, until they are written."""

    __slots__ = ()

    def discard_row(self, id: str) -> None:
        """Drop the row of one execution, where it was to be written with a commit that has failed."""
        self[:] = [row for row in self if row.id != id]

    def mark_rolled_back(self, start: int = 0) -> None:
        """Say of the rows since `start` that their writes were rolled back."""
        for index in range(start, len(self)):
            if self[index].outcome == "succeeded":
                self[index] = self[index]._replace(outcome="failed", error=_ROLLED_BACK, output=None)

    def reduced(self) -> Sequence[LogRow]:
        """Return the rows of failures in the form that no storage can refuse."""
        return [row.reduced() for row in self]


def outcome_of(error: ActionError) -> Outcome:
    """Return the outcome under which a failure stands on the action log."""
    return _OUTCOMES.get(error.code, "failed")


def _error_json(error: ActionError) -> bytes:
    """Return an error as the log has it: without its details, and with part of its message, where it is too large."""
    encoded = to_json(error.to_dict())
    if len(encoded) <= MAX_ERROR_BYTES:
        return encoded
    message = bounded_text(error.message, MAX_TEXT_LENGTH)
    return to_json({"code": error.code.value, "message": message, "details": {"omitted_bytes": len(encoded)}})
