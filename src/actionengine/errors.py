"""What can go wrong, as values: `ActionError` and its codes, and the few exceptions that a developer meets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from pydantic_core import from_json

from actionengine.masking import masked_json

_NO_DETAILS: Mapping[str, Any] = MappingProxyType({})


class ErrorCode(StrEnum):
    """Every code an `ActionError` can carry. A host maps each to a status of its transport."""

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


@dataclass(frozen=True, slots=True)
class ActionError:
    """Why an action failed.

    `code` is an `ErrorCode` (or its string value), `message` a sentence for a person, `details` a read-only mapping
    with what a program needs (field errors, an approval's id). `str(error)` is the message.

    Raises `ValueError` for a code that is not one of `ErrorCode`.
    """

    code: ErrorCode
    message: str
    details: Mapping[str, Any] = field(default_factory=lambda: _NO_DETAILS, hash=False)

    def __post_init__(self) -> None:
        if type(self.code) is not ErrorCode:
            object.__setattr__(self, "code", ErrorCode(self.code))
        if type(self.message) is not str or not self.message.isascii() or "\0" in self.message:
            object.__setattr__(self, "message", sendable(str(self.message)))
        if self.details is not _NO_DETAILS:
            object.__setattr__(self, "details", MappingProxyType(dict(self.details)))

    def __str__(self) -> str:
        return self.message

    def to_dict(self) -> dict[str, Any]:
        """`{"code", "message", "details"}` as plain JSON values; what has no JSON form is shown as text."""
        details: Any = {}
        if self.details:
            try:
                details = from_json(masked_json(dict(self.details), fallback=str))
            except Exception:
                # Whatever was put there: an error can always be told.
                details = {sendable(str(key)): f"<{type(value).__name__}>" for key, value in self.details.items()}
        return {"code": self.code.value, "message": self.message, "details": details}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.message, dict(self.details))


def sendable(text: str) -> str:
    """A text that every storage can keep: without NUL, and without the half characters that UTF-8 cannot carry."""
    if "\0" in text:
        text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def bounded_text(text: object, max_length: int) -> str:
    """Return a text that every storage can keep and that has at most `max_length` characters; a longer one ends in
    an ellipsis."""
    if type(text) is str and len(text) <= max_length and text.isascii() and "\0" not in text:
        return text
    if type(text) is not str:
        text = str.__str__(text) if isinstance(text, str) else str(text)
    text = sendable(text)
    return text if len(text) <= max_length else text[: max_length - 1] + "…"


class ActionException(Exception):
    """Carries an `ActionError` out of a handler, or of what a handler calls: it becomes that `Failure`."""

    def __init__(self, error: ActionError) -> None:
        super().__init__(error.message)
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.error,)


class ConfigurationError(Exception):
    """A mistake in a declaration, found by `create_engine`. The message names the action and says what to change."""


class DuplicateActionWarning(UserWarning):
    """Two actions of one service have the same name; the last one wins."""


def check_length(what: str, text: str, max_length: int) -> None:
    """Raise `ActionException(invalid_input)` for a text of more characters."""
    if len(text) > max_length:
        raise failing(ErrorCode.INVALID_INPUT, f"{what} has {len(text)} characters; at most {max_length} are allowed")


def failing(code: ErrorCode, message: str, **details: Any) -> ActionException:
    """The exception to raise for an `ActionError` of this code, message and details."""
    return ActionException(ActionError(code, message, details or _NO_DETAILS))
