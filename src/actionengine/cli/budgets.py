"""`actionengine budgets ...`: the amounts that an actor has used."""

from __future__ import annotations

from typing import Annotated

import typer

from actionengine.builtin.budgets import BudgetUsage
from actionengine.cli.errors import ExitCode, fail
from actionengine.cli.governed import governed
from actionengine.cli.operator import Found, Listing, Operator
from actionengine.cli.output import write_listing
from actionengine.cli.terminal import age, duration, write_block

budgets = typer.Typer(no_args_is_help=True, help="Limits on executions or spending, and the amounts used.")


@budgets.callback()
def commands() -> None:
    """Show budgets."""


@governed(budgets, "usage", "budgets usage --of ai:bot --tenant acme --engine app:engine")
@governed(budgets, "list", "budgets list --of ai:bot --tenant acme --engine app:engine", hidden=True)
def usage(
    operator: Operator,
    of: Annotated[str | None, typer.Option(help="The acting actor, as ai:bot; by default yourself.")] = None,
    principal: Annotated[str | None, typer.Option(help="The actor for whom it acts, as human:carla.")] = None,
) -> None:
    """Show the budgets that limit an actor, in one tenant or in all. They are declared in the host's engine."""
    if not operator.is_hosts_engine:
        fail("budgets are declared in the host's engine: give --engine module:attribute", ExitCode.USAGE)
    asked = {"actor": of, "principal": principal}
    found, code = operator.from_each(lambda tenant: operator.execute(tenant, "budgets.usage", asked))
    items = tuple(Found(each.tenant, item) for each in found for item in each.item.items)
    write_listing(operator, Listing(items, None, code), _write_usage, "no budget limits this actor", "")


def _write_usage(tenant: str, budget: BudgetUsage) -> None:
    ends = "" if budget.resets_at is None else f", the present one ends {age(budget.resets_at)}"
    write_block(
        f"{budget.name}  {budget.used} of {budget.limit} {budget.unit}  {tenant}",
        (f"limits {budget.actions}, each {budget.per}", f"window of {duration(budget.window)}{ends}"),
    )
