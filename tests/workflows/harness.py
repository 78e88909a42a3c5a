"""The harness of workflows: an engine with their services and a host's, and an executor of runs without DBOS."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast
from uuid import uuid4

import pytest
from pydantic import BaseModel
from returns.result import Failure, Result, Success

from actionengine import (
    ActionContext,
    ActionError,
    Actor,
    ApprovalPolicy,
    Authorizer,
    ErrorCode,
    InMemoryStorage,
    Limits,
    Sensitive,
    Service,
    Storage,
    Tenant,
    create_action,
    create_service,
)
from actionengine.changes import change_control_services
from actionengine.durable.client import DurableClient, DurableExecution, Status
from actionengine.events.event import Event
from actionengine.events.publishers.port import PublishError
from actionengine.testing import Backend
from actionengine.testing.harness import AUDITOR
from actionengine.workflows import WorkflowPermissions, WorkflowPublisher, workflow_services
from actionengine.workflows.runtime.run_executor import RunExecutor
from actionengine.workflows.runtime.scheduler import Scheduler
from actionengine.workflows.runtime.step_actions import RolesOf
from tests.harness import Harness as BaseHarness
from tests.harness import expect, keep_document, remove_document, run_steps
from tests.storage.inside import data_of

ANN = Actor.human("ann", permissions=["host.approve"])
BOB = Actor.human("bob", permissions=["host.approve"])
EVE = Actor.human("eve", permissions=["host.approve"])

each_storage = pytest.mark.each_storage

Step = dict[str, Any]
Dump = Mapping[str, Sequence[Any]]
"""All rows of a tenant, by table."""

TABLES = ("ae_documents", "ae_idempotency_keys", "ae_events", "ae_outbox")
"""The tables that actions write, except the log."""

EVENT = {"type": "event", "event_type": "job.done"}
"""A trigger."""

SOON = {"attempts": 3, "seconds": 0.001}
"""A retry without a delay."""


ALWAYS = ApprovalPolicy(when=lambda data, ctx: True, permission="host.approve")


# The host


class Secret(BaseModel):
    """A result with a secret."""

    name: str
    token: Annotated[str, Sensitive()]


class WithSecret(BaseModel):
    """An input with a secret."""

    pin: Annotated[str, Sensitive()]


def _note(data: dict[str, Any], ctx: ActionContext) -> Result[Any, Any]:
    return Success({"id": ctx.records("notes").insert(data).id, **data})


def _echo(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    return Success(data)


def _who(data: Any, ctx: ActionContext) -> Result[Any, Any]:
    ctx.records("notes").insert({"by": str(ctx.actor), "reason": ctx.reason, "source": ctx.source})
    return Success({"by": str(ctx.actor), "reason": ctx.reason})


def _fail(data: dict[str, Any], ctx: ActionContext) -> Result[Any, Any]:
    ctx.records("notes").insert({"left": "behind"})
    message = json.loads(f'"{data["escaped"]}"') if "escaped" in data else "refused by the test"
    return Failure(ActionError(ErrorCode(data["code"]), message, {}))


def _escaped(data: dict[str, Any], ctx: ActionContext) -> Result[Any, Any]:
    return Success(json.loads(f'"{data["text"]}"'))


def _secret(data: dict[str, Any], ctx: ActionContext) -> Result[Secret, Any]:
    return Success(Secret(name=data["name"], token=data["name"] + "-hidden-token"))


def _with_secret(data: WithSecret, ctx: ActionContext) -> Result[Any, Any]:
    return Failure(ActionError(ErrorCode.UNPROCESSABLE, f"the pin {data.pin} is wrong", {}))


def _repeat_secret(data: WithSecret, ctx: ActionContext) -> Result[Any, Any]:
    return Success({"text": f"the pin {data.pin} is right"})


def _big(data: dict[str, Any], ctx: ActionContext) -> Result[Any, Any]:
    return Success({"text": "x" * data["bytes"]})


def _emit(data: dict[str, Any], ctx: ActionContext) -> Result[Any, Any]:
    ctx.emit(data["type"], data.get("payload"), subject=data.get("subject"))
    return Success(None)


def _read(data: dict[str, Any], ctx: ActionContext) -> Result[Any, Any]:
    records = ctx.records(data["type"])
    if "id" not in data:
        return Success([record.data for record in records.list(limit=1000)])
    record = records.get(data["id"])
    return Success(record and {"version": record.version, "data": record.data})


class Flaky:
    """An action that fails some times before it succeeds. Its calls are counted outside of the transaction."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def handle(self, data: dict[str, Any], ctx: ActionContext) -> Result[Any, Any]:
        self.calls[data["name"]] += 1
        if self.calls[data["name"]] <= data["times"]:
            return Failure(ActionError(ErrorCode(data["code"]), "not yet", {}))
        ctx.records("notes").insert({"name": data["name"]})
        return Success({"calls": self.calls[data["name"]]})


def host_service(flaky: Flaky) -> Service:
    """Return the actions of a host."""
    return create_service(
        name="host",
        description="The actions of a host",
        actions=[
            create_action(name="note", description="Insert a note", handler=_note),
            create_action(name="echo", description="Return the input", handler=_echo),
            create_action(name="who", description="Insert the actor", handler=_who),
            create_action(name="fail", description="Write a note, and fail", handler=_fail),
            create_action(name="escaped", description="Return any text", handler=_escaped),
            create_action(name="flaky", description="Fail at first", handler=flaky.handle),
            create_action(name="secret", description="Return a secret", handler=_secret),
            create_action(name="unlock", description="Fail with a secret", handler=_with_secret, validation=WithSecret),
            create_action(
                name="repeat_secret",
                description="Return a secret of the input",
                handler=_repeat_secret,
                validation=WithSecret,
            ),
            create_action(name="big", description="Return a long text", handler=_big),
            create_action(name="emit", description="Emit an event", handler=_emit),
            create_action(name="keep", description="Insert or update a document", handler=keep_document),
            create_action(name="remove", description="Delete a document", handler=remove_document),
            create_action(name="read", description="Read documents", handler=_read, read_only=True),
            create_action(name="run", description="Execute other actions", handler=run_steps),
            create_action(name="pay", description="Pay", handler=_note, permission="host.pay"),
            create_action(name="people", description="For people", handler=_echo, allowed_actors=("human",)),
            create_action(
                name="keep_approved",
                description="Insert or update a document after an approval",
                handler=keep_document,
                approval=ALWAYS,
            ),
            create_action(
                name="approved",
                description="Insert a note after an approval",
                handler=_note,
                approval=ALWAYS,
            ),
        ],
    )


def asks_twice() -> Service:
    """Return a service whose action `outer` asks for an approval, and executes one that asks for another."""
    outer = create_action(
        name="outer",
        description="Ask, and execute an action that asks again",
        handler=lambda data, ctx: ctx.execute("host", "approved", data),
        approval=ALWAYS,
    )
    return create_service(name="asking", description="Asks twice", actions=[outer])


# The durable engine


class Enqueued(NamedTuple):
    """An execution that was enqueued."""

    function: str
    arguments: tuple[Any, ...]
    id: str
    delay: float | None


class Scheduled(NamedTuple):
    """A schedule of the durable engine."""

    function: str
    cron: str
    timezone: str | None
    context: Any


class RecordingClient:
    """A `DurableClient` that records its calls."""

    def __init__(self) -> None:
        self.enqueued: list[Enqueued] = []
        self.schedules: dict[str, Scheduled] = {}
        self.statuses: dict[str, Status] = {}

    def enqueue(self, function: str, *arguments: Any, queue: str, id: str, delay: float | None = None) -> bool:
        if id in self.statuses:
            return False
        self.enqueued.append(Enqueued(function, arguments, id, delay))
        self.statuses[id] = "ENQUEUED" if delay is None else "DELAYED"
        return True

    def find(self, *ids: str) -> dict[str, DurableExecution]:
        return {id: DurableExecution(self.statuses[id], None, 0, 0, None) for id in ids if id in self.statuses}

    def forget(self, id: str) -> None:
        del self.statuses[id]

    def schedule(self, name: str, function: str, cron: str, *, timezone: str | None, context: Any, queue: str) -> None:
        self.schedules[name] = Scheduled(function, cron, timezone, context)

    def unschedule(self, name: str) -> None:
        self.schedules.pop(name, None)

    def close(self) -> None:
        """Nothing is open."""


class Harness(BaseHarness):
    """An engine with workflows. Each method returns the value, or the `ActionError`."""

    actor = ANN

    def __init__(
        self,
        backend: Backend,
        *,
        storage: Storage | None = None,
        permissions: WorkflowPermissions | None = None,
        authorizer: Authorizer | None = None,
        services: Iterable[Service] = (),
        roles: RolesOf | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.flaky = Flaky()
        workflows = workflow_services(permissions=permissions, open=permissions is None)
        given = [*workflows, *change_control_services(open=True), host_service(self.flaky), *services]
        super().__init__(backend, given, storage=storage, authorizer=authorizer, limits=limits)
        self.storage = storage or backend.storage
        self.client = RecordingClient()
        self.stopping = threading.Event()
        scheduler = Scheduler(cast("DurableClient", self.client))
        self.executor = RunExecutor(self.engine, backend.mode, scheduler, roles=roles, stopping=self.stopping)
        self._seen: dict[Any, int] = {}

    def another(self, **options: Any) -> Harness:
        """Return a harness with another engine on the same storage."""
        return Harness(self.backend, **options)

    # Actions

    async def define(self, *steps: Step, key: str | None = None, tenant: Tenant | None = None, **rest: Any) -> str:
        """Define and activate a workflow of these steps, and return its key."""
        key = key or f"w-{uuid4().hex[:12]}"
        payload = {"key": key, "definition": {"steps": list(steps), **rest}}
        expect(await self.ask("workflows.define", payload, tenant=tenant))
        expect(await self.ask("workflows.activate", {"key": key}, tenant=tenant))
        return key

    async def start(self, key: str, input: dict[str, Any] | None = None, **who: Any) -> str:
        """Start a run, and return its id."""
        id: str = expect(await self.ask("workflows.start", {"key": key, "input": input or {}}, **who)).id
        return id

    async def run(self, *steps: Step, input: dict[str, Any] | None = None, by: Actor = ANN, **rest: Any) -> Any:
        """Run these steps until they end or pause, and return the run."""
        return await self.drive(await self.start(await self.define(*steps, **rest), input, by=by))

    async def drive(self, run_id: str, tenant: Tenant | None = None) -> Any:
        """Execute a run until it ends or pauses, and return it."""
        run = await self.get(run_id, tenant)
        await self.executor.execute_run(tenant or self.tenant, run.workflow_key, run_id)
        return await self.get(run_id, tenant)

    async def go_on(self, tenant: Tenant | None = None) -> None:
        """Execute all runs that were started or resumed, until none is left."""
        tenant = tenant or self.tenant
        while events := await self.backend.read_events(tenant, after=self._seen.get(tenant.id, 0)):
            self._seen[tenant.id] = events[-1].position
            for each in events:
                event = each.event
                if event.type in ("workflows.started", "workflows.resumed"):
                    told = payload_of(event)
                    await self.executor.execute_run(tenant, told["workflow_key"], told["run_id"])

    async def decline(self, run: Any, tenant: Tenant | None = None) -> Any:
        """Decline the approval of a run, as the publisher does after a refusal."""
        tenant = tenant or self.tenant
        return await self.executor.actions.decline(tenant, run.workflow_key, run.approval_id)

    async def expire(self) -> None:
        """Fire the timers of all approvals."""
        for each in self.client.enqueued:
            id, slug, key, approval_id = each.arguments
            assert (id, slug) == (str(self.tenant.id), self.tenant.slug)
            await self.executor.expire(self.tenant, key, approval_id)

    async def approve(self, run: Any, by: Actor = BOB, **who: Any) -> Any:
        return await self.ask("approvals.approve", {"approval_id": run.approval_id}, by=by, **who)

    async def reject(self, run: Any, by: Actor = BOB, comment: str | None = None) -> Any:
        payload = {"approval_id": run.approval_id, "comment": comment}
        return await self.ask("approvals.reject", payload, by=by)

    async def resume(self, run: Any, **who: Any) -> Any:
        return await self.ask("workflows.resume", {"run_id": run.id}, **who)

    async def cancel(self, run: Any, **who: Any) -> Any:
        return await self.ask("workflows.cancel", {"run_id": run.id}, **who)

    async def keep(self, type: str, document: Any, id: str | None = None, version: int | None = None) -> Any:
        """Insert a document and return its id, or update it and return its version."""
        more = {name: value for name, value in (("id", id), ("version", version)) if value is not None}
        return await self.ask("host.keep", {"type": type, "document": document, **more})

    async def remove(self, type: str, id: str, version: int) -> Any:
        return await self.ask("host.remove", {"type": type, "id": id, "version": version})

    # Reads

    async def get(self, run_id: str, tenant: Tenant | None = None) -> Any:
        """Return a run."""
        return expect(await self.ask("workflows.get", {"run_id": run_id}, by=AUDITOR, tenant=tenant))

    async def read(self, type: str, id: str | None = None, tenant: Tenant | None = None) -> Any:
        """Return the documents of a collection, or one with its version."""
        payload = {"type": type} if id is None else {"type": type, "id": id}
        return expect(await self.ask("host.read", payload, by=AUDITOR, tenant=tenant))

    async def payloads(self, *types: str, tenant: Tenant | None = None) -> list[Any]:
        """Return the payloads of a tenant's events, oldest first."""
        return [payload_of(event) for event in await self.events(*types, tenant=tenant)]

    async def locks(self) -> list[str]:
        """Return the ids of the locks."""
        return await self.backend.ids("ae_record_locks")

    async def dump(self, tenant: Tenant | None = None) -> Dump:
        """Return all rows of a tenant, except the log."""
        tenant = tenant or self.tenant
        if isinstance(self.storage, InMemoryStorage):
            data = data_of(self.storage, tenant)
            collections = {
                name: sorted((id, version.document) for id, version in rows.items() if version.document is not None)
                for name, rows in data.collections.items()
            }
            empty = {name: rows for name, rows in collections.items() if rows}
            return {"ae_events": list(data.events), "ae_idempotency_keys": list(data.claims.items()), **empty}
        unit = cast("Any", self.storage.unit_of_work(tenant, "", self.backend.mode, read_only=True))
        try:
            return {table: await _rows_of(unit, table, tenant) for table in TABLES}
        finally:
            await unit.rollback()

    async def in_order(self) -> None:
        """Check that each step of each run has its position, its entry in the log and its event, once."""
        for summary in expect(await self.ask("workflows.list", {"limit": 1000}, by=AUDITOR)):
            await self.in_order_of(await self.get(summary.id))

    async def in_order_of(self, run: Any) -> None:
        """Check one run like `in_order`."""
        rows = {entry.id: entry for entry in await self.log(subject=f"workflow_run/{run.id}")}
        told = [each for each in await self.payloads("workflows.step_completed") if each["run_id"] == run.id]
        assert [step.position for step in run.steps] == list(range(run.position))
        assert [(each["position"], each["step"]) for each in told] == [(step.position, step.step) for step in run.steps]
        assert len({step.action_id for step in run.steps}) == len(run.steps)
        assert {rows[step.action_id].outcome for step in run.steps} <= {"succeeded"}


class Relay:
    """A relay that gives the events of a tenant to a publisher, one after the other."""

    def __init__(self, harness: Harness, path: Path) -> None:
        self.harness = harness
        self.client = RecordingClient()
        tenants = {tenant.id: tenant for tenant in (harness.backend.tenant, harness.backend.other_tenant)}
        self.publisher = WorkflowPublisher(harness.engine, path / "durable.sqlite", tenant_of=tenants.__getitem__)
        self.publisher._scheduler = Scheduler(cast("DurableClient", self.client))
        self._after = 0

    async def give(self, times: int = 1) -> dict[str, PublishError]:
        """Deliver each new event so many times, and return the failures by type."""
        failures: dict[str, PublishError] = {}
        while stored := await self.harness.backend.read_events(self.harness.tenant, after=self._after):
            for each in stored:
                for _ in range(times):
                    event = Event.of(each.position, each.event)
                    for failure in (await self.publisher.publish([event])).values():
                        failures[event.type] = failure
            self._after = stored[-1].position
        return failures

    async def go_on(self) -> None:
        """Deliver events and execute runs, until none is left."""
        done = 0
        while True:
            assert await self.give() == {}
            going = [each for each in self.client.enqueued if each.function == "actionengine.execute_run"]
            if len(going) == done:
                return
            for each in going[done:]:
                _, _, key, run_id = each.arguments
                await self.harness.executor.execute_run(self.harness.tenant, key, run_id)
            done = len(going)


async def emit(harness: Harness, payload: Any = None, type: str = "job.done", **who: Any) -> None:
    expect(await harness.ask("host.emit", {"type": type, "payload": payload, "subject": "job/1"}, **who))


async def runs_of(harness: Harness, key: str) -> list[Any]:
    """Return the runs of a workflow in the order of their start. Ids of one millisecond have no order."""
    found = expect(await harness.ask("workflows.list", {"key": key}, by=AUDITOR))
    return sorted(found, key=lambda run: run.created_at)


async def _rows_of(unit: Any, table: str, tenant: Tenant) -> list[str]:
    answer = unit.query(f"SELECT * FROM {table}", ())
    rows = await answer if hasattr(answer, "__await__") else answer
    return sorted(repr(row) for row in rows if str(tenant.id) in map(str, row))


# Values


def payload_of(event: Any) -> Any:
    """Return the payload of a stored event."""
    return json.loads(event.payload)


def statuses(run: Any) -> list[tuple[str, str]]:
    """Return the steps of a run with their statuses."""
    return [(step.step, step.status) for step in run.steps]


# Steps


def action(name: str, action: str, input: Any = None, **more: Any) -> Step:
    given = {} if input is None else {"input": input}
    return {"name": name, "type": "action", "action": action, "retry": SOON, **given, **more}


def note(name: str, **more: Any) -> Step:
    """Return a step that inserts a note."""
    return action(name, "host.note", {"step": name}, **more)


def failing_step(name: str, code: str = "unprocessable", **more: Any) -> Step:
    return action(name, "host.fail", {"code": code}, **more)


def approval(name: str, **more: Any) -> Step:
    return {"name": name, "type": "approval", "permission": "host.approve", "message": "May it be?", **more}


def decision(name: str, *branches: tuple[Any, str], otherwise: str = "end", **more: Any) -> Step:
    given = [{"when": when, "next": target} for when, target in branches]
    return {"name": name, "type": "decision", "branches": given, "otherwise": otherwise, **more}


def lock(name: str, id: str = "${input.id}", collection: str = "jobs", **more: Any) -> Step:
    return {"name": name, "type": "record_lock", "collection": collection, "id": id, "retry": SOON, **more}


def mutation(name: str, operation: str, collection: str = "jobs", **more: Any) -> Step:
    return {"name": name, "type": "record_mutation", "collection": collection, "operation": operation, **more}


def comparison(field: str, op: str, value: Any = ...) -> dict[str, Any]:
    return {"field": field, "op": op} | ({} if value is ... else {"value": value})


def fields(**types: str) -> dict[str, Any]:
    """Return an input of `name="type"`, or `name="type!"` for a required field."""
    declared = [
        {"name": name, "type": type.removesuffix("!"), "required": type.endswith("!")} for name, type in types.items()
    ]
    return {"fields": declared}
