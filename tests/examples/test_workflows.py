"""The escalation of overdue invoices over real HTTP, on both hosts: an agent judges, people decide, steps are taken."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from examples.field_service.escalation import ACCOUNT_MANAGER, ESCALATION, KEY
from pydantic_core import from_json

from actionengine.workflows import parse_definition
from tests.examples.conftest import BOT, CARLA, MARIA, TOM, Headers, Host, person, until

LATE = {"day": "2031-05-30"}


def overdue(host: Host, amount: int = 240_000, day: str = "2031-05-30", tenant: str = "acme") -> str:
    """An invoice that Carla has marked as overdue on this day; it was due on 17 March."""
    carla = person("carla", tenant)
    job = host.completed_job(tenant)
    until(lambda: [each for each in host.do("invoices/list", {}, carla) if each["id"] == job])
    said(host.client.post(f"/api/invoices/{job}/issue", json={"due": "2031-03-17", "amount": amount}, headers=carla))
    said(host.client.post(f"/api/invoices/{job}/mark_overdue", json={"day": day}, headers=carla))
    return job


def said(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()["data"]


def run_of(host: Host, invoice: str, *statuses: str, tenant: str = "acme") -> Any:
    """The run about an invoice, as soon as it has one of these statuses."""
    maria = person("maria", tenant)

    def found() -> Any:
        runs = said(host.client.get("/api/runs", headers=maria, params={"key": KEY, "limit": 1000}))
        (run,) = [run for run in runs if run["input"].get("invoice_id") == invoice] or [None]
        return said(host.get(f"/api/runs/{run['id']}", maria)) if run and run["status"] in statuses else None

    return until(found)


def invoice_of(host: Host, invoice: str) -> Any:
    return next(each for each in host.do("invoices/list", {}) if each["id"] == invoice)


def decide(host: Host, run: Any, decision: str, headers: Headers = MARIA) -> httpx.Response:
    return host.client.post(f"/api/approvals/{run['approval_id']}/{decision}", json={"comment": "so"}, headers=headers)


def steps_of(run: Any) -> list[tuple[str, str]]:
    return [(step["step"], step["status"]) for step in run["steps"]]


BEGUN = [("assess", "succeeded"), ("weigh", "succeeded")]


def test_the_definition_is_right() -> None:
    assert parse_definition(ESCALATION).steps[0].name == "assess"


def test_a_large_overdue_invoice_is_escalated_after_approval(working_host: Host) -> None:
    host = working_host
    invoice = overdue(host)
    run = run_of(host, invoice, "paused")
    assert (run["step"], run["started_by"], run["paused_for"]) == ("approve", "human:carla", "approval")
    assert invoice_of(host, invoice)["dunning_level"] == 0
    said(decide(host, run, "approve"))
    run = run_of(host, invoice, "succeeded")
    assert steps_of(run) == [*BEGUN, *((name, "succeeded") for name in ("call", "approve", "escalate", "tell"))]
    assert invoice_of(host, invoice)["dunning_level"] == 1


def test_the_log_has_the_model_usage_and_the_approver(working_host: Host) -> None:
    host = working_host
    invoice = overdue(host)
    run = run_of(host, invoice, "paused")
    said(decide(host, run, "approve"))
    run_of(host, invoice, "succeeded")
    rows = {row["action"]: row for row in host.log(subject=f"invoices/{invoice}")}
    asked = rows["agent.assess_risk"]
    assert (asked["actor_type"], asked["actor_id"], asked["model"]) == ("workflow", KEY, "local-stand-in")
    assert (asked["prompt_version"], asked["output"]["risk"]) == ("risk-1", "high")
    assert asked["input_tokens"] > 50
    assert asked["output_tokens"] > 5
    assert rows["invoices.escalate"]["actor_id"] == KEY
    assert rows["invoices.mark_overdue"]["actor_id"] == "carla"
    approved = [
        row["approved_by"] for row in host.log(action="workflow_steps.perform") if row["request_id"] == run["id"]
    ]
    assert "human:maria" in approved


def test_the_account_manager_gets_a_task_and_a_notification(working_host: Host) -> None:
    host = working_host
    invoice = overdue(host)
    run = run_of(host, invoice, "paused")
    said(decide(host, run, "approve"))
    run_of(host, invoice, "succeeded")
    events = [from_json(event.payload) for _, event in host.storage.read_events(host.tenant(), limit=10_000)]
    own = [payload for payload in events if payload.get("run_id") == run["id"]]
    tasks, told = ([each for each in own if field in each] for field in ("assignee", "message"))
    assert [(task["assignee"], task["details"]) for task in tasks] == [
        (ACCOUNT_MANAGER, {"invoice_id": invoice, "risk": "high"})
    ]
    assert [event["to"] for event in told] == [[ACCOUNT_MANAGER, "human:maria"]]
    assert told[0]["message"] == "Ada is at dunning level 1 now"


def test_the_account_manager_completes_the_task_in_its_tenant(working_host: Host) -> None:
    host = working_host
    invoice = overdue(host)
    run = run_of(host, invoice, "paused")

    (task,) = said(host.get(f"/api/assignments?run_id={run['id']}&newest_first=true", CARLA))
    assert (task["assignee"], task["status"], task["step"]) == (ACCOUNT_MANAGER, "open", "call")
    path = f"/api/assignments/{task['id']}"
    assert host.client.post(f"{path}/complete", json={}, headers=TOM).status_code == 403
    assert host.get(path, person("carla", "globex")).status_code == 404
    said(host.client.post(f"{path}/complete", json={"result": {"promised": "Friday"}}, headers=CARLA))

    done = said(host.get(path, CARLA))
    assert (done["status"], done["completed_by"], done["result"]) == (
        "completed",
        "human:carla",
        {"promised": "Friday"},
    )
    assert host.client.post(f"{path}/complete", json={}, headers=CARLA).status_code == 409


def test_a_small_late_invoice_gets_a_reminder_only(working_host: Host) -> None:
    invoice = overdue(working_host, 32_000, "2031-03-20")
    run = run_of(working_host, invoice, "succeeded")
    assert steps_of(run) == [*BEGUN, ("remind", "succeeded")]


def test_a_small_invoice_of_high_risk_needs_somebody(working_host: Host) -> None:
    invoice = overdue(working_host, 32_000)
    assert run_of(working_host, invoice, "paused")["step"] == "approve"


def test_a_rejection_leaves_the_invoice_as_it_is(working_host: Host) -> None:
    invoice = overdue(working_host)
    said(decide(working_host, run_of(working_host, invoice, "paused"), "reject"))
    run = run_of(working_host, invoice, "succeeded")
    assert steps_of(run)[-2:] == [("approve", "rejected"), ("stand_down", "succeeded")]
    assert invoice_of(working_host, invoice)["dunning_level"] == 0


@pytest.mark.parametrize("headers", [CARLA, TOM, BOT], ids=["carla", "tom", "helper-bot"])
def test_only_a_manager_decides(working_host: Host, headers: Headers) -> None:
    run = run_of(working_host, overdue(working_host), "paused")
    # Who may not see an approval hears that there is none.
    assert decide(working_host, run, "approve", headers).status_code in (403, 404)
    assert run_of(working_host, run["input"]["invoice_id"], "paused")["id"] == run["id"]


def test_an_invoice_that_was_paid_meanwhile_is_not_escalated(working_host: Host) -> None:
    host = working_host
    invoice = overdue(host)
    run = run_of(host, invoice, "paused")
    said(host.client.post(f"/api/invoices/{invoice}/pay", headers=CARLA))
    said(decide(host, run, "approve"))
    run = run_of(host, invoice, "succeeded")
    assert steps_of(run)[-2:] == [("escalate", "failed"), ("stand_down", "succeeded")]
    assert run["steps"][-2]["error"]["code"] == "unprocessable"
    assert invoice_of(host, invoice)["status"] == "paid"


def test_an_invoice_moves_on_only_as_it_may(working_host: Host) -> None:
    host = working_host
    invoice = overdue(host)
    for action, payload, headers in (
        ("issue", {"due": "2031-04-01"}, CARLA),
        ("mark_overdue", LATE, CARLA),
    ):
        response = host.client.post(f"/api/invoices/{invoice}/{action}", json=payload, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (422, "unprocessable")
    assert host.client.post(f"/api/invoices/{invoice}/escalate", headers=CARLA).status_code == 403
    assert host.client.post("/api/invoices/none/pay", headers=CARLA).status_code == 404


def test_another_tenant_sees_none_of_it(working_host: Host) -> None:
    host = working_host
    run = run_of(host, overdue(host), "paused")
    theirs = person("maria", "globex")
    assert host.get(f"/api/runs/{run['id']}", theirs).status_code == 404
    assert run["id"] not in host.get("/api/runs?limit=1000", theirs).text
    for path in (f"/api/runs/{run['id']}/cancel", f"/api/approvals/{run['approval_id']}/approve"):
        assert host.client.post(path, headers=theirs).status_code == 404
    other = overdue(host, tenant="globex")
    assert run_of(host, other, "paused", tenant="globex")["step"] == "approve"
    assert run_of(host, run["input"]["invoice_id"], "paused")["approval_id"] == run["approval_id"]


def test_routes_cover_the_life_of_a_workflow(working_host: Host) -> None:
    host = working_host
    definition = {"steps": [{"name": "ask", "type": "approval", "permission": "jobs.read", "message": "Well?"}]}

    def post(path: str, payload: Any = None) -> Any:
        return said(host.client.post(path, json=payload or {}, headers=MARIA))

    assert post("/api/workflows", {"key": "asking", "definition": definition})["status"] == "draft"
    assert host.client.post("/api/workflows/asking/runs", json={}, headers=MARIA).status_code == 409
    assert post("/api/workflows/asking/activate")["status"] == "active"
    assert said(host.get("/api/workflows/asking", MARIA))["version"] == 1
    assert {each["key"] for each in said(host.get("/api/workflows", MARIA))} >= {"asking", KEY}
    run = post("/api/workflows/asking/runs", {"input": {}})
    until(lambda: said(host.get(f"/api/runs/{run['id']}", MARIA))["status"] == "paused")
    assert host.client.post(f"/api/runs/{run['id']}/resume", headers=MARIA).status_code == 409
    assert post(f"/api/runs/{run['id']}/cancel", {"reason": "never mind"})["status"] == "cancelled"
    assert post("/api/runs/purge", {"ended_before": "2020-01-01T00:00:00Z"}) == {"runs": 0, "has_more": False}
    trigger = post("/api/triggers", {"key": "asking", "trigger": {"type": "event", "event_type": "jobs.noted"}})
    assert post(f"/api/triggers/{trigger['id']}/disable")["status"] == "disabled"
    assert post(f"/api/triggers/{trigger['id']}/enable")["status"] == "active"
    assert said(host.client.delete(f"/api/triggers/{trigger['id']}", headers=MARIA))["id"] == trigger["id"]
    assert host.get(f"/api/triggers/{trigger['id']}", MARIA).status_code == 404
    for headers in (CARLA, BOT):
        refused = host.client.post("/api/workflows", json={"key": "x", "definition": definition}, headers=headers)
        assert refused.status_code == 403
