"""Errors of PostgreSQL, translated into those of the port."""

from __future__ import annotations

import re
from collections.abc import Callable

import psycopg

from actionengine.errors import ActionError, ErrorCode
from actionengine.storage.errors import SerializationFailure, StorageError, StorageTimeout, StorageUnavailable
from actionengine.storage.postgres.generators import ResponseTimeout
from actionengine.storage.postgres.statements import LOST_KEY
from actionengine.storage.postgres.waiting import NOT_PREPARED, SILENT
from actionengine.storage.records import RESERVED_PREFIX
from actionengine.storage.sql.rows import KEY_GONE


def to_storage_error(error: Exception) -> Exception | None:
    """Return the port's error for one of the driver; None for an error of the handler's own statement."""
    if not isinstance(error, psycopg.Error):
        return None
    if isinstance(error, ResponseTimeout | psycopg.errors.ConnectionTimeout):
        return StorageTimeout(f"PostgreSQL is out of reach: {_first_line(error)}")
    state = error.sqlstate
    if state is None:
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            return StorageUnavailable(f"PostgreSQL is out of reach: {_first_line(error)}")
        if isinstance(error, psycopg.DataError):
            return ActionError(ErrorCode.INVALID_INPUT, f"PostgreSQL cannot store this: {_first_line(error)}")
        return None
    translate = _BY_STATE.get(state) or _BY_CLASS.get(state[:2])
    return translate(error) if translate is not None else None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def key_too_long() -> ActionError:
    """Return the error for a key that does not fit into a row of the index."""
    return ActionError(ErrorCode.INVALID_INPUT, "the idempotency key is too long for the database's index")


def aborted_transaction_error() -> StorageError:
    """Return the error for a commit of a transaction that has failed."""
    return StorageError(
        "a statement of this transaction has failed, and its error was caught: the transaction cannot go on. "
        "Use session.begin_nested() around a statement that may fail"
    )


def _unavailable(error: psycopg.Error) -> Exception:
    return StorageUnavailable(f"PostgreSQL: {_first_line(error)}")


def _taken(error: psycopg.Error) -> Exception:
    constraint = error.diag.constraint_name
    return ActionError(ErrorCode.CONFLICT, f"this exists already (constraint {constraint})", {"constraint": constraint})


def _constraint_violated(error: psycopg.Error) -> Exception | None:
    # A violation in a host's own table is an error of the handler.
    table, constraint = error.diag.table_name or "", error.diag.constraint_name
    if not table.startswith(RESERVED_PREFIX):
        return None
    return ActionError(
        ErrorCode.CONFLICT, f"{table} does not allow this: {_first_line(error)}", {"constraint": constraint}
    )


def _not_storable(error: psycopg.Error) -> Exception:
    return ActionError(ErrorCode.INVALID_INPUT, f"PostgreSQL cannot store this: {_first_line(error)}")


def _lost_by_pooler(error: psycopg.Error) -> Exception:
    return StorageError(
        f"{_first_line(error)}: behind a pooler that shares connections, pass prepared_statements=False"
    )


def _lost_key(error: psycopg.Error) -> Exception | None:
    return StorageError(KEY_GONE) if LOST_KEY in _first_line(error) else None


def _refused(error: psycopg.Error) -> Exception:
    refusal = f"PostgreSQL refuses: {_first_line(error)}"
    if _OF_RELAYS.search(refusal):
        refusal += ": connect as the role of relays that `actionengine db upgrade --relay-role` was given"
    return StorageError(refusal)


_OF_RELAYS = re.compile("function ae_(outbox|relay|dead_letters|redrive|skip)")

_BY_STATE: dict[str, Callable[[psycopg.Error], Exception | None]] = {
    "40001": lambda error: SerializationFailure(_first_line(error)),
    "40P01": lambda error: SerializationFailure(_first_line(error)),
    "23505": _taken,
    "23P01": _taken,
    "23502": _constraint_violated,
    "23503": _constraint_violated,
    "23514": _constraint_violated,
    "55P03": lambda error: ActionError(ErrorCode.CONFLICT, "another execution holds a lock on this: try again"),
    "57014": lambda error: ActionError(ErrorCode.TIMEOUT, "a statement was stopped: it took too long"),
    "25P02": lambda error: aborted_transaction_error(),
    SILENT: _unavailable,
    "25006": _refused,
    "42501": _refused,
    "42P05": _lost_by_pooler,
    "AE001": _refused,
    "AE002": _refused,
    "AE003": _refused,
    "AE004": lambda error: ActionError(ErrorCode.CONFLICT, _first_line(error)),
    "AE005": lambda error: StorageError(_first_line(error)),
    "22P02": _lost_key,
    "22001": _not_storable,
    "22003": _not_storable,
    "22P05": _not_storable,
    "22021": _not_storable,
    NOT_PREPARED: _unavailable,
}
"""The error for a SQLSTATE."""

_BY_CLASS = {"08": _unavailable, "53": _unavailable, "57": _unavailable, "58": _unavailable}
"""The error for a class of them: lost connections, lack of resources (a full disk), operator intervention, I/O
errors."""
