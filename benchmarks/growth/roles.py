"""Roles: those of other actors, and what nobody has, should not matter."""

from __future__ import annotations

import json
from itertools import count

from actionengine import Actor
from benchmarks.growth.operation import Operation
from benchmarks.growth.worlds import World

_NUMBERS = count()
CLARA = {"actor_type": "human", "actor_id": "clara"}


def fill(world: World) -> None:
    """Many roles, and many actors who have one."""
    world.do("roles", "define", {"name": "csr", "allow": [{"permission": "action_log.read"}]})
    world.do("roles", "assign", {**CLARA, "role": "csr"})
    tenant = str(world.tenant.id)
    role = world.sample("ae_documents", collection="ae_roles", tenant_id=tenant)
    assignment = world.sample("ae_documents", collection="ae_role_assignments", tenant_id=tenant)
    data = json.loads(role["data"])

    def changed(number: int) -> dict[str, str]:
        name = f"role {number:06}"
        return {"id": name, "data": json.dumps({**data, "name": name})}

    world.clone("ae_documents", role, changed)
    world.clone("ae_documents", assignment, lambda number: {"id": f"human:actor-{number:06}"})


def _assign(world: World) -> object:
    actor = {"actor_type": "human", "actor_id": f"new-{next(_NUMBERS)}", "role": "csr"}
    world.do("roles", "assign", actor)
    return world.do("roles", "unassign", actor)


OPERATIONS = [
    Operation(
        "an action by an actor with a role",
        lambda world: world.do("action_log", "list", {"limit": 1}, actor=Actor.human("clara")),
    ),
    Operation("roles.list, a page", lambda world: world.do("roles", "list", {"limit": 20}), ("roles.list",)),
    Operation("roles.of_actor", lambda world: world.do("roles", "of_actor", CLARA), ("roles.of_actor",)),
    Operation("roles.assign, unassign", _assign, ("roles.assign", "roles.unassign")),
]
