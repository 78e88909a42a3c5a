"""An agent of Pydantic AI with a scripted model, as a client of the server."""

from __future__ import annotations

from tests.mcp_server.conftest import under_loop
from tests.mcp_server.harness import Shop


@under_loop
async def test_an_agent_lists_calls_and_reads_results(shop: Shop) -> None:
    from tests.mcp_server.scripted import Script, call, run, say

    script = Script(
        call("shop__refund", job="J-1", amount=50),
        call("shop__count"),
        say("done"),
    )
    assert await run(shop, script) == "done"
    assert "shop__refund" in script.offered
    paid, counted = script.results
    assert paid["amount"] == 50
    assert counted == 0
    assert [(row.action, row.actor_id, row.reason) for row in shop.log()] == [
        ("shop.refund", "bot", "asked by a customer"),
        ("shop.count", "bot", "asked by a customer"),
    ]


@under_loop
async def test_an_agent_waits_for_a_person(shop: Shop) -> None:
    from tests.mcp_server.scripted import Script, call, run, say

    script = Script(
        call("shop__refund", job="J-1", amount=5000),
        lambda results: call("approvals__approve", approval_id=results[0]["approval_id"])(results),
        say("a person has to decide"),
    )
    assert await run(shop, script) == "a person has to decide"
    held = script.results[0]
    assert held["status"] == "pending_approval"
    assert shop.count("refunds") == 0

    shop.execute("approvals.approve", {"approval_id": held["approval_id"]}, "acme/maria")
    resumed = Script(call("approvals__get", approval_id=held["approval_id"]), say("refunded"))
    assert await run(shop, resumed) == "refunded"
    assert resumed.results[0]["status"] == "approved"
    assert shop.count("refunds") == 1


@under_loop
async def test_an_agent_that_starts_again_pays_once(shop: Shop) -> None:
    from tests.mcp_server.scripted import Script, call, run, say

    results = []
    for _ in range(2):
        script = Script(call("shop__refund", job="J-1", amount=50), say("done"))
        await run(shop, script, key="refund J-1")
        results += script.results
    assert results[0] == results[1]
    assert shop.count("refunds") == 1


@under_loop
async def test_an_agent_learns_from_refusals(shop: Shop) -> None:
    from tests.mcp_server.scripted import Script, call, run, say

    script = Script(
        call("shop__refund", job="J-1", amount=-5),
        call("shop__drop", idempotency_key="k"),
        call("shop__crash"),
        say("I could not"),
    )
    assert await run(shop, script) == "I could not"
    assert "shop__drop" not in script.offered
    assert [row.outcome for row in shop.log()] == ["invalid", "failed"]
    assert "amount" in repr(script.results[0])
    assert "secret" not in repr(script.results)
