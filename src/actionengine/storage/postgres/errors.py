"""What PostgreSQL's errors mean in terms of the port."""

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
    """What an error of the driver is in terms of the port; None for one that is the handler's own."""
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
    meaning = _KNOWN.get(state) or _KNOWN_CLASSES.get(state[:2])
    return meaning(error) if meaning is not None else None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def key_too_long() -> ActionError:
    """The refusal of a key that no row of the index has room for."""
    return ActionError(ErrorCode.INVALID_INPUT, "the idempotency key is too long for the database's index")


def aborted_transaction_error() -> StorageError:
    """The refusal to commit a transaction that has failed."""
    return StorageError(
        "a statement of this transaction has failed, and its error was caught: the transaction cannot go on. "
        "Use session.begin_nested() around a statement that may fail"
    )


def _serialization(error: psycopg.Error) -> Exception:
    return SerializationFailure(_first_line(error))


def _unavailable(error: psycopg.Error) -> Exception:
    return StorageUnavailable(f"PostgreSQL: {_first_line(error)}")


def _taken(error: psycopg.Error) -> Exception:
    constraint = error.diag.constraint_name
    return ActionError(ErrorCode.CONFLICT, f"this exists already (constraint {constraint})", {"constraint": constraint})


def _not_allowed(error: psycopg.Error) -> Exception | None:
    # In a host's own tables it is the handler's mistake.
    table, constraint = error.diag.table_name or "", error.diag.constraint_name
    if not table.startswith(RESERVED_PREFIX):
        return None
    return ActionError(
        ErrorCode.CONFLICT, f"{table} does not allow this: {_first_line(error)}", {"constraint": constraint}
    )


def _tampered(error: psycopg.Error) -> Exception:
    return StorageError(_first_line(error))


def _against_a_rule(error: psycopg.Error) -> Exception:
    return ActionError(ErrorCode.CONFLICT, _first_line(error))


def _locked(error: psycopg.Error) -> Exception:
    return ActionError(ErrorCode.CONFLICT, "another execution holds a lock on this: try again")


def _too_slow(error: psycopg.Error) -> Exception:
    return ActionError(ErrorCode.TIMEOUT, "a statement was stopped: it took too long")


def _not_storable(error: psycopg.Error) -> Exception:
    return ActionError(ErrorCode.INVALID_INPUT, f"PostgreSQL cannot store this: {_first_line(error)}")


def _not_for_a_pooler(error: psycopg.Error) -> Exception:
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


_KNOWN: dict[str, Callable[[psycopg.Error], Exception | None]] = {
    "40001": _serialization,
    "40P01": _serialization,
    "23505": _taken,
    "23P01": _taken,
    "23502": _not_allowed,
    "23503": _not_allowed,
    "23514": _not_allowed,
    "55P03": _locked,
    "57014": _too_slow,
    "25P02": lambda error: aborted_transaction_error(),
    SILENT: _unavailable,
    "25006": _refused,
    "42501": _refused,
    "42P05": _not_for_a_pooler,
    "AE001": _refused,
    "AE002": _refused,
    "AE003": _refused,
    "AE004": _against_a_rule,
    "AE005": _tampered,
    "22P02": _lost_key,
    "22001": _not_storable,
    "22003": _not_storable,
    "22P05": _not_storable,
    "22021": _not_storable,
    NOT_PREPARED: _unavailable,
}
"""What a SQLSTATE means."""

_KNOWN_CLASSES = {"08": _unavailable, "53": _unavailable, "57": _unavailable, "58": _unavailable}
"""What a class of them means: lost connections, lack of resources (a full disk), operator intervention, I/O errors."""
