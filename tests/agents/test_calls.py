"""Calls of tools: the arguments of a model, the pipeline, and the result for the model."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from actionengine import Tenant
from tests.agents.conftest import Call, Log, ToolsOf
from tests.agents.host import CLERK, GUEST, MANAGER

REFUND = {"payment_id": "p1", "amount": "5", "idempotency_key": "k1"}


def test_a_success_is_structured_and_text(call: Call) -> None:
    result = call("payments__search", {"limit": 2})
    assert (result.is_error, result.status) == (False, "succeeded")
    assert result.structured == {"items": ["refund 0", "refund 1"], "next": "cursor-7"}
    assert json.loads(result.text) == result.structured


def test_a_value_that_is_no_object_is_wrapped(call: Call) -> None:
    result = call("payments__close", {}, by=MANAGER)
    assert result.structured == {"result": None}
    assert result.text == "null"


def test_the_key_of_the_arguments_makes_a_retry_safe(call: Call, log: Log) -> None:
    first, again = call("payments__refund", REFUND), call("payments__refund", REFUND)
    assert first == again
    assert [entry.outcome for entry in log()] == ["succeeded", "replayed"]
    assert "idempotency_key" not in log()[0].input


def test_the_key_of_the_arguments_comes_before_the_hosts(call: Call, log: Log) -> None:
    for number in range(2):
        call("payments__refund", REFUND, idempotency_key=f"call {number}")
    assert [entry.outcome for entry in log()] == ["succeeded", "replayed"]


def test_the_hosts_key_is_enough(call: Call) -> None:
    arguments = {name: value for name, value in REFUND.items() if name != "idempotency_key"}
    assert call("payments__refund", arguments, idempotency_key="call 1").status == "succeeded"


@pytest.mark.parametrize("key", [None, "", 5, ["k"]])
def test_a_key_is_a_text(call: Call, log: Log, key: Any) -> None:
    result = call("payments__refund", {**REFUND, "idempotency_key": key})
    assert result.status == "invalid_input"
    assert result.structured["fields"][0]["path"] == "idempotency_key"
    assert [entry.outcome for entry in log()] == ["invalid"]


def test_a_missing_key_is_named_by_its_argument(call: Call, log: Log) -> None:
    result = call("payments__refund", {"payment_id": "p1", "amount": "5"})
    assert result.structured["fields"][0]["path"] == "idempotency_key"
    assert "the same when you repeat the call" in result.text
    assert [entry.outcome for entry in log()] == ["invalid"]


# Arguments that are not what the schema says


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ('{"text": "hello"}', "they are a text: give an object"),
        (b"{}", "they are a text: give an object"),
        ([], "they are of the type list: give an object"),
        (5, "they are of the type int"),
        ({"text": "hello", "pinn": "1234"}, "- pinn: there is no such field; did you mean 'pin'?"),
        ({"text": "hello", "x": 1}, "- x: there is no such field: the fields are text, pin"),
        ({"text": ""}, "- text: String should have at least 1 character"),
        ({}, "- text: Field required"),
        (None, "- text: Field required"),
        ({"text": "\ud800"}, "not JSON"),
        ({"text": float("nan")}, "JSON has finite numbers only"),
        ({"text": {1: 2}}, "keys are texts"),
        ({"text": object()}, "not JSON"),
        ({"text": "x" * 5_000_000}, "at most 1048576 are allowed"),
        ({"text": [[]] * 30_000}, "more than 20000 values"),
    ],
)
def test_bad_arguments_get_an_error_on_the_log(call: Call, log: Log, arguments: Any, words: str) -> None:
    result = call("payments__note", arguments)
    assert (result.is_error, result.status) == (True, "invalid_input")
    assert words in result.text
    assert result.text.endswith("Correct the arguments, and call the tool again.")
    (entry,) = log()
    assert (entry.action, entry.outcome, entry.error["code"]) == ("payments.note", "invalid", "invalid_input")
    json.dumps(result.structured)


def test_deep_arguments_get_an_error_on_the_log(call: Call, log: Log) -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert "depth exceeded" in call("payments__note", {"text": deep}).text
    assert "depth exceeded" in call("payments__refund", {**REFUND, "lines": deep}).text
    assert [entry.outcome for entry in log()] == ["invalid", "invalid"]
    while deep:
        deep = deep.pop()


@pytest.mark.parametrize("arguments", [{"lines": [{"sku": "a", "pieces": 1}]}, {"comment": "x"}])
def test_an_unknown_property_is_refused_at_any_depth(call: Call, log: Log, arguments: dict[str, Any]) -> None:
    # The models ignore it: without the refusal, a part of the request would be lost.
    result = call("payments__refund", {**REFUND, **arguments})
    assert result.structured["fields"][0]["path"] in ("lines.0.pieces", "comment")
    assert log()[0].outcome == "invalid"


def test_all_that_is_wrong_is_said_at_once(call: Call, log: Log) -> None:
    result = call("payments__refund", {"amount": "-5", "comment": "x", "lines": [{"count": 0, "size": 1}]})
    assert [field["path"] for field in result.structured["fields"]] == [
        *("comment", "lines.0.size", "idempotency_key"),
        *("payment_id", "amount", "lines.0.sku", "lines.0.count"),
    ]
    assert len(log()) == 1


def test_many_unknown_properties_are_listed_up_to_a_bound(call: Call) -> None:
    result = call("payments__note", {"text": "a", **{f"x{number}": 1 for number in range(1_000)}})
    assert len(result.structured["fields"]) == 20


def test_no_secret_of_refused_arguments_is_on_the_log(call: Call, log: Log) -> None:
    refused = [{"text": "", "pin": "1234"}, {"text": "a", "pin": "1234", "x": 1}, '{"pin": "1234"}']
    for arguments in refused:
        assert "1234" not in repr(call("payments__note", arguments))
    assert "1234" not in repr(log())


def test_a_secret_of_a_result_is_masked(call: Call) -> None:
    result = call("payments__note", {"text": "a", "pin": "1234"})
    assert result.status == "succeeded"
    assert "1234" not in repr(result)
    assert call("payments__keys", {}).structured == {"id": "key-1", "pin": "**********"}


def test_null_is_an_absent_field_in_the_strict_dialect(call: Call, log: Log) -> None:
    arguments = {**REFUND, "reason": None, "lines": [{"sku": "a", "count": None}]}
    assert call("payments__refund", arguments, tools="openai_strict").status == "succeeded"
    assert log()[0].input["lines"] == [{"sku": "a"}]
    assert call("payments__refund", {**arguments, "idempotency_key": "k2"}).status == "invalid_input"


def test_any_input_is_an_argument(call: Call) -> None:
    asked = {"code": "conflict", "message": "no"}
    assert call("payments__fail", {"input": asked}).status == "conflict"
    assert call("payments__fail", {"input": json.dumps(asked)}, tools="gemini").status == "conflict"
    wrong = call("payments__fail", {"input": "{'code'"}, tools="gemini")
    assert wrong.structured["fields"][0]["path"] == "input"
    assert "it is not JSON text" in wrong.text


# Tools that the caller does not have


@pytest.mark.parametrize("name", ["payments__refund", "payments__nothing", "globex__pay", "", "x" * 1_000, None, 5])
def test_a_foreign_tool_is_an_unknown_one(call: Call, name: Any) -> None:
    result = call(name, REFUND, by=GUEST)
    assert (result.is_error, result.status) == (True, "not_found")
    assert result.structured["message"].startswith("You have no tool '")
    # The guest's only tool may be proposed, and no other.
    assert "refund" not in result.structured["next"]


def test_the_nearest_of_the_callers_own_tools_is_proposed(call: Call) -> None:
    assert "Did you mean 'payments__refund'?" in call("payments__refunds", {}).text
    assert "Did you mean 'payments__search'?" in call("payments__serach", {}, by=GUEST).text


def test_no_other_action_of_the_service_is_proposed(call: Call) -> None:
    # `payments__refund` is like these for its service alone, and a model does what is proposed.
    for name in ("payments__delete", "payments__"):
        assert call(name, {}).structured["next"] == "Use one of the tools that you have."


def test_bad_arguments_for_a_foreign_tool_tell_nothing(call: Call) -> None:
    answers = [call("payments__refund", given, by=GUEST) for given in ({}, "x", {"x": 1}, REFUND)]
    assert len({answer.text for answer in answers}) == 1
    assert answers[0].status == "not_found"


def test_a_tool_of_another_service_is_unknown(
    call: Call, log: Log, tools_of: ToolsOf, caplog: pytest.LogCaptureFixture
) -> None:
    tools = tools_of("openai", ("approvals",))
    with caplog.at_level(logging.WARNING, logger="actionengine"):
        assert call("payments__note", {"text": "a"}, tools=tools).status == "not_found"
    assert "there is no tool 'payments__note' (tenant acme-" in caplog.text
    assert log() == []


def test_a_refused_call_of_a_foreign_tool_is_on_the_log(call: Call, log: Log) -> None:
    call("payments__refund", REFUND, by=GUEST)
    call("payments__refund", "x", by=GUEST)
    assert [entry.error["code"] for entry in log()] == ["forbidden", "forbidden"]


def test_each_tenant_sees_its_own(call: Call, globex: Tenant) -> None:
    result = call("payments__refund", {**REFUND, "amount": "500"})
    looked = call("approvals__get", {"approval_id": result.structured["approval_id"]}, tenant=globex)
    assert looked.status == "not_found"


def test_a_call_without_an_actor_or_a_tenant_is_refused(call: Call) -> None:
    assert call("payments__note", {"text": "a"}, by=None).status == "not_found"
    assert call("payments__note", {"text": "a"}, tenant=None).is_error


# Waiting for people


def test_a_pending_approval_is_an_ordinary_result(call: Call) -> None:
    result = call("payments__refund", {**REFUND, "amount": "500"})
    assert (result.is_error, result.status) == (False, "pending_approval")
    structured = result.structured
    assert structured["status"] == "pending_approval"
    assert structured["action"] == "payments.refund"
    assert structured["permission"] == "payments.approve"
    assert structured["expires_at"] in result.text
    assert f"Look at it later with approvals__get, approval_id {structured['approval_id']}" in result.text
    assert call("approvals__get", {"approval_id": structured["approval_id"]}).structured["status"] == "pending"


def test_who_cannot_look_asks_a_person(call: Call, tools_of: ToolsOf) -> None:
    tools = tools_of("openai", ("payments",))
    result = call("payments__refund", {**REFUND, "amount": "500"}, tools=tools)
    assert "approvals__get" not in result.text
    assert "tell the person for whom you work" in result.structured["next"]


def test_an_agent_has_no_tool_that_approves(call: Call) -> None:
    pending = call("payments__refund", {**REFUND, "amount": "500"}).structured["approval_id"]
    for actor in (CLERK, MANAGER):
        answer = call("approvals__approve", {"approval_id": pending}, by=actor)
        assert answer.status == ("not_found" if actor is CLERK else "succeeded")


# Errors


@pytest.mark.parametrize(
    "code",
    ["unprocessable", "conflict", "not_found", "forbidden", "timeout", "unavailable", "internal", "handler_error"],
)
def test_an_error_says_what_to_do_next(call: Call, code: str) -> None:
    result = call("payments__fail", {"input": {"code": code, "message": "the job is open", "details": {"job": 7}}})
    assert (result.is_error, result.status) == (True, code)
    assert result.text == f"{code}: the job is open\n{result.structured['next']}"
    assert result.structured["details"] == {"job": 7}


def test_a_rate_limit_says_how_long_to_wait(call: Call) -> None:
    details = {"budget": "refunds", "retry_after": 12.5}
    result = call("payments__fail", {"input": {"code": "rate_limited", "details": details}})
    assert result.structured["retry_after"] == 12.5
    assert result.text.endswith("Wait 12.5 seconds before you call again.")


def test_a_long_error_is_cut(call: Call) -> None:
    asked = {"code": "conflict", "message": "x" * 100_000, "details": {"all": "y" * 100_000}}
    result = call("payments__fail", {"input": asked})
    assert len(result.text) <= 8_000
    assert "details" not in result.structured
