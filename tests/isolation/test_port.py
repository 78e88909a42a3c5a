"""The other two layers: the host looks up the tenant, and a unit of work cannot name another one."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from returns.result import Failure, Result, Success

from actionengine import (
    ActionContext,
    Actor,
    Engine,
    ErrorCode,
    InMemoryStorage,
    PostgresStorage,
    RequestContext,
    SQLiteStorage,
    Tenant,
    create_action,
    create_engine,
    create_service,
)
from actionengine.storage.memory.unit_of_work import MemoryUnitOfWork
from actionengine.storage.port import Storage, UnitOfWork
from actionengine.storage.postgres.unit_of_work import PostgresUnitOfWork
from actionengine.storage.records import AsyncRecords
from actionengine.storage.sql.documents import SQLRecords
from actionengine.storage.sqlite.unit_of_work import SQLiteUnitOfWork
from tests.isolation.harness import Mode, SQLHarness

BOUND_TO_A_TENANT = [
    UnitOfWork,
    MemoryUnitOfWork,
    SQLiteUnitOfWork,
    PostgresUnitOfWork,
    AsyncRecords,
    SQLRecords,
    ActionContext,
]

A_UUID = "0a17d6a0-62d0-4a99-b8ae-d2dc09b9c83d"


def methods(kind: type) -> Iterator[tuple[str, inspect.Signature]]:
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        if not name.startswith("_"):
            yield name, inspect.signature(method)


@pytest.mark.parametrize("kind", BOUND_TO_A_TENANT)
def test_no_method_has_a_parameter_for_a_tenant(kind: type) -> None:
    named = [
        (name, parameter)
        for name, signature in methods(kind)
        for parameter in signature.parameters.values()
        if "tenant" in parameter.name or "Tenant" in str(parameter.annotation) or "UUID" in str(parameter.annotation)
    ]

    assert list(methods(kind)) != []
    assert named == []


def test_a_storage_takes_a_tenant_where_a_unit_of_work_is_opened() -> None:
    hints = typing.get_type_hints(Storage.unit_of_work)

    assert hints["tenant"] is Tenant


@pytest.mark.parametrize("kind", [Tenant, RequestContext])
def test_whose_a_request_is_cannot_be_changed_afterwards(kind: type) -> None:
    tenant = Tenant(uuid4(), "acme")
    value = tenant if kind is Tenant else RequestContext(tenant=tenant, actor=Actor.human("ann"))

    for name in ("id", "tenant", "slug"):
        with pytest.raises((AttributeError, TypeError)):
            setattr(value, name, Tenant(uuid4(), "globex"))


@pytest.mark.parametrize("id", ["acme", A_UUID, None, 1, b"acme"])
def test_what_a_client_sends_is_no_tenants_id(id: object) -> None:
    with pytest.raises(TypeError, match="resolve a slug with"):
        Tenant(id, "acme")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "slug", ["unknown", "", "UNKNOWN", "a' OR 'a' = 'a", "%", "a%", "_", "a\0b", "x" * 10_000, "ünknown", A_UUID]
)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_unknown_tenant_is_not_found(harness: SQLHarness, slug: str, mode: Mode) -> None:
    found = harness.resolve(slug, mode)

    assert isinstance(found, Failure)
    assert found.failure().code is ErrorCode.NOT_FOUND


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_tenant_is_found_by_exactly_its_slug(harness: SQLHarness, mode: Mode) -> None:
    tenant = harness.victim.tenant

    assert harness.resolve(tenant.slug, mode) == Success(tenant)
    assert isinstance(harness.resolve(tenant.slug.upper(), mode), Failure)
    assert isinstance(harness.resolve(tenant.slug + " ", mode), Failure)


def _notes() -> list[typing.Any]:
    def put(data: dict[str, typing.Any], ctx: ActionContext) -> Result[None, str]:
        for collection, id in data["keys"]:
            ctx.records(collection).insert({"of": str(ctx.tenant.id), "id": id}, id)
        return Success(None)

    def read(data: dict[str, typing.Any], ctx: ActionContext) -> Result[dict[str, typing.Any], str]:
        got: list[typing.Any] = []
        listed: list[typing.Any] = []
        found: list[typing.Any] = []
        for collection, id in data["keys"]:
            records = ctx.records(collection)
            record = records.get(id)
            got.append(record.data if record is not None else None)
            listed.extend(each.data for each in records.list(limit=1000))
            found.extend(each.data for each in records.list(filter={"of": data["other"]}, limit=1000))
        return Success({"got": got, "listed": listed, "found": found})

    def meddle(data: dict[str, typing.Any], ctx: ActionContext) -> Result[list[str], str]:
        outcomes = []
        for collection, id in data["keys"]:
            for change in ("update", "delete"):
                answer = ctx.execute("notes", change, {"collection": collection, "id": id})
                outcomes.append("done" if isinstance(answer, Success) else answer.failure().code)
        return Success(outcomes)

    def update(data: dict[str, str], ctx: ActionContext) -> Result[None, str]:
        ctx.records(data["collection"]).update(data["id"], {"of": "somebody else"}, 1)
        return Success(None)

    def delete(data: dict[str, str], ctx: ActionContext) -> Result[None, str]:
        ctx.records(data["collection"]).delete(data["id"], 1)
        return Success(None)

    handlers = [put, read, meddle, update, delete]
    return [create_action(name=each.__name__, description="For the test", handler=each) for each in handlers]


@pytest.fixture(scope="module", params=["memory", "sqlite", "postgres", "signed postgres"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine on each storage."""
    service = create_service(name="notes", description="Notes", actions=_notes())
    if request.param == "memory":
        yield create_engine(services=[service], storage=InMemoryStorage())
    elif request.param == "sqlite":
        with SQLiteStorage(tmp_path_factory.mktemp("isolation") / "actionengine.db") as storage:
            yield create_engine(services=[service], storage=storage)
    else:
        name = "signed" if request.param.startswith("signed") else "unsigned"
        harness: SQLHarness = request.getfixturevalue(name)
        assert isinstance(harness.storage, PostgresStorage)
        yield create_engine(services=[service], storage=harness.storage)


def call(engine: Engine, action: str, payload: typing.Any, tenant: Tenant) -> typing.Any:
    context = RequestContext(tenant=tenant, actor=Actor.system())
    answer = engine.execute_action("notes", action, payload, context)
    assert isinstance(answer, Success), answer
    return answer.unwrap()


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)
collections = names.filter(lambda name: not name.startswith("ae_"))
keys = st.lists(st.tuples(collections, names), min_size=1, max_size=4, unique=True).map(
    lambda pairs: [list(pair) for pair in pairs]
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(one=st.uuids(), other=st.uuids(), ones=keys, others=keys)
def test_a_tenant_reads_and_changes_only_its_own_documents(
    engine: Engine, one: UUID, other: UUID, ones: list[list[str]], others: list[list[str]]
) -> None:
    # New tenants for each example, whose ids differ as little as Hypothesis likes.
    tenant, neighbour = Tenant(_fresh(one), "one"), Tenant(_fresh(other), "other")
    call(engine, "put", {"keys": ones}, tenant)
    call(engine, "put", {"keys": others}, neighbour)
    everything = {"keys": [*ones, *others]}

    seen = call(engine, "read", {**everything, "other": str(neighbour.id)}, tenant)
    outcomes = call(engine, "meddle", {"keys": [key for key in others if key not in ones]}, tenant)
    left = call(engine, "read", {"keys": others, "other": str(tenant.id)}, neighbour)

    assert {document["of"] for document in (*filter(None, seen["got"]), *seen["listed"])} == {str(tenant.id)}
    assert seen["found"] == []
    assert set(outcomes) <= {ErrorCode.NOT_FOUND}
    assert [document["id"] for document in left["got"]] == [id for _, id in others]
    assert left["found"] == []


_taken: set[UUID] = set()


def _fresh(id: UUID) -> UUID:
    while id in _taken:
        id = UUID(int=(id.int + 1) % 2**128)
    _taken.add(id)
    return id
