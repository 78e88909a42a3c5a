"""Budgets: declared limits on the executions, or on the spending, in a window of time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Final, Literal, NamedTuple, get_args

from actionengine.context import ACTOR_TYPES, Actor, ActorType
from actionengine.errors import ConfigurationError
from actionengine.pipeline.amounts import numeric_field_problem, to_decimal, to_trillionths
from actionengine.storage.counters import MAX_LIMIT, ONE
from actionengine.text.names import check_pattern, hint, nearest_of, pattern_covers, spelled

Per = Literal["actor", "principal", "tenant"]

USAGE_ACTION: Final = "budgets.usage"
"""The action that no budget limits: an actor past its budget can ask when to retry."""

ANONYMOUS: Final = "anonymous"
"""The scope of all callers without an actor together."""

_INPUT = "input."
_MAX_NAME_LENGTH = 200
_MAX_WINDOW = timedelta(days=36525)


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit on the executions, or on the spending, in a window of time. Pass it to `create_engine(budgets=[...])`,
    which checks it.

    - `name`: the name in errors and in `budgets.usage`, and the key of its counters. Give one to keep the counters when
      you change the declaration; the default is made from all of it but the limit.
    - `actions`: the actions that it limits: `"payments.refund"`, `"payments.*"` or `"*"`, nested ones and hooks
      included.
    - `per`: a counter for each acting `actor`, for each `principal` (for whom all of it is done), or one for the
      `tenant`. Callers without an actor share one counter.
    - `limit`: the amount that fits into one window, with up to 12 decimals.
    - `unit`: `"executions"`; `"tokens"` or `"cost_usd"` of the executions' AI usage; or a numeric field of the input,
      as `"input.amount"` or `"input.order.total"`.
    - `window`: the length of a window. It begins with the first amount, and the first amount after its end begins
      another.
    - `actor_types`: limit only acting actors of these types, such as `{"ai"}`.
    """

    name: str | None = None
    _: KW_ONLY
    actions: str = "*"
    per: Per = "actor"
    limit: int | float | Decimal
    unit: str = "executions"
    window: timedelta | None = None
    actor_types: Collection[ActorType] | None = None


class BudgetRule(NamedTuple):
    """A checked budget. `limit` is in trillionths, `path` the field of the input that it counts."""

    name: str
    actions: str
    per: Per
    limit: int
    unit: str
    path: tuple[str, ...]
    window: timedelta
    actor_types: frozenset[str] | None

    def covers(self, action: str) -> bool:
        """Return whether the budget limits an action, by its full name."""
        return action != USAGE_ACTION and pattern_covers(self.actions, action)

    def applies_to(self, actor: Actor | None) -> bool:
        """Return whether the budget limits what this actor executes."""
        return self.actor_types is None or (actor is not None and actor.type in self.actor_types)

    def scope(self, actor: Actor | None) -> str:
        """Return the scope of the counter for what this actor executes."""
        if self.per == "tenant":
            return self.per
        if actor is None:
            return ANONYMOUS
        return str(actor if self.per == "actor" else actor.principal)

    @property
    def terms(self) -> str:
        """The budget as a text: limit, unit, scope and window."""
        return f"{to_decimal(self.limit):f} {self.unit} per {self.per} in {duration(self.window)}"


def check_budgets(budgets: Iterable[object], models: Mapping[str, object]) -> tuple[BudgetRule, ...]:
    """Return budgets as rules. `models` has the validating type of each action, by its full name.

    Raises:
        ConfigurationError: for a mistake in a declaration, naming the budget.
    """
    if not isinstance(budgets, Iterable):
        raise ConfigurationError(f"budgets is {budgets!r}: pass a list, budgets=[Budget(…)]")
    rules: dict[str, BudgetRule] = {}
    for number, budget in enumerate(budgets):
        if not isinstance(budget, Budget):
            raise ConfigurationError(
                f"budgets[{number}] is {budget!r}: make it with Budget(actions='payments.*', limit=10, window=…)"
            )
        rule = _rule(budget, f"budgets[{number}]")
        covered = [name for name in models if rule.covers(name)]
        if not covered:
            near = hint(nearest_of(rule.actions, tuple(models)))
            raise ConfigurationError(f"the budget {rule.name!r} limits no action: {rule.actions!r} names none{near}")
        for name in covered if rule.path else ():
            problem = numeric_field_problem(models[name], rule.path)
            if problem is not None:
                raise ConfigurationError(
                    f"the budget {rule.name!r} counts {rule.unit}, and {name} has no such number: {problem}; name the "
                    f"actions that have it, with a budget each"
                )
        if rule.name in rules:
            raise ConfigurationError(f"there are two budgets named {rule.name!r}: give each a name of its own")
        rules[rule.name] = rule
    return tuple(rules.values())


def _rule(budget: Budget, where: str) -> BudgetRule:
    if budget.name is not None:
        where = f"the budget {budget.name!r}"
        _check_name(budget.name, where)
    try:
        check_pattern(budget.actions)
    except ValueError:
        raise ConfigurationError(
            f"{where}: actions is 'payments.refund', 'payments.*' or '*', not {budget.actions!r}"
        ) from None
    if budget.per not in get_args(Per):
        raise ConfigurationError(f"{where}: per is 'actor', 'principal' or 'tenant', not {budget.per!r}")
    path = _path(budget.unit, where)
    types = _actor_types(budget.actor_types, where)
    window = budget.window
    if not isinstance(window, timedelta) or not timedelta(0) < window <= _MAX_WINDOW:
        raise ConfigurationError(
            f"{where} needs a window: a timedelta above 0, and a century at most, such as "
            f"window=timedelta(hours=1), not {window!r}"
        )
    limit = _limit(budget, where)
    name = budget.name
    if name is None:
        of = f" of {', '.join(sorted(types))}" if types else ""
        name = f"{budget.unit} of {budget.actions} per {budget.per}{of} in {duration(window)}"
    return BudgetRule(name, budget.actions, budget.per, limit, budget.unit, path, window, types)


def _check_name(name: object, where: str) -> None:
    try:
        if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME_LENGTH or spelled(name) != name:
            raise ValueError(f"it must have 1 to {_MAX_NAME_LENGTH} visible characters")
    except ValueError as error:
        raise ConfigurationError(f"{where} needs another name: {error}") from None


def _path(unit: object, where: str) -> tuple[str, ...]:
    if unit in ("executions", "tokens", "cost_usd"):
        return ()
    if isinstance(unit, str) and unit.startswith(_INPUT):
        path = tuple(unit.removeprefix(_INPUT).split("."))
        if all(name.isidentifier() for name in path):
            return path
    raise ConfigurationError(
        f"{where}: unit is 'executions', 'tokens', 'cost_usd', or a field of the input such as 'input.amount', "
        f"not {unit!r}"
    )


def _actor_types(given: object, where: str) -> frozenset[str] | None:
    if given is None:
        return None
    if isinstance(given, Iterable) and not isinstance(given, str):
        types = frozenset(given)
        if types and types <= ACTOR_TYPES:
            return types
    raise ConfigurationError(f"{where}: actor_types is some of {sorted(ACTOR_TYPES)}, such as {{'ai'}}, not {given!r}")


def _limit(budget: Budget, where: str) -> int:
    given = budget.limit
    try:
        limit = to_trillionths(given)
    except ValueError as error:
        raise ConfigurationError(f"{where}: limit is {given!r}, and {error}") from None
    if not 0 < limit <= MAX_LIMIT * ONE:
        raise ConfigurationError(f"{where}: limit is above 0, and {MAX_LIMIT:.0e} at most, not {given!r}")
    if budget.unit in ("executions", "tokens") and limit % ONE:
        raise ConfigurationError(f"{where}: a limit of {budget.unit} is a whole number, not {given!r}")
    return limit


def duration(length: timedelta) -> str:
    """Return a length of time as a text, in the largest unit that divides it."""
    for unit, size in (("day", timedelta(days=1)), ("hour", timedelta(hours=1)), ("minute", timedelta(minutes=1))):
        if length % size == timedelta(0):
            number = length // size
            return f"{number} {unit}" if number == 1 else f"{number} {unit}s"
    return f"{length.total_seconds():g} seconds" if length != timedelta(seconds=1) else "1 second"
