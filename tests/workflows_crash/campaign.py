"""A campaign: two tenants' runs on one database, workers that are killed, and checks of the result."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from actionengine import Actor, RequestContext, Tenant
from actionengine.concurrency.run_sync import run_sync
from actionengine.durable.urls import durable_url
from actionengine.errors import ActionError
from actionengine.storage.errors import StorageUnavailable
from actionengine.storage.rows import LogQuery, LogRow, Record
from actionengine.testing.base import value_of
from actionengine.workflows.models import Run
from tests.crash.hosts import SQLDatabase
from tests.workflows_crash.business import BEGUN_BY_HAND, DEFINITIONS, DOCUMENTS, desk_engine, expected
from tests.workflows_crash.worker import Order
from tests.workflows_crash.workers import Worker, WorkerStarter

PAGE = 1000
PATIENCE = 90.0
"""Seconds in which a campaign has to make progress after the last kill."""

STEP_ACTIONS = (
    "workflow_steps.perform",
    "workflow_steps.fail_step",
    "workflow_steps.decline",
    "workflow_assignments.complete",
)


class Place(NamedTuple):
    """A database for the business, one for the durable engine, and a folder for the files of handlers."""

    sql_database: SQLDatabase
    durable_url: str
    folder: Path


class Tally(NamedTuple):
    """The size of a campaign."""

    runs: int
    steps: int
    seconds: float


class Campaign:
    """The runs of two tenants on one database."""

    def __init__(self, place: Place, starter: WorkerStarter, seed: object) -> None:
        self.dice = random.Random(repr(seed))
        self.place = place
        self._starter = starter
        self._storage = place.sql_database.storage()
        self._engine = desk_engine(self._storage, place.folder)
        self._begun = time.monotonic()
        self.tenants = [
            self._storage.create_tenant(slug=f"{name}-{uuid4().hex}", name=name) for name in ("acme", "globex")
        ]
        self._started: dict[str, str] = {}
        self._expected_runs = 0
        self._workers: list[Worker] = []
        for tenant in self.tenants:
            self._open_for(tenant)

    def close(self) -> None:
        for worker in self._workers:
            worker.discard()
        self._storage.close()

    # Runs and workers

    def start_runs(
        self, count: int, keys: Sequence[str] = BEGUN_BY_HAND, tenants: Sequence[Tenant] | None = None
    ) -> None:
        """Start so many runs for each tenant, of these workflows in turn."""
        for number in range(count):
            key = keys[(len(self._started) // 2 + number) % len(keys)]
            for tenant in tenants or self.tenants:
                input = {
                    "whose": tenant.slug,
                    "number": self.dice.randint(0, 3),
                    "approve": self.dice.random() < 0.5,
                    "document": str(self.dice.randrange(DOCUMENTS)),
                }
                run = self.ask(tenant, "workflows", "start", {"key": key, "input": input})
                self._started[run.id] = key
                # A parent starts a child, and a bell an echo.
                self._expected_runs += 2 if key in ("parent", "ringing") else 1

    def worker(self, point: str | None = None, number: int = 1, **how: Any) -> Worker:
        """Start a worker that dies when it reaches a point `number` times. `how` are fields of its order."""
        tenants = [[str(tenant.id), tenant.slug] for tenant in self.tenants]
        order = Order(
            self.place.sql_database.url,
            self.place.durable_url,
            str(self.place.folder),
            tenants,
            point=point,
            number=number,
        )
        self._workers.append(self._starter.start(order._replace(**how)))
        return self._workers[-1]

    def wait_for_the_end(self) -> None:
        """Wait until all runs have ended, all events are delivered, and the durable engine is idle, as long as there is
        progress."""
        while True:
            before = self._progress()
            try:
                return self.wait_until(self._is_over, PATIENCE)
            except AssertionError:
                if self._progress() == before:
                    raise

    def _progress(self) -> object:
        try:
            steps = sum(len(self.documents(tenant, "ae_workflow_steps")) for tenant in self.tenants)
            return steps, self.statuses(), self._undelivered()
        except (StorageUnavailable, ActionError):
            return None

    def wait_until(self, condition: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Wait until a condition holds."""
        deadline = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < deadline, f"the condition did not hold within {patience} s: {self._state()}"
            # The condition may read all runs.
            time.sleep(0.2)

    def ask(self, tenant: Tenant, service: str, action: str, payload: Any, actor: str = "ann") -> Any:
        context = RequestContext(tenant, Actor.human(actor))
        return value_of(self._engine.execute_action(service, action, payload, context))

    def statuses(self) -> Counter[str]:
        """Return the number of runs of each status."""
        runs = (run for tenant in self.tenants for run in self.documents(tenant, "ae_workflow_runs"))
        return Counter(run.data["status"] for run in runs)

    def documents(self, tenant: Tenant, collection: str) -> list[Record]:
        found: list[Record] = []
        unit = self._storage.unit_of_work(tenant, "", "sync", read_only=True)
        try:
            while True:
                after = found[-1].id if found else None
                page = run_sync(unit.records(collection).list(limit=PAGE, after=after))
                found += page
                if len(page) < PAGE:
                    return found
        finally:
            run_sync(unit.rollback())

    # Checks

    def check(self) -> Tally:
        """Check that everything is as without kills."""
        steps = sum(self._check_tenant(tenant) for tenant in self.tenants)
        lost = {id: status for id, status in self.durable().items() if status in ("PENDING", "ENQUEUED", "ERROR")}
        assert lost == {}
        return Tally(self._expected_runs, steps, time.monotonic() - self._begun)

    def durable(self) -> Mapping[str, str]:
        """Return the status of each execution of the durable engine."""
        url = durable_url(self.place.durable_url)
        table = "workflow_status" if url.get_backend_name() == "sqlite" else "dbos.workflow_status"
        engine = create_engine(url)
        try:
            with engine.connect() as connection:
                rows = connection.execute(text(f"SELECT workflow_uuid, status FROM {table}")).all()
        finally:
            engine.dispose()
        return {id: status for id, status in rows if not id.startswith("sched")}

    def _open_for(self, tenant: Tenant) -> None:
        self.ask(tenant, "desk", "open", {"whose": tenant.slug})
        for key, definition in DEFINITIONS.items():
            self.ask(tenant, "workflows", "define", {"key": key, "definition": definition})
            self.ask(tenant, "workflows", "activate", {"key": key})

    def _is_over(self) -> bool:
        try:
            statuses = self.statuses()
            if statuses.total() < self._expected_runs or statuses["running"] or statuses["paused"]:
                return False
            if not {"PENDING", "ENQUEUED"}.isdisjoint(self.durable().values()):
                return False
            return self._undelivered() == 0
        except (StorageUnavailable, SQLAlchemyError, ActionError):
            return False

    def _undelivered(self) -> int:
        unit = self._storage.unit_of_work(self.tenants[0], "", "sync", read_only=True)
        try:
            rows = unit.query("SELECT tenant_id FROM ae_outbox", ())
        finally:
            run_sync(unit.rollback())
        ours = {str(tenant.id) for tenant in self.tenants}
        return sum(str(id) in ours for (id,) in rows)

    def _state(self) -> str:
        """Return the state of a campaign that does not end."""
        going = {
            run.id: (run.data["workflow_key"], run.data["status"], run.data["step"], run.data["position"])
            for tenant in self.tenants
            for run in self.documents(tenant, "ae_workflow_runs")
            if run.data["ended_at"] is None
        }
        try:
            durable = self.durable()
        except SQLAlchemyError as error:
            durable = {"error": str(error)}
        kept = {id: status for id, status in durable.items() if id.split("/")[0] in going or status == "ERROR"}
        waiting = Counter(durable.values())
        return (
            f"{self.statuses()} of {self._expected_runs} runs, undelivered: {self._undelivered()}, durable: {waiting}\n"
            f"going on: {going}\ntheir executions: {kept}\nthe workers said: {self._starter.errors()}"
        )

    def _check_tenant(self, tenant: Tenant) -> int:
        """Check a tenant, and return the number of steps of its runs."""
        records = self.documents(tenant, "ae_workflow_runs")
        runs: list[Run] = [self.ask(tenant, "workflows", "get", {"run_id": record.id}) for record in records]
        for run in runs:
            how = expected(run.workflow_key, run.input)
            assert (run.id, run.status) == (run.id, how.status), run
            assert [(step.step, step.status) for step in run.steps] == how.steps, run
            assert [step.position for step in run.steps] == list(range(len(how.steps))), run
        self._check_starts(tenant, runs)
        self._check_effects(tenant, runs)
        self._check_log(tenant, runs)
        self._check_events(tenant, runs)
        assert self.documents(tenant, "ae_record_locks") == []
        self._check_nothing_crosses(tenant)
        return sum(len(run.steps) for run in runs)

    def _check_starts(self, tenant: Tenant, runs: Sequence[Run]) -> None:
        """Check that each requested run exists, and once the other run of each parent and each bell."""
        ids = {run.id for run in runs}
        by_hand = {run.id for run in runs if run.workflow_key not in ("child", "echo")}
        assert by_hand == {id for id in self._started if id in ids}
        for key, other, link in (("parent", "child", "parent"), ("ringing", "echo", "rung_by")):
            causes = Counter(run.id for run in runs if run.workflow_key == key)
            assert Counter(run.input[link] for run in runs if run.workflow_key == other) == causes

    def _check_effects(self, tenant: Tenant, runs: Sequence[Run]) -> None:
        """Check that each run has each effect once, in order, and that there are no others."""
        wanted = {run.id: list(expected(run.workflow_key, run.input).effects) for run in runs}
        written = Counter((each.data["run"], each.data["step"]) for each in self.documents(tenant, "effects"))
        assert written == Counter((id, step) for id, steps in wanted.items() for step in steps)
        journals = {each.id: each.data["steps"] for each in self.documents(tenant, "journals")}
        assert journals == wanted
        papers = {each.id: each.data["state"] for each in self.documents(tenant, "papers")}
        plain = [run.id for run in runs if run.workflow_key == "plain"]
        assert papers == dict.fromkeys(plain, "closed")
        assignments = self.documents(tenant, "workflow_assignments")
        assert Counter(each.data["run_id"] for each in assignments if each.data["status"] == "open") == Counter(plain)
        completed = Counter(each.data["run_id"] for each in assignments if each.data["status"] == "completed")
        assert completed == Counter(run.id for run in runs if run.workflow_key == "asked")
        counted = Counter(id for each in self.documents(tenant, "documents") for id in each.data["runs"])
        assert counted == Counter(run.id for run in runs if run.workflow_key in ("locking", "releasing"))

    def _check_log(self, tenant: Tenant, runs: Sequence[Run]) -> None:
        """Check that each step has its own successful execution, and that no key succeeded twice."""
        done = {row.id: row for row in self.log(tenant) if row.outcome == "succeeded" and row.action in STEP_ACTIONS}
        keys = Counter((row.action, row.idempotency_key) for row in done.values() if row.idempotency_key is not None)
        assert [key for key, count in keys.items() if count != 1] == []
        taken = Counter(step.action_id for run in runs for step in run.steps)
        assert set(taken.values()) <= {1}
        assert set(taken) <= set(done)
        for run in runs:
            for step in run.steps:
                row = done[step.action_id]
                assert row.actor_id in (run.workflow_key, "boss"), row
                assert row.idempotency_key in (f"{run.id}/{step.position}", None), row

    def _check_events(self, tenant: Tenant, runs: Sequence[Run]) -> None:
        """Check that each step has one event, in order, and each run one of its start and one of its end."""
        told: dict[str, list[int]] = {run.id: [] for run in runs}
        marks: Counter[tuple[str, str]] = Counter()
        types = ["workflows.started", "workflows.step_completed", "workflows.ended"]
        for payload, type in self._events(tenant, types):
            if type == "workflows.step_completed":
                told[payload["run_id"]].append(payload["position"])
            else:
                marks[type, payload["run_id"]] += 1
        assert told == {run.id: list(range(len(run.steps))) for run in runs}
        assert marks == Counter((type, run.id) for run in runs for type in ("workflows.started", "workflows.ended"))

    def _check_nothing_crosses(self, tenant: Tenant) -> None:
        """Check that a tenant sees nothing of the other one."""
        (other,) = (each for each in self.tenants if each is not tenant)
        seen: list[object] = list(self.log(tenant))
        collections = ("runs", "steps", "heads")
        names = ["effects", "journals", "papers", "documents", "workflow_assignments", "ae_workflows", "ae_approvals"]
        for name in [*names, *(f"ae_workflow_{each}" for each in collections)]:
            seen += self.documents(tenant, name)
        seen += self._events(tenant, None)
        text = repr(seen)
        assert tenant.slug in text
        assert other.slug not in text
        others_runs = {run.id for run in self.documents(other, "ae_workflow_runs")}
        assert [id for id in others_runs if id in text] == []
        for id in sorted(others_runs)[:3]:
            refused = self._engine.execute_action(
                "workflows", "get", {"run_id": id}, RequestContext(tenant, Actor.system())
            )
            assert refused.failure().code == "not_found"

    def log(self, tenant: Tenant) -> list[LogRow]:
        """Return the whole action log."""
        rows: list[LogRow] = []
        unit = self._storage.unit_of_work(tenant, "", "sync", read_only=True)
        try:
            while True:
                page = run_sync(unit.read_log(LogQuery(before=rows[-1].id if rows else None, limit=PAGE)))
                rows += page
                if len(page) < PAGE:
                    return rows
        finally:
            run_sync(unit.rollback())

    def _events(self, tenant: Tenant, types: Sequence[str] | None) -> list[tuple[Any, str]]:
        """Return payloads and types in order."""
        found: list[Any] = []
        while True:
            after = found[-1].position if found else 0
            page = self._storage.read_events(tenant, types=types, after=after, limit=PAGE)
            found += page
            if len(page) < PAGE:
                return [(json.loads(stored.event.payload), stored.event.type) for stored in found]
