"""Work on modules: the request carries the chain to the runner, on whichever side of a wire that is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from returns.result import Success

from actionengine import Actor, InMemoryStorage, RequestContext, Role, StaticAuthorizer, create_engine
from actionengine.boundary import CODE_MODULE_DEFAULT, InProcessRunner, ModuleRoots, modules_service
from actionengine.boundary.idempotency.run_once import run_once
from actionengine.boundary.remote.messages import WorkMessage
from actionengine.boundary.request import ExecutionRequest
from actionengine.boundary.telemetry import ExecutionEvent
from actionengine.errors import ActionError
from tests.boundary.modules import admit, perform

CARLA = Actor.human("carla", ["builder"])
BOT = Actor.ai("bot", ["builder"], on_behalf_of=CARLA)


def test_module_work_needs_the_right_of_each_and_names_the_chain(tmp_path: Path) -> None:
    seen: list[ExecutionEvent] = []
    roots, storage = ModuleRoots(tmp_path), InMemoryStorage()
    tenant = storage.create_tenant(slug="acme", name="Acme")
    roots.create(tenant, "website")
    service = modules_service(InProcessRunner(CODE_MODULE_DEFAULT, telemetry=[seen.append]), roots.context)
    authorizer = StaticAuthorizer({"builder": Role(allow=["modules.*"])})
    engine = create_engine(services=[service], storage=storage, authorizer=authorizer)
    payload = {"module_id": "website", "path": "a.txt", "text": "hello"}

    def write(actor: Actor) -> Any:
        return engine.execute_action("modules", "write", payload, RequestContext(tenant, actor))

    assert isinstance(write(BOT), Success)
    assert "(for human:dave)" in write(Actor.ai("bot", ["builder"], on_behalf_of=Actor.human("dave"))).failure().message
    assert {(event.actor, event.on_behalf_of) for event in seen} == {("ai:bot", ("human:carla",))}


def test_module_work_for_one_is_no_answer_to_another(tmp_path: Path) -> None:
    def work(actor: Actor) -> Any:
        return run_once(admit(tmp_path, "run", {"argv": ["true"]}, idempotency_key="one", actor=actor), perform)

    work(BOT)

    assert work(BOT).replayed
    with pytest.raises(ActionError, match="belongs to other work"):
        work(Actor.ai("bot", ["builder"], on_behalf_of=Actor.human("eve", ["builder"])))


def test_a_message_to_a_remote_runner_keeps_the_chain() -> None:
    message = WorkMessage(request=ExecutionRequest(action="modules.read", actor=BOT), wait_seconds=1)

    assert WorkMessage.from_text(message.to_text()).request.actor == BOT


def test_a_message_with_a_bad_chain_is_no_request() -> None:
    message = json.loads(
        WorkMessage(request=ExecutionRequest(action="modules.read", actor=BOT), wait_seconds=1).to_text()
    )
    for _ in range(4):
        message["request"]["actor"] = {**message["request"]["actor"], "on_behalf_of": message["request"]["actor"]}

    with pytest.raises(ActionError, match="not a request"):
        WorkMessage.from_text(json.dumps(message))
