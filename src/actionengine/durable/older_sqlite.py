"""A SQLAlchemy dialect with the one function that the durable engine needs and SQLite lacks before 3.42.

On Python 3.12 and newer DBOS reads the time as `unixepoch('subsec')`, and its tables have it as a default. In older
SQLite, `unixepoch` returns NULL for this argument. The dialect defines it on each connection of DBOS and of this
package. The tables are the same as with a newer SQLite, so a file can be moved between the two.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

_HAS_SUBSECONDS = (3, 42)


def sqlite_driver(version: tuple[int, ...]) -> str:
    """Return the driver in the URL of the durable engine for a version of SQLite."""
    return "sqlite" if version >= _HAS_SUBSECONDS else "sqlite+actionengine"


class OlderSQLiteDialect(SQLiteDialect_pysqlite):
    """The dialect of Python's own `sqlite3`, with `unixepoch('subsec')`."""

    supports_statement_cache = True

    def on_connect(self) -> Callable[[Any], None]:
        """Return the function that SQLAlchemy calls with each new connection."""
        before = super().on_connect()

        def connect(connection: Any) -> None:
            before(connection)
            connection.create_function("unixepoch", 1, _seconds)
            # Some builds of SQLite do not let the default of a column call a function that a program added.
            connection.execute("PRAGMA trusted_schema = ON")

        return connect


def _seconds(time_value: object) -> float:
    """Return the time as SQLite 3.42 does: in seconds, to the millisecond."""
    if time_value != "subsec":
        raise ValueError(f"unixepoch() supports only 'subsec' here, not {time_value!r}")
    return round(time.time(), 3)


registry.register("sqlite.actionengine", __name__, OlderSQLiteDialect.__name__)
