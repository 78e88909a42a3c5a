"""`InMemoryStorage`: the suite that every storage passes, and what only this one promises."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from typing import Any

import pytest
from returns.result import Result, Success

from actionengine import (
    ActionContext,
    ActionException,
    Actor,
    ErrorCode,
    InMemoryStorage,
    Limits,
    RequestContext,
    StorageError,
    Tenant,
    create_action,
    create_engine,
    create_service,
)
from actionengine.driving import drive
from actionengine.storage.memory import Held, MemoryUnitOfWork, TenantData
from actionengine.storage.port import APPROVALS, Claim, Mode, Recording
from actionengine.testing import AsyncWorld, StorageConformance, SyncWorld, World
from actionengine.testing.approvals import LARGE, decided, requested
from actionengine.testing.base import error_of, lost, refused, value_of
from actionengine.testing.desk import Answer, Desk
from actionengine.testing.rows import event_row, result
from tests.storage.suspending import SuspendingStorage


class TestInMemoryStorage(StorageConformance):
    @pytest.fixture
    def storage(self) -> InMemoryStorage:
        return InMemoryStorage()


class TestSuspendingStorage(StorageConformance):
    """The suite again where tasks take turns in the middle of each transaction."""

    @pytest.fixture
    def storage(self) -> InMemoryStorage:
        return SuspendingStorage()

    @pytest.fixture
    def world(self, storage: InMemoryStorage) -> Iterator[World]:
        world = AsyncWorld(storage)
        yield world
        world.close()


@pytest.fixture
def storage() -> InMemoryStorage:
    return InMemoryStorage()


@pytest.fixture
def tenant(storage: InMemoryStorage) -> Tenant:
    return storage.create_tenant(slug="acme", name="Acme")


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads take turns far more often than they usually do."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def data_of(storage: InMemoryStorage, tenant: Tenant) -> TenantData:
    return storage._tenant_data(tenant.id)


def nothing_is_held(data: TenantData) -> bool:
    held = [key for key, entry in data.claims.items() if isinstance(entry, Held)]
    assert (data.locks, data.snapshots, held) == ({}, {}, [])
    return True


def unit_of(storage: InMemoryStorage, tenant: Tenant) -> MemoryUnitOfWork:
    return storage.unit_of_work(tenant, "action", "sync")


def write(storage: InMemoryStorage, tenant: Tenant, *changes: Callable[[MemoryUnitOfWork], Any]) -> None:
    unit = unit_of(storage, tenant)
    for change in changes:
        drive(change(unit))
    drive(unit.commit())


def insert(id: str) -> Callable[[MemoryUnitOfWork], Any]:
    return lambda unit: unit.records("notes").insert({}, id)


def update(id: str, version: int) -> Callable[[MemoryUnitOfWork], Any]:
    return lambda unit: unit.records("notes").update(id, {}, version)


def delete(id: str, version: int) -> Callable[[MemoryUnitOfWork], Any]:
    return lambda unit: unit.records("notes").delete(id, version)


def versions_of(data: TenantData, id: str) -> int:
    version, number = data.collections["notes"].get(id), 0
    while version is not None:
        version, number = version.previous, number + 1
    return number


# Versions and tombstones


def test_without_readers_a_document_has_one_version(storage: InMemoryStorage, tenant: Tenant) -> None:
    write(storage, tenant, insert("n1"))
    for version in range(1, 50):
        write(storage, tenant, update("n1", version))

    assert versions_of(data_of(storage, tenant), "n1") == 1


def test_versions_live_as_long_as_somebody_may_read_them(storage: InMemoryStorage, tenant: Tenant) -> None:
    write(storage, tenant, insert("n1"))
    first, second = unit_of(storage, tenant), unit_of(storage, tenant)
    assert drive(first.records("notes").get("n1"))
    write(storage, tenant, update("n1", 1))
    write(storage, tenant, update("n1", 2))
    read_by_second = drive(second.records("notes").get("n1"))
    write(storage, tenant, update("n1", 3))

    assert drive(first.records("notes").get("n1")).version == 1  # type: ignore[union-attr]
    drive(first.rollback())
    write(storage, tenant, update("n1", 4))
    assert drive(second.records("notes").get("n1")) == read_by_second
    assert versions_of(data_of(storage, tenant), "n1") == 3
    drive(second.commit())
    write(storage, tenant, update("n1", 5))

    assert versions_of(data_of(storage, tenant), "n1") == 1


def test_deleted_documents_leave_nothing_behind(storage: InMemoryStorage, tenant: Tenant) -> None:
    for number in range(20):
        write(storage, tenant, insert(f"n{number}"))
        write(storage, tenant, delete(f"n{number}", 1))
    write(storage, tenant, insert("fleeting"), delete("fleeting", 1))

    data = data_of(storage, tenant)
    assert (data.collections["notes"], data.tombstones) == ({}, [])


def test_tombstones_are_swept_after_the_last_reader(storage: InMemoryStorage, tenant: Tenant) -> None:
    write(storage, tenant, insert("n1"), insert("n2"))
    reader = unit_of(storage, tenant)
    drive(reader.records("notes").list())
    write(storage, tenant, delete("n1", 1))
    write(storage, tenant, delete("n2", 1))
    write(storage, tenant, insert("n2"))
    assert [record.id for record in drive(reader.records("notes").list())] == ["n1", "n2"]
    drive(reader.rollback())

    write(storage, tenant, insert("n3"))

    data = data_of(storage, tenant)
    assert (sorted(data.collections["notes"]), data.tombstones) == (["n2", "n3"], [])
    assert drive(unit_of(storage, tenant).records("notes").get("n2"))


# Snapshot isolation


def test_a_unit_reads_the_same_again_whatever_others_commit(storage: InMemoryStorage, tenant: Tenant) -> None:
    write(storage, tenant, insert("changed"), insert("deleted"))
    reader = unit_of(storage, tenant)
    before = drive(reader.records("notes").list())

    write(storage, tenant, update("changed", 1), delete("deleted", 1), insert("inserted"))

    assert drive(reader.records("notes").list()) == before
    assert drive(reader.records("notes").get("deleted"))
    assert drive(reader.records("notes").get("inserted")) is None


@pytest.mark.parametrize(
    ("elsewhere", "here"),
    [
        pytest.param([update("n1", 1)], update("n1", 1), id="update of the version that was read"),
        pytest.param([update("n1", 1)], update("n1", 2), id="update of a version that was not read"),
        pytest.param([delete("n1", 1)], update("n1", 1), id="update of what was deleted"),
        pytest.param([delete("n1", 1), insert("n1")], update("n1", 1), id="update of what was replaced"),
        pytest.param([delete("n1", 1), insert("n1")], delete("n1", 1), id="deletion of what was replaced"),
        pytest.param([insert("n2")], insert("n2"), id="insertion of what was inserted"),
        pytest.param([insert("n2")], update("n2", 1), id="update of what was inserted"),
        pytest.param([insert("n2"), delete("n2", 1)], insert("n2"), id="insertion of what came and went"),
    ],
)
def test_the_first_writer_wins(
    storage: InMemoryStorage,
    tenant: Tenant,
    elsewhere: list[Callable[[MemoryUnitOfWork], Any]],
    here: Callable[[MemoryUnitOfWork], Any],
) -> None:
    write(storage, tenant, insert("n1"))
    unit = unit_of(storage, tenant)
    drive(unit.records("notes").list())
    for change in elsewhere:
        write(storage, tenant, change)

    with refused(ErrorCode.CONFLICT):
        drive(here(unit))


def test_a_document_that_another_unit_changes_is_a_conflict_at_once(storage: InMemoryStorage, tenant: Tenant) -> None:
    write(storage, tenant, insert("n1"))
    first, second = unit_of(storage, tenant), unit_of(storage, tenant)
    drive(update("n1", 1)(first))

    with refused(ErrorCode.CONFLICT):
        drive(update("n1", 1)(second))
    drive(first.rollback())

    drive(update("n1", 1)(second))
    drive(second.commit())


def test_event_positions_have_no_gaps(storage: InMemoryStorage, tenant: Tenant) -> None:
    def emit(number: int) -> None:
        unit = unit_of(storage, tenant)
        drive(unit.record(Recording((), (event_row(tenant), event_row(tenant)))))
        drive(unit.rollback() if number % 3 == 0 else unit.commit())

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(emit, range(60)))

    assert [stored.position for stored in storage.read_events(tenant)] == list(range(1, 81))
    assert list(data_of(storage, tenant).outbox) == list(range(1, 81))


# Nothing is left held


@pytest.fixture(params=[SyncWorld, AsyncWorld], ids=["sync", "async"])
def world(request: pytest.FixtureRequest, storage: InMemoryStorage) -> Iterator[World]:
    world: World = request.param(storage)
    yield world
    world.close()


@pytest.mark.parametrize(
    "action",
    [
        "put",
        "read",
        "write_after_all",
        "fail",
        "crash",
        "put_around_failures",
        "put_and_fail",
        "tell",
        "edit",
        "absent",
    ],
)
def test_no_execution_leaves_anything_held(world: World, storage: InMemoryStorage, action: str) -> None:
    desk = Desk(world)

    for _ in range(2):
        world.run(desk.execute(f"notes.{action}", {"id": "n1", "types": ["t"]}, key="key"))

    assert nothing_is_held(data_of(storage, world.tenant))


@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_no_approval_leaves_anything_held(world: World, storage: InMemoryStorage, decision: str) -> None:
    desk = Desk(world)
    approval_id = world.run(requested(desk, key="key"))

    for _ in range(2):
        world.run(decided(desk, decision, approval_id))
        world.run(desk.execute("payments.pay", LARGE, key="key"))

    assert nothing_is_held(data_of(storage, world.tenant))


def test_waiting_in_vain_leaves_nothing_held(world: World, storage: InMemoryStorage) -> None:
    desk = Desk(world, Limits(idempotency_wait=0.02))
    holder = world.unit()
    world.run(holder.claim(Claim("notes.put", "key", "print"), 0.0))

    error_of(world.run(desk.execute("notes.put", {}, key="key")), ErrorCode.IDEMPOTENCY_IN_PROGRESS)
    world.run(holder.rollback())

    assert nothing_is_held(data_of(storage, world.tenant))
    value_of(world.run(desk.execute("notes.put", {}, key="key")))


def test_a_handler_that_outlasts_its_time_leaves_nothing_and_can_write_nothing(
    world: World, storage: InMemoryStorage
) -> None:
    late, ended = threading.Event(), threading.Event()
    refusals: list[type[BaseException]] = []

    def dawdle(data: Any, ctx: ActionContext) -> Result[None, Any]:
        notes = ctx.records("notes")
        notes.insert({}, "in time")
        late.wait(10)
        for use in (
            lambda: notes.insert({}, "late"),
            lambda: notes.get("in time"),
            lambda: notes.list(),
            lambda: ctx.records("notes"),
            lambda: ctx.emit("late"),
            lambda: ctx.execute("notes", "dawdle"),
        ):
            try:
                use()
            except BaseException as error:
                refusals.append(type(error))
        ended.set()
        return Success(None)

    service = create_service(
        name="notes",
        description="Notes",
        actions=[create_action(name="dawdle", description="Take too long", handler=dawdle, timeout=0.02)],
    )
    engine = create_engine(services=[service], storage=storage)
    context = RequestContext(world.tenant, Actor.human("x"), idempotency_key="key")

    error_of(world.run(world.execute(engine, "notes", "dawdle", None, context)), ErrorCode.TIMEOUT)
    late.set()
    assert ended.wait(10)

    assert refusals == [StorageError] * 6
    assert world.run(world.ids("notes")) == []
    assert list(storage.read_events(world.tenant)) == []
    assert [row.outcome for row in data_of(storage, world.tenant).log] == ["failed"]
    assert nothing_is_held(data_of(storage, world.tenant))


class LateStorage(InMemoryStorage):
    """Opens nothing in another thread than the main one until it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_open = threading.Event()

    def unit_of_work(self, tenant: Tenant, action_id: str, mode: Mode, read_only: bool = False) -> MemoryUnitOfWork:
        if threading.current_thread() is not threading.main_thread():
            self.may_open.wait(10)
        return super().unit_of_work(tenant, action_id, mode, read_only)


@pytest.mark.parametrize("kind", [SyncWorld, AsyncWorld])
def test_a_handler_that_reaches_the_storage_when_its_time_is_up_leaves_nothing(kind: Callable[..., World]) -> None:
    storage, ended = LateStorage(), threading.Event()

    def dawdle(data: Any, ctx: ActionContext) -> Result[None, Any]:
        try:
            ctx.records("notes").insert({}, "late")
        finally:
            ended.set()
        return Success(None)

    action = create_action(name="dawdle", description="Be slow to write", handler=dawdle, timeout=0.02)
    engine = create_engine(services=[create_service(name="n", description="N", actions=[action])], storage=storage)

    with closing(kind(storage)) as world:
        context = RequestContext(world.tenant, Actor.human("x"))
        answer = world.run(world.execute(engine, "n", "dawdle", None, context))
        storage.may_open.set()
        assert ended.wait(10)

        assert world.run(world.ids("notes")) == (["late"] if isinstance(answer, Success) else [])
        assert nothing_is_held(data_of(storage, world.tenant))


STEPS = 60


async def put_before(desk: Desk) -> Answer:
    return await desk.execute("notes.put_async", {}, key="key")


async def ask_before(desk: Desk) -> Answer:
    return await desk.execute("payments.pay", LARGE, key="key")


async def nothing_before(desk: Desk) -> None:
    return None


async def approve(desk: Desk) -> Answer:
    (approval_id,) = await desk.world.ids(APPROVALS)
    return await decided(desk, "approve", approval_id)


def execute(action: str) -> Callable[[Desk], Coroutine[Any, Any, Answer]]:
    return lambda desk: desk.execute(action, {}, key="key")


@pytest.mark.parametrize(
    ("before", "asked", "notes", "payments", "approvals"),
    [
        pytest.param(nothing_before, execute("notes.put"), 1, 0, 0, id="a def handler"),
        pytest.param(nothing_before, execute("notes.put_async"), 1, 0, 0, id="an async def handler"),
        pytest.param(nothing_before, execute("notes.read"), 0, 0, 0, id="a read-only action"),
        pytest.param(nothing_before, execute("notes.crash_async"), 0, 0, 0, id="a crash"),
        pytest.param(nothing_before, execute("notes.put_around_failures_async"), 3, 0, 0, id="nested actions"),
        pytest.param(put_before, put_before, 1, 0, 0, id="a replay"),
        pytest.param(nothing_before, ask_before, 0, 0, 1, id="a request for an approval"),
        pytest.param(ask_before, ask_before, 0, 0, 1, id="a request for the same approval"),
        pytest.param(ask_before, approve, 0, 1, 1, id="an approval"),
    ],
)
def test_an_execution_can_be_cancelled_at_every_step(
    before: Callable[[Desk], Coroutine[Any, Any, object]],
    asked: Callable[[Desk], Coroutine[Any, Any, Answer]],
    notes: int,
    payments: int,
    approvals: int,
) -> None:
    """Nothing is held or left open afterwards; and when the same is asked again, its effect is there once."""

    async def cancelled_after(steps: int) -> bool:
        storage = SuspendingStorage()
        desk = Desk(world := AsyncWorld(storage))
        await before(desk)
        task = asyncio.ensure_future(asked(desk))
        for _ in range(steps):
            await asyncio.sleep(0)
        finished = task.done()
        task.cancel()
        await asyncio.wait([task])

        assert nothing_is_held(data_of(storage, world.tenant)), f"cancelled at step {steps}"
        assert storage.left_open == 0, f"cancelled at step {steps}"
        await asked(desk)
        found = [len(await world.ids(collection)) for collection in ("notes", "payments", APPROVALS)]
        assert found == [notes, payments, approvals], f"cancelled at step {steps}"
        return finished

    async def cancelled_everywhere() -> bool:
        return any([await cancelled_after(steps) for steps in range(STEPS)])

    assert asyncio.run(cancelled_everywhere())


# Many at once


@pytest.mark.usefixtures("hasty_threads")
def test_threads_and_event_loops_share_a_key(storage: InMemoryStorage, tenant: Tenant) -> None:
    runs: list[int] = []

    def put(data: int, ctx: ActionContext) -> Result[str, Any]:
        runs.append(data)
        return Success(ctx.records("notes").insert({"number": data}).id)

    service = create_service(
        name="notes", description="Notes", actions=[create_action(name="put", description="Keep", handler=put)]
    )
    engine = create_engine(services=[service], storage=storage)
    rounds = 20
    start = threading.Barrier(8)

    def context(number: int) -> RequestContext:
        return RequestContext(tenant, Actor.human("x"), idempotency_key=f"key {number}")

    def in_a_thread() -> list[Any]:
        answers = []
        for number in range(rounds):
            start.wait(10)
            answers.append([engine.execute_action("notes", "put", number, context(number))])
        return answers

    async def in_a_loop() -> list[Any]:
        answers = []
        for number in range(rounds):
            start.wait(10)
            tasks = (engine.execute_action_async("notes", "put", number, context(number)) for _ in range(4))
            answers.append(await asyncio.gather(*tasks))
        return answers

    with ThreadPoolExecutor(8) as threads:
        work = [threads.submit(in_a_thread) for _ in range(4)]
        work += [threads.submit(lambda: asyncio.run(in_a_loop())) for _ in range(4)]
        answers = [done.result() for done in work]

    assert sorted(runs) == list(range(rounds))
    for number in range(rounds):
        assert len({value_of(answer) for answered in answers for answer in answered[number]}) == 1
    assert nothing_is_held(data_of(storage, tenant))


ACCOUNTS = [f"account {number}" for number in range(12)]
TOTAL = 100 * len(ACCOUNTS)


class Hammer:
    """Transfers between accounts, by any number of threads, many of them given up halfway."""

    def __init__(self, storage: InMemoryStorage, tenant: Tenant) -> None:
        self.storage = storage
        self.tenant = tenant
        unit = self.unit()
        for account in ACCOUNTS:
            drive(unit.records("accounts").insert({"balance": 100}, account))
        drive(unit.commit())

    def unit(self) -> MemoryUnitOfWork:
        return unit_of(self.storage, self.tenant)

    def work(self, seed: int, rounds: int) -> int:
        dice = random.Random(seed)
        committed = 0
        for number in range(rounds):
            unit = self.unit()
            try:
                committed += self.transfer(unit, dice, f"{seed} {number}")
            except ActionException as refusal:
                if not lost(refusal):
                    raise
            finally:
                drive(unit.rollback())
            if number % 4 == 0:
                assert self.total() == TOTAL
        return committed

    def transfer(self, unit: MemoryUnitOfWork, dice: random.Random, key: str) -> bool:
        accounts = unit.records("accounts")
        claim = Claim("accounts.transfer", key, "print")
        assert drive(unit.claim(claim, 0.0)).status == "claimed"
        amount = dice.randint(1, 9)
        for account, change in zip(dice.sample(ACCOUNTS, 2), (-amount, amount), strict=True):
            found = drive(accounts.get(account))
            if found is None:
                return False
            savepoint = drive(unit.savepoint())
            balance = {"balance": found.data["balance"] + change}
            if dice.random() < 0.3:
                drive(accounts.delete(account, found.version))
                if dice.random() < 0.5:
                    drive(unit.rollback_to(savepoint))
                    drive(accounts.update(account, balance, found.version))
                else:
                    drive(accounts.insert(balance, account))
            else:
                drive(accounts.update(account, balance, found.version))
        if dice.random() < 0.3:
            return False
        drive(unit.record(Recording((), (event_row(self.tenant),), (result(claim),))))
        drive(unit.commit())
        return True

    def total(self) -> int:
        unit = self.unit()
        try:
            found = [drive(unit.records("accounts").get(account)) for account in ACCOUNTS]
            listed = drive(unit.records("accounts").list())
            assert {record.id: record for record in listed} == {record.id: record for record in found if record}
            return sum(record.data["balance"] for record in listed)
        finally:
            drive(unit.rollback())


def hammer(storage: InMemoryStorage, tenant: Tenant, rounds: int) -> None:
    hammered = Hammer(storage, tenant)

    with ThreadPoolExecutor(16) as threads:
        committed = sum(threads.map(lambda seed: hammered.work(seed, rounds), range(16)))

    assert hammered.total() == TOTAL
    unit = hammered.unit()
    for account in ACCOUNTS:
        found = drive(unit.records("accounts").get(account))
        assert found is not None
        drive(unit.records("accounts").update(account, found.data, found.version))
    drive(unit.commit())
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
    hammer(storage, tenant, rounds=150)


@pytest.mark.soak
@pytest.mark.usefixtures("hasty_threads")
def test_16_threads_that_often_give_up_keep_every_balance_for_long(storage: InMemoryStorage, tenant: Tenant) -> None:
    hammer(storage, tenant, rounds=3000)
