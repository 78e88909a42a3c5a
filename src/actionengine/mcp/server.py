"""The server object: lists the tools of a caller, and calls them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from mcp.server import Server
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    PaginatedRequestParams,
    TextContent,
)

from actionengine.agents.results import ToolResult
from actionengine.agents.tools import Tools
from actionengine.context import RequestContext
from actionengine.engine import Engine
from actionengine.errors import ActionError, ConfigurationError
from actionengine.mcp.calls import run_call
from actionengine.mcp.identity import Identify, MCPIdentification
from actionengine.mcp.meta import read_meta

logger = logging.getLogger("actionengine")

Context = ServerRequestContext[Any, Any]


def create_mcp_server(
    engine: Engine,
    identify: Identify,
    services: Iterable[str] | None = None,
    *,
    aliases: Mapping[str, str] | None = None,
    max_result_bytes: int = 64 * 1024,
    name: str = "actionengine",
    version: str = "",
    instructions: str | None = None,
    lifespan: Callable[[Server[Any]], AbstractAsyncContextManager[Any]] = nullcontext,
    list_ttl_ms: int = 0,
    heartbeat: float = 5.0,
) -> Server[Any]:
    """Return a server of the official SDK whose tools are the actions that its caller may execute.

    Run it over stdio (`server.run`), or serve `server.streamable_http_app()` over HTTP.

    Args:
        engine: the engine. Its actions run under the event loop of the server, `def` handlers in threads.
        identify: makes the request context of each request from an `MCPRequest`. It is an `async def`, or a `def`,
            which runs in a thread. An exception refuses the request.
        services: the services whose actions are tools; all by default.
        aliases: other names of tools, by action: `{"payments.refund": "refund"}`.
        max_result_bytes: the size of a result as JSON, at most. A larger one is cut, with a note.
        name: the name of the server, for clients.
        version: the version of the server, for clients.
        instructions: a text for the model about all tools.
        lifespan: opens and closes things with the server, as in `lambda server: storage`.
        list_ttl_ms: the milliseconds for which a client may keep a list of tools. Rights may change meanwhile: each
            call checks them.
        heartbeat: the seconds between two notifications of progress, at most, while a call runs whose client asked for
            them. The first comes after 0.2 s, and each pause is twice the one before.

    Raises:
        ConfigurationError: for an unknown service or alias, for a name of a tool that is illegal or not unique, and for
            a number that is out of range.
    """
    if not isinstance(list_ttl_ms, int) or list_ttl_ms < 0:
        raise ConfigurationError(f"list_ttl_ms is a whole number of milliseconds, 0 or more, not {list_ttl_ms!r}")
    if not heartbeat > 0:
        raise ConfigurationError(f"heartbeat is a number of seconds above 0, not {heartbeat!r}")
    identification = MCPIdentification(identify)
    tools = Tools(engine, "mcp", services, aliases=aliases, max_result_bytes=max_result_bytes)

    async def list_tools(ctx: Context, params: PaginatedRequestParams) -> dict[str, Any]:
        if params.cursor is not None:
            raise MCPError(INVALID_PARAMS, "unknown cursor: the list of tools has one page")
        context = await identification.context_of(ctx)
        try:
            definitions = await tools.list_async(context)
        except ActionError as refusal:
            raise MCPError(INTERNAL_ERROR, refusal.message) from None
        # A plain result: the SDK validates it anyway, and to do so twice takes 0.2 s for 1,000 tools.
        return {"tools": definitions, "ttlMs": list_ttl_ms, "cacheScope": "private", "resultType": "complete"}

    async def call_tool(ctx: Context, params: CallToolRequestParams) -> CallToolResult:
        context = await identification.context_of(ctx, params.name)
        try:
            meta = read_meta(ctx.meta)
        except ActionError as refusal:
            await log_refusal(params.name, refusal, context)
            raise MCPError(INVALID_PARAMS, refusal.message) from None
        context = meta.complete(context, ctx.request_id)
        ask = tools.preview_async if meta.preview else tools.call_async
        try:
            result = await run_call(ask(params.name, params.arguments, context), ctx, params.name, heartbeat)
        except Exception:
            # The SDK would send the text of the exception to a client of the older protocol.
            logger.exception("the call of a tool raised (request %s)", context.request_id)
            raise MCPError(INTERNAL_ERROR, "the call failed on the server, and its log says why") from None
        return _result_of(result)

    async def log_refusal(tool: str, refusal: ActionError, context: RequestContext) -> None:
        name = tools.action_of(tool)
        if name is not None:
            service, _, action = name.rpartition(".")
            await engine.refuse(service, action, None, refusal, context, "async")

    server: Server[Any] = Server(
        name,
        version=version,
        instructions=instructions,
        lifespan=lifespan,
        on_call_tool=call_tool,
        # No schema mirrors arguments in headers. Without this, the SDK would list the tools before each call.
        get_tool_input_schema=lambda name: None,
    )
    server.add_request_handler("tools/list", PaginatedRequestParams, list_tools)
    return server


def _result_of(result: ToolResult) -> CallToolResult:
    return CallToolResult(
        content=[TextContent(type="text", text=result.text)],
        structured_content=result.structured,
        is_error=result.is_error,
    )
