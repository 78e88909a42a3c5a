"""Collections of documents: their ports, and the encoding, filters and errors that the backends share."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar
from uuid import UUID

from pydantic_core import PydanticSerializationError, from_json, to_json
from uuid_utils import uuid7

from actionengine.errors import ActionError, ErrorCode, storable_text
from actionengine.storage.pages import Page
from actionengine.storage.rows import Record, uuid_text
from actionengine.text.json_bounds import check_readable

T = TypeVar("T")

RESERVED_PREFIX = "ae_"
"""Prefix of the library's own collections; a handler cannot open them."""

ROLES = "ae_roles"
ROLE_ASSIGNMENTS = "ae_role_assignments"
APPROVALS = "ae_approvals"
PLANS = "ae_plans"
RUNS = "ae_workflow_runs"

ROLE_COLLECTIONS = frozenset({ROLES, ROLE_ASSIGNMENTS})
"""Collections whose commits move the tenant's `access_version`."""

MAX_ID_LENGTH = 255
"""Characters of the id of a document."""

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""NUL, which PostgreSQL cannot store in a text: all backends refuse it."""


def encode_document(collection: str, data: Mapping[str, Any]) -> bytes:
    """Return a document as JSON. Raise `ActionError(invalid_input)` for one that JSON cannot represent."""
    if not isinstance(data, Mapping):
        raise ActionError(ErrorCode.INVALID_INPUT, f"a document of {collection!r} must be a mapping, not {_kind(data)}")
    try:
        encoded = to_json(data if type(data) is dict else dict(data), inf_nan_mode="null")
        if b"null" in encoded and encoded != to_json(data, inf_nan_mode="constants"):
            raise ActionError(ErrorCode.INVALID_INPUT, f"a document of {collection!r} has a number that is not finite")
        if b"\\u0000" in encoded and _NUL.search(encoded):
            raise ActionError(ErrorCode.INVALID_INPUT, f"a document of {collection!r} contains the character \\u0000")
        check_readable(encoded)
        return encoded
    except (PydanticSerializationError, ValueError) as error:
        raise ActionError(ErrorCode.INVALID_INPUT, f"a document of {collection!r} is not JSON: {error}") from None


def decode_document(document: bytes) -> dict[str, Any]:
    """Return a document from JSON: a fresh object for each reader."""
    data: dict[str, Any] = from_json(document)
    return data


def normal_filter(collection: str, filter: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a filter in the document's terms: top-level fields and the JSON values to equal."""
    return decode_document(encode_document(collection, filter)) if filter else {}


def matches(data: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Return whether a document has these top-level fields with these values. As in JSON, true is not 1."""
    return all(field in data and same_json(data[field], value) for field, value in wanted.items())


def same_json(one: Any, other: Any) -> bool:
    """Return whether two values are equal in JSON, where true is not 1."""
    if one != other:
        return False
    if isinstance(one, dict):
        return all(same_json(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return all(map(same_json, one, other))
    return isinstance(one, bool) == isinstance(other, bool)


def new_id() -> str:
    """Return a new id, which sorts by time."""
    return str(uuid7())


def check_id(collection: str, id: str) -> None:
    """Raise `ActionError(invalid_input)` for an id that is not a text of 1 to 255 characters."""
    if not is_id(id):
        raise ActionError(
            ErrorCode.INVALID_INPUT, f"an id in {collection!r} is a text of 1 to {MAX_ID_LENGTH} characters in UTF-8"
        )


def is_id(text: object) -> bool:
    """Return whether a value can be the id of a document: a text of 1 to 255 characters in UTF-8."""
    return isinstance(text, str) and 0 < len(text) <= MAX_ID_LENGTH and storable_text(text) == text


FIRST_ID = "00000000-0000-0000-0000-000000000000"
"""An id before those of all events."""


def event_id(text: str) -> str:
    """Return the id of an event in its stored form. Raise `ActionError(invalid_input)` for any other text."""
    id = uuid_text(text)
    if id is None:
        raise ActionError(ErrorCode.INVALID_INPUT, f"{text!r} is not the id of an event")
    return id


def time_of_id(id: str) -> datetime:
    """Return the time of creation, with which the library's ids begin."""
    return datetime.fromtimestamp((UUID(id).int >> 80) / 1000, UTC)


def id_conflict(collection: str, id: str) -> ActionError:
    """Return the error for an id that exists."""
    return ActionError(ErrorCode.CONFLICT, f"{collection}/{id} exists already", {"collection": collection, "id": id})


def rows_gone(table: str) -> ActionError:
    """Return the error for a change of rows that do not exist."""
    return ActionError(
        ErrorCode.CONFLICT, f"a row of {table} to change does not exist any more: read it again", {"table": table}
    )


def not_found(collection: str, id: str) -> ActionError:
    """Return the error for a change of a document that does not exist."""
    return ActionError(ErrorCode.NOT_FOUND, f"{collection}/{id} does not exist", {"collection": collection, "id": id})


def version_conflict(collection: str, id: str, expected: int, found: int) -> ActionError:
    """Return the error for an expected version that is not the newest."""
    return ActionError(
        ErrorCode.CONFLICT,
        f"{collection}/{id} is at version {found}, not {expected}: read it again",
        {"collection": collection, "id": id, "expected_version": expected, "version": found},
    )


class AsyncRecords(Protocol):
    """A tenant's documents of one collection.

    Each method raises `ActionError`: `conflict` for a taken id or a stale version, `not_found` for the change of a
    document that does not exist, `invalid_input` for data that JSON cannot represent.
    """

    async def insert(self, data: Mapping[str, Any], id: str | None = None) -> Record:
        """Add a document. Without an `id` it gets one that sorts by time."""

    async def get(self, id: str) -> Record | None:
        """Return the document, or None."""

    async def update(self, id: str, data: Mapping[str, Any], expected_version: int) -> Record:
        """Replace a document that is at `expected_version`."""

    async def delete(self, id: str, expected_version: int) -> None:
        """Remove a document that is at `expected_version`."""

    async def list(
        self,
        filter: Mapping[str, Any] | None = None,
        limit: int = 100,
        after: str | None = None,
        descending: bool = False,
    ) -> Page[Record]:
        """Return up to `limit` documents (1 000 at most) after the id `after`, by id, whose top-level fields equal the
        filter's.

        `descending` reverses the order, and `after` with it: of ids that the library made, the newest come first. The
        page also ends at 4 MiB of JSON. Its `next` is the `after` of the following page, None on the last one.
        """


class StoredRecords(AsyncRecords, Protocol):
    """A collection in a unit of work, which can also lock documents."""

    async def insert(self, data: Mapping[str, Any], id: str | None = None, is_new: bool = False) -> Record:
        """Add a document. An `id` that `is_new` was made at random just now: its conflict need not be awaited."""

    async def get_all(self, ids: Sequence[str]) -> Page[Record]:
        """Return the documents with these ids that exist, by id, up to 4 MiB of JSON. The page then has a `next`."""

    async def lock(self, id: str, expected_version: int) -> Record:
        """Return the document and keep other units of work from changing or deleting it until this one ends. Raise as
        `update` does."""


class Records:
    """A tenant's documents of one collection, for `def` handlers. Methods and errors are those of `AsyncRecords`."""

    __slots__ = ("_records", "_run_sync")

    def __init__(self, records: AsyncRecords, run_sync: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._records = records
        self._run_sync = run_sync

    def insert(self, data: Mapping[str, Any], id: str | None = None) -> Record:
        """Add a document. Without an `id` it gets one that sorts by time. A taken id is `conflict`."""
        return self._run(self._records.insert(data, id))

    def get(self, id: str) -> Record | None:
        """Return the document, or None."""
        return self._run(self._records.get(id))

    def update(self, id: str, data: Mapping[str, Any], expected_version: int) -> Record:
        """Replace a document that is at `expected_version`; any other version is `conflict`."""
        return self._run(self._records.update(id, data, expected_version))

    def delete(self, id: str, expected_version: int) -> None:
        """Remove a document that is at `expected_version`; any other version is `conflict`."""
        self._run(self._records.delete(id, expected_version))

    def list(
        self,
        filter: Mapping[str, Any] | None = None,
        limit: int = 100,
        after: str | None = None,
        descending: bool = False,
    ) -> Page[Record]:
        """Return up to `limit` documents (1 000 at most) after the id `after`, by id, whose top-level fields equal the
        filter's.

        `descending` reverses the order, and `after` with it: of ids that the library made, the newest come first. The
        page also ends at 4 MiB of JSON. Its `next` is the `after` of the following page, None on the last one.
        """
        return self._run(self._records.list(filter, limit, after, descending))

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        value: T = self._run_sync(coroutine)
        return value


def _kind(value: object) -> str:
    return type(value).__name__
