"""Concurrent merges of changes of the same record types: each is applied wholly, and once."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from examples.embedded_postgres import Database
from returns.result import Result, Success

from actionengine import ActionError, ErrorCode, SQLiteStorage, Tenant
from actionengine.concurrency.run_sync import Mode
from actionengine.storage.postgres.unit_of_work import PostgresUnitOfWork
from actionengine.storage.sql.storage import SQLStorage
from actionengine.storage.sqlite.unit_of_work import SQLiteUnitOfWork
from tests.backends import BACKENDS, open_storage
from tests.changes.mergers import Job, Mergers
from tests.changes.sync_harness import SyncHarness, run_tasks
from tests.crash.hosts import Journal, SQLDatabase

MANY = 32
ROUNDS = 6
SHARED = ("asset", "machine", "crane", "vehicle")
OPTIONAL = {"type": "string", "required": False}
REQUIRED = {"type": "string", "required": True}

Answer = Result[Any, ActionError]


class MeddledPostgresUnitOfWork(PostgresUnitOfWork):
    """A unit of work that calls `meddle` before each of its statements."""

    meddle: Callable[[], object]

    def execute(self, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        self.meddle()
        return super().execute(statement, parameters)


class MeddledSQLiteUnitOfWork(SQLiteUnitOfWork):
    """The same unit of work on SQLite."""

    meddle: Callable[[], object]

    def execute(self, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        self.meddle()
        return super().execute(statement, parameters)


@pytest.fixture(params=BACKENDS)
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SyncHarness]:
    database: Database = request.getfixturevalue("postgres_database")
    with open_storage(request.param, tmp_path, database) as storage:
        yield SyncHarness(storage)


def test_threads_merge_changes_of_one_type_and_lose_none(harness: SyncHarness) -> None:
    project, changes = shared_project(harness, MANY)

    answers = at_once(*(merging(harness, change) for change in changes))

    assert [answer for answer in answers if not isinstance(answer, Success)] == []
    check_each_is_there_once(harness, project, changes)


def test_tasks_merge_changes_of_one_type_and_lose_none(harness: SyncHarness) -> None:
    project, changes = shared_project(harness, MANY)

    answers = run_tasks(harness, *(("changes.merge", {"change_id": change}) for change in changes))

    assert [answer for answer in answers if not isinstance(answer, Success)] == []
    check_each_is_there_once(harness, project, changes)


def test_processes_merge_the_same_changes_once_each(sql_database: SQLDatabase, mergers: Mergers) -> None:
    with sql_database.storage() as storage:
        harness = SyncHarness(storage)
        project, changes = shared_project(harness, MANY // 2)
        dice = random.Random(1)
        jobs = [
            Job(
                sql_database.url,
                str(harness.tenant.id),
                harness.tenant.slug,
                dice.sample(changes, len(changes)),
                str(mergers.journal_path()),
            )
            for _ in range(3)
        ]

        mergers.start(*jobs)

        assert mergers.ends() == [0] * len(jobs)
        for job in jobs:
            journal = Journal.read(Path(job.journal))
            assert journal.failed == {}
            assert journal.acknowledged == dict.fromkeys(changes, len(SHARED))
        check_each_is_there_once(harness, project, changes)


def test_concurrent_changes_of_base_and_derived_types_are_sound(harness: SyncHarness) -> None:
    for number in range(ROUNDS):
        project = harness.project()
        harness.record_type(project, "base", [{"name": "code", **OPTIONAL}])
        harness.record_type(project, "between", [{"name": "size", **OPTIONAL}], "base")
        harness.record_type(project, "strict", [{"name": "code", **REQUIRED}], "between")
        harness.record_type(project, "plain", [], "between")
        requiring = harness.draft(project, on("base", "set_field", definition=REQUIRED))
        weakening = harness.draft(project, on("strict", "set_field", definition=OPTIONAL))
        overriding = harness.draft(project, on("plain", "add_field", definition=OPTIONAL, override=True))

        opponents = (
            merging(harness, weakening),
            merging(harness, overriding),
            creating(harness, project, "new", "between", {"name": "code", **OPTIONAL}),
        )

        answers = at_once(merging(harness, requiring), *(opponents if number % 2 else opponents[number // 2 % 3 :][:1]))

        requires, *others = (isinstance(answer, Success) for answer in answers)
        assert all(is_one_of(answer, ErrorCode.UNPROCESSABLE) for answer in answers), answers
        assert requires != any(others), answers
        own = {
            (key, field["name"]): field["required"]
            for key, fields in harness.schemas(project).items()
            for field in fields
        }
        assert own["base", "code"] is requires
        assert not requires or all(required for (_, name), required in own.items() if name == "code")
        harness.check_history(project)


def test_concurrent_merges_and_executions_apply_once(harness: SyncHarness) -> None:
    for _ in range(ROUNDS):
        project, (change,) = shared_project(harness, 1)

        answers = at_once(*[merging(harness, change)] * 6, *[executing(harness, change)] * 2)

        assert all(isinstance(answer, Success) for answer in answers[:6]), answers
        # A merged change cannot be executed.
        assert all(is_one_of(answer, ErrorCode.CONFLICT) for answer in answers[6:]), answers
        counts = Counter(answer.unwrap().applied_count for answer in answers if isinstance(answer, Success))
        assert counts[len(SHARED)] == 1
        assert set(counts) <= {0, len(SHARED)}
        check_each_is_there_once(harness, project, [change])


def test_an_op_that_is_added_during_a_merge_is_merged_or_refused(harness: SyncHarness) -> None:
    for _ in range(ROUNDS):
        project = harness.project()
        harness.record_type(project, "asset")
        change = harness.draft(project, on("asset", "add_field", "first", definition=OPTIONAL))
        (target,) = harness.do("changes.list_targets", change_id=change)
        names = [f"late {number}" for number in range(6)]

        *answers, merged = at_once(
            *(adding(harness, change, target.id, name) for name in names), merging(harness, change)
        )

        assert all(is_one_of(answer, ErrorCode.CONFLICT) for answer in answers), answers
        taken = [name for name, answer in zip(names, answers, strict=True) if isinstance(answer, Success)]
        assert merged.unwrap().applied_count == 1 + len(taken)
        assert sorted(names_of(harness, project, "asset")) == sorted(["first", *taken])
        assert all(op.executed_at is not None for op in harness.do("changes.list_patch_ops", change_id=change))
        harness.check_history(project)


def test_an_op_that_is_deleted_during_a_merge_is_gone_or_merged(harness: SyncHarness) -> None:
    for _ in range(ROUNDS):
        project = harness.project()
        harness.record_type(project, "asset")
        names = [f"field {number}" for number in range(6)]
        change = harness.draft(project, *(on("asset", "add_field", name, definition=OPTIONAL) for name in names))
        ops = harness.do("changes.list_patch_ops", change_id=change)

        *answers, merged = at_once(*(deleting(harness, change, op.id) for op in ops), merging(harness, change))

        assert all(is_one_of(answer, ErrorCode.CONFLICT) for answer in answers), answers
        kept = [name for name, answer in zip(names, answers, strict=True) if not isinstance(answer, Success)]
        assert merged.unwrap().applied_count == len(kept)
        assert names_of(harness, project, "asset") == kept
        harness.check_history(project)


def test_one_of_two_projects_activates_a_key(harness: SyncHarness) -> None:
    for number in range(ROUNDS):
        key, projects = f"job {number}", [harness.project() for _ in range(4)]
        for project in projects:
            harness.record_type(project, key)

        answers = at_once(*(activating(harness, project, key) for project in projects))

        assert all(is_one_of(answer, ErrorCode.CONFLICT) for answer in answers), answers
        assert [isinstance(answer, Success) for answer in answers].count(True) == 1
        statuses = Counter(harness.types(project)[key].status for project in projects)
        assert statuses == {"active": 1, "draft": 3}


def test_what_is_read_while_something_is_merged_is_of_one_moment(sql_database: SQLDatabase) -> None:
    with sql_database.storage() as storage, sql_database.storage() as meddled:
        harness = SyncHarness(storage)
        project, changes = shared_project(harness, 12)
        reader = SyncHarness(meddled, harness.tenant)
        asset = {"project_id": project, "key": "asset"}
        asked: list[tuple[str, dict[str, Any]]] = [
            ("record_types.verify_history", asset),
            ("record_types.schema_at", {**asset, "at": "2999-01-01T00:00:00Z"}),
            ("changes.preview", {}),
        ]
        for name, payload in asked:
            for place in range(1, 9, 2):
                change = changes.pop()
                if name == "changes.preview":
                    payload = {"change_id": change}
                meddle_before(meddled, place, merging(harness, change))

                answer = reader.request(name, payload)

                assert isinstance(answer, Success), f"{name}, before the statement {place}: {answer}"
                assert getattr(answer.unwrap(), "is_intact", True), f"before the statement {place}: {answer}"


# Concurrent calls


def meddle_before(storage: SQLStorage, place: int, what: Callable[[], Answer]) -> None:
    """Call `what` just before the given statement of the next read-only execution."""
    numbers = count(1)
    kind = MeddledSQLiteUnitOfWork if isinstance(storage, SQLiteStorage) else MeddledPostgresUnitOfWork

    def meddle() -> None:
        if next(numbers) == place:
            assert isinstance(what(), Success)

    def unit_of_work(tenant: Tenant, action_id: str, mode: Mode, read_only: bool = False) -> Any:
        unit = kind(storage.database, tenant, action_id, mode, read_only)  # type: ignore[arg-type]
        unit.meddle = meddle if read_only else lambda: None
        return unit

    storage.unit_of_work = unit_of_work  # type: ignore[method-assign]


def at_once(*calls: Callable[[], Answer]) -> list[Answer]:
    """Make calls in concurrent threads; return their answers."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], Answer]) -> Answer:
        start.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(run, calls))


def merging(harness: SyncHarness, change: str) -> Callable[[], Answer]:
    return lambda: harness.request("changes.merge", {"change_id": change})


def executing(harness: SyncHarness, change: str) -> Callable[[], Answer]:
    return lambda: harness.request("changes.execute", {"change_id": change})


def creating(
    harness: SyncHarness, project: str, key: str, base: str, *fields: Mapping[str, Any]
) -> Callable[[], Answer]:
    asked = {
        "project_id": project,
        "key": key,
        "name": f"{key} of {project}",
        "base_type": base,
        "schema": {"fields": list(fields)},
    }
    return lambda: harness.request("record_types.create", asked)


def adding(harness: SyncHarness, change: str, target: str, name: str) -> Callable[[], Answer]:
    op_type, payload = on("asset", "add_field", name, definition=OPTIONAL)
    asked = {"change_id": change, "target_id": target, "op_type": op_type, "payload": payload}
    return lambda: harness.request("changes.add_patch_op", asked)


def deleting(harness: SyncHarness, change: str, op: str) -> Callable[[], Answer]:
    return lambda: harness.request("changes.delete_patch_op", {"change_id": change, "op_id": op})


def activating(harness: SyncHarness, project: str, key: str) -> Callable[[], Answer]:
    return lambda: harness.request("record_types.activate", {"project_id": project, "key": key})


def on(key: str, op_type: str, field: str = "code", **payload: Any) -> tuple[str, dict[str, Any]]:
    """Return an op that adds a field."""
    return op_type, {"record_type": key, "field": field, **payload}


def shared_project(harness: SyncHarness, number: int) -> tuple[str, list[str]]:
    """Create a project, and changes that each add a field to all of its types; return their ids."""
    dice = random.Random(number)
    project = harness.project()
    for key, base in zip(SHARED, (None, "asset", "machine", None), strict=True):
        harness.record_type(project, key, [{"name": f"{key} code", **REQUIRED}], base)
    changes = [
        harness.draft(
            project,
            *(on(key, "add_field", f"{key} {change}", definition=OPTIONAL) for key in dice.sample(SHARED, len(SHARED))),
        )
        for change in range(number)
    ]
    return project, changes


# The result


def is_one_of(answer: Answer, code: ErrorCode) -> bool:
    """Return whether an action succeeded, or failed with this code."""
    return isinstance(answer, Success) or answer.failure().code is code


def names_of(harness: SyncHarness, project: str, key: str) -> list[str]:
    return [field["name"] for field in harness.schemas(project)[key]]


def check_each_is_there_once(harness: SyncHarness, project: str, changes: Sequence[str]) -> None:
    for key, each in harness.types(project).items():
        names = [field["name"] for field in each.schema["fields"]]
        assert sorted(names) == sorted([f"{key} code", *(f"{key} {number}" for number in range(len(changes)))])
        assert each.version == 1 + len(changes)
    assert {harness.do("changes.get", change_id=change).status for change in changes} == {"Merged"}
    harness.check_history(project)
