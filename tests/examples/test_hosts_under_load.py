"""Both hosts over real HTTP, with many requests at once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.examples.conftest import (
    BOT,
    CARD,
    CARLA,
    MARIA,
    TOM,
    Headers,
    Host,
    agent,
    at_once,
    fresh_key,
    keyed,
    person,
)

once_per_backend = pytest.mark.parametrize(
    "fresh_host", [("flask", "sqlite"), ("fastapi", "postgres")], ids="-".join, indirect=True
)


def statuses(responses: list[Any]) -> Counter[int]:
    return Counter(response.status_code for response in responses)


def large_refund(host: Host) -> tuple[str, str]:
    """A payment, and the approval that a refund of it waits for."""
    payment = host.payment(500_000)
    response = host.post("payments/refund", {"payment_id": payment, "amount": 150_000}, keyed(CARLA, fresh_key()))
    assert response.status_code == 202
    return payment, response.json()["error"]["details"]["approval_id"]


def managers(host: Host, number: int) -> list[Headers]:
    """So many people who may approve."""
    names = [f"manager-{n}" for n in range(number)]
    for name in names:
        host.do("roles/assign", {"actor_type": "human", "actor_id": name, "role": "manager"}, MARIA)
    return [person(name) for name in names]


def test_one_of_32_concurrent_approvals_refunds(fresh_host: Host) -> None:
    host = fresh_host
    payment, approval = large_refund(host)
    deciders = managers(host, 32)
    responses = at_once(32, lambda who: host.post("approvals/approve", {"approval_id": approval}, who), deciders)
    assert statuses(responses) == {200: 1, 409: 31}
    assert {response.json()["error"]["code"] for response in responses if response.status_code == 409} == {"conflict"}
    assert [kept["refunded"] for kept in host.do("payments/list", {}) if kept["id"] == payment] == [150_000]
    assert len(host.log(action="payments.refund", outcome="succeeded")) == 1
    assert len(host.log(action="approvals.approve", outcome="succeeded")) == 1
    refunds = [stored.event for stored in host.storage.read_events(host.tenant()) if "refunded" in stored.event.type]
    assert [event.subject for event in refunds] == [f"payments/{payment}"]
    winner = next(response for response in responses if response.status_code == 200).json()["data"]["approval"]
    assert host.log(action="payments.refund", outcome="succeeded")[0]["approved_by"] == winner["decided_by"]


def test_concurrent_decisions_leave_one(fresh_host: Host) -> None:
    host = fresh_host
    payment, approval = large_refund(host)
    decisions = [("approve", MARIA), ("reject", MARIA), ("cancel", CARLA)] * 5
    responses = at_once(
        15, lambda item: host.post(f"approvals/{item[0]}", {"approval_id": approval}, item[1]), decisions
    )
    assert statuses(responses) == {200: 1, 409: 14}
    status = host.do("approvals/get", {"approval_id": approval}, MARIA)["status"]
    refunded = next(kept["refunded"] for kept in host.do("payments/list", {}) if kept["id"] == payment)
    assert (status, refunded) in [("approved", 150_000), ("rejected", 0), ("cancelled", 0)]


def test_64_captures_with_one_key_charge_once(fresh_host: Host) -> None:
    host = fresh_host
    payload = {"job_id": host.completed_job(), "amount": 100, "card_number": CARD}
    headers = keyed(CARLA, fresh_key())
    responses = at_once(64, lambda _: host.post("payments/capture", payload, headers), range(64))
    assert statuses(responses) == {200: 64}
    assert len({response.content for response in responses}) == 1
    assert host.do("payments/list", {}) == [responses[0].json()["data"]]
    outcomes = Counter(row["outcome"] for row in host.log(action="payments.capture"))
    assert outcomes == {"succeeded": 1, "replayed": 63}


def test_64_large_refunds_with_one_key_wait_for_one_approval(fresh_host: Host) -> None:
    host = fresh_host
    refund = {"payment_id": host.payment(500_000), "amount": 150_000}
    headers = keyed(CARLA, fresh_key())
    responses = at_once(64, lambda _: host.post("payments/refund", refund, headers), range(64))
    assert statuses(responses) == {202: 64}
    assert len({response.json()["error"]["details"]["approval_id"] for response in responses}) == 1
    assert len(host.do("approvals/list", {}, MARIA)["items"]) == 1


def test_refunds_at_once_never_give_back_more_than_was_taken(fresh_host: Host) -> None:
    host = fresh_host
    payment = host.payment(1000)
    responses = at_once(
        32,
        lambda key: host.post("payments/refund", {"payment_id": payment, "amount": 100}, keyed(CARLA, key)),
        [fresh_key() for _ in range(32)],
    )
    by_status = statuses(responses)
    assert set(by_status) <= {200, 409, 422}
    assert 1 <= by_status[200] <= 10
    assert host.do("payments/list", {})[0]["refunded"] == 100 * by_status[200]
    events = [stored.event.type for stored in host.storage.read_events(host.tenant())]
    assert events.count("payments.refunded") == by_status[200]


def test_concurrent_completions_complete_a_job_once(fresh_host: Host) -> None:
    host = fresh_host
    job = host.scheduled_job()
    responses = at_once(16, lambda _: host.post("jobs/complete", {"job_id": job}, TOM), range(16))
    assert statuses(responses) == {200: 1, 409: 15}
    assert host.do("jobs/get", {"job_id": job})["version"] == 3


def test_concurrent_captures_with_other_keys_charge_once(fresh_host: Host) -> None:
    host = fresh_host
    payload = {"job_id": host.completed_job(), "amount": 100, "card_number": CARD}
    keys = [fresh_key() for _ in range(16)]
    responses = at_once(16, lambda key: host.post("payments/capture", payload, keyed(CARLA, key)), keys)
    assert statuses(responses) == {200: 1, 409: 15}
    assert len(host.do("payments/list", {})) == 1


def test_two_actions_in_one_transaction_run_once_under_load(fresh_host: Host) -> None:
    host = fresh_host
    payload = {"job_id": host.scheduled_job(), "amount": 100, "card_number": CARD}
    keys = [fresh_key() for _ in range(16)]
    responses = at_once(16, lambda key: host.post("jobs/complete_and_capture", payload, keyed(MARIA, key)), keys)
    assert statuses(responses) == {200: 1, 409: 15}
    assert len(host.do("payments/list", {})) == 1


@pytest.mark.parametrize(
    "fresh_host",
    [pytest.param(("flask", "sqlite"), marks=pytest.mark.soak), ("fastapi", "postgres")],
    ids="-".join,
    indirect=True,
)
def test_150_concurrent_requests_keep_tenants_and_actors_apart(fresh_host: Host) -> None:
    host = fresh_host
    everybody: list[tuple[str, str, Headers]] = [
        (tenant, actor, headers)
        for tenant in ("acme", "globex")
        for actor, headers in (
            ("human:carla", person("carla", tenant)),
            ("human:maria", person("maria", tenant)),
            ("ai:helper-bot", agent("helper-bot", tenant)),
        )
    ]
    requests = [(*everybody[n % len(everybody)], f"customer {n}") for n in range(150)]

    def create(request: tuple[str, str, Headers, str]) -> Any:
        tenant, actor, headers, name = request
        tagged = {**headers, "x-request-id": f"{tenant} {actor} {name}", "x-reason": f"because of {name}"}
        response = host.post("customers/create", {"name": name}, tagged)
        assert response.json()["data"]["name"] == name
        found = host.post("customers/get", {"customer_id": response.json()["data"]["id"]}, headers)
        assert found.content == response.content
        other = person("maria", "globex" if tenant == "acme" else "acme")
        stranger = host.post("customers/get", {"customer_id": response.json()["data"]["id"]}, other)
        assert stranger.status_code == 404
        assert host.post("customers/create", {"name": name}, person("tom", tenant)).status_code == 403
        return response

    responses = at_once(16, create, requests)
    assert statuses(responses) == {200: 150}

    for tenant in ("acme", "globex"):
        own = {name: actor for slug, actor, _, name in requests if slug == tenant}
        assert {customer["name"] for customer in all_customers(host, tenant)} == set(own)
        rows = host.log(tenant, action="customers.create", outcome="succeeded")
        assert len(rows) == len(own)
        for row in rows:
            name = row["input"]["name"]
            assert f"{row['actor_type']}:{row['actor_id']}" == own[name]
            assert row["request_id"] == f"{tenant} {own[name]} {name}"
            assert row["reason"] == f"because of {name}"
            assert row["output"]["name"] == name
        denied = host.log(tenant, action="customers.create", outcome="denied")
        assert (len(denied), {row["actor_id"] for row in denied}) == (len(own), {"tom"})
        events = [stored.event for stored in host.storage.read_events(host.tenant(tenant))]
        created = Counter(
            f"{event.actor_type}:{event.actor_id}" for event in events if event.action == "customers.create"
        )
        assert created == Counter(own.values())


def all_customers(host: Host, tenant: str) -> list[Any]:
    """Page by page."""
    customers: list[Any] = []
    after = None
    while page := host.do("customers/list", {"after": after}, person("maria", tenant)):
        customers += page
        after = page[-1]["id"]
    assert len({customer["id"] for customer in customers}) == len(customers)
    return customers


@once_per_backend
def test_mixed_concurrent_requests_get_their_own_answers(fresh_host: Host) -> None:
    host = fresh_host
    job = host.completed_job()
    capture = {"job_id": job, "amount": 100, "card_number": CARD}
    cases: list[tuple[int, str, Any, Headers]] = [
        (200, "customers/list", {}, CARLA),
        (200, "jobs/get", {"job_id": job}, BOT),
        (400, "customers/create", {"name": ""}, CARLA),
        (400, "payments/capture", capture, CARLA),
        (401, "customers/list", {}, {"x-tenant-id": "acme"}),
        (403, "customers/list", {}, TOM),
        (404, "jobs/get", {"job_id": job}, person("carla", "globex")),
        (404, "customers/list", {}, person("carla", "initech")),
        (409, "jobs/complete", {"job_id": job}, TOM),
        (422, "jobs/schedule", {"job_id": job, "day": "2031-03-02"}, CARLA),
        (200, "payments/capture", capture, keyed(CARLA, "the same")),
        (422, "payments/capture", capture | {"amount": 7}, keyed(CARLA, "the same")),
    ]
    host.do("payments/capture", capture, keyed(CARLA, "the same"))
    answers = {index: host.post(*case[1:]) for index, case in enumerate(cases)}
    order = [index for _ in range(25) for index in answers]
    responses = at_once(16, lambda index: host.post(*cases[index][1:]), order)
    for index, response in zip(order, responses, strict=True):
        assert (response.status_code, response.content) == (cases[index][0], answers[index].content)
    assert len(host.payments_of(job)) == 1
