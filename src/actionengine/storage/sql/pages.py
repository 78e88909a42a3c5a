"""Pages in SQL: queries that return only the rows that begin within the bytes of a page.

The last column is the bytes of the row, for `page_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from sqlite3 import sqlite_version_info
from typing import NamedTuple

from actionengine.storage.pages import MAX_PAGE_BYTES

_VALUE_HEADER = 4
"""The most bytes that PostgreSQL adds to a value. They are subtracted, so that a value is never counted as longer than
it is."""


class PageQuery(NamedTuple):
    """A query for the rows of a page: a `table`, a condition `where`, an `order`, and perhaps a `limit`, a mark.

    `columns` has the columns as they are read, `keys` those that `order` names, and `json` those whose bytes count.
    """

    table: str
    columns: str
    keys: Sequence[str]
    json: Sequence[str]
    where: str
    order: str
    limit: str


def postgres_page(query: PageQuery) -> str:
    """Return the statement for PostgreSQL. The windows carry a reference to a row's JSON, not the JSON itself.

    The first window sums the stored sizes, perhaps compressed, which the references contain. It drops the rows that are
    certainly beyond the page, so that the second window does not decompress them.
    """
    stored = " OPERATOR(pg_catalog.+) ".join(
        f"coalesce(pg_catalog.pg_column_size({column}) OPERATOR(pg_catalog.-) {_VALUE_HEADER}, 0)"
        for column in query.json
    )
    bytes = " OPERATOR(pg_catalog.+) ".join(
        f"coalesce(pg_catalog.octet_length({column}::pg_catalog.text), 0)" for column in query.json
    )
    # The offset makes PostgreSQL measure the bytes once; the order inside it avoids a second sort.
    return f"""
SELECT {query.columns}, bytes
FROM (
    SELECT sized.*, pg_catalog.sum(bytes) OVER (ORDER BY {query.order} ROWS UNBOUNDED PRECEDING)
        OPERATOR(pg_catalog.-) bytes AS bytes_before
    FROM (
        SELECT *, {bytes} AS bytes
        FROM (
            SELECT found.*, pg_catalog.sum(stored) OVER (ORDER BY {query.order} ROWS UNBOUNDED PRECEDING)
                OPERATOR(pg_catalog.-) stored AS stored_before
            FROM (
                SELECT *, {stored} AS stored
                FROM {query.table}
                WHERE {query.where}
                ORDER BY {query.order}
                LIMIT {query.limit}
            ) found
        ) placed
        WHERE stored_before OPERATOR(pg_catalog.<) {MAX_PAGE_BYTES}
        ORDER BY {query.order}
        OFFSET 0
    ) sized
) page
WHERE bytes_before OPERATOR(pg_catalog.<) {MAX_PAGE_BYTES}
ORDER BY {query.order}
"""


def sqlite_bytes(column: str) -> str:
    """Return the expression for the bytes of a text. SQLite 3.43 and newer do not read the text for it."""
    return f"octet_length({column})" if sqlite_version_info >= (3, 43) else f"length(CAST({column} AS BLOB))"


def sqlite_page(query: PageQuery) -> str:
    """Return the statement for SQLite. A window copies its rows, so that the page is read again, by rowid."""
    bytes = " + ".join(f"coalesce({sqlite_bytes(column)}, 0)" for column in query.json)
    return f"""
SELECT {query.columns}, {bytes} AS bytes
FROM {query.table}
WHERE rowid IN (
    SELECT id_of_row
    FROM (
        SELECT id_of_row, sum(bytes) OVER (ORDER BY {query.order} ROWS UNBOUNDED PRECEDING) - bytes AS bytes_before
        FROM (
            SELECT rowid AS id_of_row, {", ".join(query.keys)}, {bytes} AS bytes
            FROM {query.table}
            WHERE {query.where}
            ORDER BY {query.order}
            LIMIT {query.limit}
        )
    )
    WHERE bytes_before < {MAX_PAGE_BYTES}
)
ORDER BY {query.order}
"""
