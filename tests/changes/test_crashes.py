"""SIGKILL during merges: each change is merged wholly or not at all, and repeating the merge is safe."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest

from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.rows import LogQuery, LogRow
from tests.changes.mergers import Job, Mergers
from tests.changes.sync_harness import LOG, SyncHarness
from tests.crash.hosts import Journal, SQLDatabase, kill_in_the_middle

TYPES = ("asset", "machine", "crane", "vehicle")
TOUCHED = 3
"""Types that each change touches."""

CHANGES = 20
KILLS = 2
STRIDE = 7
"""Statements between two kills of the daily run; a long run kills at each."""
CAMPAIGN = 200
PAGE = 1000


class Effect(NamedTuple):
    """The traces of a change: its status, and the numbers of its executed ops, snapshots, present fields, events, and
    rows in the log."""

    status: str
    executed: int
    snapshots: int
    fields: int
    events: int
    logged: int


NOTHING = Effect("Draft", 0, 0, 0, 0, 0)
MERGED = Effect("Merged", TOUCHED, TOUCHED, TOUCHED, 1 + TOUCHED, 1)


def test_kills_at_random_leave_changes_whole_or_undone(sql_database: SQLDatabase, mergers: Mergers) -> None:
    for seed in range(KILLS):
        kill_one(sql_database, mergers, random.Random(seed))


@pytest.mark.soak
def test_hundreds_of_kills_leave_changes_whole_or_undone(sql_database: SQLDatabase, mergers: Mergers) -> None:
    dice = random.Random()
    for _ in range(CAMPAIGN):
        kill_one(sql_database, mergers, dice)


@pytest.mark.parametrize("stride", [STRIDE, pytest.param(1, marks=pytest.mark.soak)])
def test_kills_at_any_statement_leave_changes_whole_or_undone(
    sql_database: SQLDatabase, mergers: Mergers, stride: int
) -> None:
    found = Counter[Effect]()
    with sql_database.storage() as storage:
        harness = SyncHarness(storage)
        project = record_types(harness)
        changes: list[str] = []
        for number in count(1, stride):
            if not changes or effects(harness, changes[-1:]) == {changes[-1]: MERGED}:
                changes.append(draft(harness, project, len(changes)))
            change = changes[-1]
            before = harness.dump(without=LOG)
            job = job_for(harness, sql_database, mergers, [change], threads=1, dies_at=number)

            mergers.start(job)

            if mergers.ends() == [0]:
                break
            sql_database.settle(Path(job.journal).name)
            effect = effects(harness, [change])[change]
            found[effect] += 1
            assert effect in {NOTHING, MERGED}, f"killed at the statement {number}: {effect}"
            assert effect == MERGED or harness.dump(without=LOG) == before
            check_types(harness, project, changes)
        assert effects(harness, changes) == dict.fromkeys(changes, MERGED)
        harness.check_history(project)
    # Some kills came before the commit, and the last one after it.
    assert found[NOTHING] > 1
    assert found[MERGED] >= 1 or stride > 1


def kill_one(sql_database: SQLDatabase, mergers: Mergers, dice: random.Random) -> None:
    """Start a process that merges changes, kill it, and check; then merge all again, and check."""
    with sql_database.storage() as storage:
        harness = SyncHarness(storage)
        project = record_types(harness)
        changes = [draft(harness, project, number) for number in range(CHANGES)]
        job = job_for(harness, sql_database, mergers, changes)
        journal = Path(job.journal)
        (pid,) = mergers.start(job)
        kill_in_the_middle(pid, journal, dice)
        mergers.ends()
        sql_database.settle(journal.name)

        noted = Journal.read(journal)
        assert noted.failed == {}
        found = effects(harness, changes)
        for change, effect in found.items():
            expected = {MERGED} if change in noted.acknowledged else {MERGED, NOTHING}
            assert effect in expected, f"{change}: {effect}"
        check_types(harness, project, changes)

        for change in changes:
            answer = harness.request("changes.merge", {"change_id": change}, key=change).unwrap()
            # A repeated merge gets the first answer.
            assert (answer.status, answer.applied_count) == ("Merged", TOUCHED)

        assert effects(harness, changes) == dict.fromkeys(changes, MERGED)
        check_types(harness, project, changes)
        harness.check_history(project)


def record_types(harness: SyncHarness) -> str:
    """Create a project with record types, of which all but the last derive from each other; return its id."""
    project = harness.project()
    for key, base in zip(TYPES, (None, "asset", "machine", None), strict=True):
        harness.record_type(project, key, [{"name": f"{key} code", "type": "string", "required": True}], base)
    return project


def draft(harness: SyncHarness, project: str, number: int) -> str:
    """Create a change that adds a field to three of the types; return its id."""
    keys = random.Random(number).sample(TYPES, TOUCHED)
    definition = {"type": "string"}
    ops = [("add_field", {"record_type": key, "field": f"{key} {number}", "definition": definition}) for key in keys]
    return harness.draft(project, *ops, title=str(number))


def job_for(
    harness: SyncHarness,
    sql_database: SQLDatabase,
    mergers: Mergers,
    changes: Sequence[str],
    threads: int = 4,
    dies_at: int | None = None,
) -> Job:
    tenant = harness.tenant
    journal = str(mergers.journal_path())
    return Job(sql_database.url, str(tenant.id), tenant.slug, changes, journal, threads, dies_at)


def effects(harness: SyncHarness, changes: Sequence[str]) -> Mapping[str, Effect]:
    """Return the traces of each change."""
    tables = harness.tables()
    ops = [op for op in tables["ae_patch_ops"] if op["executed_at"] is not None]
    present = {
        (type["project_id"], type["key"], field["name"])
        for type in tables["ae_record_types"]
        for field in type["schema"]["fields"]
    }
    executed = Counter(op["change_id"] for op in ops)
    fields = Counter(
        op["change_id"]
        for op in tables["ae_patch_ops"]
        if (op["project_id"], op["record_type_key"], op["field"]) in present
    )
    snapshots = Counter(row["change_id"] for row in tables["ae_snapshots"])
    told = harness.storage.read_events(harness.tenant, types=["changes.merged", "record_types.changed"], limit=PAGE)
    events = Counter(json.loads(stored.event.payload)["change_id"] for stored in told)
    logged = Counter(row.idempotency_key for row in log(harness))
    return {
        row["id"]: Effect(
            row["status"],
            executed[row["id"]],
            snapshots[row["id"]],
            fields[row["id"]],
            events[row["id"]],
            logged[row["id"]],
        )
        for row in tables["ae_changes"]
        if row["id"] in changes
    }


def log(harness: SyncHarness) -> list[LogRow]:
    """Return the rows of successful merges, without replayed ones."""
    unit = harness.storage.unit_of_work(harness.tenant, "", "sync", read_only=True)
    try:
        query = LogQuery(action="changes.merge", outcome="succeeded", limit=PAGE)
        return list(run_sync(unit.read_log(query)))
    finally:
        run_sync(unit.rollback())


def check_types(harness: SyncHarness, project: str, changes: Sequence[str]) -> None:
    """Assert that each type has a version and a field for each change that has touched it."""
    tables = harness.tables()
    done = Counter(row["record_type_key"] for row in tables["ae_snapshots"] if row["project_id"] == project)
    for type in tables["ae_record_types"]:
        if type["project_id"] == project:
            names = [field["name"] for field in type["schema"]["fields"]]
            assert type["version"] == len(names) == len(set(names)) == 1 + done[type["key"]]
