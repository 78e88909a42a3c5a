"""Module actions: named pieces of work, what each needs to be granted, and what does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from actionengine.boundary.capabilities import Capability
from actionengine.errors import ConfigurationError

if TYPE_CHECKING:
    from actionengine.boundary.module_handle import ModuleHandle

ModuleHandler = Callable[[Any, "ModuleHandle"], Any]


@dataclass(frozen=True, slots=True)
class ModuleAction:
    """A named piece of work in a module. Made by `create_module_action`."""

    name: str
    description: str
    validation: type[BaseModel]
    handler: ModuleHandler
    capabilities: frozenset[Capability]


def create_module_action(
    *,
    name: str,
    description: str,
    handler: ModuleHandler,
    validation: type[BaseModel],
    capabilities: Iterable[Capability | str],
) -> ModuleAction:
    """Declare a module action.

    Args:
        name: what requests call it.
        description: a sentence for people.
        handler: `handler(data, work)`, a `def`: gets its input as an instance of `validation` and a `ModuleHandle`, the
        only
            way to the module's files and to commands; returns what JSON can carry. It may raise `ActionError`.
        validation: a Pydantic model of the input; paths in it are `ModulePath`s.
        capabilities: what a request has to ask for, and a profile to grant.

    Raises:
        ConfigurationError: for an empty name, a handler that cannot be called or is an `async def`, and a capability
            that there is not.
    """
    if not name or not isinstance(name, str):
        raise ConfigurationError(f"a module action needs a name, not {name!r}")
    if not callable(handler):
        raise ConfigurationError(f"the module action {name!r} needs a handler that can be called, not {handler!r}")
    if iscoroutinefunction(handler):
        raise ConfigurationError(f"the handler of the module action {name!r} is an async def, and has to be a def")
    if not (isinstance(validation, type) and issubclass(validation, BaseModel)):
        raise ConfigurationError(f"the module action {name!r} needs a Pydantic model as its validation")
    try:
        needed = frozenset(map(Capability, capabilities))
    except ValueError as error:
        raise ConfigurationError(f"the module action {name!r}: {error}") from None
    return ModuleAction(name, description, validation, handler, needed)


def by_name(actions: Iterable[ModuleAction]) -> dict[str, ModuleAction]:
    """Module actions by their names. Raises `ConfigurationError` where two have the same."""
    found: dict[str, ModuleAction] = {}
    for action in actions:
        if action.name in found:
            raise ConfigurationError(f"two module actions have the name {action.name!r}")
        found[action.name] = action
    return found
