"""The engine: frozen routing and introspection over the declared services, and the entry points of the pipeline."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from operator import itemgetter
from types import MappingProxyType
from typing import Any, Self, TypeVar, final

from returns.result import Failure, Result, Success

from actionengine.actions import Action, ActionSummary, Input, Output, Service, ServiceSummary
from actionengine.catalogue.catalogue import Catalogue
from actionengine.catalogue.descriptions import ActionDescription
from actionengine.catalogue.permissions import Permission
from actionengine.concurrency.background_loop import BackgroundLoop
from actionengine.concurrency.run_sync import Mode, run_sync
from actionengine.context import RequestContext, Tenant
from actionengine.errors import ActionError, ConfigurationError, ErrorCode, storable_text
from actionengine.event_types import EventType
from actionengine.pipeline.payload import Limits
from actionengine.pipeline.pipeline import Pipeline
from actionengine.pipeline.plan import ActionPlan
from actionengine.pipeline.preview import Preview
from actionengine.pipeline.routing import Declared, by_declaration, find_declared, no_service, route
from actionengine.storage.closing import CallsOnClose
from actionengine.storage.errors import StorageError, StorageUnavailable
from actionengine.storage.port import Storage
from actionengine.storage.tenants import MAX_SLUG_LENGTH
from actionengine.text.names import shortened

logger = logging.getLogger("actionengine")

K = TypeVar("K")
T = TypeVar("T")
V = TypeVar("V")


@final
class Engine:
    """Routes, describes and executes actions. `create_engine` makes it; it cannot be changed afterwards.

    No method raises for an error that a caller can cause: each returns a `Result`.
    """

    __slots__ = (
        "_action_summaries",
        "_actions",
        "_background_loop",
        "_catalogue",
        "_declared",
        "_event_types",
        "_pipeline",
        "_plans",
        "_service_summaries",
        "_storage",
    )

    _action_summaries: Mapping[str, tuple[ActionSummary, ...]]
    _actions: Mapping[str, Mapping[str, Action]]
    _background_loop: BackgroundLoop
    _catalogue: Catalogue
    _declared: Declared
    _event_types: Mapping[str, EventType]
    _pipeline: Pipeline
    _plans: Mapping[str, Mapping[str, ActionPlan]]
    _service_summaries: tuple[ServiceSummary, ...]
    _storage: Storage

    def __init__(
        self,
        services: tuple[Service, ...],
        pipeline: Pipeline,
        event_types: Mapping[str, EventType],
        catalogue: Catalogue,
    ) -> None:
        plans = pipeline.plans
        storage = pipeline.storage
        background_loop = BackgroundLoop("actionengine-engine", at_end=getattr(storage, "aclose_loop", None))
        for name, value in (
            ("_pipeline", pipeline),
            ("_catalogue", catalogue),
            ("_event_types", event_types),
            ("_plans", plans),
            ("_storage", storage),
            ("_background_loop", background_loop),
            ("_declared", _frozen(by_declaration(services, plans))),
            ("_actions", _frozen({name: _frozen({a: p.action for a, p in plans[name].items()}) for name in plans})),
            ("_action_summaries", _frozen({name: _summaries(plans[name]) for name in plans})),
            (
                "_service_summaries",
                tuple(ServiceSummary(item.name, item.description, tuple(plans[item.name])) for item in services),
            ),
        ):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"an engine is frozen: {name!r} cannot be set; declare services before create_engine")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"an engine is frozen: {name!r} cannot be deleted")

    def get_services(self) -> Result[tuple[ServiceSummary, ...], ActionError]:
        """Return all services in the order of their declaration, the built-in ones last."""
        return Success(self._service_summaries)

    def get_service_actions(self, service: str) -> Result[tuple[ActionSummary, ...], ActionError]:
        """Return the actions of a service, or `not_found` with the nearest name."""
        summaries = self._action_summaries.get(service) if isinstance(service, str) else None
        return Failure(no_service(self._plans, service)) if summaries is None else Success(summaries)

    def get_action(self, service: str, action: str) -> Result[Action, ActionError]:
        """Return the whole declaration of an action, or `not_found` with the nearest name."""
        plan = self._route(service, action)
        return Success(plan.action) if isinstance(plan, ActionPlan) else Failure(plan)

    def can(
        self, context: RequestContext, service: str, action: str, resource: str | None = None
    ) -> Result[Permission, ActionError]:
        """Return whether the context's actor may execute an action, with the reason. Nothing is logged.

        This is the answer of the pipeline's authorization: actor type, roles and permission, of the actor and of each
        principal behind it. With a `resource` such as `"job/17"`, it is about that one; without, about at least one.
        Hooks, and the questions of handlers, are not looked at. `not_found` for an unknown action.
        """
        return run_sync(self._catalogue.can(context, [(service, action)], resource, "sync")).map(itemgetter(0))

    async def can_async(
        self, context: RequestContext, service: str, action: str, resource: str | None = None
    ) -> Result[Permission, ActionError]:
        """Return what `can` returns, under an event loop."""
        return (await self._catalogue.can(context, [(service, action)], resource, "async")).map(itemgetter(0))

    async def can_each(
        self, context: RequestContext, actions: Iterable[tuple[str, str]], resource: str | None, mode: Mode
    ) -> Result[tuple[Permission, ...], ActionError]:
        """Return what `can` returns for each service and action, with one question to the authorizer."""
        return await self._catalogue.can(context, actions, resource, mode)

    def catalogue(
        self, context: RequestContext, services: Iterable[str] | None = None
    ) -> Result[tuple[ActionDescription, ...], ActionError]:
        """Return the descriptions of the actions that the context's actor may execute on at least one resource.

        They are those that `can` allows, of all services or of these, in the order of their declaration.
        """
        return run_sync(self._catalogue.list(context, services, "sync"))

    async def catalogue_async(
        self, context: RequestContext, services: Iterable[str] | None = None
    ) -> Result[tuple[ActionDescription, ...], ActionError]:
        """Return what `catalogue` returns, under an event loop."""
        return await self._catalogue.list(context, services, "async")

    @property
    def event_types(self) -> Mapping[str, EventType]:
        """The event types that the actions declare, by name. Readers of old events need them."""
        return self._event_types

    @property
    def mode(self) -> Mode:
        """The mode in which all handlers can run: `"async"` where one of them is an `async def`."""
        plans = (plan for actions in self._plans.values() for plan in actions.values())
        return "async" if any(plan.is_async and not plan.is_sync_and_async for plan in plans) else "sync"

    @property
    def storage(self) -> Storage:
        """The storage."""
        return self._storage

    def execute_action(
        self, service: str, action: str, payload: Any, context: RequestContext
    ) -> Result[Any, ActionError]:
        """Execute an action through the whole pipeline, without an event loop.

        `payload` is a value that JSON can carry, or an instance of the action's model. A `Failure` carries the code of
        the stage that refused.
        """
        plan = self._route(service, action)
        if not isinstance(plan, ActionPlan):
            return _refused(plan, context)
        return run_sync(self._pipeline.execute(plan, payload, context, "sync"))

    async def execute_action_async(
        self, service: str, action: str, payload: Any, context: RequestContext
    ) -> Result[Any, ActionError]:
        """Execute an action under an event loop. Its handlers may be `async def` or `def`."""
        plan = self._route(service, action)
        if not isinstance(plan, ActionPlan):
            return _refused(plan, context)
        return await self._pipeline.execute(plan, payload, context, "async")

    def preview(self, service: str, action: str, payload: Any, context: RequestContext) -> Result[Preview, ActionError]:
        """Return what an execution would do, without doing it: its value, its writes and events, and a plan.

        The action runs through the real pipeline up to its after hooks, and is always rolled back. It claims no
        idempotency key and emits nothing; the action log has it as `previewed`. An execution with
        `RequestContext(plan=…)` then writes what the preview showed, or answers `conflict`.
        """
        plan = self._route(service, action)
        if not isinstance(plan, ActionPlan):
            return _refused(plan, context)
        return run_sync(self._pipeline.preview(plan, payload, context, "sync"))

    async def preview_async(
        self, service: str, action: str, payload: Any, context: RequestContext
    ) -> Result[Preview, ActionError]:
        """Return what an execution would do, under an event loop, as `preview` does."""
        plan = self._route(service, action)
        if not isinstance(plan, ActionPlan):
            return _refused(plan, context)
        return await self._pipeline.preview(plan, payload, context, "async")

    def run(self, action: Action[Input, Output], data: Input, context: RequestContext) -> Result[Output, ActionError]:
        """Execute a declared action, as `execute_action` does; a type checker knows its input and its output.

        Args:
            action: the object that `create_action` returned and that a service of this engine has.
            data: an instance of the action's model. Another payload that validates works too, but a type checker
                refuses it: give it to `execute_action`.
            context: the request.
        """
        plan = find_declared(self._declared, action)
        if not isinstance(plan, ActionPlan):
            return _refused(plan, context)
        return run_sync(self._pipeline.execute(plan, data, context, "sync"))

    async def run_async(
        self, action: Action[Input, Output], data: Input, context: RequestContext
    ) -> Result[Output, ActionError]:
        """Execute a declared action under an event loop, as `run` does. Its handlers may be `async def` or `def`."""
        plan = find_declared(self._declared, action)
        if not isinstance(plan, ActionPlan):
            return _refused(plan, context)
        return await self._pipeline.execute(plan, data, context, "async")

    def blocking(self) -> BlockingEngine:
        """Return this engine for callers without an event loop, where handlers are `async def`.

        Executions run in one background event loop with its own connections, started by the first call. Close it with
        the storage, or use the returned engine as a context manager.
        """
        if isinstance(self._storage, CallsOnClose):
            self._storage.call_on_close(self._background_loop.close)
        return BlockingEngine(self, self._background_loop)

    async def execute(
        self, service: str, action: str, payload: Any, context: RequestContext, mode: Mode
    ) -> Result[Any, ActionError]:
        """Execute an action in a given mode. In `"sync"` it never suspends."""
        plan = self._route(service, action)
        if not isinstance(plan, ActionPlan):
            return _refused(plan, context)
        return await self._pipeline.execute(plan, payload, context, mode)

    async def refuse(
        self, service: str, action: str, payload: Any, error: ActionError, context: RequestContext, mode: Mode
    ) -> Result[Any, ActionError]:
        """Answer a request with an error that its caller found, as the pipeline does: authorization comes first, and
        the refusal is on the action log."""
        plan = self._route(service, action)
        if not isinstance(plan, ActionPlan):
            return _refused(plan, context)
        return await self._pipeline.refuse(plan, payload, error, context, mode)

    @property
    def limits(self) -> Limits:
        """The bounds on payloads, keys, nesting and waiting."""
        return self._pipeline.limits

    def descriptions(self) -> Mapping[str, tuple[ActionDescription, ...]]:
        """Return the descriptions of all actions, by service, for any actor."""
        return self._catalogue.descriptions()

    def plan_of(self, service: str, action: str) -> ActionPlan:
        """Return the plan of an action that the engine has."""
        return self._plans[service][action]

    def execute_plan(
        self,
        plan: ActionPlan,
        payload: Any,
        context: RequestContext,
        mode: Mode,
        encoded: list[bytes] | None = None,
    ) -> Coroutine[Any, Any, Result[Any, ActionError]]:
        """Execute a plan through the same pipeline: of an action, or of a consumer of events, which is none.

        The masked JSON of the value is added to `encoded`, if it is there already.
        """
        return self._pipeline.execute(plan, payload, context, mode, encoded)

    def resolve_tenant(self, slug: str) -> Result[Tenant, ActionError]:
        """Return the tenant of a slug, or `not_found`."""
        return run_sync(self._resolve(slug, "sync"))

    async def resolve_tenant_async(self, slug: str) -> Result[Tenant, ActionError]:
        """Return the tenant of a slug under an event loop, or `not_found`."""
        return await self._resolve(slug, "async")

    async def _resolve(self, slug: str, mode: Mode) -> Result[Tenant, ActionError]:
        try:
            is_one = isinstance(slug, str) and 0 < len(slug) <= MAX_SLUG_LENGTH and storable_text(slug) == slug
            tenant = await self._storage.find_tenant(slug, mode) if is_one else None
        except StorageUnavailable:
            return Failure(ActionError(ErrorCode.UNAVAILABLE, "the storage is unavailable: retry later"))
        except ActionError as refusal:
            return Failure(refusal.without_traceback())
        except (StorageError, ConfigurationError) as error:
            return Failure(ActionError(ErrorCode.INTERNAL, f"the storage cannot be used: {error}"))
        if tenant is None:
            return Failure(ActionError(ErrorCode.NOT_FOUND, f"there is no tenant {shortened(slug)!r}"))
        return Success(tenant)

    def _route(self, service: str, action: str) -> ActionPlan | ActionError:
        return route(self._plans, service, action)


@final
class BlockingEngine:
    """The synchronous door to an engine with `async def` handlers; `Engine.blocking` returns it. Threads may share it.

    A caller that is interrupted cancels its execution, which rolls back. A handler of the same engine cannot use it:
    its event loop would wait for itself (`RuntimeError`).
    """

    __slots__ = ("_engine", "_loop")

    def __init__(self, engine: Engine, loop: BackgroundLoop) -> None:
        self._engine = engine
        self._loop = loop

    def execute_action(
        self, service: str, action: str, payload: Any, context: RequestContext
    ) -> Result[Any, ActionError]:
        """Execute an action and wait for its result, as `Engine.execute_action` does.

        Raises `LoopEnded` if the engine is closed during the call.
        """
        return self._loop.run(self._engine.execute_action_async, service, action, payload, context)

    def preview(self, service: str, action: str, payload: Any, context: RequestContext) -> Result[Preview, ActionError]:
        """Return what an execution would do, as `Engine.preview` does, and wait for it."""
        return self._loop.run(self._engine.preview_async, service, action, payload, context)

    def run(self, action: Action[Input, Output], data: Input, context: RequestContext) -> Result[Output, ActionError]:
        """Execute a declared action and wait for its result, as `Engine.run` does."""
        return self._loop.run(self._engine.run_async, action, data, context)

    def can(
        self, context: RequestContext, service: str, action: str, resource: str | None = None
    ) -> Result[Permission, ActionError]:
        """Return whether the context's actor may execute an action, as `Engine.can` does."""
        return self._loop.run(self._engine.can_async, context, service, action, resource)

    def catalogue(
        self, context: RequestContext, services: Iterable[str] | None = None
    ) -> Result[tuple[ActionDescription, ...], ActionError]:
        """Return the descriptions of the actions that the context's actor may execute, as `Engine.catalogue` does."""
        return self._loop.run(self._engine.catalogue_async, context, services)

    @property
    def engine(self) -> Engine:
        """The engine, for callers under an event loop."""
        return self._engine

    def wait_for(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Call a coroutine function of the library in the background loop, and wait for its result."""
        return self._loop.run(function, *arguments)

    def resolve_tenant(self, slug: str) -> Result[Tenant, ActionError]:
        """Return the tenant of a slug, or `not_found`."""
        return self._loop.run(self._engine.resolve_tenant_async, slug)

    def close(self) -> None:
        """Cancel what still runs, close the connections of the event loop, and end it. A later call starts another."""
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _refused(error: ActionError, context: RequestContext) -> Failure[ActionError]:
    """Return the failure for an unknown name, and log it: the action log has rows of actions only."""
    tenant, actor = getattr(context, "tenant", None), getattr(context, "actor", None)
    logger.warning("%s (tenant %s, actor %s)", error.message, getattr(tenant, "slug", None), shortened(actor))
    return Failure(error)


def _frozen(mapping: dict[K, V]) -> Mapping[K, V]:
    return MappingProxyType(mapping)


def _summaries(plans: Mapping[str, ActionPlan]) -> tuple[ActionSummary, ...]:
    return tuple(ActionSummary.of(plan.action) for plan in plans.values())
