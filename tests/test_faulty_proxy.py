"""The faults of the proxy, on plain connections of the driver."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from uuid import uuid4

import psycopg
import pytest
from examples.embedded_postgres import Database

from tests.faulty_proxy import CommitPoint, Fault, FaultyProxy

SILENCE = 0.3
"""The time in seconds after which a connection counts as silent."""


@pytest.fixture
def proxy(postgres_database: Database) -> Iterator[FaultyProxy]:
    with FaultyProxy.before_postgres(postgres_database.app_url) as proxy:
        yield proxy


@pytest.fixture
def url(proxy: FaultyProxy, postgres_database: Database) -> str:
    return proxy.url(postgres_database.app_url)


def connect(url: str) -> closing[psycopg.Connection]:
    return closing(psycopg.connect(url, autocommit=True))


def is_silent(connection: psycopg.Connection, statement: bytes = b"SELECT 1") -> bool:
    """Return whether no answer comes. A cut connection raises."""
    connection.pgconn.send_query(statement)
    connection.pgconn.flush()
    end = time.monotonic() + SILENCE
    while time.monotonic() < end:
        connection.pgconn.consume_input()
        if not connection.pgconn.is_busy():
            while connection.pgconn.get_result() is not None:
                pass
            return False
        time.sleep(0.005)
    return True


def test_all_passes_unless_told_otherwise(url: str, proxy: FaultyProxy) -> None:
    with connect(url) as connection:
        row = connection.execute("SELECT repeat('x', 300000)").fetchone()

        assert row is not None
        assert len(row[0]) == 300_000
        assert proxy.open_count == proxy.accepted == 1


def test_forgotten_connections_are_silent_and_new_ones_work(url: str, proxy: FaultyProxy) -> None:
    with connect(url) as old:
        assert proxy.swallow() == 1

        assert is_silent(old)
        with connect(url) as new:
            assert not is_silent(new)


def test_cut_connections_are_lost(url: str, proxy: FaultyProxy) -> None:
    with connect(url) as old:
        proxy.cut()

        with pytest.raises(psycopg.OperationalError):
            old.execute("SELECT 1")
    with connect(url) as new:
        assert not is_silent(new)


def test_new_connections_are_refused_until_it_is_healed(url: str, proxy: FaultyProxy) -> None:
    with connect(url) as old:
        proxy.refuse_new()

        with pytest.raises(psycopg.OperationalError):
            connect(url)
        assert not is_silent(old)
        proxy.heal()
        with connect(url) as new:
            assert not is_silent(new)


def test_new_connections_are_swallowed(url: str, proxy: FaultyProxy) -> None:
    proxy.swallow_new()

    with pytest.raises(psycopg.errors.ConnectionTimeout):
        psycopg.connect(url, connect_timeout=2)


def test_the_first_statement_after_the_login_is_swallowed(url: str, proxy: FaultyProxy) -> None:
    proxy.swallow_new("after login")

    with connect(url) as connection:
        assert is_silent(connection)


def test_delay(url: str, proxy: FaultyProxy) -> None:
    with connect(url) as connection:
        proxy.delay = 0.05
        begun = time.monotonic()
        connection.execute("SELECT 1")
        assert time.monotonic() - begun >= 0.1


@pytest.mark.parametrize("fault", ["swallow", "cut"])
@pytest.mark.parametrize(("point", "is_written"), [("before", False), ("half", False), ("after", True)])
@pytest.mark.parametrize("is_prepared", [False, True], ids=["a simple query", "prepared"])
def test_faults_at_a_commit(
    proxy: FaultyProxy,
    postgres_database: Database,
    point: CommitPoint,
    fault: Fault,
    is_written: bool,
    is_prepared: bool,
) -> None:
    table = f"written_{uuid4().hex}"
    with connect(postgres_database.owner_url) as owner, connect(proxy.url(postgres_database.owner_url)) as connection:
        owner.execute(f"CREATE TABLE {table} (id integer)")
        connection.execute("BEGIN")
        connection.execute(f"INSERT INTO {table} VALUES (1)")
        happened = proxy.at_commit(point, fault)
        if is_prepared:
            connection.pgconn.prepare(b"end", b"COMMIT")
            connection.pgconn.send_query_prepared(b"end", [])
        else:
            connection.pgconn.send_query(b"COMMIT")
        connection.pgconn.flush()

        assert happened.wait(5)
        connection.close()
        # The thread waits for the end of the transaction.
        owner.execute(f"ALTER TABLE {table} ADD COLUMN waited integer")
        assert owner.execute(f"SELECT count(*) FROM {table}").fetchone() == (int(is_written),)
        owner.execute(f"DROP TABLE {table}")


def test_the_answer_to_a_commit_comes_late(url: str, proxy: FaultyProxy) -> None:
    with connect(url) as connection:
        connection.execute("BEGIN")
        proxy.at_commit("late", delay=0.2)
        begun = time.monotonic()
        connection.execute("COMMIT")
        assert time.monotonic() - begun >= 0.2
        connection.execute("SELECT 1")
