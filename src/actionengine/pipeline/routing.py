"""From names to actions: one look-up for all entry points, and one error for a misspelt name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from actionengine.actions import Action, HookDefinition, Service
from actionengine.errors import ActionError, ConfigurationError, ErrorCode
from actionengine.pipeline.budgets import BudgetRule
from actionengine.pipeline.plan import ActionPlan
from actionengine.text.names import hint, nearest_of, shortened

Plans = Mapping[str, Mapping[str, ActionPlan]]
Declared = Mapping[int, tuple[Action, ActionPlan | ActionError]]
"""The plans by the `id()` of their action, or the error for an action that is in several services."""


def route(plans: Plans, service: str, action: str) -> ActionPlan | ActionError:
    """Return the plan of an action, or a `not_found` that names the nearest one."""
    try:
        return plans[service][action]
    except (KeyError, TypeError):
        return _no_action(plans, service, action)


def no_service(plans: Mapping[str, object], service: str) -> ActionError:
    """Return the `not_found` for a service, with the nearest name."""
    nearest = nearest_of(service, plans)
    return ActionError(
        ErrorCode.NOT_FOUND,
        f"there is no service {shortened(service)!r}{hint(nearest)}",
        {"service": shortened(service), "nearest": nearest},
    )


def link_hooks(plans: Plans) -> None:
    """Resolve each hook to its plan. Raises `ConfigurationError` for a hook that does not exist or closes a cycle."""
    for actions in plans.values():
        for plan in actions.values():
            hooks = plan.action.hooks
            plan.before = tuple((hook, _find(plans, plan, hook)) for hook in hooks.before)
            plan.after = tuple((hook, _find(plans, plan, hook)) for hook in hooks.after)
            if plan.action.read_only:
                _refuse_commands(plan)
    for actions in plans.values():
        for plan in actions.values():
            if plan.before or plan.after:
                _refuse_cycles(plan, ())


def link_budgets(plans: Plans, rules: Sequence[BudgetRule]) -> None:
    """Give each plan the budgets that limit it."""
    for actions in plans.values():
        for plan in actions.values():
            plan.budgets = tuple(rule for rule in rules if rule.covers(plan.name))


def read_only_copy(plans: Plans) -> Plans:
    """Return the plans as nested read-only mappings."""
    return MappingProxyType({service: MappingProxyType(dict(actions)) for service, actions in plans.items()})


def _no_action(plans: Plans, service: str, action: str) -> ActionError:
    actions = plans.get(service) if isinstance(service, str) else None
    if actions is None:
        return no_service(plans, service)
    nearest = nearest_of(action, actions)
    return ActionError(
        ErrorCode.NOT_FOUND,
        f"there is no action {shortened(action)!r} in the service {service!r}{hint(nearest)}",
        {"service": service, "action": shortened(action), "nearest": nearest},
    )


def _find(plans: Plans, plan: ActionPlan, hook: HookDefinition) -> ActionPlan:
    found = route(plans, hook.service, hook.action)
    if isinstance(found, ActionError):
        raise ConfigurationError(f"{plan.name}: its hook {hook.name} names no action: {found}")
    return found


def _refuse_commands(plan: ActionPlan) -> None:
    for hook, found in (*plan.before, *plan.after):
        if not found.action.read_only:
            raise ConfigurationError(f"{plan.name} is read-only, and its hook {hook.name} is not")


def _refuse_cycles(plan: ActionPlan, path: tuple[str, ...]) -> None:
    if plan.name in path:
        raise ConfigurationError(f"{path[0]}: its hooks form a cycle: {' -> '.join((*path, plan.name))}")
    for _, hook in (*plan.before, *plan.after):
        _refuse_cycles(hook, (*path, plan.name))


def by_declaration(services: tuple[Service, ...], plans: Plans) -> dict[int, tuple[Action, ActionPlan | ActionError]]:
    """Map the `id()` of each declared action to the action and its plan. The map keeps the action alive, and so its
    id."""
    found: dict[int, tuple[Action, ActionPlan | ActionError]] = {}
    for service in services:
        # Of two actions with one name, the service has the last one.
        for name, action in {each.name: each for each in service.actions}.items():
            plan = plans[service.name][name]
            if id(action) in found:
                other = found[id(action)][1]
                names = f"{other.name} and {plan.name}" if isinstance(other, ActionPlan) else plan.name
                message = f"an action is in several services ({names}): call it by its name, with execute_action"
                found[id(action)] = (action, ActionError(ErrorCode.INTERNAL, message))
            else:
                found[id(action)] = (action, plan)
    return found


def find_declared(declared: Declared, action: object) -> ActionPlan | ActionError:
    """Return the plan of a declared action, or the error for an object that is none of this engine's."""
    found = declared.get(id(action))
    if found is not None:
        return found[1]
    if not isinstance(action, Action):
        return ActionError(
            ErrorCode.NOT_FOUND,
            f"run() takes the object that create_action returned, not a value of the type "
            f"{type(action).__name__}: to name an action, use execute_action(service, action, …)",
        )
    return ActionError(
        ErrorCode.NOT_FOUND,
        f"{shortened(action.name)!r} is not an action of this engine: give run() the object that create_action "
        f"returned and that is in one of the engine's services",
    )
