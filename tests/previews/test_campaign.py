"""What is committed with a plan is what its preview showed, or the answer is `conflict`, whatever others write."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from actionengine import InMemoryStorage, create_engine
from actionengine.testing.backend import make_tenant
from tests.backends import BACKENDS, AnyStorage
from tests.postgres import copy_database
from tests.previews.campaign import CELLS, DOCUMENT_CELLS, SERVICE, Campaign
from tests.previews.tables import Base
from tests.storage.backends import postgres_backend, sqlite_backend

SEQUENTIAL = 30
CONCURRENT = 10
SOAK = 1250
WRITERS = 4


@pytest.fixture(scope="module", params=BACKENDS)
def storage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnyStorage]:
    """Each storage, with the tables of a host in the databases."""
    if request.param == "memory":
        yield InMemoryStorage()
        return
    if request.param == "sqlite":
        folder: Path = tmp_path_factory.mktemp("campaign")
        database = sqlite_backend(str(folder / "campaign.db"))
    else:
        server, template = map(request.getfixturevalue, ("postgres_server", "postgres_template"))
        made = copy_database(server, template, "campaign")
        database = postgres_backend(made.app_url, made.owner_url)
    Base.metadata.create_all(database.owner)
    database.owner.dispose()
    with database.open() as opened:
        yield opened


@pytest.fixture
def campaign(storage: AnyStorage) -> Campaign:
    """A campaign in a tenant of its own."""
    cells = DOCUMENT_CELLS if isinstance(storage, InMemoryStorage) else CELLS
    campaign = Campaign(create_engine(services=[SERVICE], storage=storage), make_tenant(), cells)
    campaign.prepare()
    return campaign


def test_writers_between_preview_and_execution(campaign: Campaign) -> None:
    play_alone(campaign, random.Random(1), SEQUENTIAL)


def test_writers_at_the_same_time(campaign: Campaign) -> None:
    play_together(campaign, random.Random(2), CONCURRENT)


@pytest.mark.soak
def test_thousands_of_actions(campaign: Campaign) -> None:
    dice = random.Random()
    play_alone(campaign, dice, SOAK)
    play_together(campaign, dice, SOAK // 2)


def play_alone(campaign: Campaign, dice: random.Random, number: int) -> None:
    """Play in this thread, where others write between a preview and its execution half of the time."""
    for each in range(number):
        between = partial(campaign.disturb, dice) if dice.random() < 0.5 else None
        campaign.play(dice, f"alone {each}", between)
    campaign.check()
    assert campaign.committed
    assert campaign.conflicts


def play_together(campaign: Campaign, dice: random.Random, number: int) -> None:
    """Play in several threads at once."""

    def work(worker: int, seed: int) -> None:
        own = random.Random(seed)
        for each in range(number):
            if own.random() < 0.3:
                campaign.disturb(own)
            campaign.play(own, f"together {worker} {each}")

    with ThreadPoolExecutor(WRITERS) as threads:
        list(threads.map(work, range(WRITERS), [dice.randrange(1 << 30) for _ in range(WRITERS)]))
    campaign.check()
