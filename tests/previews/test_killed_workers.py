"""A process that executes plans is killed: each plan is wholly committed, or not at all."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import text

from actionengine import create_engine
from actionengine.testing.backend import make_tenant
from tests.postgres import copy_database
from tests.previews.campaign import CELLS, SERVICE, Campaign
from tests.previews.tables import Base
from tests.previews.worker import APPLICATION, Order
from tests.programs import ROOT
from tests.storage.backends import SQLDatabase, SQLStorage, postgres_backend, sqlite_backend
from tests.waiting import wait_until

SOAK_KILLS = 50
"""On each database."""


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[SQLDatabase, str]]:
    """A database with the tables, and its address."""
    if request.param == "sqlite":
        path = str(tmp_path / "killed.db")
        database = sqlite_backend(path)
    else:
        server, template = map(request.getfixturevalue, ("postgres_server", "postgres_template"))
        made = copy_database(server, template, "killed")
        database, path = postgres_backend(made.app_url, made.owner_url), made.app_url
    Base.metadata.create_all(database.owner)
    yield database, path
    database.owner.dispose()


def test_killed_worker_leaves_whole_plans(address: tuple[SQLDatabase, str], tmp_path: Path) -> None:
    kill_workers(address, tmp_path, 1, random.Random(1))


@pytest.mark.soak
def test_many_killed_workers_leave_whole_plans(address: tuple[SQLDatabase, str], tmp_path: Path) -> None:
    kill_workers(address, tmp_path, SOAK_KILLS, random.Random())


def kill_workers(address: tuple[SQLDatabase, str], folder: Path, kills: int, dice: random.Random) -> None:
    """Kill a worker at a random moment, again and again, while this process writes the same cells. Check each time."""
    database, path = address
    with database.open() as storage:
        campaign = _campaign(storage)
        for number in range(kills):
            journal = folder / f"journal-{number}"
            order = Order(path, str(campaign.tenant.id), campaign.tenant.slug, str(journal), number)
            command = [sys.executable, "-m", "tests.previews.worker", json.dumps(order)]
            with subprocess.Popen(command, cwd=ROOT) as worker:
                wait_until(partial(_has_lines, journal, dice.randint(5, 40)))
                for each in range(dice.randint(0, 5)):
                    campaign.disturb(dice)
                    campaign.play(dice, f"parent {number} {each}")
                worker.send_signal(signal.SIGKILL)
                worker.wait()
            if database.name == "postgresql":
                wait_until(partial(_has_settled, database))
            _read(campaign, journal)
            campaign.check()


def _campaign(storage: SQLStorage) -> Campaign:
    campaign = Campaign(create_engine(services=[SERVICE], storage=storage), make_tenant(), CELLS)
    campaign.prepare()
    return campaign


def _has_lines(journal: Path, number: int) -> bool:
    return journal.exists() and journal.read_bytes().count(b"\n") >= number


def _has_settled(database: SQLDatabase) -> bool:
    """Return whether the server has ended the connections of the killed worker."""
    query = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :name")
    with database.owning() as connection:
        return not connection.execute(query, {"name": APPLICATION}).scalar_one()


def _read(campaign: Campaign, journal: Path) -> None:
    """Remember what the worker has committed. The journal does not say how its last plan ended."""
    planned = {}
    for line in journal.read_text(encoding="utf-8").splitlines():
        what, number, changes, added = json.loads(line)
        if what == "planned":
            planned[number] = changes, added
        else:
            found = planned.pop(number)
            if what == "committed":
                campaign.keep(number, *found)
    for number, (changes, added) in planned.items():
        if campaign.has_committed(number):
            campaign.keep(number, changes, added)
