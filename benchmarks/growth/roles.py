"""Roles: those of other actors, and what nobody has, should not matter."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

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

    def changed(number: int) -> dict[str, Any]:
        name = f"role {number:06}"
        return {**data, "name": name, "folded_name": name, "id": name}

    world.clone_documents(role, ((f"role {number:06}", changed(number)) for number in range(world.size)))
    world.clone("ae_documents", assignment, lambda number: {"id": f"human:actor-{number:06}"})


def _assign(world: World) -> object:
    actor = {"actor_type": "human", "actor_id": f"new-{next(_NUMBERS)}", "role": "csr"}
    world.do("roles", "assign", actor)
    return world.do("roles", "unassign", actor)


def _define_and_delete(world: World) -> object:
    name = f"new {next(_NUMBERS)}"
    world.do("roles", "define", {"name": name, "allow": [{"permission": "action_log.read"}]})
    return world.do("roles", "delete", {"name": name})


OPERATIONS = [
    Operation("roles.define, delete", _define_and_delete, ("roles.define", "roles.delete")),
    Operation(
        "an action by an actor with a role",
        lambda world: world.do("action_log", "list", {"limit": 1}, actor=Actor.human("clara")),
    ),
    Operation("roles.list, a page", lambda world: world.do("roles", "list", {"limit": 20}), ("roles.list",)),
    Operation("roles.of_actor", lambda world: world.do("roles", "of_actor", CLARA), ("roles.of_actor",)),
    Operation("roles.assign, unassign", _assign, ("roles.assign", "roles.unassign")),
]
