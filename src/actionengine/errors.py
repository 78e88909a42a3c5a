"""`ActionError`, an exception and a value, with its codes; `ConfigurationError` for mistakes in declarations."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Literal, NoReturn

from pydantic_core import from_json

from actionengine.masking.masking import masked_json

_NO_DETAILS: Mapping[str, Any] = MappingProxyType({})


class ErrorCode(StrEnum):
    """Every code that an `ActionError` can carry; `http_status` is the HTTP status that a host answers with."""

    INVALID_INPUT = "invalid_input"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    TIMEOUT = "timeout"
    CONFLICT = "conflict"
    IDEMPOTENCY_IN_PROGRESS = "idempotency_in_progress"
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    UNPROCESSABLE = "unprocessable"
    APPROVAL_REQUIRED = "approval_required"
    HOOK_FAILED = "hook_failed"
    HANDLER_ERROR = "handler_error"
    INTERNAL = "internal"
    UNAVAILABLE = "unavailable"
    RATE_LIMITED = "rate_limited"

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise ValueError(f"unknown error code {value!r}; expected one of {', '.join(cls)}")

    @property
    def http_status(self) -> int:
        """Return the HTTP status of this code, such as 409 for `conflict`."""
        return _HTTP_STATUS[self]


ErrorCodeValue = Literal[
    "invalid_input",
    "unauthenticated",
    "forbidden",
    "not_found",
    "timeout",
    "conflict",
    "idempotency_in_progress",
    "idempotency_mismatch",
    "unprocessable",
    "approval_required",
    "hook_failed",
    "handler_error",
    "internal",
    "unavailable",
    "rate_limited",
]
"""The strings of `ErrorCode`, for a type checker."""

_HTTP_STATUS: Final = {
    ErrorCode.INVALID_INPUT: 400,
    ErrorCode.UNAUTHENTICATED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.TIMEOUT: 408,
    ErrorCode.CONFLICT: 409,
    ErrorCode.IDEMPOTENCY_IN_PROGRESS: 409,
    ErrorCode.IDEMPOTENCY_MISMATCH: 422,
    ErrorCode.UNPROCESSABLE: 422,
    ErrorCode.APPROVAL_REQUIRED: 202,
    ErrorCode.HOOK_FAILED: 422,
    ErrorCode.HANDLER_ERROR: 500,
    ErrorCode.INTERNAL: 500,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.RATE_LIMITED: 429,
}


class ActionError(Exception):
    """The reason why an action failed: an exception and a value.

    `raise ActionError("conflict", "...")` in a handler and `return Failure(ActionError("conflict", "..."))` mean the
    same. `code` is an `ErrorCode` or its string value, `message` a sentence for a person, `details` a read-only mapping
    with facts for a program (field errors, an approval's id). `str(error)` is the message. Two errors are equal if
    their codes, messages and details are.

    Raises `ValueError` for a code that is not one of `ErrorCode`.
    """

    __slots__ = ("_code", "_details", "_message")
    __match_args__ = ("code", "message", "details")

    def __init__(
        self, code: ErrorCode | ErrorCodeValue, message: str, details: Mapping[str, Any] | None = None
    ) -> None:
        self._code = code if type(code) is ErrorCode else ErrorCode(code)
        if type(message) is not str or not message.isascii() or "\0" in message:
            message = storable_text(str(message))
        self._message = message
        self._details = MappingProxyType(dict(details)) if details else _NO_DETAILS
        super().__init__(message)

    @property
    def code(self) -> ErrorCode:
        """The kind of failure."""
        return self._code

    @property
    def message(self) -> str:
        """A sentence for a person."""
        return self._message

    @property
    def details(self) -> Mapping[str, Any]:
        """Facts for a program, read-only."""
        return self._details

    def without_traceback(self) -> ActionError:
        """Return an equal `ActionError` without a reference to any frame. A raised error keeps the variables of the
        frames that it passed, and with them payloads and secrets."""
        return ActionError(self._code, self._message, self._details)

    def __str__(self) -> str:
        return self._message

    def __repr__(self) -> str:
        details = f", {dict(self._details)!r}" if self._details else ""
        return f"{type(self).__name__}({self._code.value!r}, {self._message!r}{details})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ActionError):
            return NotImplemented
        return (self._code, self._message, self._details) == (other._code, other._message, other._details)

    def __hash__(self) -> int:
        return hash((self._code, self._message))

    def to_dict(self) -> dict[str, Any]:
        """Return `{"code", "message", "details"}` as plain JSON values. A value without a JSON form becomes text."""
        details: Any = {}
        if self.details:
            try:
                details = from_json(masked_json(dict(self.details), fallback=str))
            except Exception:
                # A value may raise anything here; the error must still be readable.
                details = {storable_text(str(key)): f"<{type(value).__name__}>" for key, value in self.details.items()}
        return {"code": self.code.value, "message": self.message, "details": details}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.message, dict(self.details))


def not_found(kind: str, id: str, **details: Any) -> ActionError:
    """Return the error for a thing that does not exist, or belongs to another tenant."""
    return ActionError(ErrorCode.NOT_FOUND, f"there is no {kind} {id!r}", {"id": id, **details})


def conflict(message: str, **details: Any) -> ActionError:
    """Return the error for a request that contradicts the present state."""
    return ActionError(ErrorCode.CONFLICT, message, details)


def storable_text(text: str) -> str:
    """Return a text that every storage can keep: without NUL, and without lone surrogates, which UTF-8 cannot carry."""
    if "\0" in text:
        text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def bounded_text(text: object, max_length: int) -> str:
    """Return a text of at most `max_length` characters that every storage can keep. A cut text ends in an ellipsis."""
    if type(text) is str and len(text) <= max_length and text.isascii() and "\0" not in text:
        return text
    if type(text) is not str:
        text = str.__str__(text) if isinstance(text, str) else str(text)
    text = storable_text(text)
    return text if len(text) <= max_length else text[: max_length - 1] + "…"


class ConfigurationError(Exception):
    """A mistake in a declaration, found by `create_engine`. The message names the action and the correction."""


class DuplicateActionWarning(UserWarning):
    """Two actions of one service have the same name; the last one wins."""


def check_length(what: str, text: str, max_length: int) -> None:
    """Raise `ActionError(invalid_input)` for a text of more characters."""
    if len(text) > max_length:
        raise ActionError(
            ErrorCode.INVALID_INPUT, f"{what} has {len(text)} characters; at most {max_length} are allowed"
        )
