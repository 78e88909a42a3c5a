"""Workers that stall and come back, that are stopped, and that die before a decision."""

from __future__ import annotations

import time

import pytest

from tests.workflows_crash.conftest import (
    ON_POSTGRES,
    ON_POSTGRES_SOAKED_ON_SQLITE,
    ON_SQLITE_SOAKED_ON_POSTGRES,
    NewCampaign,
)

LEASE = 1.0
SOAK = pytest.mark.soak


@ON_POSTGRES_SOAKED_ON_SQLITE
@pytest.mark.parametrize(
    "point",
    ["in the handler", *(pytest.param(each, marks=SOAK) for each in ("after the commit", "before the turn is noted"))],
)
def test_a_worker_that_stalls_past_its_lease_does_no_harm(new_campaign: NewCampaign, point: str) -> None:
    """The worker stalls in several places at once. Rows that its open transactions lock wait for it."""
    campaign = new_campaign(point)
    campaign.start_runs(6)
    sleeper = campaign.worker(point, 2, lease=LEASE, relays=False, decides=False, freezes=True)
    time.sleep(0.5)
    others = [campaign.worker(lease=LEASE), campaign.worker(lease=LEASE)]

    def is_frozen() -> bool:
        # The others may finish all runs before the sleeper reaches its point.
        if campaign.dice.random() < 0.02:
            campaign.start_runs(1)
        return sleeper.is_frozen

    campaign.wait_until(is_frozen)
    time.sleep(2.5 * LEASE)
    assert sleeper.is_frozen

    sleeper.thaw()

    campaign.wait_for_the_end()
    for worker in (sleeper, *others):
        worker.stop()
    campaign.check()


@ON_POSTGRES
@pytest.mark.parametrize("point", ["after the commit", pytest.param("before the turn is noted", marks=SOAK)])
def test_a_run_goes_on_elsewhere_while_its_worker_stands_still(new_campaign: NewCampaign, point: str) -> None:
    """The run continues from its step. When its first worker wakes up, nothing is left to do."""
    campaign = new_campaign(point)
    sleeper = campaign.worker(point, 1 if point == "before the turn is noted" else 4, lease=LEASE, freezes=True)
    campaign.start_runs(1, ["rounds"], campaign.tenants[:1])
    campaign.wait_until(lambda: sleeper.is_frozen)

    other = campaign.worker(lease=LEASE)

    campaign.wait_until(lambda: campaign.statuses() == {"succeeded": 1})
    campaign.wait_until(lambda: set(campaign.durable().values()) == {"SUCCESS"})
    assert sleeper.is_frozen
    sleeper.thaw()
    campaign.start_runs(2)
    campaign.wait_for_the_end()
    sleeper.stop()
    other.stop()
    campaign.check()


@ON_POSTGRES_SOAKED_ON_SQLITE
def test_stopped_workers_leave_their_runs_to_others(new_campaign: NewCampaign) -> None:
    campaign = new_campaign("in order")
    campaign.start_runs(4)
    workers = [campaign.worker(), campaign.worker()]
    for _ in range(2):
        campaign.start_runs(1)
        time.sleep(campaign.dice.uniform(0.2, 1.0))
        workers.append(campaign.worker())
        workers.pop(0).stop()
    for worker in workers:
        worker.stop()

    campaign.start_runs(1)
    last = campaign.worker()

    campaign.wait_for_the_end()
    last.stop()
    campaign.check()


@ON_SQLITE_SOAKED_ON_POSTGRES
def test_runs_that_wait_for_an_approval_outlive_every_worker(new_campaign: NewCampaign) -> None:
    campaign = new_campaign("waiting")
    campaign.start_runs(4, ["approved"])
    for _ in range(2):
        worker = campaign.worker(decides=False)
        campaign.wait_until(lambda: campaign.statuses() == {"paused": 8})
        worker.kill()

    last = campaign.worker()

    campaign.wait_for_the_end()
    last.stop()
    campaign.check()


@ON_SQLITE_SOAKED_ON_POSTGRES
@pytest.mark.parametrize("point", ["before it is queued", pytest.param("after it is queued", marks=SOAK)])
def test_an_approval_expires_though_its_worker_died(new_campaign: NewCampaign, point: str) -> None:
    """The relay queues the two runs first; the third enqueued execution is an expiry."""
    campaign = new_campaign(point)
    campaign.start_runs(1, ["expiring"])

    campaign.worker(point, 3).see_it_killed()
    last = campaign.worker()

    campaign.wait_for_the_end()
    last.stop()
    campaign.check()
