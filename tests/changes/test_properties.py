"""Properties of all ops that record types accept, through the services, on every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from examples.embedded_postgres import Database
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actionengine import ErrorCode
from actionengine.changes.ops import PatchOp
from actionengine.changes.type_graph import TypeGraph
from tests.backends import BACKENDS, AnyStorage, open_storage
from tests.changes.model import edited
from tests.changes.strategies import applied as graph_after
from tests.changes.strategies import changed_graphs, changes
from tests.changes.sync_harness import LOG, SyncHarness, without_status

EXAMPLES = 8
CAMPAIGN = 400

FAILING = (
    ("remove_field", {"field": "nowhere"}),
    ("set_field", {"field": "nowhere", "definition": {"type": "string"}}),
    ("rename_field", {"old_name": "nowhere", "new_name": "elsewhere"}),
    ("add_field", {"field": "elsewhere", "definition": {"type": "string"}, "before": "nowhere"}),
)
"""Ops that any record type takes and none can execute."""

Check = Callable[[SyncHarness], None]


@pytest.fixture(scope="module", params=BACKENDS)
def storage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_database: Database
) -> Iterator[AnyStorage]:
    """Each storage in turn: every example has a tenant of its own in it."""
    with open_storage(request.param, tmp_path_factory.mktemp("properties"), postgres_database) as storage:
        yield storage


@st.composite
def split_changes(draw: st.DrawFn) -> tuple[TypeGraph, Sequence[PatchOp], Sequence[Sequence[PatchOp]]]:
    """Types, ops that they accept, and the same ops in several parts."""
    graph, ops = draw(changed_graphs())
    cuts = sorted(draw(st.sets(st.integers(0, len(ops)), max_size=4)))
    parts = [ops[start:end] for start, end in zip([0, *cuts], [*cuts, len(ops)], strict=True)]
    return graph, ops, parts


@st.composite
def several_changes(draw: st.DrawFn) -> tuple[TypeGraph, Sequence[Sequence[PatchOp]]]:
    """Types, and changes that they accept one after the other."""
    graph = first = draw(changed_graphs())[0]
    found = []
    for _ in range(draw(st.integers(1, 4))):
        found.append(draw(changes(graph)))
        graph = graph_after(graph, found[-1])
    return first, found


def check_splitting(
    harness: SyncHarness, drawn: tuple[TypeGraph, Sequence[PatchOp], Sequence[Sequence[PatchOp]]]
) -> None:
    graph, ops, parts = drawn
    at_once, one_by_one = build(harness, graph), build(harness, graph)

    merge(harness, at_once, ops)
    for part in parts:
        merge(harness, one_by_one, part)

    assert harness.schemas(at_once) == harness.schemas(one_by_one)
    harness.check_history(one_by_one)


def check_compensation(harness: SyncHarness, drawn: tuple[TypeGraph, Sequence[PatchOp]]) -> None:
    graph, ops = drawn
    project = build(harness, graph)
    before = harness.schemas(project)
    if not ops:
        return
    change = merge(harness, project, ops)

    compensation = harness.do("changes.plan_compensation", change_id=change)
    harness.do("changes.merge", change_id=compensation.id)

    assert harness.schemas(project) == before
    harness.check_history(project)


def check_failing(harness: SyncHarness, drawn: tuple[TypeGraph, Sequence[PatchOp]], place: int, bad: int) -> None:
    graph, ops = drawn
    project = build(harness, graph)
    op_type, payload = FAILING[bad]
    key = sorted(graph.types)[place % len(graph.types)]
    drafted = drafted_from(ops)
    drafted.insert(place % (len(drafted) + 1), (op_type, {"record_type": key, **payload}))
    change = harness.draft(project, *drafted)
    before = harness.dump()

    executing = harness.refusal("changes.execute", change_id=change)
    after_execution = harness.dump(without=LOG)
    merging = harness.refusal("changes.merge", change_id=change)

    for refusal in (executing, merging):
        assert refusal.code is ErrorCode.UNPROCESSABLE
        assert (refusal.details["op_type"], refusal.details["record_type"]) == (op_type, key)
    assert after_execution == {table: rows for table, rows in before.items() if table not in LOG}
    assert without_status(harness.dump(), change) == without_status(before, change)
    assert harness.do("changes.get", change_id=change).status == "ValidationFailed"


def check_replay(harness: SyncHarness, drawn: tuple[TypeGraph, Sequence[Sequence[PatchOp]]]) -> None:
    graph, parts = drawn
    project = build(harness, graph)
    schemas = harness.schemas(project)
    versions = dict.fromkeys(schemas, 1)
    for part in parts:
        change = merge(harness, project, part)
        found = {each.record_type_key: each for each in harness.do("changes.list_snapshots", change_id=change)}

        assert set(found) == {op.record_type for op in part}
        for key, snapshot in found.items():
            assert (snapshot.schema["fields"], snapshot.version) == (schemas[key], versions[key])
            versions[key] += 1
        for op in harness.do("changes.list_patch_ops", change_id=change):
            key = op.payload["record_type"]
            assert op.previous_snapshot["fields"] == schemas[key]
            schemas[key] = edited(schemas[key], {"op_type": op.op_type, "payload": op.payload})
        for key in schemas:
            shown = harness.do("record_types.schema_at", project_id=project, key=key, change_id=change)
            assert (shown.schema["fields"], shown.version) == (schemas[key], versions[key])
    assert harness.schemas(project) == schemas
    assert {key: each.version for key, each in harness.types(project).items()} == versions
    harness.check_history(project)


def examples(number: int) -> settings:
    # The storage is empty for each example: a new tenant's.
    return settings(
        max_examples=number,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


@examples(EXAMPLES)
@given(split_changes())
def test_ops_lead_to_the_same_schemas_in_one_change_or_several(storage: AnyStorage, drawn: Any) -> None:
    check_splitting(SyncHarness(storage), drawn)


@examples(EXAMPLES)
@given(changed_graphs())
def test_a_compensation_restores_the_schemas(storage: AnyStorage, drawn: Any) -> None:
    check_compensation(SyncHarness(storage), drawn)


@examples(EXAMPLES)
@given(changed_graphs(), st.integers(0, 10), st.integers(0, len(FAILING) - 1))
def test_a_failing_op_at_any_place_leaves_every_table_untouched(
    storage: AnyStorage, drawn: Any, place: int, bad: int
) -> None:
    check_failing(SyncHarness(storage), drawn, place, bad)


@examples(EXAMPLES)
@given(several_changes())
def test_a_replay_reproduces_every_snapshot(storage: AnyStorage, drawn: Any) -> None:
    check_replay(SyncHarness(storage), drawn)


@pytest.mark.soak
def test_all_of_this_holds_for_long(storage: AnyStorage) -> None:
    @examples(CAMPAIGN)
    @given(split_changes(), several_changes(), st.integers(0, 10), st.integers(0, len(FAILING) - 1))
    def check(split: Any, several: Any, place: int, bad: int) -> None:
        check_splitting(SyncHarness(storage), split)
        check_compensation(SyncHarness(storage), split[:2])
        check_failing(SyncHarness(storage), split[:2], place, bad)
        check_replay(SyncHarness(storage), several)

    check()


def build(harness: SyncHarness, graph: TypeGraph) -> str:
    """Create a project with these types; return its id."""
    project = harness.project()
    for key, state in graph.types.items():
        harness.record_type(project, key, [field.definition for field in state.schema], state.base_type)
    return project


def drafted_from(ops: Sequence[PatchOp]) -> list[tuple[str, Any]]:
    return [(op.op_type, op.payload) for op in ops]


def merge(harness: SyncHarness, project: str, ops: Sequence[PatchOp]) -> str:
    """Merge a new change with these ops; return its id."""
    change = harness.draft(project, *drafted_from(ops))
    assert harness.do("changes.merge", change_id=change).applied_count == len(ops)
    return change
