"""Edge cases of the inbox: an event that another delivery holds is not taken in yet."""

from __future__ import annotations

from typing import Any

import pytest
from returns.result import Success

from actionengine import ErrorCode, InMemoryStorage
from actionengine.concurrency.run_sync import run_sync
from actionengine.events.consumers.inbox import INBOX, Inbox
from actionengine.events.event import Event
from actionengine.testing import SyncBackend
from tests.events.stock import Stock


def note(event: Event, ctx: Any) -> None:
    ctx.records("notes").insert({}, event.id)


@pytest.mark.parametrize("fails", [True, False])
def test_a_delivery_waits_for_the_end_of_another_one(fails: bool) -> None:
    backend = SyncBackend(InMemoryStorage())
    stock = Stock(backend)
    run_sync(stock.move("nail"))
    (event,) = run_sync(stock.events())
    inbox = Inbox(stock.engine, "shelf")
    other = backend.unit()
    run_sync(other.records(INBOX).insert({"type": event.type}, f"shelf/{event.id}"))

    held = inbox.handle(event, note).failure()
    assert held.code is ErrorCode.CONFLICT
    assert run_sync(backend.ids("notes")) == []

    run_sync(other.rollback() if fails else other.commit())
    assert inbox.handle(event, note) == Success(fails)
    assert run_sync(backend.ids("notes")) == ([event.id] if fails else [])


def test_a_mark_counts_for_its_consumer_and_its_event_alone() -> None:
    backend = SyncBackend(InMemoryStorage())
    stock = Stock(backend)
    run_sync(stock.move("nail"))
    run_sync(stock.move("screw"))
    first, second = run_sync(stock.events())
    assert Inbox(stock.engine, "shelf").handle(first, note) == Success(True)
    assert Inbox(stock.engine, "shelf").handle(second, note) == Success(True)
    assert Inbox(stock.engine, "shelf").handle(first, note) == Success(False)
    assert Inbox(stock.engine, "other").handle(first, lambda event, ctx: None) == Success(True)
    assert sorted(run_sync(backend.ids(INBOX))) == sorted(
        [f"shelf/{first.id}", f"shelf/{second.id}", f"other/{first.id}"]
    )
