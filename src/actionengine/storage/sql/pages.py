"""Pages in SQL: queries for rows of which those come back that begin within the bytes of a page.

Their last column is the bytes of the row, for `page_of`. Each row of the page is read for it, and no more is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from actionengine.storage.pages import MAX_PAGE_BYTES


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
    """Return the statement for PostgreSQL. A row's JSON goes through the window as a reference to where it lies."""
    bytes = " OPERATOR(pg_catalog.+) ".join(
        f"coalesce(pg_catalog.octet_length({column}::pg_catalog.text), 0)" for column in query.json
    )
    return f"""
SELECT {query.columns}, bytes
FROM (
    SELECT found.*, pg_catalog.sum(bytes) OVER (ORDER BY {query.order} ROWS UNBOUNDED PRECEDING)
        OPERATOR(pg_catalog.-) bytes AS bytes_before
    FROM (
        SELECT *, {bytes} AS bytes
        FROM {query.table}
        WHERE {query.where}
        ORDER BY {query.order}
        LIMIT {query.limit}
    ) found
) page
WHERE bytes_before OPERATOR(pg_catalog.<) {MAX_PAGE_BYTES}
ORDER BY {query.order}
"""


def sqlite_page(query: PageQuery) -> str:
    """Return the statement for SQLite. A window keeps its rows: so they are read again, by their rowids."""
    bytes = " + ".join(f"coalesce(length(CAST({column} AS BLOB)), 0)" for column in query.json)
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
