"""The caller of a request, as a gateway in front of the host tells it.

The gateway checks the token of each request, sets these headers, and removes them from what clients send. No client
reaches the host by another way. A host without a gateway checks the token here.
"""

from typing import Protocol

from returns.result import Failure, Result

from actionengine import ActionError, Actor, RequestContext, Tenant
from actionengine.http import Headers, context_from_headers


class GatewayHeaders(Headers, Protocol):
    """The headers of a request, looked up without regard to case."""

    def get(self, key: str, /) -> str | None: ...


def slug_of(headers: GatewayHeaders) -> str:
    """Return the slug of a request's tenant. Raises `ActionError(unauthenticated)` without one."""
    if slug := headers.get("x-tenant-id"):
        return slug
    raise ActionError("unauthenticated", "the header x-tenant-id names no tenant")


def context_of(headers: GatewayHeaders, tenant: Result[Tenant, ActionError]) -> RequestContext:
    """Return the request context of a caller in the tenant that was found. Raises the error where none was.

    An agent that works for a person sends both headers. Roles come from storage.
    """
    if isinstance(tenant, Failure):
        raise tenant.failure()
    user, agent = headers.get("x-user-id"), headers.get("x-agent-id")
    person = Actor.human(user) if user else None
    return context_from_headers(headers, tenant.unwrap(), Actor.ai(agent, on_behalf_of=person) if agent else person)
