"""Declarations of module actions: named pieces of work with their handlers and the capabilities that they need."""

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
    output: Any = None


def create_module_action(
    *,
    name: str,
    description: str,
    handler: ModuleHandler,
    validation: type[BaseModel],
    capabilities: Iterable[Capability | str],
    output: Any = None,
) -> ModuleAction:
    """Declare a module action.

    Args:
        name: the name that requests use.
        description: a sentence for people.
        handler: `handler(data, work)`, a `def`. It gets its input as an instance of `validation`, and a `ModuleHandle`,
            which is its only way to the module's files and to commands. It returns a value that JSON can represent, or
            raises `ActionError`.
        validation: a Pydantic model of the input; paths in it are `ModulePath`s.
        capabilities: the capabilities that a request must ask for and a profile must grant.
        output: a Pydantic model that describes the output, a JSON object, in the catalogue. It validates nothing.

    Raises:
        ConfigurationError: for an empty name, a handler that is not callable or is an `async def`, and an unknown
            capability.
    """
    if not name or not isinstance(name, str):
        raise ConfigurationError(f"a module action needs a name, not {name!r}")
    if not callable(handler):
        raise ConfigurationError(f"the module action {name!r} needs a callable handler, not {handler!r}")
    if iscoroutinefunction(handler):
        raise ConfigurationError(f"the handler of the module action {name!r} is an async def: write it as a def")
    if not (isinstance(validation, type) and issubclass(validation, BaseModel)):
        raise ConfigurationError(f"the module action {name!r} needs a Pydantic model as validation, not {validation!r}")
    try:
        needed = frozenset(map(Capability, capabilities))
    except ValueError as error:
        raise ConfigurationError(f"the module action {name!r}: {error}") from None
    return ModuleAction(name, description, validation, handler, needed, output)


def by_name(actions: Iterable[ModuleAction]) -> dict[str, ModuleAction]:
    """Return module actions by their names. Raises `ConfigurationError` if two have the same name."""
    found: dict[str, ModuleAction] = {}
    for action in actions:
        if action.name in found:
            raise ConfigurationError(f"two module actions have the name {action.name!r}")
        found[action.name] = action
    return found
