"""Roles: those of other actors, and what nobody has, should not matter."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

from actionengine import Actor
from benchmarks.growth.backends import Backend
from benchmarks.growth.operation import Operation

_NUMBERS = count()
CLARA = {"actor_type": "human", "actor_id": "clara"}


def fill(backend: Backend) -> None:
    """Many roles, and many actors who have one."""
    backend.do("roles", "define", {"name": "csr", "allow": [{"permission": "action_log.read"}]})
    backend.do("roles", "assign", {**CLARA, "role": "csr"})
    tenant = str(backend.tenant.id)
    role = backend.sample("ae_documents", collection="ae_roles", tenant_id=tenant)
    assignment = backend.sample("ae_documents", collection="ae_role_assignments", tenant_id=tenant)
    data = json.loads(role["data"])

    def changed(number: int) -> dict[str, Any]:
        name = f"role {number:06}"
        return {**data, "name": name, "folded_name": name, "id": name}

    backend.clone_documents(role, ((f"role {number:06}", changed(number)) for number in range(backend.size)))
    backend.clone("ae_documents", assignment, lambda number: {"id": f"human:actor-{number:06}"})


def _assign(backend: Backend) -> object:
    actor = {"actor_type": "human", "actor_id": f"new-{next(_NUMBERS)}", "role": "csr"}
    backend.do("roles", "assign", actor)
    return backend.do("roles", "unassign", actor)


def _define_and_delete(backend: Backend) -> object:
    name = f"new {next(_NUMBERS)}"
    backend.do("roles", "define", {"name": name, "allow": [{"permission": "action_log.read"}]})
    return backend.do("roles", "delete", {"name": name})


OPERATIONS = [
    Operation("roles.define, delete", _define_and_delete, ("roles.define", "roles.delete")),
    Operation(
        "an action by an actor with a role",
        lambda backend: backend.do("action_log", "list", {"limit": 1}, actor=Actor.human("clara")),
    ),
    Operation("roles.list, a page", lambda backend: backend.do("roles", "list", {"limit": 20}), ("roles.list",)),
    Operation("roles.of_actor", lambda backend: backend.do("roles", "of_actor", CLARA), ("roles.of_actor",)),
    Operation("roles.assign, unassign", _assign, ("roles.assign", "roles.unassign")),
]
