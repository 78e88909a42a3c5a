"""The tools that a caller sees: those of its catalogue, and nobody else's."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from typing import Any

import jsonschema_rs
import pytest
from mcp.shared.exceptions import MCPError
from mcp.types import Implementation, PaginatedRequestParams

from actionengine import ActionError, ConfigurationError, RequestContext
from actionengine.mcp import MCPRequest, create_mcp_server
from tests.mcp_server.conftest import under_loop
from tests.mcp_server.harness import ACTORS, CALLER, Shop, Wire, by


async def names(client: Any, caller: str) -> list[str]:
    listed = await client.list_tools(meta=by(caller))
    assert listed.next_cursor is None
    return [tool.name for tool in listed.tools]


@under_loop
async def test_each_caller_sees_its_own_catalogue(shop: Shop, wire: Wire) -> None:
    async with shop.connect(wire) as client:
        for actor in [*ACTORS, "carla"]:
            context = shop.context(f"globex/{actor}")
            catalogue = shop.engine.catalogue(context).unwrap()
            assert await names(client, f"globex/{actor}") == [each.name.replace(".", "__") for each in catalogue]
    assert {each.method for each in shop.asked} == {"tools/list"}


@under_loop
async def test_a_list_is_private_and_not_to_be_kept(shop: Shop) -> None:
    async with shop.connect() as client:
        listed = await client.list_tools()
        assert (listed.cache_scope, listed.ttl_ms) == ("private", 0)


@under_loop
async def test_a_host_may_let_clients_keep_a_list() -> None:
    shop = Shop(list_ttl_ms=60_000)
    async with shop.connect() as client:
        for _ in range(3):
            listed = await client.list_tools()
    assert (listed.cache_scope, listed.ttl_ms) == ("private", 60_000)
    assert len(shop.asked) == 1


@under_loop
async def test_tools_are_annotated_by_their_declarations(shop: Shop) -> None:
    async with shop.connect() as client:
        listed = await client.list_tools(meta=by("acme/maria"))
    found = {tool.name: tool for tool in listed.tools}

    def hints(name: str) -> tuple[bool | None, ...]:
        annotations = found[name].annotations
        assert annotations is not None
        return annotations.read_only_hint, annotations.destructive_hint, annotations.idempotent_hint

    assert found["shop__note"].title == "Write a note"
    assert "Write a note" in (found["shop__note"].description or "")
    assert hints("shop__note") == (False, False, False)
    assert hints("shop__count")[0] is True
    assert hints("shop__refund") == (False, True, False)
    assert hints("shop__drop") == (False, True, True)
    for tool in found.values():
        assert tool.input_schema["type"] == "object"
        jsonschema_rs.validator_for(tool.input_schema)
        assert tool.output_schema is not None
        jsonschema_rs.validator_for(tool.output_schema)
    assert found["shop__refund"].input_schema["properties"]["amount"]["description"] == "The amount in cents"


@under_loop
async def test_only_the_offered_services_are_tools() -> None:
    shop = Shop(services=["shop"])
    async with shop.connect() as client:
        assert {name.partition("__")[0] for name in await names(client, "acme/maria")} == {"shop"}
        assert (await client.call_tool("approvals__list", {}, meta=by("acme/maria"))).is_error
    assert shop.log() == []


def test_an_unknown_service_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match="shoop"):
        Shop(services=["shoop"])


@under_loop
async def test_a_cursor_is_refused(shop: Shop) -> None:
    async with shop.connect() as client:
        with pytest.raises(MCPError, match="one page"):
            await client.session.list_tools(params=PaginatedRequestParams(cursor="2"))


# Identification


def refusing(error: Exception) -> Any:
    def identify(request: MCPRequest) -> RequestContext:
        raise error

    return identify


async def later(request: MCPRequest) -> RequestContext:
    await asyncio.sleep(0)
    raise ValueError("secret-7")


@pytest.mark.parametrize(
    ("identify", "crash"),
    [
        (refusing(ValueError("secret-7")), False),
        (refusing(ActionError("unauthenticated", "secret-7")), False),
        (refusing(KeyError("secret-7")), False),
        (refusing(StopIteration("secret-7")), False),
        (later, False),
        (refusing(RuntimeError("secret-7")), True),
        (lambda request: "secret-7", True),
    ],
)
@under_loop
async def test_a_refusal_of_identify_shows_nothing(
    shop: Shop, wire: Wire, identify: Any, crash: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with shop.connect(wire, create_mcp_server(shop.engine, identify)) as client:
        for ask in (client.list_tools, lambda: client.call_tool("shop__note", {"text": "x"})):
            with pytest.raises(MCPError) as refused:
                await ask()
            assert "could not identify the caller" in str(refused.value)
            assert "secret-7" not in repr(refused.value.error)
    logged = [each for each in caplog.records if "identify" in each.message]
    assert {each.levelno for each in logged} == {logging.ERROR if crash else logging.WARNING}
    assert shop.count() == 0


@under_loop
async def test_identify_is_asked_for_each_request(shop: Shop) -> None:
    async with shop.connect(client_info=Implementation(name="desk", version="7")) as client:
        await client.call_tool("shop__note", {"text": "x"}, meta=by("acme/carla"))
        await client.call_tool("shop__note", {"text": "x"}, meta=by("globex/carla"))
        called = [each for each in shop.asked if each.method == "tools/call"]
    assert [each.meta[CALLER] for each in called] == ["acme/carla", "globex/carla"]
    assert {(each.tool, each.token, each.session_id, each.http) for each in called} == {
        ("shop__note", None, None, None)
    }
    assert {(each.transport, each.client and each.client.name) for each in called} == {("stdio", "desk")}
    assert (shop.count(tenant="acme"), shop.count(tenant="globex")) == (1, 1)


def test_a_missing_sdk_names_the_extra_to_install() -> None:
    script = "import sys; sys.modules['mcp'] = None\nfrom actionengine.mcp import create_mcp_server"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert "create_mcp_server needs mcp: pip install 'actionengine[mcp]'" in done.stderr
