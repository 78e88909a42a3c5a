"""A process that rebuilds a projection, to be killed: by itself at a point that it is given, or from outside."""

from __future__ import annotations

import os
import signal
import sys
from itertools import count
from typing import Any
from uuid import UUID

from actionengine import PostgresStorage, SQLiteStorage, Tenant
from actionengine.events.event import Event
from actionengine.events.projections.projection import Projection
from actionengine.events.projections.views import View
from tests.events.stock import add_up, stock_engine

POINTS = ("between batches", "in a batch", "while the old generation is removed", "anywhere")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def open_storage(url: str) -> Any:
    return SQLiteStorage(url, busy_timeout=60.0) if url.startswith("sqlite") else PostgresStorage(url)


def rebuild(url: str, tenant: Tenant, point: str) -> None:
    applied = count(1)

    def apply(event: Event, view: View) -> None:
        add_up(event, view)
        if point == "in a batch" and next(applied) == 27:
            die()

    def discard(view: View) -> None:
        if point == "while the old generation is removed":
            die()

    def progress(done: int, total: int) -> None:
        print(done, flush=True)
        if point == "between batches" and done >= 40:
            die()

    with open_storage(url) as storage:
        engine = stock_engine(storage)
        projection = Projection(engine, name="levels", apply=apply, batch_size=10, discard=discard)
        projection.rebuild(tenant, progress).unwrap()


if __name__ == "__main__":
    rebuild(sys.argv[1], Tenant(UUID(sys.argv[2]), "acme"), sys.argv[3])
