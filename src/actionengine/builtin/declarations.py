"""A shorter `create_action` for the library's own services, whose actions share most of their options."""

from __future__ import annotations

from typing import Any, Unpack

from actionengine.actions import Action, ActionOptions, create_action


def declare(
    name: str, description: str, handler: Any, validation: Any, **options: Unpack[ActionOptions]
) -> Action[Any, Any]:
    """Return `create_action(...)`. With `functools.partial`, a service names the options of a group of actions once.

    Unlike a host's, the library's actions count as destructive only where they say so.
    """
    options.setdefault("destructive", False)
    return create_action(name=name, description=description, handler=handler, validation=validation, **options)
