"""Documents in a table: the collections of the SQL backends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple

from pydantic_core import to_json
from uuid_utils import uuid7

from actionengine.storage.lookups import LOOKUPS, key_of_filter, keys_of
from actionengine.storage.pages import Page, is_last_page, page_of, page_size, page_start
from actionengine.storage.records import (
    check_id,
    decode_document,
    encode_document,
    id_conflict,
    is_id,
    matches,
    normal_filter,
    not_found,
    version_conflict,
)
from actionengine.storage.rows import Record
from actionengine.storage.sql.rows import RowsDialect
from actionengine.storage.sql.transaction import Transaction


class DocumentStatements(NamedTuple):
    """A backend's statements over `ae_documents`, each with the parameters tenant, collection and id, and then its own.

    `insert` takes data and time, the time twice, and returns a row if the id was free. `add` does the same for an id
    that must be free: if it is taken, the statement fails, and the transaction with it. `get` returns version, data and
    both times. So does `lock`, which takes the expected version, and locks the row. `update` takes data and time first
    and the expected version last, and returns created_at. `delete` takes the expected version and returns the id.
    `version` returns the version.

    `add_keys` and `remove_keys` take keys, as JSON: those to add, and those to keep. `find` has the parameters tenant,
    key, the id that the page begins after, if any, limit, tenant and collection. It returns the rows of a page by id,
    with only the id for a key whose document is gone. `get_all` takes ids, as JSON, and returns the rows of a page.
    """

    insert: str
    add: str
    get: str
    lock: str
    update: str
    delete: str
    version: str
    add_keys: str
    remove_keys: str
    find: str
    get_all: str


class Listing(NamedTuple):
    """A query for documents of a collection: a filter, the page, and the order of the ids."""

    wanted: Mapping[str, Any]
    limit: int
    after: str | None
    descending: bool

    def statement(self, template: str, dialect: RowsDialect) -> str:
        """Return the statement that lists in this order."""
        beyond = f" AND id {dialect.operator.format('<' if self.descending else '>')} {dialect.mark}"
        return template.format(beyond=beyond if self.after else "", order="id DESC" if self.descending else "id")

    @property
    def start(self) -> tuple[str, ...]:
        """The parameter of the statement: the id that the page begins after, if any."""
        return (self.after,) if self.after else ()


class SQLRecords(ABC):
    """A collection as one transaction sees it."""

    __slots__ = ("_collection", "_database", "_scope", "_transaction")

    statements: ClassVar[DocumentStatements]
    dialect: ClassVar[RowsDialect]

    def __init__(self, transaction: Transaction, collection: str) -> None:
        self._transaction = transaction
        self._database = transaction.database
        self._collection = collection
        self._scope = (transaction.database.bind_id(transaction.tenant.id), collection)

    async def insert(self, data: Mapping[str, Any], id: str | None = None, is_new: bool = False) -> Record:
        """Add a document."""
        if id is not None:
            check_id(self._collection, id)
        encoded = encode_document(self._collection, data)
        return await self._transaction.run(self._insert, id, encoded, is_new)

    async def get(self, id: str) -> Record | None:
        """Return the document, or None."""
        return await self._transaction.run(self._get, id)

    async def get_all(self, ids: Sequence[str]) -> Page[Record]:
        """Return the documents with these ids that exist, by id."""
        return await self._transaction.run(self._get_all, ids)

    async def lock(self, id: str, expected_version: int) -> Record:
        """Return the document, locked until this transaction ends."""
        return await self._transaction.run(self._lock, id, expected_version)

    async def update(self, id: str, data: Mapping[str, Any], expected_version: int) -> Record:
        """Replace a document."""
        encoded = encode_document(self._collection, data)
        return await self._transaction.run(self._update, id, encoded, expected_version)

    async def delete(self, id: str, expected_version: int) -> None:
        """Remove a document."""
        await self._transaction.run(self._delete, id, expected_version)

    async def list(
        self,
        filter: Mapping[str, Any] | None = None,
        limit: int = 100,
        after: str | None = None,
        descending: bool = False,
    ) -> Page[Record]:
        """Return documents by id."""
        listing = Listing(normal_filter(self._collection, filter), page_size(limit), page_start(after), descending)
        return await self._transaction.run(self._list, listing)

    def _insert(self, id: str | None, encoded: bytes, is_new: bool) -> Record:
        self._transaction.track_write(self._collection)
        now = self._transaction.time()
        at = self._database.bind_time(now)
        values = (encoded.decode(), at, at)
        if id is None or is_new:
            # A new id is free, so that no answer need be awaited. If it is not, the statement fails.
            id = id or str(uuid7())
            self._transaction.queue_write(self.statements.add, (*self._scope, id, *values))
        elif not self._query(self.statements.insert, id, *values):
            raise id_conflict(self._collection, id)
        record = Record(id, 1, decode_document(encoded), now, now)
        self._write_keys(id, record.data, is_new=True)
        return record

    def _get(self, id: str) -> Record | None:
        for version, data, created_at, updated_at in self._query(self.statements.get, id):
            return self._record(id, version, data, created_at, updated_at)
        return None

    def _get_all(self, ids: Sequence[str]) -> Page[Record]:
        rows = self._query(self.statements.get_all, to_json(list(filter(is_id, ids))).decode())
        return page_of(((self._record(*row), bytes) for *row, bytes in rows), len(ids) + 1, attrgetter("id"))

    def _lock(self, id: str, expected_version: int) -> Record:
        for version, data, created_at, updated_at in self._query(self.statements.lock, id, expected_version):
            return self._record(id, version, data, created_at, updated_at)
        raise self._why_not(id, expected_version)

    def _update(self, id: str, encoded: bytes, expected_version: int) -> Record:
        self._transaction.track_write(self._collection)
        now = self._transaction.time()
        values = (encoded.decode(), self._database.bind_time(now), *self._scope, id, expected_version)
        for (created_at,) in self._transaction.query(self.statements.update, values):
            created = self._database.load_time(created_at)
            record = Record(id, expected_version + 1, decode_document(encoded), created, now)
            self._write_keys(id, record.data)
            return record
        raise self._why_not(id, expected_version)

    def _delete(self, id: str, expected_version: int) -> None:
        self._transaction.track_write(self._collection)
        if not self._query(self.statements.delete, id, expected_version):
            raise self._why_not(id, expected_version)
        self._write_keys(id, {})

    def _write_keys(self, id: str, data: Mapping[str, Any], is_new: bool = False) -> None:
        """Write the keys by which the document is looked up, if its collection has lookups."""
        if self._collection not in LOOKUPS:
            return
        keys = keys_of(self._collection, data)
        values = (*self._scope, id, to_json(keys).decode())
        if not is_new:
            self._transaction.queue_write(self.statements.remove_keys, values)
        if keys:
            self._transaction.queue_write(self.statements.add_keys, values)

    def _list(self, listing: Listing) -> Page[Record]:
        key = key_of_filter(self._collection, listing.wanted)
        found = self._scan(listing) if key is None else self._find(key, listing)
        return page_of(found, listing.limit, attrgetter("id"))

    def _find(self, key: str, listing: Listing) -> Iterator[tuple[Record, int]]:
        tenant_id, _ = self._scope
        while True:
            statement = listing.statement(self.statements.find, self.dialect)
            values = (tenant_id, key, *listing.start, listing.limit, *self._scope)
            rows = self._transaction.query(statement, values)
            for id, version, data, created_at, updated_at, size in rows:
                # A handler's own SQL can change the document without its keys.
                if version is not None:
                    record = self._record(id, version, data, created_at, updated_at)
                    if matches(record.data, listing.wanted):
                        yield record, size
            if is_last_page((row[-1] for row in rows), listing.limit):
                return
            listing = listing._replace(after=rows[-1][0])

    def _why_not(self, id: str, expected_version: int) -> Exception:
        for (version,) in self._query(self.statements.version, id):
            return version_conflict(self._collection, id, expected_version, version)
        return not_found(self._collection, id)

    def _query(self, statement: str, *parameters: Any) -> Sequence[tuple[Any, ...]]:
        return self._transaction.query(statement, (*self._scope, *parameters))

    @abstractmethod
    def _scan(self, listing: Listing) -> Iterator[tuple[Record, int]]:
        """Yield the documents of a page that no index answers, with their bytes."""

    def _record(self, id: str, version: int, data: str, created_at: Any, updated_at: Any) -> Record:
        """Return a row as a `Record`."""
        time = self._database.load_time
        return Record(id, version, decode_document(data.encode()), time(created_at), time(updated_at))
