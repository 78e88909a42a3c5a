"""A host on a SQLite file, with workflows on a real durable engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from returns.result import Result, Success

from actionengine import (
    Action,
    ActionError,
    Actor,
    CallbackPublisher,
    Engine,
    Relay,
    RequestContext,
    Role,
    SQLiteStorage,
    StaticAuthorizer,
    Tenant,
    create_action,
    create_engine,
    create_service,
)
from actionengine.storage.outbox import QUEUES
from actionengine.workflows import WorkflowRuntime, workflow_services


class Office:
    """An engine with workflows, and a service `host` of which `add` is for the role `clerk`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held, self.released = threading.Event(), threading.Event()
        self.storage = SQLiteStorage(folder / "office.sqlite")
        actions: list[Action[Any, Any]] = [
            create_action(name="add", description="Return a text", handler=add, permission="host.add"),
            create_action(name="hold", description="Wait for the test", handler=self._hold, read_only=True),
            create_action(name="tell", description="Emit an event", handler=lambda data: Success(None)),
        ]
        self.engine: Engine = create_engine(
            services=[*workflow_services(open=True), create_service(name="host", description="Host", actions=actions)],
            storage=self.storage,
            authorizer=StaticAuthorizer({"clerk": Role(allow=["host.add"])}),
        )
        self.tenant: Tenant = self.storage.create_tenant(slug="acme", name="Acme")

    def _hold(self, data: Any) -> Result[None, ActionError]:
        self.held.set()
        assert self.released.wait(30)
        return Success(None)

    def do(self, name: str, by: str = "ops", **payload: Any) -> Any:
        """Execute `service.action` as a system actor, and return its value."""
        service, action = name.split(".")
        context = RequestContext(self.tenant, Actor.system(by))
        return self.engine.execute_action(service, action, payload, context).unwrap()

    def define(self, key: str, *steps: Any, **rest: Any) -> None:
        """Define and activate a workflow of these steps."""
        self.do("workflows.define", key=key, definition={"steps": list(steps), **rest})
        self.do("workflows.activate", key=key)

    def start(self, key: str) -> str:
        """Start a run, and return its id."""
        id: str = self.do("workflows.start", key=key).id
        return id

    def runtime(self, name: str = "durable.sqlite", **options: Any) -> WorkflowRuntime:
        """Return a runtime on a SQLite file."""
        options = {"roles": lambda tenant, key: ["clerk"], "poll_interval": 0.05, **options}
        return WorkflowRuntime(self.engine, self.folder / name, **options)

    def status(self, run_id: str) -> str:
        """Return the status of a run."""
        status: str = self.do("workflows.get", run_id=run_id).status
        return status

    def wait_for(self, run_id: str, status: str, position: int = 0) -> Any:
        """Wait until a run has a status, at a position or later, and return it."""
        found: list[Any] = []

        def is_there() -> bool:
            found[:] = [self.do("workflows.get", run_id=run_id)]
            return bool(found[0].status == status and found[0].position >= position)

        wait_until(is_there)
        return found[0]

    def pending(self) -> dict[str, int]:
        """Return the number of pending events of each queue."""
        relay = Relay(self.storage, CallbackPublisher(print))
        return {queue: relay.status(queue=queue).pending for queue in QUEUES}

    def close(self) -> None:
        """Release a handler that waits, and close the storage."""
        self.released.set()
        self.storage.close()


def add(data: dict[str, Any]) -> Result[str, ActionError]:
    return Success(data["text"])


def wait_until(check: Callable[[], bool]) -> None:
    until = time.monotonic() + 90
    while not check():
        assert time.monotonic() < until
        time.sleep(0.05)
