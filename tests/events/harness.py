"""An engine that emits events, and the drains of its relays, in the mode of the test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from returns.result import Result, Success

from actionengine import (
    ActionContext,
    Actor,
    Engine,
    Relay,
    RequestContext,
    Storage,
    create_action,
    create_engine,
    create_service,
)
from actionengine.storage.rows import Route
from actionengine.testing import AsyncBackend, Backend


def tell(data: Any, ctx: ActionContext) -> Result[None, Any]:
    for type in data.pop("types", ["told"]):
        for number in range(data.get("number", 1)):
            ctx.emit(type, {**data, "number": number}, subject=data.get("subject"))
    return Success(None)


def telling_engine(storage: Storage, *routes: Route) -> Engine:
    action = create_action(name="tell", description="", handler=tell)
    service = replace(create_service(name="desk", description="", actions=[action]), routes=routes)
    return create_engine(services=[service], storage=storage)


class Harness:
    """An engine with the action `desk.tell`, which emits events of the type `told` or of the given `types`."""

    def __init__(self, backend: Backend, *routes: Route) -> None:
        self.backend = backend
        self.engine = telling_engine(backend.storage, *routes)
        self.tenant = backend.run(backend.create_tenant(slug="acme", name="Acme"))
        self.request = RequestContext(tenant=self.tenant, actor=Actor.human("ann"))

    @property
    def is_async(self) -> bool:
        return isinstance(self.backend, AsyncBackend)

    def tell(self, subject: str | None = None, **data: Any) -> None:
        executed = self.backend.execute(self.engine, "desk", "tell", {"subject": subject, **data}, self.request)
        self.backend.run(executed).unwrap()

    def tell_now(self, subject: str | None = None) -> None:
        """Emit an event in sync mode, whatever the mode of the test."""
        self.engine.execute_action("desk", "tell", {"subject": subject}, self.request).unwrap()

    def relay(self, publisher: Any, **options: Any) -> Relay:
        """Return a relay with short backoffs."""
        return Relay(self.backend.storage, publisher, **{"first_backoff": 0.001, "longest_backoff": 0.01, **options})

    def drain(self, relay: Relay) -> int:
        return self.backend.run(relay.drain_async()) if self.is_async else relay.drain()

    def drain_until(self, relay: Relay, is_done: Callable[[], bool]) -> None:
        for _ in range(300):
            self.drain(relay)
            if is_done():
                return
            self.backend.run(self.backend.sleep(0.01))
        raise AssertionError(relay.status())
