"""The field-service business as a short story in the terminal: `make demo`, and `make demo-postgres`.

The story is the same on SQLite and on PostgreSQL; PostgreSQL has one more chapter.
"""

import argparse
import io
import logging
import os
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import to_json
from returns.result import Result, Success
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from actionengine import (
    ActionContext,
    ActionError,
    Actor,
    AIUsage,
    Engine,
    RequestContext,
    Storage,
    Tenant,
    create_action,
    create_engine,
    create_service,
)
from actionengine.durable.host import upgrade
from examples.demo_agent import tell_of_agent
from examples.demo_changes import tell_of_changes
from examples.demo_events import tell_of_events
from examples.demo_workflows import tell_of_workflows
from examples.field_service.app import HostStorage, create_business, open_storage
from examples.field_service.db.tables import APP_ROLE, CustomerRow, create_tables
from examples.field_service.seed import SEEDED
from examples.field_service.services.config import services
from examples.short import OUTCOME_COLOURS, short, short_ids


def _import_all(data: Any, ctx: ActionContext) -> Result[Any, ActionError]:
    """Write a row, emit an event, and fail halfway."""
    ctx.session.add(CustomerRow(tenant_id=ctx.tenant.id, name="Half imported"))
    ctx.session.flush()
    ctx.emit("customers.imported", {"count": 1})
    raise ConnectionError("the old system hung up")


imports = create_service(
    name="imports",
    description="For this story only",
    actions=[create_action(name="run", description="Import customers, badly", handler=_import_all)],
)


class Place(NamedTuple):
    """The database of the story, and a way to it that bypasses the engine."""

    name: str
    url: str
    workflows_url: str
    guard: str
    isolates_readers: bool
    past_the_engine: Callable[[str], str]


@contextmanager
def sqlite() -> Iterator[Place]:
    """Yield a SQLite file, and delete it afterwards."""
    with tempfile.TemporaryDirectory(prefix="ae-demo-") as folder:
        file = Path(folder) / "field_service.db"

        def past_the_engine(statement: str) -> str:
            with closing(sqlite3.connect(file)) as connection:
                return str(connection.execute(statement).fetchall())

        guard = "triggers call a function that only the engine's connections have"
        yield Place("a SQLite file", str(file), f"{file}.workflows", guard, False, past_the_engine)


@contextmanager
def postgres() -> Iterator[Place]:
    """Yield a server, and delete it afterwards. The owner makes the tables; the story runs as the app role."""
    import psycopg

    from examples.embedded_postgres import embedded_postgres, make_database

    with embedded_postgres() as superuser_url:
        database = make_database(superuser_url, "field_service")
        create_tables(database.owner_url)
        upgrade(database.owner_url, app_role=APP_ROLE)

        def past_the_engine(statement: str) -> str:
            with psycopg.connect(database.app_url) as connection:
                return str(connection.execute(statement.encode()).fetchall())

        guard = "triggers and grants: even the host's own role writes only in actions"
        yield Place("PostgreSQL", database.app_url, database.app_url, guard, True, past_the_engine)


class Traces(logging.Handler):
    """A log handler that keeps the library's lines, to show where the traceback went."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += record.getMessage().splitlines()


class Story:
    """A printer of steps and their results."""

    def __init__(self, console: Console, engine: Engine) -> None:
        self.console = console
        self.engine = engine

    def chapter(self, title: str) -> None:
        self.console.print()
        self.console.rule(f"[bold]{title}", align="left", style="dim")

    def execute(
        self,
        tenant: Tenant,
        actor: Actor,
        name: str,
        payload: Any,
        key: str | None = None,
        reason: str | None = None,
        show: Callable[[Any], Any] = lambda value: value,
    ) -> Result[Any, ActionError]:
        """Execute an action; print the actor, the action, and the part of the answer that `show` returns."""
        usage = AIUsage("helper-1", "2026-11", 812, 64, 0.0031) if actor.type == "ai" else None
        context = RequestContext(
            tenant=tenant, actor=actor, source="demo", reason=reason, idempotency_key=key, ai_usage=usage
        )
        service, _, action = name.partition(".")
        result = self.engine.execute_action(service, action, payload, context)
        who = f"[bold]{actor.id}[/] [dim]({actor.type}, {tenant.slug})[/]"
        asked = Text.from_markup(f"{who} → [bold cyan]{name}[/]")
        given = Text.from_markup(f"[dim]{short(payload)}[/]")
        fits = asked.cell_len + 1 + given.cell_len <= self.console.width
        self.console.print(asked, *([given] if fits else []), highlight=False)
        if not fits:
            self.line(given)
        if isinstance(result, Success):
            self.line(f"[green]✔[/] {short(show(result.unwrap()))}")
        else:
            error = result.failure()
            colour = "yellow" if error.code == "approval_required" else "red"
            self.line(f"[{colour}]✘ {error.code}[/] {short_ids(error.message)}")
        return result

    def line(self, text: str | Text) -> None:
        """Print a remark on the step above."""
        self.console.print(Padding(text, (0, 0, 0, 3), expand=False), highlight=False)

    def past_the_engine(self, place: Place, statement: str) -> None:
        """Run a statement on a plain connection of the host's role, and print its result."""
        self.console.print(f"[bold]a plain connection[/] → [bold cyan]{escape(statement)}[/]", highlight=False)
        try:
            self.line(f"[green]✔[/] {escape(place.past_the_engine(statement))}")
        except Exception as error:
            self.line(f"[red]✘ {type(error).__name__}[/] {escape(str(error).splitlines()[0])}")


def main() -> None:
    """Tell the story."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("--postgres", action="store_true", help="on an embedded PostgreSQL instead of a SQLite file")
    on_postgres = parser.parse_args().postgres
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without these characters still gets all others
    traces = Traces()
    logger = logging.getLogger("actionengine")
    logger.addHandler(traces)
    logger.propagate = False

    with postgres() if on_postgres else sqlite() as place, open_storage(place.url) as storage:
        _tell(Console(), place, storage, traces)


def _tell(console: Console, place: Place, storage: HostStorage, traces: Traces) -> None:
    engine = create_business(storage, imports)
    acme, globex = (engine.resolve_tenant(slug).unwrap() for slug in ("acme", "globex"))
    story = Story(console, engine)
    carla, maria = Actor.human("carla"), Actor.human("maria")
    bot, nightly = Actor.ai("helper-bot"), Actor.workflow("nightly")

    console.print(
        Panel(
            "A plumber's office. People, an AI agent and a workflow change state, and every change goes through "
            "[bold]one pipeline[/]: authorize · validate · claim · approve · execute · record · commit.\n"
            f"[dim]Storage is {place.name}, amounts are in cents, and every line below is a real result.[/]",
            title="[bold]actionengine[/]",
            border_style="cyan",
        )
    )

    story.chapter("A job is done and paid")
    customer = story.execute(acme, carla, "customers.create", {"name": "Ada Lovelace", "email": "ada@example.org"})
    job = story.execute(acme, carla, "jobs.create", {"customer_id": customer.unwrap().id, "title": "Burst pipe"})
    job_id = job.unwrap().id
    story.execute(acme, carla, "jobs.schedule", {"job_id": job_id, "day": "2027-03-07"})
    story.execute(acme, nightly, "jobs.schedule", {"job_id": job_id, "day": "2027-03-08"}, reason="first free day")
    story.execute(acme, Actor.human("tom"), "jobs.add_note", {"job_id": job_id, "text": "the tap is by the door"})
    done = {"job_id": job_id, "amount": 800_000, "card_number": "4111111111111111"}
    paid = story.execute(acme, maria, "jobs.complete_and_capture", done, key="capture-1")
    payment_id = paid.unwrap().id
    on_record = _log(engine, acme, action="jobs.complete_and_capture")[0].input
    story.line(f"[dim]on the record, the card is masked: {short(on_record)}[/]")

    story.chapter("A CSR refunds 50; the network drops the answer, so the client tries again")
    refund = {"payment_id": payment_id, "amount": 5_000}
    first = story.execute(acme, carla, "payments.refund", refund, key="refund-1", reason="late by an hour")
    again = story.execute(acme, carla, "payments.refund", refund, key="refund-1", reason="late by an hour")
    same = to_json(first.unwrap()) == to_json(again.unwrap())
    story.line(f"[dim]the same answer, byte for byte: {same}; refunded in all: {again.unwrap().refunded} cents[/]")
    story.execute(acme, carla, "payments.refund", {**refund, "amount": 9_900}, key="refund-1")

    story.chapter("An AI agent tries 5 000, which needs a manager")
    large = {"payment_id": payment_id, "amount": 500_000}
    asked = story.execute(acme, bot, "payments.refund", large, key="refund-2", reason="the customer was upset")
    approval = {"approval_id": asked.failure().details["approval_id"], "comment": "fair enough"}
    story.execute(acme, bot, "approvals.approve", approval)
    story.execute(acme, carla, "approvals.approve", approval)
    story.execute(acme, maria, "approvals.approve", approval, reason="goodwill", show=lambda approved: approved.result)
    story.execute(acme, maria, "approvals.approve", approval)

    story.chapter("A worker dies between the commit and the answer; the client asks another one")
    small = {"payment_id": payment_id, "amount": 2_000}
    worker = get_context("spawn").Process(target=_refund_and_die, args=(place.url, "refund-3", small))
    worker.start()
    worker.join()
    story.line(f"[dim]the first worker is gone, exit code {worker.exitcode}, and its answer is lost[/]")
    retried = story.execute(acme, carla, "payments.refund", small, key="refund-3", reason="a voucher")
    outcomes = [entry.outcome for entry in _log(engine, acme, action="payments.refund")[:2]]
    story.line(f"[dim]on record, newest first: {', '.join(outcomes)}; refunded in all: {retried.unwrap().refunded}[/]")

    story.chapter("Another tenant sees nothing of it")
    story.execute(globex, maria, "payments.list", {})
    story.execute(globex, maria, "jobs.get", {"job_id": job_id})

    story.chapter("Bad input, and a handler that crashes halfway")
    story.execute(acme, carla, "customers.create", {"name": "", "email": "nowhere"})
    events = len(storage.read_events(acme))
    story.execute(acme, carla, "imports.run", {})
    left = len(storage.read_events(acme)) - events
    story.line(f"[dim]the traceback went to the log ({traces.lines[-1]})[/]")
    story.line(f"[dim]events of the failed handler: {left}; and the customers:[/]")
    story.execute(acme, carla, "customers.list", {})

    story.chapter("The host's own tables, and a plain connection that tries to write to them")
    story.past_the_engine(place, "UPDATE payments SET refunded = 0")
    story.past_the_engine(place, "DELETE FROM ae_action_log")
    story.line(f"[dim]{place.guard}[/]")
    if place.isolates_readers:
        story.past_the_engine(place, "SELECT count(*) FROM payments")
        story.line("[dim]row-level security: without a tenant there are no rows[/]")

    story.chapter("Who changed what, when and why: the action log")
    console.print(_log_table(engine, acme))
    story.chapter("The events to publish, in order")
    console.print(_event_table(storage, acme))
    tell_of_events(story, storage, acme)
    tell_of_changes(story, acme, job_id)
    tell_of_workflows(story, storage, acme, job_id, place.url, place.workflows_url)
    tell_of_agent(story, acme, place.url)


def _refund_and_die(url: str, key: str, refund: dict[str, Any]) -> None:
    """Refund, and exit before the answer: the work of a worker process that dies."""
    engine = create_engine(services=services, storage=open_storage(url))
    context = RequestContext(
        tenant=engine.resolve_tenant("acme").unwrap(),
        actor=Actor.human("carla"),
        source="demo",
        reason="a voucher",
        idempotency_key=key,
    )
    engine.execute_action("payments", "refund", refund, context).unwrap()
    os._exit(1)


def _log(engine: Engine, tenant: Tenant, **query: Any) -> list[Any]:
    """Print the story's rows of the action log, newest first."""
    auditor = RequestContext(tenant=tenant, actor=Actor.system("auditor"), source="audit")
    page = engine.execute_action("action_log", "list", {"limit": 200, **query}, auditor).unwrap()
    return [entry for entry in page.items if entry.source == "demo"]


def _log_table(engine: Engine, tenant: Tenant) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", expand=True, pad_edge=False)
    table.add_column("who", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    table.add_column("action, and why", ratio=1)
    for entry in reversed(_log(engine, tenant)):
        lines = [("↳ " if entry.parent_id else "") + entry.action]
        if why := entry.reason or (entry.error and entry.error["message"]):
            lines.append(f"[dim]{short_ids(why)}[/]")
        if entry.approved_by:
            lines.append(f"[dim]approved by {entry.approved_by}[/]")
        table.add_row(
            f"{entry.actor_type}:{entry.actor_id}",
            f"[{OUTCOME_COLOURS[entry.outcome]}]{entry.outcome}[/]",
            "\n".join(lines),
        )
    return table


def _event_table(storage: Storage, tenant: Tenant) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", expand=True, pad_edge=False)
    table.add_column("#", justify="right")
    table.add_column("type", no_wrap=True)
    table.add_column("subject", no_wrap=True)
    table.add_column("payload", no_wrap=True, overflow="ellipsis", ratio=1)
    for position, event in storage.read_events(tenant):
        if not event.type.startswith(SEEDED):
            subject, payload = short_ids(event.subject or ""), short_ids(event.payload.decode())
            table.add_row(str(position), event.type, subject, payload)
    return table


if __name__ == "__main__":
    main()
