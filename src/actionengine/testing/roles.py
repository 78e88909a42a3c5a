"""Roles: stored, effective at once, deny before allow."""

from __future__ import annotations

from typing import Any

import pytest

from actionengine.context import Actor
from actionengine.errors import ErrorCode
from actionengine.storage.records import ROLE_ASSIGNMENTS, ROLES
from actionengine.testing.backend import Backend, run_in_mode
from actionengine.testing.base import Conformance, error_of, value_of
from actionengine.testing.harness import SYSTEM, ActionResult
from actionengine.testing.sample import CLERK, SampleHarness


def rule(permission: str, resource: str | None = None) -> dict[str, Any]:
    """Return a rule of a role."""
    return {"permission": permission, "resource": resource}


async def define(harness: SampleHarness, name: str, *, allow: tuple[Any, ...] = (), deny: tuple[Any, ...] = ()) -> None:
    """Define a role, or replace its rules."""
    value_of(
        await harness.execute("roles.define", {"name": name, "allow": list(allow), "deny": list(deny)}, actor=SYSTEM)
    )


async def change_role(harness: SampleHarness, action: str, role: str, actor: Actor = CLERK) -> ActionResult:
    """Assign or unassign a role."""
    payload = {"actor_type": actor.type, "actor_id": actor.id, "role": role}
    return await harness.execute(f"roles.{action}", payload, actor=SYSTEM)


class RolesConformance(Conformance):
    """Authorization by stored roles."""

    @run_in_mode
    async def test_a_role_is_in_force_from_assignment_to_removal(self, harness: SampleHarness) -> None:
        error_of(await harness.execute("notes.edit", {"id": "n1"}), ErrorCode.FORBIDDEN)

        await define(harness, "editor", allow=(rule("notes.*"),))
        error_of(await harness.execute("notes.edit", {"id": "n1"}), ErrorCode.FORBIDDEN)
        value_of(await change_role(harness, "assign", "editor"))
        value_of(await harness.execute("notes.edit", {"id": "n1"}))
        value_of(await change_role(harness, "unassign", "editor"))

        error_of(await harness.execute("notes.edit", {"id": "n2"}), ErrorCode.FORBIDDEN)

    @run_in_mode
    async def test_other_rules_of_a_role_are_in_force_at_once(self, harness: SampleHarness) -> None:
        await define(harness, "editor", allow=(rule("notes.edit"),))
        value_of(await change_role(harness, "assign", "editor"))
        value_of(await harness.execute("notes.edit", {"id": "n1"}))

        await define(harness, "editor", allow=(rule("notes.read"),))
        error_of(await harness.execute("notes.edit", {"id": "n2"}), ErrorCode.FORBIDDEN)
        await define(harness, "editor", allow=(rule("*"),))

        value_of(await harness.execute("notes.edit", {"id": "n2"}))

    @run_in_mode
    async def test_a_deleted_role_allows_nothing(self, harness: SampleHarness) -> None:
        await define(harness, "editor", allow=(rule("notes.edit"),))
        value_of(await change_role(harness, "assign", "editor"))
        value_of(await harness.execute("notes.edit", {"id": "n1"}))

        value_of(await harness.execute("roles.delete", {"name": "editor"}, actor=SYSTEM))

        error_of(await harness.execute("notes.edit", {"id": "n2"}), ErrorCode.FORBIDDEN)

    @run_in_mode
    async def test_deny_beats_allow(self, harness: SampleHarness) -> None:
        insider = Actor.human("insider", permissions=["notes.edit"])
        await define(harness, "editor", allow=(rule("notes.*"),))
        await define(harness, "barred", deny=(rule("notes.edit"),))
        for role in ("editor", "barred"):
            value_of(await change_role(harness, "assign", role))
        value_of(await change_role(harness, "assign", "barred", insider))

        error_of(await harness.execute("notes.edit", {"id": "n1"}), ErrorCode.FORBIDDEN)
        error_of(await harness.execute("notes.edit", {"id": "n1"}, actor=insider), ErrorCode.FORBIDDEN)
        value_of(await change_role(harness, "unassign", "barred"))

        value_of(await harness.execute("notes.edit", {"id": "n1"}))

    @run_in_mode
    async def test_a_rule_can_name_one_resource(self, harness: SampleHarness) -> None:
        await define(harness, "owner", allow=(rule("notes.edit", "note/mine"),))
        value_of(await change_role(harness, "assign", "owner"))

        value_of(await harness.execute("notes.edit", {"id": "mine"}))
        error_of(await harness.execute("notes.edit", {"id": "yours"}), ErrorCode.FORBIDDEN)

        assert await harness.backend.ids("notes") == ["mine"]

    @run_in_mode
    async def test_a_denied_resource_leaves_the_others(self, harness: SampleHarness) -> None:
        await define(harness, "editor", allow=(rule("notes.edit"),), deny=(rule("notes.edit", "note/sealed"),))
        value_of(await change_role(harness, "assign", "editor"))

        error_of(await harness.execute("notes.edit", {"id": "sealed"}), ErrorCode.FORBIDDEN)
        value_of(await harness.execute("notes.edit", {"id": "open"}))

        assert await harness.backend.ids("notes") == ["open"]

    @run_in_mode
    async def test_an_assigned_role_opens_what_asks_for_that_role(self, harness: SampleHarness) -> None:
        error_of(await harness.execute("notes.audit", {}), ErrorCode.FORBIDDEN)
        await define(harness, "auditor")

        value_of(await change_role(harness, "assign", "auditor"))

        value_of(await harness.execute("notes.audit", {}))

    @run_in_mode
    async def test_a_role_belongs_to_an_actor_of_one_type(self, harness: SampleHarness) -> None:
        await define(harness, "editor", allow=(rule("notes.edit"),))
        value_of(await change_role(harness, "assign", "editor", Actor.ai("clerk")))

        error_of(await harness.execute("notes.edit", {"id": "n1"}, actor=CLERK), ErrorCode.FORBIDDEN)
        value_of(await harness.execute("notes.edit", {"id": "n1"}, actor=Actor.ai("clerk")))

    @run_in_mode
    async def test_a_role_that_is_not_defined_or_not_held_is_not_found(self, harness: SampleHarness) -> None:
        await define(harness, "editor")

        error_of(await change_role(harness, "assign", "ghost"), ErrorCode.NOT_FOUND)
        error_of(await change_role(harness, "unassign", "editor"), ErrorCode.NOT_FOUND)
        error_of(await harness.execute("roles.delete", {"name": "ghost"}, actor=SYSTEM), ErrorCode.NOT_FOUND)

    @run_in_mode
    async def test_assigning_twice_is_assigning_once(self, harness: SampleHarness) -> None:
        await define(harness, "editor")
        await define(harness, "auditor")
        for role in ("editor", "auditor", "editor"):
            value_of(await change_role(harness, "assign", role))

        of_clerk = {"actor_type": "human", "actor_id": "clerk"}
        held = value_of(await harness.execute("roles.of_actor", of_clerk, actor=SYSTEM))
        defined = value_of(await harness.execute("roles.list", {}, actor=SYSTEM))

        assert held.roles == ("editor", "auditor")
        assert [role.name for role in defined] == ["auditor", "editor"]

    @run_in_mode
    async def test_roles_are_managed_by_those_who_may(self, harness: SampleHarness) -> None:
        role = {"name": "editor", "allow": [rule("*")]}
        agent = Actor.ai("agent", permissions=["*"])
        admin = Actor.human("admin", permissions=["roles.manage"])

        error_of(await harness.execute("roles.define", role, actor=CLERK), ErrorCode.FORBIDDEN)
        error_of(await harness.execute("roles.define", role, actor=agent), ErrorCode.FORBIDDEN)
        assert await harness.backend.ids(ROLES) == []

        value_of(await harness.execute("roles.define", role, actor=admin))

    @run_in_mode
    async def test_nobody_gives_a_right_that_they_do_not_hold(self, harness: SampleHarness) -> None:
        limited = (rule("roles.manage", "role/owner"),)
        await define(harness, "owner", allow=(rule("*"),))
        await define(harness, "reader", allow=(rule("notes.read"),))
        await define(harness, "lead", allow=(rule("roles.manage"), rule("notes.read")), deny=limited)
        await define(harness, "barred", deny=(rule("payments.*"),))
        lead = Actor.human("lea")
        value_of(await change_role(harness, "assign", "lead", lead))
        value_of(await change_role(harness, "assign", "barred"))

        def of(actor: Actor, role: str) -> dict[str, Any]:
            return {"actor_type": actor.type, "actor_id": actor.id, "role": role}

        for action, payload in (
            ("assign", of(lead, "owner")),
            ("define", {"name": "other", "allow": [rule("notes.*")]}),
            ("unassign", of(CLERK, "barred")),
            ("unassign", of(lead, "lead")),
            ("define", {"name": "barred"}),
            ("delete", {"name": "barred"}),
        ):
            error_of(await harness.execute(f"roles.{action}", payload, actor=lead), ErrorCode.FORBIDDEN)
        value_of(await harness.execute("roles.assign", of(CLERK, "reader"), actor=lead))

    @pytest.mark.parametrize("collection", [ROLES, ROLE_ASSIGNMENTS])
    @run_in_mode
    async def test_the_access_version_changes_only_with_committed_roles(
        self, backend: Backend, collection: str
    ) -> None:
        def stamp() -> int:
            return backend.storage.access_version(backend.tenant.id)

        async with backend.writing() as unit:
            await unit.records("notes").insert({})
        before = stamp()
        unit = backend.unit()
        await unit.records(collection).insert({}, "x")
        assert stamp() == before
        await unit.rollback()
        assert stamp() == before
        stamps = [before]
        await backend.put(collection, "x")
        stamps.append(stamp())
        async with backend.writing() as unit:
            await unit.records(collection).update("x", {}, 1)
        stamps.append(stamp())
        async with backend.writing() as unit:
            await unit.records(collection).delete("x", 2)
        stamps.append(stamp())

        assert len(set(stamps)) == 4

    @run_in_mode
    async def test_concurrent_readers_never_act_on_a_role_that_was_taken(self, harness: SampleHarness) -> None:
        await define(harness, "editor", allow=(rule("notes.edit"),))
        value_of(await change_role(harness, "assign", "editor"))
        readers = [Actor.human(f"reader {number}") for number in range(8)]

        async def read(actor: Actor) -> None:
            for number in range(6):
                await harness.execute("notes.edit", {"id": f"{actor.id} {number}"}, actor=actor)

        async def take() -> None:
            value_of(await change_role(harness, "unassign", "editor"))
            error_of(await harness.execute("notes.edit", {"id": "taken"}), ErrorCode.FORBIDDEN)

        await harness.backend.gather(take(), *(read(actor) for actor in readers), read(CLERK))

        error_of(await harness.execute("notes.edit", {"id": "taken"}), ErrorCode.FORBIDDEN)
