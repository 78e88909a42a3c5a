"""HTTP for both hosts, independent of their frameworks: headers in, status and JSON out."""

from http import HTTPStatus
from typing import Any, Protocol

from pydantic import TypeAdapter
from pydantic_core import from_json, to_jsonable_python
from returns.result import Failure, Result, Success

from actionengine import Action, ActionError, Actor, ErrorCode, RequestContext, Tenant

MAX_BODY = 1024 * 1024

Answer = tuple[int, dict[str, Any]]
"""A status and a JSON body."""


def answer(result: Result[Any, ActionError]) -> Answer:
    """Return `{"data": …}`, or `{"error": {code, message, details}}` with the status of the code."""
    match result:
        case Success(value):
            return HTTPStatus.OK, {"data": to_jsonable_python(value)}
        case Failure(error):
            return refusal(error)
    raise AssertionError(result)


def refusal(error: ActionError) -> Answer:
    """Return an error as status and body."""
    return error.code.http_status, {"error": error.to_dict()}


_TRANSPORT_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 500: "internal"}


def transport_error(status: int, message: str) -> Answer:
    """Return an error of the transport: an unknown route, a wrong method, or a body that is too long."""
    return status, {"error": {"code": _TRANSPORT_CODES.get(status, "refused"), "message": message, "details": {}}}


def read_json(body: bytes) -> Result[Any, ActionError]:
    """Parse a body as the payload; no body is an empty payload."""
    try:
        return Success(from_json(body) if body else {})
    except ValueError as error:
        return Failure(ActionError(ErrorCode.INVALID_INPUT, f"the body is not JSON: {error}"))


class Headers(Protocol):
    """The headers of a request, looked up without regard to case."""

    def get(self, key: str, /) -> str | None: ...


def slug_of(headers: Headers) -> Result[str, ActionError]:
    """Return the slug of a request's tenant; without one it is `unauthenticated`."""
    slug = headers.get("x-tenant-id")
    if not slug:
        return Failure(ActionError(ErrorCode.UNAUTHENTICATED, "the header x-tenant-id names no tenant"))
    return Success(slug)


def request_context(headers: Headers, tenant: Tenant) -> Result[RequestContext, ActionError]:
    """Make the request context. An agent that works for a person sends both headers. Roles come from storage.

    A real host checks a token here; these examples trust the headers, as behind a gateway that has checked them.
    """
    user, agent = headers.get("x-user-id"), headers.get("x-agent-id")
    person = Actor.human(user) if user else None
    actor = Actor.ai(agent, on_behalf_of=person) if agent else person
    return Success(
        RequestContext(
            tenant=tenant,
            actor=actor,
            source="http",
            reason=headers.get("x-reason"),
            idempotency_key=headers.get("idempotency-key"),
            request_id=headers.get("x-request-id"),
        )
    )


def describe(action: Action) -> dict[str, Any]:
    """Describe an action with the JSON schema of its input, for a form or an agent's tool."""
    schema = None
    if action.validation is not None:
        schema = TypeAdapter(action.validation).json_schema()
    return {
        "name": action.name,
        "description": action.description,
        "is_protected": action.is_protected,
        "permission": action.permission,
        "read_only": action.read_only,
        "idempotency": action.idempotency,
        "input": schema,
    }
