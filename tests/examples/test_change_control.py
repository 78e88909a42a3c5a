"""Change control over real HTTP, on both hosts: an agent drafts, people decide, and what they decided holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from examples.field_service.app import create_business, open_storage
from examples.field_service.change_control import JOB
from examples.field_service.routes import ROUTES
from examples.field_service.services.config import own_services, services

from actionengine import Actor, RequestContext
from tests.examples.conftest import BOT, CARLA, MARIA, TOM, Headers, Host, agent, person, refused

MAX = person("max")
URGENCY = {
    "record_type": "job",
    "field": "urgency",
    "definition": {"type": "choice", "choices": ["today", "this week"]},
}


@dataclass(frozen=True)
class Office:
    """A host, spoken to by the routes of change control."""

    host: Host

    def get(self, path: str, headers: Headers = BOT, **query: str) -> Any:
        return self._data(self.host.client.get(f"/api/{path}", params=query, headers=headers))

    def post(self, path: str, payload: Mapping[str, Any] | None = None, headers: Headers = BOT) -> Any:
        return self._data(self.ask(path, payload, headers))

    def ask(self, path: str, payload: Mapping[str, Any] | None = None, headers: Headers = BOT) -> httpx.Response:
        return self.host.client.post(f"/api/{path}", json=payload or {}, headers=headers)

    def project(self, headers: Headers = BOT) -> str:
        (project,) = self.get("projects", headers)
        return str(project["id"])

    def draft(self, *ops: tuple[str, Mapping[str, Any]], headers: Headers = BOT) -> str:
        """A change to the record type of jobs."""
        change = str(self.post("changes", {"project_id": self.project(headers), "title": "A draft"}, headers)["id"])
        selector = {"record_type_key": "job"}
        target = self.post(f"changes/{change}/targets", {"type": "record_type", "selector": selector}, headers)
        for op_type, payload in ops:
            op = {"target_id": target["id"], "op_type": op_type, "payload": payload}
            self.post(f"changes/{change}/ops", op, headers)
        return change

    def ready(self, *ops: tuple[str, Mapping[str, Any]]) -> str:
        """One that a manager has made `Ready`."""
        change = self.draft(*ops)
        self.post(f"changes/{change}/transition", {"status": "Validating"})
        self.post(f"changes/{change}/transition", {"status": "Ready"}, MARIA)
        return change

    def merged(self, *ops: tuple[str, Mapping[str, Any]]) -> str:
        change = self.ready(*ops)
        self.post(f"changes/{change}/merge", headers=MARIA)
        return change

    def status(self, change: str) -> str:
        return str(self.get(f"changes/{change}")["status"])

    def fields(self) -> list[str]:
        job = self.get(f"projects/{self.project()}/record_types/job")
        return [field["name"] for field in job["schema"]["fields"]]

    def set_details(self, job: str, details: Mapping[str, Any]) -> httpx.Response:
        return self.host.post("jobs/set_details", {"job_id": job, "details": details})

    @staticmethod
    def _data(response: httpx.Response) -> Any:
        assert response.status_code == 200, response.text
        return response.json()["data"]


@pytest.fixture
def office(host: Host) -> Office:
    """Shared by the tests of this file: none of them merges a change."""
    return Office(host)


@pytest.fixture
def fresh_office(fresh_host: Host) -> Office:
    return Office(fresh_host)


# The story


def test_an_agent_drafts_and_a_manager_merges_a_new_field(fresh_office: Office) -> None:
    office, host = fresh_office, fresh_office.host
    job = host.new_job()
    details = {"parking": "in the yard", "urgency": "today"}
    error = refused(office.set_details(job, details), 400, "invalid_input")
    assert [field["path"] for field in error["details"]["fields"]] == ["urgency"]

    change = office.draft(("add_field", URGENCY))
    preview = office.get(f"changes/{change}/preview")
    (diff,) = preview["diff"]
    assert (diff["record_type_key"], diff["from_version"], diff["to_version"]) == ("job", 1, 2)
    assert [field["name"] for field in diff["added"]] == ["urgency"]
    assert (diff["removed"], diff["renamed"], diff["changed"]) == ([], [], [])
    assert office.fields() == ["parking", "floor", "ladder_needed"]

    assert office.post(f"changes/{change}/transition", {"status": "Validating"})["status"] == "Validating"
    refused(office.ask(f"changes/{change}/transition", {"status": "Ready"}), 403, "forbidden")
    refused(office.ask(f"changes/{change}/merge"), 403, "forbidden")
    assert office.status(change) == "Validating"

    assert office.post(f"changes/{change}/transition", {"status": "Ready"}, MARIA)["status"] == "Ready"
    merged = office.post(f"changes/{change}/merge", headers=MARIA)
    assert (merged["status"], merged["applied_count"], merged["diff"]) == ("Merged", 1, preview["diff"])
    assert office.fields() == ["parking", "floor", "ladder_needed", "urgency"]

    assert office.set_details(job, details).json()["data"] == {"id": job, "version": 1, "details": details}
    assert host.do("jobs/get", {"job_id": job})["details"] == details
    error = refused(office.set_details(job, {"urgency": "yesterday"}), 400, "invalid_input")
    assert [field["path"] for field in error["details"]["fields"]] == ["urgency"]

    authors = {row["action"]: row["actor_type"] for row in host.log(limit=100) if row["outcome"] == "succeeded"}
    assert authors["changes.add_patch_op"] == "ai"
    assert authors["changes.merge"] == "human"


def test_a_preview_names_the_documents_that_would_no_longer_fit(fresh_office: Office) -> None:
    office = fresh_office
    job, other = office.host.new_job(), office.host.new_job()
    assert office.set_details(job, {"floor": 3}).status_code == 200
    assert office.set_details(other, {"parking": "in the yard"}).status_code == 200
    definition = {**URGENCY["definition"], "required": True}  # type: ignore[dict-item]
    change = office.draft(
        ("add_field", {**URGENCY, "definition": definition}),
        ("set_field", {"record_type": "job", "field": "floor", "definition": {"type": "string"}}),
    )
    (checked,) = office.get(f"changes/{change}/preview")["documents"]
    assert checked["checked"] == 2
    problems = {misfit["id"]: set(misfit["problems"]) for misfit in checked["invalid"]}
    assert problems == {job: {"floor", "urgency"}, other: {"urgency"}}
    path = f"projects/{office.project()}/record_types/job/invalid"
    assert office.get(path, change_id=change) == checked
    assert office.get(path)["invalid"] == []
    assert len(office.get(path, change_id=change, limit="1")["invalid"]) == 1


def test_what_a_change_takes_away_needs_a_second_manager(fresh_office: Office) -> None:
    office = fresh_office
    change = office.ready(("remove_field", {"record_type": "job", "field": "floor"}))
    waiting = refused(office.ask(f"changes/{change}/merge", headers=MARIA), 202, "approval_required")
    transition = {"status": "Merged"}
    refused(office.ask(f"changes/{change}/transition", transition, MARIA), 202, "approval_required")
    refused(office.ask(f"changes/{change}/execute", headers=MARIA), 202, "approval_required")
    assert office.fields() == ["parking", "floor", "ladder_needed"]
    approval = {"approval_id": waiting["details"]["approval_id"]}
    for who in (MARIA, BOT):
        refused(office.ask("approvals/approve", approval, who), 403, "forbidden")
    refused(office.ask("approvals/approve", approval, CARLA), 404, "not_found")
    assert office.post("approvals/approve", approval, MAX)["result"]["status"] == "Merged"
    assert office.fields() == ["parking", "ladder_needed"]
    row = office.host.log(action="changes.merge", outcome="succeeded")[0]
    assert (row["actor_id"], row["approved_by"]) == ("maria", "human:max")


def test_a_change_reverts_another_and_history_has_both(fresh_office: Office) -> None:
    office = fresh_office
    began = datetime.now(UTC)
    change = office.merged(("add_field", URGENCY))
    path = f"projects/{office.project()}/record_types/job"
    back = office.post(f"changes/{change}/compensation")
    assert (back["compensates"], back["status"]) == (change, "Draft")
    (op,) = office.get(f"changes/{back['id']}/ops")
    assert (op["op_type"], op["payload"]["field"]) == ("remove_field", "urgency")
    office.post(f"changes/{back['id']}/transition", {"status": "Validating"})
    office.post(f"changes/{back['id']}/transition", {"status": "Ready"}, MARIA)
    waiting = refused(office.ask(f"changes/{back['id']}/merge", headers=MARIA), 202, "approval_required")
    office.post("approvals/approve", {"approval_id": waiting["details"]["approval_id"]}, MAX)
    assert office.fields() == ["parking", "floor", "ladder_needed"]

    then = office.get(f"{path}/schema", change_id=change)
    assert (then["version"], [field["name"] for field in then["schema"]["fields"]][-1]) == (2, "urgency")
    assert office.get(f"{path}/schema", at=datetime.now(UTC).isoformat())["version"] == 3
    assert office.get(f"{path}/schema", at=began.isoformat())["version"] == 1
    early = {"at": (began - timedelta(days=365)).isoformat()}
    refused(office.host.client.get(f"/api/{path}/schema", params=early, headers=BOT), 404, "not_found")
    history = office.get(f"{path}/history")
    assert (history["is_intact"], history["ops"], history["snapshots"]) == (True, 2, 2)
    (snapshot,) = office.get(f"changes/{change}/snapshots")
    assert (snapshot["record_type_key"], snapshot["version"]) == ("job", 1)


def test_what_became_of_a_change_is_in_the_feed_of_events(fresh_office: Office) -> None:
    change = fresh_office.merged(("add_field", URGENCY))
    events = fresh_office.host.storage.read_events(fresh_office.host.tenant())
    told = {stored.event.type for stored in events if change in (stored.event.subject or "")}
    assert told >= {"changes.merged", "changes.add_patch_op", "changes.transition"}
    assert "record_types.changed" in {stored.event.type for stored in events}


# Who may do what


def test_no_agent_decides_even_as_a_manager(fresh_office: Office) -> None:
    office = fresh_office
    office.host.do("roles/assign", {"actor_type": "ai", "actor_id": "helper-bot", "role": "manager"}, MARIA)
    change = office.draft(("add_field", URGENCY))
    office.post(f"changes/{change}/transition", {"status": "Validating"})
    path = f"projects/{office.project()}/record_types/job"
    for asked, payload in (
        (f"changes/{change}/transition", {"status": "Ready"}),
        (f"changes/{change}/transition", {"status": "Merged"}),
        (f"changes/{change}/merge", {}),
        (f"changes/{change}/execute", {}),
        (f"{path}/activate", {}),
        (f"{path}/retire", {}),
    ):
        refused(office.ask(asked, payload), 403, "forbidden")
    assert office.status(change) == "Validating"


@pytest.mark.parametrize("who", [CARLA, BOT], ids=["carla", "helper-bot"])
def test_a_csr_drafts_and_decides_nothing(office: Office, who: Headers) -> None:
    change = office.draft(("add_field", URGENCY), headers=who)
    office.post(f"changes/{change}/transition", {"status": "Validating"}, who)
    for asked, payload in (
        (f"changes/{change}/transition", {"status": "Ready"}),
        (f"changes/{change}/transition", {"status": "Merged"}),
        (f"changes/{change}/merge", {}),
        (f"changes/{change}/execute", {}),
        ("projects", {"name": "Another"}),
        (f"projects/{office.project()}/record_types", {"key": "van"}),
        (f"projects/{office.project()}/record_types/job/retire", {}),
    ):
        refused(office.ask(asked, payload, who), 403, "forbidden")


def test_a_technician_has_nothing_to_do_with_it(office: Office) -> None:
    change = office.draft(("add_field", URGENCY))
    for path in ("projects", "changes", f"changes/{change}", f"changes/{change}/preview"):
        refused(office.host.get(f"/api/{path}", TOM), 403, "forbidden")
    refused(office.ask("changes", {"project_id": office.project(), "title": "Mine"}, TOM), 403, "forbidden")


# What is refused, and with which status


def test_a_bad_op_is_422_with_the_op_named_and_the_change_failed(office: Office) -> None:
    change = office.ready(("add_field", URGENCY), ("remove_field", {"record_type": "job", "field": "no such field"}))
    ops = office.get(f"changes/{change}/ops")
    refused(office.host.get(f"/api/changes/{change}/preview"), 422, "unprocessable")
    error = refused(office.ask(f"changes/{change}/merge", headers=MARIA), 422, "unprocessable")
    assert error["message"].startswith("remove_field job.no such field: ")
    assert error["details"]["op_id"] == ops[1]["id"]
    assert (error["details"]["field"], error["details"]["record_type"]) == ("no such field", "job")
    assert office.status(change) == "ValidationFailed"
    assert office.fields() == [field["name"] for field in JOB["schema"]["fields"]]

    gone = office.host.client.delete(f"/api/changes/{change}/ops/{ops[1]['id']}", headers=BOT)
    assert (gone.status_code, gone.json()["data"]["id"]) == (200, ops[1]["id"])
    assert [op["id"] for op in office.get(f"changes/{change}/ops")] == [ops[0]["id"]]


def test_a_malformed_op_is_400_with_a_reason(office: Office) -> None:
    change = office.draft()
    (target,) = office.get(f"changes/{change}/targets")
    op = {"target_id": target["id"], "op_type": "add_field", "payload": {**URGENCY, "definition": {"type": "colour"}}}
    error = refused(office.ask(f"changes/{change}/ops", op), 400, "invalid_input")
    assert error["details"]["fields"][0]["path"] == "definition.type"
    refused(office.ask(f"changes/{change}/ops", {**op, "op_type": "explode"}), 400, "invalid_input")
    refused(office.ask(f"changes/{change}/transition", {"status": "Done"}), 400, "invalid_input")
    refused(office.host.get(f"/api/changes/{change}/ops?limit=many", BOT), 400, "invalid_input")
    refused(office.host.get("/api/changes?colour=red", BOT), 400, "invalid_input")
    body = office.host.client.post(f"/api/changes/{change}/ops", content=b"[1]", headers=BOT)
    refused(body, 400, "invalid_input")


def test_what_the_state_of_a_change_does_not_allow_is_409(office: Office) -> None:
    change = office.draft(("add_field", URGENCY))
    (target,) = office.get(f"changes/{change}/targets")
    twice = {"target_id": target["id"], "op_type": "add_field", "payload": URGENCY}
    refused(office.ask(f"changes/{change}/ops", twice), 409, "conflict")
    refused(office.ask(f"changes/{change}/merge", headers=MARIA), 409, "conflict")
    refused(office.ask(f"changes/{change}/transition", {"status": "Ready"}, MARIA), 409, "conflict")
    refused(office.ask(f"changes/{change}/compensation"), 409, "conflict")
    assert office.status(change) == "Draft"


def test_a_merged_change_stays_as_it_is(fresh_office: Office) -> None:
    office = fresh_office
    change = office.merged(("add_field", URGENCY))
    (target,) = office.get(f"changes/{change}/targets")
    (op,) = office.get(f"changes/{change}/ops")
    more = {"target_id": target["id"], "op_type": "remove_field", "payload": {"record_type": "job", "field": "floor"}}
    refused(office.ask(f"changes/{change}/ops", more), 409, "conflict")
    refused(office.ask(f"changes/{change}/targets", {"type": "form", "selector": {"form_key": "x"}}), 409, "conflict")
    refused(office.host.client.delete(f"/api/changes/{change}/ops/{op['id']}", headers=BOT), 409, "conflict")
    refused(office.ask(f"changes/{change}/transition", {"status": "Draft"}), 409, "conflict")
    refused(office.ask(f"changes/{change}/execute", headers=MARIA), 409, "conflict")
    assert office.post(f"changes/{change}/merge", headers=MARIA)["applied_count"] == 0


def test_the_second_change_of_a_field_is_409_and_shows_both(fresh_office: Office) -> None:
    office = fresh_office
    first, second = (
        office.ready(("set_field", {"record_type": "job", "field": "floor", "definition": {"type": type}}))
        for type in ("string", "text")
    )
    office.post(f"changes/{first}/merge", headers=MARIA)
    error = refused(office.ask(f"changes/{second}/merge", headers=MARIA), 409, "conflict")
    (conflict,) = error["details"]["conflicts"]
    assert (conflict["op"]["change_id"], conflict["since"]["change_id"]) == (second, first)


def test_changes_and_record_types_belong_to_one_tenant(fresh_office: Office) -> None:
    office, stranger, bot = fresh_office, person("maria", "globex"), agent("helper-bot", "globex")
    change, project = office.draft(("add_field", URGENCY)), office.project()
    (op,) = office.get(f"changes/{change}/ops")
    for path in (
        f"changes/{change}",
        f"changes/{change}/targets",
        f"changes/{change}/ops",
        f"changes/{change}/preview",
        f"changes/{change}/snapshots",
        f"projects/{project}",
        f"projects/{project}/record_types",
        f"projects/{project}/record_types/job",
        f"projects/{project}/record_types/job/history",
    ):
        refused(office.host.get(f"/api/{path}", stranger), 404, "not_found")
    for path, payload in (
        (f"changes/{change}/merge", {}),
        (f"changes/{change}/execute", {}),
        (f"changes/{change}/transition", {"status": "Validating"}),
        (f"changes/{change}/compensation", {}),
        (f"changes/{change}/ops", {"target_id": op["target_id"], "op_type": "add_field", "payload": URGENCY}),
        (f"projects/{project}/record_types/job/retire", {}),
        ("changes", {"project_id": project, "title": "Mine"}),
    ):
        refused(office.ask(path, payload, stranger), 404, "not_found")
    refused(office.host.client.delete(f"/api/changes/{change}/ops/{op['id']}", headers=bot), 404, "not_found")
    assert office.get("changes", stranger) == []
    assert office.status(change) == "Draft"

    office.post(f"changes/{change}/transition", {"status": "Validating"})
    office.post(f"changes/{change}/transition", {"status": "Ready"}, MARIA)
    office.post(f"changes/{change}/merge", headers=MARIA)
    theirs = office.host.new_job("globex")
    asked = {"job_id": theirs, "details": {"urgency": "today"}}
    refused(office.host.post("jobs/set_details", asked, person("carla", "globex")), 400, "invalid_input")


def test_details_are_of_a_job_that_is_there(office: Office) -> None:
    refused(office.set_details("no job", {"floor": 1}), 404, "not_found")
    job = office.host.new_job()
    assert office.host.do("jobs/get", {"job_id": job})["details"] == {}
    error = refused(office.set_details(job, {"floor": "third", "ladder_needed": 1}), 400, "invalid_input")
    assert {field["path"] for field in error["details"]["fields"]} == {"floor", "ladder_needed"}
    office.host.do("jobs/set_details", {"job_id": job, "details": {"floor": 3}}, TOM)
    replaced = office.host.do("jobs/set_details", {"job_id": job, "details": {"ladder_needed": True}}, TOM)
    assert replaced == {"id": job, "version": 2, "details": {"ladder_needed": True}}


# Routes


def test_every_library_action_has_a_route_and_reads_are_get() -> None:
    built = {(service.name, action.name): action for service in services for action in service.actions}
    unrouted = {"workflow_steps", *(service.name for service in own_services)}
    routed = {(route.service, route.action): route for route in ROUTES}
    assert routed.keys() >= {name for name in built if name[0] not in unrouted}
    for name in routed.keys() & built.keys():
        assert (routed[name].method == "GET") == built[name].read_only


def test_a_route_is_the_action_of_its_name(office: Office) -> None:
    change = office.draft(("add_field", URGENCY))
    named = {"change_id": change}
    assert office.get(f"changes/{change}") == office.host.do("changes/get", named)
    assert office.get(f"changes/{change}/preview") == office.host.do("changes/preview", named)
    assert office.post(f"changes/{change}/transition", {"status": "Draft", "change_id": "another"})["id"] == change
    ids = [each["id"] for each in office.get("changes", status="Draft", limit="1000")]
    assert change in ids
    assert office.get("changes", after=ids[-1]) == []


def test_the_routes_say_which_methods_they_know(office: Office) -> None:
    change = office.draft()
    for method, path, right in (
        ("PUT", f"/api/changes/{change}/ops", "GET"),
        ("PUT", f"/api/changes/{change}/ops", "POST"),
        ("GET", f"/api/changes/{change}/merge", "POST"),
        ("GET", f"/api/changes/{change}/ops/some", "DELETE"),
    ):
        response = office.host.client.request(method, path, headers=MARIA)
        refused(response, 405, "method_not_allowed")
        assert right in response.headers["allow"]


# What each tenant begins with


def test_each_tenant_begins_with_a_record_type_for_its_jobs(office: Office) -> None:
    for tenant in ("acme", "globex"):
        (project,) = office.get("projects", person("carla", tenant))
        assert (project["name"], project["require_review"]) == ("Field service", True)
        (job,) = office.get(f"projects/{project['id']}/record_types", person("carla", tenant))
        assert (job["key"], job["status"], job["version"]) == ("job", "active", 1)


def test_a_restart_leaves_record_types_unchanged(tmp_path: Path) -> None:
    def types_of(file: Path) -> list[Any]:
        with open_storage(str(file)) as storage:
            engine = create_business(storage)
            context = RequestContext(tenant=engine.resolve_tenant("acme").unwrap(), actor=Actor.human("carla"))
            projects = engine.execute_action("projects", "list", {}, context).unwrap()
            asked = {"project_id": projects[0].id}
            return [projects, engine.execute_action("record_types", "list", asked, context).unwrap()]

    before = types_of(tmp_path / "business.db")
    assert types_of(tmp_path / "business.db") == before


def test_a_record_type_that_was_retired_stays_so(tmp_path: Path) -> None:
    with open_storage(str(tmp_path / "business.db")) as storage:
        engine = create_business(storage)
        context = RequestContext(tenant=engine.resolve_tenant("acme").unwrap(), actor=Actor.human("maria"))
        (project,) = engine.execute_action("projects", "list", {}, context).unwrap()
        job = {"project_id": project.id, "key": "job"}
        engine.execute_action("record_types", "retire", job, context).unwrap()
        again = create_business(storage).execute_action("record_types", "get", job, context)
        assert again.unwrap().status == "retired"
