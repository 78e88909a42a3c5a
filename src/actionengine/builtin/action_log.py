"""Executions as the built-in service `action_log` lists and returns them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, get_args

from pydantic import AwareDatetime, Field
from pydantic_core import from_json
from returns.result import Result, Success

from actionengine.context import MAX_ACTOR_ID_LENGTH, MAX_ACTOR_LENGTH, MAX_NAME_LENGTH, ActorType
from actionengine.errors import ActionError, ErrorCode, not_found
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.plan import MAX_ACTION_NAME_LENGTH, sync_and_async
from actionengine.schemas.models import ErrorDict, Id, Input, Output
from actionengine.storage.rows import MAX_SUBJECT_LENGTH, LogQuery, LogRow, Outcome, log_id
from actionengine.storage.words import words_of

READ_PERMISSION = "action_log.read"

MAX_SEARCH_LENGTH = 500
"""Characters of the text of a search."""

MAX_SEARCH_WORDS = 10
"""Different words of the text of a search."""

PRINCIPAL = f"^({'|'.join(get_args(ActorType))}):"
"""The beginning of an actor that is written as `type:id`."""


class LogListing(Input):
    """A filter of executions. Each field that is given has to match.

    `subject` is a name such as `"jobs/17"`, `action` a full name, and `since` and `until` bound the start (`until`
    excluded). `principal` (`type:id`) finds what other actors did on behalf of that one; `actor_type` and `actor_id`
    find what it did itself. `text` has words of the reason: all of them, in any order, without regard to case.
    `before` is the `next` of the page before.
    """

    subject: str | None = Field(
        default=None, description="Only executions about this thing, such as jobs/17; null for all."
    )
    actor_type: ActorType | None = Field(
        default=None, description="Only executions by this type of actor; null for all."
    )
    actor_id: str | None = Field(
        default=None,
        max_length=MAX_ACTOR_ID_LENGTH,
        description="Only executions by the actor with this id; null for all.",
    )
    principal: str | None = Field(
        default=None,
        max_length=MAX_ACTOR_LENGTH,
        pattern=PRINCIPAL,
        description="Only executions on behalf of this actor, as type:id, such as human:carla; null for all.",
    )
    action: str | None = Field(
        default=None,
        max_length=MAX_ACTION_NAME_LENGTH,
        description="Only executions of this action, as service.action; null for all.",
    )
    outcome: Outcome | None = Field(default=None, description="Only executions with this outcome; null for all.")
    request_id: str | None = Field(
        default=None,
        max_length=MAX_NAME_LENGTH,
        description="Only executions of the request that has this id at the host; null for all.",
    )
    approval_id: Id | None = Field(
        default=None,
        description="Only executions that ran under this approval, or that wait for it; null for all.",
    )
    parent_id: Id | None = Field(
        default=None, description="Only executions that this execution has executed; null for all."
    )
    idempotency_key: str | None = Field(
        default=None,
        max_length=MAX_NAME_LENGTH,
        description="Only executions of requests with this idempotency key; null for all.",
    )
    text: str | None = Field(
        default=None,
        max_length=MAX_SEARCH_LENGTH,
        description="Only executions whose reason has all these words, in any order and case; null for all.",
    )
    since: AwareDatetime | None = Field(
        default=None,
        description="Only executions that started at this time or later, in ISO 8601 with an offset; null for all.",
    )
    until: AwareDatetime | None = Field(
        default=None,
        description="Only executions that started before this time, in ISO 8601 with an offset; null for all.",
    )
    before: Id | None = Field(default=None, description="The `next` of the page before; null for the first page.")
    limit: int = Field(default=50, ge=1, le=1000, description="The most executions of the page.")

    def to_query(self) -> LogQuery:
        """Return the query of the storage. Raise `ActionError(invalid_input)` for a `text` without a word."""
        fields = self.model_dump(exclude={"text"})
        if self.subject is not None:
            fields["subject"] = self.subject[:MAX_SUBJECT_LENGTH]
        return LogQuery(**fields, words=words_in("text", self.text) if self.text is not None else ())


def words_in(name: str, text: str) -> tuple[str, ...]:
    """Return the words to search for. Raise `ActionError(invalid_input)` for none, and for too many."""
    words = words_of(text)
    if not words:
        raise ActionError(
            ErrorCode.INVALID_INPUT, f"{name} has no word: give letters or digits, whole words of the reason"
        )
    if len(words) > MAX_SEARCH_WORDS:
        raise ActionError(
            ErrorCode.INVALID_INPUT,
            f"{name} has {len(words)} different words, and at most {MAX_SEARCH_WORDS} are compared: leave some out",
        )
    return words


class LogEntry(Output):
    """One execution. `latency` is in seconds, times are UTC, input and output are masked. `on_behalf_of` names the
    principals behind the actor (`type:id`), the nearest first."""

    id: str = Field(description="The id of the execution.")
    parent_id: str | None = Field(description="The execution that executed this one; null for an outermost one.")
    actor_type: str | None = Field(description="The type of the actor; null without one.")
    actor_id: str | None = Field(description="The id of the actor; null without one.")
    approved_by: str | None = Field(description="The approver, as type:id; null without an approval.")
    approval_id: str | None = Field(description="The approval that it ran under, or that it waits for; null for none.")
    source: str = Field(description="The entry point of the request, such as http.")
    reason: str | None = Field(description="The reason that the caller gave.")
    action: str = Field(description="The action, as service.action.")
    subjects: tuple[str, ...] = Field(description="The things that it is about, such as jobs/17.")
    input: Any = Field(description="The payload, masked.")
    output: Any = Field(description="The result, masked.")
    outcome: Outcome = Field(description="The outcome of the execution.")
    error: ErrorDict | None = Field(
        description="The error of an execution that did not succeed; null for one that did."
    )
    decision: str | None = Field(description="The reasons of the authorizer.")
    started_at: datetime = Field(description="The start, in UTC.")
    latency: float = Field(description="The duration, in seconds.")
    idempotency_key: str | None = Field(description="The idempotency key of the request.")
    request_id: str | None = Field(description="The host's id of the request.")
    model: str | None = Field(description="The AI model that was used; null for none.")
    prompt_version: str | None = Field(description="The version of its prompt.")
    input_tokens: int | None = Field(description="The tokens that the model read.")
    output_tokens: int | None = Field(description="The tokens that the model wrote.")
    cost_usd: float | None = Field(description="The cost of the model, in US dollars.")
    on_behalf_of: tuple[str, ...] = Field(
        default=(), description="The principals behind the actor, as type:id, the nearest first."
    )

    @classmethod
    def of(cls, row: LogRow) -> LogEntry:
        """Return a stored row, decoded."""
        fields = row._asdict()
        del fields["tenant_id"]
        for name in ("input", "output", "error"):
            fields[name] = None if fields[name] is None else _read(name, fields[name])
        return cls(**fields)


def _read(name: str, encoded: bytes) -> Any:
    """Return the value of a column of JSON. If it is invalid, return the reason, so the page can still be read."""
    try:
        return from_json(encoded)
    except ValueError as error:
        unreadable = f"unreadable JSON of {len(encoded)} bytes: {error}"
        return {"code": "internal", "message": unreadable, "details": {}} if name == "error" else unreadable


class GetExecution(Input):
    """One execution."""

    id: Id = Field(description="The id of the execution.")


class LogPage(Output):
    """A page of the action log, newest first; `next` is the `before` of the following page, or None.

    A page reads at most 1 000 rows and has at most 4 MiB of JSON: it may be short or empty, and still have a `next`.
    """

    items: tuple[LogEntry, ...] = Field(description="The executions, newest first.")
    next: str | None = Field(description="The `before` of the following page; null at the end.")


@sync_and_async
async def list_executions(data: LogListing, ctx: InternalContext) -> Result[LogPage, ActionError]:
    """Return a page of executions."""
    rows = await ctx.unit_of_work.read_log(data.to_query())
    page = LogPage(items=tuple(LogEntry.of(row) for row in rows), next=rows.next)
    # If the log had this page, a later page would repeat it.
    ctx.set_logged_output({"items": len(page.items), "next": page.next})
    return Success(page)


@sync_and_async
async def get_execution(data: GetExecution, ctx: InternalContext) -> Result[LogEntry, ActionError]:
    """Return one execution of the caller's tenant."""
    id = log_id(data.id)
    rows = await ctx.unit_of_work.find_log("id", [id], 1)
    if not rows:
        raise not_found("execution", id)
    ctx.set_logged_output({"id": id})
    return Success(LogEntry.of(rows[0]))
