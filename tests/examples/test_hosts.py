"""Both hosts over real HTTP: the same requests get the same answers."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from examples.field_service.services.payments.capture import MAX_AMOUNT
from examples.field_service.transport import MAX_BODY

from actionengine import SQLiteStorage, StorageUnavailable, Tenant
from actionengine.concurrency.run_sync import Mode
from tests.examples.conftest import (
    BOT,
    CARD,
    CARLA,
    MARIA,
    SERVED,
    TOM,
    Headers,
    Host,
    agent,
    fresh_key,
    keyed,
    person,
    serve,
)

NOBODY = {"x-tenant-id": "acme"}
SUNDAY = "2031-03-02"


def refused(response: httpx.Response, status: int, code: str) -> Any:
    """The error in a response, which has to have this status and code."""
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json"), response.text
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"code", "message", "details"}
    assert error["code"] == code, error
    assert error["message"]
    return error


# Success


def test_a_success_is_200_with_its_value_under_data(host: Host) -> None:
    response = host.post("customers/create", {"name": "Ada", "email": "ada@example.org"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    created = response.json()["data"]
    assert response.json() == {
        "data": {"id": created["id"], "version": 1, "name": "Ada", "email": "ada@example.org"},
    }
    assert host.do("customers/get", {"customer_id": created["id"]}) == created


def test_a_post_without_a_body_is_an_empty_payload(host: Host) -> None:
    assert host.client.post("/api/customers/list", headers=CARLA).status_code == 200


def test_text_of_any_script_comes_back_as_it_went_in(host: Host) -> None:
    name = 'Zoë 王 🛠 "<&>\\ \n'
    created = host.do("customers/create", {"name": name})
    assert host.do("customers/get", {"customer_id": created["id"]})["name"] == name


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


def test_an_invalid_payload_is_400_with_each_path_and_reason(host: Host) -> None:
    payload = {"amount": -1, "card_number": CARD + CARD}
    error = refused(host.post("payments/capture", payload, keyed(CARLA, fresh_key())), 400, "invalid_input")
    fields = {field["path"]: field["reason"] for field in error["details"]["fields"]}
    assert set(fields) == {"job_id", "amount", "card_number"}
    assert all(fields.values())


@pytest.mark.parametrize("amount", [MAX_AMOUNT + 1, 2**63, 10**30])
@pytest.mark.parametrize("action", ["payments/capture", "jobs/complete_and_capture"])
def test_an_amount_that_no_column_has_room_for_is_400(host: Host, action: str, amount: int) -> None:
    payload = {"job_id": host.scheduled_job(), "amount": amount, "card_number": CARD}
    refused(host.post(action, payload, keyed(MARIA, fresh_key())), 400, "invalid_input")


@pytest.mark.parametrize("payload", [[], "text", 17, None, True, [{"name": "Ada"}]], ids=repr)
def test_a_payload_that_is_no_object_is_400(host: Host, payload: Any) -> None:
    response = host.client.post("/api/customers/create", content=json.dumps(payload), headers=CARLA)
    refused(response, 400, "invalid_input")


@pytest.mark.parametrize(
    "body",
    [b"{", b"name=Ada", b'{"name": "\xff"}', b'{"name": "Ada"} more', b"\x00", b"[" * 100_000, b'{"name": ' * 100_000],
    ids=["cut off", "a form", "no UTF-8", "two documents", "a zero byte", "100 000 lists", "100 000 objects"],
)
def test_malformed_json_is_400_and_nothing_of_it_is_told(host: Host, body: bytes) -> None:
    error = refused(host.client.post("/api/customers/create", content=body, headers=CARLA), 400, "invalid_input")
    assert "Ada" not in error["message"]


@pytest.mark.parametrize(
    "body", ['{"name": NaN}', '{"name": 1e999}', '{"name": "\\ud800"}', f'{{"name": {"9" * 9999}}}']
)
def test_numbers_and_characters_that_json_does_not_have_are_400(host: Host, body: str) -> None:
    refused(host.client.post("/api/customers/create", content=body, headers=CARLA), 400, "invalid_input")


def test_a_payload_nested_too_deeply_is_400(host: Host) -> None:
    body = '{"name": ' + "[" * 100 + "]" * 100 + "}"
    refused(host.client.post("/api/customers/create", content=body, headers=CARLA), 400, "invalid_input")


@pytest.mark.parametrize("headers", [CARLA, keyed(CARLA, ""), keyed(CARLA, "k" * 10_000)], ids=["no", "empty", "long"])
def test_a_payment_without_a_proper_idempotency_key_is_400(host: Host, headers: Headers) -> None:
    job = host.completed_job()
    payload = {"job_id": job, "amount": 100, "card_number": CARD}
    error = refused(host.post("payments/capture", payload, headers), 400, "invalid_input")
    assert "idempotency key" in error["message"]
    assert host.payments_of(job) == []


# 401


def test_a_request_without_a_tenant_is_401(host: Host) -> None:
    refused(host.post("customers/list", {}, {"x-user-id": "carla"}), 401, "unauthenticated")
    refused(host.post("customers/list", {}, {"x-user-id": "carla", "x-tenant-id": ""}), 401, "unauthenticated")
    refused(host.get("/api/services", {}), 401, "unauthenticated")


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


def test_roles_never_come_from_headers_or_payloads(host: Host) -> None:
    claims: dict[str, Any] = {"roles": ["manager"], "permissions": ["*"], "actor": {"type": "system", "id": "seed"}}
    headers = {
        f"x-{name}": "manager,admin,*,system" for name in ("role", "roles", "permissions", "actor-type", "actor")
    }
    headers |= {f"x-user-{name}": "manager" for name in ("role", "roles", "permissions", "type")}
    response = host.post("customers/create", {"name": "Ada", **claims}, {**TOM, **headers})
    refused(response, 403, "forbidden")
    created = host.do("customers/create", {"name": "Ada", "tenant": "globex", "tenant_id": "globex", **claims}, CARLA)
    assert set(created) == {"id", "version", "name", "email"}
    assert host.log(action="customers.create", outcome="succeeded")[0]["actor_id"] == "carla"
    refused(host.post("customers/get", {"customer_id": created["id"]}, person("carla", "globex")), 404, "not_found")


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


def test_an_agent_uses_its_role_and_is_logged_as_an_agent(host: Host) -> None:
    created = host.do("customers/create", {"name": "By the bot"}, {**BOT, "x-reason": "a call", "x-request-id": "r-1"})
    row = host.log(actor_type="ai", action="customers.create")[0]
    assert (row["actor_id"], row["reason"], row["request_id"]) == ("helper-bot", "a call", "r-1")
    assert row["output"]["id"] == created["id"]


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


def test_an_unknown_tenant_is_404(host: Host) -> None:
    for slug in ("initech", "ACME", "acme/../globex", str(host.tenant().id).upper()):
        refused(host.client.post("/api/customers/list", headers=person("carla", slug)), 404, "not_found")


def test_an_unknown_name_is_404_with_the_nearest_name(host: Host) -> None:
    assert refused(host.post("customer/create", {}), 404, "not_found")["details"]["nearest"] == "customers"
    assert refused(host.post("customers/creat", {}), 404, "not_found")["details"]["nearest"] == "create"
    assert refused(host.get("/api/services/customer"), 404, "not_found")["details"]["nearest"] == "customers"
    assert refused(host.get("/api/services/customers/lists"), 404, "not_found")["details"]["nearest"] == "list"


def test_an_unknown_thing_is_404(host: Host) -> None:
    refused(host.post("customers/get", {"customer_id": "nobody"}), 404, "not_found")
    refused(host.post("jobs/create", {"customer_id": "nobody", "title": "x"}), 404, "not_found")
    refused(host.post("jobs/complete", {"job_id": "none"}, TOM), 404, "not_found")
    refund = {"payment_id": "none", "amount": 1}
    refused(host.post("payments/refund", refund, keyed(CARLA, fresh_key())), 404, "not_found")
    refused(host.post("approvals/approve", {"approval_id": "none"}, MARIA), 404, "not_found")


@pytest.mark.parametrize("path", ["/", "/api", "/api/", "/api/services/", "/nothing", "/api/services/jobs/get/more"])
def test_an_unknown_route_is_404(host: Host, path: str) -> None:
    refused(host.get(path), 404, "not_found")


def test_a_wrong_method_is_405_and_says_which_are_right(host: Host) -> None:
    for method, path, right in (
        ("GET", "/api/customers/list", "POST"),
        ("PUT", "/api/customers/create", "POST"),
        ("DELETE", "/api/services", "GET"),
        ("POST", "/api/services", "GET"),
        ("POST", "/health", "GET"),
    ):
        response = host.client.request(method, path, headers=CARLA)
        refused(response, 405, "method_not_allowed")
        assert right in response.headers["allow"]


@pytest.mark.parametrize("size", [MAX_BODY + 1, 3 * MAX_BODY])
def test_a_body_that_is_too_long_is_413(host: Host, size: int) -> None:
    refused(host.client.post("/api/customers/create", content=b" " * size, headers=CARLA), 413, "too_large")


def test_a_long_body_without_a_content_length_is_413(host: Host) -> None:
    chunks = (b" " * 65536 for _ in range(MAX_BODY // 65536 + 1))
    refused(host.client.post("/api/customers/create", content=chunks, headers=CARLA), 413, "too_large")


def test_a_body_that_is_as_long_as_it_may_be_is_read(host: Host) -> None:
    body = b'{"name": "Ada"}'.ljust(MAX_BODY)
    assert host.client.post("/api/customers/create", content=body, headers=CARLA).status_code == 200


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


def test_a_retry_replays_the_first_answer_byte_for_byte(host: Host) -> None:
    job, headers = host.completed_job(), keyed(CARLA, fresh_key())
    body = json.dumps({"job_id": job, "amount": 100, "card_number": CARD})
    first = host.client.post("/api/payments/capture", content=body, headers=headers)
    reordered = json.dumps(dict(reversed(json.loads(body).items())), indent=4)
    for again in (body, body, reordered):
        retry = host.client.post("/api/payments/capture", content=again, headers=headers)
        assert (retry.status_code, retry.content) == (200, first.content)
    assert len(host.payments_of(job)) == 1
    outcomes = [row["outcome"] for row in host.log(action="payments.capture")[:4]]
    assert outcomes == ["replayed", "replayed", "replayed", "succeeded"]


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


def test_discovery_needs_no_actor_but_a_tenant(host: Host) -> None:
    for path in ("/api/services", "/api/services/jobs", "/api/services/jobs/get"):
        assert host.get(path, NOBODY).status_code == 200
        refused(host.get(path, {"x-user-id": "carla"}), 401, "unauthenticated")
        refused(host.get(path, person("carla", "initech")), 404, "not_found")


def test_health_needs_nothing(host: Host) -> None:
    assert host.get("/health", {}).json() == {"data": "ok"}


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


# Storage that does not answer, and the table as a whole


class OutOfReach(SQLiteStorage):
    """A storage that cannot be reached for its tenants."""

    async def find_tenant(self, slug: str, mode: Mode) -> Tenant | None:
        raise StorageUnavailable("postgres://secret@10.0.0.1 refuses connections")


class Broken(SQLiteStorage):
    """A storage with a defect."""

    async def find_tenant(self, slug: str, mode: Mode) -> Tenant | None:
        raise RuntimeError("postgres://secret@10.0.0.1 is confused")


@pytest.mark.parametrize("name", SERVED)
def test_a_storage_out_of_reach_is_503(name: str, tmp_path: Path) -> None:
    with OutOfReach(tmp_path / "business.db") as storage, serve(name, storage) as host:
        error = refused(host.post("customers/list", {}), 503, "unavailable")
        assert "secret" not in error["message"]


@pytest.mark.parametrize("name", SERVED)
def test_a_defect_is_500_and_nothing_of_it_is_told(name: str, tmp_path: Path) -> None:
    with Broken(tmp_path / "business.db") as storage, serve(name, storage) as host:
        error = refused(host.post("customers/list", {}), 500, "internal")
        assert "secret" not in error["message"]
        assert httpx.get(host.client.base_url.join("/health"), trust_env=False).status_code == 200
