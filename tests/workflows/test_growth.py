"""The cost of workflows does not grow with earlier runs or with other triggers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import psycopg
import pytest
from examples.embedded_postgres import Database
from uuid_utils import uuid7

from actionengine import PostgresStorage, create_engine
from actionengine.events.event import Event
from actionengine.storage.clock import sortable
from actionengine.storage.records import RUNS
from actionengine.workflows import WorkflowPublisher, workflow_services
from actionengine.workflows.models import Purged
from actionengine.workflows.runs.step_handlers import ASSIGNMENTS
from actionengine.workflows.runs.store import ENDS, TRIGGERS, derived_run_id
from actionengine.workflows.runtime.scheduler import Scheduler
from actionengine.workflows.services import purge as purging
from tests.backends import AnyStorage
from tests.growth import Office, costs_the_same, count, fill

if TYPE_CHECKING:
    from actionengine.durable.client import DurableClient

STEPS = {"steps": [{"name": "a", "type": "assignment", "assignee": "ann", "title": "look", "wait": True}]}
EVENT = {"type": "event", "event_type": "job.done"}


class Works(Office):
    """A tenant with two workflows: `old`, and `new` with a run that waits."""

    def __init__(self, storage: AnyStorage) -> None:
        super().__init__(storage)
        self.engine = create_engine(services=workflow_services(), storage=storage)
        for key in ("old", "new"):
            self.define(key)
        self.run = self.start("new")

    def define(self, key: str, **more: Any) -> int:
        version: int = self.do("workflows.define", {"key": key, "definition": {**STEPS, **more}}).unwrap().version
        self.do("workflows.activate", {"key": key, "version": version}).unwrap()
        return version

    def start(self, key: str) -> str:
        return str(self.do("workflows.start", {"key": key}).unwrap().id)


def ended_runs(works: Works, number: int, began: timedelta = timedelta()) -> None:
    """Add ended runs of the other workflow, before the run that waits and after it."""
    (newest,) = works.records(RUNS, 1)
    now = datetime.now(UTC)
    old = {"workflow_key": "old", "status": "succeeded", "step": None, "ended_at": now.isoformat()}
    ids = [derived_run_id(now - began, str(each)) for each in range(number)]
    fill(works.storage, works.tenant, RUNS, [(id, {**newest.data, **old}) for id in ids])
    fill(works.storage, works.tenant, ENDS, [(f"{sortable(now)}/{id}", {}) for id in ids])
    works.run = works.start("new")


def long_runs(works: Works, number: int) -> None:
    """Add runs that began an hour ago, and have just ended."""
    ended_runs(works, number, timedelta(hours=1))


def done_assignments(works: Works, number: int) -> None:
    document = {
        "assignee": "bob",
        "title": "x",
        "details": {},
        "run_id": "r",
        "workflow_key": "old",
        "step": "a",
        "status": "completed",
    }
    fill(works.storage, works.tenant, ASSIGNMENTS, [(None, document)] * number)
    fill(works.storage, works.tenant, ASSIGNMENTS, [(None, {**document, "assignee": "ann", "status": "open"})])


def other_triggers(works: Works, number: int) -> None:
    """Add triggers of the other workflow, and one of this one."""
    works.do("triggers.create", {"key": "old", "trigger": {**EVENT, "event_type": "job.begun"}}).unwrap()
    (newest,) = works.records(TRIGGERS, 1)
    fill(works.storage, works.tenant, TRIGGERS, [(str(uuid7()), newest.data) for _ in range(number)])
    works.do("triggers.create", {"key": "new", "trigger": EVENT}).unwrap()


def grows(storage: AnyStorage, past: Callable[[Works, int], None], operation: Callable[[Works], object]) -> None:
    costs_the_same(storage, past, operation, Works)


@pytest.mark.parametrize(
    "asked",
    [
        {"status": "running"},
        {"status": "paused"},
        {"status": "failed", "newest_first": True},
        {"key": "new"},
        {"key": "new", "status": "running", "newest_first": True},
        {"key": "old", "status": "running"},
        {"limit": 3},
    ],
    ids=str,
)
def test_a_list_of_runs_does_not_read_those_that_have_ended(growing_storage: AnyStorage, asked: dict[str, Any]) -> None:
    grows(growing_storage, ended_runs, lambda works: works.do("workflows.list", asked).unwrap())


def test_a_run_costs_no_more_after_many(growing_storage: AnyStorage) -> None:
    def cancel(works: Works) -> None:
        works.do("workflows.cancel", {"run_id": works.start("new")}).unwrap()

    grows(growing_storage, ended_runs, cancel)


@pytest.mark.parametrize("past", [ended_runs, long_runs], ids=["began later", "began earlier"])
def test_a_purge_does_not_read_runs_that_ended_later(
    growing_storage: AnyStorage, past: Callable[[Works, int], None]
) -> None:
    asked = {"ended_before": (datetime.now(UTC) - timedelta(minutes=1)).isoformat(), "limit": 5}
    grows(growing_storage, past, lambda works: works.do("workflows.purge", asked).unwrap())


def test_a_purge_reads_as_many_runs_as_it_removes(growing_storage: AnyStorage) -> None:
    def purge(works: Works) -> None:
        asked = {"ended_before": datetime.now(UTC).isoformat(), "limit": 5}
        assert works.do("workflows.purge", asked).unwrap().has_more

    grows(growing_storage, ended_runs, purge)


def test_a_purge_skips_removed_ends_while_a_snapshot_is_held(postgres_database: Database) -> None:
    with PostgresStorage(postgres_database.app_url, pool_size=1, max_overflow=0) as storage:
        works = Works(storage)
        ended_runs(works, 600)

        def purge(limit: int) -> None:
            asked = {"ended_before": datetime.now(UTC).isoformat(), "limit": limit}
            assert works.do("workflows.purge", asked).unwrap().runs == limit

        with psycopg.connect(postgres_database.owner_url) as held:
            held.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            held.execute("SELECT 1")
            purge(5)
            few = count(storage, works.tenant, lambda: purge(5))
            purge(500)
            many = count(storage, works.tenant, lambda: purge(5))

    assert all(many[plan] <= 1.5 * few[plan] for plan in few), (few, many)


def test_a_purge_begins_with_the_first_run_again_after_a_while(
    growing_storage: AnyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = Works(growing_storage)
    ended_runs(works, 3)
    purge = partial(works.do, "workflows.purge", {"ended_before": datetime.now(UTC).isoformat(), "limit": 2})
    monkeypatch.setattr(purging, "_FULL_SCAN_INTERVAL", -1.0)
    assert purge().unwrap() == Purged(runs=2, has_more=True)
    # The end of this run commits late.
    late = derived_run_id(datetime.now(UTC), "late")
    fill(growing_storage, works.tenant, ENDS, [(f"{sortable(datetime.now(UTC) - timedelta(hours=1))}/{late}", {})])
    (run,) = works.records(RUNS, 1)
    fill(growing_storage, works.tenant, RUNS, [(late, run.data)])

    assert purge().unwrap() == Purged(runs=2, has_more=False)


class NothingUnderWay:
    """A durable engine that has lost everything, and accepts all calls."""

    def find(self, *ids: str) -> dict[str, Any]:
        return {}

    def enqueue(self, *arguments: Any, **options: Any) -> bool:
        return True

    def schedule(self, *arguments: Any, **options: Any) -> None:
        pass


@pytest.mark.parametrize("past", [ended_runs, other_triggers], ids=["ended runs", "triggers"])
def test_a_restore_reads_what_waits(growing_storage: AnyStorage, past: Callable[[Works, int], None]) -> None:
    agenda = Scheduler(cast("DurableClient", NothingUnderWay()))
    grows(growing_storage, past, lambda works: agenda.restore(works.storage, works.tenant))


@pytest.mark.parametrize(
    "asked",
    [
        {"assignee": "ann"},
        {"status": "open"},
        {"assignee": "ann", "status": "open"},
        {"assignee": "bob", "status": "open"},
        {"key": "new"},
        {"key": "new", "status": "completed"},
        {"key": "old", "assignee": "ann"},
        {"key": "old", "assignee": "ann", "status": "open", "newest_first": True},
        {"run_id": "none"},
        {"run_id": "none", "status": "open"},
        {"run_id": "r", "assignee": "ann", "status": "completed"},
        {"run_id": "r", "status": "cancelled"},
        {"run_id": "r", "key": "new"},
    ],
    ids=str,
)
def test_a_list_of_assignments_does_not_read_those_of_others(
    growing_storage: AnyStorage, asked: dict[str, Any]
) -> None:
    grows(growing_storage, done_assignments, lambda works: works.do("workflow_assignments.list", asked).unwrap())


@pytest.mark.parametrize(
    "operation",
    [
        lambda works: works.do("triggers.list", {"key": "new"}).unwrap(),
        lambda works: works.do("triggers.create", {"key": "new", "trigger": EVENT}).unwrap(),
        lambda works: works.define("new", trigger=EVENT),
    ],
    ids=["list", "create", "activate"],
)
def test_a_trigger_costs_no_more_among_those_of_others(
    growing_storage: AnyStorage, operation: Callable[[Works], object]
) -> None:
    grows(growing_storage, other_triggers, operation)


@pytest.mark.parametrize("growing_storage", ["memory"], indirect=True)
def test_an_event_costs_as_much_as_the_triggers_that_wait_for_it(growing_storage: AnyStorage, tmp_path: Any) -> None:
    def deliver(works: Works) -> None:
        async def publish() -> None:
            publisher = WorkflowPublisher(
                works.engine, tmp_path / "durable.sqlite", tenant_of=lambda tenant_id: works.tenant
            )
            stored = growing_storage.read_events(works.tenant, types=["workflows.started"], limit=1)
            event = Event.of(stored[0].position, stored[0].event)._replace(type="job.gone")
            assert await publisher.publish([event]) == {}

        asyncio.run(publish())

    grows(growing_storage, other_triggers, deliver)
