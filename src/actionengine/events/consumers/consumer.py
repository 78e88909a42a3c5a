"""The execution of a consumer of events: the tenant of an event, the plan, the handler, and the answer."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID

from returns.result import Failure, Result

from actionengine.actions import create_action, create_service
from actionengine.authorization.cache import BoundedCache
from actionengine.concurrency.run_sync import Mode
from actionengine.context import Tenant
from actionengine.errors import ActionError, ConfigurationError, ErrorCode, storable_text
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.plan import ActionPlan, is_async, sync_and_async
from actionengine.pipeline.user_code import as_action_error
from actionengine.storage.errors import StorageError, StorageUnavailable
from actionengine.storage.port import Storage

T = TypeVar("T")

logger = logging.getLogger("actionengine")

TenantOf = Callable[[UUID], Tenant]
"""A function that returns the tenant of an id, for a host with a tenant directory of its own."""

MAX_CONSUMER_NAME_LENGTH = 100
"""Characters of the name of a consumer or a projection: it is part of ids."""

_MAX_CACHED_TENANTS = 10_000
"""Tenants in the cache; the least recently used go first."""


def validate_name(what: str, name: str) -> str:
    """Return the name of a consumer or a projection. Raise `ConfigurationError` for one that no id can contain."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_CONSUMER_NAME_LENGTH or storable_text(name) != name:
        raise ConfigurationError(f"{what} needs a name of 1 to {MAX_CONSUMER_NAME_LENGTH} characters, not {name!r}")
    if "." in name or "/" in name:
        raise ConfigurationError(f"{what} needs a name without dots and slashes, not {name!r}")
    return name


class Tenants:
    """The tenants of events by id, from `tenant_of` or from the storage.

    A tenant that the storage does not know, for example a deleted one, gets its id as its slug, and is not cached.
    """

    def __init__(self, storage: Storage, tenant_of: TenantOf | None = None) -> None:
        self._storage = storage
        self._tenant_of = tenant_of
        self._known: BoundedCache[Tenant] = BoundedCache(_MAX_CACHED_TENANTS)

    async def find(self, id: UUID, mode: Mode) -> Tenant:
        """Return the tenant of this id. Raise `StorageError`, and `ActionError(internal)` if `tenant_of` raises or
        returns another tenant."""
        if self._tenant_of is not None:
            return _ask(self._tenant_of, id)
        known = self._known.find(id)
        if known is not None:
            return known
        found = await self._storage.find_tenant_by_id(id, mode)
        if found is None:
            return Tenant(id, str(id))
        self._known.keep(id, found, 1)
        return found


def _ask(tenant_of: TenantOf, id: UUID) -> Tenant:
    try:
        tenant = tenant_of(id)
    except Exception as error:
        logger.exception("tenant_of(%s) raised", id)
        raise ActionError(ErrorCode.INTERNAL, f"tenant_of({id}) raised {type(error).__name__}") from None
    if not isinstance(tenant, Tenant) or tenant.id != id:
        raise ActionError(ErrorCode.INTERNAL, f"tenant_of({id}) returned {tenant!r}, which is not that tenant")
    return tenant


def consumer_plan(service: str, name: str, handler: Callable[..., Any]) -> ActionPlan:
    """Return a plan for `Engine.execute_plan`: without a default event, and without an authorizer, since the host's
    own code runs it."""
    action = create_action(
        name=name, description=f"Consumes events: {name}", handler=handler, is_protected=False, idempotency="none"
    )
    plan = ActionPlan(create_service(name=service, description="Consumers of events", actions=[action]), action)
    plan.emits_no_default_event = plan.is_internal = True
    return plan


def handler_for(
    work: Callable[[InternalContext], Awaitable[Any]], function: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """Return a handler that does this work. It is a `def` if `function`, the host's, is one: the work calls it."""

    async def handle_async(data: Any, ctx: InternalContext) -> Any:
        return await work(ctx)

    def handle(data: Any, ctx: InternalContext) -> Any:
        return ctx.run_sync(handle_async(data, ctx))

    if function is None:
        return sync_and_async(handle_async)
    return handle_async if is_async(function) else handle


async def call_consumer(what: str, function: Callable[..., Any], *arguments: Any) -> None:
    """Call a host's function, which returns None or a `Result`. Raise `ActionError` for a `Failure`, and `TypeError`
    for a `def` that returns an awaitable."""
    returned = function(*arguments)
    if is_async(function):
        returned = await returned
    if isinstance(returned, Failure):
        raise as_action_error(returned.failure())
    if inspect.isawaitable(returned):
        if inspect.iscoroutine(returned):
            returned.close()
        raise TypeError(f"{what} is a def, and returned an awaitable: make it an async def")


async def as_result(work: Awaitable[Result[T, ActionError]]) -> Result[T, ActionError]:
    """Return the answer of this work; an error of the storage or of a look-up as a `Failure`."""
    try:
        return await work
    except ActionError as refusal:
        return Failure(refusal.without_traceback())
    except StorageUnavailable:
        return Failure(ActionError(ErrorCode.UNAVAILABLE, "the storage is unavailable, try again later"))
    except StorageError as error:
        return Failure(ActionError(ErrorCode.INTERNAL, f"the storage cannot be used: {error}"))
