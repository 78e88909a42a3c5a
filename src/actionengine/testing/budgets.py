"""Budgets: counters that no number of units of work exceeds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from actionengine.context import Tenant
from actionengine.errors import ErrorCode
from actionengine.storage.counters import MAX_LIMIT, ONE, Counter, Reservation
from actionengine.testing.backend import Backend, run_in_mode
from actionengine.testing.base import Conformance, raises_action_error

CALLS = Reservation("calls", "human:ann", ONE, 3 * ONE, timedelta(hours=1))
MONEY = Reservation("money", "human:ann", ONE // 10, ONE, timedelta(hours=1))
INSTANT = timedelta(microseconds=1)
"""A window that is over before the next reservation."""


async def reserve(backend: Backend, *reservations: Reservation, tenant: Tenant | None = None) -> Sequence[Reservation]:
    """Reserve and commit, or roll back if one has no room. Return those without room."""
    unit = backend.unit(tenant)
    try:
        full = await unit.reserve(reservations)
        if not full:
            await unit.commit()
        return full
    finally:
        await unit.rollback()


async def counter(backend: Backend, of: Reservation = CALLS, tenant: Tenant | None = None) -> Counter | None:
    """Return a counter as a new unit of work sees it."""
    async with backend.reading(tenant) as unit:
        (found,) = await unit.read_counters([of[:2]])
    return found


async def used(backend: Backend, of: Reservation = CALLS, tenant: Tenant | None = None) -> int:
    """Return the amount of a counter."""
    found = await counter(backend, of, tenant)
    return found.used if found is not None else 0


async def purge_all(backend: Backend) -> None:
    """Purge everything that has expired."""
    while await backend.purge_expired_keys():
        pass


class BudgetConformance(Conformance):
    """Reservations, and the counters that they add to."""

    @run_in_mode
    async def test_a_counter_takes_amounts_up_to_its_limit(self, backend: Backend) -> None:
        answers = [list(await reserve(backend, CALLS)) for _ in range(4)]

        assert answers == [[], [], [], [CALLS]]
        assert await used(backend) == 3 * ONE

    @run_in_mode
    async def test_a_reservation_without_room_names_itself(self, backend: Backend) -> None:
        for _ in range(3):
            await reserve(backend, CALLS)

        assert list(await reserve(backend, CALLS, MONEY)) == [CALLS]
        assert await used(backend, MONEY) == 0

    @run_in_mode
    async def test_decimals_add_up_exactly(self, backend: Backend) -> None:
        for _ in range(10):
            assert not await reserve(backend, MONEY)

        assert list(await reserve(backend, MONEY._replace(amount=1))) == [MONEY._replace(amount=1)]
        assert await used(backend, MONEY) == ONE

    @run_in_mode
    async def test_the_largest_amounts_are_exact(self, backend: Backend) -> None:
        most = MAX_LIMIT * ONE
        large = CALLS._replace(amount=most - 1, limit=most)

        assert not await reserve(backend, large)
        assert list(await reserve(backend, large._replace(amount=2)))
        assert not await reserve(backend, large._replace(amount=1))
        assert await used(backend) == most

    @run_in_mode
    async def test_a_rollback_gives_amounts_back(self, backend: Backend) -> None:
        unit = backend.unit()
        assert not await unit.reserve([CALLS._replace(amount=3 * ONE)])
        await unit.rollback()

        assert await counter(backend) is None
        assert not await reserve(backend, CALLS._replace(amount=3 * ONE))

    @run_in_mode
    async def test_a_savepoint_gives_amounts_back(self, backend: Backend) -> None:
        async with backend.writing() as unit:
            assert not await unit.reserve([CALLS])
            savepoint = await unit.savepoint()
            assert not await unit.reserve([CALLS, MONEY])
            await unit.rollback_to(savepoint)
            savepoint = await unit.savepoint()
            assert not await unit.reserve([CALLS])
            await unit.release(savepoint)

        assert await used(backend) == 2 * ONE
        assert await used(backend, MONEY) == 0

    @run_in_mode
    async def test_a_refused_reservation_can_be_undone_alone(self, backend: Backend) -> None:
        await reserve(backend, CALLS._replace(amount=3 * ONE))
        async with backend.writing() as unit:
            savepoint = await unit.savepoint()
            assert await unit.reserve([CALLS, MONEY])
            await unit.rollback_to(savepoint)
            assert not await unit.reserve([MONEY])

        assert await used(backend, MONEY) == MONEY.amount

    @run_in_mode
    async def test_amounts_are_seen_by_others_after_the_commit(self, backend: Backend) -> None:
        unit = backend.unit()
        await unit.reserve([CALLS])
        (own,) = await unit.read_counters([CALLS[:2]])
        assert own is not None
        assert own.used == ONE
        assert await counter(backend) is None

        await unit.commit()

        assert await used(backend) == ONE

    @run_in_mode
    async def test_an_announced_reservation_is_made_once(self, backend: Backend) -> None:
        async with backend.writing() as unit:
            unit.announce([CALLS, MONEY])
            assert not await unit.reserve([CALLS, MONEY])
            assert not await unit.reserve([CALLS])

        assert await used(backend) == 2 * ONE
        assert await used(backend, MONEY) == MONEY.amount

    @run_in_mode
    async def test_tenants_and_scopes_have_counters_of_their_own(self, backend: Backend) -> None:
        for _ in range(3):
            await reserve(backend, CALLS)

        assert not await reserve(backend, CALLS, tenant=backend.other_tenant)
        assert not await reserve(backend, CALLS._replace(scope="human:bob"))
        assert not await reserve(backend, CALLS._replace(budget="other calls"))
        assert [await used(backend, tenant=each) for each in (backend.tenant, backend.other_tenant)] == [3 * ONE, ONE]

    @run_in_mode
    async def test_a_new_window_begins_after_the_end_of_one(self, backend: Backend) -> None:
        assert not await reserve(backend, CALLS._replace(amount=3 * ONE, window=INSTANT))
        await backend.sleep(0.001)

        assert not await reserve(backend, CALLS)
        assert await used(backend) == ONE

    @run_in_mode
    async def test_a_window_ends_its_length_after_its_first_amount(self, backend: Backend) -> None:
        async with backend.writing() as unit:
            await unit.reserve([CALLS])
            now = await unit.now()
        first = await counter(backend)
        await reserve(backend, CALLS)
        second = await counter(backend)

        assert first is not None
        assert second is not None
        assert abs(first.expires_at - now - CALLS.window) < timedelta(seconds=5)
        assert second.expires_at == first.expires_at

    @run_in_mode
    async def test_units_of_work_never_exceed_a_limit_together(self, backend: Backend) -> None:
        answers = await backend.gather(*(reserve(backend, CALLS, MONEY) for _ in range(8)))

        assert sorted(map(len, answers)) == [0, 0, 0, 1, 1, 1, 1, 1]
        assert await used(backend) == 3 * ONE
        assert await used(backend, MONEY) == 3 * MONEY.amount

    @run_in_mode
    async def test_a_unit_of_work_waits_for_what_another_may_give_back(self, backend: Backend) -> None:
        reserved, all_of_it = backend.event(), CALLS._replace(amount=3 * ONE)

        async def give_back() -> Sequence[Reservation]:
            unit = backend.unit()
            full = await unit.reserve([all_of_it])
            reserved.set()
            await backend.sleep(0.05)
            await unit.rollback()
            return full

        async def wait() -> Sequence[Reservation]:
            await reserved.wait()
            return await reserve(backend, all_of_it)

        assert not any(await backend.gather(give_back(), wait()))
        assert await used(backend) == 3 * ONE

    @run_in_mode
    async def test_counters_are_purged_after_their_window_only(self, backend: Backend) -> None:
        await purge_all(backend)
        for number in range(3):
            await reserve(backend, CALLS._replace(scope=f"human:{number}", window=INSTANT))
        await reserve(backend, CALLS)
        await backend.sleep(0.001)

        assert [await backend.purge_expired_keys(limit=2) for _ in range(3)] == [2, 1, 0]
        assert await used(backend) == ONE
        assert await counter(backend, CALLS._replace(scope="human:0")) is None

    @run_in_mode
    async def test_a_purge_spares_a_counter_that_has_begun_anew(self, backend: Backend) -> None:
        await purge_all(backend)
        await reserve(backend, CALLS._replace(window=INSTANT))
        await backend.sleep(0.001)
        await reserve(backend, CALLS)

        assert await backend.purge_expired_keys() == 0
        assert await used(backend) == ONE

    @run_in_mode
    async def test_a_read_only_unit_of_work_reserves_nothing(self, backend: Backend) -> None:
        async with backend.reading() as unit:
            with raises_action_error(ErrorCode.INTERNAL):
                await unit.reserve([CALLS])
