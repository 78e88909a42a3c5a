"""The example server as a desktop client starts it, and as a host serves it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx2
import pytest
from examples.field_service.app import create_business, open_storage
from examples.mcp_server import Tokens, create_http_app
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from tests.examples.test_processes import ROOT, free_port
from tests.mcp_server.harness import by
from tests.mcp_server.test_http import serving_at

COMMAND = ["-m", "examples.mcp_server"]
SAMPLES = {"acme/carla", "acme/maria", "globex/carla"}


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "DATABASE_URL": str(folder / "field_service.db"), **more}


def test_a_desktop_client_starts_it_over_stdio(tmp_path: Path) -> None:
    async def talk() -> None:
        started = StdioServerParameters(
            command=sys.executable, args=COMMAND, cwd=ROOT, env=environment(tmp_path, MCP_PERSON="carla")
        )
        async with Client(started) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert {"customers__create", "payments__refund", "approvals__get"} <= names
            assert not {name for name in names if name.startswith(("roles__", "action_log__"))}
            ada = {"name": "Ada"}
            preview = await client.call_tool("customers__create", ada, meta=by(preview=True))
            assert preview.structured_content["status"] == "previewed"
            created = await client.call_tool("customers__create", ada, meta=by(idempotency_key="Ada"))
            again = await client.call_tool("customers__create", ada, meta=by(idempotency_key="Ada"))
            assert created.structured_content == again.structured_content
            job = {"customer_id": created.structured_content["id"], "title": "Burst pipe"}
            assert (await client.call_tool("jobs__create", job)).structured_content["status"] == "new"
            refund = {"payment_id": "none", "amount": 5, "idempotency_key": "k"}
            assert (await client.call_tool("payments__refund", refund)).is_error

    asyncio.run(asyncio.wait_for(talk(), 60))


async def use(url: str, tokens: Mapping[str, str]) -> None:
    """Use a server as agents of two tenants, and with a forged token."""

    async def names_of_customers(token: str, create: str | None = None) -> list[str]:
        async with (
            httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}, trust_env=False, timeout=60) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            if create is not None:
                assert not (await client.call_tool("customers__create", {"name": create})).is_error
            listed = await client.call_tool("customers__list", {})
            return [each["name"] for each in listed.structured_content["result"]]

    assert await names_of_customers(tokens["acme/carla"], "Ada") == ["Ada"]
    assert await names_of_customers(tokens["globex/carla"], "Grace") == ["Grace"]
    assert await names_of_customers(tokens["acme/maria"]) == ["Ada"]
    async with httpx2.AsyncClient(trust_env=False) as http:
        forged = tokens["acme/carla"][:-4] + "xxxx"
        refused = await http.post(url, headers={"authorization": f"Bearer {forged}"}, json={})
        assert refused.status_code == 401


def test_it_serves_people_of_two_tenants(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "field_service.db"))
    engine = create_business(storage)
    port = free_port()
    tokens = Tokens("a secret of at least 32 characters", f"http://127.0.0.1:{port}/mcp")
    signed = {name: tokens.sign(*name.split("/")) for name in SAMPLES}
    with serving_at(create_http_app(engine, storage, tokens), port) as url:
        asyncio.run(asyncio.wait_for(use(url, signed), 60))


@pytest.mark.soak
def test_its_process_serves_and_ends_at_a_signal(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/mcp"
    tokens: dict[str, str] = {}

    async def listening() -> bool:
        async with httpx2.AsyncClient(trust_env=False) as http:
            try:
                return (await http.post(url, json={})).status_code == 401
            except httpx2.ConnectError:
                return False

    async def talk() -> None:
        while not await listening():
            await asyncio.sleep(0.02)
        await use(url, tokens)

    with subprocess.Popen(
        [sys.executable, *COMMAND, "--http", "--port", str(port)],
        cwd=ROOT,
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if found := re.fullmatch(r"  (\w+/\w+)  (\S+)\n", line):
                    tokens[found[1]] = found[2]
                if tokens.keys() == SAMPLES:
                    break
            asyncio.run(asyncio.wait_for(talk(), 60))
            process.send_signal(signal.SIGINT)
            assert process.wait(60) in (0, -signal.SIGINT)
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()
