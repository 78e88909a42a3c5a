"""Answers: the result of an action as status, headers and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from math import ceil, inf
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, Field
from pydantic_core import to_json
from returns.result import Failure, Result

from actionengine.errors import ActionError, ErrorCode, bounded_text

T = TypeVar("T")

_HEADERS = {"content-type": "application/json", "cache-control": "no-store", "x-content-type-options": "nosniff"}
_RETRY_AFTER = 1
"""Seconds after which a request may be repeated, where the error tells none."""
_RETRYABLE = frozenset({ErrorCode.UNAVAILABLE, ErrorCode.IDEMPOTENCY_IN_PROGRESS})
_MAX_MESSAGE_LENGTH = 1000

_CODES = {
    400: "invalid_input",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    411: "length_required",
    413: "too_large",
    415: "unsupported_media_type",
    429: "rate_limited",
    431: "too_large",
    503: "unavailable",
}
"""Codes of refusals by the transport. They equal those of actions where these have one."""


@dataclass(frozen=True, slots=True)
class Response:
    """A status, headers with lower-case names, and a JSON body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Answer(BaseModel, Generic[T]):
    """The body of a success, for the documentation of an API."""

    data: T


class ErrorBody(BaseModel):
    """The reason why a request failed."""

    code: str = Field(description="The kind of failure, for a program.", examples=[*ErrorCode])
    message: str = Field(description="A sentence for a person.")
    details: dict[str, Any] = Field(description="Facts for a program, by code.")


class ErrorAnswer(BaseModel):
    """The body of a failure, for the documentation of an API."""

    error: ErrorBody


class RequestRefused(Exception):
    """A request that the host refuses before any action: an HTTP status from 400 on, and a message for a person.

    A host makes it of its framework's own errors too: an unknown route, a wrong method, a body that is too long.
    """

    def __init__(self, status: int, message: str = "") -> None:
        if not 400 <= status <= 599:
            raise ValueError(f"the status of a refusal is 400 to 599, not {status}")
        self.status = status
        self.message = bounded_text(message or _phrase(status), _MAX_MESSAGE_LENGTH)
        super().__init__(self.message)

    @property
    def code(self) -> str:
        """The code in the body, such as `method_not_allowed` of 405."""
        return _CODES.get(self.status) or ("refused" if self.status < 500 else "internal")


def to_response(answer: Result[Any, ActionError] | ActionError | RequestRefused) -> Response:
    """Return the response to a request.

    A success is 200 with `{"data": value}`. An error is `{"error": {"code", "message", "details"}}` with the
    `http_status` of its code: 202 for `approval_required`. `Retry-After` tells, in seconds, after which time a request
    that was `rate_limited`, `unavailable` or `idempotency_in_progress` may succeed. No cache stores an answer.
    """
    if isinstance(answer, Failure):
        answer = answer.failure()
    if isinstance(answer, ActionError):
        return _response(answer.code.http_status, {"error": answer.to_dict()}, _retry_after(answer))
    if isinstance(answer, RequestRefused):
        error = {"code": answer.code, "message": answer.message, "details": {}}
        return _response(answer.status, {"error": error})
    return _response(HTTPStatus.OK, {"data": answer.unwrap()})


def _response(status: int, body: dict[str, Any], retry_after: int | None = None) -> Response:
    more = {} if retry_after is None else {"retry-after": str(retry_after)}
    return Response(int(status), _HEADERS | more, to_json(body, inf_nan_mode="null"))


def _retry_after(error: ActionError) -> int | None:
    """Return whole seconds, rounded up. A budget that is too small for the amount has none: a retry cannot succeed."""
    seconds = error.details.get("retry_after")
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds < inf:
        return ceil(seconds)
    return _RETRY_AFTER if error.code in _RETRYABLE else None


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "the request is refused"
