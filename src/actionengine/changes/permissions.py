"""The permissions of change control, and the actor types that may decide."""

from __future__ import annotations

from dataclasses import dataclass

from actionengine.context import ActorType

NON_AI_ACTORS: tuple[ActorType, ...] = ("human", "integration", "system", "workflow")
"""R1: the actor types that may make a change `Ready`, execute or merge it, and activate record types: no AI."""


@dataclass(frozen=True, slots=True)
class ChangeControlPermissions:
    """The permission that each part of change control requires; None requires none.

    `read`: get, list, preview, history. `author`: draft changes with their targets and ops, and every transition except
    the next two. `approve`: make a change `Ready`. `merge`: merge or execute a change. `manage`: create projects and
    record types, activate and retire record types. An AI can use `read`, `author` and, to create, `manage`; the rest is
    refused to it whatever permissions it has.
    """

    read: str | None = "changes.read"
    author: str | None = "changes.author"
    approve: str | None = "changes.approve"
    merge: str | None = "changes.merge"
    manage: str | None = "changes.manage"


NO_PERMISSIONS = ChangeControlPermissions(None, None, None, None, None)
