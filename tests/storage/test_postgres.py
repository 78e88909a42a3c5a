"""`PostgresStorage`: the suite that every storage passes, as a restricted role on a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from examples.embedded_postgres import Database

from actionengine import PostgresStorage
from actionengine.driving import drive
from actionengine.storage.port import EventRow, Recording
from actionengine.storage.postgres.unit_of_work import PostgresUnitOfWork
from actionengine.testing import StorageConformance
from actionengine.testing.rows import event_row
from actionengine.testing.worlds import a_tenant


class TestPostgresStorage(StorageConformance):
    @pytest.fixture
    def storage(self, postgres_database: Database) -> Iterator[PostgresStorage]:
        with PostgresStorage(postgres_database.app_url) as storage:
            yield storage


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_an_event_that_commits_late_is_not_skipped(fresh_postgres_database: Database, end: str) -> None:
    tenant = a_tenant()
    early, late, other = (event_row(tenant) for _ in range(3))
    with PostgresStorage(fresh_postgres_database.app_url) as storage:

        def written(event: EventRow) -> PostgresUnitOfWork:
            """A unit of work that has its place in the event log, and has yet to commit."""
            unit = storage.unit_of_work(tenant, event.action_id, "sync")
            drive(unit.record(Recording((), (event,))))
            unit.make_savepoints()
            unit._driver.execute(*unit._recording())
            unit._recordings.clear()
            return unit

        first = written(late)
        second = written(early)
        drive(second.commit())

        assert list(storage.read_events(tenant)) == []
        drive(getattr(first, end)())
        drive(written(other).commit())

        found = [stored.event.id for stored in storage.read_events(tenant)]
        assert found == [late.id, early.id, other.id][end == "rollback" :]
