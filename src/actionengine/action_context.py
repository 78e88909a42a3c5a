"""`ActionContext`: the handler's view of its execution, over `HandlerPort`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from returns.result import Result

from actionengine.context import Actor, AIUsage, Tenant
from actionengine.errors import ActionError, ErrorCode
from actionengine.event_types import EventType
from actionengine.handler_port import HandlerPort
from actionengine.hooks import HookContext
from actionengine.storage.records import AsyncRecords, Records


class ActionContext:
    """The request, and the tools of the handler: documents, the session, events, other actions.

    It lives as long as its execution: used after the end or a timeout, it raises `StorageError`. In each pair of
    methods the first is for `def` handlers, the `async` one for `async def` handlers.
    """

    __slots__ = ("_is_async", "_port")

    def __init__(self, port: HandlerPort, is_async: bool | None) -> None:
        self._port = port
        self._is_async = is_async

    @property
    def action_id(self) -> str:
        """The id of this execution, which is also the id of its row in the action log."""
        return self._port.action_id

    @property
    def tenant(self) -> Tenant:
        """The tenant of the request."""
        tenant = self._port.request.tenant
        assert tenant is not None
        return tenant

    @property
    def actor(self) -> Actor | None:
        """The actor of the request. None only for an unprotected action."""
        return self._port.request.actor

    @property
    def source(self) -> str:
        """The entry point of the request, such as `http`."""
        return self._port.request.source

    @property
    def reason(self) -> str | None:
        """The reason that the request gave."""
        return self._port.request.reason

    @property
    def request_id(self) -> str | None:
        """The host's id for the request."""
        return self._port.request.request_id

    @property
    def now(self) -> datetime:
        """The time of this execution, in UTC: one for the outermost execution and all nested ones. An execution with a
        plan has the time of the preview."""
        return self._port.now

    def new_id(self) -> str:
        """Return a new id, a UUID of version 7 as text, which sorts by time. An execution with a plan gets the ids of
        the preview, in the same order."""
        return self._port.new_id()

    @property
    def hook_context(self) -> HookContext:
        """This execution as its hooks see it. In a hook, the execution that is hooked."""
        return self._port.hook_context

    @property
    def resources(self) -> Mapping[str, Any]:
        """The host's own objects: the request's before the engine's."""
        return self._port.resources

    def records(self, collection: str) -> Records:
        """The tenant's documents of a collection, for `def` handlers."""
        self._require("def", "ctx.records", "ctx.async_records")
        return Records(self._port.records(collection), self._port.run_sync)

    def async_records(self, collection: str) -> AsyncRecords:
        """The tenant's documents of a collection, for `async def` handlers."""
        self._require("async def", "ctx.async_records", "ctx.records")
        return self._port.records(collection)

    @property
    def session(self) -> Any:
        """The SQLAlchemy `Session` of the unit of work, for `def` handlers; `StorageError` where there is none."""
        self._require("def", "ctx.session", "ctx.async_session")
        return self._port.session

    @property
    def async_session(self) -> Any:
        """The SQLAlchemy `AsyncSession` of the unit of work, for `async def` handlers. Raises as `session` does."""
        self._require("async def", "ctx.async_session", "ctx.session")
        return self._port.async_session

    def emit(self, type: str | EventType, payload: Any = None, subject: str | None = None) -> None:
        """Add an event to the unit of work: the relay publishes it if, and only if, the action commits.

        `payload` is any value with a JSON form; it must fit the type where that was declared with `create_event_type`.
        `subject` names the thing that the event is about (`"job/17"`): events of one subject are delivered in order.

        Raises `ActionError(internal)` for a read-only action, a type that the action does not declare, a payload that
        has no JSON form, does not fit or is too large, and a subject that is too long.
        """
        self._port.emit(type, payload, subject)

    def execute(self, service: str, action: str, payload: Any = None) -> Result[Any, ActionError]:
        """Execute another action in the same unit of work, as the same actor, from a `def` handler.

        A failure undoes the writes of that action and is returned as a `Failure`. The writes of this handler stay.
        """
        self._require("def", "ctx.execute", "ctx.execute_async")
        return self._port.run_sync(self._port.execute(service, action, payload, "sync"))

    async def execute_async(self, service: str, action: str, payload: Any = None) -> Result[Any, ActionError]:
        """Execute another action from an `async def` handler, as `execute` does."""
        self._require("async def", "ctx.execute_async", "ctx.execute")
        return await self._port.execute(service, action, payload, "async")

    def authorize(self, permission: str, resource: str | None = None) -> None:
        """Check, in a `def` handler, that the actor has a permission, optionally on one resource. The decision is
        logged.

        Raises `ActionError(forbidden)`.
        """
        self._require("def", "ctx.authorize", "ctx.authorize_async")
        self._port.run_sync(self._port.authorize(permission, resource))

    async def authorize_async(self, permission: str, resource: str | None = None) -> None:
        """Check a permission in an `async def` handler, as `authorize` does."""
        self._require("async def", "ctx.authorize_async", "ctx.authorize")
        await self._port.authorize(permission, resource)

    def record_ai_usage(self, usage: AIUsage) -> None:
        """Record an AI call of this execution on the action log. Several calls add up."""
        self._port.record_ai_usage(usage)

    def _require(self, kind: str, used: str, instead: str) -> None:
        if self._is_async is None or self._is_async == (kind == "async def"):
            return
        other = "an async def" if self._is_async else "a def"
        raise ActionError(
            ErrorCode.INTERNAL,
            f"{used} is for {kind} handlers; {self._port.action_name} has {other} handler: use {instead}",
        )
