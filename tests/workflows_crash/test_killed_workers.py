"""Workers are killed at random and at chosen points. Each run ends with the result that it has without kills."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence

import pytest

from actionengine.concurrency.run_sync import Mode
from tests.workflows_crash.campaign import PATIENCE, Campaign, Place
from tests.workflows_crash.conftest import ON_POSTGRES_SOAKED_ON_SQLITE, NewCampaign
from tests.workflows_crash.worker import AT_A_TAKEOVER, AT_THE_START, POINTS
from tests.workflows_crash.workers import Worker

CAMPAIGN = 220
"""Kills of a long campaign."""

DAILY_POINTS = {
    "sqlite": ("before it is queued", "once a step is performed", "before a takeover"),
    "postgresql": ("after it is queued", "before the turn is noted", "in the middle of a takeover"),
}
"""Points between the storage and the durable engine. The long campaigns have all points on each database."""

MODES: tuple[Mode, Mode] = ("sync", "async")
"""Workers of both modes work beside each other."""

WORKERS = {"sqlite": 1, "postgresql": 3}


def kind_of(place: Place) -> str:
    return place.sql_database.url.split(":")[0].split("+")[0]


def workers_on(place: Place) -> int:
    return WORKERS[kind_of(place)]


@ON_POSTGRES_SOAKED_ON_SQLITE
def test_random_kills_change_no_result(new_campaign: NewCampaign, place: Place) -> None:
    kill_at_random(new_campaign(1), workers_on(place), 3)


@pytest.mark.soak
def test_hundreds_of_random_kills_change_no_result(new_campaign: NewCampaign, place: Place) -> None:
    kill_at_random(new_campaign(new_seed()), workers_on(place), CAMPAIGN)


def new_seed() -> str:
    seed = os.environ.get("ACTIONENGINE_TEST_SEED") or str(random.SystemRandom().getrandbits(32))
    print(f"ACTIONENGINE_TEST_SEED={seed}")
    return seed


def kill_at_random(campaign: Campaign, count: int, kills: int) -> None:
    """Keep so many workers, and kill one after the other at random moments."""
    dice = campaign.dice
    campaign.start_runs(6)
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


def test_kills_between_the_databases_change_no_result(new_campaign: NewCampaign, place: Place) -> None:
    """One worker at a time runs, and dies at its point; the last one finishes the runs."""
    kill_at_points(new_campaign(2), DAILY_POINTS[kind_of(place)], 4)


@pytest.mark.soak
def test_kills_at_each_point_change_no_result(new_campaign: NewCampaign) -> None:
    kill_at_points(new_campaign(2), POINTS, 4)


@pytest.mark.soak
def test_hundreds_of_kills_at_points_change_no_result(new_campaign: NewCampaign) -> None:
    campaign = new_campaign(new_seed())
    kill_at_points(campaign, campaign.dice.choices(POINTS, k=CAMPAIGN), 10)


def kill_at_points(campaign: Campaign, points: Sequence[str], latest: int) -> None:
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
    """Start a worker that dies at a point, and start runs until it gets there."""
    deadline = time.monotonic() + PATIENCE
    campaign.start_runs(2)
    if point in AT_A_TAKEOVER:
        # Another dead worker leaves the lease.
        campaign.worker("after the first lease", mode=mode).see_it_killed()
    worker = campaign.worker(point, number, mode=mode)
    while not worker.is_dead:
        assert time.monotonic() < deadline, f"no worker reached {point!r} {number} times ({mode})"
        time.sleep(0.05)
        if campaign.dice.random() < 0.1:
            campaign.start_runs(1)
    worker.see_it_killed()


def stop(workers: list[Worker]) -> None:
    for worker in workers:
        worker.stop()
