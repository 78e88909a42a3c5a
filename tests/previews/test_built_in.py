"""Previews and plans of the library's own actions, and of what has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actionengine import Actor, ErrorCode, Role, StaticAuthorizer
from actionengine.boundary import CODE_MODULE_DEFAULT, InProcessRunner, ModuleRoots, modules_service
from actionengine.changes import change_control_services
from actionengine.testing import Backend, run_in_mode
from actionengine.workflows import workflow_services
from tests.harness import expect, refused
from tests.previews.desk import BANK, Desk

SYSTEM = Actor.system()
STEPS = {"steps": [{"name": "tell", "type": "notification", "to": "ann", "message": "done"}]}


@pytest.fixture
def office(backend: Backend) -> Desk:
    """An engine with change control and workflows."""
    return Desk(backend, [BANK, *change_control_services(), *workflow_services()])


async def planned(desk: Desk, name: str, payload: Any) -> Any:
    """Preview an action, execute it with the plan, and return the preview."""
    preview = expect(await desk.preview(name, payload, by=SYSTEM))
    assert expect(await desk.perform(name, payload, by=SYSTEM, plan=preview.plan)) == preview.value
    return preview


@run_in_mode
async def test_built_in_actions_have_plans(office: Desk) -> None:
    written = []

    async def run(name: str, payload: Any) -> Any:
        preview = await planned(office, name, payload)
        written.append((name, [(each.kind, each.target) for each in preview.writes]))
        return preview.value

    await run("roles.define", {"name": "clerk", "allow": [{"permission": "bank.*"}]})
    project = {"project_id": (await run("projects.create", {"name": "shop"})).id}
    await run("record_types.create", {**project, "key": "order"})
    change = {"change_id": (await run("changes.create", {**project, "title": "t"})).id}
    await run("changes.add_target", {**change, "type": "record_type", "selector": {"record_type_key": "order"}})
    await run("workflows.define", {"key": "w", "definition": STEPS})
    await run("workflows.activate", {"key": "w"})
    await run("workflows.start", {"key": "w"})
    assert dict(written)["projects.create"] == [("insert", "ae_projects")]
    assert dict(written)["record_types.create"] == [("insert", "ae_record_types")]
    assert ("insert", "ae_change_targets") in dict(written)["changes.add_target"]
    assert all(writes for _, writes in written)


@run_in_mode
async def test_module_work_has_no_preview(backend: Backend, tmp_path: Path) -> None:
    roots = ModuleRoots(tmp_path)
    root = roots.create(backend.tenant, "website").root
    service = modules_service(InProcessRunner(CODE_MODULE_DEFAULT), roots.context)
    site = Desk(backend, [service], authorizer=StaticAuthorizer({"builder": Role(allow=["modules.*"])}))
    bob = Actor.human("bob", roles=["builder"])
    payload = {"module_id": "website", "path": "a.txt", "text": "x"}
    error = refused(await site.preview("modules.write", payload, by=bob), ErrorCode.UNPROCESSABLE)
    assert "no preview" in error.message
    assert not (root / "a.txt").exists()
    expect(await site.ask("modules.write", payload, by=bob))
    assert expect(await site.preview("modules.read", {"module_id": "website", "path": "a.txt"}, by=bob)).writes == ()
