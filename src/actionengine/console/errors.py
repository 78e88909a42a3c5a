"""Error pages, and the page of each error of an action."""

from __future__ import annotations

from collections.abc import Mapping

from actionengine.errors import ActionError, ErrorCode

_TITLES = {
    ErrorCode.INVALID_INPUT: "The input is not valid",
    ErrorCode.UNAUTHENTICATED: "Sign in first",
    ErrorCode.FORBIDDEN: "You may not do this",
    ErrorCode.NOT_FOUND: "There is no such thing",
    ErrorCode.TIMEOUT: "It took too long",
    ErrorCode.CONFLICT: "The state has changed",
    ErrorCode.IDEMPOTENCY_IN_PROGRESS: "The same form is still being processed",
    ErrorCode.IDEMPOTENCY_MISMATCH: "This form was sent before with another content",
    ErrorCode.APPROVAL_REQUIRED: "It waits for an approval",
    ErrorCode.UNAVAILABLE: "The storage is unavailable",
    ErrorCode.RATE_LIMITED: "A budget is used up",
}

_RETRY_AFTER = "5"
"""Seconds."""


class ErrorPage(Exception):
    """A page that explains an error.

    Attributes:
        status: its HTTP status.
        title: its heading.
        message: a sentence or two.
        headers: further headers of the response.
        approval: the id of the approval that the action waits for, if any.
    """

    def __init__(
        self,
        status: int,
        title: str,
        message: str,
        headers: Mapping[str, str] | None = None,
        approval: str | None = None,
    ) -> None:
        super().__init__(title)
        self.status = status
        self.title = title
        self.message = message
        self.headers = headers or {}
        self.approval = approval


def error_page(error: ActionError) -> ErrorPage:
    """Return the page of an error of an action."""
    headers = {"retry-after": _RETRY_AFTER} if error.code is ErrorCode.UNAVAILABLE else {}
    title = _TITLES.get(error.code, "The action failed")
    approval = error.details.get("approval_id") if error.code is ErrorCode.APPROVAL_REQUIRED else None
    return ErrorPage(error.code.http_status, title, error.message, headers, approval)


def refusal_text(permission: str | None, reason: str) -> str:
    """Return the sentences for a caller that may not: the permission that it needs, and the reason if it says more."""
    needs = f"It needs the permission {permission}." if permission is not None else ""
    answer = f"The answer was: {reason}." if reason != f"needs the permission {permission}" else ""
    return f"{needs} {answer}".strip()
