"""What the backends' collections share: encoding of documents, filters, the errors, and the face for `def` handlers."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar
from uuid import UUID

from pydantic_core import PydanticSerializationError, from_json, to_json
from uuid_utils import uuid7

from actionengine.errors import ActionError, ErrorCode, storable_text
from actionengine.storage.pages import Page
from actionengine.storage.rows import Record
from actionengine.text.json_bounds import check_readable

T = TypeVar("T")

RESERVED_PREFIX = "ae_"
"""Collections of this prefix are the library's own; a handler cannot open them."""

ROLES = "ae_roles"
ROLE_ASSIGNMENTS = "ae_role_assignments"
APPROVALS = "ae_approvals"

ROLE_COLLECTIONS = frozenset({ROLES, ROLE_ASSIGNMENTS})
"""A commit that writes to one of these moves the tenant's `access_version`."""

MAX_ID_LENGTH = 255
"""Characters of the id of a document."""

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""The character that PostgreSQL keeps in no text, so that no backend does."""


def encode_document(collection: str, data: Mapping[str, Any]) -> bytes:
    """A document as JSON. Raises `ActionError(invalid_input)` for one that JSON cannot carry."""
    if not isinstance(data, Mapping):
        raise ActionError(ErrorCode.INVALID_INPUT, f"a document of {collection!r} must be a mapping, not {_kind(data)}")
    try:
        encoded = to_json(data if type(data) is dict else dict(data), inf_nan_mode="null")
        if b"null" in encoded and encoded != to_json(data, inf_nan_mode="constants"):
            raise ActionError(ErrorCode.INVALID_INPUT, f"a document of {collection!r} has a number that is not finite")
        if b"\\u0000" in encoded and _NUL.search(encoded):
            raise ActionError(ErrorCode.INVALID_INPUT, f"a document of {collection!r} has the character \\u0000 in it")
        check_readable(encoded)
        return encoded
    except (PydanticSerializationError, ValueError) as error:
        raise ActionError(ErrorCode.INVALID_INPUT, f"a document of {collection!r} is not JSON: {error}") from None


def decode_document(document: bytes) -> dict[str, Any]:
    """The document again: a fresh object each time, so that nobody shares one."""
    data: dict[str, Any] = from_json(document)
    return data


def normal_filter(collection: str, filter: Mapping[str, Any] | None) -> dict[str, Any]:
    """A filter in the document's own terms: top-level fields and the JSON values that they must equal."""
    return decode_document(encode_document(collection, filter)) if filter else {}


def matches(data: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Return whether a document has these top-level fields with these values, as JSON compares: true is not 1."""
    return all(field in data and same_json(data[field], value) for field, value in wanted.items())


def same_json(one: Any, other: Any) -> bool:
    """Return whether two values are equal as JSON compares: true is not 1."""
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
    """Raises `ActionError(invalid_input)` for an id that is not a text of 1 to 255 characters."""
    if not is_id(id):
        raise ActionError(
            ErrorCode.INVALID_INPUT, f"an id in {collection!r} is a text of 1 to {MAX_ID_LENGTH} characters in UTF-8"
        )


def is_id(text: object) -> bool:
    """Return whether a document can have this id: a text of 1 to 255 characters in UTF-8."""
    return isinstance(text, str) and 0 < len(text) <= MAX_ID_LENGTH and storable_text(text) == text


def event_id(text: str) -> str:
    """The id of an event, as it is stored. Raises `ActionError(invalid_input)` for a text that is none."""
    try:
        return str(UUID(text))
    except (ValueError, TypeError, AttributeError):
        raise ActionError(ErrorCode.INVALID_INPUT, f"{text!r} is no id of an event") from None


def time_of_id(id: str) -> datetime:
    """Return when an id of the library's was made: it begins with its time."""
    return datetime.fromtimestamp((UUID(id).int >> 80) / 1000, UTC)


def id_conflict(collection: str, id: str) -> ActionError:
    """The conflict of an id that exists."""
    return ActionError(ErrorCode.CONFLICT, f"{collection}/{id} exists already", {"collection": collection, "id": id})


def rows_gone(table: str) -> ActionError:
    """The conflict of rows of the library's own tables that are not there to be changed."""
    return ActionError(
        ErrorCode.CONFLICT, f"a row of {table} that was to be changed is gone: read again", {"table": table}
    )


def not_found(collection: str, id: str) -> ActionError:
    """The refusal to change what is not there."""
    return ActionError(ErrorCode.NOT_FOUND, f"{collection}/{id} does not exist", {"collection": collection, "id": id})


def version_conflict(collection: str, id: str, expected: int, found: int) -> ActionError:
    """The conflict of a version that is not the newest."""
    return ActionError(
        ErrorCode.CONFLICT,
        f"{collection}/{id} is at version {found}, not {expected}: read it again",
        {"collection": collection, "id": id, "expected_version": expected, "version": found},
    )


class AsyncRecords(Protocol):
    """A tenant's documents of one collection.

    Each method raises `ActionError`: `conflict` for a taken id or a stale version, `not_found` for an id to change
    that is not there, `invalid_input` for data that JSON cannot carry.
    """

    async def insert(self, data: Mapping[str, Any], id: str | None = None) -> Record:
        """Add a document; without an `id` it gets one that sorts by time."""

    async def get(self, id: str) -> Record | None:
        """The document, or None."""

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
        """Documents by id, those after the id `after`, whose top-level fields equal the filter's; at most 1 000.

        `descending` goes the other way, and `after` with it: where the ids are the library's, the newest come first.
        The page also ends once its documents have 4 MiB of JSON. Its `next` is the `after` of the following page, or
        None where this is the last one.
        """


class StoredRecords(AsyncRecords, Protocol):
    """A collection as a unit of work has it: documents can be locked, too."""

    async def lock(self, id: str, expected_version: int) -> Record:
        """Return the document, which nobody else changes or deletes until this transaction ends; raise where `update`
        would."""


class Records:
    """A tenant's documents of one collection, for `def` handlers. Methods and errors are those of `AsyncRecords`."""

    __slots__ = ("_records", "_run_sync")

    def __init__(self, records: AsyncRecords, run_sync: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._records = records
        self._run_sync = run_sync

    def insert(self, data: Mapping[str, Any], id: str | None = None) -> Record:
        """Add a document; without an `id` it gets one that sorts by time. A taken id is `conflict`."""
        return self._run(self._records.insert(data, id))

    def get(self, id: str) -> Record | None:
        """The document, or None."""
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
        """Documents by id, those after the id `after`, whose top-level fields equal the filter's; at most 1 000.

        `descending` goes the other way, and `after` with it: where the ids are the library's, the newest come first.
        The page also ends once its documents have 4 MiB of JSON. Its `next` is the `after` of the following page, or
        None where this is the last one.
        """
        return self._run(self._records.list(filter, limit, after, descending))

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        value: T = self._run_sync(coroutine)
        return value


def _kind(value: object) -> str:
    return type(value).__name__
