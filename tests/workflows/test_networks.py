"""Runs continue after each fault of the durable engine's network."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from random import Random
from threading import Timer
from typing import Any, get_args

import pytest

from actionengine.concurrency.run_sync import run_sync
from actionengine.workflows import WorkflowRuntime
from actionengine.workflows.runtime.queries import Queries
from tests.durable.databases import Durable
from tests.faulty_proxy import CommitPoint, Fault, FaultyProxy
from tests.workflows.office import Office

BOOK = {"name": "b", "type": "record_mutation", "collection": "bookings", "operation": "insert", "data": {"n": 1}}

LONG = 60.0
"""Seconds in which a recovery ends, also on a busy machine."""


def refuse_for_a_while(proxy: FaultyProxy) -> None:
    proxy.refuse_new()
    proxy.cut()
    Timer(1.0, proxy.heal).start()


FAULTS: dict[str, Callable[[FaultyProxy], Any]] = {
    "forgets what is open": lambda proxy: proxy.swallow(),
    "tells the server of it": lambda proxy: proxy.swallow(hang_ups_pass=True),
    "cuts": lambda proxy: proxy.cut(),
    "refuses for a while": lambda proxy: refuse_for_a_while(proxy),
    "delays": lambda proxy: setattr(proxy, "delay", 0.02),
}
AT_COMMIT: dict[str, Callable[[FaultyProxy], Any]] = {
    f"{fault}s {point} a commit": partial(FaultyProxy.at_commit, point=point, fault=fault, delay=2.0)
    for point in get_args(CommitPoint)
    for fault in get_args(Fault)
}


@pytest.fixture
def office(office: Office) -> Office:
    office.define("book", BOOK)
    office.define("held", *({"name": name, "type": "action", "action": "host.hold"} for name in ("first", "second")))
    return office


def runtime_of(office: Office, url: str) -> WorkflowRuntime:
    options: dict[str, Any] = {"lease": 2.0, "poll_interval": 0.05, "connect_timeout": 2, "answer_timeout": 0.5}
    return WorkflowRuntime(office.engine, url, relay_to=[], set_up=False, **options)


def bookings(office: Office) -> int:
    """Count the effects of the runs of `book`."""

    async def count() -> int:
        return len([each async for each in Queries(office.storage, "sync").find_all(office.tenant, "bookings", {})])

    return run_sync(count())


@pytest.mark.parametrize("fault", FAULTS)
def test_runs_go_on_after_what_the_network_did(
    office: Office, durable_database: Durable, proxy: FaultyProxy, fault: str
) -> None:
    with runtime_of(office, proxy.url(durable_database.url)):
        office.wait_for(office.start("book"), "succeeded")
        FAULTS[fault](proxy)
        for run in [office.start("book") for _ in range(2)]:
            office.wait_for(run, "succeeded")

    assert bookings(office) == 3


def test_runs_go_on_after_faults_at_a_commit(office: Office, durable_database: Durable, proxy: FaultyProxy) -> None:
    runs = 0
    with runtime_of(office, proxy.url(durable_database.url)):
        for fault in AT_COMMIT.values():
            fault(proxy)
            for run in [office.start("book") for _ in range(2)]:
                office.wait_for(run, "succeeded")
                runs += 1

    assert bookings(office) == runs


def test_a_runtime_stops_on_a_silent_network(office: Office, durable_database: Durable, proxy: FaultyProxy) -> None:
    runtime = runtime_of(office, proxy.url(durable_database.url))
    runtime.start()
    run = office.start("held")
    assert office.held.wait(LONG)
    with proxy.swallowing_everything():
        began = time.monotonic()
        Timer(0.5, office.released.set).start()
        runtime.stop(grace=3)
        assert time.monotonic() - began < LONG

    # Another runtime takes over the run.
    with runtime_of(office, durable_database.url):
        office.wait_for(run, "succeeded")


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(4))
def test_runs_go_on_whatever_the_network_does(
    office: Office, durable_database: Durable, proxy: FaultyProxy, seed: int
) -> None:
    random, runs = Random(seed), []
    with runtime_of(office, proxy.url(durable_database.url)):
        for _ in range(40):
            random.choice([*FAULTS.values(), *AT_COMMIT.values()])(proxy)
            runs.append(office.start("book"))
            if random.random() < 0.2:
                with proxy.swallowing_everything():
                    time.sleep(random.uniform(0, 3))
            time.sleep(random.uniform(0, 1))
        proxy.heal()
        for run in runs:
            office.wait_for(run, "succeeded")

    assert bookings(office) == len(runs)
