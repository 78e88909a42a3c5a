"""Collections of documents, as one transaction of `InMemoryStorage` sees them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

from uuid_utils import uuid7

from actionengine.storage.clock import steady_now
from actionengine.storage.lookups import LOOKUPS, key_of_filter, keys_of
from actionengine.storage.memory.index import Keys
from actionengine.storage.memory.transaction import MemoryTransaction
from actionengine.storage.memory.versions import Document, Key
from actionengine.storage.pages import MAX_PAGE, Page, page_of, page_size, page_start
from actionengine.storage.records import (
    check_id,
    decode_document,
    encode_document,
    id_conflict,
    matches,
    normal_filter,
    not_found,
    version_conflict,
)
from actionengine.storage.rows import Record


class MemoryRecords:
    """A collection as one transaction sees it."""

    __slots__ = ("_collection", "_transaction")

    def __init__(self, transaction: MemoryTransaction, collection: str) -> None:
        self._transaction = transaction
        self._collection = collection

    async def insert(self, data: Mapping[str, Any], id: str | None = None, is_new: bool = False) -> Record:
        """Add a document. There is nothing to await, even if its id is not new."""
        if id is None:
            id = str(uuid7())
        else:
            check_id(self._collection, id)
        encoded = encode_document(self._collection, data)
        key = (self._collection, id)
        with self._transaction.alone:
            if self._transaction.lock(key) is not None:
                raise id_conflict(*key)
            now = steady_now()
            return self._write(key, Document(1, encoded, now, now, self._keys(encoded)))

    async def get(self, id: str) -> Record | None:
        """Return the document, or None."""
        document = self._transaction.read((self._collection, id))
        return _record(id, document) if document else None

    async def get_all(self, ids: Sequence[str]) -> Page[Record]:
        """Return the documents with these ids that exist, by id."""
        read = ((id, self._transaction.read((self._collection, id))) for id in sorted(set(ids)))
        found = ((_record(id, document), len(document.data)) for id, document in read if document)
        return page_of(found, len(ids) + 1, attrgetter("id"))

    async def lock(self, id: str, expected_version: int) -> Record:
        """Return the document and keep other transactions from changing it until this one ends."""
        with self._transaction.alone:
            return _record(id, self._lock_version((self._collection, id), expected_version))

    async def update(self, id: str, data: Mapping[str, Any], expected_version: int) -> Record:
        """Replace a document."""
        encoded = encode_document(self._collection, data)
        key = (self._collection, id)
        with self._transaction.alone:
            current = self._lock_version(key, expected_version)
            version, keys = current.version + 1, self._keys(encoded)
            return self._write(key, Document(version, encoded, current.created_at, steady_now(), keys))

    async def delete(self, id: str, expected_version: int) -> None:
        """Remove a document."""
        key = (self._collection, id)
        with self._transaction.alone:
            self._lock_version(key, expected_version)
            self._transaction.write(key, None)

    async def list(
        self,
        filter: Mapping[str, Any] | None = None,
        limit: int = 100,
        after: str | None = None,
        descending: bool = False,
    ) -> Page[Record]:
        """Return documents by id."""
        limit, after = page_size(limit), page_start(after)
        wanted = normal_filter(self._collection, filter)
        key = key_of_filter(self._collection, wanted)

        def found() -> Iterator[tuple[Record, int]]:
            start = after
            while True:
                size = MAX_PAGE if wanted and key is None else limit
                listed = self._transaction.listed(self._collection, key, size, start, descending)
                for id, document in listed:
                    record = _record(id, document)
                    if matches(record.data, wanted):
                        yield record, len(document.data)
                if len(listed) < size:
                    return
                start = listed[-1][0]

        return page_of(found(), limit, attrgetter("id"))

    def _lock_version(self, key: Key, expected_version: int) -> Document:
        current: Document | None = self._transaction.lock(key)
        if current is None:
            raise not_found(*key)
        if current.version != expected_version:
            raise version_conflict(*key, expected_version, current.version)
        return current

    def _keys(self, data: bytes) -> Keys:
        return keys_of(self._collection, decode_document(data)) if self._collection in LOOKUPS else ()

    def _write(self, key: Key, document: Document) -> Record:
        self._transaction.write(key, document)
        return _record(key[1], document)


def _record(id: str, document: Document) -> Record:
    return Record(id, document.version, decode_document(document.data), document.created_at, document.updated_at)
