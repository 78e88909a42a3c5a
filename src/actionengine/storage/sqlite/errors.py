"""Errors of SQLite, translated into those of the port."""

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
"""The messages of the triggers."""

_RULE = re.compile(r"^[A-Z]\d: ")
"""The beginning of a message about a broken rule of change control."""

_OUR_CONSTRAINT = re.compile(r"(CHECK constraint failed: |NOT NULL constraint failed: )ae_.+")


def to_storage_error(error: Exception) -> Exception | None:
    """Return the port's error for one of the driver; None for an error of the handler's own statement."""
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
    if name.startswith("SQLITE_READONLY") or (name == "SQLITE_CONSTRAINT_TRIGGER" and _REFUSAL.fullmatch(str(error))):
        return StorageError(f"SQLite refuses: {error}")
    return None
