"""The caller of a request: the host's `identify` makes a request context of the facts that the SDK knows."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from mcp.server.auth.provider import AccessToken
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.types import INTERNAL_ERROR, INVALID_REQUEST, Implementation
from returns.primitives.exceptions import UnwrapFailedError

from actionengine.context import RequestContext
from actionengine.errors import ActionError
from actionengine.text.names import shortened

logger = logging.getLogger("actionengine")

SOURCE = "mcp"
"""The source of a request whose context names none of its own."""

_REFUSALS = (ActionError, LookupError, PermissionError, UnwrapFailedError, ValueError)
"""Exceptions by which a host refuses a caller. Any other one is a crash, which is logged with its traceback."""
_DEFAULT_SOURCE = "http"
_SESSION_HEADER = "mcp-session-id"


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


class Identification:
    """Identifies the caller of each request, and remembers nothing of it."""

    def __init__(self, identify: Identify) -> None:
        self._identify = identify
        self._is_async = inspect.iscoroutinefunction(identify) or inspect.iscoroutinefunction(
            getattr(identify, "__call__", None)  # noqa: B004
        )

    async def context_of(self, ctx: ServerRequestContext[Any, Any], tool: str | None = None) -> RequestContext:
        """Return the context of a request. Raises `MCPError` if `identify` refuses it, or returns another value."""
        try:
            context = await self._ask(describe(ctx, tool))
        except _REFUSALS as refusal:
            # The text of a `LookupError` is the key that was looked up, such as a token.
            reason = "" if isinstance(refusal, LookupError) else f": {shortened(refusal)}"
            logger.warning("identify refused %s with %s%s", ctx.method, type(refusal).__name__, reason)
            raise _refusal() from None
        except Exception:
            logger.exception("identify raised for %s", ctx.method)
            raise _refusal() from None
        if not isinstance(context, RequestContext):
            logger.error("identify returned a %s for %s: it has to return a RequestContext", type(context), ctx.method)
            raise MCPError(INTERNAL_ERROR, "the server could not identify the caller")
        return replace(context, source=SOURCE) if context.source == _DEFAULT_SOURCE else context

    async def _ask(self, request: MCPRequest) -> Any:
        if self._is_async:
            return await self._identify(request)  # type: ignore[misc]
        # A `def` may block: it looks up tenants and keys.
        answer = await asyncio.to_thread(self._call, request)
        return await answer if inspect.isawaitable(answer) else answer

    def _call(self, request: MCPRequest) -> Any:
        try:
            return self._identify(request)
        except StopIteration:
            # `next` found nothing. No future carries this exception: the request would wait without an end.
            raise LookupError from None


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


def _refusal() -> MCPError:
    return MCPError(INVALID_REQUEST, "the server refused the request: it could not identify the caller")
