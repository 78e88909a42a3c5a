"""A rebuild whose process was killed continues, and makes the same view."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from actionengine import Tenant
from actionengine.events.projections.projection import Projection
from tests.events.processes import FORKS, POINTS, open_storage, rebuild
from tests.events.showing import documents_left, view_of
from tests.events.stock import add_up, folded, history, moved, stock_engine

EVENTS = 120
KILLS = 2
"""The second kill is for a rebuild that continues."""


def kill_a_rebuild(url: str, tenant: Tenant, point: str, dice: random.Random) -> int | None:
    """Return the exit code of the process."""
    hearing, telling = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=rebuild, args=(url, tenant, point, telling))
    process.start()
    telling.close()
    if point == "anywhere":
        hearing.recv()
        time.sleep(dice.uniform(0.0, 0.05))
        process.kill()
    process.join(180)
    return process.exitcode


@pytest.mark.parametrize(
    ("kind", "point"),
    [
        pytest.param(kind, point, marks=() if (number % 2 == 0) == (kind == "sqlite") else pytest.mark.soak)
        for number, point in enumerate(POINTS)
        for kind in ("sqlite", "postgres")
    ],
)
def test_a_killed_rebuild_goes_on_and_comes_to_the_same(
    kind: str, point: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path / 'events.db'}"
    else:
        url = request.getfixturevalue("fresh_postgres_database").app_url
    dice = random.Random(point)
    with open_storage(url) as storage:
        tenant = storage.create_tenant(slug="acme", name="Acme")
        engine = stock_engine(storage)
        for by in range(EVENTS):
            moved(engine, tenant, item=f"item-{by % 7}", by=by - 20)
        live = Projection(engine, name="levels", apply=add_up, batch_size=10)
        live.catch_up(tenant).unwrap()
        expected = folded(history(engine, tenant))

        for _ in range(KILLS):
            assert kill_a_rebuild(url, tenant, point, dice) in {-signal.SIGKILL, 0 if point == "anywhere" else -9}
            assert view_of(storage, live, tenant) == expected

        status = live.status(tenant).unwrap()
        if point in ("between batches", "in a batch"):
            assert (status.generation, status.rebuilding is None) == (1, False)
        applied = live.rebuild(tenant).unwrap()
        after = live.status(tenant).unwrap()

        assert view_of(storage, live, tenant) == expected
        assert (after.lag, after.rebuilding) == (0, None)
        if point == "between batches":
            assert applied < EVENTS
        for generation in range(1, after.generation):
            assert documents_left(storage, tenant, "levels", generation) == 0
