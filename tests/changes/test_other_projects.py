"""The cost of change control does not grow with other projects of the tenant: counted, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from examples.embedded_postgres import Database

from actionengine import create_engine
from actionengine.changes import change_control_services
from actionengine.changes.guard import RecordTypeGuard
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.tables import CHANGES, PROJECTS, RECORD_TYPES, Table
from tests.backends import AnyStorage
from tests.growth import Office, costs_the_same, open_growing_storage


class Plant(Office):
    """A tenant with two projects: `mine` has an active record type `task`, and `other` one of its own."""

    def __init__(self, storage: AnyStorage) -> None:
        super().__init__(storage)
        self.engine = create_engine(services=change_control_services(), storage=storage)
        self.guard = RecordTypeGuard()
        self.projects = {name: self.project(name) for name in ("mine", "other")}
        for project, key in (("mine", "task"), ("other", "zone")):
            about = {"project_id": self.projects[project], "key": key}
            self.do("record_types.create", {**about, "schema": {"fields": []}}).unwrap()
            self.do("record_types.activate", about).unwrap()

    def project(self, name: str) -> str:
        return str(self.do("projects.create", {"name": name}).unwrap().id)

    def add(self, table: Table, rows: list[dict[str, Any]]) -> None:
        unit = self.storage.unit_of_work(self.tenant, str(uuid4()), "sync")
        run_sync(unit.rows(table).insert(rows))
        self.before_commit()
        run_sync(unit.commit())

    def before_commit(self) -> None:
        """Do nothing."""

    def types(self, *types: tuple[str, str, str]) -> None:
        """Insert record types, each given by its project, key and status."""
        now = datetime.now(UTC)
        self.add(
            RECORD_TYPES,
            [
                {
                    "id": str(uuid4()),
                    "project_id": project,
                    "key": key,
                    "name": f"{key} {uuid4()}",
                    "description": None,
                    "base_type": None,
                    "schema": {"fields": []},
                    "initial_schema": {"fields": []},
                    "version": 1,
                    "base_version": 1,
                    "bytes_since_base": 0,
                    "status": status,
                    "changed_by": None,
                    "created_at": now,
                    "updated_at": now,
                }
                for project, key, status in types
            ],
        )

    def check(self, collection: str) -> object:
        """Look up the validator of a collection's documents."""
        unit = self.storage.unit_of_work(self.tenant, str(uuid4()), "sync", read_only=True)
        try:
            return run_sync(self.guard.check(unit, self.tenant, collection))
        finally:
            run_sync(unit.rollback())


on_both_databases = pytest.mark.parametrize("growing_storage", ["sqlite", "postgres"], indirect=True, scope="module")


def of_one_key(plant: Plant, number: int) -> None:
    """Types of the same keys in many projects, of each key but one that is in use."""
    now = datetime.now(UTC)
    projects = [str(uuid4()) for _ in range(number)]
    plant.add(
        PROJECTS,
        [{"id": id, "name": id, "description": None, "require_review": False, "created_at": now} for id in projects],
    )
    keys = {"task": "draft", "old": "retired", "new": "draft"}
    plant.types(*((project, key, status) for key, status in keys.items() for project in projects))


def activate_again(plant: Plant) -> None:
    about = {"project_id": plant.projects["mine"], "key": "task"}
    plant.do("record_types.retire", about).unwrap()
    plant.do("record_types.activate", about).unwrap()


@on_both_databases
@pytest.mark.parametrize(
    "operation",
    [
        activate_again,
        lambda plant: plant.check("task"),
        lambda plant: plant.check("old"),
        lambda plant: plant.check("new"),
        lambda plant: plant.do("record_types.get", {"project_id": plant.projects["mine"], "key": "task"}).unwrap(),
    ],
    ids=["activate", "check active", "check retired", "check draft", "get"],
)
def test_many_projects_with_a_key_cost_no_more(
    growing_storage: AnyStorage, operation: Callable[[Plant], object]
) -> None:
    costs_the_same(growing_storage, of_one_key, operation, Plant)


class UnseenPlant(Plant):
    """A plant whose rows the statistics do not have: they were made while its transaction was open."""

    owner_url: str

    def before_commit(self) -> None:
        with psycopg.connect(self.owner_url, autocommit=True) as owner:
            owner.execute("ANALYZE public.ae_record_types")


def test_a_key_leads_to_a_type_despite_old_statistics(fresh_postgres_database: Database, tmp_path: Path) -> None:
    UnseenPlant.owner_url = fresh_postgres_database.owner_url

    def get(plant: Plant) -> None:
        plant.do("record_types.get", {"project_id": plant.projects["mine"], "key": "task"}).unwrap()

    with open_growing_storage("postgres", tmp_path, fresh_postgres_database) as storage:
        costs_the_same(storage, of_one_key, get, UnseenPlant)


def of_one_project(plant: Plant, number: int) -> None:
    """Record types of one project that are retired, before the one that is not."""
    plant.types(*((plant.projects["other"], f"k{each:04}", "retired") for each in range(number)))


@on_both_databases
@pytest.mark.parametrize("status", ["active", "draft"])
def test_a_list_of_record_types_reads_one_status(growing_storage: AnyStorage, status: str) -> None:
    def listed(plant: Plant) -> None:
        asked = {"project_id": plant.projects["other"], "status": status}
        found = plant.do("record_types.list", asked).unwrap()
        assert [each.key for each in found] == (["zone"] if status == "active" else [])

    costs_the_same(growing_storage, of_one_project, listed, Plant)


def drafts(plant: Plant, number: int) -> None:
    """Drafts of one project, and changes of another one that are merged."""
    now = datetime.now(UTC)
    change = {"title": "x", "description": "", "status": "Draft", "compensates": None, "op_count": 0}
    times = {"created_at": now, "updated_at": now, "merged_at": None}
    rows = {
        name: [{"id": str(uuid4()), **change, **times, "project_id": plant.projects[name]} for _ in range(number)]
        for name in ("mine", "other")
    }
    plant.add(CHANGES, [*rows["mine"], *rows["other"]])
    unit = plant.storage.unit_of_work(plant.tenant, str(uuid4()), "sync")
    merged = [{"id": row["id"], "status": "Merged", "merged_at": now} for row in rows["other"]]
    run_sync(unit.rows(CHANGES).update(merged))
    run_sync(unit.commit())


@on_both_databases
@pytest.mark.parametrize("status", ["Merged", "Ready", "Validating"])
def test_a_list_of_changes_reads_one_status(growing_storage: AnyStorage, status: str) -> None:
    def listed(plant: Plant) -> None:
        assert plant.do("changes.list", {"project_id": plant.projects["mine"], "status": status}).unwrap() == ()

    costs_the_same(growing_storage, drafts, listed, Plant)
