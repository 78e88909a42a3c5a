"""Tenants: creation, look-up, deletion and isolation."""

from __future__ import annotations

from uuid import uuid4

import pytest
from returns.result import Success

from actionengine.context import Tenant
from actionengine.engine import Engine
from actionengine.errors import ErrorCode
from actionengine.storage.records import APPROVALS, ROLES
from actionengine.storage.rows import CLAIMED, Claim, LogQuery, Recording
from actionengine.testing.backend import Backend, run_in_mode
from actionengine.testing.base import Conformance, error_of, raises_action_error, value_of
from actionengine.testing.harness import SYSTEM
from actionengine.testing.rows import event_row, log_row, result
from actionengine.testing.sample import CLERK, MANAGER, SampleHarness


def make_slug() -> str:
    """Return a new slug."""
    return f"t-{uuid4().hex}"


async def resolve(backend: Backend, engine: Engine, slug: str) -> Tenant:
    """Return the tenant of a slug, as a host finds it."""
    found = engine.resolve_tenant(slug) if backend.mode == "sync" else await engine.resolve_tenant_async(slug)
    tenant: Tenant = value_of(found)
    return tenant


class TenantConformance(Conformance):
    """Many tenants on one storage."""

    @run_in_mode
    async def test_a_tenant_is_found_by_its_slug(self, backend: Backend) -> None:
        slug = make_slug()
        made = await backend.create_tenant(slug=slug, name="Grüße & Söhne")

        assert made.slug == slug
        assert await backend.storage.find_tenant(slug, backend.mode) == made
        assert await resolve(backend, SampleHarness(backend).engine, slug) == made
        assert await backend.storage.find_tenant(slug.upper(), backend.mode) is None
        assert await backend.storage.find_tenant(make_slug(), backend.mode) is None

    @run_in_mode
    async def test_a_tenant_is_found_by_its_id(self, backend: Backend) -> None:
        made, other = [await backend.create_tenant(slug=make_slug(), name="x") for _ in range(2)]

        assert await backend.storage.find_tenant_by_id(made.id, backend.mode) == made
        assert await backend.storage.find_tenant_by_id(uuid4(), backend.mode) is None

        assert await backend.delete_tenant(slug=made.slug)
        assert await backend.storage.find_tenant_by_id(made.id, backend.mode) is None
        assert await backend.storage.find_tenant_by_id(other.id, backend.mode) == other

    @run_in_mode
    async def test_tenants_are_listed_by_slug(self, backend: Backend) -> None:
        slugs = [make_slug() for _ in range(5)]
        made = [await backend.create_tenant(slug=slug, name=slug) for slug in slugs]

        listed = [tenant for tenant in await backend.list_tenants() if tenant.slug in slugs]

        assert listed == sorted(made, key=lambda tenant: tenant.slug)
        assert len({tenant.id for tenant in listed}) == 5

    @run_in_mode
    async def test_tenants_are_listed_in_pages(self, backend: Backend) -> None:
        slugs = [f"{make_slug()}-{number}" for number in range(5)]
        for slug in slugs:
            await backend.create_tenant(slug=slug, name=slug)
        await backend.delete_tenant(slug=slugs[2])

        everybody = [tenant.slug for tenant in await backend.list_tenants()]
        paged: list[str] = []
        while page := await backend.list_tenants(after=paged[-1] if paged else None, limit=max(2, len(everybody) // 3)):
            paged += [tenant.slug for tenant in page]
        # Other tests create tenants too.
        assert [slug for slug in paged if slug in slugs] == sorted({*slugs} - {slugs[2]})
        with raises_action_error(ErrorCode.INVALID_INPUT):
            await backend.list_tenants(limit=0)

    @run_in_mode
    async def test_a_taken_slug_is_a_conflict(self, backend: Backend) -> None:
        slug = make_slug()
        made = await backend.create_tenant(slug=slug, name="First")

        with raises_action_error(ErrorCode.CONFLICT):
            await backend.create_tenant(slug=slug, name="Second")

        assert await backend.storage.find_tenant(slug, backend.mode) == made

    @pytest.mark.parametrize(
        "slug", ["", " ", "Acme", "ac me", "acme_1", "acmé", "-acme", "acme-", "acme\n", "a.b", "a/b", "x" * 64, "١٢"]
    )
    @run_in_mode
    async def test_a_slug_is_lower_case_letters_digits_and_inner_hyphens(self, backend: Backend, slug: str) -> None:
        with raises_action_error(ErrorCode.INVALID_INPUT):
            await backend.create_tenant(slug=slug, name="Acme")

        assert slug not in [tenant.slug for tenant in await backend.list_tenants()]

    @run_in_mode
    async def test_a_slug_has_up_to_63_characters(self, backend: Backend) -> None:
        slug = f"{make_slug()}-{'x' * 63}"[:63]

        assert (await backend.create_tenant(slug=slug, name="Long")).slug == slug

    @run_in_mode
    async def test_a_tenant_needs_a_name(self, backend: Backend) -> None:
        with raises_action_error(ErrorCode.INVALID_INPUT):
            await backend.create_tenant(slug=make_slug(), name=" ")

    @run_in_mode
    async def test_of_many_who_want_a_slug_one_gets_it(self, backend: Backend) -> None:
        slug = make_slug()

        async def make() -> bool:
            try:
                await backend.create_tenant(slug=slug, name="Acme")
            except Exception:
                with raises_action_error(ErrorCode.CONFLICT):
                    await backend.create_tenant(slug=slug, name="Acme")
                return False
            return True

        assert sum(await backend.gather(*(make() for _ in range(8)))) == 1

    # Deletion

    @run_in_mode
    async def test_a_deleted_tenant_is_gone_and_its_slug_stays_taken(self, backend: Backend) -> None:
        slug = make_slug()
        made = await backend.create_tenant(slug=slug, name="Acme")

        assert await backend.delete_tenant(slug=slug)

        assert not await backend.delete_tenant(slug=slug)
        assert not await backend.delete_tenant(slug=make_slug())
        assert await backend.storage.find_tenant(slug, backend.mode) is None
        assert made not in await backend.list_tenants()
        with raises_action_error(ErrorCode.CONFLICT):
            await backend.create_tenant(slug=slug, name="Acme again")

    @run_in_mode
    async def test_nothing_is_executed_for_a_deleted_tenant(self, backend: Backend) -> None:
        slug = make_slug()
        tenant, other = await backend.create_tenant(slug=slug, name="Acme"), backend.other_tenant
        harness = SampleHarness(backend)
        value_of(await harness.execute("notes.put", {"id": "n1"}, tenant=tenant))

        await backend.delete_tenant(slug=slug)

        error_of(await harness.execute("notes.put", {"id": "n2"}, tenant=tenant), ErrorCode.NOT_FOUND)
        error_of(await harness.execute("notes.put", {"id": "n2"}, tenant=tenant, key="key"), ErrorCode.NOT_FOUND)
        error_of(await harness.execute("notes.read", {"id": "n1"}, tenant=tenant), ErrorCode.NOT_FOUND)
        value_of(await harness.execute("notes.put", {"id": "n1"}, tenant=other))

    @run_in_mode
    async def test_deleting_a_tenant_in_use_leaves_nothing_half_done(self, backend: Backend) -> None:
        slug = make_slug()
        tenant = await backend.create_tenant(slug=slug, name="Acme")
        harness = SampleHarness(backend)

        async def work() -> list[str]:
            answers = [await harness.execute("notes.put", {"id": f"n{number}"}, tenant=tenant) for number in range(30)]
            return ["done" if isinstance(answer, Success) else answer.failure().code for answer in answers]

        async def delete() -> list[str]:
            await backend.sleep(0.005)
            await backend.delete_tenant(slug=slug)
            return []

        told, _ = await backend.gather(work(), delete())

        done = told.count("done")
        assert told == ["done"] * done + ["not_found"] * (30 - done)
        assert len(await backend.read_events(tenant)) in {0, done}

    # Isolation

    @run_in_mode
    async def test_tenants_do_not_see_each_others_documents(self, backend: Backend) -> None:
        await backend.put("notes", "n1", {"of": "one"})
        await backend.put("notes", "n1", {"of": "other"}, backend.other_tenant)
        await backend.put("notes", "n2", {"of": "other"}, backend.other_tenant)

        async with backend.writing() as unit:
            notes = unit.records("notes")
            assert [record.data for record in await notes.list()] == [{"of": "one"}]
            assert await notes.get("n2") is None
            with raises_action_error(ErrorCode.NOT_FOUND):
                await notes.update("n2", {"of": "one"}, 1)
            with raises_action_error(ErrorCode.NOT_FOUND):
                await notes.delete("n2", 1)
            await notes.delete("n1", 1)

        found = await backend.get("notes", "n1", backend.other_tenant)
        assert found is not None
        assert found.data == {"of": "other"}

    @run_in_mode
    async def test_a_tenant_is_its_id_whatever_its_slug_is(self, backend: Backend) -> None:
        mine = Tenant(uuid4(), make_slug())
        renamed, namesake = Tenant(mine.id, make_slug()), Tenant(uuid4(), mine.slug)
        claim = Claim("notes.put", "key", "a" * 64)
        async with backend.writing(mine) as unit:
            await unit.records("notes").insert({"of": "mine"}, "n1")
            await unit.claim(claim, 0.0)
            await unit.record(Recording((log_row(mine),), (event_row(mine),), (result(claim),)))

        for tenant, number in ((renamed, 1), (namesake, 0)):
            assert len(await backend.ids("notes", tenant)) == number
            assert len(await backend.read_events(tenant)) == number
            async with backend.writing(tenant) as unit:
                assert len(await unit.read_log(LogQuery())) == number
                assert (await unit.claim(claim, 0.0)).status == ("replay" if number else "claimed")

    @run_in_mode
    async def test_tenants_do_not_see_each_others_keys_log_and_events(self, backend: Backend) -> None:
        claim = Claim("notes.put", "key", "a" * 64)
        async with backend.writing() as unit:
            await unit.claim(claim, 0.0)
            row, event = log_row(backend.tenant), event_row(backend.tenant)
            await unit.record(Recording((row,), (event,), (result(claim),)))

        async with backend.writing(backend.other_tenant) as unit:
            assert await unit.claim(claim._replace(fingerprint="b" * 64), 0.0) == CLAIMED
            assert list(await unit.read_log(LogQuery())) == []
            assert list(await unit.read_log(LogQuery(subject=row.subjects[0], action=row.action))) == []
            assert list(await unit.read_log(LogQuery(principal=row.on_behalf_of[0]))) == []
            await unit.record(Recording((), (), (result(claim._replace(fingerprint="b" * 64)),)))
        assert list(await backend.read_events(backend.other_tenant)) == []
        assert [stored.event.id for stored in await backend.read_events(backend.tenant)] == [event.id]

    @run_in_mode
    async def test_the_librarys_own_collections_are_apart_too(self, backend: Backend) -> None:
        for collection in (ROLES, APPROVALS):
            await backend.put(collection, "x", {"of": "one"})

            assert await backend.get(collection, "x", backend.other_tenant) is None
            assert await backend.ids(collection, backend.other_tenant) == []

    @run_in_mode
    async def test_what_one_tenant_does_is_nothing_to_another(self, backend: Backend) -> None:
        harness, other = SampleHarness(backend), backend.other_tenant
        clerk = {"name": "clerk", "allow": [{"permission": "notes.edit"}]}
        value_of(await harness.execute("roles.define", clerk, actor=SYSTEM))
        value_of(
            await harness.execute(
                "roles.assign", {"actor_type": "human", "actor_id": "clerk", "role": "clerk"}, actor=SYSTEM
            )
        )
        value_of(await harness.execute("notes.edit", {"id": "n1"}))
        needed = error_of(await harness.execute("payments.pay", {"amount": 5000}), ErrorCode.APPROVAL_REQUIRED)
        approval = {"approval_id": needed.details["approval_id"]}

        error_of(await harness.execute("notes.edit", {"id": "n1"}, tenant=other), ErrorCode.FORBIDDEN)
        assert value_of(await harness.execute("notes.read", {"id": "n1"}, tenant=other)) is None
        assert value_of(await harness.execute("roles.list", {}, actor=SYSTEM, tenant=other)) == ()
        assert value_of(await harness.execute("approvals.list", {}, actor=MANAGER, tenant=other)).items == ()
        for action in ("approvals.get", "approvals.approve", "approvals.reject", "approvals.cancel"):
            for actor in (MANAGER, CLERK):
                error_of(await harness.execute(action, approval, actor=actor, tenant=other), ErrorCode.NOT_FOUND)

        assert {entry.action for entry in await harness.log(tenant=other)} <= {
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
        assert await harness.event_types(other) == []
        value_of(await harness.execute("approvals.approve", approval, actor=MANAGER))
