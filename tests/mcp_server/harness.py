"""A small business behind an MCP server, and the clients that the tests connect to it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal
from uuid import uuid4

from mcp import Client
from mcp.client._memory import InMemoryTransport
from mcp.server import Server
from pydantic import BaseModel, Field
from returns.result import Result, Success

from actionengine import (
    Action,
    ActionContext,
    ActionError,
    Actor,
    ApprovalPolicy,
    Engine,
    InMemoryStorage,
    RequestContext,
    Storage,
    Tenant,
    create_action,
    create_engine,
    create_service,
)
from actionengine.mcp import MCPRequest, create_mcp_server

CALLER = "test/caller"
"""The key of `_meta` that names the caller of a test: `tenant/actor`."""

Wire = Literal["direct", "streams", "handshake"]
"""A connection in memory: without frames, with the frames of 2026-07-28, and with those of the protocol before it."""
WIRES: tuple[Wire, ...] = ("direct", "streams", "handshake")


class Refund(BaseModel):
    """A refund."""

    job: str
    amount: int = Field(description="The amount in cents", gt=0)


class Paid(BaseModel):
    """A paid refund."""

    id: str
    amount: int


def by(caller: str | None = None, /, **keys: Any) -> Any:
    """Return the `_meta` of a call by `tenant/actor`, with these keys of the server."""
    named = {} if caller is None else {CALLER: caller}
    return {**named, **{f"actionengine/{key}": value for key, value in keys.items()}}


class Note(BaseModel):
    text: str


class Noted(BaseModel):
    id: str


class Held:
    """Handlers that last until a test ends them."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.release = threading.Event()

    async def in_task(self, data: Any, ctx: ActionContext) -> Result[str, ActionError]:
        await ctx.async_records("notes").insert({"text": "slow"})
        self.begun.set()
        while not self.release.is_set():
            await asyncio.sleep(0.001)
        return Success("done")

    def in_thread(self, data: Any, ctx: ActionContext) -> Result[str, ActionError]:
        ctx.records("notes").insert({"text": "slow"})
        self.begun.set()
        assert self.release.wait(60)
        return Success("done")


def refund(data: Refund, ctx: ActionContext) -> Result[Paid, ActionError]:
    record = ctx.records("refunds").insert(data.model_dump())
    return Success(Paid(id=record.id, amount=data.amount))


def note(data: Note, ctx: ActionContext) -> Result[Noted, ActionError]:
    return Success(Noted(id=ctx.records("notes").insert(data.model_dump()).id))


def count(data: Any, ctx: ActionContext) -> Result[int, ActionError]:
    return Success(sum(1 for _ in ctx.records(data or "notes").list(limit=1000)))


def drop(data: Any, ctx: ActionContext) -> Result[None, ActionError]:
    return Success(None)


def crash(data: Any, ctx: ActionContext) -> Result[str, ActionError]:
    raise KeyError("the secret of the handler")


ACTORS: dict[str, tuple[str, ...]] = {
    "carla": ("shop.note", "shop.refund", "shop.read", "shop.slow"),
    "tom": ("shop.read",),
    "bot": ("shop.note", "shop.refund", "shop.read", "shop.slow", "shop.approve"),
    "maria": ("shop.*",),
}
"""The permissions of the actors. `bot` is an AI."""


class Shop:
    """An engine with the service `shop`, two tenants, and a server that identifies callers by `_meta`."""

    def __init__(self, storage: Storage | None = None, **options: Any) -> None:
        self.held = Held()
        self.asked: list[MCPRequest] = []
        self.storage = storage or InMemoryStorage()
        self.tenants: dict[str, Tenant] = {}
        self.renew()
        actions: list[Action[Any, Any]] = [
            create_action(
                name="note",
                title="Write a note",
                description="Write a note",
                handler=note,
                permission="shop.note",
                destructive=False,
            ),
            create_action(
                name="count", description="Count the notes", handler=count, permission="shop.read", read_only=True
            ),
            create_action(
                name="refund",
                description="Pay money back",
                handler=refund,
                permission="shop.refund",
                approval=ApprovalPolicy(when=lambda data, ctx: data.amount > 1000, permission="shop.approve"),
            ),
            create_action(
                name="drop", description="Drop all", handler=drop, permission="shop.drop", idempotency="required"
            ),
            create_action(name="crash", description="Crash", handler=crash, permission="shop.note"),
            create_action(name="slow", description="Wait", handler=self.held.in_task, permission="shop.slow"),
            create_action(name="block", description="Wait", handler=self.held.in_thread, permission="shop.slow"),
        ]
        shop = create_service(name="shop", description="The shop", actions=actions)
        self.engine: Engine = create_engine(services=[shop], storage=self.storage)
        self.server: Server[Any] = create_mcp_server(self.engine, self.identify, **options)

    def renew(self) -> None:
        """Begin anew, with two tenants that have done nothing yet."""
        self.held.begun.clear()
        self.held.release.clear()
        self.asked.clear()
        for name in ("acme", "globex"):
            self.tenants[name] = self.storage.create_tenant(slug=f"{name}-{uuid4().hex}", name=name)

    async def identify(self, request: MCPRequest) -> RequestContext:
        self.asked.append(request)
        return self.context(str(request.meta.get(CALLER, "acme/carla")))

    def context(self, caller: str, **options: Any) -> RequestContext:
        """Return the request context of `tenant/actor`, or of `tenant/actor for principal`."""
        slug, _, name = caller.partition("/")
        name, _, principal = name.partition(" for ")
        behind = Actor.human(principal, permissions=ACTORS[principal]) if principal else None
        make = Actor.ai if name == "bot" else Actor.human
        actor = make(name, permissions=ACTORS[name], on_behalf_of=behind)
        return RequestContext(self.tenants[slug], actor, **options)

    @asynccontextmanager
    async def connect(
        self, wire: Wire = "streams", server: Server[Any] | None = None, **options: Any
    ) -> AsyncIterator[Client]:
        """Connect the SDK's client to the server, in memory."""
        server = server or self.server
        target: Any = server if wire == "direct" else InMemoryTransport(server)
        mode = "legacy" if wire == "handshake" else "auto"
        async with Client(target, mode=mode, **options) as client:
            yield client

    def execute(self, action: str, payload: Any, caller: str) -> Any:
        """Execute an action without the server, and return its value."""
        service, name = action.split(".")
        return self.engine.execute_action(service, name, payload, self.context(caller)).unwrap()

    def count(self, collection: str = "notes", tenant: str = "acme") -> int:
        """Return the number of documents of a tenant."""
        context = RequestContext(self.tenants[tenant], Actor.system("auditor"))
        return int(self.engine.execute_action("shop", "count", collection, context).unwrap())

    def log(self, tenant: str = "acme", **query: Any) -> list[Any]:
        """Return the action log of a tenant, oldest first."""
        context = RequestContext(self.tenants[tenant], Actor.system("auditor"))
        page = self.engine.execute_action("action_log", "list", {"limit": 1000, **query}, context).unwrap()
        return [row for row in reversed(page.items) if row.actor_id != "auditor"]
