"""Threads that transfer between accounts and often give up: no balance is lost, and nothing stays held."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from actionengine import ActionError, InMemoryStorage, Tenant
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.memory.unit_of_work import MemoryUnitOfWork
from actionengine.storage.rows import Claim, Recording
from actionengine.testing.base import is_conflict
from actionengine.testing.rows import event_row, result
from tests.storage.inside import data_of, nothing_is_held, unit_of

ACCOUNTS = [f"account {number}" for number in range(12)]
TOTAL = 100 * len(ACCOUNTS)


class Hammer:
    """Transfers between accounts by any number of threads. Many are given up halfway."""

    def __init__(self, storage: InMemoryStorage, tenant: Tenant) -> None:
        self.storage = storage
        self.tenant = tenant
        unit = self.unit()
        for account in ACCOUNTS:
            run_sync(unit.records("accounts").insert({"balance": 100}, account))
        run_sync(unit.commit())

    def unit(self) -> MemoryUnitOfWork:
        return unit_of(self.storage, self.tenant)

    def work(self, seed: int, rounds: int) -> int:
        dice = random.Random(seed)
        committed = 0
        for number in range(rounds):
            unit = self.unit()
            try:
                committed += self.transfer(unit, dice, f"{seed} {number}")
            except ActionError as refusal:
                if not is_conflict(refusal):
                    raise
            finally:
                run_sync(unit.rollback())
            if number % 4 == 0:
                assert self.total() == TOTAL
        return committed

    def transfer(self, unit: MemoryUnitOfWork, dice: random.Random, key: str) -> bool:
        accounts = unit.records("accounts")
        claim = Claim("accounts.transfer", key, "print")
        assert run_sync(unit.claim(claim, 0.0)).status == "claimed"
        amount = dice.randint(1, 9)
        for account, change in zip(dice.sample(ACCOUNTS, 2), (-amount, amount), strict=True):
            found = run_sync(accounts.get(account))
            if found is None:
                return False
            savepoint = run_sync(unit.savepoint())
            balance = {"balance": found.data["balance"] + change}
            if dice.random() < 0.3:
                run_sync(accounts.delete(account, found.version))
                if dice.random() < 0.5:
                    run_sync(unit.rollback_to(savepoint))
                    run_sync(accounts.update(account, balance, found.version))
                else:
                    run_sync(accounts.insert(balance, account))
            else:
                run_sync(accounts.update(account, balance, found.version))
        if dice.random() < 0.3:
            return False
        run_sync(unit.record(Recording((), (event_row(self.tenant),), (result(claim),))))
        run_sync(unit.commit())
        return True

    def total(self) -> int:
        unit = self.unit()
        try:
            found = [run_sync(unit.records("accounts").get(account)) for account in ACCOUNTS]
            listed = run_sync(unit.records("accounts").list())
            assert {record.id: record for record in listed} == {record.id: record for record in found if record}
            return sum(record.data["balance"] for record in listed)
        finally:
            run_sync(unit.rollback())


def hammer(storage: InMemoryStorage, tenant: Tenant, rounds: int) -> None:
    hammered = Hammer(storage, tenant)

    with ThreadPoolExecutor(16) as threads:
        committed = sum(threads.map(lambda seed: hammered.work(seed, rounds), range(16)))

    assert hammered.total() == TOTAL
    unit = hammered.unit()
    for account in ACCOUNTS:
        found = run_sync(unit.records("accounts").get(account))
        assert found is not None
        run_sync(unit.records("accounts").update(account, found.data, found.version))
    run_sync(unit.commit())
    data = data_of(storage, tenant)
    assert nothing_is_held(data)
    assert data.tombstones == []
    assert set(data.collections["accounts"]) == set(ACCOUNTS)
    assert all(version.previous is None for version in data.collections["accounts"].values())
    positions = [stored.position for stored in storage.read_events(tenant, limit=1000)]
    assert all(second == first + 1 for first, second in pairwise(positions))
    assert len(data.events) == len(data.claims) == committed


@pytest.mark.usefixtures("hasty_threads")
def test_16_threads_that_often_give_up_keep_every_balance(storage: InMemoryStorage, tenant: Tenant) -> None:
    hammer(storage, tenant, rounds=30)


@pytest.mark.soak
@pytest.mark.usefixtures("hasty_threads")
def test_16_threads_that_often_give_up_keep_balances_for_long(storage: InMemoryStorage, tenant: Tenant) -> None:
    hammer(storage, tenant, rounds=3000)
