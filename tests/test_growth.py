"""What it costs does not grow with what was done before: counts, with few and with many rows that do not matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from returns.result import Success
from uuid_utils import uuid7

from actionengine import (
    Actor,
    ApprovalPolicy,
    CallbackPublisher,
    Engine,
    InMemoryStorage,
    PostgresStorage,
    Relay,
    RequestContext,
    SQLiteStorage,
    create_action,
    create_engine,
    create_service,
)
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.records import APPROVALS, ROLE_ASSIGNMENTS, ROLES
from actionengine.text.names import fold
from tests.growth import AnyStorage, count, fill

FEW, MANY = 60, 960
"""So that a page of what matters fits, and what does not is sixteen times as much."""

BOSS = Actor.human("boss", permissions=["*"])
ANN = Actor.human("ann", permissions=["pay"])


class Office:
    """A tenant with a past."""

    def __init__(self, storage: AnyStorage) -> None:
        self.storage = storage
        self.tenant = storage.create_tenant(slug=f"t-{uuid4().hex}", name="Office")
        policy = ApprovalPolicy(when=lambda data, ctx: True, permission="pay.approve")
        pay = create_action(name="pay", description="x", handler=lambda data, ctx: Success(1), approval=policy)
        note = create_action(name="note", description="x", handler=lambda data, ctx: Success(1))
        service = create_service(name="work", description="x", actions=[pay, note])
        self.engine: Engine = create_engine(services=[service], storage=storage)

    def do(self, name: str, payload: Mapping[str, Any], actor: Actor = BOSS) -> Any:
        service, _, action = name.partition(".")
        return self.engine.execute_action(service, action, payload, RequestContext(self.tenant, actor))

    def approvals(self, number: int, **changes: Any) -> None:
        """Add approvals that are like one which was asked for."""
        self.do("work.pay", {"amount": 1}, ANN)
        (newest,) = self.records(APPROVALS, 1)
        fill(
            self.storage,
            self.tenant,
            APPROVALS,
            [(id, {**newest.data, "id": id, **changes}) for id in (str(uuid7()) for _ in range(number))],
        )

    def records(self, collection: str, limit: int = 100) -> Any:
        unit = self.storage.unit_of_work(self.tenant, str(uuid4()), "sync", read_only=True)
        try:
            return run_sync(unit.records(collection).list(limit=limit, descending=True))
        finally:
            run_sync(unit.rollback())


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyStorage]:
    if request.param == "memory":
        yield InMemoryStorage()
    elif request.param == "sqlite":
        with SQLiteStorage(tmp_path / "growth.db", pool_size=1, max_overflow=0) as sqlite:
            yield sqlite
    else:
        database = request.getfixturevalue("postgres_database")
        with PostgresStorage(database.app_url, pool_size=1, max_overflow=0) as postgres:
            yield postgres


OfficeT = TypeVar("OfficeT", bound=Office)


def costs_the_same(
    storage: AnyStorage,
    past: Callable[[OfficeT, int], None],
    operation: Callable[[OfficeT], object],
    make: Callable[[AnyStorage], OfficeT] = Office,  # type: ignore[assignment]
) -> None:
    """Expect that an operation does about as much with a long past as with a short one."""
    counts = []
    for number in (FEW, MANY):
        office = make(storage)
        past(office, number)
        counts.append(count(storage, office.tenant, partial(operation, office)))
    few, many = counts
    assert few.keys() == many.keys()
    assert all(many[name] <= 1.5 * few[name] + 20 for name in few), counts


def decided(office: Office, number: int) -> None:
    office.approvals(number, status="approved", requested_by="human:bob", requester={"type": "human", "id": "bob"})
    office.approvals(1)


def somebody_elses(office: Office, number: int) -> None:
    office.approvals(number, requested_by="human:bob", requester={"type": "human", "id": "bob"})


def expired(office: Office, number: int) -> None:
    office.approvals(number, expires_at=(datetime.now(UTC) - timedelta(days=1)).isoformat())


@pytest.mark.parametrize(
    "asked",
    [
        {"status": "pending"},
        {"status": "rejected"},
        {"status": "expired"},
        {"requested_by": "human:ann"},
        {"requested_by": "human:ann", "status": "pending"},
        {"requested_by": "human:nobody"},
        {"limit": 1},
        {},
    ],
    ids=str,
)
def test_a_list_of_approvals_does_not_read_decided_ones(storage: AnyStorage, asked: dict[str, Any]) -> None:
    costs_the_same(storage, decided, lambda office: office.do("approvals.list", asked).unwrap())


@pytest.mark.parametrize("asked", [{}, {"status": "pending"}, {"status": "expired"}], ids=str)
def test_who_may_see_no_approval_costs_no_more_than_others(storage: AnyStorage, asked: dict[str, Any]) -> None:
    stranger = Actor.human("eve")

    def look(office: Office) -> None:
        page = office.do("approvals.list", asked, stranger).unwrap()
        assert page.items == ()

    costs_the_same(storage, somebody_elses, look)


@pytest.mark.parametrize("status", ["pending", "expired"])
def test_a_page_looks_at_so_many_approvals_that_have_expired(storage: AnyStorage, status: str) -> None:
    costs_the_same(storage, expired, lambda office: office.do("approvals.list", {"status": status}).unwrap())


# Roles


def roles_and_holders(office: Office, number: int) -> None:
    rule = {"permission": "notes.read", "resource": None}
    names = [f"role {each:05}" for each in range(number)]
    fill(
        office.storage,
        office.tenant,
        ROLES,
        [
            (
                name,
                {"name": name, "description": "", "allow": [rule], "deny": [], "folded_name": fold(name), "id": name},
            )
            for name in names
        ],
    )
    holder = {"roles": names[:1], "role_ids": {names[0]: names[0]}}
    fill(office.storage, office.tenant, ROLE_ASSIGNMENTS, [(f"human:{name}", holder) for name in names])


ADMIN = Actor.human("admin", permissions=["roles.*", "notes.*"])
READER = {"name": "role 00000", "allow": [{"permission": "notes.read"}]}
HOLDER = {"actor_type": "human", "actor_id": "role 00007"}


def define_another(office: Office) -> str:
    name = f"another {uuid4().hex}"
    office.do("roles.define", {"name": name, "allow": [{"permission": "notes.read"}]}, ADMIN).unwrap()
    return name


def delete_another(office: Office) -> None:
    office.do("roles.delete", {"name": define_another(office)}, ADMIN).unwrap()


def reassign(office: Office) -> None:
    office.do("roles.unassign", {**HOLDER, "role": "role 00000"}, ADMIN).unwrap()
    office.do("roles.assign", {**HOLDER, "role": "role 00000"}, ADMIN).unwrap()


@pytest.mark.parametrize(
    "operation",
    [
        define_another,
        delete_another,
        reassign,
        lambda office: office.do("roles.define", READER, ADMIN).unwrap(),
        lambda office: office.do("roles.of_actor", HOLDER, ADMIN).unwrap(),
        lambda office: office.do("roles.list", {"limit": 5}, ADMIN).unwrap(),
    ],
    ids=["define", "delete", "reassign", "redefine", "of_actor", "list"],
)
def test_a_role_costs_no_more_among_many(storage: AnyStorage, operation: Callable[[Office], object]) -> None:
    costs_the_same(storage, roles_and_holders, operation)


def test_to_delete_a_role_of_many_costs_no_more(storage: AnyStorage) -> None:
    def delete(office: Office) -> None:
        office.do("roles.define", READER, ADMIN).unwrap()
        office.do("roles.delete", {"name": READER["name"]}, ADMIN).unwrap()

    costs_the_same(storage, roles_and_holders, delete)


def test_a_relay_takes_large_events_by_their_bytes(storage: AnyStorage) -> None:
    office = Office(storage)
    Relay(storage, CallbackPublisher(lambda event: None)).drain()
    for _ in range(7):
        office.do("work.note", {"text": "x" * 900_000}).unwrap()

    outbox, taken = storage.outbox("sync"), list[int]()
    while batch := run_sync(outbox.take(100, 30.0)):
        taken.append(len(batch))
        run_sync(outbox.settle(batch, []))
    run_sync(outbox.close())

    assert taken == [5, 2] or (sum(taken) == 7 and max(taken) <= 5)


def test_a_page_of_large_approvals_ends_with_its_bytes(storage: AnyStorage) -> None:
    office = Office(storage)
    text = "x" * 900_000
    for _ in range(7):
        office.do("work.pay", {"text": text}, ANN).failure()

    pages: list[list[bool]] = []
    after = None
    while after is not None or not pages:
        page = office.do("approvals.list", {"limit": 60, "after": after}).unwrap()
        pages.append([each.input == {"text": text} for each in page.items])
        after = page.next

    # What nobody masks is stored once: five of them are the first to have 4 MiB.
    assert pages == [[True] * 5, [True] * 2]
