"""`actionengine relay ...`: deliver events, and show how far the delivery is."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from actionengine.cli.common import Json, SigningKey, Url, counted, example, open_storage
from actionengine.cli.errors import shown
from actionengine.cli.output import write_json
from actionengine.cli.terminal import age, width, write, write_block
from actionengine.concurrency.run_sync import run_sync
from actionengine.events.publishers.addresses import publisher_from_address
from actionengine.events.relay.metrics import age_of, age_since
from actionengine.events.relay.relay import Relay
from actionengine.storage.outbox import QUEUES, OutboxStatus, RelayHeartbeat
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
_COUNTS = ("pending", "waiting", "dead", "skipped", "held")


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


@relay.command(epilog=example("relay status", "relay status --json"))
def status(url: Url, signing_key: SigningKey = None, json: Json = False) -> None:
    """Show the undelivered events of each queue with their age, the relays, and the backlog of approvals, over all
    tenants."""
    with open_storage(url, signing_key) as storage:
        found = {queue: run_sync(storage.outbox("sync", queue).status()) for queue in QUEUES}
        backlog = run_sync(storage.backlog("sync"))
    relays = [beat for each in found.values() for beat in each.relays]
    if json:
        queues = [{"queue": queue, **_queue(each)} for queue, each in found.items()]
        beats = [each._asdict() for each in relays]
        write_json({"queues": queues, "relays": beats, "backlog": backlog._asdict()})
        return
    console = Console(width=width())
    console.print(_counts(found))
    console.print(_backlog(backlog))
    for beat in relays:
        _write_relay(beat)
    if not relays:
        write("no relay has reported within a minute")


def _queue(status: OutboxStatus) -> dict[str, Any]:
    return {**{name: getattr(status, name) for name in _COUNTS}, "oldest": status.oldest}


def _counts(found: Mapping[str, OutboxStatus]) -> Table:
    names = ("pending", "waiting", "dead letters", "skipped", "held", "oldest", "queue")
    table = Table(*(Column(name, overflow="fold") for name in names))
    for queue, each in found.items():
        oldest = f"{age_of(each):.1f} s" if each.oldest is not None else "-"
        counts = (each.pending, each.waiting, each.dead, each.skipped, each.held)
        table.add_row(*map(counted, counts), oldest, queue)
    return table


def _backlog(backlog: Backlog) -> Table:
    table = Table("waiting approvals", "oldest approval", "active schedules")
    oldest = f"{age_since(backlog.oldest_approval):.1f} s" if backlog.oldest_approval is not None else "-"
    numbers = (f"{each}{'+' if each >= MAX_BACKLOG else ''}" for each in (backlog.approvals, backlog.schedules))
    approvals, schedules = numbers
    table.add_row(approvals, oldest, schedules)
    return table


def _write_relay(beat: RelayHeartbeat) -> None:
    details = [
        f"to {beat.publisher}",
        f"{beat.delivered} delivered, {beat.failed} failed, {beat.rate:.1f} events/s, seen {age(beat.seen_at)}",
    ]
    if beat.error is not None:
        details.append(f"trouble: {shown(beat.error)}")
    write_block(f"relay {beat.name}, queue {beat.queue}", details)
