"""The permissions that the optional services ask for: their own by default, or those of the host."""

from __future__ import annotations

from typing import TypeVar

from actionengine.errors import ConfigurationError

P = TypeVar("P")


def choose_permissions(factory: str, given: object, open: bool, default: P, none: P) -> P:
    """Return the permissions that the services of `factory` ask for.

    `given` is the host's choice, of the type of `default`, or None for the default. With `open`, they are `none`.

    Raises:
        ConfigurationError: if both are given, or `given` has another type.
    """
    name = type(default).__name__
    if given is not None and not isinstance(given, type(default)):
        raise ConfigurationError(f"{factory}(permissions=…) takes a {name}, such as {name}(), not {given!r}")
    if not isinstance(open, bool):
        raise ConfigurationError(f"{factory}(open=…) is True or False, not {open!r}")
    if open and given is not None:
        raise ConfigurationError(
            f"{factory} was given permissions= and open=True: leave open out to ask for these permissions, "
            "or leave permissions out to ask for none"
        )
    if open:
        return none
    return default if given is None else given
