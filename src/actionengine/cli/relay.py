"""`actionengine relay ...`: deliver events, and handle events that could not be delivered."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from actionengine.cli.common import SigningKey, Url, counted, example, open_storage
from actionengine.cli.errors import fail, shown
from actionengine.concurrency.run_sync import run_sync
from actionengine.events.publishers.addresses import publisher_from_address
from actionengine.events.publishers.fanout import nobody
from actionengine.events.relay.metrics import age_of, age_since
from actionengine.events.relay.relay import Relay
from actionengine.storage.outbox import QUEUES, DeadLetter, OutboxStatus, RelayHeartbeat
from actionengine.storage.rows import MAX_BACKLOG, Backlog

relay = typer.Typer(no_args_is_help=True, help="The delivery of events.")

Address = Annotated[
    str,
    typer.Option(
        envvar="ACTIONENGINE_PUBLISHER",
        help="nats://host:4222?stream=events, kafka://host, amqp://host, redis://host, eventbridge://bus, stdout:, or "
        "module:attribute",
    ),
]
Queues = Annotated[
    list[str] | None,
    typer.Option("--queue", help="events, workflows or triggers; by default all queues of the publisher."),
]
Queue = Annotated[str | None, typer.Option(help="events, workflows or triggers; by default all.")]
EventIds = Annotated[list[str] | None, typer.Argument(help="Event ids.")]


@relay.command(epilog=example("relay run --publisher 'nats://localhost:4222?stream=events'"))
def run(
    publisher: Address,
    url: Url,
    signing_key: SigningKey = None,
    batch_size: Annotated[int, typer.Option(help="The most events of one batch.")] = 500,
    publish_timeout: Annotated[float, typer.Option(help="The most seconds for a call of the publisher.")] = 10.0,
    max_attempts: Annotated[int, typer.Option(help="Failed attempts until an event is a dead letter.")] = 12,
    first_backoff: Annotated[float, typer.Option(help="Seconds before the second attempt; then doubled.")] = 0.5,
    longest_backoff: Annotated[float, typer.Option(help="The most seconds between two attempts.")] = 300.0,
    poll_interval: Annotated[float, typer.Option(help="Seconds between two checks of the outbox.")] = 5.0,
    behind_pooler: Annotated[
        bool,
        typer.Option(
            "--behind-pooler",
            help="A pooler lends connections for a transaction only: prepare no statements, and poll four times a "
            "second.",
        ),
    ] = False,
    name: Annotated[str | None, typer.Option(help="The name of the relay in `relay status`.")] = None,
    queue: Queues = None,
    drain: Annotated[bool, typer.Option("--drain", help="Deliver the due events, and exit.")] = False,
) -> None:
    """Deliver events until SIGINT or SIGTERM, then finish the running deliveries. Any number of relays can run."""
    # `module:attribute` may be in the working directory.
    sys.path.insert(0, "")
    with open_storage(url, signing_key, behind_pooler) as storage:
        worker = Relay(
            storage,
            publisher_from_address(publisher),
            batch_size=batch_size,
            publish_timeout=publish_timeout,
            max_attempts=max_attempts,
            first_backoff=first_backoff,
            longest_backoff=longest_backoff,
            poll_interval=poll_interval,
            name=name,
            queues=queue or None,
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: worker.stop())
        if drain:
            typer.echo(f"delivered {worker.drain()} events", err=True)
        else:
            worker.run()


@relay.command()
def status(url: Url, signing_key: SigningKey = None) -> None:
    """Show the undelivered events of each queue with their age, the relays, and the backlog of approvals."""
    with open_storage(url, signing_key) as storage:
        found = {queue: run_sync(storage.outbox("sync", queue).status()) for queue in QUEUES}
        backlog = run_sync(storage.backlog("sync"))
    console = Console()
    console.print(_counts(found))
    console.print(_backlog(backlog))
    relays = [beat for each in found.values() for beat in each.relays]
    console.print(_relays(relays) if relays else "no relay has reported within a minute")


@relay.command("dead-letters")
def dead_letters(
    url: Url,
    signing_key: SigningKey = None,
    limit: Annotated[int, typer.Option(help="The most dead letters to list.")] = 100,
    after: Annotated[str | None, typer.Option(help="Only dead letters after this event id.")] = None,
    queue: Queue = None,
) -> None:
    """List dead letters, which are events whose delivery was given up, with the reason."""
    with open_storage(url, signing_key) as storage:
        letters = Relay(storage, nobody).dead_letters(after=after, limit=limit, queue=queue)
    Console().print(_letters(letters) if letters else "there are no dead letters")


@relay.command()
def redrive(
    url: Url,
    ids: EventIds = None,
    all: Annotated[bool, typer.Option("--all", help="All dead letters that were not skipped.")] = False,
    signing_key: SigningKey = None,
    queue: Queue = None,
) -> None:
    """Deliver dead letters again: those with these event ids, or all."""
    if bool(ids) == all:
        fail("name the dead letters to deliver again: give event ids, or --all")
    with open_storage(url, signing_key) as storage:
        count = Relay(storage, nobody).redrive(None if all else ids, queue=queue)
    typer.echo(f"{count} dead letters will be delivered again")


@relay.command()
def skip(
    ids: Annotated[list[str], typer.Argument(help="Event ids.")],
    url: Url,
    reason: Annotated[str, typer.Option(help="The reason, for the records.")],
    signing_key: SigningKey = None,
    queue: Queue = None,
) -> None:
    """Skip dead letters, so that later events of their subjects are delivered. They stay in the event log."""
    with open_storage(url, signing_key) as storage:
        count = Relay(storage, nobody).skip(ids, reason, queue=queue)
    typer.echo(f"{count} dead letters are skipped")


def _counts(found: Mapping[str, OutboxStatus]) -> Table:
    table = Table("pending", "waiting for a retry", "dead letters", "skipped", "held back", "oldest pending", "queue")
    for queue, each in found.items():
        age = f"{age_of(each):.1f} s" if each.oldest is not None else "-"
        counts = (each.pending, each.waiting, each.dead, each.skipped, each.held)
        table.add_row(*map(counted, counts), age, queue)
    return table


def _backlog(backlog: Backlog) -> Table:
    table = Table("waiting approvals", "oldest approval", "active schedules")
    age = f"{age_since(backlog.oldest_approval):.1f} s" if backlog.oldest_approval is not None else "-"
    numbers = (f"{each}{'+' if each >= MAX_BACKLOG else ''}" for each in (backlog.approvals, backlog.schedules))
    approvals, schedules = numbers
    table.add_row(approvals, age, schedules)
    return table


def _relays(found: Iterable[RelayHeartbeat]) -> Table:
    names = ("relay", "publisher", "delivered", "failed", "events/s", "seen", "trouble", "queue")
    table = Table(*(Column(name, overflow="fold") for name in names))
    now = datetime.now(UTC)
    for beat in found:
        seen = f"{max(0.0, (now - beat.seen_at).total_seconds()):.0f} s ago"
        counts = (str(beat.delivered), str(beat.failed), f"{beat.rate:.1f}")
        table.add_row(beat.name, beat.publisher, *counts, seen, shown(beat.error or ""), beat.queue)
    return table


def _letters(letters: Iterable[DeadLetter]) -> Table:
    # Operators copy the ids.
    names = ("queue", "type", "subject", "tenant", "attempts", "since", "reason")
    columns = (Column(name, overflow="fold") for name in names)
    table = Table(Column("event", no_wrap=True, min_width=36), *columns)
    for letter in letters:
        event = letter.event
        since = letter.since.isoformat(timespec="seconds")
        reason = shown(letter.reason) + (" (skipped)" if letter.skipped else "")
        where = (event.id, letter.queue, event.type, event.subject or "", str(event.tenant_id))
        table.add_row(*where, str(letter.attempts), since, reason)
    return table
