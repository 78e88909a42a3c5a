"""Where the durable engine's tables can be, and what is said of other places."""

from __future__ import annotations

from pathlib import Path

import pytest

from actionengine import ConfigurationError
from actionengine.durable import urls
from actionengine.durable.urls import durable_url, spelled


def test_a_path_is_a_sqlite_file_and_a_postgresql_url_gets_its_driver(tmp_path: Path) -> None:
    assert spelled(durable_url(tmp_path / "w.sqlite")) == f"sqlite:///{tmp_path}/w.sqlite"
    assert spelled(durable_url("postgresql://app:pw@db/shop")) == "postgresql+psycopg://app:pw@db/shop"
    assert spelled(durable_url("postgres://app@db/shop")) == "postgresql+psycopg://app@db/shop"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mysql://db/shop", "PostgreSQL or SQLite"),
        ("sqlite://", "SQLite file"),
        ("://", "no URL"),
        ("postgresql://db:port/shop", "no URL"),
        ("", "no URL"),
    ],
)
def test_another_place_is_refused(url: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        durable_url(url)


@pytest.mark.parametrize(
    ("python", "sqlite", "is_refused"),
    [((3, 11), (3, 40, 1), False), ((3, 12), (3, 40, 1), True), ((3, 13), (3, 42, 0), False)],
)
def test_a_sqlite_that_is_too_old_for_the_durable_engine_is_named(
    python: tuple[int, int], sqlite: tuple[int, int, int], is_refused: bool
) -> None:
    if not is_refused:
        urls._check_sqlite(python, sqlite)
        return
    with pytest.raises(ConfigurationError, match=r"SQLite 3\.42 or newer, and this Python has 3\.40\.1"):
        urls._check_sqlite(python, sqlite)
