"""The caller of a request: the host's `identify` makes a request context of the facts that the SDK knows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from mcp.server.auth.provider import AccessToken
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.types import INTERNAL_ERROR, INVALID_REQUEST, Implementation

from actionengine.context import RequestContext
from actionengine.identification import CallerRefused, CallerUnknown, Identification, IdentifyCrashed

SOURCE = "mcp"
"""The source of a request whose context names none of its own."""

_SESSION_HEADER = "mcp-session-id"
_REFUSED = "the server refused the request: it could not identify the caller"


@dataclass(frozen=True, slots=True, kw_only=True)
class MCPRequest:
    """The facts that the SDK knows of one request. The client chose all of them but `token`. `repr` shows no secrets.

    Attributes:
        method: `tools/list` or `tools/call`.
        tool: the name of the called tool, as sent.
        headers: the HTTP headers; names compare without regard to case. Empty over stdio.
        token: the access token that the SDK's token verifier accepted; None without a verifier.
        session_id: the HTTP session, for clients of the protocol before 2026-07-28. It gives no rights.
        meta: the `_meta` of the request.
        client: the name and the version of the client's program; None if it does not say.
        http: the Starlette request; None over stdio.
    """

    method: str
    tool: str | None
    headers: Mapping[str, str] = field(repr=False)
    token: AccessToken | None = field(repr=False)
    session_id: str | None = field(repr=False)
    meta: Mapping[str, Any] = field(repr=False)
    client: Implementation | None
    http: Any = field(repr=False)

    @property
    def transport(self) -> Literal["http", "stdio"]:
        """The transport; `stdio` stands for any streams between two programs."""
        return "stdio" if self.http is None else "http"


Identify: TypeAlias = Callable[[MCPRequest], RequestContext | Awaitable[RequestContext]]
"""Makes the request context of a request. An exception refuses the request; its text stays on the server."""


class MCPIdentification:
    """Identifies the caller of each request of a client."""

    def __init__(self, identify: Identify) -> None:
        self._identification = Identification(identify, SOURCE)

    async def context_of(self, ctx: ServerRequestContext[Any, Any], tool: str | None = None) -> RequestContext:
        """Return the context of a request. Raises `MCPError` if `identify` refuses it, or returns another value."""
        try:
            return await self._identification.context_of(describe(ctx, tool), ctx.method)
        except CallerRefused:
            raise MCPError(INVALID_REQUEST, _REFUSED) from None
        except (CallerUnknown, IdentifyCrashed):
            raise MCPError(INTERNAL_ERROR, "the server could not identify the caller") from None


def describe(ctx: ServerRequestContext[Any, Any], tool: str | None) -> MCPRequest:
    """Return the facts of a request, as `identify` gets them."""
    http = ctx.request
    headers = http.headers if http is not None else {}
    user = http.scope.get("user") if http is not None else None
    token = getattr(user, "access_token", None)
    client = ctx.session.client_params
    return MCPRequest(
        method=ctx.method,
        tool=tool,
        headers=headers,
        token=token if isinstance(token, AccessToken) else None,
        session_id=headers.get(_SESSION_HEADER),
        meta=ctx.meta or {},
        client=client.client_info if client is not None else None,
        http=http,
    )
