"""Stdio, on pipes in this process: hostile lines do not end the server."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import anyio
import pytest
from mcp.server.stdio import stdio_server

from tests.mcp_server.conftest import under_loop
from tests.mcp_server.harness import Shop

HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
CALL = {"name": "shop__note", "arguments": {"text": "fine"}}


def line(method: str, params: Any, id: int | None = 1) -> str:
    request = {"jsonrpc": "2.0", "method": method, "params": params}
    return json.dumps(request if id is None else {**request, "id": id})


def call(arguments: str) -> str:
    """Return a call with arguments as they are, in JSON or not."""
    return line("tools/call", {"name": "shop__note", "arguments": "<>"}, 2).replace('"<>"', arguments)


HOSTILE = {
    "nothing": "",
    "no JSON": "hello",
    "half": '{"jsonrpc": "2.0", "id": 2, "method"',
    "100 000 lists": "[" * 100_000,
    "deep": call('{"text": ' + "[" * 3000 + "]" * 3000 + "}"),
    "not a number": call('{"text": NaN}'),
    "a long number": call('{"text": ' + "9" * 5000 + "}"),
    "a lone surrogate": call(r'{"text": "\ud800"}'),
    "a zero byte": call(r'{"text": "\u0000"}'),
    "a text of JSON": call(r'"{\"text\": 1}"'),
    "5 MB": call('{"text": "' + "x" * 5_000_000 + '"}'),
    "a name that is no text": line("tools/call", {"name": 5, "arguments": {}}, 2),
    "a meta that is no object": line("tools/call", {**CALL, "_meta": [1]}, 2),
    "another method": line("resources/list", {}, 2),
    "an answer": json.dumps({"jsonrpc": "2.0", "id": 7, "result": {}}),
    "a cancellation of nothing": line("notifications/cancelled", {"requestId": {"a": 1}}, None),
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
@under_loop
async def test_a_hostile_line_does_not_end_the_server(shop: Shop, hostile: str) -> None:
    server = shop.server
    (server_in, to_server), (from_server, server_out) = os.pipe(), os.pipe()
    with (
        open(server_in, encoding="utf-8", errors="replace") as stdin,
        open(to_server, "w", encoding="utf-8") as writer,
        open(from_server, encoding="utf-8") as reader,
        open(server_out, "w", encoding="utf-8") as stdout,
    ):

        async def serve() -> None:
            async with stdio_server(anyio.wrap_file(stdin), anyio.wrap_file(stdout)) as (read, write):
                await server.run(read, write, server.create_initialization_options())

        def talk() -> dict[int, Any]:
            for each in (line("initialize", HELLO, 0), line("notifications/initialized", {}, None), hostile):
                writer.write(each + "\n")
            writer.write(line("tools/call", CALL, 9) + "\n")
            writer.flush()
            answers: dict[int, Any] = {}
            while 9 not in answers:
                answer = json.loads(reader.readline())
                answers[answer["id"]] = answer
            writer.close()
            return answers

        serving = asyncio.create_task(serve())
        answers = await asyncio.to_thread(talk)
        await serving
    assert answers[9]["result"]["isError"] is False
    assert shop.count() == 1
    refused = answers.get(2)
    if refused is not None:
        assert refused.get("error") or refused["result"]["isError"] is True
