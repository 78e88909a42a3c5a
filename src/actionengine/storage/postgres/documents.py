"""Documents in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic_core import to_json

from actionengine.storage.postgres import statements as sql
from actionengine.storage.rows import Record
from actionengine.storage.sql.documents import Listing, SQLRecords


class PostgresRecords(SQLRecords):
    """A collection as one transaction sees it. The server applies a filter without an index."""

    statements = sql.DOCUMENTS
    dialect = sql.ROWS

    def _scan(self, listing: Listing) -> Iterator[tuple[Record, int]]:
        wanted = (to_json(listing.wanted).decode(),) * 2 if listing.wanted else ()
        statement = listing.statement(sql.FIND_DOCUMENTS if wanted else sql.LIST_DOCUMENTS, sql.ROWS)
        for *row, bytes in self._query(statement, *listing.start, *wanted, listing.limit):
            yield self._record(*row), bytes
