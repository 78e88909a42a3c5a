"""What the services of workflows ask of an actor, beside what no permission can give to an AI."""

from __future__ import annotations

from dataclasses import dataclass

from actionengine.context import ActorType

ACTIVATORS: tuple[ActorType, ...] = ("human", "integration", "system")
"""Who may put workflows and triggers into use: no AI, and no workflow."""

PEOPLE_AND_AGENTS: tuple[ActorType, ...] = ("human", "ai", "integration", "system")
"""Who may say that what a workflow has asked for is done: no workflow."""


@dataclass(frozen=True, slots=True)
class WorkflowPermissions:
    """The permission that each part asks for; None asks for none.

    `read`: get and list. `start`: start runs. `manage`: resume, cancel and purge runs. `define`: write definitions.
    `activate`: put them into use, and triggers. `complete`: complete assignments. `records`: what is asked of a
    workflow whose steps write or lock documents, as `records.<collection>.<operation>`; a role that allows `records.*`
    lets it do all. An AI can be given all but `activate`, and purges nothing. Whoever may define and activate can have
    done whatever the workflow's own roles allow, so give these two to few.
    """

    read: str | None = "workflows.read"
    start: str | None = "workflows.start"
    manage: str | None = "workflows.manage"
    define: str | None = "workflows.define"
    activate: str | None = "workflows.activate"
    complete: str | None = "workflows.complete"
    records: str | None = "records"


NO_PERMISSIONS = WorkflowPermissions(None, None, None, None, None, None, None)
