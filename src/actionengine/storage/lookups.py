"""Lookups: the questions that the library asks of its own collections, each answered by an index.

A collection that only grows is never read through to find a few of its documents. So a backend keeps a key for each
lookup of a document, and finds the documents of a filter by its key. A filter of a collection of the library's that is
no lookup is refused: add the lookup here. Hosts' collections have none: what their filters say is compared with each
document.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from itertools import chain, combinations
from typing import Any

from pydantic_core import to_json

from actionengine.storage.errors import StorageError
from actionengine.storage.records import APPROVALS, RESERVED_PREFIX, ROLES

_VIEWS = f"{RESERVED_PREFIX}view/"
"""The collections of projections: their names are the library's, and what they are asked is the host's."""

MAX_KEY_LENGTH = 250
"""Characters of a key: of what is longer it has the hash."""

OPEN_APPROVALS = f'{APPROVALS}/open_until:["'
"""The keys of the approvals that can still be decided begin so; the time until when follows."""

PENDING_APPROVALS = f'{APPROVALS}/status:["pending"]'
"""The key of the approvals that are undecided; some of them may have expired."""

TRIGGER_DOCUMENTS = f"{RESERVED_PREFIX}triggers"

ACTIVE_SCHEDULES = f'{TRIGGER_DOCUMENTS}/status,type:["active","schedule"]'
"""The key of the schedules that are in use."""

_ASSIGNMENT_FIELDS = ("assignee", "run_id", "status", "workflow_key")

LOOKUPS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    APPROVALS: (("status",), ("requested_by",), ("requested_by", "status"), ("open_until",)),
    ROLES: (("folded_name",),),
    "ae_workflow_runs": (("status",), ("workflow_key",), ("status", "workflow_key"), ("paused_for",)),
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
"""By collection, the fields that a filter names together, in alphabetical order. Values are texts, true or false."""


def keys_of(collection: str, data: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys under which a document is found."""
    lookups = LOOKUPS.get(collection)
    if lookups is None:
        return ()
    found = (_key(collection, fields, data) for fields in lookups)
    return tuple(key for key in found if key is not None)


def key_of_filter(collection: str, filter: Mapping[str, Any]) -> str | None:
    """Return the key of the documents that a filter wants, None where each document has to be compared.

    Raise `StorageError` for a filter of a collection of the library's that is no lookup.
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
