"""A host with two tenants, and its command line as an operator uses it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import pytest
from returns.result import Result, Success

from actionengine import (
    ActionContext,
    ActionError,
    Actor,
    ApprovalPolicy,
    Budget,
    CallbackPublisher,
    Engine,
    Event,
    PostgresStorage,
    PublishError,
    Relay,
    RequestContext,
    SQLiteStorage,
    Tenant,
    create_action,
    create_engine,
    create_service,
)
from actionengine.changes import change_control_services
from actionengine.workflows import workflow_services
from tests.command_line import run_command

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
AGE = re.compile(r"\d+ (?:ms|s) ago")
TOOK = re.compile(r"\d+ (?:ms|s)\b")

BOT = Actor.ai("bot", permissions=["*"])
ADA = Actor.human("ada", permissions=["*"])


def refund(data: dict[str, Any], ctx: ActionContext) -> Result[Any, ActionError]:
    """Keep a refund."""
    ctx.records("refunds").insert({"amount": data["amount"]}, id=data.get("id"))
    ctx.emit("payments.refunded", {"amount": data["amount"]}, subject="payments/1")
    return Success({"refunded": data["amount"]})


async def refund_async(data: dict[str, Any], ctx: ActionContext) -> Result[Any, ActionError]:
    """Keep a refund, under an event loop."""
    await ctx.async_records("refunds").insert({"amount": data["amount"]}, id=data.get("id"))
    return Success({"refunded": data["amount"]})


def book(data: dict[str, Any], ctx: ActionContext) -> Result[Any, ActionError]:
    """Emit an event about a job."""
    ctx.emit("jobs.booked", data, subject=f"jobs/{data['job']}")
    return Success(None)


def make_host(storage: SQLiteStorage | PostgresStorage, is_async: bool = False) -> Engine:
    """Return the engine of a host on a storage."""
    approval = ApprovalPolicy(when=lambda data, ctx: True, permission="payments.approve")
    actions = [
        create_action(name="refund", description="", handler=refund_async if is_async else refund, approval=approval),
        create_action(name="book", description="", handler=book),
    ]
    payments = create_service(name="payments", description="", actions=actions)
    return create_engine(
        services=[payments, *workflow_services(), *change_control_services()],
        storage=storage,
        budgets=[Budget("bookings", actions="payments.book", limit=5, window=timedelta(hours=1), per="actor")],
    )


class Desk:
    """A host with the tenants `acme` and `globex`, and commands by an operator on its database."""

    def __init__(self, storage: SQLiteStorage | PostgresStorage, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.storage = storage
        self.url = url
        self.engine = make_host(storage)
        self.acme = storage.create_tenant(slug="acme", name="Acme")
        self.globex = storage.create_tenant(slug="globex", name="Globex")
        self._monkeypatch = monkeypatch
        self.serve(self.engine)

    def serve(self, engine: Any) -> None:
        """Make an engine importable as `cli_host:engine`."""
        self._monkeypatch.setitem(sys.modules, "cli_host", SimpleNamespace(engine=engine))

    def execute(self, name: str, payload: Any, by: Actor = ADA, tenant: Tenant | None = None, **options: Any) -> Any:
        """Execute an action of the host."""
        context = RequestContext(tenant or self.acme, by, **options)
        service, _, action = name.partition(".")
        return self.engine.execute_action(service, action, payload, context)

    def ask_for_refund(self, amount: int = 7, tenant: Tenant | None = None, **options: Any) -> str:
        """Ask for a refund as the bot. Return the id of the approval."""
        error = self.execute("payments.refund", {"amount": amount}, BOT, tenant, **options).failure()
        return str(error.details["approval_id"])

    def bury(self, job: str, reason: str = "nobody wants this", tenant: Tenant | None = None) -> str:
        """Turn the event of a booking into a dead letter. Return its id."""
        self.execute("payments.book", {"job": job}, tenant=tenant).unwrap()

        def refuse(event: Event) -> None:
            raise PublishError(reason, retry=False)

        known = {letter.event.id for letter in Relay(self.storage, CallbackPublisher(refuse)).dead_letters()}
        relay = Relay(self.storage, CallbackPublisher(refuse), queues=["events"])
        relay.drain()
        (id,) = {letter.event.id for letter in relay.dead_letters() if letter.event.subject == f"jobs/{job}"} - known
        return id

    def run(self, *arguments: str, **environment: str) -> CompletedProcess[str]:
        """Run a command of `human:olga` on the database, at 80 columns."""
        actor = {"ACTIONENGINE_ACTOR": "human:olga", "COLUMNS": "80", "ACTIONENGINE_URL": self.url}
        return run_command(*arguments, **{**actor, **environment})

    def json(self, *arguments: str, **environment: str) -> Any:
        """Return the JSON document of a command that succeeds."""
        done = self.run(*arguments, "--json", **environment)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return json.loads(done.stdout)

    def log(self, tenant: Tenant | None = None, **query: Any) -> list[Any]:
        """Return the executions of a tenant by the command line, the oldest first."""
        page = self.execute("action_log.list", {"limit": 1000, **query}, Actor.system("auditor"), tenant).unwrap()
        return [entry for entry in reversed(page.items) if entry.source == "cli"]


def is_readable(text: str, columns: int = 80) -> bool:
    """Return whether each line fits, and has no character that controls a terminal."""
    return all(len(line) <= columns and line.isprintable() for line in text.splitlines())


def golden(text: str) -> str:
    """Return an output in which ids, times and ages are the same each time, and as long."""
    same = UUID.sub("00000000-0000-0000-0000-000000000000", text)
    same = TIME.sub("2026-01-31T12:00:00Z", same)
    same = AGE.sub("1 s ago", same)
    return TOOK.sub("1 s", same)


def ids_of(document: Any) -> Sequence[str]:
    """Return the ids of a listing."""
    return [each["id"] for each in document["items"]]


def sqlite_url(folder: Path) -> str:
    """Return the URL of a database in a folder."""
    return f"sqlite:///{folder / 'host.db'}"
