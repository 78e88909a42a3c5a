"""Results of tools: their size, their schema, and a next step for each error."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from actionengine import ActionError, Engine, ErrorCode, RequestContext, Tenant, Tools
from actionengine.agents.results import MAX_ERROR_LENGTH, NEXT_STEPS, failed, succeeded
from actionengine.agents.truncation import truncated
from tests.agents.conftest import ToolsOf
from tests.agents.family import JSON
from tests.agents.host import CLERK

REFUND = {"payment_id": "p1", "amount": "5", "idempotency_key": "k1"}


def test_each_error_has_a_next_step() -> None:
    assert {*NEXT_STEPS, "approval_required"} == {code.value for code in ErrorCode}


def test_a_large_result_is_cut_with_a_note(engine: Engine, acme: Tenant) -> None:
    tools = Tools(engine, "openai", ["payments"], max_result_bytes=2_000)
    result = tools.call("payments__search", {"limit": 10_000}, RequestContext(acme, CLERK))
    assert result.status == "succeeded"
    structured = result.structured
    assert structured["status"] == "truncated"
    assert "The result has 138919 bytes, of which a tool shows at most 2000" in structured["note"]
    # The cursor of the page survives, and the text is the note with JSON.
    assert structured["result"]["next"] == "cursor-7"
    assert structured["result"]["items"][:2] == ["refund 0", "refund 1"]
    note, _, rest = result.text.partition("\n")
    assert (note, json.loads(rest)) == (structured["note"], structured["result"])
    assert len(rest) <= 2_000


def test_the_message_of_an_error_is_cut() -> None:
    result = failed(ActionError("unprocessable", "x" * 100_000, {"rows": ["y" * 100_000]}), "shop__pay", str)
    assert len(to_json(result.structured)) < 9_000
    assert len(result.text) == MAX_ERROR_LENGTH


def test_a_result_at_the_limit_is_whole() -> None:
    assert succeeded("x" * 998, None, frozenset(), True, 1_000).structured == {"result": "x" * 998}
    assert succeeded("x" * 999, None, frozenset(), True, 1_000).structured["status"] == "truncated"


@given(value=JSON | st.lists(JSON, max_size=9) | st.text(), max_bytes=st.integers(8, 200))
def test_a_cut_value_is_small_and_a_part(value: Any, max_bytes: int) -> None:
    cut = truncated(value, max_bytes)
    assert len(to_json(cut)) <= max_bytes
    assert is_part(cut, value)


def is_part(cut: Any, whole: Any) -> bool:
    if isinstance(whole, list) and isinstance(cut, list):
        return len(cut) <= len(whole) and all(map(is_part, cut, whole))
    if isinstance(whole, dict) and isinstance(cut, dict):
        return all(key in whole and is_part(item, whole[key]) for key, item in cut.items())
    if isinstance(whole, str) and isinstance(cut, str):
        return cut == whole or (cut.endswith("…") and whole.startswith(cut[:-1]))
    return cut is None or bool(cut == whole)


def test_each_result_fits_the_output_schema(tools_of: ToolsOf, engine: Engine, acme: Tenant) -> None:
    context = RequestContext(acme, CLERK)
    schemas = {tool["name"]: tool["outputSchema"] for tool in tools_of("mcp").list(context)}
    small = Tools(engine, "mcp", max_result_bytes=1_000)
    calls: list[tuple[Tools, str, dict[str, Any]]] = [
        (tools_of("mcp"), "payments__search", {"limit": 2}),
        (small, "payments__search", {"limit": 1_000}),
        (tools_of("mcp"), "payments__note", {"text": "a", "pin": "1234"}),
        (tools_of("mcp"), "payments__refund", REFUND),
        (tools_of("mcp"), "payments__refund", {**REFUND, "amount": "500", "idempotency_key": "k2"}),
        (tools_of("mcp"), "approvals__list", {}),
    ]
    for tools, name, arguments in calls:
        result = tools.call(name, arguments, context)
        assert not result.is_error, result
        jsonschema_rs.validate(schemas[name], result.structured)
    for schema in schemas.values():
        jsonschema_rs.meta.validate(schema)
        assert schema["type"] == "object"
