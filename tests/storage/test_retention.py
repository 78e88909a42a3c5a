"""`actionengine retention run` and `actionengine tenant purge`, on SQLite and on PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, nullcontext
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from examples.embedded_postgres import Database
from pydantic import BaseModel
from returns.result import Result, Success
from sqlalchemy import Column, MetaData, Table, Text, Uuid, create_engine, insert, select, text
from sqlalchemy.exc import IntegrityError

from actionengine import (
    ActionContext,
    ActionError,
    Actor,
    CallbackPublisher,
    Projection,
    Relay,
    RequestContext,
    Tenant,
    create_action,
    create_service,
    protect_table,
)
from actionengine import create_engine as create_action_engine
from actionengine.cli.common import owner
from actionengine.cli.maintenance import time_before
from actionengine.storage.sql.maintenance.leaving import delete_own_rows, own_tables
from actionengine.storage.sql.maintenance.months import Month
from actionengine.storage.sql.maintenance.partitions import detach_partitions
from actionengine.storage.sql.maintenance.retention import delete_old_log
from actionengine.storage.sql.maintenance.rows import SIDES
from actionengine.storage.sql.maintenance.sqlite import without_triggers
from actionengine.storage.sql.maintenance.work import Maintenance, act_for
from actionengine.storage.sql.protection import protect
from actionengine.storage.sql.storage import SQLStorage
from tests.backends import SQLITE_FILE, AnyStorage, open_storage, requested_database
from tests.changes.sync_harness import SyncHarness
from tests.command_line import run_command
from tests.storage.partitioned import make, write_event, write_log
from tests.waiting import wait_until

METADATA = MetaData()
NOTES = Table(
    "notes",
    METADATA,
    Column("tenant_id", Uuid, primary_key=True),
    Column("id", Text, primary_key=True),
)


class Book(BaseModel):
    job: str


def book(data: Book, ctx: ActionContext) -> Result[str, ActionError]:
    ctx.records("jobs").insert({"job": data.job})
    ctx.emit("jobs.booked", {"job": data.job}, subject=f"jobs/{data.job}")
    return Success(data.job)


def note(data: Book, ctx: ActionContext) -> Result[str, ActionError]:
    ctx.session.execute(insert(NOTES), {"tenant_id": ctx.tenant.id, "id": data.job})
    return Success(data.job)


ACTIONS = [
    create_action(name="book", description="Book", handler=book, validation=Book, idempotency="optional"),
    create_action(name="note", description="Note", handler=note, validation=Book),
]


class Host:
    """A host with two tenants on a database, and the command line of its owner."""

    def __init__(self, storage: AnyStorage, url: str) -> None:
        assert isinstance(storage, SQLStorage)
        self.storage = storage
        self.url = url
        service = create_service(name="jobs", description="Jobs", actions=ACTIONS)
        self.engine = create_action_engine(services=[service], storage=storage)
        self.acme = storage.create_tenant(slug="acme", name="Acme")
        self.globex = storage.create_tenant(slug="globex", name="Globex")

    def do(self, action: str, job: str, tenant: Tenant | None = None, **request: Any) -> None:
        actor = Actor.ai("bot", permissions=["*"], on_behalf_of=Actor.human("carla", permissions=["*"]))
        context = RequestContext(tenant or self.acme, actor, reason="A phone call", **request)
        self.engine.execute_action("jobs", action, {"job": job}, context).unwrap()

    def deliver(self) -> None:
        Relay(self.storage, CallbackPublisher(lambda event: None)).drain()

    def run(self, *arguments: str) -> Any:
        return run_command(*arguments, "--url", self.url, "--as", "human:ada")

    def retain(self, *options: str) -> Any:
        return self.run("retention", "run", *options)

    def counts(self, tenant: Tenant | None = None) -> dict[str, int]:
        """The rows of a tenant in each of the library's tables that has any."""
        found = {}
        id: Any = (tenant or self.acme).id
        with self.maintenance().begin() as connection:
            for table in own_tables(connection):
                statement = f"SELECT count(*) FROM {table} WHERE tenant_id = :id"
                if connection.dialect.name == "sqlite":
                    id = str(id)
                else:
                    statement = statement.replace(table, f"public.{table}")
                found[table] = connection.execute(text(statement), {"id": id}).scalar_one()
        return {table: rows for table, rows in found.items() if rows}

    def maintenance(self) -> Maintenance:
        return Maintenance(partial(owner, self.url), "human:ada")


@pytest.fixture(params=["sqlite", "postgres"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    database = requested_database(request, request.param, "fresh_postgres_database")
    url = f"sqlite:///{tmp_path / SQLITE_FILE}" if database is None else database.owner_url
    with open_storage(request.param, tmp_path, database) as storage:
        yield Host(storage, url)


@pytest.fixture
def all_are_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Move the clock of the command line by a week."""
    import actionengine.cli.retention as module

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(days=7)

    monkeypatch.setattr(module, "datetime", Later)


# Retention


def test_old_rows_go_with_all_that_is_beside_them(host: Host, all_are_old: None) -> None:
    for number in range(5):
        host.do("book", str(number))
    host.do("book", "other", host.globex)
    host.deliver()

    dry = host.retain("--older-than", "1d", "--dry-run")
    assert host.counts()["ae_action_log"] == 5
    done = host.retain("--older-than", "1d", "--batch", "2")

    assert dry.stdout == done.stdout.replace("deleted", "would be deleted")
    assert done.stdout == ("6 rows of the action log deleted\n6 events deleted\n0 expired keys and counters deleted\n")
    assert host.counts() == {"ae_documents": 5}
    # The tables are append-only again, and a host writes on.
    host.do("book", "after")
    assert host.counts() | {"ae_documents": 6} == {
        "ae_action_log": 1,
        "ae_action_log_principals": 1,
        "ae_action_log_subjects": 2,
        "ae_action_log_words": 3,
        "ae_documents": 6,
        "ae_events": 1,
        "ae_outbox": 1,
    }
    assert run_command("db", "check", "--url", app_url(host)).returncode == 0


def app_url(host: Host) -> str:
    return host.url.replace("//owner", "//app")


def test_newer_rows_stay(host: Host) -> None:
    host.do("book", "1")
    host.deliver()
    before = host.counts()

    done = host.retain("--older-than", "12h", "--of", "log", "--of", "events")

    assert done.stdout == "0 rows of the action log deleted\n0 events deleted\n"
    assert host.counts() == before


def test_events_that_are_needed_stay(host: Host, all_are_old: None) -> None:
    host.do("book", "1")
    projection = Projection(host.engine, name="bookings", apply=lambda event, view: None)
    projection.catch_up(host.acme).unwrap()
    host.deliver()
    host.do("book", "2")

    options = ("--older-than", "1d", "--of", "events")
    first = host.retain(*options, "--ignore-projection", "bookings")
    host.deliver()
    second = host.retain(*options)
    third = host.retain(*options, "--ignore-projection", "bookings")

    assert first.stdout == "1 events deleted, 1 are still needed\n"
    assert second.stdout == "0 events deleted, 1 are still needed\n"
    assert third.stdout == "1 events deleted\n"


def test_expired_keys_go(host: Host) -> None:
    host.do("book", "1", idempotency_key="key")
    with host.maintenance().begin() as connection:
        schema = "" if connection.dialect.name == "sqlite" else "public."
        expired = "'2020-01-01T00:00:00.000000+00:00'"
        act_for(connection, host.acme.id)
        connection.execute(text(f"UPDATE {schema}ae_idempotency_keys SET expires_at = {expired}"))

    dry = host.retain("--older-than", "1d", "--of", "keys", "--dry-run", "--json")
    done = host.retain("--older-than", "1d", "--of", "keys", "--json")

    assert '"rows": 1' in dry.stdout
    assert '"rows": 1' in done.stdout
    assert "ae_idempotency_keys" not in host.counts()


def test_history_says_who_removed_what_and_why(host: Host, all_are_old: None) -> None:
    host.do("book", "1")
    host.retain("--older-than", "1d", "--of", "log", "--reason", "after a year")

    shown = run_command("retention", "history", "--url", host.url)

    blocks = shown.stdout.splitlines()
    assert [line.split("  ")[1:] for line in blocks if line[:2] == "20"] == [
        ["retention", "acme"],
        ["retention.begin", "acme"],
    ]
    assert blocks[1:3] == ["  by human:ada", "  reason: after a year"]
    assert '"rows": 1' in blocks[3]


def test_the_record_stays_on_sqlite(tmp_path: Path) -> None:
    with open_storage("sqlite", tmp_path, None) as storage:
        host = Host(storage, f"sqlite:///{tmp_path / SQLITE_FILE}")
        with host.maintenance().begin() as connection:
            host.maintenance().record(connection, "retention", "acme", {})
        for statement in ("DELETE FROM ae_maintenance", "UPDATE ae_maintenance SET actor = 'human:bob'"):
            with pytest.raises(IntegrityError, match="it is append-only"), host.maintenance().begin() as connection:
                connection.execute(text(statement))
        insert_record = "INSERT INTO ae_maintenance (at, actor, operation, target, details) VALUES ('', '', '', '', '')"
        with host.maintenance().begin() as connection:
            act_for(connection, host.acme.id)
            with pytest.raises(IntegrityError, match="recorded by an operator"):
                connection.execute(text(insert_record))


def test_a_host_writes_while_old_rows_are_deleted(host: Host, all_are_old: None) -> None:
    for number in range(6):
        host.do("book", str(number))
    batches = delete_old_log(host.maintenance(), datetime.now(UTC) + timedelta(days=1), 2, False)
    next(batches)

    host.do("book", "between")

    assert sum(batch.rows for batch in batches) >= 4
    host.do("book", "after")
    assert host.counts()["ae_documents"] == 8


@pytest.mark.soak
def test_a_killed_retention_leaves_no_subject_without_its_row(host: Host) -> None:
    old = datetime.now(UTC) - timedelta(days=40)
    for number in range(60):
        host.do("book", str(number))
    before = (old + timedelta(days=39)).date().isoformat()
    # The rows become old: their ids are rewritten, as no clock of a host can be.
    _make_old(host, old)
    host.deliver()
    command = [sys.executable, "-c", "from actionengine.cli import main; main()", "retention", "run", "--batch", "1"]
    with subprocess.Popen([*command, "--older-than", before, "--url", host.url], stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: host.counts().get("ae_action_log", 0) < 55)
        process.kill()
    left = host.counts()
    assert 0 < left["ae_action_log"] < 60

    done = host.retain("--older-than", before)

    assert (done.returncode, host.counts()) == (0, {"ae_documents": 60})


def _make_old(host: Host, time: datetime) -> None:
    """Give all rows of the log and all events ids and times of the past."""
    url = host.url.replace("postgresql://owner", "postgresql+psycopg://postgres")
    engine = create_engine(url)
    with engine.begin() as connection:
        is_sqlite = connection.dialect.name == "sqlite"
        if is_sqlite:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        tables = ["ae_action_log", *SIDES, "ae_events"]
        with without_triggers(connection, tables) if is_sqlite else nullcontext():
            # The first twelve digits of an id are its time.
            prefix = f"{int(time.timestamp() * 1000):012x}"
            prefix = f"{prefix[:8]}-{prefix[8:]}"
            for table in tables[:-1]:
                column = "id" if table == "ae_action_log" else "log_id"
                new = f"'{prefix}' || substr(CAST({column} AS text), 14)"
                value = new if is_sqlite else f"CAST({new} AS uuid)"
                connection.exec_driver_sql(f"UPDATE {table} SET {column} = {value}")
            at = time.isoformat(timespec="microseconds")
            connection.execute(text("UPDATE ae_events SET occurred_at = :at"), {"at": at if is_sqlite else time})
    engine.dispose()


def test_an_age_that_is_none_is_refused() -> None:
    for age in ("13 months", "0d", "2999-01-01", "99999y", "-1d", "1", ""):
        done = run_command("retention", "run", f"--older-than={age}", "--url", "sqlite:///shop.db")
        assert (done.returncode, done.stdout) == (2, ""), age


def test_ages_are_spans_of_the_calendar() -> None:
    now = datetime(2027, 3, 31, 12, tzinfo=UTC)
    expected = {
        "1mo": datetime(2027, 2, 28, 12, tzinfo=UTC),
        "13mo": datetime(2026, 2, 28, 12, tzinfo=UTC),
        "3y": datetime(2024, 3, 31, 12, tzinfo=UTC),
        "4w": datetime(2027, 3, 3, 12, tzinfo=UTC),
        "36h": datetime(2027, 3, 30, tzinfo=UTC),
        "2027-01-01": datetime(2027, 1, 1, tzinfo=UTC),
    }

    assert {age: time_before(age, now) for age in expected} == expected


def test_retention_works_on_partitions(fresh_postgres_database: Database, tmp_path: Path, all_are_old: None) -> None:
    with open_storage("postgres", tmp_path, fresh_postgres_database) as storage:
        host = Host(storage, fresh_postgres_database.owner_url)
        host.do("book", "1")
        make(fresh_postgres_database, datetime.now(UTC))
        host.do("book", "2")
        host.deliver()

        done = host.retain("--older-than", "1d", "--batch", "1")

    assert done.stdout.startswith("2 rows of the action log deleted\n2 events deleted\n")


# A tenant that leaves


def test_a_tenant_leaves_and_no_row_remains(host: Host) -> None:
    for tenant in (host.acme, host.globex):
        for number in range(3):
            host.do("book", str(number), tenant, idempotency_key=str(number))
        _change(host, tenant)
    host.deliver()
    others = host.counts(host.globex)
    assert others["ae_changes"] == 2
    open_still = host.run("tenant", "purge", "--tenant", "acme")
    host.storage.delete_tenant(slug="acme")

    dry = host.run("tenant", "purge", "--tenant", "acme", "--dry-run")
    assert host.counts() == others
    done = host.run("tenant", "purge", "--tenant", "acme", "--batch", "2")
    again = host.run("tenant", "purge", "--tenant", "acme")

    assert open_still.returncode == 5
    assert "close it first, with `actionengine tenant delete acme`" in open_still.stderr
    assert sorted(dry.stdout.splitlines()) == sorted(
        line.replace("deleted", "would be deleted") for line in done.stdout.splitlines()
    )
    assert (done.returncode, host.counts()) == (0, {})
    assert again.stdout == "the tenant 'acme' has no rows\n"
    assert host.counts(host.globex) == others
    assert run_command("db", "check", "--url", app_url(host)).returncode == 0


def _change(host: Host, tenant: Tenant) -> None:
    """Merge a change of a record type that has a derived type, and draft the change that takes it back."""
    harness = SyncHarness(host.storage, tenant)
    project = harness.project()
    harness.record_type(project, "task", [{"name": "title", "type": "string"}])
    harness.record_type(project, "subtask", base="task")
    field = {"record_type": "task", "field": "due", "definition": {"type": "date"}}
    change = harness.draft(project, ("add_field", field))
    harness.do("changes.merge", change_id=change)
    harness.do("changes.plan_compensation", change_id=change, title="Take it back")


def test_undelivered_events_are_not_deleted_by_mistake(host: Host) -> None:
    host.do("book", "1")
    host.storage.delete_tenant(slug="acme")

    refused = host.run("tenant", "purge", "--tenant", "acme")
    done = host.run("tenant", "purge", "--tenant", "acme", "--undelivered")

    assert (refused.returncode, "1 events of the tenant are not delivered" in refused.stderr) == (5, True)
    assert (done.returncode, host.counts()) == (0, {})


def test_the_tables_of_the_host_are_named_or_emptied(host: Host) -> None:
    _protect(host)
    for tenant in (host.acme, host.globex):
        host.do("note", "n", tenant)
    host.deliver()
    host.storage.delete_tenant(slug="acme")

    without = host.run("tenant", "purge", "--tenant", "acme")
    with_them = host.run("tenant", "purge", "--tenant", "acme", "--metadata", f"{__name__}:METADATA")

    assert without.stdout.endswith("notes: 1 rows remain: it is a table of the host (see --metadata)\n")
    assert with_them.stdout == "notes: 1 rows deleted\n"
    assert _notes(host) == [host.globex.id]


def _protect(host: Host) -> None:
    with owner(host.url) as connection:
        NOTES.create(connection)
        protect(connection, "notes", None, "tenant_id", None if "sqlite" in host.url else "app")
    protect_table(NOTES)


def _notes(host: Host) -> list[UUID]:
    engine = create_engine(host.url.replace("postgresql://owner", "postgresql+psycopg://postgres"))
    with closing(engine.connect()) as connection:
        found = list(connection.execute(select(NOTES.c.tenant_id)).scalars())
    engine.dispose()
    return found


def test_a_purge_that_was_killed_is_finished_by_the_next(host: Host) -> None:
    for number in range(6):
        host.do("book", str(number))
    host.deliver()
    host.storage.delete_tenant(slug="acme")
    # The process is gone after the first batches.
    batches = delete_own_rows(host.maintenance(), "acme", host.acme.id, 2)
    next(batches)
    next(batches)
    del batches
    assert host.counts()["ae_action_log"] == 2

    done = host.run("tenant", "purge", "--tenant", "acme", "--batch", "2")

    assert (done.returncode, host.counts()) == (0, {})


def test_a_purge_reaches_every_partition(fresh_postgres_database: Database, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    month = Month.of(now).plus(-2)
    with open_storage("postgres", tmp_path, fresh_postgres_database) as storage:
        host = Host(storage, fresh_postgres_database.owner_url)
        make(fresh_postgres_database, month.start, 3)
        for tenant in (host.acme, host.globex):
            for time in (month.start, month.plus(1).start, datetime(1999, 1, 1, tzinfo=UTC)):
                write_log(fresh_postgres_database, tenant, time)
                write_event(fresh_postgres_database, tenant, time, delivered=True)
        detach_partitions(host.maintenance(), ["log", "events"], month, now)
        others = host.counts(host.globex)
        storage.delete_tenant(slug="acme")

        done = host.run("tenant", "purge", "--tenant", "acme")

        assert (done.returncode, host.counts(), host.counts(host.globex)) == (0, {}, others)
    assert others[month.table("ae_action_log_words")] == 2
    assert others["ae_action_log"] == 2


def test_an_unknown_tenant_and_another_role_are_refused(host: Host) -> None:
    assert host.run("tenant", "purge", "--tenant", "nobody").returncode == 3
    if "sqlite" not in host.url:
        done = run_command("tenant", "purge", "--tenant", "acme", "--url", app_url(host))
        assert "the role 'app' does not own the tables" in done.stderr
