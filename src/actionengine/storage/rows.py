"""The values that go through the storage ports: documents, rows of the action log, events, claims and queries."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, Protocol
from uuid import UUID

from actionengine.context import MAX_ACTOR_ID_LENGTH, MAX_ACTOR_LENGTH, MAX_NAME_LENGTH
from actionengine.errors import ActionError, ErrorCode, storable_text
from actionengine.storage.words import words_of

Outcome = Literal["succeeded", "replayed", "invalid", "denied", "approval_required", "failed", "previewed"]

MAX_SUBJECT_LENGTH = MAX_NAME_LENGTH
"""Characters of a subject that the action log stores and compares: the limit of an index."""

MAX_FLUSHED_SUBJECTS = 100
"""Rows of a host's own tables that one execution adds to its subjects without being told to."""

UNNAMED_ROWS = "*"
"""The key in a subject that stands for all rows of a table that are not named one by one."""


@dataclass(frozen=True, slots=True)
class Record:
    """A document of a collection. `version` starts at 1 and grows with each update; times are UTC."""

    id: str
    version: int
    data: dict[str, Any]
    created_at: datetime
    updated_at: datetime


class LogRow(NamedTuple):
    """One execution in the action log. JSON columns are bytes, masked; `latency` is in seconds, times are UTC.

    `on_behalf_of` names the principals behind the actor (`type:id`), the nearest first.
    """

    id: str
    parent_id: str | None
    tenant_id: UUID
    actor_type: str | None
    actor_id: str | None
    approved_by: str | None
    approval_id: str | None
    source: str
    reason: str | None
    action: str
    subjects: tuple[str, ...]
    input: bytes | None
    output: bytes | None
    outcome: Outcome
    error: bytes | None
    decision: str | None
    started_at: datetime
    latency: float
    idempotency_key: str | None
    request_id: str | None
    model: str | None
    prompt_version: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    on_behalf_of: tuple[str, ...] = ()

    def reduced(self) -> LogRow:
        """Return the row of a failure with the actor, the action and the error code only: no storage can refuse it."""
        return self._replace(
            **_NOTHING,
            actor_id=self.actor_id and _ascii(self.actor_id, MAX_ACTOR_ID_LENGTH),
            on_behalf_of=tuple(_ascii(principal, MAX_ACTOR_LENGTH) for principal in self.on_behalf_of),
            source=_ascii(self.source, MAX_NAME_LENGTH),
            subjects=(),
            error=b'{"code":"%b","message":"%b","details":{"reduced":true}}' % (_error_code(self.error), _REDUCED),
        )


_NOTHING: dict[str, Any] = dict.fromkeys(
    (
        *("approved_by", "approval_id", "reason", "input", "output", "decision", "idempotency_key", "request_id"),
        *("model", "prompt_version", "input_tokens", "output_tokens", "cost_usd"),
    )
)
_REDUCED = b"the storage refused the whole row of this failure: the rest is left out"
_CODE = re.compile(rb'"code":"([a-z_]+)"')


def _error_code(error: bytes | None) -> bytes:
    found = _CODE.search(error) if error is not None else None
    return found[1] if found is not None else b"internal"


def _ascii(text: str, max_length: int) -> str:
    return text.replace("\0", "\\0").encode("ascii", "backslashreplace").decode()[:max_length]


class EventRow(NamedTuple):
    """An event to write to the event log and the outbox. `payload` is JSON, masked.

    `on_behalf_of` names the principals behind the actor (`type:id`), the nearest first. With any, `chain` is the JSON
    of the actor and these principals with the rights that their tokens granted: a run that the event triggers acts for
    them. The event log keeps it; an outbox need not.
    """

    id: str
    tenant_id: UUID
    type: str
    subject: str | None
    payload: bytes
    action: str
    action_id: str
    actor_type: str | None
    actor_id: str | None
    occurred_at: datetime
    version: int = 1
    on_behalf_of: tuple[str, ...] = ()
    chain: bytes | None = None


class StoredEvent(NamedTuple):
    """An event in the event log; `position` grows in commit order."""

    position: int
    event: EventRow


class Claim(NamedTuple):
    """An idempotency claim: `key` in the scope of the tenant and `action` (`service.action`).

    `replaces` names a pending approval whose key this claim may take over.
    """

    action: str
    key: str
    fingerprint: str
    replaces: str | None = None


class ClaimAnswer(NamedTuple):
    """The answer to a claim.

    `claimed`: this unit of work holds the key until it ends. `replay`: a result was committed for this fingerprint;
    `result` is its JSON, or `approval_id` names the pending approval, and `asked` is what was recorded with it.
    `mismatch`: a result was committed for another fingerprint. `in_progress`: another unit of work still held the key
    when the wait was over.
    """

    status: Literal["claimed", "replay", "mismatch", "in_progress"]
    result: bytes | None = None
    approval_id: str | None = None
    asked: bytes | None = None


CLAIMED = ClaimAnswer("claimed")


class IdempotentResult(NamedTuple):
    """The answer to a claimed key from the commit until `expires_at`: a result (JSON) or a pending approval.

    `asked` is the questions of the execution to the authorizer, as JSON: a replay asks them again.
    """

    claim: Claim
    result: bytes | None
    approval_id: str | None
    expires_at: datetime
    asked: bytes | None = None


class Route(NamedTuple):
    """A further queue for events of these types, or of all types."""

    queue: str
    types: frozenset[str] | None = None

    def takes(self, event: EventRow) -> bool:
        """Return whether an event goes into the queue."""
        return self.types is None or event.type in self.types


class Recording(NamedTuple):
    """Everything that one execution writes about itself, in one statement where the backend can.

    The events enter the queue `events` of the outbox and the queues of the `routes`, which are the same for all
    recordings of one unit of work.
    """

    log: Sequence[LogRow]
    events: Sequence[EventRow] = ()
    results: Sequence[IdempotentResult] = ()
    routes: Sequence[Route] = ()


class LoggedExecution(Protocol):
    """The fields of a log row that a `LogQuery` compares."""

    @property
    def actor_type(self) -> str | None:
        """Return the actor's type."""

    @property
    def actor_id(self) -> str | None:
        """Return the actor's id."""

    @property
    def action(self) -> str | None:
        """Return the full name of the action."""

    @property
    def outcome(self) -> str | None:
        """Return the outcome."""

    @property
    def started_at(self) -> datetime | None:
        """Return the start, in UTC; None for a row that is gone."""

    @property
    def on_behalf_of(self) -> tuple[str, ...]:
        """Return the principals behind the actor."""

    @property
    def parent_id(self) -> str | None:
        """Return the execution that executed this one."""

    @property
    def approval_id(self) -> str | None:
        """Return the approval that it ran under, or that it waits for."""

    @property
    def request_id(self) -> str | None:
        """Return the host's id of the request."""

    @property
    def idempotency_key(self) -> str | None:
        """Return the idempotency key of the request."""


def uuid_text(text: str) -> str | None:
    """Return a UUID in its stored form; None for any other text."""
    try:
        return str(UUID(text))
    except (ValueError, TypeError, AttributeError):
        return None


def log_id(text: str) -> str:
    """Return an id of the action log in its stored form. Raise `ActionError(invalid_input)` for any other text."""
    id = uuid_text(text)
    if id is None:
        raise ActionError(ErrorCode.INVALID_INPUT, f"{text!r} is not an id of the action log")
    return id


class LogQuery(NamedTuple):
    """A query of the action log. Rows come newest first; `before` is the id at which the page before ended."""

    subject: str | None = None
    actor_type: str | None = None
    actor_id: str | None = None
    action: str | None = None
    outcome: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: str | None = None
    limit: int = 50
    principal: str | None = None
    """A principal (`type:id`) that the actor acted for, at any place of the chain behind it."""
    parent_id: str | None = None
    approval_id: str | None = None
    request_id: str | None = None
    idempotency_key: str | None = None
    words: tuple[str, ...] = ()
    """Words (see `words_of`) that the reason has, all of them, in any order."""

    def normal(self) -> LogQuery:
        """Return the query with ids in their stored form. Raise `ActionError(invalid_input)` for other texts."""
        given = {"before": self.before, "parent_id": self.parent_id}
        ids: dict[str, Any] = {name: log_id(id) for name, id in given.items() if id is not None}
        return self._replace(**ids)

    def matches(self, row: LoggedExecution) -> bool:
        """Return whether a row has the fields of this query, `subject`, `words` and `before` aside."""
        return (
            row.started_at is not None
            and (self.actor_type is None or row.actor_type == self.actor_type)
            and (self.actor_id is None or row.actor_id == self.actor_id)
            and (self.principal is None or self.principal in row.on_behalf_of)
            and (self.action is None or row.action == self.action)
            and (self.outcome is None or row.outcome == self.outcome)
            and (self.parent_id is None or row.parent_id == self.parent_id)
            and (self.approval_id is None or row.approval_id == self.approval_id)
            and (self.request_id is None or row.request_id == self.request_id)
            and (self.idempotency_key is None or row.idempotency_key == self.idempotency_key)
            and (self.since is None or row.started_at >= self.since)
            and (self.until is None or row.started_at < self.until)
        )

    def has_words(self, reason: str | None) -> bool:
        """Return whether a reason has the words of this query."""
        return not self.words or (reason is not None and set(self.words) <= set(words_of(reason)))


LogLink = Literal["id", "parent_id", "approval_id", "request_id", "subject"]
"""The columns of the action log by which executions are linked: to those that they have executed, to approvals, to the
event or the run that caused them (the id of their request), and to the things that they are about."""

EventLink = Literal["id", "action_id"]
"""The columns of the event log by which events are found: their id, and the execution that emitted them."""


_IDS = frozenset({"id", "parent_id", "action_id"})


def stored_values(link: LogLink | EventLink, values: Sequence[str]) -> Sequence[str]:
    """Return the values of a column that can be stored: others are on no row, and a database refuses them."""
    if link in _IDS:
        return [id for value in values if (id := uuid_text(value)) is not None]
    return [value for value in values if storable_text(value) == value]


class EmittedEvent(NamedTuple):
    """An event in the event log, without its payload."""

    position: int
    id: str
    type: str
    subject: str | None
    action_id: str
    actor_type: str | None
    actor_id: str | None
    occurred_at: datetime


MAX_BACKLOG = 10_000
"""The bound of the numbers in a `Backlog`."""


class Backlog(NamedTuple):
    """The work that waits for people or for its time, over all tenants: `approvals` that can still be decided, the time
    of the `oldest_approval` among them, and active `schedules`. The bound of the numbers is 10 000."""

    approvals: int
    oldest_approval: datetime | None
    schedules: int
