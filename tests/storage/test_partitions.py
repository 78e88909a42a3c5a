"""Monthly partitions of the action log and of the events, on a real server."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from time import monotonic, time
from typing import Any
from uuid import UUID

import psycopg
import pytest
from examples.embedded_postgres import Database
from pydantic import BaseModel
from returns.result import Result, Success
from sqlalchemy import Connection

from actionengine import (
    Action,
    ActionContext,
    ActionError,
    Actor,
    CallbackPublisher,
    Engine,
    ErrorCode,
    PostgresStorage,
    Projection,
    Relay,
    RequestContext,
    Tenant,
    create_action,
    create_engine,
    create_service,
)
from actionengine.storage.sql.maintenance import partitions, work
from actionengine.storage.sql.maintenance.months import GROUPS, KEYS, Month
from actionengine.storage.sql.maintenance.partitions import detach_partitions, drop_partitions, list_partitions
from tests.command_line import run_command
from tests.storage.partitioned import catalog, id_at, maintenance, make, write_event, write_log
from tests.waiting import wait_until

NOW = datetime.now(UTC)
MONTH = Month.of(NOW)
ALL = tuple(GROUPS)


class Book(BaseModel):
    job: str


def book(data: Book, ctx: ActionContext) -> Result[str, ActionError]:
    ctx.emit("jobs.booked", {"job": data.job}, subject=f"jobs/{data.job}")
    return Success(data.job)


BOOK: Action = create_action(name="book", description="Book a job", handler=book, validation=Book)


class Host:
    """A host on the database, with one tenant."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.storage = PostgresStorage(database.app_url)
        self.tenant: Tenant = self.storage.create_tenant(slug="acme", name="Acme")
        service = create_service(name="jobs", description="Jobs", actions=[BOOK])
        self.engine: Engine = create_engine(services=[service], storage=self.storage)
        self.context = RequestContext(self.tenant, Actor.system(), reason="a call")

    def book(self, job: str) -> None:
        self.engine.execute_action("jobs", "book", {"job": job}, self.context).unwrap()

    def logged(self, **query: object) -> list[UUID]:
        page = self.engine.execute_action("action_log", "list", {"limit": 1000, **query}, self.context).unwrap()
        return [UUID(entry.id) for entry in page.items]

    def pages(self, size: int) -> list[UUID]:
        """The whole log, read in pages, without the rows of these reads."""
        found: list[UUID] = []
        before: str | None = str(UUID(int=(1 << 128) - 1))
        while before is not None:
            query = {"limit": size, "before": before, "action": "jobs.book"}
            page = self.engine.execute_action("action_log", "list", query, self.context).unwrap()
            found += (UUID(entry.id) for entry in page.items)
            before = page.next
        return found

    def positions(self) -> list[int]:
        return [stored.position for stored in self.storage.read_events(self.tenant, after=0, limit=1000)]

    def deliver(self) -> int:
        return Relay(self.storage, CallbackPublisher(lambda events: None)).drain()


@pytest.fixture
def host(fresh_postgres_database: Database) -> Iterator[Host]:
    host = Host(fresh_postgres_database)
    yield host
    host.storage.close()


def attached(database: Database, parent: str) -> list[str]:
    with maintenance(database).begin() as connection:
        found = list_partitions(connection)
    return [str(each.month) for each in found if (each.parent, each.state) == (parent, "attached")]


def months_from(first: Month, number: int) -> list[str]:
    return [str(first.plus(each)) for each in range(number)]


def executed(connection: psycopg.Connection, statement: str) -> int:
    return connection.execute(statement.encode()).rowcount


# Make


def test_a_host_works_on_while_its_tables_are_partitioned(host: Host) -> None:
    host.book("before")

    make(host.database, NOW)
    host.book("after")

    assert len(host.logged(action="jobs.book")) == 2
    assert len(host.logged(subject="jobs/after")) <= 1
    assert len(host.positions()) == 2
    assert host.deliver() == 2
    # Rows of this month were there, so that it has no partition of the log. Events have new positions.
    assert attached(host.database, "ae_action_log") == months_from(MONTH.plus(1), 3)
    assert attached(host.database, "ae_events") == months_from(MONTH, 4)
    assert host.positions()[-1] == MONTH.first_position
    granted = run_command("db", "upgrade", "--app-role", "app", "--url", host.database.owner_url)
    assert granted.returncode == 0, granted.stderr
    assert run_command("db", "check", "--url", host.database.app_url).returncode == 0


def test_make_again_makes_only_what_is_missing(fresh_postgres_database: Database) -> None:
    first = make(fresh_postgres_database, NOW, 1)
    before = catalog(fresh_postgres_database)

    again = make(fresh_postgres_database, NOW, 1)
    assert (again.steps, catalog(fresh_postgres_database)) == ([], before)
    further = make(fresh_postgres_database, NOW, 2)

    assert len(first.steps) == 5
    assert [step.details["months"] for step in further.steps] == [[str(MONTH.plus(2))]] * 2
    for parent in KEYS:
        assert attached(fresh_postgres_database, parent) == months_from(MONTH, 3)


def test_a_dry_run_changes_nothing_and_its_sql_does_the_same(
    fresh_postgres_database: Database, postgres_server: str
) -> None:
    url = fresh_postgres_database.owner_url
    before = catalog(fresh_postgres_database)

    printed = run_command("db", "partition", "make", "--months", "2", "--dry-run", "--url", url)
    assert (printed.returncode, catalog(fresh_postgres_database)) == (0, before)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(printed.stdout.encode())

    for parent in KEYS:
        assert attached(fresh_postgres_database, parent) == months_from(MONTH, 3)
    assert make(fresh_postgres_database, NOW, 2).steps == []


def test_rows_of_a_wrong_clock_go_to_the_default_partition(host: Host) -> None:
    make(host.database, NOW)
    past, future = datetime(1970, 1, 2, tzinfo=UTC), MONTH.plus(5).start + timedelta(days=3)

    rows = [write_log(host.database, host.tenant, time) for time in (past, future)]
    made = make(host.database, NOW, 6)

    assert host.logged() == [rows[1].id, rows[0].id]
    assert host.logged(subject=rows[0].subject) == [rows[0].id]
    # All months but that one.
    assert attached(host.database, "ae_action_log") == months_from(MONTH, 5) + months_from(MONTH.plus(6), 1)
    assert made.notes == [
        f"log: {MONTH.plus(5)} gets no partition, because the default partition holds rows of it. They stay there: "
        "`actionengine retention run` deletes them in time"
    ]


def test_a_large_default_partition_is_scanned_unlocked(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "MAX_SCANNED_BYTES", 0)
    host.book("1")

    made = make(host.database, NOW, 2)

    titles = [step.title for step in made.steps if step.details["of"] == "log"]
    label = f"{MONTH.plus(1)} to {MONTH.plus(2)}"
    assert titles == [
        "log: the tables become default partitions",
        f"log: a constraint that no row of the default partitions is of {label}",
        "log: scan the default partitions",
        f"log: make the partitions of {label}",
    ]
    with psycopg.connect(host.database.owner_url) as owner:
        left = owner.execute("SELECT conname FROM pg_constraint WHERE starts_with(conname::text, 'ae_making')")
        assert left.fetchall() == []
    assert attached(host.database, "ae_action_log_words") == months_from(MONTH.plus(1), 2)


def test_a_constraint_of_a_killed_run_is_removed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    make(host.database, NOW, 0)
    monkeypatch.setattr(partitions, "MAX_SCANNED_BYTES", 0)
    with maintenance(host.database).begin() as connection:
        plan = partitions.plan_make(connection, ["log"], 3, NOW)
        partitions._run(connection, plan.steps[0].statements)
    assert "ae_making" in run_command("db", "check", "--url", host.database.app_url).stderr

    # The next run wants other months.
    made = make(host.database, NOW, 0)

    assert [step.details.get("constraint", "")[:10] for step in made.steps] == ["ae_making_"]
    assert run_command("db", "check", "--url", host.database.app_url).returncode == 0


@pytest.mark.parametrize("steps", [1, 2])
def test_a_killed_run_of_make_refuses_no_row(host: Host, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    make(host.database, NOW, 0)
    monkeypatch.setattr(partitions, "MAX_SCANNED_BYTES", 0)
    late = MONTH.plus(2).start + timedelta(days=1)
    for _ in range(steps):
        with maintenance(host.database).begin() as connection:
            partitions._run(connection, partitions.plan_make(connection, ["log"], 3, NOW).steps[0].statements)

    row = write_log(host.database, host.tenant, late)
    made = make(host.database, NOW, 3, ["log"])

    assert attached(host.database, "ae_action_log") == [str(MONTH), str(MONTH.plus(1)), str(MONTH.plus(3))]
    assert [note.split(":")[1] for note in made.notes] == [
        f" {MONTH.plus(2)} gets no partition, because the default partition holds rows of it. They stay there"
    ]
    assert row.id in host.logged()
    assert run_command("db", "check", "--url", host.database.app_url).returncode == 0


def test_the_scan_before_replaces_the_one_under_the_lock(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    make(host.database, NOW, 0, ["log"])
    monkeypatch.setattr(partitions, "MAX_SCANNED_BYTES", 0)
    notices: list[str] = []
    for _ in range(3):
        with maintenance(host.database).begin() as connection:
            driver: Any = connection.connection.driver_connection
            driver.add_notice_handler(lambda notice: notices.append(notice.message_primary))
            connection.exec_driver_sql("SET LOCAL client_min_messages = debug1")
            partitions._run(connection, partitions.plan_make(connection, ["log"], 1, NOW).steps[0].statements)

    implied = [each for each in notices if "default partition" in each and "is implied by existing constraints" in each]
    assert len(implied) == len(GROUPS["log"])
    scanned = [each for each in notices if each.startswith("verifying table") and each.endswith('_default"')]
    assert len(scanned) == len(GROUPS["log"])


def test_a_row_that_comes_after_the_scan_is_found(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    make(host.database, NOW, 0)
    monkeypatch.setattr(partitions, "MAX_SCANNED_BYTES", 0)
    late, real = MONTH.plus(1).start + timedelta(days=1), partitions._run

    def run(connection: Connection, statements: Sequence[str]) -> None:
        if any("ATTACH" in statement for statement in statements) and not found:
            found.append(write_log(host.database, host.tenant, late).id)
        real(connection, statements)

    found: list[UUID] = []
    monkeypatch.setattr(partitions, "_run", run)
    # The rows that were there when the transaction began are not those that a lock reveals.
    with psycopg.connect(host.database.owner_url, autocommit=True) as owner:
        owner.execute("ALTER ROLE CURRENT_USER SET default_transaction_isolation = 'repeatable read'")
    try:
        make(host.database, NOW, 2, ["log"])
    finally:
        with psycopg.connect(host.database.owner_url, autocommit=True) as owner:
            owner.execute("ALTER ROLE CURRENT_USER RESET default_transaction_isolation")

    assert attached(host.database, "ae_action_log") == [str(MONTH), str(MONTH.plus(2))]
    assert found[0] in host.logged()


def test_a_run_that_is_killed_is_finished_by_the_next(host: Host) -> None:
    command = "from actionengine.cli import main; main()"
    arguments = ["db", "partition", "make", "--months", "2", "--url", host.database.owner_url]
    with psycopg.connect(host.database.app_url) as reader:
        # The log is converted, and the events are not: this transaction reads them.
        reader.execute("SELECT FROM public.ae_events")
        with subprocess.Popen([sys.executable, "-c", command, *arguments], env=os.environ) as process:
            wait_until(lambda: len(attached(host.database, "ae_action_log")) == 3)
            process.kill()
    assert attached(host.database, "ae_events") == []
    host.book("between")

    assert run_command(*arguments).returncode == 0

    assert attached(host.database, "ae_events") == months_from(MONTH, 3)
    assert attached(host.database, "ae_action_log") == months_from(MONTH, 3)
    host.book("after")
    assert host.deliver() == 2
    assert run_command("db", "check", "--url", host.database.app_url).returncode == 0


@pytest.mark.parametrize(("hours", "words"), [(2, "2.0 h ahead of"), (-9000, "9000.0 h behind")])
def test_a_clock_that_is_off_changes_nothing(
    host: Host, monkeypatch: pytest.MonkeyPatch, hours: int, words: str
) -> None:
    make(host.database, NOW, 0)
    before = catalog(host.database)
    monkeypatch.setattr(work, "time", lambda: time() + hours * 3600)

    for command in ("db partition make", "db partition drop --older-than 1d", "retention run --older-than 1d"):
        done = run_command(*command.split(), "--url", host.database.owner_url)
        assert done.returncode == 1
        assert words in done.stderr
    assert catalog(host.database) == before


def test_tables_that_others_name_are_not_converted(host: Host) -> None:
    with psycopg.connect(host.database.owner_url) as owner:
        owner.execute("CREATE VIEW audits WITH (security_invoker) AS SELECT id FROM public.ae_action_log")

    done = run_command("db", "partition", "make", "--url", host.database.owner_url)

    assert done.returncode == 5
    assert "while other objects name them: the view audits" in done.stderr.replace("public.", "")
    assert attached(host.database, "ae_action_log") == []


def test_a_signed_database_is_partitioned(host: Host) -> None:
    key = "a signing key of enough bytes"
    assert run_command("db", "sign", "--url", host.database.owner_url, "--signing-key", key).returncode == 0

    make(host.database, NOW)

    with PostgresStorage(host.database.app_url, signing_key=key) as storage:
        engine = create_engine(services=[], storage=storage)
        role = {"name": "csr", "allow": [{"permission": "jobs.book"}]}
        engine.execute_action("roles", "define", role, host.context).unwrap()
        assert len(storage.read_events(host.tenant, after=0, limit=10)) == 1


def test_a_lock_that_is_not_free_is_a_clear_refusal(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "ATTEMPTS", 2)
    monkeypatch.setattr(work, "LOCK_TIMEOUT", 0.05)
    before = catalog(host.database)
    with psycopg.connect(host.database.owner_url) as reader:
        reader.execute("SELECT FROM public.ae_action_log")

        done = run_command("db", "partition", "make", "--url", host.database.owner_url)

    assert done.returncode == 5
    assert "2 attempts waited 0.05 s each for a lock. Nothing was changed" in done.stderr
    assert catalog(host.database) == before


# Many partitions


def test_reading_and_writing_go_on_across_months(host: Host) -> None:
    first = MONTH.plus(-32)
    make(host.database, first.start, 35)
    times = [first.plus(number).start + timedelta(days=10) for number in range(0, 32, 4)]
    boundary = MONTH.start
    times += [boundary - timedelta(milliseconds=1), boundary, NOW]
    rows = [write_log(host.database, host.tenant, time, subject="jobs/1") for time in times]
    positions = [write_event(host.database, host.tenant, time) for time in times]
    make(host.database, NOW, 0)
    host.book("1")

    newest_first = [row.id for row in reversed(rows)]
    assert host.logged()[-len(rows) :] == newest_first
    assert host.logged(subject="jobs/1")[-len(rows) :] == newest_first
    assert host.logged(text="CALL")[-len(rows) :] == newest_first
    assert host.logged(until=boundary.isoformat(), since=(boundary - timedelta(days=1)).isoformat()) != []
    assert host.pages(3) == host.logged(action="jobs.book")
    assert len(host.pages(3)) == len(rows) + 1
    assert host.positions() == [*positions, MONTH.first_position]
    assert host.deliver() == len(host.positions())


def test_the_app_role_reaches_no_partition_by_its_name(host: Host) -> None:
    make(host.database, NOW)
    host.book("1")
    with maintenance(host.database).begin() as connection:
        tables = [each.table for each in list_partitions(connection)]
    assert len(tables) == 5 * 5

    with psycopg.connect(host.database.app_url, autocommit=True) as app:
        app.execute("SELECT set_config('app.tenant_id', %s, false)", (str(host.tenant.id),))
        app.execute("SELECT set_config('app.action_id', 'x', false)")
        for table in tables:
            for statement in ("SELECT FROM {}", "DELETE FROM {}", "INSERT INTO {} DEFAULT VALUES", "TRUNCATE {}"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    app.execute(statement.format(f"public.{table}").encode())
    with psycopg.connect(host.database.owner_url, autocommit=True) as owner:
        for table in tables:
            assert executed(owner, f"SELECT FROM public.{table}") == 0
            for statement in ("DELETE FROM {}", "UPDATE {} SET tenant_id = NULL", "TRUNCATE {}"):
                with pytest.raises(psycopg.DatabaseError, match="it is append-only"):
                    owner.execute(statement.format(f"public.{table}").encode())


def test_default_privileges_give_no_right_on_a_partition(host: Host) -> None:
    with psycopg.connect(host.database.owner_url) as owner:
        owner.execute("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO app")

    make(host.database, NOW, 1)

    assert run_command("db", "check", "--url", host.database.app_url).returncode == 0


def test_a_check_finds_a_partition_that_lost_its_protection(host: Host) -> None:
    make(host.database, NOW, 0)
    table = MONTH.table("ae_action_log")
    with psycopg.connect(host.database.owner_url) as owner:
        owner.execute(f"DROP TRIGGER ae_append_only ON public.{table}".encode())
        owner.execute(f"GRANT SELECT ON public.{table} TO app".encode())

    done = run_command("db", "check", "--url", host.database.app_url)

    assert done.returncode == 1
    assert f"{table}: the trigger ae_append_only is missing" in done.stderr
    assert "the role may use it directly" in done.stderr


# Detach and drop


@pytest.fixture
def past(host: Host) -> Month:
    """A month that has ended, with a partition, a row of the log and a delivered event."""
    month = MONTH.plus(-2)
    make(host.database, month.start, 4)
    write_log(host.database, host.tenant, month.start + timedelta(days=1))
    write_event(host.database, host.tenant, month.start + timedelta(days=1), delivered=True)
    make(host.database, NOW, 0)
    return month


def test_a_month_is_detached_and_dropped_with_a_record(host: Host, past: Month) -> None:
    url = host.database.owner_url
    host.book("1")
    options = ("--as", "human:ada", "--reason", "13 months are over", "--url", url)

    refused = run_command("db", "partition", "drop", str(past), *options)
    assert (refused.returncode, attached(host.database, "ae_events")[0]) == (5, str(past))
    assert run_command("db", "partition", "detach", str(past), *options).returncode == 0
    assert (len(host.logged()), len(host.positions())) == (1, 1)
    with psycopg.connect(url) as owner:
        # The owner can archive it.
        assert executed(owner, f"SELECT FROM public.{past.table('ae_action_log')}") == 1
    assert run_command("db", "check", "--url", host.database.app_url).returncode == 0
    assert run_command("db", "partition", "drop", str(past), *options).returncode == 0

    tables = {name for _, name, *_ in catalog(host.database)}
    assert not {past.table(parent) for parent in KEYS} & tables
    history = run_command("retention", "history", "--url", url).stdout
    assert history.count("reason: 13 months are over") == 4
    assert f'"{past.table("ae_action_log")}": 1' in history
    assert run_command("db", "partition", "detach", str(past), *options).returncode == 3


def test_drop_takes_all_months_that_are_older(host: Host, past: Month) -> None:
    url = host.database.owner_url
    before = catalog(host.database)

    # The month after `past` ended less than a month ago.
    dry = run_command("db", "partition", "drop", "--older-than", "1mo", "--dry-run", "--url", url)
    assert (dry.returncode, catalog(host.database)) == (0, before)
    assert f"DROP TABLE public.{past.table('ae_action_log')}, " in dry.stdout
    done = run_command("db", "partition", "drop", "--older-than", "1mo", "--url", url)

    assert done.returncode == 0, done.stderr
    assert attached(host.database, "ae_action_log")[0] == str(past.plus(1))
    assert host.logged() == []


def test_events_that_are_not_delivered_stay(host: Host) -> None:
    month = MONTH.plus(-2)
    make(host.database, month.start, 4)
    write_event(host.database, host.tenant, month.start)
    make(host.database, NOW, 0)

    for dry_run in (True, False):
        with pytest.raises(ActionError, match="the queue events has 1 that are not delivered") as refused:
            detach_partitions(maintenance(host.database), ["events"], month, NOW, dry_run=dry_run)
        assert refused.value.code is ErrorCode.CONFLICT
    assert len(host.positions()) == 1

    assert host.deliver() == 1
    detach_partitions(maintenance(host.database), ["events"], month, NOW)
    assert host.positions() == []


def test_events_that_a_projection_has_not_read_stay(host: Host, past: Month) -> None:
    projection = Projection(engine=host.engine, name="bookings", apply=lambda event, view: None)
    projection.catch_up(host.tenant)
    behind = write_event(host.database, host.tenant, NOW, delivered=True)
    assert behind >= MONTH.first_position
    with psycopg.connect(host.database.owner_url) as owner:
        owner.execute("SELECT set_config('app.maintenance', 'on', true)")
        owner.execute(
            "UPDATE public.ae_documents SET data = jsonb_set(data::jsonb, '{position}', '1')::json"
            " WHERE collection = 'ae_projections'"
        )

    with pytest.raises(ActionError, match="the projection bookings has not read those of 1 tenants"):
        detach_partitions(maintenance(host.database), ALL, past, NOW)
    assert attached(host.database, "ae_action_log")[0] == str(past)
    done = detach_partitions(maintenance(host.database), ALL, past, NOW, ["bookings"])

    assert [step.details["of"] for step in done] == ["events", "log"]


def test_a_month_that_has_not_ended_stays(host: Host) -> None:
    make(host.database, NOW)

    for month in (MONTH, MONTH.plus(1)):
        done = run_command("db", "partition", "detach", str(month), "--url", host.database.owner_url)
        assert (done.returncode, "has not ended" in done.stderr) == (5, True)


def test_a_partition_is_dropped_under_writers(host: Host, past: Month) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []
    booked: list[str] = []

    def write(number: int) -> None:
        while not stop.is_set():
            job = f"{number}-{len(booked)}"
            try:
                host.book(job)
                host.logged(subject=f"jobs/{job}")
                host.positions()
            except BaseException as error:
                failures.append(error)
                return
            booked.append(job)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for writer in writers:
        writer.start()
    try:
        while len(booked) < 5 and not failures:
            pass
        make(host.database, NOW, 6)
        detach_partitions(maintenance(host.database), ALL, past, NOW)
        drop_partitions(maintenance(host.database), ALL, past)
        target = len(booked) + 5
        while len(booked) < target and not failures:
            pass
    finally:
        stop.set()
        for writer in writers:
            writer.join()

    assert failures == []
    assert len(host.positions()) == len(booked)
    assert len(host.logged(action="jobs.book")) == min(len(booked), 1000)


@pytest.mark.soak
def test_commands_that_are_killed_at_random_lose_nothing(host: Host) -> None:
    random = Random(17)
    command = [sys.executable, "-c", "from actionengine.cli import main; main()", "db", "partition"]
    first = MONTH.plus(-30)
    make(host.database, first.start, 30)
    make(host.database, NOW, 0)
    kept = [write_log(host.database, host.tenant, first.plus(number).start).id for number in range(12, 31, 3)]
    calls = [["make", "--months", "12"]] + [["drop", "--older-than", f"{age}mo"] for age in range(30, 18, -1)]
    booked = 0
    for call in calls:
        with subprocess.Popen(
            [*command, *call, "--url", host.database.owner_url], stderr=subprocess.DEVNULL
        ) as process:
            deadline = monotonic() + random.uniform(0.5, 2.5)
            while monotonic() < deadline and process.poll() is None:
                host.book(str(booked))
                booked += 1
            process.kill()
        assert run_command("db", "partition", *call, "--url", host.database.owner_url).returncode == 0
        assert run_command("db", "check", "--url", host.database.app_url).returncode == 0
    assert len(host.positions()) == min(booked, 1000)
    assert set(kept) <= set(host.pages(100))
    assert attached(host.database, "ae_action_log")[-1] == str(MONTH.plus(12))


# Refusals


def test_sqlite_has_no_partitions(run: object) -> None:
    for command in (("make",), ("list",), ("detach", "2026-01"), ("drop", "2026-01")):
        done = run_command("db", "partition", *command, "--url", "sqlite:///shop.db")
        assert (done.returncode, done.stdout) == (2, "")
        assert "`actionengine retention run` deletes old rows there" in done.stderr


def test_the_app_role_is_told_to_be_the_owner(host: Host) -> None:
    for command in ("make", "list"):
        done = run_command("db", "partition", command, "--url", host.database.app_url)
        assert done.returncode == 1
        assert "the role 'app' does not own the tables: connect as 'owner'" in done.stderr


@pytest.mark.parametrize("arguments", [("detach",), ("drop", "2026-13"), ("drop", "2026-01", "--older-than", "1y")])
def test_a_month_is_named_once_and_well(host: Host, arguments: tuple[str, ...]) -> None:
    done = run_command("db", "partition", *arguments, "--url", host.database.owner_url)

    assert done.returncode == 2


def test_the_list_fits_a_terminal(host: Host, past: Month) -> None:
    listed = run_command("db", "partition", "list", "--url", host.database.owner_url, COLUMNS="80")
    as_json = run_command("db", "partition", "list", "--json", "--url", host.database.owner_url)

    assert max(map(len, listed.stdout.splitlines())) <= 80
    assert f"  {past}  attached" in listed.stdout
    assert f'"from": "{past.first_position}"' in as_json.stdout


def test_every_table_beside_the_log_is_partitioned(host: Host) -> None:
    with psycopg.connect(host.database.owner_url) as owner:
        beside = owner.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND starts_with(relname::text, 'ae_action_log')"
        ).fetchall()

    assert {name for (name,) in beside} == set(GROUPS["log"])


def test_keys_of_months_are_in_order() -> None:
    for month in (Month(2026, 11), Month(2026, 12)):
        following = month.plus(1)
        assert month < following
        assert month.first_id < id_at(month.start + timedelta(days=20)) < following.first_id
        assert month.first_position < following.first_position
        assert Month.of(following.start - timedelta(microseconds=1)) == month
