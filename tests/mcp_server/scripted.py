"""An agent of Pydantic AI with a scripted model. Import it in a test: each worker collects the tests, one runs them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from fastmcp.client.transports import ClientTransport
from mcp import ClientSession
from mcp.server import Server
from mcp.shared.memory import create_client_server_memory_streams
from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from tests.mcp_server.harness import CALLER, Shop


class InMemory(ClientTransport):
    """A transport to a server in this process."""

    def __init__(self, server: Server[Any]) -> None:
        self._server = server

    @asynccontextmanager
    async def connect_session(self, *, transport_options: Any = None, **session: Any) -> AsyncIterator[ClientSession]:
        server = self._server
        async with (
            create_client_server_memory_streams() as ((read, write), (server_read, server_write)),
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(server.run, server_read, server_write, server.create_initialization_options())
            async with ClientSession(read_stream=read, write_stream=write, **session) as client:
                yield client
            tasks.cancel_scope.cancel()


Step = Callable[[list[Any]], ToolCallPart | str]
"""The next turn of a model: it gets the results so far, and calls a tool or answers."""


class Script:
    """A model that follows a script. It keeps the tools that it was offered and the results that it got."""

    def __init__(self, *steps: Step) -> None:
        self._steps = iter(steps)
        self.offered: list[str] = []
        self.results: list[Any] = []

    def __call__(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.offered = [tool.name for tool in info.function_tools]
        self.results = [
            part.content for message in messages for part in message.parts if isinstance(part, ToolReturnPart)
        ]
        turn = next(self._steps)(self.results)
        return ModelResponse(parts=[TextPart(turn) if isinstance(turn, str) else turn])


def call(name: str, /, **arguments: Any) -> Step:
    return lambda results: ToolCallPart(name, arguments)


def say(text: str) -> Step:
    return lambda results: text


async def run(shop: Shop, script: Script, caller: str = "acme/bot", key: str | None = None) -> str:
    """Run the agent for a caller, and return what it says at the end."""

    async def send(ctx: Any, call_tool: Any, name: str, arguments: dict[str, Any]) -> Any:
        meta = {CALLER: caller, "actionengine/reason": "asked by a customer"}
        if key is not None:
            meta["actionengine/idempotency_key"] = f"{key}/{name}"
        return await call_tool(name, arguments, metadata=meta)

    toolset: MCPToolset[Any] = MCPToolset(InMemory(shop.server), tool_error_behavior="failed", process_tool_call=send)
    async with Agent(FunctionModel(script), toolsets=[toolset]) as agent:
        return str((await agent.run("Refund J-1")).output)
