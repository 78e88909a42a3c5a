"""Streamable HTTP, with a real server: tokens, sessions, hostile bodies, clients that go away."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx2
import pytest
import uvicorn
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.shared.exceptions import MCPError
from pydantic import AnyHttpUrl

from actionengine import RequestContext
from actionengine.mcp import MCPRequest, create_mcp_server
from tests.mcp_server.conftest import under_loop, until
from tests.mcp_server.harness import Shop

TOKENS = {"t-carla": "acme/carla", "t-maria": "globex/maria", "t-tom": "acme/tom"}
RESOURCE = "http://127.0.0.1/mcp"
ACCEPT = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


class Verifier:
    """The SDK's port for a host's verification of tokens."""

    async def verify_token(self, token: str) -> AccessToken | None:
        caller = TOKENS.get(token)
        if caller is None:
            return None
        return AccessToken(
            token=token, client_id="agent", scopes=[], subject=caller, resource=RESOURCE, claims={"caller": caller}
        )


@contextmanager
def serving_at(app: Any, port: int = 0) -> Iterator[str]:
    """Serve an application in a thread, and return the URL of its server."""
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        server.should_exit = True
        thread.join()


class Site:
    """A shop behind two servers: one whose `identify` reads the header itself, and one with the SDK's verifier."""

    def __init__(self, shop: Shop, by_header: str, by_verifier: str) -> None:
        self.shop = shop
        self.by_header = by_header
        self.by_verifier = by_verifier

    @asynccontextmanager
    async def connect(self, token: str, *, verifier: bool = False, mode: str = "auto") -> AsyncIterator[Client]:
        url = self.by_verifier if verifier else self.by_header
        async with (
            httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}, trust_env=False, timeout=60) as http,
            Client(streamable_http_client(url, http_client=http), mode=mode) as client,
        ):
            yield client


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    shop = Shop(heartbeat=0.01)

    def by_header(request: MCPRequest) -> RequestContext:
        scheme, _, token = request.headers["Authorization"].partition(" ")
        assert scheme == "Bearer"
        return shop.context(TOKENS[token], request_id=request.headers.get("x-request-id"))

    async def by_token(request: MCPRequest) -> RequestContext:
        assert request.token is not None
        assert request.token.claims is not None
        return shop.context(request.token.claims["caller"])

    auth = AuthSettings(
        issuer_url=AnyHttpUrl("http://127.0.0.1"),
        resource_server_url=AnyHttpUrl(RESOURCE),
        validate_token_resource=True,
    )
    header_app = create_mcp_server(shop.engine, by_header, heartbeat=0.01).streamable_http_app()
    verifier_app = create_mcp_server(shop.engine, by_token, heartbeat=0.01).streamable_http_app(
        auth=auth, token_verifier=Verifier()
    )
    with serving_at(header_app) as one, serving_at(verifier_app) as other:
        yield Site(shop, one, other)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("verifier", [False, True], ids=["by header", "by verifier"])
@under_loop
async def test_each_token_acts_for_its_own_tenant(site: Site, mode: str, verifier: bool) -> None:
    before = {tenant: site.shop.count(tenant=tenant) for tenant in ("acme", "globex")}
    for token, tenant in (("t-carla", "acme"), ("t-maria", "globex")):
        async with site.connect(token, verifier=verifier, mode=mode) as client:
            tools = {tool.name for tool in (await client.list_tools()).tools}
            assert ("shop__drop" in tools) == (tenant == "globex")
            done = await client.call_tool("shop__note", {"text": "x"})
            assert not done.is_error
        assert site.shop.count(tenant=tenant) == before[tenant] + 1
        assert site.shop.log(tenant)[-1].actor_id == token.removeprefix("t-")


@under_loop
async def test_a_wrong_token_gets_nothing(site: Site) -> None:
    async with site.connect("t-nobody") as client:
        for ask in (client.list_tools, lambda: client.call_tool("shop__note", {"text": "x"})):
            with pytest.raises(MCPError, match="could not identify the caller"):
                await ask()
    async with httpx2.AsyncClient(trust_env=False) as http:
        for headers in ({}, {"authorization": "Bearer t-nobody"}):
            refused = await http.post(site.by_verifier, headers={**ACCEPT, **headers}, json={})
            assert refused.status_code == 401
            assert "resource_metadata" in refused.headers["www-authenticate"]


@pytest.mark.parametrize("verifier", [False, True], ids=["by header", "by verifier"])
@under_loop
async def test_a_stolen_session_gives_no_rights(site: Site, verifier: bool) -> None:
    url = site.by_verifier if verifier else site.by_header
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
    before = site.shop.count()
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:

        async def post(token: str, method: str, params: Any, session: str | None = None) -> httpx2.Response:
            headers = {**ACCEPT, "authorization": f"Bearer {token}"}
            if session is not None:
                headers |= {"mcp-session-id": session, "mcp-protocol-version": "2025-11-25"}
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            return await http.post(url, headers=headers, json=body)

        opened = await post("t-carla", "initialize", hello)
        session = opened.headers["mcp-session-id"]
        stolen = await post("t-tom", "tools/call", {"name": "shop__note", "arguments": {"text": "x"}}, session)
        if verifier:
            assert stolen.status_code == 404
        else:
            answer = json.loads(stolen.text.partition("data: ")[2].splitlines()[0])
            assert answer["result"]["isError"] is True
            assert site.shop.log()[-1].actor_id == "tom"
        own = await post("t-carla", "tools/call", {"name": "shop__note", "arguments": {"text": "x"}}, session)
        assert own.status_code == 200
    assert site.shop.count() == before + 1


def modern(method: str, params: dict[str, Any], **meta: Any) -> dict[str, Any]:
    envelope = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": {**envelope, **meta}}}


def calling(arguments: Any, **meta: Any) -> str:
    return json.dumps(modern("tools/call", {"name": "shop__note", "arguments": arguments}, **meta))


@pytest.mark.parametrize(
    ("body", "statuses"),
    [
        pytest.param("", {400}, id="nothing"),
        pytest.param('{"jsonrpc": "2.0", "id": 1,', {400}, id="half"),
        pytest.param("[" * 100_000, {400}, id="100 000 lists"),
        pytest.param(calling({"a": 1})[:-3] + ', "b": ' + "[" * 5000 + "]" * 5000 + "}}}", {200, 400}, id="deep"),
        pytest.param(calling('{"text": "x"}'), {400}, id="arguments as a text of JSON"),
        pytest.param(calling([1, 2]), {400}, id="arguments as a list"),
        pytest.param(calling({"text": float("nan")}), {200}, id="not a number"),
        pytest.param(calling({"text": "\ud800"}), {200}, id="a lone surrogate"),
        pytest.param(calling({"text": "x"}, **{"actionengine/idempotency_key": ["\ud800"]}), {400}, id="a forged key"),
        pytest.param(calling({"text": "x"}, **{"actionengine/\ud800": 1}), {400}, id="a forged name"),
        pytest.param(calling({"text": "x" * 5_000_000}), {413}, id="5 MB"),
        pytest.param(calling({"text": "x" * 3_000_000}), {200}, id="3 MB"),
    ],
)
@under_loop
async def test_a_hostile_body_is_refused(site: Site, body: str, statuses: set[int]) -> None:
    before = site.shop.count()
    headers = {
        **ACCEPT,
        "authorization": "Bearer t-carla",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": "shop__note",
    }
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        answer = await http.post(site.by_header, headers=headers, content=body)
    assert answer.status_code in statuses, answer.text
    assert "Traceback" not in answer.text
    if answer.status_code == 200:
        assert answer.json()["result"]["isError"] is True
    async with site.connect("t-carla") as client:
        assert not (await client.call_tool("shop__count", {})).is_error
    assert site.shop.count() == before


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("tool", ["shop__slow", "shop__block"])
@under_loop
async def test_a_client_that_goes_away_cancels_its_call(site: Site, mode: str, tool: str) -> None:
    held = site.shop.held
    held.begun.clear()
    held.release.clear()
    before, rows = site.shop.count(), len(site.shop.log(action=tool.replace("__", ".")))
    reports: list[float] = []

    async def report(progress: float, total: float | None, message: str | None) -> None:
        reports.append(progress)

    async with site.connect("t-carla", mode=mode) as client:
        call = asyncio.create_task(client.call_tool(tool, {}, progress_callback=report))
        await until(lambda: (held.begun.is_set() and len(reports) >= 2) or call.done())
        assert not call.done()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: len(site.shop.log(action=tool.replace("__", "."))) > rows)
    held.release.set()
    assert site.shop.log(action=tool.replace("__", "."))[-1].outcome == "failed"
    assert site.shop.count() == before
