"""Where the durable engine keeps its own tables: a URL, or the path of a SQLite file."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from actionengine.durable.older_sqlite import sqlite_driver
from actionengine.errors import ConfigurationError
from actionengine.masking.redaction import redact_address

SCHEMA = "dbos"
"""The schema of its tables on PostgreSQL."""

_SQLITE = sqlite_driver(sqlite3.sqlite_version_info)


def durable_url(url: str | os.PathLike[str]) -> URL:
    """The URL of a PostgreSQL database (`postgresql://…`) or of a SQLite file (`sqlite:///…`, or its path).

    Raises `ConfigurationError` for another one.
    """
    text = os.fspath(url)
    if not text.strip():
        raise ConfigurationError("this is no URL of a database, nor the path of a SQLite file: it is empty")
    if "://" not in text:
        return URL.create(_SQLITE, database=str(Path(text).absolute()))
    try:
        parsed = make_url(text)
        if "@" in (parsed.host or ""):
            # It is the rest of a password, and errors name the host.
            raise ValueError("@")
    except (ArgumentError, ValueError):
        # A port that is no number is a ValueError.
        raise ConfigurationError(f"this is no URL of a database: {redact_address(text)!r}") from None
    kind = parsed.get_backend_name()
    if kind in {"postgresql", "postgres"}:
        return parsed.set(drivername="postgresql+psycopg")
    if kind != "sqlite":
        raise ConfigurationError(f"the durable engine runs on PostgreSQL or SQLite, not on {kind}")
    if parsed.database in (None, "", ":memory:"):
        raise ConfigurationError("the durable engine needs a SQLite file: in memory nothing survives a restart")
    return parsed.set(drivername=_SQLITE)


def normalize_url(url: URL) -> str:
    """A URL with its password, as the durable engine takes it."""
    return url.render_as_string(hide_password=False)
