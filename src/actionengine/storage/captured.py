"""The writes of one execution, as a preview and a plan compare them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from pydantic_core import to_json

from actionengine.storage.errors import StorageError

WriteKind = Literal["insert", "update", "delete", "statement"]


class CapturedWrite(NamedTuple):
    """One write: of a document or a row (`target` and `id`), or a statement of SQL with its parameters.

    `before`, `after` and `parameters` are JSON. For a statement they are the rows that it has changed, as far as they
    are known. `generated` names the columns whose values the database has made: two runs may differ in them. They may
    also differ in a key that the database has made, and in references to it: `made` has the columns with such a key,
    and a name of it that two runs share; `made_id` is the id with that name.
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


class WriteJournal(list[CapturedWrite]):
    """The writes in their order. A rollback to a savepoint removes those that it undoes."""

    __slots__ = ("is_closed",)

    def __init__(self) -> None:
        super().__init__()
        self.is_closed = False

    def add(self, write: CapturedWrite) -> None:
        """Add a write. Raise as `check_open` does."""
        self.check_open()
        self.append(write)

    def check_open(self) -> None:
        """Raise `StorageError` once the writes have been compared: a later one would not be in the plan."""
        if self.is_closed:
            raise StorageError("this execution has ended, and its writes have been compared: nothing can be written")

    def undo_to(self, mark: int) -> None:
        """Remove the writes after this length."""
        del self[mark:]


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
