"""The built-in service `action_log`: reads the action log."""

from __future__ import annotations

from datetime import datetime
from typing import Any, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic_core import from_json
from returns.result import Result, Success

from actionengine.actions import Service, create_action, create_service
from actionengine.context import MAX_ACTOR_ID_LENGTH, MAX_ACTOR_LENGTH, ActorType
from actionengine.errors import ActionError
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.plan import MAX_ACTION_NAME_LENGTH, sync_and_async
from actionengine.schemas.models import Id, Output
from actionengine.storage.rows import MAX_SUBJECT_LENGTH, LogQuery, LogRow, Outcome

READ_PERMISSION = "action_log.read"

PRINCIPAL = f"^({'|'.join(get_args(ActorType))}):"
"""The beginning of an actor that is written as `type:id`."""


class LogListing(BaseModel):
    """A filter of executions. Each field that is given has to match.

    `subject` is a name such as `"jobs/17"`, `action` a full name, and `since` and `until` bound the start (`until`
    excluded). `principal` (`type:id`) finds what other actors did on behalf of that one; `actor_type` and `actor_id`
    find what it did itself. `before` is the `next` of the page before.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: str | None = None
    actor_type: ActorType | None = None
    actor_id: str | None = Field(default=None, max_length=MAX_ACTOR_ID_LENGTH)
    principal: str | None = Field(default=None, max_length=MAX_ACTOR_LENGTH, pattern=PRINCIPAL)
    action: str | None = Field(default=None, max_length=MAX_ACTION_NAME_LENGTH)
    outcome: Outcome | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    before: Id | None = None
    limit: int = Field(default=50, ge=1, le=1000)


class LogEntry(Output):
    """One execution. `latency` is in seconds, times are UTC, input and output are masked. `on_behalf_of` names the
    principals behind the actor (`type:id`), the nearest first."""

    id: str
    parent_id: str | None
    actor_type: str | None
    actor_id: str | None
    approved_by: str | None
    approval_id: str | None
    source: str
    reason: str | None
    action: str
    subjects: tuple[str, ...]
    input: Any
    output: Any
    outcome: Outcome
    error: dict[str, Any] | None
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


class LogPage(Output):
    """A page of the action log, newest first; `next` is the `before` of the following page, or None.

    A page reads at most 1 000 rows and has at most 4 MiB of JSON: it may be short or empty, and still have a `next`.
    """

    items: tuple[LogEntry, ...]
    next: str | None


@sync_and_async
async def _list(data: LogListing, ctx: InternalContext) -> Result[LogPage, ActionError]:
    query = LogQuery(**data.model_dump())
    if query.subject is not None:
        query = query._replace(subject=query.subject[:MAX_SUBJECT_LENGTH])
    rows = await ctx.unit_of_work.read_log(query)
    page = LogPage(items=tuple(LogEntry.of(row) for row in rows), next=rows.next)
    # If the log had this page, a later page would repeat it.
    ctx.set_logged_output({"items": len(page.items), "next": page.next})
    return Success(page)


action_log: Service = create_service(
    name="action_log",
    description="The executions of actions: who changed what, when and why",
    actions=[
        create_action(
            name="list",
            description="Executions by subject, actor, action, outcome and time, newest first",
            handler=_list,
            validation=LogListing,
            permission=READ_PERMISSION,
            read_only=True,
        ),
    ],
)
