"""The permissions of the services of workflows, and the types of actors that they admit."""

from __future__ import annotations

from dataclasses import dataclass

from actionengine.context import ActorType

ACTIVATORS: tuple[ActorType, ...] = ("human", "integration", "system")
"""Actors that may activate workflows and triggers: no AI, and no workflow."""

PEOPLE_AND_AGENTS: tuple[ActorType, ...] = ("human", "ai", "integration", "system")
"""Actors that may complete assignments: no workflow."""


@dataclass(frozen=True, slots=True)
class WorkflowPermissions:
    """The permission that each group of actions asks for; None for no permission.

    - `read`: get and list.
    - `start`: start runs.
    - `manage`: resume, cancel and purge runs.
    - `define`: write definitions.
    - `activate`: activate definitions and triggers.
    - `complete`: complete assignments.
    - `records`: asked of a workflow whose steps write or lock documents, as `records.<collection>.<operation>`. A role
      that allows `records.*` permits all of them.

    An AI may have all but `activate`, and cannot purge. An actor that may define and activate can do all that the
    workflow's own roles allow, so give these two to few actors.
    """

    read: str | None = "workflows.read"
    start: str | None = "workflows.start"
    manage: str | None = "workflows.manage"
    define: str | None = "workflows.define"
    activate: str | None = "workflows.activate"
    complete: str | None = "workflows.complete"
    records: str | None = "records"


NO_PERMISSIONS = WorkflowPermissions(None, None, None, None, None, None, None)
