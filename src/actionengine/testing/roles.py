"""Roles: kept in storage, in force at once, deny before allow."""

from __future__ import annotations

from typing import Any

import pytest

from actionengine.context import Actor
from actionengine.errors import ErrorCode
from actionengine.storage.port import ROLE_ASSIGNMENTS, ROLES
from actionengine.testing.base import Conformance, error_of, value_of
from actionengine.testing.desk import CLERK, SYSTEM, Answer, Desk
from actionengine.testing.worlds import World, scenario


def rule(permission: str, resource: str | None = None) -> dict[str, Any]:
    """A rule of a role."""
    return {"permission": permission, "resource": resource}


async def define(desk: Desk, name: str, *, allow: tuple[Any, ...] = (), deny: tuple[Any, ...] = ()) -> None:
    """Make a role, or give it other rules."""
    value_of(await desk.execute("roles.define", {"name": name, "allow": list(allow), "deny": list(deny)}, actor=SYSTEM))


async def change(desk: Desk, action: str, role: str, actor: Actor = CLERK) -> Answer:
    """Assign or unassign a role."""
    payload = {"actor_type": actor.type, "actor_id": actor.id, "role": role}
    return await desk.execute(f"roles.{action}", payload, actor=SYSTEM)


class RolesConformance(Conformance):
    """Who may do what, as storage says."""

    @scenario
    async def test_a_role_is_in_force_as_soon_as_it_is_assigned_and_until_it_is_taken(self, world: World) -> None:
        desk = Desk(world)
        error_of(await desk.execute("notes.edit", {"id": "n1"}), ErrorCode.FORBIDDEN)

        await define(desk, "editor", allow=(rule("notes.*"),))
        error_of(await desk.execute("notes.edit", {"id": "n1"}), ErrorCode.FORBIDDEN)
        value_of(await change(desk, "assign", "editor"))
        value_of(await desk.execute("notes.edit", {"id": "n1"}))
        value_of(await change(desk, "unassign", "editor"))

        error_of(await desk.execute("notes.edit", {"id": "n2"}), ErrorCode.FORBIDDEN)

    @scenario
    async def test_other_rules_of_a_role_are_in_force_at_once(self, world: World) -> None:
        desk = Desk(world)
        await define(desk, "editor", allow=(rule("notes.edit"),))
        value_of(await change(desk, "assign", "editor"))
        value_of(await desk.execute("notes.edit", {"id": "n1"}))

        await define(desk, "editor", allow=(rule("notes.read"),))
        error_of(await desk.execute("notes.edit", {"id": "n2"}), ErrorCode.FORBIDDEN)
        await define(desk, "editor", allow=(rule("*"),))

        value_of(await desk.execute("notes.edit", {"id": "n2"}))

    @scenario
    async def test_a_deleted_role_allows_nothing(self, world: World) -> None:
        desk = Desk(world)
        await define(desk, "editor", allow=(rule("notes.edit"),))
        value_of(await change(desk, "assign", "editor"))
        value_of(await desk.execute("notes.edit", {"id": "n1"}))

        value_of(await desk.execute("roles.delete", {"name": "editor"}, actor=SYSTEM))

        error_of(await desk.execute("notes.edit", {"id": "n2"}), ErrorCode.FORBIDDEN)

    @scenario
    async def test_deny_beats_allow(self, world: World) -> None:
        desk = Desk(world)
        insider = Actor.human("insider", permissions=["notes.edit"])
        await define(desk, "editor", allow=(rule("notes.*"),))
        await define(desk, "barred", deny=(rule("notes.edit"),))
        for role in ("editor", "barred"):
            value_of(await change(desk, "assign", role))
        value_of(await change(desk, "assign", "barred", insider))

        error_of(await desk.execute("notes.edit", {"id": "n1"}), ErrorCode.FORBIDDEN)
        error_of(await desk.execute("notes.edit", {"id": "n1"}, actor=insider), ErrorCode.FORBIDDEN)
        value_of(await change(desk, "unassign", "barred"))

        value_of(await desk.execute("notes.edit", {"id": "n1"}))

    @scenario
    async def test_a_rule_can_name_one_resource(self, world: World) -> None:
        desk = Desk(world)
        await define(desk, "owner", allow=(rule("notes.edit", "note/mine"),))
        value_of(await change(desk, "assign", "owner"))

        value_of(await desk.execute("notes.edit", {"id": "mine"}))
        error_of(await desk.execute("notes.edit", {"id": "yours"}), ErrorCode.FORBIDDEN)

        assert await world.ids("notes") == ["mine"]

    @scenario
    async def test_a_denied_resource_leaves_the_others(self, world: World) -> None:
        desk = Desk(world)
        await define(desk, "editor", allow=(rule("notes.edit"),), deny=(rule("notes.edit", "note/sealed"),))
        value_of(await change(desk, "assign", "editor"))

        error_of(await desk.execute("notes.edit", {"id": "sealed"}), ErrorCode.FORBIDDEN)
        value_of(await desk.execute("notes.edit", {"id": "open"}))

        assert await world.ids("notes") == ["open"]

    @scenario
    async def test_an_assigned_role_opens_what_asks_for_that_role(self, world: World) -> None:
        desk = Desk(world)
        error_of(await desk.execute("notes.audit", {}), ErrorCode.FORBIDDEN)
        await define(desk, "auditor")

        value_of(await change(desk, "assign", "auditor"))

        value_of(await desk.execute("notes.audit", {}))

    @scenario
    async def test_a_role_belongs_to_an_actor_of_one_type(self, world: World) -> None:
        desk = Desk(world)
        await define(desk, "editor", allow=(rule("notes.edit"),))
        value_of(await change(desk, "assign", "editor", Actor.ai("clerk")))

        error_of(await desk.execute("notes.edit", {"id": "n1"}, actor=CLERK), ErrorCode.FORBIDDEN)
        value_of(await desk.execute("notes.edit", {"id": "n1"}, actor=Actor.ai("clerk")))

    @scenario
    async def test_a_role_that_is_not_defined_or_not_held_is_not_found(self, world: World) -> None:
        desk = Desk(world)
        await define(desk, "editor")

        error_of(await change(desk, "assign", "ghost"), ErrorCode.NOT_FOUND)
        error_of(await change(desk, "unassign", "editor"), ErrorCode.NOT_FOUND)
        error_of(await desk.execute("roles.delete", {"name": "ghost"}, actor=SYSTEM), ErrorCode.NOT_FOUND)

    @scenario
    async def test_assigning_twice_is_assigning_once(self, world: World) -> None:
        desk = Desk(world)
        await define(desk, "editor")
        await define(desk, "auditor")
        for role in ("editor", "auditor", "editor"):
            value_of(await change(desk, "assign", role))

        of_clerk = {"actor_type": "human", "actor_id": "clerk"}
        held = value_of(await desk.execute("roles.of_actor", of_clerk, actor=SYSTEM))
        defined = value_of(await desk.execute("roles.list", {}, actor=SYSTEM))

        assert held.roles == ("editor", "auditor")
        assert [role.name for role in defined] == ["auditor", "editor"]

    @scenario
    async def test_roles_are_managed_by_those_who_may(self, world: World) -> None:
        desk = Desk(world)
        role = {"name": "editor", "allow": [rule("*")]}
        agent = Actor.ai("agent", permissions=["*"])
        admin = Actor.human("admin", permissions=["roles.manage"])

        error_of(await desk.execute("roles.define", role, actor=CLERK), ErrorCode.FORBIDDEN)
        error_of(await desk.execute("roles.define", role, actor=agent), ErrorCode.FORBIDDEN)
        assert await world.ids(ROLES) == []

        value_of(await desk.execute("roles.define", role, actor=admin))

    @scenario
    async def test_nobody_gives_a_right_that_they_do_not_hold(self, world: World) -> None:
        desk = Desk(world)
        limited = (rule("roles.manage", "role/owner"),)
        await define(desk, "owner", allow=(rule("*"),))
        await define(desk, "reader", allow=(rule("notes.read"),))
        await define(desk, "lead", allow=(rule("roles.manage"), rule("notes.read")), deny=limited)
        await define(desk, "barred", deny=(rule("payments.*"),))
        lead = Actor.human("lea")
        value_of(await change(desk, "assign", "lead", lead))
        value_of(await change(desk, "assign", "barred"))

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
            error_of(await desk.execute(f"roles.{action}", payload, actor=lead), ErrorCode.FORBIDDEN)
        value_of(await desk.execute("roles.assign", of(CLERK, "reader"), actor=lead))

    @pytest.mark.parametrize("collection", [ROLES, ROLE_ASSIGNMENTS])
    @scenario
    async def test_the_access_stamp_moves_with_a_commit_to_roles_and_only_then(
        self, world: World, collection: str
    ) -> None:
        def stamp() -> int:
            return world.storage.access_stamp(world.tenant.id)

        async with world.writing() as unit:
            await unit.records("notes").insert({})
        before = stamp()
        unit = world.unit()
        await unit.records(collection).insert({}, "x")
        assert stamp() == before
        await unit.rollback()
        assert stamp() == before
        stamps = [before]
        await world.put(collection, "x")
        stamps.append(stamp())
        async with world.writing() as unit:
            await unit.records(collection).update("x", {}, 1)
        stamps.append(stamp())
        async with world.writing() as unit:
            await unit.records(collection).delete("x", 2)
        stamps.append(stamp())

        assert len(set(stamps)) == 4

    @scenario
    async def test_concurrent_readers_never_act_on_a_role_that_was_taken(self, world: World) -> None:
        desk = Desk(world)
        await define(desk, "editor", allow=(rule("notes.edit"),))
        value_of(await change(desk, "assign", "editor"))
        readers = [Actor.human(f"reader {number}") for number in range(8)]

        async def read(actor: Actor) -> None:
            for number in range(6):
                await desk.execute("notes.edit", {"id": f"{actor.id} {number}"}, actor=actor)

        async def take() -> None:
            value_of(await change(desk, "unassign", "editor"))
            error_of(await desk.execute("notes.edit", {"id": "taken"}), ErrorCode.FORBIDDEN)

        await world.at_once(take(), *(read(actor) for actor in readers), read(CLERK))

        error_of(await desk.execute("notes.edit", {"id": "taken"}), ErrorCode.FORBIDDEN)
