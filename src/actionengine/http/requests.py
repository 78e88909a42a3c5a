"""Requests: the context that is in the headers, and the payload that is in the body."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

from pydantic_core import from_json

from actionengine.context import Actor, RequestContext, Tenant
from actionengine.errors import ActionError, ErrorCode
from actionengine.http.body_limit import MAX_BODY_BYTES
from actionengine.http.responses import RequestRefused

IDEMPOTENCY_KEY: Final = "idempotency-key"
REASON: Final = "x-reason"
REQUEST_ID: Final = "x-request-id"
PLAN: Final = "x-plan"

_QUOTED_KEY = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
"""A string of RFC 9651, as the IETF's draft on the header `Idempotency-Key` asks for."""
_PLAIN_KEY = re.compile(r"[ !#-+\--~]*")
"""Printable ASCII without quotes and commas, as most clients send a key. A server that gets two keys joins them with a
comma."""
_TRACE = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
"""The header `traceparent` of W3C Trace Context."""


class Headers(Protocol):
    """The headers of a request, as each framework has them. A name may come twice, and in any letter case."""

    def items(self) -> Iterable[tuple[str, str]]:
        """Return names and values. A value has the bytes of the request in Latin-1."""


def context_from_headers(
    headers: Headers,
    tenant: Tenant | None,
    actor: Actor | None,
    *,
    source: str = "http",
    resources: Mapping[str, Any] | None = None,
) -> RequestContext:
    """Return the request context of an HTTP request.

    The tenant and the actor are the host's to find: nothing in these headers names them.

    - `Idempotency-Key`: a quoted string, or the plain key. Both forms of a key are the same key.
    - `X-Reason`: why, for the action log, in UTF-8.
    - `X-Request-Id`: the id of the request; without one, the trace id in `traceparent`.
    - `X-Plan`: the plan of a preview, which the execution then has to equal.

    Raises `ActionError(invalid_input)` for a key in neither form, and for two keys.
    """
    values = _values(headers)
    trace = _TRACE.fullmatch(values.get("traceparent", ""))
    return RequestContext(
        tenant=tenant,
        actor=actor,
        source=source,
        reason=values.get(REASON),
        idempotency_key=_key(values.get(IDEMPOTENCY_KEY)),
        request_id=values.get(REQUEST_ID) or (trace[1] if trace else None),
        resources=resources,
        plan=values.get(PLAN),
    )


def read_json(body: bytes, max_bytes: int = MAX_BODY_BYTES) -> Any:
    """Return the payload in a body; an empty body is an empty payload.

    Read at most `max_bytes + 1` bytes of the connection before. Raises `RequestRefused` (413) for more than
    `max_bytes`, and `ActionError(invalid_input)` for a body that is not JSON in UTF-8.
    """
    if len(body) > max_bytes:
        raise RequestRefused(413, f"the body is longer than {max_bytes} bytes")
    if not body:
        return {}
    try:
        return from_json(body)
    except ValueError as error:
        raise ActionError(ErrorCode.INVALID_INPUT, f"the body is not JSON: {error}") from None


def _values(headers: Headers) -> dict[str, str]:
    """Return the values by lower-case name. Several of one name are joined with commas, as RFC 9110 says."""
    values: dict[str, str] = {}
    for name, value in headers.items():
        key = name.lower()
        values[key] = f"{values[key]}, {_text(value)}" if key in values else _text(value)
    return values


def _text(value: str) -> str:
    """Return a value as its sender wrote it. Servers read the bytes as Latin-1, and most clients send UTF-8."""
    if value.isascii():
        return value
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def _key(value: str | None) -> str | None:
    if value is None:
        return None
    if quoted := _QUOTED_KEY.fullmatch(value):
        return re.sub(r"\\(.)", r"\1", quoted[1])
    if _PLAIN_KEY.fullmatch(value):
        return value
    raise ActionError(
        ErrorCode.INVALID_INPUT,
        "the header Idempotency-Key has to be one idempotency key of ASCII characters, such as "
        '"8e03978e-40d5-43dd-bc93-6894a57f9324"; put a key with commas or quotes into double quotes',
    )
