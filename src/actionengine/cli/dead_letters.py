"""`actionengine relay dead-letters|redrive|skip`: events whose delivery was given up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer
from returns.result import Failure, Result, Success

from actionengine.builtin.relay import MAX_LETTERS, ChangedLetters, DeadLetterEntry
from actionengine.cli.errors import ExitCode, fail, shown
from actionengine.cli.governed import governed
from actionengine.cli.operator import Found, Operator
from actionengine.cli.output import with_tenant, write_json, write_listing
from actionengine.cli.relay import relay as relay
from actionengine.cli.terminal import age, iso, write, write_block
from actionengine.context import Tenant
from actionengine.errors import ActionError

Queue = Annotated[str | None, typer.Option(help="events, workflows or triggers; by default all.")]


@governed(relay, "dead-letters", "relay dead-letters --tenant acme", "relay dead-letters --json")
@governed(relay, "dead", "relay dead --tenant acme", hidden=True)
def dead_letters(
    operator: Operator,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LETTERS, help="The most dead letters to list.")] = 100,
    after: Annotated[str | None, typer.Option(help="Only dead letters after this event id.")] = None,
    queue: Queue = None,
) -> None:
    """List dead letters, which are events whose delivery was given up, with the reason, by event id."""
    listing = operator.list_items("relay.dead_letters", {"queue": queue}, limit=limit, cursor=after, newest_first=False)
    write_listing(operator, listing, _write_letter, "there are no dead letters", "--after")


@governed(relay, "redrive", "relay redrive $ID --tenant acme", "relay redrive --all --queue events")
def redrive(
    operator: Operator,
    ids: Annotated[list[str] | None, typer.Argument(help="Event ids, of one tenant.")] = None,
    all: Annotated[bool, typer.Option("--all", help="All dead letters that were not skipped.")] = False,
    queue: Queue = None,
) -> None:
    """Deliver dead letters again: those with these event ids, or all of one tenant or of all tenants."""
    if bool(ids) == all:
        fail("name the dead letters to deliver again: give event ids, or --all")
    if not all:
        _change(operator, "relay.redrive", {"ids": ids, "queue": queue}, "will be delivered again")
        return

    def redrive_all(tenant: Tenant) -> Result[ChangedLetters, ActionError]:
        done: tuple[str, ...] = ()
        while True:
            result: Result[ChangedLetters, ActionError] = operator.execute(
                tenant, "relay.redrive", {"all": True, "queue": queue}
            )
            if isinstance(result, Failure):
                return result
            changed = result.unwrap()
            # A relay may have given up an event again meanwhile.
            is_done = not changed.remaining or set(changed.ids) <= set(done)
            done = tuple(dict.fromkeys((*done, *changed.ids)))
            if is_done:
                return Success(changed.model_copy(update={"ids": done}))

    found, code = operator.from_each(redrive_all)
    _write_changed(operator, found, "will be delivered again")
    raise typer.Exit(int(code))


@governed(relay, "skip", "relay skip $ID --tenant acme --reason 'the account is closed'")
def skip(
    operator: Operator,
    ids: Annotated[list[str], typer.Argument(help="Event ids, of one tenant.")],
    queue: Queue = None,
) -> None:
    """Skip dead letters, so that later events of their subjects are delivered. They stay in the event log. --reason is
    required."""
    if operator.reason is None:
        fail("say why these events are given up: --reason", ExitCode.USAGE)
    _change(operator, "relay.skip", {"ids": ids, "reason": operator.reason, "queue": queue}, "skipped")


def _change(operator: Operator, action: str, payload: dict[str, object], done: str) -> None:
    tenant = operator.only_tenant()
    changed: ChangedLetters = operator.do(tenant, action, payload)
    _write_changed(operator, (Found(tenant.slug, changed),), done)
    if changed.missing:
        fail(f"{tenant.slug}: no dead letters, or no longer: {', '.join(changed.missing)}", ExitCode.NOT_FOUND)


def _write_changed(operator: Operator, found: Iterable[Found], done: str) -> None:
    if operator.json:
        write_json({"items": [with_tenant(each.tenant, each.item) for each in found], "next": None})
    else:
        number = sum(len(each.item.ids) for each in found)
        write(f"{number} dead letter{'s' if number != 1 else ''} {done}")


def _write_letter(tenant: str, letter: DeadLetterEntry) -> None:
    attempts = f"{letter.attempts} attempt{'s' if letter.attempts != 1 else ''}"
    details = [
        f"id {letter.id}",
        f"queue {letter.queue}, given up {age(letter.since)} after {attempts}",
        f"reason: {shown(letter.reason)}{' (skipped)' if letter.skipped else ''}",
    ]
    write_block(f"{iso(letter.occurred_at)}  {letter.type}  {letter.subject or 'no subject'}  {tenant}", details)
