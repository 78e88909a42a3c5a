"""The rules of the business over HTTP. They are the engine's, so that one host shows each of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from examples.field_service.services.payments.capture import MAX_AMOUNT

from tests.examples.conftest import (
    BOT,
    CARD,
    CARLA,
    MARIA,
    NOBODY,
    TOM,
    Headers,
    Host,
    agent,
    fresh_key,
    hosts,
    keyed,
    person,
    refused,
    serving,
)

SUNDAY = "2031-03-02"
ONE = hosts(("fastapi", "postgres"))


@pytest.fixture(params=ONE, ids="-".join, scope="module")
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    with serving(request) as found:
        yield found


@pytest.fixture(params=ONE, ids="-".join)
def fresh_host(request: pytest.FixtureRequest) -> Iterator[Host]:
    with serving(request) as found:
        yield found


# Success


def test_a_job_goes_from_new_to_paid(host: Host) -> None:
    job = host.new_job()
    assert host.do("jobs/get", {"job_id": job})["status"] == "new"
    scheduled = host.do("jobs/schedule", {"job_id": job, "day": "2031-03-03"})
    assert (scheduled["status"], scheduled["scheduled_for"]) == ("scheduled", "2031-03-03")
    assert host.do("jobs/complete", {"job_id": job}, TOM)["status"] == "completed"
    payload = {"job_id": job, "amount": 5000, "card_number": CARD}
    payment = host.do("payments/capture", payload, keyed(CARLA, fresh_key()))
    assert (payment["amount"], payment["refunded"], payment["card_ends_in"]) == (5000, 0, CARD[-4:])
    assert host.payments_of(job) == [payment]


def test_completing_and_capturing_is_both_or_neither(host: Host) -> None:
    job = host.scheduled_job()
    payload = {"job_id": job, "amount": 100, "card_number": "too short"}
    refused(host.post("jobs/complete_and_capture", payload, keyed(MARIA, fresh_key())), 400, "invalid_input")
    assert host.do("jobs/get", {"job_id": job})["status"] == "scheduled"
    payment = host.do("jobs/complete_and_capture", payload | {"card_number": CARD}, keyed(MARIA, fresh_key()))
    assert host.do("jobs/get", {"job_id": job})["status"] == "paid"
    assert host.payments_of(job) == [payment]


def test_a_job_is_paid_once_whatever_the_key(host: Host) -> None:
    job = host.completed_job()
    payload = {"job_id": job, "amount": 100, "card_number": CARD}
    payment = host.do("payments/capture", payload, keyed(CARLA, fresh_key()))
    refused(host.post("payments/capture", payload, keyed(CARLA, fresh_key())), 409, "conflict")
    assert host.payments_of(job) == [payment]


# 400


@pytest.mark.parametrize("amount", [MAX_AMOUNT + 1, 2**63, 10**30])
@pytest.mark.parametrize("action", ["payments/capture", "jobs/complete_and_capture"])
def test_an_amount_that_no_column_has_room_for_is_400(host: Host, action: str, amount: int) -> None:
    payload = {"job_id": host.scheduled_job(), "amount": amount, "card_number": CARD}
    refused(host.post(action, payload, keyed(MARIA, fresh_key())), 400, "invalid_input")


# 401


@pytest.mark.parametrize("headers", [NOBODY, {**NOBODY, "x-user-id": "", "x-agent-id": ""}], ids=["absent", "empty"])
def test_no_action_runs_without_an_actor(host: Host, headers: Headers) -> None:
    for service in host.get("/api/services").json()["data"]:
        for action in host.get(f"/api/services/{service['name']}").json()["data"]:
            response = host.post(f"{service['name']}/{action['name']}", {}, headers)
            refused(response, 401, "unauthenticated")


# 403


def test_what_a_role_does_not_allow_is_403(host: Host) -> None:
    refused(host.post("customers/create", {"name": "Ada"}, TOM), 403, "forbidden")
    refused(host.post("action_log/list", {}, CARLA), 403, "forbidden")
    refused(host.post("jobs/list", {}, person("stranger")), 403, "forbidden")


def test_an_agent_with_a_persons_name_has_none_of_their_roles(host: Host) -> None:
    refused(host.post("customers/list", {}, agent("maria")), 403, "forbidden")
    refused(host.post("customers/list", {}, person("helper-bot")), 403, "forbidden")


def test_an_actor_cannot_be_named_into_another_type(host: Host) -> None:
    for name in ("system:seed", "system", "human:maria", "maria,carla", "human:maria", "MARIA"):
        refused(host.post("customers/list", {}, person(name)), 403, "forbidden")
        refused(host.post("customers/list", {}, agent(name)), 403, "forbidden")


def test_a_role_that_is_taken_away_is_gone_with_the_next_request(host: Host) -> None:
    assignment = {"actor_type": "human", "actor_id": "temp", "role": "csr"}
    refused(host.post("customers/list", {}, person("temp")), 403, "forbidden")
    host.do("roles/assign", assignment, MARIA)
    host.do("customers/list", {}, person("temp"))
    host.do("roles/unassign", assignment, MARIA)
    refused(host.post("customers/list", {}, person("temp")), 403, "forbidden")


def test_an_agent_for_a_person_may_do_what_both_may(host: Host) -> None:
    created = host.do("customers/create", {"name": "By both"}, {**CARLA, **BOT})
    refused(host.post("customers/create", {"name": "By both"}, {**TOM, **BOT}), 403, "forbidden")
    refused(host.post("invoices/draft", {"job_id": "j-1"}, {**MARIA, **BOT}), 403, "forbidden")
    (row,) = [row for row in host.log(action="customers.create") if row["subjects"] == [f"customers/{created['id']}"]]
    assert (row["actor_id"], row["on_behalf_of"]) == ("helper-bot", ["human:carla"])


def test_an_agent_administers_no_roles_even_as_a_manager(fresh_host: Host) -> None:
    fresh_host.do("roles/assign", {"actor_type": "ai", "actor_id": "helper-bot", "role": "manager"}, MARIA)
    assignment = {"actor_type": "ai", "actor_id": "other-bot", "role": "manager"}
    refused(fresh_host.post("roles/assign", assignment, BOT), 403, "forbidden")


# 404, 405, 413


def test_an_unknown_thing_is_404(host: Host) -> None:
    refused(host.post("customers/get", {"customer_id": "nobody"}), 404, "not_found")
    refused(host.post("jobs/create", {"customer_id": "nobody", "title": "x"}), 404, "not_found")
    refused(host.post("jobs/complete", {"job_id": "none"}, TOM), 404, "not_found")
    refund = {"payment_id": "none", "amount": 1}
    refused(host.post("payments/refund", refund, keyed(CARLA, fresh_key())), 404, "not_found")
    refused(host.post("approvals/approve", {"approval_id": "none"}, MARIA), 404, "not_found")


# 409


def test_a_job_in_the_wrong_status_is_409(host: Host) -> None:
    new, completed = host.new_job(), host.completed_job()
    error = refused(host.post("jobs/complete", {"job_id": new}, TOM), 409, "conflict")
    assert error["details"] == {"job_id": new, "status": "new"}
    refused(host.post("jobs/complete", {"job_id": completed}, TOM), 409, "conflict")
    refused(host.post("jobs/schedule", {"job_id": completed, "day": "2031-03-03"}), 409, "conflict")
    payload = {"job_id": new, "amount": 100, "card_number": CARD}
    refused(host.post("payments/capture", payload, keyed(CARLA, fresh_key())), 409, "conflict")
    assert host.payments_of(new) == []


# 422


def test_a_refund_of_more_than_is_left_is_422(host: Host) -> None:
    payment = host.payment(500)
    host.do("payments/refund", {"payment_id": payment, "amount": 200}, keyed(CARLA, fresh_key()))
    too_much = {"payment_id": payment, "amount": 301}
    error = refused(host.post("payments/refund", too_much, keyed(CARLA, fresh_key())), 422, "unprocessable")
    assert error["details"] == {"payment_id": payment, "left": 300}
    rest = host.do("payments/refund", {"payment_id": payment, "amount": 300}, keyed(CARLA, fresh_key()))
    assert rest["refunded"] == 500


def test_a_sunday_is_422_and_names_the_hook_that_refused(host: Host) -> None:
    job = host.new_job()
    error = refused(host.post("jobs/schedule", {"job_id": job, "day": SUNDAY}), 422, "hook_failed")
    assert error["details"]["hook"] == "jobs.check_day"
    assert error["details"]["error"]["code"] == "unprocessable"
    assert host.do("jobs/get", {"job_id": job})["status"] == "new"


def test_the_same_key_with_another_payload_is_422(host: Host) -> None:
    job, headers = host.completed_job(), keyed(CARLA, fresh_key())
    payment = host.do("payments/capture", {"job_id": job, "amount": 100, "card_number": CARD}, headers)
    other = {"job_id": job, "amount": 101, "card_number": CARD}
    refused(host.post("payments/capture", other, headers), 422, "idempotency_mismatch")
    assert host.payments_of(job) == [payment]


# Idempotency


def test_a_key_counts_within_its_tenant(host: Host) -> None:
    key = fresh_key()
    for tenant in ("acme", "globex"):
        payload = {"job_id": host.completed_job(tenant), "amount": 100, "card_number": CARD}
        captured = host.do("payments/capture", payload, keyed(person("carla", tenant), key))
        assert captured["job_id"] == payload["job_id"]


def test_a_key_that_failed_can_be_used_again(host: Host) -> None:
    job, headers = host.scheduled_job(), keyed(CARLA, fresh_key())
    payload = {"job_id": job, "amount": 100, "card_number": CARD}
    refused(host.post("payments/capture", payload, headers), 409, "conflict")
    host.do("jobs/complete", {"job_id": job}, TOM)
    host.do("payments/capture", payload, headers)


def test_a_replay_is_only_for_those_who_may_execute(host: Host) -> None:
    payload = {"job_id": host.completed_job(), "amount": 100, "card_number": CARD}
    headers = keyed(CARLA, fresh_key())
    host.do("payments/capture", payload, headers)
    refused(host.post("payments/capture", payload, {**headers, "x-user-id": "tom"}), 403, "forbidden")


# Tenants


def test_another_tenants_things_are_404_and_its_lists_are_empty(fresh_host: Host) -> None:
    host = fresh_host
    payment, stranger = host.payment(200_000), person("maria", "globex")
    job = host.do("jobs/list", {})[0]
    refund = {"payment_id": payment, "amount": 150_000}
    waiting = refused(host.post("payments/refund", refund, keyed(CARLA, "k")), 202, "approval_required")
    for action, payload in (
        ("customers/get", {"customer_id": job["customer_id"]}),
        ("jobs/get", {"job_id": job["id"]}),
        ("jobs/schedule", {"job_id": job["id"], "day": "2031-03-03"}),
        ("jobs/complete", {"job_id": job["id"]}),
        ("jobs/create", {"customer_id": job["customer_id"], "title": "x"}),
        ("payments/capture", {"job_id": job["id"], "amount": 1, "card_number": CARD}),
        ("payments/refund", {"payment_id": payment, "amount": 1}),
        ("approvals/get", {"approval_id": waiting["details"]["approval_id"]}),
        ("approvals/approve", {"approval_id": waiting["details"]["approval_id"]}),
    ):
        refused(host.post(action, payload, keyed(stranger, fresh_key())), 404, "not_found")
    for action in ("customers/list", "jobs/list", "payments/list"):
        assert host.do(action, {}, stranger) == []
    assert host.do("approvals/list", {}, stranger)["items"] == []
    assert {row["outcome"] for row in host.log("globex", actor_type="human")} <= {"failed", "succeeded"}
    assert host.do("jobs/list", {}) == [job]


def test_a_role_in_one_tenant_is_none_in_another(host: Host) -> None:
    host.do("roles/assign", {"actor_type": "human", "actor_id": "only-acme", "role": "manager"}, MARIA)
    host.do("customers/list", {}, person("only-acme"))
    refused(host.post("customers/list", {}, person("only-acme", "globex")), 403, "forbidden")


# Approvals


def large_refund(host: Host, headers: Headers = CARLA) -> tuple[dict[str, Any], dict[str, str], str]:
    """A refund that waits: its payload, the headers it was asked for with, and the approval's id."""
    payload = {"payment_id": host.payment(500_000), "amount": 150_000}
    asked = keyed(headers, fresh_key())
    error = refused(host.post("payments/refund", payload, asked), 202, "approval_required")
    return payload, asked, error["details"]["approval_id"]


def test_a_large_refund_is_202_until_a_manager_approves_it(host: Host) -> None:
    payload, asked, approval = large_refund(host)
    again = refused(host.post("payments/refund", payload, asked), 202, "approval_required")
    assert again["details"]["approval_id"] == approval
    approved = host.do("approvals/approve", {"approval_id": approval, "comment": "fine"}, MARIA)
    assert approved["result"]["refunded"] == 150_000
    assert approved["approval"]["status"] == "approved"
    assert approved["approval"]["decided_by"] == "human:maria"
    assert host.do("payments/refund", payload, asked) == approved["result"]
    row = host.log(action="payments.refund", outcome="succeeded")[0]
    assert (row["actor_id"], row["approved_by"], row["approval_id"]) == ("carla", "human:maria", approval)


def test_a_refund_of_exactly_the_bound_needs_nobody(host: Host) -> None:
    payload = {"payment_id": host.payment(500_000), "amount": 100_000}
    assert host.do("payments/refund", payload, keyed(CARLA, fresh_key()))["refunded"] == 100_000


def test_an_agent_cannot_approve_even_as_a_manager(fresh_host: Host) -> None:
    _, _, approval = large_refund(fresh_host)
    refused(fresh_host.post("approvals/approve", {"approval_id": approval}, BOT), 403, "forbidden")
    fresh_host.do("roles/assign", {"actor_type": "ai", "actor_id": "helper-bot", "role": "manager"}, MARIA)
    refused(fresh_host.post("approvals/approve", {"approval_id": approval}, BOT), 403, "forbidden")
    refused(fresh_host.post("approvals/reject", {"approval_id": approval}, BOT), 403, "forbidden")
    assert fresh_host.do("approvals/get", {"approval_id": approval}, MARIA)["status"] == "pending"


def test_a_large_refund_by_an_agent_waits_for_a_person(host: Host) -> None:
    _, _, approval = large_refund(host, BOT)
    refused(host.post("approvals/approve", {"approval_id": approval}, CARLA), 404, "not_found")
    assert host.do("approvals/approve", {"approval_id": approval}, MARIA)["result"]["refunded"] == 150_000


def test_nobody_approves_what_they_asked_for(host: Host) -> None:
    _, _, approval = large_refund(host, MARIA)
    refused(host.post("approvals/approve", {"approval_id": approval}, MARIA), 403, "forbidden")


def test_a_csr_cannot_approve(host: Host) -> None:
    _, _, approval = large_refund(host)
    refused(host.post("approvals/approve", {"approval_id": approval}, CARLA), 403, "forbidden")
    refused(host.post("approvals/approve", {"approval_id": approval}, TOM), 404, "not_found")


@pytest.mark.parametrize(("decision", "who"), [("reject", MARIA), ("cancel", CARLA)])
def test_what_is_rejected_or_cancelled_does_not_run(host: Host, decision: str, who: Headers) -> None:
    payload, _, approval = large_refund(host)
    host.do(f"approvals/{decision}", {"approval_id": approval}, who)
    refused(host.post("approvals/approve", {"approval_id": approval}, MARIA), 409, "conflict")
    left = host.do("payments/refund", {**payload, "amount": 1}, keyed(CARLA, fresh_key()))
    assert left["refunded"] == 1


def test_an_impossible_refund_leaves_its_approval_open(host: Host) -> None:
    payment = host.payment(200_000)
    waiting = []
    for _ in range(2):
        payload = {"payment_id": payment, "amount": 150_000}
        error = refused(host.post("payments/refund", payload, keyed(CARLA, fresh_key())), 202, "approval_required")
        waiting.append(error["details"]["approval_id"])
    host.do("approvals/approve", {"approval_id": waiting[0]}, MARIA)
    refused(host.post("approvals/approve", {"approval_id": waiting[1]}, MARIA), 422, "unprocessable")
    assert host.do("approvals/get", {"approval_id": waiting[1]}, MARIA)["status"] == "pending"


# Discovery


def test_services_are_listed_the_builtin_ones_last(host: Host) -> None:
    listed = host.get("/api/services").json()["data"]
    names = [service["name"] for service in listed]
    assert names[:6] == ["customers", "jobs", "payments", "invoices", "agent", "events"]
    assert names[6:9] == ["projects", "record_types", "changes"]
    assert names[9:13] == ["workflows", "triggers", "workflow_assignments", "workflow_steps"]
    assert set(names[13:]) == {"approvals", "action_log", "budgets", "relay", "roles"}
    assert listed[0]["actions"] == ["create", "get", "list"]
    assert all(service["description"] for service in listed)


def test_a_services_actions_are_listed(host: Host) -> None:
    listed = host.get("/api/services/payments").json()["data"]
    assert [action["name"] for action in listed] == ["capture", "refund", "list"]
    assert all(action["description"] for action in listed)


def test_an_action_shows_the_json_schema_of_its_input(host: Host) -> None:
    described = host.get("/api/services/payments/capture").json()["data"]
    schema = described.pop("input")
    assert described == {
        "name": "capture",
        "description": "Take the money for a finished job",
        "is_protected": True,
        "permission": "payments.capture",
        "read_only": False,
        "idempotency": "required",
    }
    assert schema["type"] == "object"
    assert set(schema["required"]) == {"job_id", "amount", "card_number"}
    amount = {"exclusiveMinimum": 0, "maximum": MAX_AMOUNT, "title": "Amount", "type": "integer"}
    assert schema["properties"]["amount"] == amount | {"description": "The amount, in cents."}


def test_every_action_that_is_listed_is_described(host: Host) -> None:
    for service in host.get("/api/services").json()["data"]:
        for name in service["actions"]:
            described = host.get(f"/api/services/{service['name']}/{name}").json()["data"]
            assert (described["name"], described["input"]["type"]) == (name, "object")


# Secrets


def test_a_card_number_appears_nowhere(
    fresh_host: Host, everything_written: Callable[[Host], Iterator[str]], caplog: pytest.LogCaptureFixture
) -> None:
    host = fresh_host
    caplog.set_level(logging.DEBUG)
    job, scheduled, headers = host.completed_job(), host.scheduled_job(), keyed(CARLA, fresh_key())
    payload: dict[str, Any] = {"job_id": job, "amount": 200_000, "card_number": CARD}
    payment = host.do("payments/capture", payload, headers)
    host.do("payments/capture", payload, headers)
    for wrong in (
        {**payload, "amount": 1},
        {**payload, "amount": f"{CARD} cents"},
        {**payload, "card_number": f"{CARD} "},
        {**payload, "card_number": [CARD]},
        {**payload, "job_id": scheduled},
        {"card_number": CARD},
    ):
        assert host.post("payments/capture", wrong, headers).status_code in (400, 422)
        assert host.post("payments/capture", wrong, keyed(CARLA, fresh_key())).status_code != 500
        assert host.post("payments/capture", wrong, NOBODY).status_code == 401
        assert host.post("payments/capture", wrong, TOM).status_code == 403
    both = {**payload, "job_id": scheduled}
    refused(
        host.post("jobs/complete_and_capture", {**both, "card_number": f"{CARD} "}, keyed(MARIA, "b1")),
        400,
        "invalid_input",
    )
    host.do("jobs/complete_and_capture", both, keyed(MARIA, "b2"))
    refund = {"payment_id": payment["id"], "amount": 150_000}
    waiting = refused(host.post("payments/refund", refund, keyed(CARLA, "r")), 202, "approval_required")
    host.do("approvals/approve", {"approval_id": waiting["details"]["approval_id"]}, MARIA)
    host.client.post("/api/payments/capture", content=f'{{"card_number": "{CARD}"', headers=CARLA)
    assert host.log(action="payments.capture")

    written = list(everything_written(host))
    assert any("payments.refunded" in row for row in written)
    assert not [row for row in written if CARD in row]
    records = [f"{record.getMessage()} {vars(record)!r} {record.exc_text}" for record in caplog.records]
    assert records
    assert not [record for record in records if CARD in record]
