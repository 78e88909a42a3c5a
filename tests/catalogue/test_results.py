"""The results of built-in actions are what their schemas say, as a client of an agent checks them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from pydantic_core import from_json, to_json
from returns.result import Result, Success

from actionengine import (
    ActionError,
    Actor,
    ApprovalPolicy,
    Engine,
    InMemoryStorage,
    RequestContext,
    Tenant,
    always,
    create_action,
    create_engine,
    create_service,
)
from actionengine.boundary import CODE_MODULE_DEFAULT, InProcessRunner, ModuleRoots, modules_service
from actionengine.changes import change_control_services
from actionengine.workflows import workflow_services
from tests.catalogue.test_exact_schemas import SCHEDULE
from tests.changes.test_ops import DIFF

Do = Callable[..., Any]

FAILING = ("work.pay", "roles.delete")
"""Actions that fail somewhere below; a failure of another one is a mistake."""

FIELD = {"name": "title", "type": "choice", "choices": ["low", "high"], "label": "Title"}


def pay(data: Any) -> Result[Any, ActionError]:
    return Success({"paid": True})


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    work = create_service(
        name="work",
        description="",
        actions=[
            create_action(
                name="pay", description="", handler=pay, approval=ApprovalPolicy(when=always, permission="work.approve")
            )
        ],
    )
    storage = InMemoryStorage()
    modules = modules_service(InProcessRunner(CODE_MODULE_DEFAULT), ModuleRoots(tmp_path).context)
    return create_engine(
        services=[work, modules, *workflow_services(open=True), *change_control_services(open=True)], storage=storage
    )


@pytest.fixture
def tenant(engine: Engine, tmp_path: Path) -> Tenant:
    tenant = engine.storage.create_tenant(slug="acme", name="Acme")
    (tmp_path / str(tenant.id) / "site").mkdir(parents=True)
    return tenant


@pytest.fixture
def do(engine: Engine, tenant: Tenant) -> Do:
    """Execute an action as somebody with every right, and compare its result, or its error, with its schema."""
    admin = Actor.human("ann", permissions=["*"])
    schemas = {
        each.name: each.output_schema
        for actor in (admin, Actor.system())
        for each in engine.catalogue(RequestContext(tenant, actor)).unwrap()
    }

    def execute(name: str, /, by: Actor = admin, **payload: Any) -> Any:
        service, action = name.split(".")
        result = engine.execute_action(service, action, payload, RequestContext(tenant, by))
        if not isinstance(result, Success):
            assert name in FAILING, (name, result.failure().to_dict())
            return result.failure()
        value = from_json(to_json(result.unwrap()))
        validator = jsonschema_rs.Draft202012Validator(schemas[name] or {}, validate_formats=True)
        assert validator.is_valid(value), (name, [str(each) for each in validator.iter_errors(value)], value)
        return value

    return execute


def test_results_of_change_control_fit(do: Do) -> None:
    project = do("projects.create", name="One")["id"]
    do("projects.get", project_id=project)
    do("projects.list")
    created = {"project_id": project, "key": "job"}
    do("record_types.create", **created, schema={"fields": [FIELD, {"name": "old", "type": "number"}]})
    do("record_types.activate", **created)
    change = do("changes.create", project_id=project, title="Change")["id"]
    do("changes.add_target", change_id=change, type="record_type", selector={"record_type_key": "job"})
    for op_type, payload in (
        ("add_field", {"field": "new", "definition": {"type": "text"}}),
        ("set_field", {"field": "title", "definition": {"type": "string", "required": True}, "before": "new"}),
        ("rename_field", {"old_name": "old", "new_name": "older"}),
        ("remove_field", {"field": "older"}),
    ):
        do("changes.add_patch_op", change_id=change, op_type=op_type, payload={"record_type": "job", **payload})
    for name in ("get", "transitions", "list_targets", "list_patch_ops", "preview"):
        do(f"changes.{name}", change_id=change)
    for status in ("Implementing", "Validating", "Ready"):
        do("changes.transition", change_id=change, status=status)
    assert do("changes.merge", change_id=change)["applied_count"] == 4
    for name in ("list_patch_ops", "list_snapshots", "plan_compensation"):
        do(f"changes.{name}", change_id=change)
    do("changes.list")
    for name in ("get", "verify_history", "check_documents"):
        do(f"record_types.{name}", **created)
    do("record_types.schema_at", **created, change_id=change)
    do("record_types.list", project_id=project)


def test_results_of_workflows_fit(do: Do) -> None:
    steps = [{"name": "tell", "type": "notification", "to": "ann", "message": "hello"}]
    definition = {"steps": steps, "trigger": SCHEDULE, "max_steps": 5}
    do("workflows.define", key="k", definition=definition)
    do("workflows.activate", key="k")
    do("workflows.get_definition", key="k")
    do("workflows.list_definitions")
    run = do("workflows.start", key="k", input={"a": 1})["id"]
    do("workflows.get", run_id=run)
    do("workflows.cancel", run_id=run)
    do("workflows.list")
    event = {"type": "event", "event_type": "x.y", "when": {"not": {"field": "input.id", "op": "exists"}}}
    trigger = do("triggers.create", key="k", trigger=event)["id"]
    for name in ("get", "disable", "enable", "delete"):
        do(f"triggers.{name}", trigger_id=trigger)
    do("triggers.list")
    do("workflow_assignments.list")
    do("workflows.purge", ended_before="2100-01-01T00:00:00Z")


def test_results_of_the_services_of_every_engine_fit(do: Do) -> None:
    do("roles.define", name="clerk", allow=[{"permission": "a.*"}], deny=[{"permission": "a.b", "resource": "c"}])
    do("roles.assign", actor_type="human", actor_id="bob", role="clerk")
    do("roles.of_actor", actor_type="human", actor_id="bob")
    do("roles.list")
    do("roles.delete", name="clerk")
    held = do("work.pay", by=Actor.ai("bot", on_behalf_of=Actor.human("bob")), amount=1)
    approval = held.details["approval_id"]
    do("approvals.get", approval_id=approval)
    do("approvals.list")
    assert do("approvals.approve", approval_id=approval, comment="fine")["result"] == {"paid": True}
    do("approvals.get", approval_id=approval)
    do("roles.delete", name="nobody")
    assert {row["outcome"] for row in do("action_log.list")["items"]} >= {"succeeded", "failed", "approval_required"}


def test_results_of_modules_fit(do: Do) -> None:
    do("modules.write", module_id="site", path="main.py", text='import os\nprint("old")\n')
    do("modules.read", module_id="site", path="main.py")
    do("modules.edit_file", module_id="site", path="main.py", diff=DIFF)
    do("modules.list", module_id="site")
    assert do("modules.run", module_id="site", argv=["true"])["exit_code"] == 0
    do("modules.write", module_id="site", path="b", base64="/w==")
    assert "base64" in do("modules.read", module_id="site", path="b")
    do("modules.delete", module_id="site", path="b")
