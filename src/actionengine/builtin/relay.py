"""The built-in service `relay`: the undelivered events of the caller's tenant, and what becomes of its dead letters.

A change is part of the execution: its row on the action log names the events, and commits with it or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import from_json
from returns.result import Result, Success

from actionengine.actions import Service, create_service
from actionengine.builtin.declarations import declare
from actionengine.context import ActorType
from actionengine.errors import ActionError, ErrorCode
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.plan import sync_and_async
from actionengine.schemas.models import Id, Input, Output
from actionengine.storage.outbox import QUEUES, DeadLetter
from actionengine.storage.records import event_id

READ_PERMISSION = "relay.read"
REDRIVE_PERMISSION = "relay.redrive"
SKIP_PERMISSION = "relay.skip"

MAX_LETTERS = 200
"""Dead letters that one execution shows, redrives or skips."""

_SKIPPERS: tuple[ActorType, ...] = ("human", "integration", "system")
"""A skipped event never reaches its receiver, so that people or the host's own programs decide it, as approvals."""

_EventIds = Annotated[tuple[Id, ...], Field(min_length=1, max_length=MAX_LETTERS)]

Queue = Literal["events", "workflows", "triggers"]


class RelayStatusQuery(Input):
    """Nothing: the status has all queues."""


class DeadLetterListing(Input):
    """A page of dead letters, by event id."""

    queue: Queue | None = Field(default=None, description="Only the dead letters of this queue; null for all queues.")
    after: Id | None = Field(
        default=None, description="The `next` of the page before, an event id; null for the first page."
    )
    limit: int = Field(default=50, ge=1, le=MAX_LETTERS, description="The most events of the page.")


class Redrive(Input):
    """The dead letters to deliver again: some of them by their event ids, or all that are not skipped."""

    ids: _EventIds | None = Field(
        default=None, description="The ids of the events; null with `all`. Skipped events can be named too."
    )
    all: bool = Field(
        default=False,
        description=f"True for all dead letters that are not skipped, the {MAX_LETTERS} first ones by event id.",
    )
    queue: Queue | None = Field(default=None, description="Only in this queue; null for all queues.")

    @model_validator(mode="after")
    def _check_one_choice(self) -> Self:
        if self.all == (self.ids is not None):
            raise ValueError("give either ids, a list of event ids, or all=true")
        return self


class Skip(Input):
    """The dead letters to give up."""

    ids: _EventIds = Field(description="The ids of the events.")
    reason: str = Field(min_length=1, max_length=2000, description="The reason for giving them up.")
    queue: Queue | None = Field(default=None, description="Only in this queue; null for all queues.")


class QueueState(Output):
    """The undelivered events of the tenant in one queue. Each number counts to 10 000, which stands for more."""

    queue: Queue = Field(description="The queue.")
    pending: int = Field(description="The events that are not delivered yet.")
    waiting: int = Field(description="Those of them that wait for another attempt.")
    held: int = Field(description="Those of them that wait behind an earlier event of their subject.")
    dead: int = Field(description="The dead letters: events that are not tried any more.")
    skipped: int = Field(description="The events that were given up.")
    oldest: datetime | None = Field(description="The time of the oldest pending event, in UTC; null for none.")


class RelayState(Output):
    """The undelivered events of the tenant."""

    queues: tuple[QueueState, ...] = Field(description="The queues: events, workflows and triggers.")


class DeadLetterEntry(Output):
    """One event that is not tried any more."""

    id: str = Field(description="The id of the event.")
    queue: Queue = Field(description="The queue in which it is a dead letter.")
    type: str = Field(description="The type of the event.")
    subject: str | None = Field(description="The thing that it is about, such as jobs/17. Later events of it wait.")
    payload: Any = Field(description="The payload of the event, masked.")
    version: int = Field(description="The version of the payload.")
    action: str = Field(description="The action that emitted it, as service.action.")
    action_id: str = Field(description="The execution of that action on the action log.")
    actor: str | None = Field(description="The actor of that execution, as type:id; null without one.")
    on_behalf_of: tuple[str, ...] = Field(description="The principals behind the actor, as type:id, the nearest first.")
    occurred_at: datetime = Field(description="The time of the event, in UTC.")
    attempts: int = Field(description="The number of attempts to deliver it.")
    reason: str = Field(description="The reason of the last failure, and of the skip.")
    since: datetime = Field(description="The time of the last attempt, in UTC.")
    skipped: bool = Field(description="True if it was given up, so that later events of its subject continue.")

    @classmethod
    def of(cls, letter: DeadLetter) -> DeadLetterEntry:
        """Return a stored dead letter, decoded."""
        event = letter.event
        return cls(
            id=event.id,
            queue=letter.queue,
            type=event.type,
            subject=event.subject,
            payload=from_json(event.payload),
            version=event.version,
            action=event.action,
            action_id=event.action_id,
            actor=f"{event.actor_type}:{event.actor_id}" if event.actor_type is not None else None,
            on_behalf_of=event.on_behalf_of,
            occurred_at=event.occurred_at,
            attempts=letter.attempts,
            reason=letter.reason,
            since=letter.since,
            skipped=letter.skipped,
        )


class DeadLetterPage(Output):
    """A page of dead letters by event id; `next` is the `after` of the following page, or None.

    An event that is a dead letter in several queues has an item for each, all on one page. A page also ends at 4 MiB of
    payloads for each queue.
    """

    items: tuple[DeadLetterEntry, ...] = Field(description="The dead letters and skipped events.")
    next: str | None = Field(description="The `after` of the following page; null at the end.")


class ChangedLetters(Output):
    """The dead letters that an execution has redriven or skipped, and those that it has not."""

    ids: tuple[str, ...] = Field(description="The ids of the events that were redriven or skipped.")
    missing: tuple[str, ...] = Field(
        description="The given ids that name no such dead letter of the tenant: unknown, delivered, or decided before."
    )
    remaining: int = Field(description="The dead letters that are left, counted to 10,000 for each queue.")


@sync_and_async
async def _status(data: RelayStatusQuery, ctx: InternalContext) -> Result[RelayState, ActionError]:
    statuses = await ctx.unit_of_work.outbox_status()
    return Success(RelayState(queues=tuple(QueueState(**status._asdict()) for status in statuses)))


@sync_and_async
async def _dead_letters(data: DeadLetterListing, ctx: InternalContext) -> Result[DeadLetterPage, ActionError]:
    read = ctx.unit_of_work.dead_letters
    pages = [await read(queue, after=data.after, limit=data.limit) for queue in _queues(data.queue)]
    # Behind the end of a page that is full there may be more of its queue.
    end = min((page.next for page in pages if page.next is not None), default=None)
    found = sorted((letter for page in pages for letter in page), key=lambda letter: letter.event.id)
    if len(found) > data.limit:
        last = found[data.limit - 1].event.id
        end = last if end is None else min(end, last)
    shown = [letter for letter in found if end is None or letter.event.id <= end]
    has_more = len(shown) < len(found) or any(page.next is not None for page in pages)
    page = DeadLetterPage(items=tuple(map(DeadLetterEntry.of, shown)), next=end if has_more else None)
    # Each look would copy the payloads to the action log.
    ctx.set_logged_output({"items": len(page.items), "next": page.next})
    return Success(page)


@sync_and_async
async def _redrive(data: Redrive, ctx: InternalContext) -> Result[ChangedLetters, ActionError]:
    unit_of_work, changed, left = ctx.unit_of_work, list[str](), MAX_LETTERS
    for queue in _queues(data.queue):
        ids = data.ids
        if ids is None:
            letters = await unit_of_work.dead_letters(queue, limit=left, skipped=False) if left else ()
            ids = tuple(letter.event.id for letter in letters)
            left -= len(ids)
        if ids:
            changed += await unit_of_work.redrive(queue, ids)
    return await _changed(data.ids or (), changed, data.queue, ctx)


@sync_and_async
async def _skip(data: Skip, ctx: InternalContext) -> Result[ChangedLetters, ActionError]:
    changed = list[str]()
    for queue in _queues(data.queue):
        changed += await ctx.unit_of_work.skip(queue, data.ids, data.reason)
    return await _changed(data.ids, changed, data.queue, ctx)


async def _changed(
    given: Iterable[str], changed: Iterable[str], queue: Queue | None, ctx: InternalContext
) -> Result[ChangedLetters, ActionError]:
    ids = sorted(set(changed))
    missing = [id for id in dict.fromkeys(map(event_id, given)) if id not in ids]
    if missing and not ids:
        where = "the outbox" if queue is None else f"the queue {queue!r}"
        raise ActionError(
            ErrorCode.NOT_FOUND,
            f"{where} has no dead letter of this tenant with the id {missing[0]}"
            f"{f', nor any of {len(missing) - 1} more' if len(missing) > 1 else ''}: list relay.dead_letters again, "
            "since it may have been redriven or skipped meanwhile",
            {"missing": missing},
        )
    if not ids:
        ctx.suppress_default_event()
    for id in ids:
        ctx.add_subject(f"events/{id}")
    statuses = await ctx.unit_of_work.outbox_status()
    remaining = sum(status.dead for status in statuses if status.queue in _queues(queue))
    return Success(ChangedLetters(ids=tuple(ids), missing=tuple(missing), remaining=remaining))


def _queues(queue: Queue | None) -> tuple[str, ...]:
    return QUEUES if queue is None else (queue,)


relay: Service = create_service(
    name="relay",
    description="Events that are not delivered yet, and dead letters, which a relay has given up",
    actions=[
        declare(
            "status",
            "The undelivered events of each queue: how many, how many are held back, and since when",
            _status,
            RelayStatusQuery,
            permission=READ_PERMISSION,
            read_only=True,
        ),
        declare(
            "dead_letters",
            "Dead letters and skipped events, by event id, with the reason of the last failure",
            _dead_letters,
            DeadLetterListing,
            permission=READ_PERMISSION,
            read_only=True,
        ),
        declare(
            "redrive",
            "Deliver dead letters again, beginning with the first attempt",
            _redrive,
            Redrive,
            permission=REDRIVE_PERMISSION,
        ),
        declare(
            "skip",
            "Give up dead letters: they are never delivered, and later events of their subjects continue",
            _skip,
            Skip,
            permission=SKIP_PERMISSION,
            allowed_actors=_SKIPPERS,
            destructive=True,
        ),
    ],
)
