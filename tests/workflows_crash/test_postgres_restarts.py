"""PostgreSQL is stopped during runs, and started again. The runs continue in the same workers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.crash.servers import StopMode, StoppableServer, stoppable_server
from tests.workflows_crash.campaign import Campaign
from tests.workflows_crash.conftest import place_on
from tests.workflows_crash.workers import WorkerStarter


@pytest.fixture
def server() -> Iterator[StoppableServer]:
    with stoppable_server() as server:
        yield server


def test_runs_go_on_when_the_server_is_back(server: StoppableServer, starter: WorkerStarter, tmp_path: Path) -> None:
    stops: list[StopMode] = ["fast", "immediate"]
    with closing(Campaign(place_on(server.database, tmp_path), starter, "restart")) as campaign:
        workers = [campaign.worker(), campaign.worker()]
        for mode in stops:
            campaign.start_runs(4)
            time.sleep(campaign.dice.uniform(0.3, 1.0))
            server.stop(mode)
            time.sleep(0.5)
            server.start()

        campaign.wait_for_the_end()
        for worker in workers:
            worker.stop()
        campaign.check()
