"""Processes, forked from a server that has imported the library, that deliver to an inbox or rebuild a projection."""

from __future__ import annotations

import multiprocessing
import os
import signal
from itertools import count
from multiprocessing.connection import Connection
from typing import Any

from returns.result import Failure

from actionengine import ActionContext, ErrorCode, PostgresStorage, SQLiteStorage, Tenant
from actionengine.events.consumers.inbox import Inbox
from actionengine.events.event import Event
from actionengine.events.projections.projection import Projection
from actionengine.events.projections.views import View
from tests.events.stock import add_up, history, stock_engine

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pytest", __name__])

POINTS = ("between batches", "in a batch", "while the old generation is removed", "anywhere")
"""The points at which a rebuild is killed: by itself, or from outside."""


def open_storage(url: str) -> SQLiteStorage | PostgresStorage:
    return SQLiteStorage(url, busy_timeout=60.0) if url.startswith("sqlite") else PostgresStorage(url)


def note(event: Event, ctx: ActionContext) -> None:
    """Insert a document. Fails with a conflict if it runs twice for an event."""
    ctx.records("notes").insert({"by": event.payload["by"]}, event.id)


def deliver_all(url: str, tenant: Tenant, go: Any, number: Any) -> None:
    """Deliver all events of a tenant to an inbox, and add those that it took in to `number`."""
    engine = stock_engine(open_storage(url))
    inbox = Inbox(engine, "shelf")
    events = history(engine, tenant)
    go.wait(90)
    taken_in = 0
    for event in events:
        while isinstance(answer := inbox.handle(event, note), Failure):
            assert answer.failure().code in {ErrorCode.CONFLICT, ErrorCode.UNAVAILABLE}, answer
        taken_in += answer.unwrap()
    with number.get_lock():
        number.value += taken_in


def rebuild(url: str, tenant: Tenant, point: str, started: Connection) -> None:
    """Rebuild a projection, and die at a point. `started` gets the progress."""
    applied = count(1)

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def apply(event: Event, view: View) -> None:
        add_up(event, view)
        if point == "in a batch" and next(applied) == 27:
            die()

    def discard(view: View) -> None:
        if point == "while the old generation is removed":
            die()

    def progress(done: int, total: int) -> None:
        started.send(done)
        if point == "between batches" and done >= 40:
            die()

    with open_storage(url) as storage:
        projection = Projection(stock_engine(storage), name="levels", apply=apply, batch_size=10, discard=discard)
        projection.rebuild(tenant, progress).unwrap()
