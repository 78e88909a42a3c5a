"""Reservations: the amounts that an execution takes from budgets, in its own transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from math import ceil
from typing import Final

from actionengine.context import AIUsage
from actionengine.errors import ActionError, ErrorCode
from actionengine.pipeline.amounts import to_decimal, to_number, to_trillionths, value_at
from actionengine.pipeline.budgets import BudgetRule
from actionengine.pipeline.execution import Execution
from actionengine.storage.counters import MAX_LIMIT, ONE, Reservation, merged
from actionengine.storage.port import UnitOfWork

_USAGE_UNITS: Final = ("tokens", "cost_usd")
_SHORT_WAIT = timedelta(seconds=10)
_SECOND = timedelta(seconds=1)
_MILLISECOND = timedelta(milliseconds=1)


class Reservations:
    """Reserves amounts for executions. `rules` are all budgets of the engine."""

    def __init__(self, rules: Sequence[BudgetRule]) -> None:
        self._rules = {rule.name: rule for rule in rules}

    def announce(self, execution: Execution) -> None:
        """Send the reservations of an execution with its claim. One that is refused is refused after the claim: a
        replay reserves nothing."""
        if execution.plan.before or execution.plan.action.read_only:
            return
        with suppress(ActionError):
            reservations = self._possible(execution, self._wanted(execution))
            execution.open().announce(reservations)
            execution.announced = reservations

    async def reserve(self, execution: Execution) -> None:
        """Reserve what is known before the handler. Raises `ActionError`: `rate_limited` where a budget has no room, or
        `invalid_input` for an amount in the input that cannot be counted.

        A read-only transaction can write no counter: it reads whether there is room, and `finish` reserves.
        """
        reservations, execution.announced = execution.announced, ()
        reservations = reservations or self._possible(execution, self._wanted(execution))
        execution.counted_usage = execution.entry.usage
        if not reservations:
            return
        unit_of_work = execution.open()
        if execution.plan.action.read_only:
            execution.deferred = tuple(reservations)
            await self._refuse_full(execution, unit_of_work, reservations)
            return
        await self._reserve(execution, unit_of_work, reservations)

    async def finish(self, execution: Execution) -> None:
        """Reserve the AI usage that the handler has added, and what read-only executions have deferred.

        Raises `ActionError(rate_limited)`.
        """
        added = _added(execution)
        if not added:
            return
        if execution.parent is not None and execution.plan.action.read_only:
            execution.deferred = added
            return
        execution.deferred = ()
        await self._reserve(execution, execution.open(writable=True), self._possible(execution, added))

    async def rehearse(self, execution: Execution) -> None:
        """Do what `finish` does, for an outermost execution whose transaction is rolled back."""
        if not execution.plan.action.read_only:
            await self.finish(execution)
        elif added := _added(execution):
            await self._refuse_full(execution, execution.open(), self._possible(execution, added))

    async def _reserve(
        self, execution: Execution, unit_of_work: UnitOfWork, reservations: Sequence[Reservation]
    ) -> None:
        full = await unit_of_work.reserve(reservations)
        if full:
            raise await self._rate_limited(execution, unit_of_work, full)

    def _wanted(self, execution: Execution) -> Iterator[Reservation]:
        """Yield what is known before the handler. With the outermost execution come reservations of nothing from the
        counters of nested ones: all transactions lock them in one order, and none waits for another in a circle."""
        yield from _known_before(execution)
        root, plan = execution.root, execution.plan
        if execution is not root:
            if execution.request is root.request and not plan.action.read_only:
                root.plan.nested_budgets |= {rule.name for rule in plan.budgets}
        elif not plan.action.read_only:
            for name in plan.nested_budgets:
                if self._rules[name].applies_to(execution.request.actor):
                    # There is always room for nothing, also in a budget whose limit was lowered.
                    yield _reservation(execution, self._rules[name], 0)._replace(limit=MAX_LIMIT * ONE)

    def _possible(self, execution: Execution, wanted: Iterable[Reservation]) -> list[Reservation]:
        """Return one reservation for each counter. Refuse an amount that is larger than its whole budget: no retry
        could succeed."""
        reservations = merged(wanted)
        for each in reservations:
            if each.amount > each.limit:
                rule = self._rules[each.budget]
                raise ActionError(
                    ErrorCode.RATE_LIMITED,
                    f"{execution.plan.name}: {to_decimal(each.amount):f} {rule.unit} is more than the whole budget "
                    f"{rule.name!r} ({rule.terms}): it can never succeed; ask for less",
                    _details(rule, each),
                )
        return reservations

    async def _refuse_full(
        self, execution: Execution, unit_of_work: UnitOfWork, reservations: Sequence[Reservation]
    ) -> None:
        """Refuse if a counter, as this transaction sees it, has no room."""
        now = await unit_of_work.now()
        counters = await unit_of_work.read_counters([each[:2] for each in reservations])
        full = [
            each
            for each, counter in zip(reservations, counters, strict=True)
            if counter is not None and counter.used_at(now) + each.amount > each.limit
        ]
        if full:
            raise await self._rate_limited(execution, unit_of_work, full)

    async def _rate_limited(
        self, execution: Execution, unit_of_work: UnitOfWork, full: Sequence[Reservation]
    ) -> ActionError:
        """Return the error that names the budget without room. Of several, the one with the longest wait."""
        counters = await unit_of_work.read_counters([each[:2] for each in full])
        now = await unit_of_work.now()
        waits = [
            (counter.expires_at - now if counter is not None else _MILLISECOND, each, counter)
            for each, counter in zip(full, counters, strict=True)
        ]
        wait, reservation, counter = max(waits, key=lambda each: each[0])
        rule = self._rules[reservation.budget]
        retry_after = _rounded_up(wait)
        used = counter.used if counter is not None else 0
        return ActionError(
            ErrorCode.RATE_LIMITED,
            f"{execution.plan.name}: the budget {rule.name!r} ({rule.terms}) has no room for "
            f"{to_decimal(reservation.amount):f}, since {to_decimal(used):f} are used: retry after {retry_after} s",
            {**_details(rule, reservation), "used": to_number(used), "retry_after": retry_after},
        )


def _rounded_up(wait: timedelta) -> int | float:
    """Return a wait in seconds, never shorter than it is: whole seconds, or milliseconds of a short wait."""
    if wait > _SHORT_WAIT:
        return ceil(wait / _SECOND)
    return max(1, ceil(wait / _MILLISECOND)) / 1000


def _added(execution: Execution) -> tuple[Reservation, ...]:
    """Return the reservations since `reserve`: deferred ones, and the AI usage since then."""
    if not execution.deferred and execution.entry.usage is execution.counted_usage:
        return ()
    added = (*execution.deferred, *_usage(execution, execution.counted_usage))
    execution.counted_usage = execution.entry.usage
    return added


def _known_before(execution: Execution) -> Iterator[Reservation]:
    for rule in _rules(execution):
        if rule.unit == "executions":
            yield _reservation(execution, rule, ONE)
        elif rule.path:
            amount = _input_amount(execution, rule)
            if amount:
                yield _reservation(execution, rule, amount)
    yield from _usage(execution, None)


def _usage(execution: Execution, before: AIUsage | None) -> Iterator[Reservation]:
    """Yield the AI usage of the execution since it was `before`."""
    usage = execution.entry.usage
    if usage is None or usage is before:
        return
    for rule in _rules(execution):
        if rule.unit in _USAGE_UNITS:
            amount = _used(usage, rule.unit) - (_used(before, rule.unit) if before is not None else 0)
            if amount > 0:
                yield _reservation(execution, rule, amount)


def _rules(execution: Execution) -> Iterator[BudgetRule]:
    actor = execution.request.actor
    return (rule for rule in execution.plan.budgets if rule.applies_to(actor))


def _reservation(execution: Execution, rule: BudgetRule, amount: int) -> Reservation:
    return Reservation(rule.name, rule.scope(execution.request.actor), amount, rule.limit, rule.window)


def _used(usage: AIUsage, unit: str) -> int:
    return to_trillionths(usage.cost_usd if unit == "cost_usd" else usage.input_tokens + usage.output_tokens)


def _input_amount(execution: Execution, rule: BudgetRule) -> int:
    value = value_at(execution.data, rule.path)
    try:
        if value is None:
            raise ValueError("it is missing")
        return to_trillionths(value)
    except ValueError as error:
        path = ".".join(rule.path)
        reason = f"the budget {rule.name!r} counts it, and {error}"
        raise ActionError(
            ErrorCode.INVALID_INPUT,
            f"{execution.plan.name}: {path}: {reason}",
            {"fields": [{"path": path, "reason": reason, "type": "budget_amount"}]},
        ) from None


def _details(rule: BudgetRule, reservation: Reservation) -> dict[str, object]:
    return {
        "budget": rule.name,
        "limit": to_number(rule.limit),
        "amount": to_number(reservation.amount),
        "unit": rule.unit,
        "per": rule.per,
        "window": rule.window.total_seconds(),
    }
