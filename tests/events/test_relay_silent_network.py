"""Relays behind a network that cuts, swallows and forgets: nothing is lost, the order of each subject stays, and the
relays come back by themselves."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from examples.embedded_postgres import Database

from actionengine import PostgresStorage
from actionengine.events.relay import worker
from actionengine.events.relay.relay import Relay
from tests.crash.silent import storage_through
from tests.events.relay_publishers import AsyncBroker, Broker
from tests.events.relay_work import Writer, check_all_arrived, running, written
from tests.faulty_proxy import FaultyProxy
from tests.waiting import wait_until

FAULTS = ("swallow", "cut", "swallow the next commit", "cut after the next commit", "refuse for a while")


@pytest.fixture
def proxy(fresh_postgres_database: Database) -> Iterator[FaultyProxy]:
    with FaultyProxy.before_postgres(fresh_postgres_database.app_url) as proxy:
        yield proxy


@pytest.fixture
def writer(fresh_postgres_database: Database) -> Iterator[Writer]:
    with PostgresStorage(fresh_postgres_database.app_url) as storage:
        yield Writer(storage)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_MAX_RETRY_INTERVAL", 0.2)


@contextmanager
def relaying(proxy: FaultyProxy, database: Database, is_async: bool) -> Iterator[list[Any]]:
    """Run a relay behind the proxy, and return its arrivals."""
    broker = AsyncBroker(batch_size=4) if is_async else Broker(batch_size=4)
    storage = storage_through(proxy, database)
    relay = Relay(storage, broker, publish_timeout=5.0, poll_interval=0.2, first_backoff=0.02, longest_backoff=0.1)
    with running(relay, is_async=is_async):
        yield broker.arrivals
    storage.close()


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_sleeping_relay_survives_a_forgotten_connection(
    proxy: FaultyProxy, writer: Writer, fresh_postgres_database: Database, is_async: bool
) -> None:
    """A lost connection that listens would get no notification."""
    with relaying(proxy, fresh_postgres_database, is_async) as arrivals:
        writer.execute("s/1")
        wait_until(lambda: len(arrivals) == 1)
        for number in (2, 3):
            time.sleep(0.1)
            assert proxy.swallow()
            writer.execute(f"s/{number}")
            wait_until(lambda number=number: len(arrivals) >= number)  # type: ignore[misc]
    check_all_arrived(writer.storage, [writer.tenant], arrivals)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_faults_of_the_network_lose_nothing_and_keep_the_order(
    proxy: FaultyProxy, writer: Writer, fresh_postgres_database: Database, is_async: bool
) -> None:
    campaign(proxy, writer, fresh_postgres_database, is_async, list(FAULTS), random.Random(5))


@pytest.mark.soak
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_hundred_network_faults_lose_nothing(
    proxy: FaultyProxy, writer: Writer, fresh_postgres_database: Database, is_async: bool
) -> None:
    dice = random.Random()
    campaign(proxy, writer, fresh_postgres_database, is_async, dice.choices(FAULTS, k=100), dice)


def campaign(
    proxy: FaultyProxy, writer: Writer, database: Database, is_async: bool, faults: list[str], dice: random.Random
) -> None:
    with relaying(proxy, database, is_async) as arrivals:
        for fault in faults:
            if fault == "swallow the next commit":
                proxy.at_commit("before", hang_ups_pass=dice.random() < 0.5)
            elif fault == "cut after the next commit":
                proxy.at_commit("after", "cut")
            writer.execute(*(f"s/{dice.randrange(5)}" for _ in range(12)))
            if fault == "swallow":
                proxy.swallow(hang_ups_pass=dice.random() < 0.5)
            elif fault == "cut":
                proxy.cut()
            elif fault == "refuse for a while":
                proxy.refuse_new()
                proxy.cut()
                time.sleep(0.3)
            time.sleep(dice.uniform(0.0, 0.1))
            proxy.heal()
            # It comes back before the next fault.
            seen = {id for id, _ in written(writer.storage, writer.tenant)}
            wait_until(lambda seen=seen: seen <= {arrival.id for arrival in list(arrivals)})  # type: ignore[misc]
    check_all_arrived(writer.storage, [writer.tenant], arrivals)
