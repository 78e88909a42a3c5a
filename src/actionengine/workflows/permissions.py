"""What the services of workflows ask of an actor, beside what no permission can give to an AI."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkflowPermissions:
    """The permission that each part asks for; None asks for none.

    `read`: get and list. `start`: start runs. `manage`: resume and cancel runs. `define`: write definitions.
    `activate`: put them into use, and triggers. An AI can be given all but `activate`. Whoever may define and activate
    can have done whatever the workflow's own roles allow, so give these two to few.
    """

    read: str | None = "workflows.read"
    start: str | None = "workflows.start"
    manage: str | None = "workflows.manage"
    define: str | None = "workflows.define"
    activate: str | None = "workflows.activate"


NO_PERMISSIONS = WorkflowPermissions(None, None, None, None, None)
