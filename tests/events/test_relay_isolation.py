"""Decisions of a tenant about dead letters, in transactions of each isolation level, beside a relay that looks."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest
from examples.embedded_postgres import Database

from actionengine import PostgresStorage, Tenant
from actionengine.concurrency.run_sync import run_sync
from actionengine.storage.outbox import EVENTS, FailedDelivery, Outbox
from actionengine.storage.port import UnitOfWork
from actionengine.storage.rows import Recording
from actionengine.testing.backend import make_tenant
from actionengine.testing.rows import event_row

LEASE = 30.0


class Host:
    """A storage with this isolation level, and a relay of it."""

    def __init__(self, storage: PostgresStorage) -> None:
        self.storage = storage
        self.tenant: Tenant = make_tenant()
        self.relay: Outbox = storage.outbox("sync")

    def unit(self) -> UnitOfWork:
        """Return a unit of work of the tenant."""
        return self.storage.unit_of_work(self.tenant, str(uuid4()), "sync")

    def emit(self) -> str:
        """Commit an event about the one subject; return its id."""
        row, unit = event_row(self.tenant, subject="jobs/1"), self.unit()
        run_sync(unit.record(Recording((), [row])))
        run_sync(unit.commit())
        return row.id

    def look(self) -> list[str]:
        """Take what is due and deliver it; return the ids."""
        batch = run_sync(self.relay.take(100, LEASE))
        if batch:
            run_sync(self.relay.settle(batch, ()))
        return [pending.event.id for pending in batch]

    def kill(self) -> str:
        """Commit an event, and make a dead letter of it."""
        id = self.emit()
        (pending,) = run_sync(self.relay.take(100, LEASE))
        run_sync(self.relay.settle((), [FailedDelivery(pending, "no route", None)]))
        return id


@pytest.fixture(params=["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def host(request: pytest.FixtureRequest, fresh_postgres_database: Database) -> Iterator[Host]:
    """Return a host of each isolation level, with an outbox of its own."""
    with PostgresStorage(fresh_postgres_database.app_url, isolation_level=request.param) as storage:
        host = Host(storage)
        yield host
        run_sync(host.relay.close())


@pytest.mark.parametrize("emits_later", [False, True])
@pytest.mark.parametrize("skips", [False, True])
def test_no_event_stays_behind_a_letter_that_was_decided(host: Host, emits_later: bool, skips: bool) -> None:
    dead = host.kill()
    behind = [] if emits_later else [host.emit()]
    unit = host.unit()
    assert len(run_sync(unit.dead_letters(EVENTS))) == 1
    if emits_later:
        behind.append(host.emit())
    # The relay marks what is behind the dead letter, which the open transaction need not see.
    assert host.look() == []

    decided = run_sync(unit.skip(EVENTS, [dead], "no")) if skips else run_sync(unit.redrive(EVENTS, [dead]))
    run_sync(unit.commit())

    assert decided == [dead]
    delivered = host.look() + host.look()
    assert delivered == ([] if skips else [dead]) + behind
    assert host.look() == []
    assert run_sync(host.relay.status()).held == 0
