"""What SQLite's errors mean in terms of the port."""

from __future__ import annotations

import re
import sqlite3

from actionengine.errors import ActionError, ErrorCode
from actionengine.storage.errors import SerializationFailure, StorageError, StorageUnavailable

_OUT_OF_REACH = (
    "SQLITE_BUSY",
    "SQLITE_LOCKED",
    "SQLITE_FULL",
    "SQLITE_IOERR",
    "SQLITE_CANTOPEN",
    "SQLITE_CORRUPT",
    "SQLITE_NOTADB",
    "SQLITE_PROTOCOL",
)


_REFUSAL = re.compile(r"(INSERT|UPDATE|DELETE) on .+(outside an action of|in an action:|it is append-only).*")
"""What the triggers say."""

_RULE = re.compile(r"^[A-Z]\d: ")
"""How they begin where a rule of change control is broken."""

_OUR_CONSTRAINT = re.compile(r"(CHECK constraint failed: |NOT NULL constraint failed: )ae_.+")


def to_storage_error(error: Exception) -> Exception | None:
    """What an error of the driver is in terms of the port; None for one that is the handler's own."""
    if not isinstance(error, sqlite3.Error):
        return None
    name = getattr(error, "sqlite_errorname", "")
    if name in {"SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"}:
        return ActionError(ErrorCode.CONFLICT, f"this exists already ({error})")
    if name == "SQLITE_CONSTRAINT_TRIGGER" and _RULE.match(str(error)):
        return ActionError(ErrorCode.CONFLICT, str(error))
    if name in {"SQLITE_CONSTRAINT_CHECK", "SQLITE_CONSTRAINT_NOTNULL"} and _OUR_CONSTRAINT.fullmatch(str(error)):
        return ActionError(ErrorCode.CONFLICT, f"the database does not allow this: {error}")
    if name == "SQLITE_INTERRUPT":
        return ActionError(ErrorCode.TIMEOUT, "a statement was stopped: it took too long")
    if name == "SQLITE_TOOBIG":
        return ActionError(ErrorCode.INVALID_INPUT, f"SQLite cannot store this: {error}")
    if name == "SQLITE_BUSY_SNAPSHOT":
        return SerializationFailure(str(error))
    if name.startswith(_OUT_OF_REACH) or "closed database" in str(error):
        return StorageUnavailable(f"SQLite: {error} ({name})")
    if name.startswith("SQLITE_READONLY") or (name == "SQLITE_CONSTRAINT_TRIGGER" and _is_ours(str(error))):
        return StorageError(f"SQLite refuses: {error}")
    return None


def _is_ours(message: str) -> bool:
    return _REFUSAL.fullmatch(message) is not None
