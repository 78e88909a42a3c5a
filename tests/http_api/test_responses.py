"""Results become statuses, headers and JSON."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from returns.result import Failure, Success

from actionengine import ActionError, ErrorCode
from actionengine.http import RequestRefused, to_response


def body_of(answer: Any) -> Any:
    return json.loads(to_response(answer).body)


def test_a_success_is_200_with_data() -> None:
    response = to_response(Success({"id": 1, "day": date(2031, 3, 2), "amount": Decimal("1.50")}))
    assert (response.status, response.headers["content-type"]) == (200, "application/json")
    assert json.loads(response.body) == {"data": {"id": 1, "day": "2031-03-02", "amount": "1.50"}}
    assert body_of(Success(None)) == {"data": None}


@pytest.mark.parametrize("code", ErrorCode)
def test_an_error_has_the_status_of_its_code(code: ErrorCode) -> None:
    error = ActionError(code, "no", {"id": "1"})
    for answer in (Failure(error), error):
        response = to_response(answer)
        assert response.status == code.http_status
        assert json.loads(response.body) == {"error": {"code": code, "message": "no", "details": {"id": "1"}}}


def test_a_body_is_strict_json() -> None:
    assert body_of(Success([float("inf"), float("nan")])) == {"data": [None, None]}
    details = {"at": date(2031, 3, 2), "far": float("inf"), "self": object()}
    assert json.loads(to_response(ActionError("conflict", "no", details)).body, parse_constant=pytest.fail)


def test_no_cache_stores_an_answer() -> None:
    for answer in (Success(1), ActionError("not_found", "no"), RequestRefused(404)):
        headers = to_response(answer).headers
        assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")


@pytest.mark.parametrize(
    ("code", "details", "seconds"),
    [
        ("rate_limited", {"retry_after": 17}, "17"),
        ("rate_limited", {"retry_after": 0.25}, "1"),
        ("rate_limited", {}, None),
        ("rate_limited", {"retry_after": "soon"}, None),
        ("rate_limited", {"retry_after": float("inf")}, None),
        ("rate_limited", {"retry_after": float("nan")}, None),
        ("rate_limited", {"retry_after": 10**400}, f"1{400 * '0'}"),
        ("rate_limited", {"retry_after": -1}, None),
        ("rate_limited", {"retry_after": True}, None),
        ("unavailable", {}, "1"),
        ("unavailable", {"retry_after": 30}, "30"),
        ("idempotency_in_progress", {}, "1"),
        ("conflict", {}, None),
        ("not_found", {}, None),
    ],
)
def test_retry_after_is_told_where_a_retry_may_succeed(code: Any, details: dict[str, Any], seconds: str | None) -> None:
    assert to_response(ActionError(code, "no", details)).headers.get("retry-after") == seconds


@pytest.mark.parametrize(
    ("status", "code"),
    [
        *((400, "invalid_input"), (404, "not_found"), (405, "method_not_allowed"), (413, "too_large")),
        *((418, "refused"), (499, "refused"), (500, "internal"), (503, "unavailable"), (599, "internal")),
    ],
)
def test_a_refusal_looks_like_an_error(status: int, code: str) -> None:
    response = to_response(RequestRefused(status, "no"))
    assert response.status == status
    assert json.loads(response.body) == {"error": {"code": code, "message": "no", "details": {}}}
    assert body_of(RequestRefused(status))["error"]["message"]


@pytest.mark.parametrize("status", [200, 302, 399, 600, -1])
def test_a_refusal_has_the_status_of_a_refusal(status: int) -> None:
    with pytest.raises(ValueError, match="400 to 599"):
        RequestRefused(status)
