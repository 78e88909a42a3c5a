"""Previews of tools: what a call would do, and the plan that holds a later call to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from actionengine import Engine, RequestContext, Tenant, ToolResult, Tools
from tests.agents.conftest import Call, Log, ToolsOf
from tests.agents.host import CLERK, GUEST

REFUND = {"payment_id": "p1", "amount": "5"}
Preview = Callable[..., ToolResult]


@pytest.fixture(params=["sync", "async", "blocking"])
def preview(request: pytest.FixtureRequest, engine: Engine, tools_of: ToolsOf, acme: Tenant) -> Preview:
    """Preview a call of a tool as the clerk's agent, or as another actor."""

    def run(name: Any, arguments: Any, by: Any = CLERK, **options: Any) -> ToolResult:
        asked = RequestContext(acme, by)
        tools = Tools(engine, "mcp", **options) if options else tools_of("mcp")
        if request.param == "async":
            return asyncio.run(tools.preview_async(name, arguments, asked))
        if request.param == "blocking":
            with engine.blocking() as blocking:
                return Tools(blocking, "mcp", **options).preview(name, arguments, asked)
        return tools.preview(name, arguments, asked)

    return run


def test_a_preview_does_nothing_and_needs_no_key(preview: Preview, call: Call, log: Log) -> None:
    shown = preview("payments__refund", REFUND)
    assert (shown.is_error, shown.status) == (False, "previewed")
    assert json.loads(shown.text) == shown.structured
    (write,) = shown.structured["writes"]
    assert (write["kind"], write["target"], write["after"]) == ("insert", "refunds", {"amount": "5"})
    assert shown.structured["result"]["amount"] == "5"
    assert shown.structured["approval"] is None
    plan = shown.structured["plan"]
    done = call("payments__refund", {**REFUND, "idempotency_key": "k"}, plan=plan)
    assert done.status == "succeeded"
    assert done.structured == shown.structured["result"]
    assert [row.outcome for row in log()] == ["previewed", "succeeded"]


def test_a_preview_names_the_approval_and_hides_secrets(preview: Preview) -> None:
    held = preview("payments__refund", {**REFUND, "amount": "500"})
    assert held.structured["approval"] == {"action": "payments.refund", "permission": "payments.approve"}
    note = preview("payments__note", {"text": "x", "pin": "1234"})
    assert "1234" not in note.text


def test_a_large_preview_is_cut_and_keeps_its_plan(preview: Preview) -> None:
    shown = preview("payments__search", {"limit": 5000}, max_result_bytes=2000)
    assert len(shown.text) < 3000
    assert "cut" in shown.structured["note"]
    assert shown.structured["plan"]
    assert shown.structured["result"]["items"]


def test_what_cannot_be_called_cannot_be_previewed(preview: Preview, log: Log) -> None:
    assert preview("payments__refund", {"amount": "5"}).status == "invalid_input"
    assert preview("payments__refund", "{}").status == "invalid_input"
    assert preview("payments__refund", REFUND, by=GUEST).status == "not_found"
    assert preview("payments__nope", REFUND).status == "not_found"
    assert [row.error["code"] for row in log()] == ["invalid_input", "invalid_input", "forbidden"]
