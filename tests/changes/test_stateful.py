"""The lives of changes on all three backends at once, compared with a model of change control in plain dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from examples.embedded_postgres import Database
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from returns.result import Success

from actionengine import Actor
from tests.backends import BACKENDS, AnyStorage, open_storage
from tests.changes.model import EDITABLE, NEXT, Model, Op, Refused
from tests.changes.sync_harness import LOG, SyncHarness
from tests.harness import ANN, BOT

NOBODY = 0
"""An id that no row has."""

KEYS = ("asset", "machine", "crane", "vehicle")
NAMES = ("code", "name", "weight", "site", "notes")
ALIVE = frozenset(NEXT) - {"Merged"}
STATUSES = ("Draft", "Implementing", "WorkspaceRunning", "Validating", "ValidationFailed", "Ready", "Merged")
DIFF = "--- a/rule.py\n+++ b/rule.py\n@@ -1 +1 @@\n-old\n+new\n"
FILE = "rule.py"

definitions = st.fixed_dictionaries(
    {"type": st.sampled_from(["string", "number", "date"])},
    optional={"required": st.booleans(), "label": st.sampled_from(["One", "Two"])},
)
fields = st.lists(st.tuples(st.sampled_from(NAMES), definitions), unique_by=lambda field: field[0], max_size=4).map(
    lambda pairs: [{"name": name, "required": False, **definition} for name, definition in pairs]
)
actors = st.sampled_from([ANN, ANN, ANN, ANN, BOT])


class LifeOfChanges(RuleBasedStateMachine):
    """Each rule asks the model and every backend, and compares the answers; the whole state is compared after every
    step."""

    storages: Mapping[str, AnyStorage]

    def __init__(self) -> None:
        super().__init__()
        self.plants = {name: SyncHarness(storage) for name, storage in self.storages.items()}
        self.model = Model()
        self.ids: dict[str, dict[int, str]] = {name: {NOBODY: str(uuid4())} for name in self.plants}
        self.final: dict[str, dict[Any, Any]] = {name: {} for name in self.plants}

    # Requests

    def ask(
        self,
        action: str,
        expected: Callable[[], Any],
        actor: Actor = ANN,
        /,
        project: int | None = None,
        change: int | None = None,
        target: int | None = None,
        op: int | None = None,
        **payload: Any,
    ) -> dict[str, Any]:
        """Run an action on the model and on each backend; return the backends' values if it succeeds."""
        try:
            value, code = expected(), None
        except Refused as refused:
            value, code = None, refused.code
        answers = {}
        given = {"project_id": project, "change_id": change, "target_id": target, "op_id": op}
        for sql_database, harness in self.plants.items():
            ids = {part: self.ids[sql_database][id] for part, id in given.items() if id is not None}
            answer = harness.request(action, {**ids, **payload}, actor)
            found = None if isinstance(answer, Success) else answer.failure()
            assert (found and str(found.code)) == code, f"{sql_database}: {action} {payload}: {answer}, expected {code}"
            if code is None:
                answers[sql_database] = answer.unwrap()
                if action.rpartition(".")[2] in {"create", "add_target", "add_patch_op"} and isinstance(value, int):
                    self.ids[sql_database][value] = answers[sql_database].id
        return answers

    def one_of(self, data: st.DataObject, ids: Any, label: str) -> Any:
        """Draw one of these ids; rarely, or if there are none, an unknown one."""
        return data.draw(st.sampled_from([*ids] * 16 + [NOBODY]), label)

    def some_change(self, data: st.DataObject, rather: Collection[str] = ALIVE) -> int:
        """Draw a change, preferably in one of these states."""
        likely = [id for id, row in self.model.changes.items() if row["status"] in rather]
        id: int = self.one_of(data, [*likely * 8, *self.model.changes], "change")
        return id

    # Projects and record types

    @initialize(data=st.data(), require_review=st.booleans(), schema=fields, derived=fields)
    def begin(self, data: st.DataObject, require_review: bool, schema: Any, derived: Any) -> None:
        self.create_project(require_review)
        (project,) = self.model.projects
        self.make_type(project, "asset", None, schema)
        self.make_type(project, "machine", "asset", derived)
        self.new_change(data, project)

    def create_project(self, require_review: bool) -> None:
        self.ask(
            "projects.create",
            lambda: self.model.create_project(require_review),
            name=uuid4().hex,
            require_review=require_review,
        )

    @rule(require_review=st.booleans())
    def another_project(self, require_review: bool) -> None:
        if len(self.model.projects) < 2:
            self.create_project(require_review)

    @rule(data=st.data(), schema=fields)
    def create_record_type(self, data: st.DataObject, schema: Any) -> None:
        project = self.one_of(data, self.model.projects, "project")
        present = [each for its, each in self.model.types if its == project]
        key = data.draw(st.sampled_from([*[key for key in KEYS if key not in present] * 8, *KEYS]), "key")
        base = data.draw(st.sampled_from([None, *present * 4, "nothing"]), "base")
        self.make_type(project, key, base, schema)

    def make_type(self, project: int, key: str, base: str | None, schema: Any) -> None:
        self.ask(
            "record_types.create",
            lambda: self.model.create_type(project, key, base, schema),
            project=project,
            key=key,
            name=f"{key} {project}",
            base_type=base,
            schema={"fields": schema},
        )

    @rule(data=st.data(), key=st.sampled_from(KEYS), action=st.sampled_from(["activate", "retire"]))
    def use_or_retire(self, data: st.DataObject, key: str, action: str) -> None:
        project = self.one_of(data, self.model.projects, "project")
        status = "active" if action == "activate" else "retired"
        self.ask(
            f"record_types.{action}",
            lambda: self.model.set_type_status(project, key, status),
            project=project,
            key=key,
        )

    @rule(data=st.data())
    def verify_history(self, data: st.DataObject) -> None:
        project, key = data.draw(st.sampled_from(sorted(self.model.types)), "type")
        for harness in self.ask("record_types.verify_history", lambda: None, project=project, key=key).values():
            assert harness.is_intact, harness

    # Drafts

    @rule(data=st.data())
    def create_change(self, data: st.DataObject) -> None:
        self.new_change(data, self.one_of(data, self.model.projects, "project"))

    def new_change(self, data: st.DataObject, project: int) -> None:
        """A draft with a few ops."""
        answers = self.ask(
            "changes.create", lambda: self.model.create_change(project), project=project, title="A change"
        )
        if answers:
            change = max(self.model.changes)
            for key in sorted(self.model.schemas(project)):
                self.new_target(change, "record_type", key)
            for _ in range(data.draw(st.integers(0, 4), "ops")):
                self.new_op(data, change)

    @rule(data=st.data(), name=st.sampled_from([*KEYS, FILE]))
    def add_target(self, data: st.DataObject, name: str) -> None:
        change = self.one_of(data, self.model.changes, "change")
        self.new_target(change, "file" if name == FILE else "record_type", name)

    def new_target(self, change: int, type: str, name: str) -> None:
        self.ask(
            "changes.add_target",
            lambda: self.model.add_target(change, type, name),
            change=change,
            type=type,
            selector={"file_path" if type == "file" else "record_type_key": name},
        )

    @rule(data=st.data())
    def add_op(self, data: st.DataObject) -> None:
        self.new_op(data, self.some_change(data, EDITABLE))

    def new_op(self, data: st.DataObject, change: int) -> None:
        own = [id for id, target in self.model.targets.items() if target["change"] == change]
        target = self.one_of(data, own or self.model.targets, "target")
        op = data.draw(self.ops_for(change, target), "op")
        self.ask(
            "changes.add_patch_op",
            lambda: self.model.add_op(change, target, op),
            change=change,
            target=target,
            **op,
        )

    def ops_for(self, change: int, target: int) -> st.SearchStrategy[Op]:
        """Draw ops that mostly fit the record type of a target; some are for another one, or cannot be applied."""
        about = self.model.targets.get(target, {"name": "asset"})["name"]
        if about == FILE:
            return st.just({"op_type": "edit_file", "payload": {"file_path": FILE, "diff": DIFF}})
        project = self.model.changes.get(change, {"project": NOBODY})["project"]
        here = [field["name"] for field in self.model.types.get((project, about), {"fields": []})["fields"]]
        there = st.sampled_from([*here * 12, *NAMES])
        free = st.sampled_from([name for name in NAMES if name not in here] * 8 + [*NAMES])
        key = st.sampled_from([about] * 40 + [*KEYS])
        before = {"before": there}
        return st.one_of(
            _op("add_field", {"record_type": key, "field": free, "definition": definitions}, override=st.booleans()),
            _op("add_field", {"record_type": key, "field": free, "definition": definitions}, **before),
            _op("set_field", {"record_type": key, "field": there, "definition": definitions}, **before),
            _op("remove_field", {"record_type": key, "field": there}),
            _op("rename_field", {"record_type": key, "old_name": there, "new_name": free}),
        )

    @rule(
        data=st.data(),
        op=st.sampled_from(
            [
                {"op_type": "add_field", "payload": {"record_type": "asset", "field": "code"}},
                {"op_type": "set_field", "payload": {"record_type": "asset", "field": "x", "definition": {}}},
                {"op_type": "rename_field", "payload": {"record_type": "asset", "old_name": "x", "new_name": "x"}},
                {"op_type": "remove_field", "payload": {"record_type": "asset", "field": "x", "more": 1}},
                {"op_type": "edit_file", "payload": {"file_path": FILE, "diff": "nothing of the kind"}},
                {"op_type": "drop_table", "payload": {}},
            ]
        ),
    )
    def add_nonsense(self, data: st.DataObject, op: Op) -> None:
        def refuse() -> None:
            raise Refused("invalid_input")

        change = self.some_change(data)
        target = self.one_of(data, self.model.targets, "target")
        self.ask("changes.add_patch_op", refuse, change=change, target=target, **op)

    @rule(data=st.data())
    def delete_op(self, data: st.DataObject) -> None:
        pending = [id for id in self.model.ops if self.model.ops[id]["applied"] is None]
        op = self.one_of(data, [*pending * 4, *self.model.ops], "op")
        its = self.model.ops[op]["change"] if op in self.model.ops else NOBODY
        change = self.one_of(data, [its] * 8 + [*self.model.changes], "change")
        self.ask("changes.delete_patch_op", lambda: self.model.delete_op(change, op), change=change, op=op)

    # Transitions and merges

    @rule(data=st.data(), actor=actors)
    def transition(self, data: st.DataObject, actor: Actor) -> None:
        change = self.some_change(data)
        status = data.draw(st.sampled_from(STATUSES), "status")
        self.move(change, status, actor)

    def move(self, change: int, status: str, actor: Actor = ANN) -> None:
        self.ask(
            "changes.transition",
            lambda: self.model.transition(change, status, actor is BOT),
            actor,
            change=change,
            status=status,
        )

    @rule(data=st.data())
    def preview(self, data: st.DataObject) -> None:
        change = self.some_change(data)
        before = {name: harness.dump(without=LOG) for name, harness in self.plants.items()}

        self.ask("changes.preview", lambda: self.model.preview(change), BOT, change=change)

        assert {name: harness.dump(without=LOG) for name, harness in self.plants.items()} == before

    @rule(data=st.data(), actor=actors)
    def execute(self, data: st.DataObject, actor: Actor) -> None:
        self.apply("execute", self.some_change(data), actor)

    @rule(data=st.data(), actor=actors)
    def merge(self, data: st.DataObject, actor: Actor) -> None:
        self.apply("merge", self.some_change(data), actor)

    @rule(data=st.data())
    def merge_after_a_review(self, data: st.DataObject) -> None:
        change = self.some_change(data)
        for status in ("Validating", "Ready"):
            self.move(change, status)
        self.apply("merge", change, ANN)

    def apply(self, how: str, change: int, actor: Actor) -> None:
        done = list[int]()
        do = self.model.merge if how == "merge" else self.model.execute

        def expected() -> None:
            done.append(do(change, actor is BOT))

        for answer in self.ask(f"changes.{how}", expected, actor, change=change).values():
            assert [answer.applied_count] == done

    @precondition(lambda self: any(row["fields"] for row in self.model.types.values()))
    @rule(data=st.data())
    def merge_two_drafts_about_one_field(self, data: st.DataObject) -> None:
        known = [(*at, field["name"]) for at, row in self.model.types.items() for field in row["fields"]]
        project, key, field = data.draw(st.sampled_from(known), "field")
        drafts = []
        for number in (1, 2):
            self.ask("changes.create", lambda: self.model.create_change(project), project=project, title="A rival")
            change = max(self.model.changes)
            drafts.append(change)
            self.new_target(change, "record_type", key)
            target = max(self.model.targets)
            definition = {"type": "string", "required": True, "label": f"Rival {number}"}
            op: Op = {"op_type": "set_field", "payload": {"record_type": key, "field": field, "definition": definition}}
            self.ask(
                "changes.add_patch_op",
                partial(self.model.add_op, change, target, op),
                change=change,
                target=target,
                **op,
            )
        for change in drafts:
            for status in ("Validating", "Ready"):
                self.move(change, status)
            self.apply("merge", change, ANN)

    @precondition(lambda self: any(self.model.has_executed(change) for change in self.model.changes))
    @rule(data=st.data(), is_merged=st.booleans())
    def compensate(self, data: st.DataObject, is_merged: bool) -> None:
        executed = [id for id in self.model.changes if self.model.has_executed(id)]
        change = self.one_of(data, [*executed * 8, *self.model.changes], "change")
        restores = change in self.model.changes and self.model.can_surely_be_compensated(change)
        draft = self.plan_compensation(change)
        assert draft is not None or not restores
        if draft is None or not is_merged:
            return
        for status in ("Validating", "Ready"):
            self.move(draft, status)
        self.apply("merge", draft, ANN)
        if restores:
            project = self.model.changes[change]["project"]
            for (its, key), snapshot in self.model.snapshots.items():
                if its == change:
                    assert self.model.types[project, key]["fields"] == snapshot["fields"]

    def plan_compensation(self, change: int) -> int | None:
        """Draft a compensation. If the project has changed since, the backends may refuse it, all for one reason."""
        answers = {
            name: harness.request("changes.plan_compensation", {"change_id": self.ids[name][change]})
            for name, harness in self.plants.items()
        }
        codes = {None if isinstance(answer, Success) else str(answer.failure().code) for answer in answers.values()}
        assert len(codes) == 1, answers
        (code,) = codes
        if change not in self.model.changes:
            assert code == "not_found"
            return None
        if not self.model.has_executed(change):
            assert code == "conflict"
            return None
        assert code in {None, "conflict", "unprocessable"}
        if code is not None:
            return None
        return self.learn_draft(change, {name: answer.unwrap().id for name, answer in answers.items()})

    def learn_draft(self, change: int, drafts: Mapping[str, str]) -> int:
        """Add the drafted compensation to the model."""
        model = self.model
        draft = model.create_change(model.changes[change]["project"])
        model.changes[draft]["compensates"] = change
        found = {}
        for name, harness in self.plants.items():
            self.ids[name][draft] = drafts[name]
            tables = harness.tables()
            targets = {row["id"]: row for row in tables["ae_change_targets"] if row["change_id"] == drafts[name]}
            ops = sorted(
                (row for row in tables["ae_patch_ops"] if row["change_id"] == drafts[name]),
                key=lambda row: row["position"],
            )
            keys = [row["selector"]["record_type_key"] for row in targets.values()]
            described = [
                {"op_type": row["op_type"], "payload": row["payload"], "about": targets[row["target_id"]]["selector"]}
                for row in ops
            ]
            found[name] = (sorted(targets.values(), key=lambda row: row["selector"]["record_type_key"]), ops)
            assert sorted(keys) == sorted(key for its, key in model.snapshots if its == change)
            if name == "memory":
                expected = described
            assert described == expected
        targets_of = {}
        for number, row in enumerate(found["memory"][0]):
            key = row["selector"]["record_type_key"]
            targets_of[key] = model.add_target(draft, "record_type", key)
            for name in self.plants:
                self.ids[name][targets_of[key]] = found[name][0][number]["id"]
        for number, row in enumerate(found["memory"][1]):
            op = {"op_type": row["op_type"], "payload": row["payload"]}
            id = model.put_op(draft, targets_of[row["record_type_key"]], op)
            for name in self.plants:
                self.ids[name][id] = found[name][1][number]["id"]
        return draft

    # Invariants

    @invariant()
    def every_backend_has_what_the_model_has(self) -> None:
        expected = state_of_model(self.model)
        for name, harness in self.plants.items():
            tables = harness.tables()
            assert state_of_tables(tables, self.ids[name]) == expected, name
            self.check_tables(name, tables)

    def check_tables(self, name: str, tables: Mapping[str, Any]) -> None:
        # D5, D7
        taken = [(row["change_id"], row["record_type_key"]) for row in tables["ae_snapshots"]]
        assert len(set(taken)) == len(taken)
        for row in tables["ae_patch_ops"]:
            assert (
                (row["previous_snapshot"] is None) == (row["executed_at"] is None) == (row["applied_version"] is None)
            )
        # Immutable rows stay as they are, to the microsecond.
        merged = {row["id"] for row in tables["ae_changes"] if row["status"] == "Merged"}
        final: dict[Any, Any] = {
            ("snapshot", row["change_id"], row["record_type_key"]): row for row in tables["ae_snapshots"]
        }
        final |= {("change", row["id"]): row for row in tables["ae_changes"] if row["id"] in merged}
        for table in ("ae_change_targets", "ae_patch_ops"):
            final |= {(table, row["id"]): row for row in tables[table] if row["change_id"] in merged}
        assert self.final[name] == {of: final.get(of) for of in self.final[name]}
        self.final[name] = final

    def teardown(self) -> None:
        for name, harness in self.plants.items():
            for change in self.model.changes:
                found = harness.do("changes.list_patch_ops", change_id=self.ids[name][change])
                own = sorted((op for op in self.model.ops.values() if op["change"] == change), key=_position)
                before = [op.previous_snapshot and op.previous_snapshot["fields"] for op in found]
                assert before == [op["before"] for op in own]
                taken = harness.do("changes.list_snapshots", change_id=self.ids[name][change])
                assert {each.record_type_key: each.schema["fields"] for each in taken} == {
                    key: row["fields"] for (its, key), row in self.model.snapshots.items() if its == change
                }
            for project in harness.do("projects.list"):
                harness.check_history(project.id)


def _position(op: Mapping[str, Any]) -> int:
    position: int = op["position"]
    return position


def _op(
    op_type: str, payload: dict[str, st.SearchStrategy[Any]], **optional: st.SearchStrategy[Any]
) -> st.SearchStrategy[Op]:
    return (
        st.fixed_dictionaries(payload, optional=optional)
        .filter(lambda made: made.get("before") != made.get("field") or "before" not in made)
        .filter(lambda made: "new_name" not in made or made["new_name"] != made["old_name"])
        .map(lambda made: {"op_type": op_type, "payload": made})
    )


def state_of_model(model: Model) -> dict[str, Any]:
    return {
        "projects": {id: row["require_review"] for id, row in model.projects.items()},
        "types": {
            at: (row["base"], row["fields"], row["initial"], row["version"], row["status"], row["changed_by"])
            for at, row in model.types.items()
        },
        "changes": {
            id: (row["project"], row["status"], row["compensates"], row["op_count"], row["status"] == "Merged")
            for id, row in model.changes.items()
        },
        "targets": {
            id: (row["change"], model.changes[row["change"]]["project"], row["type"], row["name"])
            for id, row in model.targets.items()
        },
        "ops": {
            id: (
                (row["change"], row["target"], row["position"], row["op_type"], row["payload"]),
                (row["seen"], row["applied"], row["before"] is not None),
            )
            for id, row in model.ops.items()
        },
        "snapshots": {at: (model.changes[at[0]]["project"], row["version"]) for at, row in model.snapshots.items()},
    }


def state_of_tables(tables: Mapping[str, Any], ids: Mapping[int, str]) -> dict[str, Any]:
    """Return the same view of a backend's rows."""
    number: dict[str | None, int | None] = {given: id for id, given in ids.items()} | {None: None}
    return {
        "projects": {number[row["id"]]: row["require_review"] for row in tables["ae_projects"]},
        "types": {
            (number[row["project_id"]], row["key"]): (
                row["base_type"],
                row["schema"]["fields"],
                row["initial_schema"]["fields"],
                row["version"],
                row["status"],
                number[row["changed_by"]],
            )
            for row in tables["ae_record_types"]
        },
        "changes": {
            number[row["id"]]: (
                number[row["project_id"]],
                row["status"],
                number[row["compensates"]],
                row["op_count"],
                row["merged_at"] is not None,
            )
            for row in tables["ae_changes"]
        },
        "targets": {
            number[row["id"]]: (
                number[row["change_id"]],
                number[row["project_id"]],
                row["type"],
                *row["selector"].values(),
            )
            for row in tables["ae_change_targets"]
        },
        "ops": {
            number[row["id"]]: (
                (
                    number[row["change_id"]],
                    number[row["target_id"]],
                    row["position"],
                    row["op_type"],
                    row["payload"],
                ),
                (
                    row["record_type_version"],
                    row["applied_version"],
                    row["previous_snapshot"] is not None,
                ),
            )
            for row in tables["ae_patch_ops"]
        },
        "snapshots": {
            (number[row["change_id"]], row["record_type_key"]): (number[row["project_id"]], row["version"])
            for row in tables["ae_snapshots"]
        },
    }


@pytest.fixture(scope="module")
def storages(tmp_path_factory: pytest.TempPathFactory, postgres_database: Database) -> Iterator[dict[str, AnyStorage]]:
    """One storage of each kind: every run of the machine has its own tenants."""
    folder: Path = tmp_path_factory.mktemp("stateful")
    with ExitStack() as stack:
        opened: dict[str, AnyStorage] = {}
        for name in BACKENDS:
            storage = opened[name] = open_storage(name, folder, postgres_database)
            stack.callback(storage.close)
        yield opened


def run(storages: Mapping[str, AnyStorage], examples: int, steps: int) -> None:
    machine = type("Changes", (LifeOfChanges,), {"storages": storages})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_changes_live_as_the_model_says(storages: Mapping[str, AnyStorage]) -> None:
    run(storages, examples=8, steps=30)


@pytest.mark.soak
def test_changes_live_as_the_model_says_for_long(storages: Mapping[str, AnyStorage]) -> None:
    run(storages, examples=1500, steps=80)
