"""The cost of a record type's history, in counts and bytes, with few and with many versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from pydantic_core import to_json

from actionengine import Actor, InMemoryStorage, RequestContext, SQLiteStorage, create_engine
from actionengine.changes import change_control_services, replay
from actionengine.changes.store import Store
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.tables import PATCH_OPS, RECORD_TYPES, SNAPSHOTS
from tests.growth import count

FEW, MANY = 10, 80

JOB = {"record_type": "job"}


class Yard:
    """A tenant whose record type `job` has a history."""

    def __init__(self, storage: InMemoryStorage | SQLiteStorage | None = None) -> None:
        self.storage = storage or InMemoryStorage()
        self.tenant = self.storage.create_tenant(slug="yard", name="Yard")
        self.engine = create_engine(services=change_control_services(open=True), storage=self.storage)
        self.project = self.do("projects.create", name="Yard").id
        fields = [{"name": f"first_{number}", "type": "string"} for number in range(5)]
        self.do("record_types.create", project_id=self.project, key="job", schema={"fields": fields})
        self.changes: list[str] = []

    def do(self, name: str, /, **payload: Any) -> Any:
        service, _, action = name.partition(".")
        request = RequestContext(self.tenant, Actor.human("ann"))
        return self.engine.execute_action(service, action, payload, request).unwrap()

    def draft(self) -> str:
        change: str = self.do("changes.create", project_id=self.project, title="x").id
        selector = {"record_type_key": "job"}
        self.do("changes.add_target", change_id=change, type="record_type", selector=selector)
        return change

    def merge(self, op_type: str, change: str | None = None, action: str = "merge", **payload: Any) -> None:
        change = change or self.draft()
        self.do("changes.add_patch_op", change_id=change, op_type=op_type, payload={**JOB, **payload})
        self.do(f"changes.{action}", change_id=change)
        self.changes.append(change)

    def grow(self, versions: int) -> None:
        """Add a field with each version."""
        for number in range(versions):
            self.merge("add_field", field=f"field_{number}", definition={"type": "text", "label": "x" * 200})

    def churn(self, versions: int) -> None:
        """Change a field with each version."""
        for number in range(versions):
            self.merge("set_field", field="first_3", definition={"type": "text", "label": str(number)})

    def rows(self, *tables: Any) -> list[Any]:
        unit = self.storage.unit_of_work(self.tenant, "x", "sync", read_only=True)
        try:
            return [row for table in tables for row in run_sync(unit.rows(table).find())]
        finally:
            run_sync(unit.rollback())

    def stored_bytes(self) -> int:
        """The bytes that the history of schemas takes."""
        return len(
            to_json([(row.get("schema"), row.get("previous_snapshot")) for row in self.rows(SNAPSHOTS, PATCH_OPS)])
        )

    def about(self, **asked: Any) -> dict[str, Any]:
        return {"project_id": self.project, "key": "job", **asked}


@pytest.fixture(scope="module")
def grown() -> tuple[Yard, Yard]:
    yards = Yard(), Yard()
    for yard, versions in zip(yards, (FEW, MANY), strict=True):
        yard.grow(versions)
    return yards


@pytest.fixture(scope="module")
def churned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Yard, Yard]]:
    folder = tmp_path_factory.mktemp("churned")
    with (
        SQLiteStorage(folder / "few.db", pool_size=1, max_overflow=0) as few,
        SQLiteStorage(folder / "many.db", pool_size=1, max_overflow=0) as many,
    ):
        yards = Yard(few), Yard(many)
        for yard, versions in zip(yards, (FEW, MANY), strict=True):
            yard.churn(versions)
        yield yards


def costs(yards: tuple[Yard, Yard], operation: Callable[[Yard], object]) -> float:
    """Return the cost of an operation with many versions as a multiple of its cost with few."""
    few, many = (sum(count(yard.storage, yard.tenant, partial(operation, yard)).values()) for yard in yards)
    return many / few


def test_storage_is_linear_in_the_ops(grown: tuple[Yard, Yard]) -> None:
    few, many = (yard.stored_bytes() for yard in grown)

    assert many / few < 1.5 * MANY / FEW


def test_verifying_is_linear_in_the_ops(grown: tuple[Yard, Yard]) -> None:
    verified = [yard.do("record_types.verify_history", **yard.about()) for yard in grown]

    assert [(each.is_intact, each.versions) for each in verified] == [(True, FEW + 1), (True, MANY + 1)]
    assert costs(grown, lambda yard: yard.do("record_types.verify_history", **yard.about())) < 1.5 * MANY / FEW


def test_every_earlier_schema_is_what_the_ops_before_it_gave(grown: tuple[Yard, Yard]) -> None:
    _, yard = grown
    names = [f"first_{number}" for number in range(5)] + [f"field_{number}" for number in range(MANY)]

    for number in (0, 1, 17, MANY // 2, MANY - 1):
        change = yard.changes[number]
        shown = yard.do("record_types.schema_at", **yard.about(change_id=change))
        (op,) = yard.do("changes.list_patch_ops", change_id=change)
        (snapshot,) = yard.do("changes.list_snapshots", change_id=change)
        assert [field["name"] for field in shown.schema["fields"]] == names[: 6 + number]
        for before in (op.previous_snapshot, snapshot.schema):
            assert [field["name"] for field in before["fields"]] == names[: 5 + number]
            assert before["fields"] == shown.schema["fields"][:-1]


def test_an_earlier_schema_costs_the_same_after_many_versions(churned: tuple[Yard, Yard]) -> None:
    assert costs(churned, lambda yard: yard.do("changes.list_patch_ops", change_id=yard.changes[5])) < 1.5
    assert costs(churned, lambda yard: yard.do("changes.list_snapshots", change_id=yard.changes[5])) < 1.5
    assert (
        costs(
            churned,
            lambda yard: yard.do("record_types.schema_at", **yard.about(change_id=yard.changes[-3])),
        )
        < 1.5
    )


def test_a_time_is_found_by_halving(churned: tuple[Yard, Yard], monkeypatch: pytest.MonkeyPatch) -> None:
    _, yard = churned
    executed = [yard.do("changes.list_patch_ops", change_id=change)[0].executed_at for change in yard.changes]
    asked: list[Any] = []
    first_op = Store.__init__

    def counted(self: Any, *given: Any) -> None:
        first_op(self, *given)
        find = self.ops.find

        async def find_counted(*arguments: Any, **options: Any) -> Any:
            asked.append(arguments)
            return await find(*arguments, **options)

        self.ops = type("Ops", (), {"find": staticmethod(find_counted)})()

    monkeypatch.setattr(Store, "__init__", counted)
    found = [yard.do("record_types.schema_at", **yard.about(at=at.isoformat())).version for at in executed[::20]]

    assert found == [2 + number for number in range(0, MANY, 20)]
    assert len(asked) < 15 * len(found)


def test_a_change_executed_repeatedly_keeps_one_snapshot() -> None:
    yard = Yard()
    change = yard.draft()
    for number in range(12):
        yard.merge("set_field", change, "execute", field="first_1", definition={"type": "text", "label": "x" * number})
    yard.merge("remove_field", field="first_0")

    (snapshot,) = yard.do("changes.list_snapshots", change_id=change)
    ops = yard.do("changes.list_patch_ops", change_id=change)

    assert len(snapshot.schema["fields"]) == 5
    labels = [op.previous_snapshot["fields"][1].get("label") for op in ops]
    assert labels == [None, *("x" * number for number in range(11))]
    page = yard.do("changes.list_patch_ops", change_id=change, after=ops[6].position, limit=3)
    assert [op.previous_snapshot for op in page] == [op.previous_snapshot for op in ops[7:10]]
    assert yard.do("record_types.verify_history", **yard.about()).is_intact


def test_a_page_within_an_execution_has_the_same_snapshots() -> None:
    yard = Yard()
    yard.churn(6)
    change = yard.draft()
    for number in range(6):
        payload = {**JOB, "field": f"new_{number}", "definition": {"type": "text"}}
        yard.do("changes.add_patch_op", change_id=change, op_type="add_field", payload=payload)
    yard.do("changes.merge", change_id=change)

    ops = yard.do("changes.list_patch_ops", change_id=change)
    pages = [yard.do("changes.list_patch_ops", change_id=change, after=after, limit=2) for after in (1, 3)]

    assert [len(op.previous_snapshot["fields"]) for op in ops] == [5, 6, 7, 8, 9, 10]
    assert [op for page in pages for op in page] == list(ops[1:5])


def test_pages_of_ops_and_of_snapshots_end_with_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    yard = Yard()
    yard.do("record_types.create", project_id=yard.project, key="task", schema={"fields": []})
    change = yard.draft()
    yard.do("changes.add_target", change_id=change, type="record_type", selector={"record_type_key": "task"})
    for key in ("job", "task"):
        for number in range(4):
            payload = {"record_type": key, "field": f"f{number}", "definition": {"type": "text", "label": "x" * 1000}}
            yard.do("changes.add_patch_op", change_id=change, op_type="add_field", payload=payload)
    yard.do("changes.merge", change_id=change)
    monkeypatch.setattr(replay, "MAX_PAGE_BYTES", 2_500)

    found: list[Any] = []
    pages = 0
    while page := yard.do("changes.list_patch_ops", change_id=change, after=found[-1].position if found else None):
        found += page
        pages += 1
    (one,) = yard.do("changes.list_snapshots", change_id=change, limit=1)
    (other,) = yard.do("changes.list_snapshots", change_id=change, after=one.record_type_key)

    assert [op.position for op in found] == list(range(1, 9))
    assert pages > 3
    assert (one.record_type_key, other.record_type_key) == ("job", "task")
    assert yard.do("changes.list_snapshots", change_id=change, after="task") == ()


def test_a_damaged_history_says_where_to_look() -> None:
    yard = Yard()
    yard.churn(12)
    row = next(row for row in yard.rows(SNAPSHOTS) if row["schema"] is not None)
    unit = yard.storage.unit_of_work(yard.tenant, "x", "sync")
    run_sync(unit.rows(SNAPSHOTS).update([{**{n: row[n] for n in ("change_id", "record_type_key")}, "schema": None}]))
    run_sync(unit.commit())
    request = RequestContext(yard.tenant, Actor.human("ann"))
    after = yard.changes[row["version"] - 1]

    answer = yard.engine.execute_action("changes", "list_patch_ops", {"change_id": after}, request)

    assert "record_types.verify_history" in answer.failure().message
    history = yard.do("record_types.verify_history", **yard.about())
    assert not history.is_intact
    assert yard.rows(RECORD_TYPES)[0]["base_version"] > 1


def test_a_conflict_reads_what_twenty_of_the_ops_since_say(monkeypatch: pytest.MonkeyPatch) -> None:
    yard = Yard()
    late = yard.draft()
    payload = {**JOB, "field": "first_3", "definition": {"type": "date"}}
    yard.do("changes.add_patch_op", change_id=late, op_type="set_field", payload=payload)
    yard.churn(30)
    read: list[Any] = []
    make = Store.__init__

    def watched(self: Any, *given: Any) -> None:
        make(self, *given)
        find = self.ops.find

        async def find_watched(*arguments: Any, **options: Any) -> Any:
            rows = await find(*arguments, **options)
            read.extend(row for row in rows if "payload" in row)
            return rows

        self.ops = type("Ops", (), {"find": staticmethod(find_watched)})()

    monkeypatch.setattr(Store, "__init__", watched)
    request = RequestContext(yard.tenant, Actor.human("ann"))
    error = yard.engine.execute_action("changes", "preview", {"change_id": late}, request).failure()

    assert (len(error.details["conflicts"]), error.details["conflict_count"]) == (20, 30)
    assert [each["since"]["payload"]["definition"]["label"] for each in error.details["conflicts"]] == [
        str(number) for number in range(20)
    ]
    assert len(read) == 21
