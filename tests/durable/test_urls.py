"""URLs of the durable engine's database, and errors for other URLs."""

from __future__ import annotations

from pathlib import Path

import pytest

from actionengine import ConfigurationError
from actionengine.durable.urls import durable_url, normalize_url


def test_paths_are_sqlite_files_and_postgresql_gets_its_driver(tmp_path: Path) -> None:
    path = durable_url(tmp_path / "w.sqlite")
    assert (path.get_backend_name(), path.database) == ("sqlite", f"{tmp_path}/w.sqlite")
    assert normalize_url(durable_url("postgresql://app:pw@db/shop")) == "postgresql+psycopg://app:pw@db/shop"
    assert normalize_url(durable_url("postgres://app@db/shop")) == "postgresql+psycopg://app@db/shop"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mysql://db/shop", "PostgreSQL or SQLite"),
        ("sqlite://", "SQLite file"),
        ("://", "not the URL of a database"),
        ("postgresql://db:port/shop", "not the URL of a database"),
        ("", "is empty"),
    ],
)
def test_another_place_is_refused(url: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        durable_url(url)
