"""The URL of the durable engine's database, or the path of its SQLite file."""

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
    """Parse the URL of a PostgreSQL database (`postgresql://…`) or of a SQLite file (`sqlite:///…`, or its path).

    Raises `ConfigurationError` for any other URL.
    """
    text = os.fspath(url)
    if not text.strip():
        raise ConfigurationError("the URL of the durable engine's database is empty: give a URL, or a SQLite file")
    if "://" not in text:
        return URL.create(_SQLITE, database=str(Path(text).absolute()))
    try:
        parsed = make_url(text)
        if "@" in (parsed.host or ""):
            # It is the rest of a password, which errors would show.
            raise ValueError("@")
    except (ArgumentError, ValueError):
        # A port that is no number is a ValueError.
        raise ConfigurationError(f"{redact_address(text)!r} is not the URL of a database") from None
    kind = parsed.get_backend_name()
    if kind in {"postgresql", "postgres"}:
        return parsed.set(drivername="postgresql+psycopg")
    if kind != "sqlite":
        raise ConfigurationError(f"the durable engine runs on PostgreSQL or SQLite, not on {kind}")
    if parsed.database in (None, "", ":memory:"):
        raise ConfigurationError("the durable engine needs a SQLite file, since memory does not survive a restart")
    return parsed.set(drivername=_SQLITE)


def normalize_url(url: URL) -> str:
    """Return a URL as text with its password, for DBOS."""
    return url.render_as_string(hide_password=False)
