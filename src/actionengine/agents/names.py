"""Names of tools: `service__action`, or an alias of the host's."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from actionengine.errors import ConfigurationError
from actionengine.text.names import hint, nearest_of

SEPARATOR = "__"


def tool_names(actions: Iterable[str], aliases: Mapping[str, str], pattern: re.Pattern[str]) -> dict[str, str]:
    """Return the name of the tool of each action (`service.action`).

    Raises `ConfigurationError` for an illegal name, for one that two actions have, and for an alias of no action.
    """
    actions = list(actions)
    check_known(aliases, actions, "aliases")
    owners: dict[str, str] = {}
    for action in actions:
        alias = aliases.get(action)
        name = SEPARATOR.join(action.rsplit(".", 1)) if alias is None else alias
        if not isinstance(name, str) or not pattern.fullmatch(name):
            length = f", which has {len(name)} characters" if isinstance(name, str) and len(name) > 64 else ""
            raise ConfigurationError(
                f"{action}: {name!r} is not a name for a tool{length}: it has to match {pattern.pattern}. Give it "
                f"another name, as in Tools(…, aliases={{{action!r}: {_proposal(action)!r}}})"
            )
        if name in owners:
            raise ConfigurationError(
                f"{owners[name]} and {action} would both be the tool {name!r}: give one of them another name, as in "
                f"Tools(…, aliases={{{action!r}: {_proposal(action) + '_2'!r}}})"
            )
        owners[name] = action
    return {action: name for name, action in owners.items()}


def nearest_tool(name: object, names: Collection[str]) -> str | None:
    """Return the tool that an unknown name means, if one is like it: the action too, not only its service.

    A model does what an answer proposes. For `payments__delete`, that must not be `payments__create`.
    """
    found = nearest_of(name, names)
    if found is None or not isinstance(name, str) or SEPARATOR not in name:
        return found
    return found if nearest_of(_last(name), [_last(found)]) else None


def check_known(given: Iterable[object], known: Iterable[str], what: str) -> None:
    """Raise `ConfigurationError` for a name that is not known, with the nearest one."""
    names = list(known)
    for name in given:
        if name not in names:
            raise ConfigurationError(
                f"{what}: {name!r} is not one of the {len(names)} names of this engine{hint(nearest_of(name, names))}"
            )


def _last(name: str) -> str:
    return name.rpartition(SEPARATOR)[2]


def _proposal(action: str) -> str:
    proposal = re.sub(r"[^a-zA-Z0-9_-]+", "_", action.rpartition(".")[2])[:40].strip("_")
    return proposal if re.match(r"[a-zA-Z_]", proposal) else "the_tool"
