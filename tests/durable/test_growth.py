"""The cost of queries to the durable engine does not grow with the number of ended executions."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, event, make_url, text

from actionengine.durable.client import DurableClient, Enqueued
from actionengine.durable.clock import release_due
from actionengine.durable.host import DurableFunction, DurableHost, opened
from actionengine.durable.urls import durable_url
from tests.durable.databases import Durable, eventually, postgres, sqlite

DAY = 24 * 3600 * 1000
SIZES = (200, 3200)

Statement = tuple[str, Any]


@pytest.fixture(params=["sqlite", "postgres"], scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Durable]]:
    """Two databases, one with many more executions. SQLite has no statistics; PostgreSQL creates its own."""
    made = []
    for size in SIZES:
        is_file = request.param == "sqlite"
        folder = tmp_path_factory.mktemp("durable")
        durable = sqlite(folder) if is_file else postgres(request.getfixturevalue("postgres_server"))
        for status in ("SUCCESS", "ERROR", "DELAYED"):
            fill(durable, size, status=status)
        fill(durable, size, name="others")
        fill_schedules(durable, size)
        if not is_file:
            owner = make_url(durable.url).set(drivername="postgresql", username="owner")
            with psycopg.connect(owner.render_as_string(hide_password=False), autocommit=True) as connection:
                connection.execute("ANALYZE")
        made.append(durable)
    yield made
    for each in made:
        each.end()


def fill(durable: Durable, number: int, name: str = "work", status: str = "SUCCESS", ago: int = 3 * DAY) -> None:
    """Add executions that ended, or wait, since some days; the database has no statistics of them."""
    engine = opened(durable_url(durable.url))
    schema, now = (
        ("", "strftime('%s') * 1000")
        if engine.dialect.name == "sqlite"
        else (
            "dbos.",
            "CAST(EXTRACT(epoch FROM now()) * 1000 AS BIGINT)",
        )
    )
    statement = f"""
        WITH RECURSIVE numbers(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < :number)
        INSERT INTO {schema}workflow_status (workflow_uuid, status, name, queue_name, executor_id, application_version,
            application_name, created_at, updated_at, priority, recovery_attempts, completed_at, delay_until_epoch_ms)
        SELECT :name || '/' || :status || '/' || i, :status, :name, 'queue', 'dead', '1', 'actionengine',
            {now} - :ago + i, {now} - :ago + i, 0, 1,
            CASE WHEN :status = 'DELAYED' THEN NULL ELSE {now} - :ago + i END,
            CASE WHEN :status = 'DELAYED' THEN {now} + :day ELSE NULL END
        FROM numbers"""
    with engine.begin() as connection:
        values = {"number": number, "name": name, "status": status, "ago": ago, "day": DAY}
        connection.execute(text(statement), values)
    engine.dispose()


def fill_schedules(durable: Durable, number: int) -> None:
    rows = [{"id": f"s/{each}"} for each in range(number)]
    engine = opened(durable_url(durable.url))
    schema = "" if engine.dialect.name == "sqlite" else "dbos."
    statement = f"""
        INSERT INTO {schema}workflow_schedules (schedule_id, schedule_name, workflow_name, schedule, status, context,
            application_name, automatic_backfill)
        VALUES (:id, :id, 'work', '0 9 * * *', 'ACTIVE', '{{}}', 'actionengine.schedules', false)"""
    with engine.begin() as connection:
        connection.execute(text(statement), rows)
    engine.dispose()


def do_nothing() -> None:
    """The functions of the executions."""


def host_looks(client: DurableClient) -> None:
    """Do one round of an idle host."""
    database = client._opened()._sys_db
    release_due(database)
    database.cancel_timed_out_workflows(10)
    client.running_ids("me")
    client.take_over("another")


OPERATIONS: dict[str, Callable[[DurableClient], object]] = {
    "a host's looks": host_looks,
    "purge of others' in between": lambda client: client.purge(["another"], 3600, up_to=client_time(client) - DAY),
    "purge that finds nothing old": lambda client: client.purge(["work"], 7 * 24 * 3600.0),
    "purge of a few": lambda client: client.purge(["work"], 3600, limit=5),
    "cancelled": lambda client: client.cancelled("me"),
    "look": lambda client: client.find("work/SUCCESS/5", "none"),
    "status": lambda client: client.status("work/SUCCESS/7"),
    "enqueue": lambda client: client.enqueue("work", queue="another", id="new", delay=60),
    "enqueue_all": lambda client: client.enqueue_all([Enqueued("work", (), "another", "newer")]),
    "forget": lambda client: client.forget("work/SUCCESS/9"),
    "cancel": lambda client: client.cancel("work/DELAYED/9"),
    "a look at schedules": lambda client: client.schedules_mark(),
    "schedule": lambda client: client.schedule("a", "work", "@daily", timezone=None, context={}, queue="queue"),
    "unschedule": lambda client: client.unschedule("s/7"),
}


def client_time(client: DurableClient) -> int:
    return int(client.now().timestamp() * 1000)


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_has_ended_costs_no_later_question_anything(pair: list[Durable], name: str) -> None:
    costs = []
    for durable in pair:
        client = DurableClient(durable.url)
        client.find("none")
        with _statements() as asked:
            OPERATIONS[name](client)
        costs.append(sum(_cost(durable, each) for each in asked))
        client.close()

    few, many = costs
    assert many <= 2 * few + 100, f"{name}: {few} with {SIZES[0]} of each, {many} with {SIZES[1]}"


def test_a_purge_goes_on_where_the_last_one_came_to(file_database: Durable) -> None:
    fill(file_database, 5)
    fill(file_database, 5, name="others")
    client = DurableClient(file_database.url)

    first = client.purge(["work"], 3600, limit=3)
    second = client.purge(["work"], 3600, limit=3, up_to=first.up_to)
    fill(file_database, 1, status="ERROR", ago=2 * 3600 * 1000)
    third = client.purge(["work"], 3600, limit=3, up_to=first.up_to)
    after_a_step_back = client.purge(["others"], 3600, up_to=second.up_to + 30 * DAY)
    client.close()

    assert [each.number for each in (first, second, third, after_a_step_back)] == [3, 2, 1, 5]


def test_a_host_purges_more_than_a_batch_of_old_executions(file_database: Durable) -> None:
    number = 3500
    fill(file_database, number)
    client = DurableClient(file_database.url)
    ends = ("work/SUCCESS/1", f"work/SUCCESS/{number}")
    assert len(client.find(*ends)) == 2

    functions = [DurableFunction("work", do_nothing, "queue")]
    with DurableHost(file_database.url, functions, set_up=False, lease=0.5, keep=3600.0):
        eventually(lambda: not client.find(*ends), seconds=30)
    client.close()


@contextmanager
def _statements() -> Iterator[list[Statement]]:
    found: list[Statement] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *more: Any) -> None:
        if not statement.startswith(("PRAGMA", "BEGIN", "SET")):
            found.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def _cost(durable: Durable, asked: Statement) -> int:
    """Return the steps (SQLite) or pages (PostgreSQL) of a statement, and roll it back."""
    statement, parameters = asked
    if durable.url.startswith("sqlite"):
        return _steps(durable.url.removeprefix("sqlite:///"), statement, parameters)
    url = make_url(durable.url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        question = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}".encode()
        try:
            (explained,) = connection.execute(question, parameters).fetchone() or ("[]",)
        except psycopg.errors.UniqueViolation:
            # The operation itself has added it.
            return 0
        connection.rollback()
    (found,) = explained if isinstance(explained, list) else json.loads(explained)
    return int(found["Plan"]["Shared Hit Blocks"] + found["Plan"]["Shared Read Blocks"])


def _steps(path: str, statement: str, parameters: Any) -> int:
    steps = 0

    def progress() -> None:
        nonlocal steps
        steps += 1

    connection = sqlite3.connect(path)
    connection.set_progress_handler(progress, 1)
    try:
        connection.execute(statement, parameters).fetchall()
    except sqlite3.IntegrityError:
        # The operation itself has added it.
        pass
    finally:
        connection.rollback()
        connection.close()
    return steps
