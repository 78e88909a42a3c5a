"""The services of the library need permissions, unless the host opens them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actionengine import Actor, ConfigurationError, Engine, InMemoryStorage, RequestContext, Service, create_engine
from actionengine.boundary import CODE_MODULE_DEFAULT, InProcessRunner, ModuleRoots, modules_service
from actionengine.changes import ChangeControlPermissions, change_control_services
from actionengine.workflows import WorkflowPermissions, workflow_services

Factory = Callable[..., tuple[Service, ...]]
FACTORIES: dict[str, tuple[Factory, type[Any]]] = {
    "change_control_services": (change_control_services, ChangeControlPermissions),
    "workflow_services": (workflow_services, WorkflowPermissions),
}
each_factory = pytest.mark.parametrize("factory", FACTORIES)

ASKS_INSIDE = {
    "approvals.list": "lists what the actor asked for or may decide",
    "approvals.get": "shows what the actor asked for or may decide",
    "approvals.approve": "asks for the permission of the policy",
    "approvals.reject": "asks for the permission of the policy",
    "approvals.cancel": "is for the requester",
    "budgets.usage": "shows the actor's own budgets; those of others need a permission",
    "changes.transition": "asks for what the state means",
}
FOR_WORKFLOWS_ALONE = {
    f"workflow_steps.{name}" for name in ("next", "perform", "fail_step", "await_approval", "fire", "decline")
}


def engine_with(*services: Service) -> tuple[Engine, RequestContext]:
    storage = InMemoryStorage()
    tenant = storage.create_tenant(slug="acme", name="Acme")
    return create_engine(services=services, storage=storage), RequestContext(tenant, Actor.human("gus"))


def ask(engine: Engine, who: RequestContext, name: str, payload: dict[str, Any]) -> Any:
    service, action = name.split(".")
    return engine.execute_action(service, action, payload, who)


def test_every_action_that_asks_for_no_permission_is_known(tmp_path: Path) -> None:
    modules = modules_service(InProcessRunner(CODE_MODULE_DEFAULT), ModuleRoots(tmp_path).context)
    engine, _ = engine_with(*change_control_services(), *workflow_services(), modules)

    asks_for_none = {
        f"{service.name}.{action.name}"
        for service in engine.get_services().unwrap()
        for action in engine.get_service_actions(service.name).unwrap()
        if action.permission is None
    }

    assert asks_for_none == {*ASKS_INSIDE, *FOR_WORKFLOWS_ALONE}
    assert {engine.get_action(*name.split(".")).unwrap().allowed_actors for name in FOR_WORKFLOWS_ALONE} == {
        frozenset({"workflow"})
    }


@each_factory
def test_the_short_form_asks_and_gives_a_plain_tuple(factory: str) -> None:
    make, _ = FACTORIES[factory]

    services = make()

    assert type(services) is tuple
    engine, gus = engine_with(*services)
    name = "projects.create" if factory == "change_control_services" else "workflows.define"
    refusal = ask(engine, gus, name, {"name": "x", "key": "x", "definition": {}}).failure()
    assert refusal.code == "forbidden"


def test_named_permissions_take_the_place_of_the_default_ones() -> None:
    engine, _ = engine_with(
        *change_control_services(permissions=ChangeControlPermissions(merge="shop.merge")),
        *workflow_services(permissions=WorkflowPermissions(activate="shop.activate")),
    )

    permissions = {
        name: engine.get_action(*name.split(".")).unwrap().permission
        for name in ("changes.merge", "changes.create", "workflows.activate", "triggers.create", "workflows.define")
    }

    assert permissions == {
        "changes.merge": "shop.merge",
        "changes.create": "changes.author",
        "workflows.activate": "shop.activate",
        "triggers.create": "shop.activate",
        "workflows.define": "workflows.define",
    }


def test_open_services_serve_every_person_but_no_ai() -> None:
    engine, gus = engine_with(*change_control_services(open=True), *workflow_services(open=True))
    bot = RequestContext(gus.tenant, Actor.ai("bot"))
    steps = {"steps": [{"name": "tell", "type": "notification", "to": "x", "message": "y"}]}

    project = ask(engine, gus, "projects.create", {"name": "x"}).unwrap()
    change = ask(engine, bot, "changes.create", {"project_id": project.id, "title": "x"}).unwrap()
    ask(engine, bot, "workflows.define", {"key": "w", "definition": steps}).unwrap()

    for name, payload in (("changes.merge", {"change_id": change.id}), ("workflows.activate", {"key": "w"})):
        assert ask(engine, bot, name, payload).failure().code == "forbidden"
        ask(engine, gus, name, payload).unwrap()


@each_factory
def test_permissions_and_open_together_are_refused(factory: str) -> None:
    make, permissions = FACTORIES[factory]

    with pytest.raises(ConfigurationError, match=rf"{factory} was given permissions= and open=True"):
        make(permissions=permissions(), open=True)
    assert make(permissions=permissions(), open=False)


@each_factory
@pytest.mark.parametrize("given", [{"merge": "x"}, {}, "changes.merge", True, ChangeControlPermissions], ids=repr)
def test_permissions_of_another_type_are_refused(factory: str, given: Any) -> None:
    make, permissions = FACTORIES[factory]

    with pytest.raises(ConfigurationError, match=rf"takes a {permissions.__name__}, such as"):
        make(permissions=given)
    with pytest.raises(ConfigurationError, match="True or False"):
        make(open=json.dumps(given, default=str))


@each_factory
def test_a_permission_that_there_is_not_is_refused(factory: str) -> None:
    _, permissions = FACTORIES[factory]

    with pytest.raises(TypeError, match="aprove"):
        permissions(aprove="x")
