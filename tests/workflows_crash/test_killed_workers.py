"""Workers are killed, at random and at chosen points: each run ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import time

import pytest

from actionengine.concurrency.run_sync import Mode
from tests.workflows_crash.campaign import PATIENCE, Campaign, Place
from tests.workflows_crash.conftest import NewCampaign
from tests.workflows_crash.worker import AT_A_TAKEOVER, AT_THE_START, POINTS
from tests.workflows_crash.workers import Worker

KILLS = 3
CAMPAIGN = 220
MODES: tuple[Mode, Mode] = ("sync", "async")
"""Workers of both modes work beside each other."""

WORKERS = {"sqlite": 1, "postgresql": 3}


def kind_of(place: Place) -> str:
    return place.sql_database.url.split(":")[0].split("+")[0]


def workers_on(place: Place) -> int:
    return WORKERS[kind_of(place)]


def test_random_kills_change_no_result(new_campaign: NewCampaign, place: Place) -> None:
    kill_at_random(new_campaign(1), workers_on(place), KILLS)


@pytest.mark.soak
def test_hundreds_of_kills_leave_each_effect_once_and_in_order(new_campaign: NewCampaign, place: Place) -> None:
    seed = os.environ.get("ACTIONENGINE_TEST_SEED") or str(random.SystemRandom().getrandbits(32))
    print(f"ACTIONENGINE_TEST_SEED={seed}")
    kill_at_random(new_campaign(seed), workers_on(place), CAMPAIGN)


def kill_at_random(campaign: Campaign, count: int, kills: int) -> None:
    """Keep so many workers, and kill one of them after the other: at some moment, or at some point."""
    dice = campaign.dice
    campaign.start_runs(12)
    workers = [campaign.worker(mode=MODES[number % 2]) for number in range(count)]
    for number in range(kills):
        if number % 2:
            campaign.start_runs(1)
        time.sleep(dice.uniform(0.2, 1.6) / count)
        victim = workers.pop(0)
        victim.kill()
        workers.append(campaign.worker(mode=dice.choice(MODES)))
    campaign.wait_for_the_end()
    stop(workers)
    tally = campaign.check()
    print(f"{kills} kills of {count} workers: {tally}")


def test_kills_at_each_point_change_no_result(new_campaign: NewCampaign, place: Place) -> None:
    """All but the last worker die at a point that each comes to: beside them, nobody works. Each point has its turn on
    one of the databases; the campaigns have all points on both."""
    first = list(WORKERS).index(kind_of(place))
    kill_at_points(new_campaign(2), POINTS[first::2], 4)


@pytest.mark.soak
def test_hundreds_of_kills_leave_each_effect_once(new_campaign: NewCampaign) -> None:
    seed = os.environ.get("ACTIONENGINE_TEST_SEED") or str(random.SystemRandom().getrandbits(32))
    print(f"ACTIONENGINE_TEST_SEED={seed}")
    campaign = new_campaign(seed)
    kill_at_points(campaign, campaign.dice.choices(POINTS, k=CAMPAIGN), 10)


def kill_at_points(campaign: Campaign, points: tuple[str, ...] | list[str], latest: int) -> None:
    for point in points:
        number = 1 if point in AT_THE_START else campaign.dice.randint(1, latest)
        mode = campaign.dice.choice(MODES)
        kill_at(campaign, point, number, mode)
    last = campaign.worker()
    campaign.wait_for_the_end()
    stop([last])
    tally = campaign.check()
    print(f"{len(points)} kills at points: {tally}")


def kill_at(campaign: Campaign, point: str, number: int, mode: Mode) -> None:
    """A worker that dies at a point: it gets runs until it comes there."""
    deadline = time.monotonic() + PATIENCE
    campaign.start_runs(2)
    if point in AT_A_TAKEOVER:
        # Of somebody who has left a lease.
        campaign.worker("after the first lease", mode=mode).see_it_killed()
    worker = campaign.worker(point, number, mode=mode)
    while not worker.is_dead:
        assert time.monotonic() < deadline, f"no worker comes {point!r} for the time {number} ({mode})"
        time.sleep(0.05)
        if campaign.dice.random() < 0.1:
            campaign.start_runs(1)
    worker.see_it_killed()


def stop(workers: list[Worker]) -> None:
    for worker in workers:
        worker.stop()
