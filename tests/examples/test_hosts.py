"""The transport of the three hosts over real HTTP: the same requests get the same answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.openapi.models import OpenAPI

from actionengine import SQLiteStorage, StorageUnavailable, Tenant
from actionengine.concurrency.run_sync import Mode
from actionengine.http import MAX_BODY_BYTES
from tests.examples.conftest import (
    BOT,
    CARD,
    CARLA,
    MARIA,
    SERVED,
    TOM,
    Host,
    fresh_key,
    hosts,
    keyed,
    person,
    refused,
    serve,
    serving,
)


@pytest.fixture(
    params=hosts(("flask", "sqlite"), ("django", "sqlite"), ("fastapi", "postgres")), ids="-".join, scope="module"
)
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    with serving(request) as found:
        yield found


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


# 400


def test_an_invalid_payload_is_400_with_each_path_and_reason(host: Host) -> None:
    payload = {"amount": -1, "card_number": CARD + CARD}
    error = refused(host.post("payments/capture", payload, keyed(CARLA, fresh_key())), 400, "invalid_input")
    fields = {field["path"]: field["reason"] for field in error["details"]["fields"]}
    assert set(fields) == {"job_id", "amount", "card_number"}
    assert all(fields.values())


@pytest.mark.parametrize("type", ["application/json", "application/x-www-form-urlencoded", "text/plain", None])
def test_a_body_is_json_whatever_its_type_says(host: Host, type: str | None) -> None:
    headers = CARLA if type is None else {**CARLA, "content-type": type}
    assert host.client.post("/api/customers/create", content=b'{"name": "Ada"}', headers=headers).status_code == 200
    for payload in ([], "text", 17, None, True, [{"name": "Ada"}]):
        response = host.client.post("/api/customers/create", content=json.dumps(payload), headers=headers)
        refused(response, 400, "invalid_input")
    for body in (
        b"{",
        b"name=Ada",
        b'{"name": "\xff"}',
        b'{"name": "Ada"} more',
        b"\x00",
        b"[" * 10**5,
        b'{"a": ' * 10**5,
    ):
        error = refused(host.client.post("/api/customers/create", content=body, headers=headers), 400, "invalid_input")
        assert "Ada" not in error["message"]
    for value in ("NaN", "1e999", '"\\ud800"', "9" * 9999, "[" * 100 + "]" * 100):
        response = host.client.post("/api/customers/create", content=f'{{"name": {value}}}', headers=headers)
        refused(response, 400, "invalid_input")


def test_a_payment_without_a_proper_idempotency_key_is_400(host: Host) -> None:
    job = host.completed_job()
    payload = {"job_id": job, "amount": 100, "card_number": CARD}
    for key in ("", '""', "k" * 10_000, "a, b", '"a", "b"', '"a', "\xe4"):
        headers = [*CARLA.items(), ("idempotency-key", key.encode("latin-1"))]
        response = host.client.post("/api/payments/capture", json=payload, headers=headers)  # type: ignore[arg-type]
        assert "idempotency key" in refused(response, 400, "invalid_input")["message"]
    assert "idempotency key" in refused(host.post("payments/capture", payload), 400, "invalid_input")["message"]
    assert host.payments_of(job) == []


def test_two_idempotency_keys_are_400(host: Host) -> None:
    job = host.completed_job()
    headers = [*CARLA.items(), ("idempotency-key", fresh_key()), ("Idempotency-Key", fresh_key())]
    payload = {"job_id": job, "amount": 100, "card_number": CARD}
    refused(host.client.post("/api/payments/capture", json=payload, headers=headers), 400, "invalid_input")
    assert host.payments_of(job) == []


# 401


def test_a_request_without_a_tenant_is_401(host: Host) -> None:
    refused(host.post("customers/list", {}, {"x-user-id": "carla"}), 401, "unauthenticated")
    refused(host.post("customers/list", {}, {"x-user-id": "carla", "x-tenant-id": ""}), 401, "unauthenticated")
    refused(host.get("/api/services", {}), 401, "unauthenticated")


# 403


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


def test_an_agent_uses_its_role_and_is_logged_as_an_agent(host: Host) -> None:
    created = host.do("customers/create", {"name": "By the bot"}, {**BOT, "x-reason": "a call", "x-request-id": "r-1"})
    row = host.log(actor_type="ai", action="customers.create")[0]
    assert (row["actor_id"], row["reason"], row["request_id"]) == ("helper-bot", "a call", "r-1")
    assert row["output"]["id"] == created["id"]


# 404, 405, 413


def test_an_unknown_tenant_is_404(host: Host) -> None:
    for slug in ("initech", "ACME", "acme/../globex", str(host.tenant().id).upper()):
        refused(host.client.post("/api/customers/list", headers=person("carla", slug)), 404, "not_found")


def test_an_unknown_name_is_404(host: Host) -> None:
    refused(host.post("customer/create", {}), 404, "not_found")
    refused(host.post("customers/creat", {}), 404, "not_found")
    assert refused(host.get("/api/services/customer"), 404, "not_found")["details"]["nearest"] == "customers"
    assert refused(host.get("/api/services/customers/lists"), 404, "not_found")["details"]["nearest"] == "list"


def test_an_unknown_route_is_404(host: Host) -> None:
    for path in ("/", "/api", "/api/", "/nothing", "/api/services/jobs/get/more", "/static/x", "/api/%00", "/api/\xff"):
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


def test_a_body_that_is_too_long_is_413(host: Host) -> None:
    for size in (MAX_BODY_BYTES + 1, 3 * MAX_BODY_BYTES):
        refused(host.client.post("/api/customers/create", content=b" " * size, headers=CARLA), 413, "too_large")


def test_a_body_of_unknown_length_is_read_or_refused(host: Host) -> None:
    for body, status, code in (
        ([b'{"nam', b'e": 5}'], 400, "invalid_input"),
        ([b" " * 65536] * (MAX_BODY_BYTES // 65536 + 1), 413, "too_large"),
    ):
        response = host.client.post("/api/customers/create", content=iter(body), headers=CARLA)
        # Django takes a body without a length for an empty one, so that its host asks for the length.
        refused(response, *((411, "length_required") if response.status_code == 411 else (status, code)))


def test_a_body_that_is_as_long_as_it_may_be_is_read(host: Host) -> None:
    body = b'{"name": "Ada"}'.ljust(MAX_BODY_BYTES)
    assert host.client.post("/api/customers/create", content=body, headers=CARLA).status_code == 200


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


def test_both_forms_of_a_key_are_the_same_key(host: Host) -> None:
    job, key = host.completed_job(), fresh_key()
    payload = {"job_id": job, "amount": 100, "card_number": CARD}
    payment = host.do("payments/capture", payload, keyed(CARLA, key))
    assert host.do("payments/capture", payload, keyed(CARLA, f'"{key}"')) == payment


def test_a_reason_is_logged_in_any_script(host: Host) -> None:
    reason = "Größe 王 falsch"
    headers = [*CARLA.items(), ("x-reason", reason.encode())]
    response = host.client.post("/api/customers/create", json={"name": "Ada"}, headers=headers)  # type: ignore[arg-type]
    assert response.status_code == 200
    assert host.log(action="customers.create")[0]["reason"] == reason


# Statuses of other errors


def test_an_approval_that_is_needed_is_202(host: Host) -> None:
    payload = {"payment_id": host.payment(500_000), "amount": 150_000}
    error = refused(host.post("payments/refund", payload, keyed(CARLA, fresh_key())), 202, "approval_required")
    approved = host.client.post(f"/api/approvals/{error['details']['approval_id']}/approve", headers=MARIA)
    assert approved.json()["data"]["result"]["refunded"] == 150_000


def test_a_spent_budget_is_429_and_says_when_to_retry(host: Host) -> None:
    bot = {**person("max"), **BOT}
    host.do("roles/assign", {"actor_type": "human", "actor_id": "max", "role": "manager"}, MARIA)
    for _ in range(6):
        payload = {"payment_id": host.payment(100_000), "amount": 100_000}
        host.do("payments/refund", payload, keyed(bot, fresh_key()))
    payload = {"payment_id": host.payment(100_000), "amount": 100_000}
    response = host.post("payments/refund", payload, keyed(bot, fresh_key()))
    refused(response, 429, "rate_limited")
    assert int(response.headers["retry-after"]) == response.json()["error"]["details"]["retry_after"] > 0


def test_answers_are_not_stored(host: Host) -> None:
    for response in (host.post("customers/list", {}), host.get("/api/projects", MARIA), host.get("/nothing")):
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-content-type-options"] == "nosniff"


# Resources, previews, discovery, documentation


def test_a_route_by_resource_takes_its_path_and_its_query(host: Host) -> None:
    project = host.get("/api/projects", MARIA).json()["data"][0]["id"]
    body = {"key": fresh_key(), "project_id": "another"}
    created = host.client.post(f"/api/projects/{project}/record_types", json=body, headers=MARIA).json()["data"]
    assert created["project_id"] == project
    assert len(host.get("/api/log?limit=1&outcome=succeeded", MARIA).json()["data"]["items"]) == 1
    refused(host.get("/api/log?limit=many", MARIA), 400, "invalid_input")
    refused(host.client.put("/api/projects", headers=MARIA), 405, "method_not_allowed")


def test_a_preview_writes_nothing_and_its_plan_is_kept(host: Host) -> None:
    payload = {"payment_id": host.payment(500), "amount": 100}
    preview = host.do("payments/refund/preview", payload)
    assert preview["value"]["refunded"] == 100
    assert host.log(action="payments.refund")[0]["outcome"] == "previewed"
    planned = {**keyed(CARLA, fresh_key()), "x-plan": preview["plan"]}
    refused(host.post("payments/refund", {**payload, "amount": 99}, planned), 409, "conflict")
    assert host.do("payments/refund", payload, planned)["refunded"] == 100


def test_the_document_has_every_action(host: Host) -> None:
    document = host.get("/openapi.json", {}).json()
    OpenAPI.model_validate(document)
    for service in host.get("/api/services").json()["data"]:
        for action in service["actions"]:
            assert "post" in document["paths"][f"/api/{service['name']}/{action}"]
    body = document["paths"]["/api/payments/capture"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["$ref"].rpartition("/")[2] in ("Capture", "payments.capture.input")  # FastAPI names the action's model
    capture = json.dumps(document["paths"]["/api/payments/capture"])
    assert "dempotency" in capture
    assert "payments.capture" in capture
    assert {"job_id", "amount", "card_number"} in [
        set(schema.get("properties", ())) for schema in document["components"]["schemas"].values()
    ]


def test_the_console_is_mounted_behind_its_login(host: Host) -> None:
    assert host.client.get("/console/", follow_redirects=True).status_code == 401
    assert host.client.get("/console", headers=MARIA, follow_redirects=True).status_code == 200
    with httpx.Client(base_url=host.client.base_url, trust_env=False, follow_redirects=True) as browser:
        assert "maria of Acme Plumbing" in browser.get("/console/demo-login").text
        page = browser.post("/console/demo-login", data={"who": "acme.maria"})
        assert (page.status_code, page.url.path) == (200, "/console/")
        assert browser.get("/console/log").status_code == 200
        browser.post("/console/demo-login", data={"who": "acme.tom"})
        assert browser.get("/console/log").status_code == 403
        for who in ("acme.nobody", "\xff", ""):
            assert browser.post("/console/demo-login", data={"who": who}).url.path == "/console/demo-login"
        # The cookie is for the console alone.
        refused(browser.post("/api/customers/list", json={}), 401, "unauthenticated")


def test_each_transport_has_at_most_60_lines() -> None:
    """Imports count. Blank lines, comments and docstrings, which have one line each, do not."""
    for host in ("fastapi_app", "flask_app", "django_app"):
        source = (Path(__file__).parents[2] / "examples" / host / "__init__.py").read_text(encoding="utf-8")
        lines = [line.strip() for line in source.splitlines()]
        assert len([line for line in lines if line and not line.startswith(("#", '"""'))]) <= 60, host


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
        response = host.post("customers/list", {})
        assert "secret" not in refused(response, 503, "unavailable")["message"]
        assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize("name", SERVED)
def test_a_defect_is_500_and_nothing_of_it_is_told(name: str, tmp_path: Path) -> None:
    with Broken(tmp_path / "business.db") as storage, serve(name, storage) as host:
        error = refused(host.post("customers/list", {}), 500, "internal")
        assert "secret" not in error["message"]
        assert httpx.get(host.client.base_url.join("/health"), trust_env=False).status_code == 200
