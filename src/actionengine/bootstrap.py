"""The composition root: declarations, a storage and an authorizer become an engine."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

from actionengine.actions import Action, Service
from actionengine.authorization.port import Authorizer
from actionengine.authorization.rbac import RBACAuthorizer
from actionengine.builtin.approvals import approvals
from actionengine.builtin.budgets import budgets as budgets_service
from actionengine.builtin.log_service import action_log
from actionengine.builtin.relay import relay
from actionengine.builtin.roles import roles
from actionengine.catalogue.catalogue import Catalogue
from actionengine.engine import Engine
from actionengine.errors import ConfigurationError, DuplicateActionWarning
from actionengine.event_types import by_type
from actionengine.pipeline.budgets import Budget, check_budgets
from actionengine.pipeline.payload import Limits
from actionengine.pipeline.pipeline import Pipeline
from actionengine.pipeline.plan import ActionPlan
from actionengine.pipeline.routing import link_budgets, link_hooks, read_only_copy
from actionengine.storage.guards import DocumentGuard, RecordGuard
from actionengine.storage.memory.storage import InMemoryStorage
from actionengine.storage.port import Storage

OnDuplicate = Literal["overwrite", "error"]


def create_engine(
    *,
    services: Iterable[Service],
    storage: Storage | None = None,
    authorizer: Authorizer | None = None,
    on_before_action_handler: Callable[..., Any] | None = None,
    on_after_action_handler: Callable[..., Any] | None = None,
    diagnostics: bool = False,
    resources: Mapping[str, Any] | None = None,
    on_duplicate: OnDuplicate = "overwrite",
    limits: Limits | None = None,
    budgets: Iterable[Budget] = (),
) -> Engine:
    """Check the declarations and freeze them into an engine.

    Args:
        services: the host's services; the built-in ones (`approvals`, `action_log`, `budgets`, `relay`, and `roles`
            where roles are kept in storage) are added.
        storage: where state lives; an `InMemoryStorage` of its own by default.
        authorizer: who may do what; roles kept in `storage` by default.
        on_before_action_handler: `guard(action, payload, context)` returning a `Result`, run before everything else.
        on_after_action_handler: `after(action, payload, context, result)`, run after each commit.
        diagnostics: whether to write a structured line for each stage to the logger `actionengine`, with OpenTelemetry
            spans and metrics where that is installed.
        resources: the host's own objects for handlers, as `ctx.resources`.
        on_duplicate: whether the last of two actions of one name wins, with a `DuplicateActionWarning`, or is refused.
        limits: bounds on payloads, keys, nesting and waiting.
        budgets: how much actors may execute or spend in a window of time; each an upper bound that no number of
            concurrent callers exceeds.

    Raises:
        ConfigurationError: for a mistake in a declaration, naming the action.
    """
    storage = InMemoryStorage() if storage is None else storage
    _check_parts(storage, authorizer, limits, on_duplicate)
    built_in: tuple[Service, ...] = (approvals, action_log, budgets_service, relay)
    if authorizer is None:
        authorizer = RBACAuthorizer(storage)
    if isinstance(authorizer, RBACAuthorizer):
        built_in = (*built_in, roles)
    _check_arity("on_before_action_handler", on_before_action_handler, ("action", "payload", "context"))
    _check_arity("on_after_action_handler", on_after_action_handler, ("action", "payload", "context", "result"))
    if resources is not None and not isinstance(resources, Mapping):
        raise ConfigurationError(f"resources is a mapping of names to objects, not {type(resources).__name__}")
    declared = (*_checked(services, {service.name for service in built_in}), *built_in)
    plans = {}
    for service in declared:
        plans[service.name] = _plans(service, on_duplicate)
    link_hooks(plans)
    rules = check_budgets(budgets, {plan.name: plan.model for each in plans.values() for plan in each.values()})
    link_budgets(plans, rules)
    event_types = by_type(
        emitted for actions in plans.values() for plan in actions.values() for emitted in plan.action.event_types
    )
    pipeline = Pipeline(
        plans=read_only_copy(plans),
        storage=storage,
        authorizer=authorizer,
        limits=limits or Limits(),
        resources=MappingProxyType(dict(resources or {})),
        before=on_before_action_handler,
        after=on_after_action_handler,
        observe=_observer() if diagnostics else None,
        document_guard=_document_guard(declared),
        record_guard=_record_guard(declared),
        routes=tuple(dict.fromkeys(route for service in declared for route in service.routes)),
        budgets=rules,
    )
    return Engine(declared, pipeline, event_types, Catalogue(pipeline.plans, authorizer))


def _document_guard(services: Iterable[Service]) -> DocumentGuard | None:
    return next((service.document_guard() for service in services if service.document_guard is not None), None)


def _record_guard(services: Iterable[Service]) -> RecordGuard | None:
    return next((service.record_guard() for service in services if service.record_guard is not None), None)


def _observer() -> Callable[..., Any]:
    from actionengine.pipeline.diagnostics import observer

    return observer()


def _check_parts(storage: object, authorizer: object, limits: object, on_duplicate: object) -> None:
    """Refuse what cannot be a part of an engine. The messages name types only: an address has a password."""
    if isinstance(storage, type):
        raise ConfigurationError(f"storage is the class {storage.__name__}: pass an instance, {storage.__name__}(…)")
    if not hasattr(storage, "unit_of_work"):
        raise ConfigurationError(
            f"storage is of the type {type(storage).__name__}: pass a storage, such as SQLiteStorage('app.db')"
        )
    if authorizer is not None and not hasattr(authorizer, "authorize"):
        raise ConfigurationError(
            f"authorizer is of the type {type(authorizer).__name__}: pass an authorizer, such as "
            f"StaticAuthorizer({{'clerk': Role(allow=['payments.refund'])}})"
        )
    if limits is not None and not isinstance(limits, Limits):
        raise ConfigurationError(f"limits is of the type {type(limits).__name__}: pass Limits(…)")
    if on_duplicate not in get_args(OnDuplicate):
        raise ConfigurationError(f"on_duplicate is 'overwrite' or 'error', not {on_duplicate!r}")


def _checked(services: Iterable[object], reserved: set[str]) -> tuple[Service, ...]:
    if isinstance(services, Service):
        raise ConfigurationError(f"services is the service {services.name!r} itself: pass a list of services")
    checked: dict[str, Service] = {}
    for number, service in enumerate(services):
        if isinstance(service, list | tuple):
            kind = type(service).__name__
            raise ConfigurationError(
                f"services[{number}] is a {kind}: pass its items, as in services=[*billing_services]"
            )
        if isinstance(service, Action):
            raise ConfigurationError(
                f"services[{number}] is the action {service.name!r}: group actions in a service with create_service"
            )
        if isinstance(service, Mapping):
            raise ConfigurationError(f"services[{number}] is a mapping: pass services=create_services([…])")
        if not isinstance(service, Service):
            raise ConfigurationError(f"services[{number}] is {service!r}: make it with create_service")
        if not isinstance(service.name, str) or not service.name or "." in service.name:
            raise ConfigurationError(f"a service needs a name without a dot, not {service.name!r}")
        if service.name in reserved:
            raise ConfigurationError(f"the service name {service.name!r} is a built-in service's: choose another name")
        if service.name in checked:
            raise ConfigurationError(f"there are two services named {service.name!r}: put their actions in one")
        checked[service.name] = service
    return tuple(checked.values())


def _plans(service: Service, on_duplicate: OnDuplicate) -> dict[str, ActionPlan]:
    plans: dict[str, ActionPlan] = {}
    actions: Iterable[object] = service.actions
    for number, action in enumerate(actions):
        if isinstance(action, list | tuple):
            kind = type(action).__name__
            raise ConfigurationError(
                f"{service.name}: actions[{number}] is a {kind}: pass its items, as in actions=[*billing_actions]"
            )
        if not isinstance(action, Action):
            raise ConfigurationError(f"{service.name}: actions[{number}] is {action!r}: make it with create_action")
        plan = ActionPlan(service, action)
        if action.name in plans:
            if on_duplicate == "error":
                raise ConfigurationError(f"{plan.name} is declared twice: rename one of the actions")
            warnings.warn(f"{plan.name} is declared twice: the last one wins", DuplicateActionWarning, stacklevel=3)
        plans[action.name] = plan
    return plans


def _check_arity(name: str, function: Callable[..., Any] | None, arguments: tuple[str, ...]) -> None:
    if function is None:
        return
    try:
        inspect.signature(function).bind(*arguments)
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"{name} is called with ({', '.join(arguments)}); {function!r} does not accept that"
        ) from None
