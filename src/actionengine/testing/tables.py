"""Rows of the library's own tables: the promises of `UnitOfWork.rows`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from actionengine.context import Tenant
from actionengine.errors import ErrorCode
from actionengine.storage.pages import MAX_PAGE_BYTES
from actionengine.storage.tables import CHANGES, PATCH_OPS, PROJECTS, RECORD_TYPES, SNAPSHOTS, TARGETS, Row, Table
from actionengine.testing.backend import Backend, run_in_mode
from actionengine.testing.base import Conformance, is_conflict, raises_action_error

START = datetime(2024, 2, 29, 23, 59, 58, 123456, tzinfo=UTC)
SCHEMA = {"fields": [{"name": "größe", "type": "number", "required": True, "help": ["a", 1.5, None, {"b": False}]}]}


def project(id: str, **fields: Any) -> Row:
    """Return a project."""
    row = {"id": id, "name": f"project {id}", "description": None, "require_review": False, "created_at": START}
    return {**row, **fields}


def record_type(id: str, **fields: Any) -> Row:
    """Return a record type of the project p1."""
    row = {
        "id": id,
        "project_id": "p1",
        "key": f"type-{id}",
        "name": f"type {id}",
        "description": "",
        "base_type": None,
        "schema": SCHEMA,
        "initial_schema": SCHEMA,
        "version": 1,
        "base_version": 1,
        "bytes_since_base": 0,
        "status": "draft",
        "changed_by": None,
        "created_at": START,
        "updated_at": START,
    }
    return {**row, **fields}


def change(id: str, **fields: Any) -> Row:
    """Return a change in the project p1."""
    row = {
        "id": id,
        "project_id": "p1",
        "title": f"change {id}",
        "description": None,
        "status": "Draft",
        "compensates": None,
        "op_count": 0,
        "created_at": START,
        "updated_at": START,
        "merged_at": None,
    }
    return {**row, **fields}


def target(id: str, **fields: Any) -> Row:
    """Return a target of the change c1, the record type r1."""
    row = {
        "id": id,
        "change_id": "c1",
        "project_id": "p1",
        "type": "record_type",
        "selector": {"record_type_key": "type-r1"},
        "created_at": START,
    }
    return {**row, **fields}


def patch_op(id: str, position: int, **fields: Any) -> Row:
    """Return an op of the target t1, which adds a field."""
    name = f"field {id}"
    row = {
        "id": id,
        "change_id": "c1",
        "project_id": "p1",
        "target_id": "t1",
        "position": position,
        "op_type": "add_field",
        "payload": {"record_type": "type-r1", "field": name, "definition": {"type": "string"}},
        "record_type_key": "type-r1",
        "field": name,
        "gives": name,
        "record_type_version": 1,
        "applied_version": None,
        "previous_snapshot": None,
        "executed_at": None,
        "created_at": START,
        "turn": 0,
    }
    return {**row, **fields}


def snapshot(key: str, **fields: Any) -> Row:
    """Return a snapshot of a record type by the change c1."""
    row = {
        "change_id": "c1",
        "record_type_key": key,
        "project_id": "p1",
        "version": 1,
        "schema": SCHEMA,
        "created_at": START,
    }
    return {**row, **fields}


async def add(backend: Backend, table: Table, *rows: Row, tenant: Tenant | None = None) -> None:
    """Insert rows and commit."""
    async with backend.writing(tenant) as unit:
        await unit.rows(table).insert(rows)


async def ids(backend: Backend, table: Table, tenant: Tenant | None = None, **query: Any) -> list[str]:
    """Return the ids that a new unit of work finds."""
    async with backend.reading(tenant) as unit:
        return [row["id"] for row in await unit.rows(table).find(columns=["id"], **query)]


async def add_change(backend: Backend) -> None:
    """Insert the project p1, the record types r1 and r2, and the change c1 with the target t1."""
    await add(backend, PROJECTS, project("p1"))
    await add(backend, RECORD_TYPES, record_type("r1"), record_type("r2"))
    await add(backend, CHANGES, change("c1"))
    await add(backend, TARGETS, target("t1"))


class TablesConformance(Conformance):
    """Rows of a tenant in one table."""

    @run_in_mode
    async def test_a_row_comes_back_as_it_was_given(self, backend: Backend) -> None:
        await add_change(backend)
        op = patch_op("o1", 1)
        await add(backend, PATCH_OPS, op)
        await add(backend, SNAPSHOTS, snapshot("type-r1"))

        async with backend.reading() as unit:
            assert await unit.rows(PROJECTS).find() == [project("p1")]
            assert await unit.rows(RECORD_TYPES).find({"id": "r1"}) == [record_type("r1")]
            assert await unit.rows(CHANGES).find() == [change("c1")]
            assert await unit.rows(TARGETS).find() == [target("t1")]
            assert await unit.rows(PATCH_OPS).find() == [op]
            assert await unit.rows(SNAPSHOTS).find() == [snapshot("type-r1")]

    @run_in_mode
    async def test_booleans_are_booleans_and_times_are_in_utc(self, backend: Backend) -> None:
        elsewhere = START.astimezone(timezone(timedelta(hours=-5)))
        await add(backend, PROJECTS, project("p1", require_review=True, created_at=elsewhere), project("p2"))

        async with backend.reading() as unit:
            first, second = await unit.rows(PROJECTS).find()

        assert (first["require_review"], second["require_review"]) == (True, False)
        assert isinstance(first["require_review"], bool)
        assert first["created_at"] == START
        assert first["created_at"].utcoffset() == timedelta(0)

    @run_in_mode
    async def test_the_unit_sees_its_own_rows(self, backend: Backend) -> None:
        async with backend.writing() as unit:
            projects = unit.rows(PROJECTS)
            await projects.insert([project("p1"), project("p2")])

            assert await projects.find() == [project("p1"), project("p2")]

    @run_in_mode
    async def test_rows_are_found_by_what_they_equal(self, backend: Backend) -> None:
        await add(backend, PROJECTS, project("p1"))
        types = [
            record_type("r1"),
            record_type("r2", status="active", description=None),
            record_type("r3", base_type="type-r1", version=3),
        ]
        await add(backend, RECORD_TYPES, *types)

        assert await ids(backend, RECORD_TYPES) == ["r1", "r2", "r3"]
        assert await ids(backend, RECORD_TYPES, where={"status": "draft"}) == ["r1", "r3"]
        assert await ids(backend, RECORD_TYPES, where={"project_id": "p1", "key": "type-r2"}) == ["r2"]
        assert await ids(backend, RECORD_TYPES, where={"version": 3}) == ["r3"]
        assert await ids(backend, RECORD_TYPES, where={"created_at": START, "id": "r1"}) == ["r1"]
        assert await ids(backend, RECORD_TYPES, where={"description": None}) == ["r2"]
        assert await ids(backend, RECORD_TYPES, where={"base_type": None}) == ["r1", "r2"]
        assert await ids(backend, RECORD_TYPES, where={"id": "r1", "status": "active"}) == []

    @run_in_mode
    async def test_a_tuple_is_any_of_its_values(self, backend: Backend) -> None:
        await add(backend, PROJECTS, project("p1", require_review=True), project("p2"))
        await add(backend, RECORD_TYPES, *(record_type(f"r{number}", version=number) for number in range(1, 5)))

        assert await ids(backend, RECORD_TYPES, where={"id": ("r3", "r1", "r9")}) == ["r1", "r3"]
        assert await ids(backend, RECORD_TYPES, where={"version": (2, 4), "id": ("r1", "r2")}) == ["r2"]
        assert await ids(backend, RECORD_TYPES, where={"id": ()}) == []
        assert await ids(backend, RECORD_TYPES, where={"base_type": ("r1",)}) == []
        assert await ids(backend, PROJECTS, where={"require_review": (True,)}) == ["p1"]
        assert await ids(backend, PROJECTS, where={"created_at": (START,)}) == ["p1", "p2"]

    @run_in_mode
    async def test_order_bounds_limit_and_columns(self, backend: Backend) -> None:
        await add(backend, PROJECTS, project("p1"))
        names = ["b", "a", "Z", "ä", "A"]
        rows = [record_type(f"r{number}", name=name, version=number) for number, name in enumerate(names, 1)]
        await add(backend, RECORD_TYPES, *rows)

        assert await ids(backend, RECORD_TYPES, order=["name"]) == ["r5", "r3", "r2", "r1", "r4"]
        assert await ids(backend, RECORD_TYPES, order=["status", "name"], limit=2) == ["r5", "r3"]
        assert await ids(backend, RECORD_TYPES, order=["status", "name"], descending=True) == [
            "r4",
            "r1",
            "r2",
            "r3",
            "r5",
        ]
        assert await ids(backend, RECORD_TYPES, descending=True, limit=2) == ["r5", "r4"]
        assert await ids(backend, RECORD_TYPES, above={"id": "r3"}) == ["r4", "r5"]
        assert await ids(backend, RECORD_TYPES, above={"version": 1}, limit=2) == ["r2", "r3"]
        assert await ids(backend, RECORD_TYPES, above={"updated_at": START}) == []
        assert await ids(backend, RECORD_TYPES, above={"base_type": ""}) == []
        async with backend.reading() as unit:
            found = await unit.rows(RECORD_TYPES).find({"id": "r2"}, columns=["version", "schema"])
        assert found == [{"version": 2, "schema": SCHEMA}]

    @run_in_mode
    async def test_a_page_ends_with_the_row_that_reaches_its_bytes(self, backend: Backend) -> None:
        large = {"fields": [{"name": "title", "type": "string", "label": "x" * (MAX_PAGE_BYTES // 3)}]}
        await add(backend, PROJECTS, project("p1"))
        await add(backend, RECORD_TYPES, *(record_type(f"r{number}", schema=large) for number in range(5)))

        async with backend.reading() as unit:
            types = unit.rows(RECORD_TYPES)
            first = await types.find(columns=["id", "schema"], limit=5)
            rest = await types.find(above={"id": first[-1]["id"]}, columns=["id", "schema"], limit=5)
            unlimited = await types.find(columns=["id", "schema"])

        assert [row["id"] for row in first] == ["r0", "r1", "r2"]
        assert [row["id"] for row in rest] == ["r3", "r4"]
        assert [row["schema"] for row in unlimited] == [large] * 5

    @run_in_mode
    async def test_an_update_changes_the_columns_that_are_given(self, backend: Backend) -> None:
        await add(backend, PROJECTS, project("p1"))
        await add(backend, RECORD_TYPES, *(record_type(f"r{number}") for number in range(1, 4)))
        later = START + timedelta(seconds=1)

        async with backend.writing() as unit:
            types = unit.rows(RECORD_TYPES)
            await types.update(
                [
                    {"id": "r1", "status": "active", "updated_at": later, "description": None},
                    {"id": "r3", "status": "retired", "updated_at": later, "description": "old"},
                ]
            )
            await types.update([])
        with raises_action_error(ErrorCode.CONFLICT):
            async with backend.writing() as unit:
                gone = {"id": "r9", "status": "retired", "updated_at": later}
                await unit.rows(RECORD_TYPES).update([{**gone, "id": "r2"}, gone])

        async with backend.reading() as unit:
            assert await unit.rows(RECORD_TYPES).find() == [
                record_type("r1", status="active", updated_at=later, description=None),
                record_type("r2"),
                record_type("r3", status="retired", updated_at=later, description="old"),
            ]

    @run_in_mode
    async def test_json_is_updated_by_the_key_of_several_columns_or_one(self, backend: Backend) -> None:
        await add_change(backend)
        await add(backend, PATCH_OPS, patch_op("o1", 1), patch_op("o2", 2))

        async with backend.writing() as unit:
            stamp = {"previous_snapshot": SCHEMA, "applied_version": 2, "executed_at": START}
            await unit.rows(PATCH_OPS).update([{"id": "o2", **stamp}])

        async with backend.reading() as unit:
            assert await unit.rows(PATCH_OPS).find() == [patch_op("o1", 1), patch_op("o2", 2, **stamp)]
            assert await unit.rows(PATCH_OPS).find({"executed_at": None}, columns=["id"]) == [{"id": "o1"}]

    @run_in_mode
    async def test_a_deletion_says_how_many_rows_there_were(self, backend: Backend) -> None:
        await add_change(backend)
        await add(backend, PATCH_OPS, *(patch_op(f"o{number}", number) for number in range(1, 5)))

        async with backend.writing() as unit:
            ops = unit.rows(PATCH_OPS)
            assert await ops.delete({"id": ("o1", "o3", "o9")}) == 2
            assert await ops.delete({"id": ()}) == 0
            assert await ops.delete({"change_id": "c1", "id": "o1"}) == 0
            await ops.insert([patch_op("o5", 1)])

        assert await ids(backend, PATCH_OPS) == ["o2", "o4", "o5"]

    @pytest.mark.parametrize(
        ("table", "row"),
        [
            pytest.param(PROJECTS, project("p1", name="another"), id="a key"),
            pytest.param(PROJECTS, project("p2", name="project p1"), id="a name"),
            pytest.param(RECORD_TYPES, record_type("r9", key="type-r1"), id="several columns"),
            pytest.param(SNAPSHOTS, snapshot("type-r1", version=2), id="a key of several columns"),
        ],
    )
    @run_in_mode
    async def test_what_is_taken_is_a_conflict(self, backend: Backend, table: Table, row: Row) -> None:
        await add_change(backend)
        await add(backend, SNAPSHOTS, snapshot("type-r1"))

        with raises_action_error(ErrorCode.CONFLICT):
            await add(backend, table, row)

    @run_in_mode
    async def test_what_is_taken_in_the_same_statement_is_a_conflict(self, backend: Backend) -> None:
        with raises_action_error(ErrorCode.CONFLICT):
            await add(backend, PROJECTS, project("p1", name="same"), project("p2", name="same"))

        assert await ids(backend, PROJECTS) == []

    @run_in_mode
    async def test_an_update_takes_a_name_and_frees_the_old_one(self, backend: Backend) -> None:
        await add(backend, PROJECTS, project("p1"))
        await add(backend, RECORD_TYPES, record_type("r1", name="one"), record_type("r2", name="two"))

        with raises_action_error(ErrorCode.CONFLICT):
            async with backend.writing() as unit:
                await unit.rows(RECORD_TYPES).update([{"id": "r1", "name": "two"}])
        async with backend.writing() as unit:
            await unit.rows(RECORD_TYPES).update([{"id": "r1", "name": "three"}])
        await add(backend, RECORD_TYPES, record_type("r3", name="one"))

        assert await ids(backend, RECORD_TYPES, order=["name"]) == ["r3", "r1", "r2"]

    @run_in_mode
    async def test_of_the_record_types_of_one_key_one_is_active(self, backend: Backend) -> None:
        await add(backend, PROJECTS, project("p1"), project("p2"), project("p3"))
        types = [record_type(f"r{number}", project_id=f"p{number}", key="same") for number in (1, 2, 3)]
        await add(backend, RECORD_TYPES, {**types[0], "status": "active"}, *types[1:])

        async def activate(id: str) -> None:
            async with backend.writing() as unit:
                await unit.rows(RECORD_TYPES).update([{"id": id, "status": "active"}])

        with raises_action_error(ErrorCode.CONFLICT):
            await activate("r2")
        async with backend.writing() as unit:
            await unit.rows(RECORD_TYPES).update([{"id": "r1", "status": "retired"}])
        await activate("r2")
        with raises_action_error(ErrorCode.CONFLICT):
            await activate("r3")

        assert await ids(backend, RECORD_TYPES, where={"status": "active"}) == ["r2"]

    @run_in_mode
    async def test_of_two_units_that_take_the_same_name_one_gets_it(self, backend: Backend) -> None:
        async def take(id: str) -> bool:
            try:
                await add(backend, PROJECTS, project(id, name="wanted"))
            except Exception as error:
                if not is_conflict(error):
                    raise
                return False
            return True

        taken = await backend.gather(*(take(f"p{number}") for number in range(4)))

        assert sorted(taken) == [False, False, False, True]
        assert len(await ids(backend, PROJECTS)) == 1

    @pytest.mark.parametrize("value", [object(), float("nan"), "\ud800", "\0"])
    @run_in_mode
    async def test_what_json_cannot_carry_is_refused(self, backend: Backend, value: Any) -> None:
        with raises_action_error(ErrorCode.INVALID_INPUT):
            await add(backend, PROJECTS, project("p1", description=value))

        assert await ids(backend, PROJECTS) == []

    @run_in_mode
    async def test_caller_and_storage_share_no_rows(self, backend: Backend) -> None:
        given = {"fields": [{"name": "a", "type": "string", "required": False}]}
        await add(backend, PROJECTS, project("p1"))
        async with backend.writing() as unit:
            await unit.rows(RECORD_TYPES).insert([record_type("r1", schema=given)])
            given["fields"].clear()
            for _ in range(2):
                (found,) = await unit.rows(RECORD_TYPES).find()
                assert [field["name"] for field in found["schema"]["fields"]] == ["a"]
                found["schema"]["fields"].clear()
                found["name"] = "mine"

        assert await ids(backend, RECORD_TYPES, where={"name": "type r1"}) == ["r1"]

    @run_in_mode
    async def test_after_a_rollback_there_is_nothing(self, backend: Backend) -> None:
        await add(backend, PROJECTS, project("p1"))
        unit = backend.unit()
        await unit.rows(PROJECTS).insert([project("p2")])
        await unit.rows(RECORD_TYPES).insert([record_type("r1")])
        await unit.rollback()

        assert await ids(backend, PROJECTS) == ["p1"]
        assert await ids(backend, RECORD_TYPES) == []
        await add(backend, PROJECTS, project("p3", name="project p2"))

    @run_in_mode
    async def test_a_savepoint_is_rolled_back_to(self, backend: Backend) -> None:
        await add_change(backend)
        async with backend.writing() as unit:
            ops = unit.rows(PATCH_OPS)
            await ops.insert([patch_op("o1", 1)])
            savepoint = await unit.savepoint()
            await ops.insert([patch_op("o2", 2)])
            await ops.delete({"id": "o1"})
            await unit.rows(CHANGES).update([{"id": "c1", "op_count": 7}])
            await unit.rollback_to(savepoint)
            await ops.insert([patch_op("o3", 2)])

        assert await ids(backend, PATCH_OPS) == ["o1", "o3"]
        assert await ids(backend, CHANGES, where={"op_count": 0}) == ["c1"]

    @run_in_mode
    async def test_another_tenants_rows_are_not_there(self, backend: Backend) -> None:
        await add_change(backend)
        await add(backend, PATCH_OPS, patch_op("o1", 1))

        async with backend.writing(backend.other_tenant) as unit:
            for table in (PROJECTS, RECORD_TYPES, CHANGES, TARGETS, PATCH_OPS, SNAPSHOTS):
                assert await unit.rows(table).find() == []
            assert await unit.rows(CHANGES).find({"id": "c1"}, lock=True) == []
            assert await unit.rows(PATCH_OPS).delete({"id": "o1"}) == 0
        with raises_action_error(ErrorCode.CONFLICT):
            async with backend.writing(backend.other_tenant) as unit:
                await unit.rows(CHANGES).update([{"id": "c1", "op_count": 7}])
        await add(backend, PROJECTS, project("p1"), tenant=backend.other_tenant)

        assert await ids(backend, CHANGES, where={"op_count": 0}) == ["c1"]
        assert await ids(backend, PATCH_OPS) == ["o1"]

    @run_in_mode
    async def test_a_read_only_unit_neither_writes_nor_locks(self, backend: Backend) -> None:
        await add_change(backend)
        async with backend.reading() as unit:
            changes = unit.rows(CHANGES)
            with raises_action_error(ErrorCode.INTERNAL):
                await changes.find(lock=True)
            with raises_action_error(ErrorCode.INTERNAL):
                await changes.insert([change("c2")])
            with raises_action_error(ErrorCode.INTERNAL):
                await changes.update([{"id": "c1", "op_count": 1}])
            with raises_action_error(ErrorCode.INTERNAL):
                await unit.rows(PATCH_OPS).delete({"id": "o1"})

    @run_in_mode
    async def test_a_lock_waits_and_sees_what_was_committed_meanwhile(self, backend: Backend) -> None:
        await add_change(backend)
        is_locked = backend.event()

        async def first() -> None:
            async with backend.writing() as unit:
                await unit.rows(CHANGES).find({"id": "c1"}, lock=True)
                is_locked.set()
                await backend.sleep(0.2)
                await unit.rows(PROJECTS).insert([project("p2")])
                await unit.rows(CHANGES).update([{"id": "c1", "op_count": 1}])

        async def second() -> tuple[int, list[str]]:
            await is_locked.wait()
            async with backend.writing() as unit:
                (found,) = await unit.rows(CHANGES).find({"id": "c1"}, lock=True)
                await unit.rows(CHANGES).update([{"id": "c1", "op_count": found["op_count"] + 1}])
                return found["op_count"], [row["id"] for row in await unit.rows(PROJECTS).find()]

        _, seen = await backend.gather(first(), second())

        assert seen == (1, ["p1", "p2"])
        assert await ids(backend, CHANGES, where={"op_count": 2}) == ["c1"]

    @run_in_mode
    async def test_a_lock_is_free_again_after_a_rollback(self, backend: Backend) -> None:
        await add_change(backend)
        unit = backend.unit()
        await unit.rows(CHANGES).find(lock=True)
        await unit.rollback()

        async with backend.writing() as unit:
            assert len(await unit.rows(CHANGES).find(lock=True)) == 1

    @run_in_mode
    async def test_many_who_lock_overlapping_rows_lose_no_update(self, backend: Backend) -> None:
        await add(backend, PROJECTS, project("p1"))
        await add(backend, CHANGES, *(change(f"c{number}") for number in range(4)))
        workers, rounds = 6, 8

        async def count(worker: int) -> None:
            for turn in range(rounds):
                wanted = [f"c{(worker + turn) % 4}", f"c{(worker + turn + 1 + worker % 3) % 4}"]
                if turn % 2:
                    wanted.reverse()
                await self._count_up(backend, wanted)

        await backend.gather(*(count(worker) for worker in range(workers)))

        async with backend.reading() as unit:
            counts = [row["op_count"] for row in await unit.rows(CHANGES).find()]
        assert sum(counts) == sum(
            len({(worker + turn) % 4, (worker + turn + 1 + worker % 3) % 4})
            for worker in range(workers)
            for turn in range(rounds)
        )

    async def _count_up(self, backend: Backend, wanted: Sequence[str]) -> None:
        async with backend.writing() as unit:
            changes = unit.rows(CHANGES)
            found = await changes.find({"id": tuple(wanted)}, lock=True, columns=["id", "op_count"])
            await backend.sleep(0.001)
            await changes.update([{"id": row["id"], "op_count": row["op_count"] + 1} for row in found])
