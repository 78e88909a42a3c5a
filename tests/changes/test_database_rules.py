"""The rules that the database enforces against plain SQL: of the app role, of the owner, and in SQLite."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from examples.embedded_postgres import Database
from pydantic_core import to_json

from actionengine import ErrorCode, PostgresStorage, SQLiteStorage, Tenant
from actionengine.changes.states import ACCEPTS_OPS, STATUSES, TRANSITIONS
from actionengine.concurrency.run_sync import run_sync
from actionengine.errors import ActionError
from actionengine.storage.sqlite.unit_of_work import SQLiteUnitOfWork
from actionengine.storage.tables import (
    CHANGES,
    PATCH_OPS,
    PROJECTS,
    RECORD_TYPES,
    SNAPSHOTS,
    TARGETS,
    Row,
    Table,
)
from actionengine.testing.tables import START, change, patch_op, project, record_type, snapshot, target
from tests.changes.harness import WAYS

STAMP = "previous_snapshot = '{}', executed_at = '2024-03-01T00:00:00+00:00', applied_version = 2"
MERGED = "status = 'Merged', merged_at = '2024-03-01T00:00:00+00:00'"


class Prompt(ABC):
    """A transaction of an action, which is rolled back at the end."""

    name: str
    mark: str

    @abstractmethod
    def run(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        """Run a statement; if it fails, roll it back."""

    def insert(self, table: Table, *rows: Row) -> None:
        """Insert rows in one statement."""
        columns = ", ".join(("tenant_id", *table.columns))
        marks = ", ".join([self.mark] * (len(table.columns) + 1))
        parameters = [
            value
            for row in rows
            for value in (self.tenant_id, *(_given(table.columns[name], row[name]) for name in table.columns))
        ]
        self.run(f"INSERT INTO {table.name} ({columns}) VALUES {', '.join([f'({marks})'] * len(rows))}", parameters)

    def __init__(self) -> None:
        self.tenant_id = str(uuid4())

    @contextmanager
    def refuses(self, message: str, sqlite: str | None = None) -> Iterator[None]:
        """Expect an error with this message, or with another one for a key on SQLite."""
        with pytest.raises(Exception, match=sqlite if sqlite and self.name == "sqlite" else message):
            yield


class PostgresPrompt(Prompt):
    mark = "%s"

    def __init__(self, name: str, connection: psycopg.Connection) -> None:
        super().__init__()
        self.name = name
        self._connection = connection
        connection.execute(
            "SELECT set_config('app.tenant_id', %s, true), set_config('app.action_id', 'x', true)", (self.tenant_id,)
        )

    def run(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        with self._connection.transaction():
            self._connection.execute(statement.encode(), parameters or None)


class SQLitePrompt(Prompt):
    name = "sqlite"
    mark = "?"

    def __init__(self, unit: SQLiteUnitOfWork) -> None:
        super().__init__()
        self.tenant_id = str(unit.tenant.id)
        self._unit = unit

    def run(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        self._unit.query(statement, parameters)


def _given(kind: str, value: Any) -> Any:
    if value is None:
        return None
    if kind == "json":
        return to_json(value).decode()
    return value.isoformat() if isinstance(value, datetime) else value


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SQLiteStorage]:
    with SQLiteStorage(tmp_path_factory.mktemp("rules") / "rules.db") as storage:
        yield storage


# The owner has more rights on a table than the app role, but the rules bind it too.
@pytest.fixture(params=["postgres", "owner", "sqlite"])
def prompt(request: pytest.FixtureRequest, sqlite: SQLiteStorage) -> Iterator[Prompt]:
    """A transaction with the project p1, its record types r1 and r2, and its change c1 with the target t1 (record type
    r1)."""
    if request.param == "sqlite":
        unit = sqlite.unit_of_work(Tenant(uuid4(), "acme"), str(uuid4()), "sync")
        yield _filled(SQLitePrompt(unit))
        run_sync(unit.rollback())
        return
    database: Database = request.getfixturevalue("postgres_database")
    url = database.app_url if request.param == "postgres" else database.owner_url
    with psycopg.connect(url) as connection:
        yield _filled(PostgresPrompt(request.param, connection))
        connection.rollback()


def _filled(prompt: Prompt) -> Prompt:
    prompt.insert(PROJECTS, project("p1"), project("p2", require_review=True))
    prompt.insert(RECORD_TYPES, record_type("r1"), record_type("r2"))
    prompt.insert(CHANGES, change("c1"), change("c2", project_id="p2"))
    prompt.insert(TARGETS, target("t1"))
    return prompt


def move(prompt: Prompt, *statuses: str, id: str = "c1") -> None:
    """Move a change through these states."""
    for status in statuses:
        merged_at = f", merged_at = '{START.isoformat()}'" if status == "Merged" else ""
        prompt.run(f"UPDATE ae_changes SET status = '{status}'{merged_at} WHERE id = '{id}'")


def schema(*fields: tuple[str, bool]) -> dict[str, Any]:
    return {"fields": [{"name": name, "type": "string", "required": required} for name, required in fields]}


# D1 to D4


def test_d1_a_record_type_has_a_project(prompt: Prompt) -> None:
    with prompt.refuses("null value in column", sqlite="NOT NULL constraint failed"):
        prompt.insert(RECORD_TYPES, record_type("r3", project_id=None))
    with prompt.refuses("ae_record_types_d1_project", sqlite="FOREIGN KEY"):
        prompt.insert(RECORD_TYPES, record_type("r3", project_id="p9"))


def test_d2_a_change_has_a_project(prompt: Prompt) -> None:
    with prompt.refuses("null value in column", sqlite="NOT NULL constraint failed"):
        prompt.insert(CHANGES, change("c3", project_id=None))
    with prompt.refuses("ae_changes_d2_project", sqlite="FOREIGN KEY"):
        prompt.insert(CHANGES, change("c3", project_id="p9"))


def test_d3_a_key_is_unique_in_a_project(prompt: Prompt) -> None:
    with prompt.refuses("ae_record_types_d3_key", sqlite=r"UNIQUE .*project_id, ae_record_types.key"):
        prompt.insert(RECORD_TYPES, record_type("r3", key="type-r1"))

    prompt.insert(RECORD_TYPES, record_type("r3", key="type-r1", project_id="p2"))


def test_d3_one_record_type_of_a_key_is_active_in_a_tenant(prompt: Prompt) -> None:
    prompt.insert(RECORD_TYPES, record_type("r3", key="type-r1", project_id="p2", status="active"))

    with prompt.refuses("ae_record_types_d3_active", sqlite="UNIQUE .*tenant_id, ae_record_types.key"):
        prompt.run("UPDATE ae_record_types SET status = 'active' WHERE id = 'r1'")


def test_d4_a_name_is_unique_in_a_tenant(prompt: Prompt) -> None:
    with prompt.refuses("ae_record_types_d4_name", sqlite="UNIQUE .*ae_record_types.name"):
        prompt.insert(RECORD_TYPES, record_type("r3", name="type r1", project_id="p2"))
    with prompt.refuses("ae_projects_d4_name", sqlite="UNIQUE .*ae_projects.name"):
        prompt.insert(PROJECTS, project("p3", name="project p1"))


# D5, D6


def test_d5_a_change_has_one_snapshot_of_a_record_type(prompt: Prompt) -> None:
    prompt.insert(SNAPSHOTS, snapshot("type-r1"), snapshot("type-r2"))

    with prompt.refuses("ae_snapshots_d5_one_per_change", sqlite="UNIQUE .*ae_snapshots.record_type_key"):
        prompt.insert(SNAPSHOTS, snapshot("type-r1", version=2))


@pytest.mark.parametrize("statement", ["UPDATE ae_snapshots SET version = 9", "DELETE FROM ae_snapshots"])
def test_d5_a_snapshot_stays_as_it_is(prompt: Prompt, statement: str) -> None:
    prompt.insert(SNAPSHOTS, snapshot("type-r1"))

    with prompt.refuses("permission denied|append-only"):
        prompt.run(statement)


def test_d6_a_snapshot_is_of_its_changes_project(prompt: Prompt) -> None:
    prompt.insert(RECORD_TYPES, record_type("r3", project_id="p2"))

    with prompt.refuses("ae_snapshots_d6_project", sqlite="FOREIGN KEY"):
        prompt.insert(SNAPSHOTS, snapshot("type-r3", project_id="p2"))
    with prompt.refuses("ae_snapshots_d6_record_type", sqlite="FOREIGN KEY"):
        prompt.insert(SNAPSHOTS, snapshot("type-r3"))


# D7 to D9, and the shape of an op


@pytest.mark.parametrize(
    ("stamps", "rule"),
    [
        ("previous_snapshot = '{}'", "ae_patch_ops_d7_snapshot"),
        ("applied_version = 2", "ae_patch_ops_d7_version"),
        ("executed_at = created_at", "ae_patch_ops_d7"),
        ("executed_at = created_at, previous_snapshot = '{}'", "ae_patch_ops_d7_version"),
        ("executed_at = created_at, applied_version = 2", "ae_patch_ops_d7_snapshot"),
    ],
)
def test_d7_an_op_is_stamped_with_everything_or_not_at_all(prompt: Prompt, stamps: str, rule: str) -> None:
    prompt.insert(PATCH_OPS, patch_op("o1", 1))

    with prompt.refuses(rule):
        prompt.run(f"UPDATE ae_patch_ops SET {stamps}")


SCHEMAS = {
    "nothing": {},
    "a list": [],
    "a text": "fields",
    "fields that are none": {"fields": {"a": {"type": "string"}}},
    "a field that is a text": {"fields": ["a"]},
    "a field that is null": {"fields": [None]},
    "no name": {"fields": [{"type": "string"}]},
    "an empty name": {"fields": [{"name": "", "type": "string"}]},
    "a name that is no text": {"fields": [{"name": 1, "type": "string"}]},
    "no type": {"fields": [{"name": "a"}]},
    "an unknown type": {"fields": [{"name": "a", "type": "varchar"}]},
    "a type that is no text": {"fields": [{"name": "a", "type": ["string"]}]},
    "required, more or less": {"fields": [{"name": "a", "type": "string", "required": "yes"}]},
    "two of one name": {"fields": [{"name": "a", "type": "string"}, {"name": "a", "type": "number"}]},
}


@pytest.mark.parametrize("given", SCHEMAS.values(), ids=SCHEMAS)
def test_d8_a_schema_has_fields_of_known_types(prompt: Prompt, given: Any) -> None:
    with prompt.refuses("d8_schema", sqlite="D8: "):
        prompt.insert(RECORD_TYPES, record_type("r3", schema=given))
    with prompt.refuses("d8_initial_schema", sqlite="D8: "):
        prompt.insert(RECORD_TYPES, record_type("r3", initial_schema=given))

    prompt.insert(SNAPSHOTS, snapshot("type-r1"))
    with prompt.refuses("d8_schema", sqlite="D8: "):
        update = f"UPDATE ae_record_types SET schema = {prompt.mark}, version = 2, changed_by = 'c1' WHERE id = 'r1'"
        prompt.run(update, (to_json(given).decode(),))


def test_d8_every_known_type_will_do(prompt: Prompt) -> None:
    types = ("string", "number", "boolean", "reference", "choice", "text", "date", "datetime")
    fields = [{"name": f"a {type}", "type": type, "required": type == "text", "label": "x"} for type in types]

    prompt.insert(RECORD_TYPES, record_type("r3", schema={"fields": fields}, initial_schema={"fields": []}))


@pytest.mark.parametrize("op_type", ["add_field", "set_field"])
@pytest.mark.parametrize("definition", [None, {}, "string", {"type": "varchar"}, {"type": None}])
def test_d8_an_op_defines_a_field_of_a_known_type(prompt: Prompt, op_type: str, definition: Any) -> None:
    gives = "a" if op_type == "add_field" else None
    op = patch_op("o1", 1, op_type=op_type, payload={"definition": definition}, field="a", gives=gives)

    with prompt.refuses("ae_patch_ops_d8_definition"):
        prompt.insert(PATCH_OPS, op)


SELECTORS = {
    "an unknown type": ("table", {"table_key": "a"}),
    "another type's key": ("form", {"workflow_key": "a"}),
    "a file's key": ("file", {"file_key": "a"}),
    "nothing": ("form", {}),
    "an empty text": ("form", {"form_key": ""}),
    "no text": ("form", {"form_key": 1}),
    "null": ("form", {"form_key": None}),
    "more than that": ("form", {"form_key": "a", "rule_key": "b"}),
    "a list": ("form", ["form_key"]),
    "a text": ("form", "form_key"),
}


@pytest.mark.parametrize(("type", "selector"), SELECTORS.values(), ids=SELECTORS)
def test_d9_a_selector_has_the_shape_of_its_targets_type(prompt: Prompt, type: str, selector: Any) -> None:
    with prompt.refuses("ae_change_targets_d9"):
        prompt.insert(TARGETS, target("t2", type=type, selector=selector))


def test_d9_every_known_type_will_do(prompt: Prompt) -> None:
    keys = ("form_key", "workflow_key", "rule_key", "record_type_key", "script_key", "file_path")
    targets = [target(key, type=key.rpartition("_")[0], selector={key: "a"}) for key in keys]

    prompt.insert(TARGETS, *targets)


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"op_type": "drop_table", "gives": None}, "ae_patch_ops_type"),
        ({"field": None}, "ae_patch_ops_field"),
        ({"record_type_version": None}, "ae_patch_ops_version"),
        ({"gives": None}, "ae_patch_ops_gives"),
        ({"op_type": "set_field"}, "ae_patch_ops_gives"),
        ({"op_type": "rename_field", "gives": None}, "ae_patch_ops_gives"),
    ],
)
def test_an_op_says_what_its_type_needs(prompt: Prompt, fields: dict[str, Any], rule: str) -> None:
    with prompt.refuses(rule):
        prompt.insert(PATCH_OPS, patch_op("o1", 1, **fields))


def test_an_op_on_a_file_is_about_no_record_type(prompt: Prompt) -> None:
    edit = {"op_type": "edit_file", "target_id": "t2", "payload": {"file_path": "a.py"}, "gives": None}
    nothing = {"record_type_key": None, "field": None, "record_type_version": None}
    prompt.insert(TARGETS, target("t2", type="file", selector={"file_path": "a.py"}))

    for name, value in (("record_type_key", "type-r1"), ("field", "a"), ("record_type_version", 1)):
        with prompt.refuses("ae_patch_ops_(record_type|field|version)"):
            prompt.insert(PATCH_OPS, patch_op("o1", 1, **edit, **{**nothing, name: value}))
    prompt.insert(PATCH_OPS, patch_op("o1", 1, **edit, **nothing))


def test_two_ops_of_a_change_have_two_positions(prompt: Prompt) -> None:
    prompt.insert(PATCH_OPS, patch_op("o1", 1))

    with prompt.refuses("ae_patch_ops_position", sqlite="UNIQUE .*position"):
        prompt.insert(PATCH_OPS, patch_op("o2", 1))


def test_a_record_type_has_a_known_status(prompt: Prompt) -> None:
    with prompt.refuses("ae_record_types_status"):
        prompt.run("UPDATE ae_record_types SET status = 'deleted'")


# The life of a change


@pytest.mark.parametrize("status", [status for status in STATUSES if status != "Draft"])
def test_s1_a_change_begins_as_a_draft(prompt: Prompt, status: str) -> None:
    with prompt.refuses("S1: "):
        prompt.insert(CHANGES, change("c3", status=status, merged_at=START if status == "Merged" else None))


@pytest.mark.parametrize("status", [status for status in STATUSES if status != "Merged"])
def test_s1_a_change_goes_where_it_may_and_nowhere_else(prompt: Prompt, status: str) -> None:
    for number, following in enumerate(STATUSES):
        id = f"way-{number}"
        prompt.insert(CHANGES, change(id))
        move(prompt, *WAYS[status], id=id)
        # A failed merge from Draft leads to ValidationFailed.
        if following in {status, *TRANSITIONS[status]} or (status, following) == ("Draft", "ValidationFailed"):
            move(prompt, following, id=id)
            continue
        with prompt.refuses("S1: "):
            move(prompt, following, id=id)


def test_s1_a_draft_is_merged_only_where_nobody_has_to_review(prompt: Prompt) -> None:
    with prompt.refuses("S1: .*requires review"):
        move(prompt, "Merged", id="c2")

    move(prompt, "Merged", id="c1")


def test_s1_a_status_is_a_known_one(prompt: Prompt) -> None:
    with prompt.refuses("S1: |ae_changes_status"):
        move(prompt, "Finished")


def test_e1_a_change_is_merged_at_a_time(prompt: Prompt) -> None:
    with prompt.refuses("ae_changes_e1_merged_at"):
        prompt.run("UPDATE ae_changes SET status = 'Merged' WHERE id = 'c1'")
    with prompt.refuses("ae_changes_e1_merged_at"):
        prompt.run("UPDATE ae_changes SET merged_at = created_at WHERE id = 'c1'")


# E1 to E3


@pytest.mark.parametrize("status", [status for status in STATUSES if status != "Merged"])
def test_e1_a_merged_change_takes_no_status(prompt: Prompt, status: str) -> None:
    move(prompt, "Merged")

    with prompt.refuses("E1: "):
        prompt.run(f"UPDATE ae_changes SET status = '{status}', merged_at = NULL WHERE id = 'c1'")
    move(prompt, "Merged")


@pytest.mark.parametrize(
    "changed",
    [
        "op_count = 7",
        "merged_at = NULL",
        "title = 'x'",
        "project_id = 'p2'",
        "updated_at = '2025-01-01T00:00:00+00:00'",
    ],
)
def test_e1_a_merged_change_is_immutable(prompt: Prompt, changed: str) -> None:
    move(prompt, "Merged")

    with prompt.refuses("E1: |permission denied"):
        prompt.run(f"UPDATE ae_changes SET {changed} WHERE id = 'c1'")


def test_e1_a_merged_change_takes_no_target(prompt: Prompt) -> None:
    move(prompt, "Merged")

    with prompt.refuses("E1: "):
        prompt.insert(TARGETS, target("t2"))


def test_e1_a_merged_change_takes_and_gives_up_no_op(prompt: Prompt) -> None:
    prompt.insert(PATCH_OPS, patch_op("o1", 1))
    move(prompt, "Merged")

    with prompt.refuses("E1: "):
        prompt.insert(PATCH_OPS, patch_op("o2", 2))
    with prompt.refuses("E1: "):
        prompt.run("DELETE FROM ae_patch_ops")


@pytest.mark.parametrize("prompt", ["postgres", "sqlite"], indirect=True)
def test_e1_a_change_is_not_deleted(prompt: Prompt) -> None:
    with prompt.refuses("permission denied", sqlite="E1: "):
        prompt.run("DELETE FROM ae_changes WHERE id = 'c2'")


def test_e2_an_op_is_executed_once(prompt: Prompt) -> None:
    prompt.insert(PATCH_OPS, patch_op("o1", 1))
    prompt.run(f"UPDATE ae_patch_ops SET {STAMP}")

    with prompt.refuses("E2: "):
        prompt.run(f"UPDATE ae_patch_ops SET {STAMP}")
    with prompt.refuses("E2: "):
        prompt.run("UPDATE ae_patch_ops SET previous_snapshot = NULL, executed_at = NULL, applied_version = NULL")


def test_e2_a_new_op_is_not_executed_yet(prompt: Prompt) -> None:
    with prompt.refuses("E2: "):
        prompt.insert(PATCH_OPS, patch_op("o1", 1, previous_snapshot=schema(), executed_at=START, applied_version=2))


@pytest.mark.parametrize(
    "changed", ["payload = '{}'", "position = 7", "field = 'x'", "gives = 'x'", "target_id = 't9'", "op_type = 'x'"]
)
def test_e2_what_an_op_says_never_changes(prompt: Prompt, changed: str) -> None:
    prompt.insert(PATCH_OPS, patch_op("o1", 1))

    with prompt.refuses("E2: |permission denied"):
        prompt.run(f"UPDATE ae_patch_ops SET {changed}")


def test_e3_an_executed_op_cannot_be_deleted(prompt: Prompt) -> None:
    prompt.insert(PATCH_OPS, patch_op("o1", 1), patch_op("o2", 2))
    prompt.run(f"UPDATE ae_patch_ops SET {STAMP} WHERE id = 'o1'")

    with prompt.refuses("E3: "):
        prompt.run("DELETE FROM ae_patch_ops WHERE id = 'o1'")
    prompt.run("DELETE FROM ae_patch_ops WHERE id = 'o2'")


# E6, E7


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param("schema = '{\"fields\": []}'", id="a schema alone"),
        pytest.param("schema = '{\"fields\": []}', version = 2", id="by nobody"),
        pytest.param("schema = '{\"fields\": []}', version = 2, changed_by = 'c1'", id="without a snapshot"),
        pytest.param("version = 2", id="a version alone"),
        pytest.param("changed_by = 'c1'", id="who has changed it alone"),
    ],
)
def test_e6_a_schema_is_not_changed_before_there_is_a_snapshot(prompt: Prompt, changed: str) -> None:
    prompt.insert(SNAPSHOTS, snapshot("type-r2"))

    with prompt.refuses("E6: "):
        prompt.run(f"UPDATE ae_record_types SET {changed} WHERE id = 'r1'")


def test_e6_a_snapshot_is_what_its_record_type_is(prompt: Prompt) -> None:
    for forged in ({"schema": schema(("a", True))}, {"version": 2}):
        with prompt.refuses("E6: "):
            prompt.insert(SNAPSHOTS, snapshot("type-r1", **forged))
    prompt.insert(SNAPSHOTS, snapshot("type-r1"))


def test_e6_a_schema_has_the_next_version(prompt: Prompt) -> None:
    prompt.insert(SNAPSHOTS, snapshot("type-r1"))
    change = "UPDATE ae_record_types SET schema = '{{\"fields\": []}}', version = {}, changed_by = 'c1' WHERE id = 'r1'"

    for version in (0, 1, 3):
        with prompt.refuses("E6: "):
            prompt.run(change.format(version))
    prompt.run(change.format(2))


def test_e7_a_derived_type_does_not_weaken_its_base(prompt: Prompt) -> None:
    prompt.insert(RECORD_TYPES, record_type("base", schema=schema(("a", True), ("b", False))))
    derived = {"base_type": "type-base"}

    with prompt.refuses("E7: "):
        prompt.insert(RECORD_TYPES, record_type("r4", schema=schema(("a", False)), **derived))
    with prompt.refuses("E7: "):
        left_out = {"fields": [{"name": "a", "type": "string"}]}
        prompt.insert(RECORD_TYPES, record_type("r4", schema=left_out, **derived))
    prompt.insert(RECORD_TYPES, record_type("r4", schema=schema(("a", True), ("b", False), ("c", False)), **derived))
    prompt.insert(RECORD_TYPES, record_type("r5", schema=schema(("b", True)), **derived))


def test_e7_nor_what_any_other_ancestor_requires(prompt: Prompt) -> None:
    prompt.insert(
        RECORD_TYPES,
        record_type("base", schema=schema(("a", True))),
        record_type("middle", schema=schema(), base_type="type-base"),
    )

    with prompt.refuses("E7: "):
        weak = schema(("a", False))
        prompt.insert(RECORD_TYPES, record_type("r4", schema=weak, base_type="type-middle"))


def test_e7_nor_by_an_update(prompt: Prompt) -> None:
    strict = schema(("a", True))
    prompt.insert(RECORD_TYPES, record_type("base", schema=strict))
    prompt.insert(RECORD_TYPES, record_type("r4", schema=strict, base_type="type-base"))
    prompt.insert(SNAPSHOTS, snapshot("type-r4", schema=strict))
    update = f"UPDATE ae_record_types SET schema = {prompt.mark}, version = 2, changed_by = 'c1' WHERE id = 'r4'"

    with prompt.refuses("E7: "):
        prompt.run(update, (to_json(schema(("a", False))).decode(),))
    # A field that is not declared is inherited.
    prompt.run(update, (to_json(schema()).decode(),))


# G1, G2


def test_g1_two_pending_ops_are_not_on_one_field(prompt: Prompt) -> None:
    prompt.insert(PATCH_OPS, patch_op("o1", 1, field="a"))
    remove = {"op_type": "remove_field", "field": "a", "gives": None}

    with prompt.refuses("ae_patch_ops_g1_field", sqlite="UNIQUE .*ae_patch_ops.field"):
        prompt.insert(PATCH_OPS, patch_op("o2", 2, **remove))
    prompt.insert(PATCH_OPS, patch_op("o3", 3, **remove, turn=1))
    prompt.run(f"UPDATE ae_patch_ops SET {STAMP}")
    prompt.insert(PATCH_OPS, patch_op("o2", 2, **remove))


def test_g1_two_pending_ops_do_not_bring_one_name(prompt: Prompt) -> None:
    prompt.insert(PATCH_OPS, patch_op("o1", 1, field="a", gives="a"))
    rename = {"op_type": "rename_field", "field": "b", "payload": {}}

    with prompt.refuses("ae_patch_ops_g1_gives", sqlite="UNIQUE .*ae_patch_ops.gives"):
        prompt.insert(PATCH_OPS, patch_op("o2", 2, **rename, gives="a"))
    prompt.insert(PATCH_OPS, patch_op("o2", 2, **rename, gives="c"))


@pytest.mark.parametrize("status", [status for status in STATUSES if status not in {"Draft", "Merged"}])
def test_g2_targets_come_in_draft_only(prompt: Prompt, status: str) -> None:
    move(prompt, *WAYS[status])

    with prompt.refuses("G2: "):
        prompt.insert(TARGETS, target("t2"))


@pytest.mark.parametrize("statement", ["UPDATE ae_change_targets SET id = 't9'", "DELETE FROM ae_change_targets"])
def test_g2_targets_stay_as_they_are(prompt: Prompt, statement: str) -> None:
    with prompt.refuses("permission denied|append-only"):
        prompt.run(statement)


@pytest.mark.parametrize("status", [status for status in STATUSES if status != "Merged"])
def test_g2_ops_come_and_go_while_a_change_is_worked_on(prompt: Prompt, status: str) -> None:
    prompt.insert(PATCH_OPS, patch_op("o1", 1))
    move(prompt, *WAYS[status])

    if status in ACCEPTS_OPS:
        prompt.insert(PATCH_OPS, patch_op("o2", 2))
        prompt.run("DELETE FROM ae_patch_ops")
        return
    with prompt.refuses("G2: "):
        prompt.insert(PATCH_OPS, patch_op("o2", 2))
    with prompt.refuses("G2: "):
        prompt.run("DELETE FROM ae_patch_ops")


# P1, P5, P6


def test_p1_an_op_is_on_a_record_type_of_its_changes_project(prompt: Prompt) -> None:
    prompt.insert(RECORD_TYPES, record_type("r3", project_id="p2"))
    prompt.insert(TARGETS, target("t2", selector={"record_type_key": "type-r3"}))

    with prompt.refuses("ae_patch_ops_p1_record_type", sqlite="FOREIGN KEY"):
        prompt.insert(PATCH_OPS, patch_op("o1", 1, target_id="t2", record_type_key="type-r3"))


@pytest.mark.parametrize(
    "selected",
    [
        pytest.param({"type": "record_type", "selector": {"record_type_key": "type-r2"}}, id="another record type"),
        pytest.param({"type": "form", "selector": {"form_key": "type-r1"}}, id="a form"),
        pytest.param({"type": "file", "selector": {"file_path": "type-r1"}}, id="a file"),
    ],
)
def test_p1_an_op_is_about_what_its_target_names(prompt: Prompt, selected: dict[str, Any]) -> None:
    prompt.insert(TARGETS, target("t2", **selected))

    with prompt.refuses("P1: "):
        prompt.insert(PATCH_OPS, patch_op("o1", 1, target_id="t2"))


@pytest.mark.parametrize("target_id", ["t1", "t2"])
def test_p1_a_file_is_edited_where_the_target_is_that_file(prompt: Prompt, target_id: str) -> None:
    prompt.insert(TARGETS, target("t2", type="file", selector={"file_path": "a.py"}))
    nothing = {"record_type_key": None, "field": None, "record_type_version": None, "gives": None}
    edit = {"op_type": "edit_file", "payload": {"file_path": "b.py", "diff": ""}}

    with prompt.refuses("P1: "):
        prompt.insert(PATCH_OPS, patch_op("o1", 1, target_id=target_id, **edit, **nothing))


def test_p5_a_target_is_of_its_changes_project(prompt: Prompt) -> None:
    with prompt.refuses("ae_change_targets_p5_project", sqlite="FOREIGN KEY"):
        prompt.insert(TARGETS, target("t2", project_id="p2"))


def test_p5_an_op_has_its_changes_project_and_target(prompt: Prompt) -> None:
    prompt.insert(RECORD_TYPES, record_type("r3", project_id="p2", key="type-r1"))

    with prompt.refuses("ae_patch_ops_p5_project", sqlite="FOREIGN KEY"):
        prompt.insert(PATCH_OPS, patch_op("o1", 1, project_id="p2"))
    with prompt.refuses("ae_patch_ops_p5_target", sqlite="FOREIGN KEY"):
        prompt.insert(PATCH_OPS, patch_op("o1", 1, project_id="p2", change_id="c2"))


def test_p5_a_change_stays_in_its_project(prompt: Prompt) -> None:
    with prompt.refuses("P5: |permission denied"):
        prompt.run("UPDATE ae_changes SET project_id = 'p1' WHERE id = 'c2'")


def test_p6_a_base_type_is_of_the_same_project(prompt: Prompt) -> None:
    with prompt.refuses("P6: "):
        prompt.insert(RECORD_TYPES, record_type("r3", project_id="p2", base_type="type-r1"))


def test_p6_a_base_type_is_there_first(prompt: Prompt) -> None:
    with prompt.refuses("P6: "):
        prompt.insert(RECORD_TYPES, record_type("r3", base_type="type-r9"))
    with prompt.refuses("P6: "):
        prompt.insert(RECORD_TYPES, record_type("r3", base_type="type-r4"), record_type("r4"))

    prompt.insert(RECORD_TYPES, record_type("r3"), record_type("r4", base_type="type-r3"))


def test_p6_a_base_type_of_another_tenant_does_not_count(sqlite: SQLiteStorage) -> None:
    units = [sqlite.unit_of_work(Tenant(uuid4(), slug), str(uuid4()), "sync") for slug in ("globex", "acme")]
    globex = _filled(SQLitePrompt(units[0]))
    globex.insert(RECORD_TYPES, record_type("theirs"))
    run_sync(units[0].commit())
    acme = _filled(SQLitePrompt(units[1]))

    with acme.refuses("P6: "):
        acme.insert(RECORD_TYPES, record_type("r3", base_type="type-theirs"))

    run_sync(units[1].rollback())


def test_p6_a_type_is_not_its_own_base(prompt: Prompt) -> None:
    with prompt.refuses("P6: |p6_not_its_own_base"):
        prompt.insert(RECORD_TYPES, record_type("r3", base_type="type-r3"))


def test_p6_two_types_are_not_each_others_base(prompt: Prompt) -> None:
    with prompt.refuses("P6: "):
        prompt.insert(RECORD_TYPES, record_type("r3", base_type="type-r4"), record_type("r4", base_type="type-r3"))


@pytest.mark.parametrize(
    "changed",
    [
        "id = 'r9'",
        "project_id = 'p2'",
        "key = 'other'",
        "base_type = 'type-r2'",
        "initial_schema = '{\"fields\": []}'",
        "created_at = '2025-01-01T00:00:00+00:00'",
    ],
)
def test_p6_where_a_record_type_belongs_never_changes(prompt: Prompt, changed: str) -> None:
    with prompt.refuses("P6: |permission denied"):
        prompt.run(f"UPDATE ae_record_types SET {changed} WHERE id = 'r1'")


@pytest.mark.parametrize("prompt", ["postgres", "sqlite"], indirect=True)
def test_p6_a_record_type_is_not_deleted(prompt: Prompt) -> None:
    with prompt.refuses("permission denied", sqlite="P6: "):
        prompt.run("DELETE FROM ae_record_types WHERE id = 'r2'")


@pytest.mark.parametrize("statement", ["UPDATE ae_projects SET require_review = false", "DELETE FROM ae_projects"])
@pytest.mark.parametrize("prompt", ["postgres", "sqlite"], indirect=True)
def test_a_project_stays_as_it_is(prompt: Prompt, statement: str) -> None:
    with prompt.refuses("permission denied|append-only"):
        prompt.run(statement)


# Errors as callers get them


@pytest.fixture(params=["postgres", "sqlite"])
def storage(request: pytest.FixtureRequest, sqlite: SQLiteStorage) -> Iterator[PostgresStorage | SQLiteStorage]:
    if request.param == "sqlite":
        yield sqlite
        return
    with PostgresStorage(request.getfixturevalue("postgres_database").app_url) as storage:
        yield storage


@pytest.mark.parametrize(
    ("table", "row", "message"),
    [
        pytest.param(CHANGES, change("c1", status="Ready"), "^S1: ", id="a trigger"),
        pytest.param(CHANGES, change("c1", merged_at=START), "ae_changes_e1_merged_at", id="a check"),
        pytest.param(CHANGES, change("c1", title=None), "title", id="a null"),
        pytest.param(PROJECTS, project("p2", name="project p1"), "this exists already", id="a name"),
    ],
)
def test_a_refusal_of_the_database_names_the_rule(
    storage: PostgresStorage | SQLiteStorage, table: Table, row: Row, message: str
) -> None:
    unit = storage.unit_of_work(Tenant(uuid4(), "acme"), str(uuid4()), "sync")
    run_sync(unit.rows(PROJECTS).insert([project("p1")]))

    with pytest.raises(ActionError, match=message) as caught:
        run_sync(unit.rows(table).insert([row]))

    assert caught.value.code is ErrorCode.CONFLICT
    run_sync(unit.rollback())


def test_e7_is_looked_at_when_all_rows_of_an_update_are_written(storage: PostgresStorage | SQLiteStorage) -> None:
    unit = storage.unit_of_work(Tenant(uuid4(), "acme"), str(uuid4()), "sync")
    strict, lax = schema(("a", True)), schema(("a", False))
    types = unit.rows(RECORD_TYPES)
    run_sync(unit.rows(PROJECTS).insert([project("p1")]))
    run_sync(types.insert([record_type("base", schema=strict)]))
    run_sync(types.insert([record_type("derived", schema=strict, base_type="type-base")]))
    run_sync(unit.rows(CHANGES).insert([change("c1")]))
    snapshots = [snapshot("type-base", schema=strict), snapshot("type-derived", schema=strict)]
    run_sync(unit.rows(SNAPSHOTS).insert(snapshots))

    new = {"schema": lax, "version": 2, "changed_by": "c1"}
    run_sync(types.update([{"id": "derived", **new}, {"id": "base", **new}]))

    assert [row["schema"] for row in run_sync(types.find())] == [lax, lax]
    run_sync(unit.rollback())
