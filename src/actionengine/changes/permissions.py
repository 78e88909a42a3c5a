"""What the actions of change control ask of an actor, beside what no permission can give to an AI."""

from __future__ import annotations

from dataclasses import dataclass

from actionengine.context import ActorType

NON_AI_ACTORS: tuple[ActorType, ...] = ("human", "integration", "system", "workflow")
"""R1: who may make a change `Ready`, execute and merge it, and put record types into use: no AI."""


@dataclass(frozen=True, slots=True)
class ChangeControlPermissions:
    """The permission that each part of change control asks for; None asks for none.

    `read`: get, list, preview, history. `author`: draft changes, with their targets and ops, and move them on, but for
    what the next two say. `approve`: make a change `Ready`. `merge`: merge, or execute. `manage`: make projects and
    record types, activate and retire them. An AI can be given `read`, `author` and, to make things, `manage`; the rest
    it is refused whatever it has.
    """

    read: str | None = "changes.read"
    author: str | None = "changes.author"
    approve: str | None = "changes.approve"
    merge: str | None = "changes.merge"
    manage: str | None = "changes.manage"


NO_PERMISSIONS = ChangeControlPermissions(None, None, None, None, None)
