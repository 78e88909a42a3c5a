"""An engine on a backend, used through its public entry points."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import EllipsisType
from typing import Any

from returns.result import Result

from actionengine.actions import Service
from actionengine.bootstrap import create_engine
from actionengine.builtin.action_log import LogEntry
from actionengine.context import Actor, RequestContext, Tenant
from actionengine.errors import ActionError
from actionengine.storage.port import Storage
from actionengine.storage.rows import EventRow
from actionengine.testing.backend import Backend

SYSTEM = Actor.system()
AUDITOR = Actor.system("auditor")
"""The actor that `Harness.log` reads as; its own entries are left out."""

ActionResult = Result[Any, ActionError]


class Harness:
    """An engine with these services on the storage of a backend; `options` go to `create_engine`."""

    actor: Actor = SYSTEM
    """The default actor of `execute`."""

    def __init__(
        self, backend: Backend, services: Iterable[Service], *, storage: Storage | None = None, **options: Any
    ) -> None:
        self.backend = backend
        self.engine = create_engine(services=[*services], storage=storage or backend.storage, **options)

    @property
    def tenant(self) -> Tenant:
        """The default tenant: `backend.tenant`."""
        return self.backend.tenant

    async def execute(
        self,
        name: str,
        payload: Any = None,
        *,
        actor: Actor | EllipsisType | None = ...,
        tenant: Tenant | None = None,
        key: str | None = None,
        reason: str | None = None,
    ) -> ActionResult:
        """Execute `service.action` in the mode of the backend, by default as `self.actor`."""
        service, action = name.split(".")
        by = self.actor if isinstance(actor, EllipsisType) else actor
        context = RequestContext(tenant or self.tenant, by, source="test", idempotency_key=key, reason=reason)
        return await self.backend.execute(self.engine, service, action, payload, context)

    async def log(self, *, tenant: Tenant | None = None, **query: Any) -> list[LogEntry]:
        """Return the entries of the action log, oldest first."""
        page = await self.execute("action_log.list", {"limit": 1000, **query}, actor=AUDITOR, tenant=tenant)
        return [entry for entry in reversed(page.unwrap().items) if entry.actor_id != AUDITOR.id]

    async def outcomes(self, action: str) -> list[str]:
        """Return the outcomes of the executions of an action, oldest first."""
        return [entry.outcome for entry in await self.log(action=action)]

    async def events(self, *types: str, tenant: Tenant | None = None) -> Sequence[EventRow]:
        """Return the events of a tenant in commit order, of all types or of these."""
        stored = await self.backend.read_events(tenant or self.tenant, types=types or None)
        return [each.event for each in stored]

    async def event_types(self, tenant: Tenant | None = None) -> list[str]:
        """Return the types of the events of a tenant, in commit order."""
        return [event.type for event in await self.events(tenant=tenant)]
