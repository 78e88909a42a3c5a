"""Lookups: the library's queries of its own collections, each answered by an index.

No query of the library reads a growing collection from end to end. A backend keeps a key for each lookup of a document,
and finds documents by the key of a filter. Without a lookup, a filter of the library's own collections is refused: add
the lookup here. Hosts' collections have no lookups: their filters are compared with each document.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from itertools import chain, combinations
from typing import Any

from pydantic_core import to_json

from actionengine.storage.errors import StorageError
from actionengine.storage.records import APPROVALS, RESERVED_PREFIX, ROLES, RUNS

_VIEWS = f"{RESERVED_PREFIX}view/"
"""Prefix of the collections of projections. Their names are the library's, their filters the host's."""

MAX_KEY_LENGTH = 250
"""Characters of a key; a longer one is replaced by its hash."""

OPEN_APPROVALS = f'{APPROVALS}/open_until:["'
"""Prefix of the keys of approvals that can still be decided; the time of their expiry follows."""

PENDING_APPROVALS = f'{APPROVALS}/status:["pending"]'
"""The key of undecided approvals; some of them may have expired."""

TRIGGER_DOCUMENTS = f"{RESERVED_PREFIX}triggers"

ACTIVE_SCHEDULES = f'{TRIGGER_DOCUMENTS}/status,type:["active","schedule"]'
"""The key of active schedules."""

_ASSIGNMENT_FIELDS = ("assignee", "run_id", "status", "workflow_key")

LOOKUPS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    APPROVALS: (("status",), ("requested_by",), ("requested_by", "status"), ("open_until",)),
    ROLES: (("folded_name",),),
    RUNS: (("status",), ("workflow_key",), ("status", "workflow_key"), ("paused_for",)),
    TRIGGER_DOCUMENTS: (
        ("type",),
        ("status", "type"),
        ("event_type", "status"),
        ("workflow_key",),
        ("from_definition", "workflow_key"),
    ),
    "workflow_assignments": tuple(
        chain.from_iterable(combinations(_ASSIGNMENT_FIELDS, number) for number in (1, 2, 3, 4))
    ),
}
"""The fields that a filter of a collection names together, in alphabetical order. Values are texts, true or false."""


def keys_of(collection: str, data: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys under which a document is found."""
    lookups = LOOKUPS.get(collection)
    if lookups is None:
        return ()
    found = (_key(collection, fields, data) for fields in lookups)
    return tuple(key for key in found if key is not None)


def key_of_filter(collection: str, filter: Mapping[str, Any]) -> str | None:
    """Return the key of the documents that match a filter; None when each document has to be compared.

    Raise `StorageError` for a filter of the library's own collections without a lookup.
    """
    fields = tuple(sorted(filter))
    if fields in LOOKUPS.get(collection, ()):
        key = _key(collection, fields, filter)
        if key is not None:
            return key
    if filter and collection.startswith(RESERVED_PREFIX) and not collection.startswith(_VIEWS):
        raise StorageError(
            f"a filter of {collection!r} by {', '.join(fields)} would read the whole collection: add this lookup to "
            f"actionengine.storage.lookups"
        )
    return None


def _key(collection: str, fields: tuple[str, ...], data: Mapping[str, Any]) -> str | None:
    values = [data.get(field) for field in fields]
    if not all(isinstance(value, str | bool) for value in values):
        return None
    key = f"{collection}/{','.join(fields)}:{to_json(values).decode()}"
    if len(key) > MAX_KEY_LENGTH:
        key = f"{collection}/{','.join(fields)}#{sha256(key.encode()).hexdigest()}"
    return key
