"""The port behind `ActionContext`; the pipeline implements it."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from datetime import datetime
from typing import Any, Protocol, TypeVar

from returns.result import Result

from actionengine.concurrency.run_sync import Mode
from actionengine.context import AIUsage, RequestContext
from actionengine.errors import ActionError
from actionengine.event_types import EventType
from actionengine.hooks import HookContext
from actionengine.storage.records import AsyncRecords

T = TypeVar("T")


class HandlerPort(Protocol):
    """One execution, as its handler uses it. Each method raises `StorageError` once the execution has ended."""

    @property
    def action_id(self) -> str:
        """The id of the execution."""

    @property
    def action_name(self) -> str:
        """The name of the action, such as `jobs.open`."""

    @property
    def request(self) -> RequestContext:
        """The request."""

    @property
    def hook_context(self) -> HookContext:
        """The execution as its hooks see it. In a hook, the execution that is hooked."""

    @property
    def resources(self) -> Mapping[str, Any]:
        """The host's own objects: the request's before the engine's."""

    @property
    def session(self) -> Any:
        """The SQLAlchemy `Session` of the unit of work."""

    @property
    def async_session(self) -> Any:
        """The SQLAlchemy `AsyncSession` of the unit of work."""

    def records(self, collection: str) -> AsyncRecords:
        """Return the tenant's documents of a collection."""

    def run_sync(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the unit of work to its end inside a `def` handler."""

    @property
    def now(self) -> datetime:
        """The time of the outermost execution, in UTC."""

    def new_id(self) -> str:
        """Return a new id, which sorts by time."""

    def emit(self, type: str | EventType, payload: Any, subject: str | None) -> None:
        """Add an event to the unit of work."""

    def execute(
        self, service: str, action: str, payload: Any, mode: Mode
    ) -> Coroutine[Any, Any, Result[Any, ActionError]]:
        """Execute another action in a savepoint of the unit of work."""

    def authorize(self, permission: str, resource: str | None) -> Coroutine[Any, Any, None]:
        """Ask the authorizer. Raises `ActionError(forbidden)`."""

    def record_ai_usage(self, usage: AIUsage) -> None:
        """Add an AI call to the action log."""
