"""Where the durable engine keeps its own tables: a URL, or the path of a SQLite file."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from actionengine.errors import ConfigurationError

SCHEMA = "dbos"
"""The schema of its tables on PostgreSQL."""


def durable_url(url: str | os.PathLike[str]) -> URL:
    """The URL of a PostgreSQL database (`postgresql://…`) or of a SQLite file (`sqlite:///…`, or its path).

    Raises `ConfigurationError` for another one.
    """
    text = os.fspath(url)
    if "://" not in text:
        return URL.create("sqlite", database=str(Path(text).absolute()))
    try:
        parsed = make_url(text)
    except ArgumentError as error:
        raise ConfigurationError(f"this is no URL of a database: {error}") from None
    kind = parsed.get_backend_name()
    if kind in {"postgresql", "postgres"}:
        return parsed.set(drivername="postgresql+psycopg")
    if kind != "sqlite":
        raise ConfigurationError(f"the durable engine runs on PostgreSQL or SQLite, not on {kind}")
    if parsed.database in (None, "", ":memory:"):
        raise ConfigurationError("the durable engine needs a SQLite file: in memory nothing survives a restart")
    return parsed.set(drivername="sqlite")


def spelled(url: URL) -> str:
    """A URL with its password, as the durable engine takes it."""
    return url.render_as_string(hide_password=False)
