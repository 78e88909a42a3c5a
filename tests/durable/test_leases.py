"""Leases of executors, and the work that others can take over."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from uuid import uuid4

import pytest
from sqlalchemy import Engine, update

from actionengine.durable.host import opened
from actionengine.durable.leases import Leases
from actionengine.durable.urls import durable_url
from tests.durable.databases import Durable


@pytest.fixture
def engine(durable: Durable) -> Iterator[Engine]:
    engine = opened(durable_url(durable.url))
    yield engine
    with engine.begin() as connection:
        connection.execute(Leases(engine, "")._table.delete())
    engine.dispose()


def leases(engine: Engine, name: str | None = None) -> Leases:
    return Leases(engine, name or uuid4().hex)


def names(found: Leases, seconds: float | None) -> list[str]:
    return [each.executor_id for each in found.lapsed(seconds)]


def age(engine: Engine, name: str, milliseconds: int) -> None:
    table = leases(engine)._table
    with engine.begin() as connection:
        of_it = table.c.executor_id == name
        connection.execute(update(table).where(of_it).values(seen_at=table.c.seen_at - milliseconds))


def move_elsewhere(engine: Engine, name: str, **values: object) -> None:
    table = leases(engine)._table
    with engine.begin() as connection:
        connection.execute(update(table).where(table.c.executor_id == name).values(**values))


def test_a_lease_that_is_renewed_is_not_over(engine: Engine) -> None:
    other, own = leases(engine, "other"), leases(engine, "own")
    other.renew()
    move_elsewhere(engine, "other", machine="elsewhere")
    age(engine, "other", 60_000)
    assert names(own, 10) == ["other"]

    other.renew()
    move_elsewhere(engine, "other", machine="elsewhere")

    assert names(own, 10) == []


def test_a_lease_that_was_not_renewed_in_time_is_over(engine: Engine) -> None:
    leases(engine, "other").renew()
    move_elsewhere(engine, "other", machine="elsewhere")

    age(engine, "other", 9_000)
    assert names(leases(engine), 10) == []
    age(engine, "other", 2_000)
    assert names(leases(engine), 10) == ["other"]


def test_time_does_not_count_where_nobody_could_renew(engine: Engine) -> None:
    leases(engine, "slow").renew()
    leases(engine, "gave up").renew()
    for name in ("slow", "gave up"):
        move_elsewhere(engine, name, machine="elsewhere")
    age(engine, "slow", 60_000)
    leases(engine, "gave up").give_up()

    assert names(leases(engine), None) == ["gave up"]


def test_the_lease_of_a_process_that_is_gone_is_over_at_once(engine: Engine) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as alive:
        for name, pid in (("gone", gone.pid), ("alive", alive.pid)):
            leases(engine, name).renew()
            move_elsewhere(engine, name, pid=pid)

        assert names(leases(engine), 1000) == ["gone"]


def test_a_pid_says_nothing_of_another_machine(engine: Engine) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    leases(engine, "far").renew()
    move_elsewhere(engine, "far", pid=gone.pid, machine="elsewhere")

    assert names(leases(engine), 1000) == []


def test_an_executor_that_this_process_was_before_is_gone(engine: Engine) -> None:
    leases(engine, "before").renew()

    assert names(leases(engine, "now"), 1000) == ["before"]


def test_ones_own_lease_is_never_over(engine: Engine) -> None:
    own = leases(engine, "own")
    own.renew()
    own.give_up()

    assert names(own, 0) == []


def test_a_lease_that_was_renewed_meanwhile_is_not_ended(engine: Engine) -> None:
    other, own = leases(engine, "other"), leases(engine, "own")
    other.renew()
    other.give_up()
    (lapsed,) = own.lapsed(10)

    other.renew()
    own.end(lapsed)
    assert names(own, None) == ["other"], "it is of this process, and still there"

    (lapsed,) = own.lapsed(10)
    own.end(lapsed)
    assert names(own, None) == []


def test_the_table_can_be_made_by_many_at_once(durable: Durable, engine: Engine) -> None:
    errors: list[BaseException] = []

    def create() -> None:
        try:
            leases(engine).create_table()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=create) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
