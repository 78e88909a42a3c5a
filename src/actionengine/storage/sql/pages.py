"""Pages in SQL: queries for rows of which those come back that begin within the bytes of a page.

Their last column is the bytes of the row, for `page_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from sqlite3 import sqlite_version_info
from typing import NamedTuple

from actionengine.storage.pages import MAX_PAGE_BYTES

_VALUE_HEADER = 4
"""Bytes that PostgreSQL adds to a value, at most: so what is stored is never said to be more than there is."""


class PageQuery(NamedTuple):
    """A query for the rows of a page: a `table`, a condition `where`, an `order`, and perhaps a `limit`, a mark.

    `columns` are as they are read, `keys` those that `order` names, and `json` those whose bytes count.
    """

    table: str
    columns: str
    keys: Sequence[str]
    json: Sequence[str]
    where: str
    order: str
    limit: str


def postgres_page(query: PageQuery) -> str:
    """Return the statement for PostgreSQL. A row's JSON goes through the windows as a reference to where it lies.

    The first window adds up what the values take where they lie, compressed perhaps, which is in the references. It
    leaves out rows that lie beyond a page for sure, so that the second one unpacks none of them.
    """
    stored = " OPERATOR(pg_catalog.+) ".join(
        f"coalesce(pg_catalog.pg_column_size({column}) OPERATOR(pg_catalog.-) {_VALUE_HEADER}, 0)"
        for column in query.json
    )
    bytes = " OPERATOR(pg_catalog.+) ".join(
        f"coalesce(pg_catalog.octet_length({column}::pg_catalog.text), 0)" for column in query.json
    )
    # The offset has the bytes measured once; the order in it says that nothing has to be sorted again.
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
    """Return the expression for the bytes of a text. From SQLite 3.43 on it does not read the text."""
    return f"octet_length({column})" if sqlite_version_info >= (3, 43) else f"length(CAST({column} AS BLOB))"


def sqlite_page(query: PageQuery) -> str:
    """Return the statement for SQLite. A window keeps its rows: so they are read again, by their rowids."""
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
