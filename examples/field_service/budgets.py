"""Limits on the refunds of agents, by amount and by number, for each person that they act for."""

from datetime import timedelta

from actionengine import Budget

BUDGETS = [
    Budget(
        "refunds of agents",
        actions="payments.refund",
        per="principal",
        unit="input.amount",
        limit=6_000_00,
        window=timedelta(days=1),
        actor_types={"ai"},
    ),
    Budget(
        "refund calls of agents",
        actions="payments.refund",
        per="principal",
        limit=60,
        window=timedelta(hours=1),
        actor_types={"ai"},
    ),
]
"""Amounts are in cents. An agent without a person behind it is its own principal."""
