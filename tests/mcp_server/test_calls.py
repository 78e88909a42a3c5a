"""Calls of tools: results, refusals, keys, approvals."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from mcp.client import ClientRequestContext
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult, ElicitRequestParams, ElicitResult, TextContent

from tests.mcp_server.conftest import under_loop
from tests.mcp_server.harness import Shop, Wire, by


def text_of(result: CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


# Results. The SDK's client validates each structured result against the output schema of its tool.


@under_loop
async def test_a_result_is_structured_and_a_text(shop: Shop, wire: Wire) -> None:
    async with shop.connect(wire) as client:
        paid = await client.call_tool("shop__refund", {"job": "J-1", "amount": 50})
        counted = await client.call_tool("shop__count", {})
    assert not paid.is_error
    assert paid.structured_content["amount"] == 50
    assert "50" in text_of(paid)
    assert counted.structured_content["result"] == 0
    (row,) = shop.log(action="shop.refund")
    assert (row.outcome, row.source, row.actor_id) == ("succeeded", "mcp", "carla")


@under_loop
async def test_a_refusal_is_a_result_that_a_model_reads(shop: Shop) -> None:
    async with shop.connect() as client:
        invalid = await client.call_tool("shop__refund", {"job": "J-1", "amount": -1, "extra": 1})
        denied = await client.call_tool("shop__refund", {"job": "J", "amount": 1}, meta=by("acme/tom"))
        crashed = await client.call_tool("shop__crash", {})
    assert (invalid.is_error, denied.is_error, crashed.is_error) == (True, True, True)
    assert "amount" in text_of(invalid)
    assert "secret" not in repr(crashed)
    assert [row.outcome for row in shop.log()] == ["invalid", "denied", "failed"]


@pytest.mark.parametrize("name", ["nope", "shop__nope", "shop.note", "", "x" * 5000, "shop__note ", "\x00"])
@under_loop
async def test_an_unknown_tool_is_refused(shop: Shop, name: str) -> None:
    async with shop.connect() as client:
        refused = await client.call_tool(name, {})
    assert refused.is_error
    assert text_of(refused).startswith("You have no tool")
    assert len(text_of(refused)) < 400
    assert shop.log() == []


@under_loop
async def test_a_tool_outside_the_catalogue_is_denied_and_logged(shop: Shop) -> None:
    async with shop.connect() as client:
        listed = [tool.name for tool in (await client.list_tools(meta=by("globex/tom"))).tools]
        assert "shop__note" not in listed
        denied = await client.call_tool("shop__note", {"text": "x"}, meta=by("globex/tom"))
        unknown = await client.call_tool("shop__nota", {"text": "x"}, meta=by("globex/tom"))
    assert denied.is_error
    # Nothing tells a tool of others from one that does not exist.
    assert text_of(denied).replace("shop__note", "shop__nota") == text_of(unknown)
    assert [row.outcome for row in shop.log("globex")] == ["denied"]
    assert shop.log("acme") == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"text": "x" * 5_000_000},
        {"text": {"a": [[[[[[1]]]]]] * 3}, "n": [float("nan")]},
        {"text": "\ud800"},
        {str(number): number for number in range(20_000)},
    ],
    ids=["5 MB", "not a number", "a lone surrogate", "20 000 keys"],
)
@under_loop
async def test_hostile_arguments_are_refused(shop: Shop, arguments: dict[str, Any]) -> None:
    async with shop.connect() as client:
        refused = await client.call_tool("shop__note", arguments)
        assert refused.is_error
        assert len(text_of(refused)) < 5000
        served = await client.call_tool("shop__note", {"text": "fine"})
    assert not served.is_error
    assert shop.count() == 1


@under_loop
async def test_callers_of_two_tenants_are_kept_apart(shop: Shop) -> None:
    async def note(client: Any, number: int) -> None:
        caller = ("acme/carla", "globex/maria")[number % 2]
        await client.call_tool("shop__note", {"text": str(number)}, meta=by(caller))
        counted = await client.call_tool("shop__count", {}, meta=by(caller))
        assert counted.structured_content["result"] <= 20

    async with shop.connect() as client:
        await asyncio.gather(*(note(client, number) for number in range(40)))
    for tenant, actor in (("acme", "carla"), ("globex", "maria")):
        assert shop.count(tenant=tenant) == 20
        assert {row.actor_id for row in shop.log(tenant)} == {actor}


# What the client's program says in `_meta`


@under_loop
async def test_a_repeated_call_with_its_key_is_replayed(shop: Shop, wire: Wire) -> None:
    meta = by(idempotency_key="k-1")
    async with shop.connect(wire) as client:
        answers = [await client.call_tool("shop__note", {"text": "x"}, meta=meta) for _ in range(3)]
        other = await client.call_tool("shop__note", {"text": "y"}, meta=meta)
    assert answers[0].structured_content == answers[1].structured_content == answers[2].structured_content
    assert other.is_error
    assert "idempotency_mismatch" in repr(other.structured_content)
    assert shop.count() == 1
    assert [row.outcome for row in shop.log()] == ["succeeded", "replayed", "replayed", "failed"]


@under_loop
async def test_a_required_key_may_be_an_argument(shop: Shop) -> None:
    async with shop.connect() as client:
        meta = by("acme/maria")
        without = await client.call_tool("shop__drop", {}, meta=meta)
        first = await client.call_tool("shop__drop", {"idempotency_key": "k"}, meta=meta)
        again = await client.call_tool("shop__drop", {"idempotency_key": "k"}, meta=meta)
        beside = await client.call_tool("shop__drop", {}, meta=by("acme/maria", idempotency_key="k"))
    assert without.is_error
    assert (first.is_error, again.is_error, beside.is_error) == (False, False, False)
    assert [row.outcome for row in shop.log()] == ["invalid", "succeeded", "replayed", "replayed"]


@under_loop
async def test_a_call_says_why_and_what_it_used(shop: Shop) -> None:
    usage = {"model": "m-1", "input_tokens": 12, "output_tokens": 3, "cost_usd": 0.5}
    meta = by(reason="the customer called", request_id="r-7", ai_usage=usage)
    meta["com.example/other"] = {"any": "thing"}
    async with shop.connect() as client:
        await client.call_tool("shop__note", {"text": "x"}, meta=meta)
    (row,) = shop.log()
    assert (row.reason, row.request_id, row.model) == ("the customer called", "r-7", "m-1")
    assert (row.input_tokens, row.output_tokens, row.cost_usd) == (12, 3, 0.5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("idempotency_key", 5),
        ("idempotency_key", {"a": 1}),
        ("reason", ["x"]),
        ("request_id", True),
        ("plan", 7),
        ("preview", "yes"),
        ("preview", 1),
        ("ai_usage", "m"),
        ("ai_usage", {"model": "m", "input_tokens": -1}),
        ("ai_usage", {"model": "m", "cost_usd": "much"}),
        ("ai_usage", {"tokens": 5}),
        ("idempotency-key", "k"),
        ("actor", "system"),
    ],
)
@under_loop
async def test_a_wrong_key_in_meta_is_refused(shop: Shop, key: str, value: Any) -> None:
    async with shop.connect() as client:
        with pytest.raises(MCPError, match="_meta: actionengine/" + key):
            await client.call_tool("shop__note", {"text": "x"}, meta=by(**{key: value}))
    assert shop.count() == 0
    assert [(row.action, row.outcome) for row in shop.log()] == [("shop.note", "invalid")]


# Approvals


LARGE = {"job": "J-1", "amount": 5000}


@under_loop
async def test_a_pending_approval_is_a_result(shop: Shop, wire: Wire) -> None:
    async with shop.connect(wire) as client:
        held = await client.call_tool("shop__refund", LARGE)
        again = await client.call_tool("shop__refund", LARGE)
        assert not held.is_error
        assert held.structured_content["status"] == "pending_approval"
        id = held.structured_content["approval_id"]
        assert again.structured_content["approval_id"] == id
        waiting = await client.call_tool("approvals__get", {"approval_id": id})
        assert waiting.structured_content["status"] == "pending"
        own = await client.call_tool("approvals__approve", {"approval_id": id})
        assert own.is_error
        shop.execute("approvals.approve", {"approval_id": id}, "acme/maria")
        done = await client.call_tool("approvals__get", {"approval_id": id})
    assert done.structured_content["status"] == "approved"
    assert shop.count("refunds") == 1


@under_loop
async def test_an_agent_has_the_rights_of_its_person_and_no_more(shop: Shop) -> None:
    async with shop.connect() as client:
        for_tom = by("acme/bot for tom")
        names = {tool.name for tool in (await client.list_tools(meta=for_tom)).tools if "shop" in tool.name}
        assert names == {"shop__count"}
        assert (await client.call_tool("shop__note", {"text": "x"}, meta=for_tom)).is_error
        held = await client.call_tool("shop__refund", LARGE, meta=by("acme/bot for maria"))
        approval = {"approval_id": held.structured_content["approval_id"]}
        # Maria may approve, but not what was asked on her behalf.
        assert (await client.call_tool("approvals__approve", approval, meta=by("acme/maria"))).is_error
    assert [row.on_behalf_of for row in shop.log()] == [("human:tom",), ("human:maria",), ()]
    assert shop.count("refunds") == 0


@under_loop
async def test_no_accepted_elicitation_approves_anything(shop: Shop, wire: Wire) -> None:
    asked: list[object] = []

    async def accept(ctx: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        asked.append(params)
        return ElicitResult(action="accept", content={"approve": True, "approved": True, "comment": "yes"})

    forged = {"approve": ElicitResult(action="accept", content={"approved": True})}
    async with shop.connect(wire, elicitation_callback=accept) as client:
        for caller in ("acme/bot", "acme/carla"):
            meta = by(caller)
            held = await client.call_tool("shop__refund", LARGE, meta=meta)
            for _ in range(12):
                again = await client.call_tool(
                    "shop__refund", LARGE, meta=meta, input_responses=dict(forged), request_state="approved"
                )
                assert again.structured_content["status"] == "pending_approval"
            approval = {"approval_id": held.structured_content["approval_id"]}
            assert (await client.call_tool("approvals__approve", approval, meta=meta)).is_error
    assert asked == []
    assert shop.count("refunds") == 0


# Previews and plans


@under_loop
async def test_a_preview_shows_what_a_call_would_do(shop: Shop, wire: Wire) -> None:
    arguments = {"job": "J-1", "amount": 50}
    async with shop.connect(wire) as client:
        await client.list_tools()
        preview = await client.call_tool("shop__refund", arguments, meta=by(preview=True))
        assert not preview.is_error
        assert shop.count("refunds") == 0
        (write,) = preview.structured_content["writes"]
        assert (write["kind"], write["target"]) == ("insert", "refunds")
        assert write["after"]["amount"] == 50
        plan = preview.structured_content["plan"]
        other = await client.call_tool("shop__refund", {**arguments, "amount": 60}, meta=by(plan=plan))
        done = await client.call_tool("shop__refund", arguments, meta=by(plan=plan))
        again = await client.call_tool("shop__refund", arguments, meta=by(plan=plan))
    assert (other.is_error, done.is_error, again.is_error) == (True, False, True)
    assert shop.count("refunds") == 1
    assert [row.outcome for row in shop.log()] == ["previewed", "failed", "succeeded", "failed"]


@under_loop
async def test_a_preview_says_who_would_have_to_approve(shop: Shop) -> None:
    async with shop.connect() as client:
        preview = await client.call_tool("shop__refund", LARGE, meta=by(preview=True))
        unknown = await client.call_tool("shop__nope", LARGE, meta=by(preview=True))
        invalid = await client.call_tool("shop__refund", {"job": "J-1"}, meta=by(preview=True))
    assert preview.structured_content["approval"] == {"action": "shop.refund", "permission": "shop.approve"}
    assert shop.count("refunds") == 0
    assert (unknown.is_error, invalid.is_error) == (True, True)
    assert "amount" in text_of(invalid)


@pytest.mark.parametrize("plan", ["", "x", "0" * 64, "a" * 100_000])
@under_loop
async def test_a_forged_plan_commits_nothing(shop: Shop, plan: str) -> None:
    async with shop.connect() as client:
        refused = await client.call_tool("shop__refund", {"job": "J", "amount": 5}, meta=by(plan=plan))
    assert refused.is_error
    assert shop.count("refunds") == 0
