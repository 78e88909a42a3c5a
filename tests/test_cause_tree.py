"""`action_log.tree` against a model: random nesting, hooks, failures, events and approvals; and its bounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from returns.result import Failure, Result, Success
from uuid_utils import uuid7

from actionengine import (
    ActionContext,
    ActionHooks,
    Actor,
    ApprovalPolicy,
    Engine,
    HookDefinition,
    InMemoryStorage,
    RequestContext,
    create_action,
    create_engine,
    create_service,
)
from actionengine.builtin import cause_tree
from actionengine.builtin.cause_tree import MAX_LEVELS, CauseNode, LogTree
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.rows import LogRow, Recording
from actionengine.testing.rows import START, event_row, id_at, log_row
from tests.backends import AnyStorage
from tests.growth import count

ANN = Actor.human("ann", permissions=["*"])
BOB = Actor.human("bob", permissions=["*"])

Spec = dict[str, Any]
"""An execution: the number of its events, the ones that it executes, and its failure."""

Shape = tuple[str, str, str | None, tuple[Any, ...]]
"""A node: its kind, title and status, and the nodes below it, sorted."""


def _step(data: Spec, ctx: ActionContext) -> Result[Any, Any]:
    for number in range(data["events"]):
        ctx.emit("told", {"number": number}, "jobs/1")
    for child in data["executes"]:
        ctx.execute("work", child["name"], child)
    return Failure("refused") if data["fails"] else Success(None)


HOOKED = HookDefinition("work", "hooked")
POLICY = ApprovalPolicy(when=lambda data, ctx: True, permission="work.approve")


def engine_with(storage: AnyStorage) -> Engine:
    actions = [
        create_action(name="step", description="x", handler=_step, emits=["told"]),
        create_action(
            name="note", description="x", handler=_step, emits=["told"], hooks=ActionHooks([HOOKED], [HOOKED])
        ),
        create_action(name="hooked", description="x", handler=lambda data, ctx: Success(data)),
        create_action(name="guarded", description="x", handler=_step, approval=POLICY, emits=["told"]),
    ]
    return create_engine(services=[create_service(name="work", description="x", actions=actions)], storage=storage)


class Office:
    """A tenant, asked about its log."""

    def __init__(self, storage: AnyStorage) -> None:
        self.storage = storage
        self.tenant = storage.create_tenant(slug=f"t-{uuid4().hex}", name="Acme")
        self.engine = engine_with(storage)

    def do(self, name: str, payload: Any, actor: Actor = ANN, **request: Any) -> Result[Any, Any]:
        service, _, action = name.partition(".")
        return self.engine.execute_action(service, action, payload, RequestContext(self.tenant, actor, **request))

    def tree(self, **of: str) -> LogTree:
        tree: LogTree = self.do("action_log.tree", of).unwrap()
        return tree

    def record(self, *rows: LogRow, events: Sequence[Any] = ()) -> None:
        unit = self.storage.unit_of_work(self.tenant, str(uuid7()), "sync")
        run_sync(unit.record(Recording(rows, events)))
        run_sync(unit.commit())

    def row(self, number: int, **fields: Any) -> LogRow:
        nothing: dict[str, Any] = dict.fromkeys(("parent_id", "approval_id", "approved_by", "request_id"))
        return log_row(self.tenant, id=id_at(START, number), subjects=(), **{**nothing, **fields})


@pytest.fixture(scope="module")
def any_office(each_storage: AnyStorage) -> Office:
    return Office(each_storage)


@pytest.fixture
def office() -> Office:
    return Office(InMemoryStorage())


# The model


def specs(names: Sequence[str]) -> st.SearchStrategy[Spec]:
    def spec(executes: st.SearchStrategy[list[Spec]]) -> st.SearchStrategy[Spec]:
        return st.fixed_dictionaries(
            {
                "name": st.sampled_from(names),
                "events": st.integers(0, 2),
                "executes": executes,
                "fails": st.booleans(),
            }
        )

    return st.recursive(spec(st.just([])), lambda inner: spec(st.lists(inner, max_size=3)), max_leaves=10)


def expected(spec: Spec, undone: bool = False) -> Shape:
    """Return the shape of an execution: where it fails, or one around it, no event of it stays."""
    undone = undone or spec["fails"]
    below = [expected(child, undone) for child in spec["executes"]]
    if spec["name"] == "note":
        hook: Spec = {"name": "hooked", "events": 0, "executes": [], "fails": False}
        below += [expected(hook, undone)] * (1 if spec["fails"] else 2)
    if not undone:
        below += [("event", "told", None, ())] * spec["events"]
        if not spec["events"]:
            below.append(("event", f"work.{spec['name']}", None, ()))
    return "execution", f"work.{spec['name']}", "failed" if undone else "succeeded", tuple(sorted(below, key=repr))


def shape(nodes: Sequence[CauseNode], id: str) -> Shape:
    (node,) = (each for each in nodes if each.id == id)
    below = sorted((shape(nodes, each.id) for each in nodes if each.parent == id), key=repr)
    return node.kind, node.title, node.status, tuple(below)


SPECS = given(spec=specs(["step", "note"]), guarded=st.booleans())


@settings(max_examples=25, deadline=None)
@SPECS
def test_a_tree_has_what_the_model_has(spec: Spec, guarded: bool) -> None:
    _check_against_the_model(Office(InMemoryStorage()), spec, guarded)


@settings(max_examples=4, deadline=None)
@SPECS
def test_a_tree_on_a_database_has_what_the_model_has(any_office: Office, spec: Spec, guarded: bool) -> None:
    _check_against_the_model(Office(any_office.storage), spec, guarded)


@pytest.mark.soak
@settings(max_examples=300, deadline=None)
@SPECS
def test_many_trees_have_what_the_model_has(any_office: Office, spec: Spec, guarded: bool) -> None:
    _check_against_the_model(Office(any_office.storage), spec, guarded)


def _check_against_the_model(office: Office, spec: Spec, guarded: bool) -> None:
    spec = {**spec, "name": "guarded", "fails": False} if guarded else spec
    answer = office.do(f"work.{spec['name']}", spec)
    wanted = expected(spec)
    if guarded:
        approval_id = answer.failure().details["approval_id"]
        office.do("approvals.approve", {"approval_id": approval_id}, BOB).unwrap()
        decision = ("event", "approvals.approve", None, ())
        approve = ("execution", "approvals.approve", "succeeded", tuple(sorted([wanted, decision], key=repr)))
        approval = ("approval", "work.guarded", "approved", (approve,))
        wanted = ("execution", "work.guarded", "approval_required", (approval,))

    rows = office.do("action_log.list", {"limit": 1000}, BOB).unwrap().items
    first = rows[-1].id
    tree = office.tree(id=first)

    assert tree.truncated == ()
    assert (tree.root, tree.nodes[0].id) == (first, first)
    assert shape(tree.nodes, first) == wanted
    # Each node comes after its cause, and leads to the same tree.
    seen: dict[str | None, int] = {None: -1}
    for node in tree.nodes:
        assert node.depth == seen[node.parent] + 1
        seen[node.id] = node.depth
    for node in tree.nodes[:: len(tree.nodes) // 8 + 1]:
        field = {"execution": "id", "approval": "approval_id", "event": "event_id"}[node.kind]
        assert office.tree(**{field: node.id}).nodes == tree.nodes


# Bounds


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cause_tree, "MAX_NODES", 20)


@pytest.mark.usefixtures("few")
def test_a_wide_tree_is_cut_and_says_so(any_office: Office) -> None:
    office = Office(any_office.storage)
    office.record(office.row(0), *(office.row(number, parent_id=id_at(START, 0)) for number in range(1, 31)))

    tree = office.tree(id=id_at(START, 0))
    last = office.tree(id=id_at(START, 30))

    assert [node.id for node in tree.nodes] == [id_at(START, number) for number in range(20)]
    assert not tree.nodes[0].is_complete
    (left_out,) = tree.truncated
    assert left_out.startswith(f"effects of execution {tree.root}")
    assert "at most 20 nodes" in left_out
    # The thing that was asked for is in its tree, whatever else is not.
    assert {node.id for node in last.nodes} == {id_at(START, number) for number in (*range(19), 30)}


@pytest.mark.usefixtures("few")
def test_a_tree_of_exactly_the_limit_is_whole(office: Office) -> None:
    office.record(office.row(0), *(office.row(number, parent_id=id_at(START, 0)) for number in range(1, 20)))

    tree = office.tree(id=id_at(START, 0))

    assert (len(tree.nodes), tree.truncated) == (20, ())
    assert all(node.is_complete for node in tree.nodes)


def test_a_deep_tree_is_cut_at_both_ends(office: Office) -> None:
    number = MAX_LEVELS * 3
    office.record(*(office.row(each, parent_id=id_at(START, each - 1) if each else None) for each in range(number)))

    tree = office.tree(id=id_at(START, MAX_LEVELS * 3 // 2))

    assert [node.depth for node in tree.nodes] == list(range(len(tree.nodes)))
    assert tree.root == id_at(START, MAX_LEVELS // 2 + 1)
    above, below = tree.truncated
    assert above.startswith(f"execution {id_at(START, MAX_LEVELS // 2)} and its causes")
    assert below.startswith("effects of execution")
    assert [node.is_complete for node in tree.nodes] == [True] * (len(tree.nodes) - 1) + [False]


def test_a_tree_ends_with_its_bytes(office: Office) -> None:
    large = b'"%b"' % (b"x" * (1024 * 1024))
    office.record(
        office.row(0, input=large),
        *(office.row(number, parent_id=id_at(START, 0), input=large) for number in range(1, 9)),
    )

    tree = office.tree(id=id_at(START, 0))

    assert len(tree.nodes) == 4
    assert len(tree.truncated) == 1


def test_a_large_way_to_a_thing_is_cut_above_it(office: Office) -> None:
    large = b'"%b"' % (b"x" * (1024 * 1024))
    chain = [office.row(number, parent_id=id_at(START, number - 1) if number else None) for number in range(10)]
    office.record(*(row._replace(input=large) for row in chain))

    tree = office.tree(id=id_at(START, 8))

    assert [node.id for node in tree.nodes] == [id_at(START, number) for number in range(5, 9)]
    above, below = tree.truncated
    assert above.startswith(f"execution {id_at(START, 4)} and its causes")
    assert below.startswith("effects of execution")


def _loops(office: Office) -> Iterator[list[LogRow]]:
    one, two = id_at(START, 1), id_at(START, 2)
    yield [office.row(1, parent_id=one)]
    yield [office.row(1, parent_id=two), office.row(2, parent_id=one)]
    yield [office.row(1, request_id=one)]
    asks = {"outcome": "approval_required", "approved_by": None, "approval_id": "a"}
    yield [office.row(1, request_id="a", **asks)]
    decides: dict[str, Any] = {"action": "approvals.approve", "subjects": ("approval/a", "approval/a")}
    yield [office.row(1)._replace(**decides), office.row(2, parent_id=one, **asks)]


@pytest.mark.parametrize("number", range(5))
def test_rows_that_cause_each_other_make_a_tree(office: Office, number: int) -> None:
    rows = list(_loops(office))[number]
    office.record(*rows)

    for row in rows:
        tree = office.tree(id=row.id)
        assert {node.id for node in tree.nodes if node.kind == "execution"} == {row.id for row in rows}
        assert [node.parent for node in tree.nodes].count(None) == 1


def test_a_run_without_its_document_is_in_the_tree(office: Office) -> None:
    start = event_row(office.tenant, type="workflows.started", subject="workflow_run/gone", action_id=id_at(START, 1))
    starter = office.row(1)._replace(subjects=("workflow_run/gone",))
    office.record(starter, office.row(2, request_id="gone"), events=[start])

    tree = office.tree(id=id_at(START, 1))

    assert [(node.kind, node.id, node.status) for node in tree.nodes][1:] == [
        ("event", start.id, None),
        ("run", "gone", None),
        ("execution", id_at(START, 2), "succeeded"),
    ]
    assert tree.nodes[2].run is None
    assert office.tree(run_id="gone").nodes == tree.nodes


def test_the_cost_of_a_tree_does_not_grow_with_the_log(growing_storage: AnyStorage) -> None:
    if isinstance(growing_storage, InMemoryStorage):
        pytest.skip("in memory, the whole log is read")

    def cost(others: int) -> dict[str, int]:
        office = Office(growing_storage)
        office.record(*(office.row(number, parent_id=id_at(START, 0)) for number in range(1, 20)), office.row(0))
        office.record(*(office.row(number + 100, parent_id=id_at(START, 99)) for number in range(others)))
        office.tree(id=id_at(START, 0))
        return count(office.storage, office.tenant, lambda: office.tree(id=id_at(START, 0)))

    few, many = cost(30), cost(900)

    for unit, number in few.items():
        assert many[unit] <= number * 1.5 + 50, (unit, few, many)


def test_a_tree_does_not_put_itself_into_the_log(office: Office) -> None:
    office.record(office.row(1), office.row(2, parent_id=id_at(START, 1)))

    office.tree(id=id_at(START, 2))

    (newest,) = office.do("action_log.list", {"limit": 1}).unwrap().items
    assert newest.output == {"root": id_at(START, 1), "nodes": 2, "truncated": []}


def test_only_readers_of_the_log_get_a_tree(office: Office) -> None:
    office.record(office.row(1))
    for name in ("get", "tree"):
        refused = office.do(f"action_log.{name}", {"id": id_at(START, 1)}, Actor.human("eve")).failure()
        assert refused.code == "forbidden"


def test_the_tree_of_a_closed_tenant_is_not_found(any_office: Office) -> None:
    office = Office(any_office.storage)
    office.record(office.row(1))
    office.storage.delete_tenant(slug=office.tenant.slug)

    for name in ("list", "get", "tree"):
        payload = {} if name == "list" else {"id": id_at(START, 1)}
        assert office.do(f"action_log.{name}", payload).failure().code == "not_found"
