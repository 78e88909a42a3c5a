"""The durable engine's SQLite dialect where Python's SQLite is older than 3.42, as it is on Debian 12."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import OperationalError

from actionengine.durable.older_sqlite import sqlite_driver

TABLE = "CREATE TABLE told (id INTEGER PRIMARY KEY, at INTEGER NOT NULL DEFAULT (unixepoch('subsec') * 1000))"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"{sqlite_driver((3, 40, 1))}:///{tmp_path / 'w.sqlite'}")
    yield engine
    engine.dispose()


def test_a_newer_sqlite_is_used_as_it_is() -> None:
    assert sqlite_driver((3, 42, 0)) == sqlite_driver((3, 53, 4)) == "sqlite"


def test_the_time_is_told_to_the_millisecond(engine: Engine) -> None:
    before = time.time()
    with engine.connect() as connection:
        told = connection.exec_driver_sql("SELECT unixepoch('subsec')").scalar_one()
    assert before - 0.001 <= told <= time.time() + 0.001
    assert told == round(told, 3)


def test_a_default_of_a_table_tells_the_time_on_each_connection(engine: Engine) -> None:
    before = int(time.time() * 1000)
    with engine.begin() as connection:
        connection.exec_driver_sql(TABLE)
    engine.dispose()

    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO told (id) VALUES (1)")
        at = connection.exec_driver_sql("SELECT at FROM told").scalar_one()

    assert before - 1 <= at <= time.time() * 1000 + 1


def test_a_sqlite_that_trusts_no_table_does_so_too(engine: Engine) -> None:
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA trusted_schema").scalar_one() == 1


def test_another_question_is_an_error_rather_than_a_wrong_time(engine: Engine) -> None:
    with engine.connect() as connection, pytest.raises(OperationalError):
        connection.exec_driver_sql("SELECT unixepoch('2026-01-01')").scalar_one()
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT unixepoch('2026-01-01', '+1 day')").scalar_one() == 1767312000
