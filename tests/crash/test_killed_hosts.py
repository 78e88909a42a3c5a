"""A host is killed at chosen points and at random: each acknowledged transfer exists once, none is half done, and a
repeated request has one effect."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import pytest

from actionengine import Tenant
from actionengine.concurrency.run_sync import Mode
from actionengine.storage.sql.storage import SQLStorage
from actionengine.testing.base import value_of
from tests.crash.host import POINTS, Order
from tests.crash.hosts import HostStarter, Journal, SQLDatabase, kill_in_the_middle
from tests.crash.ledger import (
    ONCE,
    check_all_is_there_once,
    check_nothing_is_half_there,
    execute_transfer,
    ledger_engine,
    read_books,
    request_of,
)
from tests.waiting import wait_until

RANDOM_KILLS = 2
CAMPAIGN = 40

modes = pytest.mark.parametrize("mode", ["sync", "async"])


@modes
@pytest.mark.parametrize("point", POINTS)
def test_host_killed_at_this_point_leaves_nothing_half_done(
    sql_database: SQLDatabase, host_starter: HostStarter, mode: Mode, point: str
) -> None:
    number = random.Random(f"{point} {mode}").randint(2, 12)

    survived = kill_one(sql_database, host_starter, mode, random.Random(), point, number)

    if point == "after the commit":
        assert survived


@modes
def test_host_killed_at_random_leaves_nothing_half_done(
    sql_database: SQLDatabase, host_starter: HostStarter, mode: Mode
) -> None:
    for seed in range(RANDOM_KILLS):
        kill_one(sql_database, host_starter, mode, random.Random(seed))


@modes
def test_host_outlives_another_one_with_the_same_keys(
    sql_database: SQLDatabase, host_starter: HostStarter, other_host_starter: HostStarter, mode: Mode
) -> None:
    kill_one_of_two(sql_database, host_starter, other_host_starter, mode, random.Random(1))


@pytest.mark.soak
@modes
def test_hundreds_of_kills_leave_nothing_half_done(
    sql_database: SQLDatabase, host_starter: HostStarter, other_host_starter: HostStarter, mode: Mode
) -> None:
    dice = random.Random()
    for _ in range(CAMPAIGN):
        kill_one(sql_database, host_starter, mode, dice)
        kill_one(sql_database, host_starter, mode, dice, dice.choice(POINTS), dice.randint(1, 60))
    for _ in range(CAMPAIGN // 4):
        kill_one_of_two(sql_database, host_starter, other_host_starter, mode, dice)


def kill_one(
    sql_database: SQLDatabase,
    starter: HostStarter,
    mode: Mode,
    dice: random.Random,
    point: str | None = None,
    number: int = 1,
) -> list[str]:
    """Start a host, kill it, check, repeat its requests, check. Return the keys that were done but not acknowledged."""
    tenant = open_ledger(sql_database)
    path = starter.journal_path()
    pid = starter.start(order_of(sql_database, mode, tenant, path, point=point, number=number))
    if point is None:
        kill_in_the_middle(pid, path, dice)
    starter.see_it_killed()
    sql_database.settle(path.name)
    return check_the_end(sql_database, mode, tenant, [Journal.read(path)])


def kill_one_of_two(
    sql_database: SQLDatabase, starter: HostStarter, other_starter: HostStarter, mode: Mode, dice: random.Random
) -> None:
    """Start two hosts with the same requests; kill one of them, and later the other."""
    tenant = open_ledger(sql_database)
    paths = starter.journal_path(), other_starter.journal_path()
    run = uuid4().hex
    pid = starter.start(order_of(sql_database, mode, tenant, paths[0], run))
    other_pid = other_starter.start(order_of(sql_database, mode, tenant, paths[1], run))
    try:
        kill_in_the_middle(pid, paths[0], dice)
        starter.see_it_killed()
        at_the_kill = Journal.read(paths[0])

        wait_until(lambda: set(at_the_kill.asked) <= set(Journal.read(paths[1]).acknowledged))
    finally:
        os.kill(other_pid, signal.SIGKILL)
        other_starter.see_it_killed()
    for path in paths:
        sql_database.settle(path.name)
    check_the_end(sql_database, mode, tenant, [Journal.read(path) for path in paths])


def open_ledger(sql_database: SQLDatabase) -> Tenant:
    with sql_database.storage() as storage:
        tenant = storage.create_tenant(slug=f"t-{uuid4().hex}", name="A ledger")
        value_of(ledger_engine(storage).execute_action("ledger", "open", None, request_of(tenant, None)))
    return tenant


def order_of(
    sql_database: SQLDatabase,
    mode: Mode,
    tenant: Tenant,
    journal: Path,
    run: str | None = None,
    point: str | None = None,
    number: int = 1,
) -> Order:
    return Order(sql_database.url, mode, str(tenant.id), tenant.slug, run or uuid4().hex, str(journal), point, number)


def check_the_end(sql_database: SQLDatabase, mode: Mode, tenant: Tenant, journals: Sequence[Journal]) -> list[str]:
    asked = sorted({key for journal in journals for key in journal.asked})
    acknowledged = journals[0].acknowledged | journals[-1].acknowledged
    for journal in journals:
        assert journal.failed == {}
        # Two hosts with one key got one answer.
        assert journal.acknowledged.items() <= acknowledged.items()
    with sql_database.storage() as storage:
        found = read_books(storage, tenant)
        check_nothing_is_half_there(found, asked, acknowledged)

        answers = asyncio.run(ask_again(storage, mode, tenant, asked))

        check_all_is_there_once(read_books(storage, tenant), asked)
        done = {key: answer for key, answer in found.answers.items() if found.effect(key) == ONCE}
        assert done.items() <= answers.items()
    return sorted(set(done) - set(acknowledged))


async def ask_again(storage: SQLStorage, mode: Mode, tenant: Tenant, keys: Sequence[str]) -> dict[str, str]:
    """Repeat all requests; return the answers."""
    engine = ledger_engine(storage)
    answers = {key: value_of(await execute_transfer(engine, mode, tenant, key)) for key in keys}
    await storage.aclose()
    return answers
