"""Declarations of budgets: what `create_engine` refuses, and the amounts that they count."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal, localcontext
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter
from returns.result import Success
from typing_extensions import TypedDict

from actionengine import Budget, ConfigurationError, Engine, create_action, create_engine, create_service
from actionengine.pipeline.amounts import to_decimal, to_number, to_trillionths
from actionengine.storage.counters import MAX_LIMIT, ONE, from_text, to_text

HOUR = timedelta(hours=1)


class Money(BaseModel):
    """An amount of money."""

    value: Decimal
    currency: str


class Refund(BaseModel):
    """A refund of one or of several orders."""

    amount: Annotated[Decimal, Field(ge=0)]
    tip: float | None = None
    job: str
    urgent: bool = False
    money: Money
    lines: list[int] = []
    extra: Any = None


class Typed(TypedDict):
    """A typed dictionary."""

    amount: int
    job: str


@dataclass
class Row:
    """A dataclass."""

    amount: int
    job: str


def engine_with(*budgets: Any, validation: Any = Refund) -> Engine:
    """Return an engine with the actions `payments.refund`, `payments.note` and `jobs.add`."""
    refund = create_action(name="refund", description="", handler=lambda data: Success(1), validation=validation)
    note = create_action(name="note", description="", handler=lambda data: Success(1))
    payments = create_service(name="payments", description="", actions=[refund, note])
    jobs = create_service(
        name="jobs",
        description="",
        actions=[create_action(name="add", description="", handler=lambda data: Success(1))],
    )
    return create_engine(services=[payments, jobs], budgets=budgets)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"limit": 0}, "above 0"),
        ({"limit": -1}, "negative"),
        ({"limit": float("nan")}, "finite"),
        ({"limit": float("inf")}, "finite"),
        ({"limit": Decimal("NaN")}, "finite"),
        ({"limit": Decimal("Infinity")}, "finite"),
        ({"limit": True}, "a number"),
        ({"limit": "10"}, "a number"),
        ({"limit": None}, "a number"),
        ({"limit": 2.5}, "whole number"),
        ({"limit": 10**19}, "at most"),
        ({"limit": Decimal("1e999999")}, "at most"),
        ({"limit": Decimal("0.0000000000001"), "unit": "cost_usd"}, "12 decimals"),
        ({"window": None}, "needs a window"),
        ({"window": timedelta(0)}, "needs a window"),
        ({"window": timedelta(seconds=-1)}, "needs a window"),
        ({"window": timedelta(days=40000)}, "a century"),
        ({"window": 3600}, "needs a window"),
        ({"actions": "refunds.*"}, "limits no action"),
        ({"actions": "payments.refnd"}, "did you mean 'payments.refund'"),
        ({"actions": "pay*"}, "'payments.*'"),
        ({"actions": ""}, "'payments.*'"),
        ({"actions": ["payments.refund"]}, "'payments.*'"),
        ({"actions": "budgets.usage"}, "limits no action"),
        ({"per": "user"}, "'principal'"),
        ({"unit": "calls"}, "'executions'"),
        ({"unit": "input."}, "input.amount"),
        ({"unit": "input.a-b"}, "input.amount"),
        ({"unit": None}, "'executions'"),
        ({"actor_types": ()}, "actor_types"),
        ({"actor_types": "ai"}, "actor_types"),
        ({"actor_types": {"robot"}}, "actor_types"),
        ({"name": ""}, "name"),
        ({"name": " a"}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": 7}, "name"),
        ({"unit": "input.amount", "actions": "*"}, "approvals.list has no such number"),
        ({"actions": "payments.refund", "unit": "input.total"}, "no field 'total'"),
        ({"actions": "payments.refund", "unit": "input.job"}, "no number"),
        ({"actions": "payments.refund", "unit": "input.urgent"}, "no number"),
        ({"actions": "payments.refund", "unit": "input.lines"}, "no number"),
        ({"actions": "payments.refund", "unit": "input.money"}, "no number"),
        ({"actions": "payments.refund", "unit": "input.money.currency"}, "no number"),
        ({"actions": "payments.refund", "unit": "input.amount.value"}, "no field 'value'"),
    ],
    ids=str,
)
def test_a_mistake_in_a_budget_is_refused_at_boot(changes: dict[str, Any], words: str) -> None:
    options: dict[str, Any] = {"actions": "payments.*", "limit": 10, "window": HOUR, **changes}
    with pytest.raises(ConfigurationError) as caught:
        engine_with(Budget(**options))
    assert words in str(caught.value), str(caught.value)


@pytest.mark.parametrize("path", ["amount", "tip", "money.value", "extra", "extra.deeper"])
def test_a_numeric_field_can_be_counted(path: str) -> None:
    engine_with(Budget(actions="payments.refund", limit=10, unit=f"input.{path}", window=HOUR))


@pytest.mark.parametrize("validation", [Typed, Row, TypeAdapter(Typed)], ids=["TypedDict", "dataclass", "TypeAdapter"])
def test_fields_of_other_types_are_checked_too(validation: Any) -> None:
    budget: dict[str, Any] = {"actions": "payments.refund", "limit": 10, "window": HOUR}
    engine_with(Budget(**budget, unit="input.amount"), validation=validation)
    with pytest.raises(ConfigurationError, match="no number"):
        engine_with(Budget(**budget, unit="input.job"), validation=validation)


@pytest.mark.parametrize("validation", [None, dict[str, int], TypeAdapter(dict[str, Any])], ids=str)
def test_an_input_of_unknown_fields_is_checked_later(validation: Any) -> None:
    engine_with(Budget(actions="payments.refund", limit=10, unit="input.amount", window=HOUR), validation=validation)


def test_budgets_come_in_a_list() -> None:
    with pytest.raises(ConfigurationError, match="pass a list"):
        create_engine(services=[], budgets=Budget(limit=1, window=HOUR))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"budgets\[0\]"):
        engine_with({"limit": 10})


def test_two_budgets_of_one_name_are_refused() -> None:
    for name in ("calls", None):
        with pytest.raises(ConfigurationError, match="two budgets"):
            engine_with(Budget(name, limit=1, window=HOUR), Budget(name, limit=2, window=HOUR))
    engine_with(Budget(limit=1, window=HOUR), Budget(limit=1, window=2 * HOUR))


amounts = st.integers(0, MAX_LIMIT * ONE)


@given(amounts)
def test_an_amount_keeps_all_of_its_decimals(amount: int) -> None:
    with localcontext() as context:
        # A host's own precision makes no difference.
        context.prec = 3
        assert to_trillionths(to_decimal(amount)) == amount
        assert from_text(to_text(amount)) == amount
        assert from_text(format(to_decimal(amount), "f")) == amount


@given(st.integers(0, 10**9), st.integers(0, 999_999))
def test_a_float_counts_as_the_number_that_was_written(whole: int, millionths: int) -> None:
    text = f"{whole}.{millionths:06d}"
    assert to_trillionths(float(text)) == to_trillionths(Decimal(text)) == from_text(text)


@pytest.mark.parametrize(
    "given",
    [-1, -0.5, Decimal("-0.01"), float("nan"), float("-inf"), Decimal("sNaN"), True, "1", None, [1], 1 + 0j, 0.1 + 0.2],
    ids=repr,
)
def test_what_cannot_be_counted_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="it must"):
        to_trillionths(given)


@pytest.mark.parametrize("given", [10**5000, 1e300, Decimal("1e999999"), Decimal(10**19)], ids=lambda each: "large")
def test_a_number_above_all_limits_is_one(given: Any) -> None:
    assert to_trillionths(given) > MAX_LIMIT * ONE


@pytest.mark.parametrize("given", [0, 0.0, -0.0, Decimal("-0"), Decimal("0e-999999"), Decimal("0e999999")], ids=repr)
def test_zero_is_zero_however_it_is_written(given: Any) -> None:
    assert to_trillionths(given) == 0


def test_a_number_too_exact_to_be_kept_is_refused() -> None:
    assert to_trillionths(Decimal("1e-12")) == 1
    assert to_trillionths(Decimal("0.1000000000000000000")) == ONE // 10
    for number in (Decimal("1e-13"), Decimal("1e-999999"), 1e-300):
        with pytest.raises(ValueError, match="12 decimals"):
            to_trillionths(number)


def test_whole_amounts_are_whole_in_json() -> None:
    assert [repr(to_number(each)) for each in (3 * ONE, ONE // 2)] == ["3", "0.5"]
