"""Tenants: how they are made and found, and that none sees another."""

from __future__ import annotations

from uuid import uuid4

import pytest
from returns.result import Success

from actionengine.context import Tenant
from actionengine.engine import Engine
from actionengine.errors import ErrorCode
from actionengine.storage.port import APPROVALS, CLAIMED, ROLES, Claim, LogQuery, Recording
from actionengine.testing.base import Conformance, error_of, refused, value_of
from actionengine.testing.desk import CLERK, MANAGER, SYSTEM, Desk
from actionengine.testing.rows import event_row, log_row, result
from actionengine.testing.worlds import World, scenario


def a_slug() -> str:
    """A slug that nobody else has."""
    return f"t-{uuid4().hex}"


async def resolved(world: World, engine: Engine, slug: str) -> Tenant:
    """The tenant of a slug, as a host finds it."""
    found = engine.resolve_tenant(slug) if world.mode == "sync" else await engine.resolve_tenant_async(slug)
    tenant: Tenant = value_of(found)
    return tenant


class TenantConformance(Conformance):
    """One storage, many customers."""

    @scenario
    async def test_a_tenant_is_found_by_its_slug(self, world: World) -> None:
        slug = a_slug()
        made = await world.create_tenant(slug=slug, name="Grüße & Söhne")

        assert made.slug == slug
        assert await world.storage.find_tenant(slug, world.mode) == made
        assert await resolved(world, Desk(world).engine, slug) == made
        assert await world.storage.find_tenant(slug.upper(), world.mode) is None
        assert await world.storage.find_tenant(a_slug(), world.mode) is None

    @scenario
    async def test_a_tenant_is_found_by_its_id(self, world: World) -> None:
        made, other = [await world.create_tenant(slug=a_slug(), name="x") for _ in range(2)]

        assert await world.storage.find_tenant_by_id(made.id, world.mode) == made
        assert await world.storage.find_tenant_by_id(uuid4(), world.mode) is None

        assert await world.delete_tenant(slug=made.slug)
        assert await world.storage.find_tenant_by_id(made.id, world.mode) is None
        assert await world.storage.find_tenant_by_id(other.id, world.mode) == other

    @scenario
    async def test_tenants_are_listed_by_slug(self, world: World) -> None:
        slugs = [a_slug() for _ in range(5)]
        made = [await world.create_tenant(slug=slug, name=slug) for slug in slugs]

        listed = [tenant for tenant in await world.list_tenants() if tenant.slug in slugs]

        assert listed == sorted(made, key=lambda tenant: tenant.slug)
        assert len({tenant.id for tenant in listed}) == 5

    @scenario
    async def test_tenants_are_listed_in_pages(self, world: World) -> None:
        slugs = [f"{a_slug()}-{number}" for number in range(5)]
        for slug in slugs:
            await world.create_tenant(slug=slug, name=slug)
        await world.delete_tenant(slug=slugs[2])

        everybody = [tenant.slug for tenant in await world.list_tenants()]
        paged: list[str] = []
        while page := await world.list_tenants(after=paged[-1] if paged else None, limit=max(2, len(everybody) // 3)):
            paged += [tenant.slug for tenant in page]
        # Others make tenants meanwhile.
        assert [slug for slug in paged if slug in slugs] == sorted({*slugs} - {slugs[2]})
        with refused(ErrorCode.INVALID_INPUT):
            await world.list_tenants(limit=0)

    @scenario
    async def test_a_taken_slug_is_a_conflict(self, world: World) -> None:
        slug = a_slug()
        made = await world.create_tenant(slug=slug, name="First")

        with refused(ErrorCode.CONFLICT):
            await world.create_tenant(slug=slug, name="Second")

        assert await world.storage.find_tenant(slug, world.mode) == made

    @pytest.mark.parametrize(
        "slug", ["", " ", "Acme", "ac me", "acme_1", "acmé", "-acme", "acme-", "acme\n", "a.b", "a/b", "x" * 64, "١٢"]
    )
    @scenario
    async def test_a_slug_is_lower_case_letters_digits_and_inner_hyphens(self, world: World, slug: str) -> None:
        with refused(ErrorCode.INVALID_INPUT):
            await world.create_tenant(slug=slug, name="Acme")

        assert slug not in [tenant.slug for tenant in await world.list_tenants()]

    @scenario
    async def test_a_slug_has_up_to_63_characters(self, world: World) -> None:
        slug = f"{a_slug()}-{'x' * 63}"[:63]

        assert (await world.create_tenant(slug=slug, name="Long")).slug == slug

    @scenario
    async def test_a_tenant_needs_a_name(self, world: World) -> None:
        with refused(ErrorCode.INVALID_INPUT):
            await world.create_tenant(slug=a_slug(), name=" ")

    @scenario
    async def test_of_many_who_want_a_slug_one_gets_it(self, world: World) -> None:
        slug = a_slug()

        async def make() -> bool:
            try:
                await world.create_tenant(slug=slug, name="Acme")
            except Exception:
                with refused(ErrorCode.CONFLICT):
                    await world.create_tenant(slug=slug, name="Acme")
                return False
            return True

        assert sum(await world.at_once(*(make() for _ in range(8)))) == 1

    # The end

    @scenario
    async def test_a_deleted_tenant_is_gone_and_its_slug_stays_taken(self, world: World) -> None:
        slug = a_slug()
        made = await world.create_tenant(slug=slug, name="Acme")

        assert await world.delete_tenant(slug=slug)

        assert not await world.delete_tenant(slug=slug)
        assert not await world.delete_tenant(slug=a_slug())
        assert await world.storage.find_tenant(slug, world.mode) is None
        assert made not in await world.list_tenants()
        with refused(ErrorCode.CONFLICT):
            await world.create_tenant(slug=slug, name="Acme again")

    @scenario
    async def test_nothing_is_executed_for_a_deleted_tenant(self, world: World) -> None:
        slug = a_slug()
        tenant, other = await world.create_tenant(slug=slug, name="Acme"), world.other_tenant
        desk = Desk(world)
        value_of(await desk.execute("notes.put", {"id": "n1"}, tenant=tenant))

        await world.delete_tenant(slug=slug)

        error_of(await desk.execute("notes.put", {"id": "n2"}, tenant=tenant), ErrorCode.NOT_FOUND)
        error_of(await desk.execute("notes.put", {"id": "n2"}, tenant=tenant, key="key"), ErrorCode.NOT_FOUND)
        error_of(await desk.execute("notes.read", {"id": "n1"}, tenant=tenant), ErrorCode.NOT_FOUND)
        value_of(await desk.execute("notes.put", {"id": "n1"}, tenant=other))

    @scenario
    async def test_a_tenant_that_is_deleted_in_the_middle_leaves_nothing_half_done(self, world: World) -> None:
        slug = a_slug()
        tenant = await world.create_tenant(slug=slug, name="Acme")
        desk = Desk(world)

        async def work() -> list[str]:
            answers = [await desk.execute("notes.put", {"id": f"n{number}"}, tenant=tenant) for number in range(30)]
            return ["done" if isinstance(answer, Success) else answer.failure().code for answer in answers]

        async def delete() -> list[str]:
            await world.pause(0.005)
            await world.delete_tenant(slug=slug)
            return []

        told, _ = await world.at_once(work(), delete())

        done = told.count("done")
        assert told == ["done"] * done + ["not_found"] * (30 - done)
        assert len(await world.read_events(tenant)) in {0, done}

    # Isolation

    @scenario
    async def test_tenants_do_not_see_each_others_documents(self, world: World) -> None:
        await world.put("notes", "n1", {"of": "one"})
        await world.put("notes", "n1", {"of": "other"}, world.other_tenant)
        await world.put("notes", "n2", {"of": "other"}, world.other_tenant)

        async with world.writing() as unit:
            notes = unit.records("notes")
            assert [record.data for record in await notes.list()] == [{"of": "one"}]
            assert await notes.get("n2") is None
            with refused(ErrorCode.NOT_FOUND):
                await notes.update("n2", {"of": "one"}, 1)
            with refused(ErrorCode.NOT_FOUND):
                await notes.delete("n2", 1)
            await notes.delete("n1", 1)

        found = await world.get("notes", "n1", world.other_tenant)
        assert found is not None
        assert found.data == {"of": "other"}

    @scenario
    async def test_a_tenant_is_its_id_whatever_its_slug_is(self, world: World) -> None:
        mine = Tenant(uuid4(), a_slug())
        renamed, namesake = Tenant(mine.id, a_slug()), Tenant(uuid4(), mine.slug)
        claim = Claim("notes.put", "key", "a" * 64)
        async with world.writing(mine) as unit:
            await unit.records("notes").insert({"of": "mine"}, "n1")
            await unit.claim(claim, 0.0)
            await unit.record(Recording((log_row(mine),), (event_row(mine),), (result(claim),)))

        for tenant, number in ((renamed, 1), (namesake, 0)):
            assert len(await world.ids("notes", tenant)) == number
            assert len(await world.read_events(tenant)) == number
            async with world.writing(tenant) as unit:
                assert len(await unit.read_log(LogQuery())) == number
                assert (await unit.claim(claim, 0.0)).status == ("replay" if number else "claimed")

    @scenario
    async def test_tenants_do_not_see_each_others_keys_log_and_events(self, world: World) -> None:
        claim = Claim("notes.put", "key", "a" * 64)
        async with world.writing() as unit:
            await unit.claim(claim, 0.0)
            row, event = log_row(world.tenant), event_row(world.tenant)
            await unit.record(Recording((row,), (event,), (result(claim),)))

        async with world.writing(world.other_tenant) as unit:
            assert await unit.claim(claim._replace(fingerprint="b" * 64), 0.0) == CLAIMED
            assert list(await unit.read_log(LogQuery())) == []
            assert list(await unit.read_log(LogQuery(subject=row.subjects[0], action=row.action))) == []
            await unit.record(Recording((), (), (result(claim._replace(fingerprint="b" * 64)),)))
        assert list(await world.read_events(world.other_tenant)) == []
        assert [stored.event.id for stored in await world.read_events(world.tenant)] == [event.id]

    @scenario
    async def test_the_librarys_own_collections_are_apart_too(self, world: World) -> None:
        for collection in (ROLES, APPROVALS):
            await world.put(collection, "x", {"of": "one"})

            assert await world.get(collection, "x", world.other_tenant) is None
            assert await world.ids(collection, world.other_tenant) == []

    @scenario
    async def test_what_one_tenant_does_is_nothing_to_another(self, world: World) -> None:
        desk, other = Desk(world), world.other_tenant
        clerk = {"name": "clerk", "allow": [{"permission": "notes.edit"}]}
        value_of(await desk.execute("roles.define", clerk, actor=SYSTEM))
        value_of(
            await desk.execute(
                "roles.assign", {"actor_type": "human", "actor_id": "clerk", "role": "clerk"}, actor=SYSTEM
            )
        )
        value_of(await desk.execute("notes.edit", {"id": "n1"}))
        needed = error_of(await desk.execute("payments.pay", {"amount": 5000}), ErrorCode.APPROVAL_REQUIRED)
        approval = {"approval_id": needed.details["approval_id"]}

        error_of(await desk.execute("notes.edit", {"id": "n1"}, tenant=other), ErrorCode.FORBIDDEN)
        assert value_of(await desk.execute("notes.read", {"id": "n1"}, tenant=other)) is None
        assert value_of(await desk.execute("roles.list", {}, actor=SYSTEM, tenant=other)) == ()
        assert value_of(await desk.execute("approvals.list", {}, actor=MANAGER, tenant=other)).items == ()
        for action in ("approvals.get", "approvals.approve", "approvals.reject", "approvals.cancel"):
            for actor in (MANAGER, CLERK):
                error_of(await desk.execute(action, approval, actor=actor, tenant=other), ErrorCode.NOT_FOUND)

        assert {entry.action for entry in await desk.log(tenant=other)} <= {
            "notes.edit",
            "notes.read",
            "roles.list",
            "action_log.list",
            "approvals.list",
            "approvals.get",
            "approvals.approve",
            "approvals.reject",
            "approvals.cancel",
        }
        assert await desk.event_types(other) == []
        value_of(await desk.execute("approvals.approve", approval, actor=MANAGER))
