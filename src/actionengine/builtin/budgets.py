"""The built-in service `budgets`: the budgets of actors, and the amounts that they have used."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated

from pydantic import Field, PlainSerializer, WithJsonSchema
from returns.result import Result, Success

from actionengine.actions import Service, create_action, create_service
from actionengine.context import ACTOR_TYPES, MAX_ACTOR_ID_LENGTH, Actor
from actionengine.errors import ActionError, ErrorCode
from actionengine.pipeline.amounts import to_decimal, to_number, to_trillionths
from actionengine.pipeline.budgets import BudgetRule, Per
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.plan import sync_and_async
from actionengine.schemas.models import Input, Output
from actionengine.storage.counters import Counter

READ_PERMISSION = "budgets.read"

_ActorName = Annotated[str | None, Field(max_length=MAX_ACTOR_ID_LENGTH + 20)]

Amount = Annotated[
    Decimal,
    PlainSerializer(lambda amount: to_number(to_trillionths(amount)), when_used="json"),
    WithJsonSchema({"type": "number"}, mode="serialization"),
]
"""An exact amount, which JSON carries as a number."""


class UsageQuery(Input):
    """The actor whose budgets are meant. Without a field, the caller's own."""

    actor: _ActorName = Field(
        default=None,
        description="The acting actor, as type:id, such as 'ai:bot'. For another than yourself you need the permission "
        f"{READ_PERMISSION}.",
    )
    principal: _ActorName = Field(
        default=None,
        description="The actor for whom it acts, as type:id, such as 'human:carla'. Without it, your own principal, or "
        "the other actor itself.",
    )


class BudgetUsage(Output):
    """One budget, and how much of it is used."""

    name: str = Field(description="The name of the budget, as in the error rate_limited.")
    actions: str = Field(description="The actions that it limits: one, 'service.*' or '*'.")
    per: Per = Field(description="The owner of the amount: the acting actor, its principal, or the whole tenant.")
    unit: str = Field(description="The counted thing: executions, tokens, cost_usd, or a field of the input.")
    limit: Amount = Field(description="The amount that fits into one window.")
    used: Amount = Field(description="The amount used in the present window.")
    remaining: Amount = Field(description="The amount that is left in the present window.")
    window: float = Field(description="The length of a window, in seconds.")
    resets_at: datetime | None = Field(
        description="The end of the present window, in UTC. Without one, the next amount begins a window."
    )


class BudgetUsages(Output):
    """The budgets that limit an actor, in the order of their declaration."""

    items: tuple[BudgetUsage, ...] = Field(description="A budget each; none where no budget limits the actor.")


@sync_and_async
async def _usage(data: UsageQuery, ctx: InternalContext) -> Result[BudgetUsages, ActionError]:
    caller = ctx.actor
    assert caller is not None
    actor = caller if data.actor is None else _actor("actor", data.actor)
    principal = caller.principal if data.actor is None else actor
    if data.principal is not None:
        principal = _actor("principal", data.principal)
    if (str(actor), str(principal)) not in ((str(caller), str(caller.principal)), (str(caller), str(caller))):
        await ctx.authorize_async(READ_PERMISSION)
    rules = [rule for rule in ctx.budgets if rule.applies_to(actor)]
    scopes = [rule.scope(principal if rule.per == "principal" else actor) for rule in rules]
    counters = await ctx.unit_of_work.read_counters(
        [(rule.name, scope) for rule, scope in zip(rules, scopes, strict=True)]
    )
    now = await ctx.unit_of_work.now()
    items = tuple(_usage_of(rule, counter, now) for rule, counter in zip(rules, counters, strict=True))
    return Success(BudgetUsages(items=items))


def _usage_of(rule: BudgetRule, counter: Counter | None, now: datetime) -> BudgetUsage:
    used = counter.used_at(now) if counter is not None else 0
    return BudgetUsage(
        name=rule.name,
        actions=rule.actions,
        per=rule.per,
        unit=rule.unit,
        limit=to_decimal(rule.limit),
        used=to_decimal(used),
        remaining=to_decimal(max(0, rule.limit - used)),
        window=rule.window.total_seconds(),
        resets_at=counter.expires_at if counter is not None and counter.expires_at > now else None,
    )


def _actor(field: str, given: str) -> Actor:
    type, _, id = given.partition(":")
    if type in ACTOR_TYPES and id:
        return Actor(type, id)  # type: ignore[arg-type]
    reason = f"it is an actor as type:id, such as 'ai:bot', not {given!r}"
    raise ActionError(
        ErrorCode.INVALID_INPUT,
        f"budgets.usage: {field}: {reason}",
        {"fields": [{"path": field, "reason": reason, "type": "actor"}]},
    )


budgets: Service = create_service(
    name="budgets",
    description="Limits on executions or spending in a window of time, and the amounts used",
    actions=[
        create_action(
            name="usage",
            description="Your budgets: how much is used, how much is left, and when each begins anew",
            handler=_usage,
            validation=UsageQuery,
            read_only=True,
        ),
    ],
    permissions=[READ_PERMISSION],
)
