"""The writes of one execution, as a preview and a plan compare them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Lock
from typing import Any, Literal, NamedTuple

from pydantic_core import to_json

from actionengine.storage.errors import StorageError

WriteKind = Literal["insert", "update", "delete", "statement"]


class CapturedWrite(NamedTuple):
    """One write: of a document or a row (`target` and `id`), or a statement of SQL with its parameters.

    `before`, `after` and `parameters` are JSON. For a statement they are the rows that it has changed, as far as they
    are known. `generated` names the columns whose values the database has made: two runs may differ in them. They may
    also differ in a key that the database has made, and in references to it: `made` has the columns with such a key,
    and a name of it that two runs share; `made_id` is the id with that name. `key` is the whole key of a row, empty for
    a document: an `id` alone may stand for several.
    """

    kind: WriteKind
    target: str
    id: str | None
    before: bytes | None = None
    after: bytes | None = None
    statement: str | None = None
    parameters: bytes | None = None
    generated: tuple[str, ...] = ()
    made: tuple[tuple[str, str], ...] = ()
    made_id: str | None = None
    key: tuple[Any, ...] = ()


class WriteJournal(list[CapturedWrite]):
    """The writes in their order. A rollback to a savepoint removes those that it undoes."""

    __slots__ = ("_begun", "_is_closed", "_is_late", "_is_sql_closed", "_lock")

    def __init__(self) -> None:
        super().__init__()
        self._lock = Lock()
        self._begun = 0
        self._is_closed = self._is_sql_closed = self._is_late = False

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Count a write of documents or of the library's rows as unfinished during the block.

        Raise `StorageError` once the journal is closed: the write would not be in the plan.
        """
        with self._lock:
            if self._is_closed:
                raise _closed()
            self._begun += 1
        try:
            yield
        finally:
            with self._lock:
                self._begun -= 1

    def add(self, write: CapturedWrite) -> None:
        """Add the write of a `writing` block."""
        self.append(write)

    def add_sql(self, write: CapturedWrite) -> None:
        """Add a write of a session. Raise `StorageError` if the journal was closed while the statement ran."""
        if self._is_sql_closed:
            self._is_late = True
        self.check_sql_open()
        self.append(write)

    def check_sql_open(self) -> None:
        """Raise `StorageError` if a session can write nothing any more."""
        if self._is_sql_closed:
            raise _closed()

    def close(self, closes_sql: bool) -> None:
        """Refuse later writes, of sessions only if this `closes_sql`."""
        with self._lock:
            self._is_closed, self._is_sql_closed = True, closes_sql

    @property
    def is_settled(self) -> bool:
        """True if no write that began before the journal was closed is missing in it."""
        return not self._begun and not self._is_late

    def undo_to(self, mark: int) -> None:
        """Remove the writes after this length."""
        del self[mark:]


def _closed() -> StorageError:
    return StorageError("this execution has ended, and its writes have been compared: nothing can be written")


def captured_json(value: Any) -> bytes:
    """Return a value of a row or a parameter as JSON. Times are in UTC; a value without a JSON form is its `repr`."""
    return to_json(_plain(value), fallback=repr, bytes_mode="hex", inf_nan_mode="strings")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return (value if value.tzinfo is None else value.astimezone(UTC)).isoformat()
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    return value
