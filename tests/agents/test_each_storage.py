"""Tools on each storage, in both modes: a call, its retry, a refusal, a wait, and another tenant."""

from __future__ import annotations

from typing import Any

from actionengine import Actor, RequestContext, Tenant, ToolResult, Tools
from actionengine.testing import Backend, run_in_mode
from tests.agents.host import CLERK, GUEST, make_host
from tests.harness import Harness

REFUND = {"payment_id": "p1", "amount": "5", "idempotency_key": "k1"}


@run_in_mode
async def test_tools_work_on_each_storage(each_backend: Backend) -> None:
    engine = make_host(each_backend.storage)
    tools = Tools(engine, "openai_strict", ["payments", "approvals"])

    async def call(name: str, arguments: Any, actor: Actor = CLERK, tenant: Tenant | None = None) -> ToolResult:
        context = RequestContext(tenant or each_backend.tenant, actor)
        if each_backend.mode == "sync":
            return tools.call(name, arguments, context)
        return await tools.call_async(name, arguments, context)

    assert await call("payments__refund", REFUND) == await call("payments__refund", REFUND)
    assert (await call("payments__refund", {**REFUND, "comment": "x"})).status == "invalid_input"
    assert (await call("payments__refund", "x", GUEST)).status == "not_found"
    waiting = await call("payments__refund", {**REFUND, "amount": "500", "idempotency_key": "k2"})
    approval = {"approval_id": waiting.structured["approval_id"]}
    assert (await call("approvals__get", approval)).structured["status"] == "pending"
    assert (await call("approvals__get", approval, tenant=each_backend.other_tenant)).status == "not_found"

    harness = Harness(each_backend, [])
    assert await harness.outcomes("payments.refund") == [
        *("succeeded", "replayed", "invalid", "denied", "approval_required"),
    ]
