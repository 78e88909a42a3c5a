"""Costs do not grow with the past: counts with few and with many rows that do not matter."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import pytest

from actionengine import Actor, Budget, CallbackPublisher, ErrorCode, Relay
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.counters import ONE, Reservation
from actionengine.storage.records import ROLE_ASSIGNMENTS, ROLES
from actionengine.text.names import fold
from tests.backends import AnyStorage
from tests.growth import ANN, Office, costs_the_same, fill


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
def test_a_list_of_approvals_does_not_read_decided_ones(growing_storage: AnyStorage, asked: dict[str, Any]) -> None:
    costs_the_same(growing_storage, decided, lambda office: office.do("approvals.list", asked).unwrap())


@pytest.mark.parametrize("past", [decided, somebody_elses, expired])
def test_meeting_an_open_approval_costs_no_more_among_many(
    growing_storage: AnyStorage, past: Callable[[Office, int], None]
) -> None:
    def ask_again(office: Office) -> None:
        assert office.do("work.pay", {"amount": 2}, ANN).failure().code is ErrorCode.APPROVAL_REQUIRED

    costs_the_same(growing_storage, past, ask_again)


@pytest.mark.parametrize("asked", [{}, {"status": "pending"}, {"status": "expired"}], ids=str)
def test_who_may_see_no_approval_costs_no_more_than_others(growing_storage: AnyStorage, asked: dict[str, Any]) -> None:
    stranger = Actor.human("eve")

    def look(office: Office) -> None:
        page = office.do("approvals.list", asked, stranger).unwrap()
        assert page.items == ()

    costs_the_same(growing_storage, somebody_elses, look)


@pytest.mark.parametrize("status", ["pending", "expired"])
def test_a_page_looks_at_so_many_approvals_that_have_expired(growing_storage: AnyStorage, status: str) -> None:
    costs_the_same(growing_storage, expired, lambda office: office.do("approvals.list", {"status": status}).unwrap())


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
def test_a_role_costs_no_more_among_many(growing_storage: AnyStorage, operation: Callable[[Office], object]) -> None:
    costs_the_same(growing_storage, roles_and_holders, operation)


def test_to_delete_a_role_of_many_costs_no_more(growing_storage: AnyStorage) -> None:
    def delete(office: Office) -> None:
        office.do("roles.define", READER, ADMIN).unwrap()
        office.do("roles.delete", {"name": READER["name"]}, ADMIN).unwrap()

    costs_the_same(growing_storage, roles_and_holders, delete)


# Budgets

HOUR = timedelta(hours=1)
with_a_budget = partial(Office, budgets=[Budget("notes", actions="work.note", limit=10**9, window=HOUR)])


def counters(office: Office, number: int) -> None:
    unit = office.storage.unit_of_work(office.tenant, str(uuid4()), "sync")
    for each in range(number):
        run_sync(unit.reserve([Reservation("notes", f"human:{each:05}", ONE, 10**9 * ONE, HOUR)]))
    run_sync(unit.commit())


@pytest.mark.parametrize(
    "operation",
    [
        lambda office: office.do("work.note", {}).unwrap(),
        lambda office: office.do("budgets.usage", {}).unwrap(),
        lambda office: office.do("budgets.usage", {"actor": "human:00007"}).unwrap(),
    ],
    ids=["reserve", "usage", "usage of another"],
)
def test_a_counter_costs_no_more_among_many(growing_storage: AnyStorage, operation: Callable[[Office], object]) -> None:
    costs_the_same(growing_storage, counters, operation, with_a_budget)


def test_a_relay_takes_large_events_by_their_bytes(growing_storage: AnyStorage) -> None:
    office = Office(growing_storage)
    Relay(growing_storage, CallbackPublisher(lambda event: None)).drain()
    for _ in range(7):
        office.do("work.note", {"text": "x" * 900_000}).unwrap()

    outbox, taken = growing_storage.outbox("sync"), list[int]()
    while batch := run_sync(outbox.take(100, 30.0)):
        taken.append(len(batch))
        run_sync(outbox.settle(batch, []))
    run_sync(outbox.close())

    assert taken == [5, 2] or (sum(taken) == 7 and max(taken) <= 5)


def test_a_page_of_large_approvals_ends_with_its_bytes(growing_storage: AnyStorage) -> None:
    office = Office(growing_storage)
    texts = [str(number) * 900_000 for number in range(7)]
    for text in texts:
        office.do("work.pay", {"text": text}, ANN).failure()

    pages: list[list[Any]] = []
    after = None
    while after is not None or not pages:
        page = office.do("approvals.list", {"limit": 60, "after": after}).unwrap()
        pages.append([each.input["text"] for each in page.items])
        after = page.next

    # An input without secrets is stored once: five of them are the first to reach 4 MiB.
    assert pages == [texts[:1:-1], texts[1::-1]]
