"""The committed states of a document or a row, newest first."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from actionengine.storage.memory.index import Keys

Key = tuple[str, str]
"""A collection and an id; or the action and the key of an idempotency claim."""

Item = Any
"""A collection's entry under an id: a `Document`, or a row of the library's own tables. Never changed in place."""


class Document(NamedTuple):
    """A document as stored: JSON, so that no two readers share an object. It is found under its `keys`."""

    version: int
    data: bytes
    created_at: datetime
    updated_at: datetime
    keys: Keys = ()


class Version:
    """A committed state of a document or a row (None: deleted), and the one before it while a snapshot may read it."""

    __slots__ = ("document", "previous", "sequence")

    def __init__(self, sequence: int, document: Item | None, previous: Version | None) -> None:
        self.sequence = sequence
        self.document = document
        self.previous = previous

    @property
    def keys(self) -> Keys | None:
        """Return the keys of a document; None for a deleted one, and for a row of a table."""
        return self.document.keys if type(self.document) is Document else None

    def prune(self, oldest_read: int) -> None:
        """Cut off the versions behind the newest one that the oldest snapshot reads: no snapshot can reach them."""
        link: Version | None = self
        while link is not None and link.sequence > oldest_read:
            link = link.previous
        if link is not None:
            link.previous = None


def visible(version: Version | None, snapshot: int) -> Item | None:
    """Return the state that a snapshot reads."""
    while version is not None and version.sequence > snapshot:
        version = version.previous
    return version.document if version else None
