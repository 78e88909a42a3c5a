"""A preview, an execution and a merge send as many statements for a thousand ops as for ten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from examples.embedded_postgres import Database

from actionengine import PostgresStorage, SQLiteStorage, Tenant
from actionengine.concurrency.run_sync import Mode
from actionengine.storage.sql.storage import SQLStorage
from actionengine.storage.sqlite.unit_of_work import SQLiteUnitOfWork
from actionengine.storage.tables import CHANGES, PATCH_OPS, RECORD_TYPES, TARGETS, Row
from tests.changes.sync_harness import SyncHarness
from tests.storage.test_statements import traced

NOW = datetime.now(UTC)

TOLD_EACH = ("ae_events", "ae_outbox", "ae_action_log_subjects")
"""Tables for which SQLite, which saves no round trips, has a statement for each event; each type has an event."""


class CountingUnitOfWork(SQLiteUnitOfWork):
    """A unit of work that records the statements that it sends."""

    sent: list[str]

    def execute(self, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        self.sent.append(statement)
        return super().execute(statement, parameters)


class CountingStorage(SQLiteStorage):
    """A storage that keeps the statements of its units of work."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.sent: list[str] = []

    def unit_of_work(self, tenant: Tenant, action_id: str, mode: Mode, read_only: bool = False) -> CountingUnitOfWork:
        unit = CountingUnitOfWork(self.database, tenant, action_id, mode, read_only)
        unit.sent = self.sent
        return unit


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SQLStorage]:
    storage: SQLStorage
    if request.param == "sqlite":
        storage = CountingStorage(tmp_path / "changes.db")
    else:
        database: Database = request.getfixturevalue("postgres_database")
        storage = PostgresStorage(database.app_url, pool_size=1, max_overflow=0)
    with storage:
        yield storage


@pytest.mark.parametrize("action", ["preview", "execute", "merge"])
def test_a_thousand_ops_take_as_many_statements_as_ten(storage: SQLStorage, tmp_path: Path, action: str) -> None:
    few, many = SyncHarness(storage), SyncHarness(storage)

    sent = statements(few, action, 10, 1, tmp_path / "few"), statements(many, action, 100, 10, tmp_path / "many")

    if action == "preview":
        # A preview reads the documents of each type.
        assert [found.pop("ae_documents") for found in sent] == [10, 100]
    assert sent[0] == sent[1]
    assert sent[0].total() < 30


def test_a_thousand_ops_are_all_applied(storage: SQLStorage) -> None:
    harness = SyncHarness(storage)
    change = bulk(harness, 100, 10)

    merged = harness.do("changes.merge", change_id=change)

    assert merged.applied_count == 1000
    assert [len(diff.added) for diff in merged.diff] == [10] * 100
    assert len(harness.do("changes.list_snapshots", change_id=change)) == 100


def statements(harness: SyncHarness, action: str, types: int, ops: int, path: Path) -> Counter[str]:
    """Return the number of an action's statements about each table, for a change with ops on several types."""
    first, change = bulk(harness, types, ops), bulk(harness, types, ops)
    harness.do(f"changes.{action}", change_id=first)
    counted = counted_on_sqlite if isinstance(harness.storage, SQLiteStorage) else counted_on_postgres
    return counted(harness.storage, path, lambda: harness.do(f"changes.{action}", change_id=change))


def counted_on_sqlite(storage: Any, path: Path, work: Callable[[], Any]) -> Counter[str]:
    storage.sent.clear()
    work()
    found = Counter(map(table_of, storage.sent))
    for table in TOLD_EACH:
        del found[table]
    return found


def counted_on_postgres(storage: Any, path: Path, work: Callable[[], Any]) -> Counter[str]:
    _, pooled = storage.pools.take("sync")
    driver: Any = pooled.driver_connection
    known = dict(driver.execute("SELECT name, statement FROM pg_prepared_statements").fetchall())
    pooled.close()
    with traced(driver, path):
        work()
    messages = [line.split("\t") for line in path.read_text().splitlines() if line.startswith("F\t")]
    executed = []
    for message in messages:
        if message[2] == "Parse":
            _, name, _, statement, *_ = message[3].split('"')
            known[name] = statement
        elif message[2] == "Bind":
            executed.append(known[message[3].split('"')[3]])
    assert len(executed) == sum(message[2] == "Execute" for message in messages)
    return Counter(map(table_of, executed))


def table_of(statement: str) -> str:
    """Return the first of the library's tables that a statement names; its first word if it names none."""
    if statement.lstrip().startswith("WITH"):
        return "WITH"
    words = statement.replace("(", " ").replace(".", " ").replace('"', " ").split()
    return next((word for word in words if word.startswith("ae_") and not word.endswith("_")), words[0])


def bulk(harness: SyncHarness, types: int, ops: int) -> str:
    """Create a change of a project with record types, half of which derive from an earlier one, and ops that add fields
    to each; return its id."""
    project, change, run = harness.project(), str(uuid4()), uuid4().hex
    keys = [f"type {number:03}" for number in range(types)]
    record_types = [
        _type(project, key, f"{key} {run}", keys[number - 1] if number % 2 else None) for number, key in enumerate(keys)
    ]
    targets = [_target(project, change, key, f"{key} {run}") for key in keys]
    patch_ops = [
        _op(project, change, key, f"{key} {run}", place * ops + number + 1)
        for place, key in enumerate(keys)
        for number in range(ops)
    ]
    harness.write(
        (RECORD_TYPES, record_types),
        (CHANGES, [_change(project, change, len(patch_ops))]),
        (TARGETS, targets),
        (PATCH_OPS, patch_ops),
    )
    return change


def _type(project: str, key: str, name: str, base: str | None) -> Row:
    schema = {"fields": [{"name": f"first of {key}", "type": "string", "required": True}]}
    return {
        "id": f"{project} {key}",
        "project_id": project,
        "key": key,
        "name": name,
        "description": "",
        "base_type": base,
        "schema": schema,
        "initial_schema": schema,
        "version": 1,
        "base_version": 1,
        "bytes_since_base": 0,
        "status": "draft",
        "changed_by": None,
        "created_at": NOW,
        "updated_at": NOW,
    }


def _change(project: str, id: str, op_count: int) -> Row:
    return {
        "id": id,
        "project_id": project,
        "title": "A large change",
        "description": "",
        "status": "Draft",
        "compensates": None,
        "op_count": op_count,
        "created_at": NOW,
        "updated_at": NOW,
        "merged_at": None,
    }


def _target(project: str, change: str, key: str, id: str) -> Row:
    return {
        "id": id,
        "change_id": change,
        "project_id": project,
        "type": "record_type",
        "selector": {"record_type_key": key},
        "created_at": NOW,
    }


def _op(project: str, change: str, key: str, target: str, position: int) -> Row:
    name = f"field {position}"
    return {
        "id": str(uuid4()),
        "change_id": change,
        "project_id": project,
        "target_id": target,
        "position": position,
        "op_type": "add_field",
        "payload": {"record_type": key, "field": name, "definition": {"type": "string"}},
        "record_type_key": key,
        "field": name,
        "gives": name,
        "record_type_version": 1,
        "applied_version": None,
        "previous_snapshot": None,
        "executed_at": None,
        "created_at": NOW,
        "turn": 0,
    }
