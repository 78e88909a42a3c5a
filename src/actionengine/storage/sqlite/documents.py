"""Documents in SQLite."""

from __future__ import annotations

from collections.abc import Iterator

from actionengine.storage.pages import MAX_PAGE, is_last_page
from actionengine.storage.records import matches
from actionengine.storage.rows import Record
from actionengine.storage.sql.documents import Listing, SQLRecords
from actionengine.storage.sqlite.statements import DOCUMENTS, LIST_DOCUMENTS, ROWS


class SQLiteRecords(SQLRecords):
    """A collection as one transaction sees it. A filter without an index is applied here, page by page."""

    statements = DOCUMENTS
    dialect = ROWS

    def _scan(self, listing: Listing) -> Iterator[tuple[Record, int]]:
        size = MAX_PAGE if listing.wanted else listing.limit
        while True:
            rows = self._query(listing.statement(LIST_DOCUMENTS, ROWS), *listing.start, size)
            for *row, bytes in rows:
                record = self._record(*row)
                if matches(record.data, listing.wanted):
                    yield record, bytes
            if is_last_page((row[-1] for row in rows), size):
                return
            listing = listing._replace(after=rows[-1][0])
