"""Calls of tools: the arguments of a model, the pipeline, and the result for the model."""

from __future__ import annotations

import json

from actionengine import Engine
from tests.agents.conftest import Call
from tests.conftest import log_of

REFUND = {"payment_id": "p1", "amount": "5", "idempotency_key": "k1"}


def test_a_success_is_structured_and_text(call: Call) -> None:
    result = call("payments__search", {"limit": 2})
    assert (result.is_error, result.status) == (False, "succeeded")
    assert result.structured == {"items": ["refund 0", "refund 1"], "next": "cursor-7"}
    assert json.loads(result.text) == result.structured


def test_the_key_of_the_arguments_makes_a_retry_safe(call: Call, engine: Engine) -> None:
    first, again = call("payments__refund", REFUND), call("payments__refund", REFUND)
    assert first == again
    assert [entry.outcome for entry in log_of(engine)] == ["succeeded", "replayed"]
    assert "idempotency_key" not in log_of(engine)[0].input
