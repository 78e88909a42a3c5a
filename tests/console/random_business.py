"""Random services, and an actor with random rights: on everything, on one thing, and denied."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from returns.result import Result, Success

from actionengine import ActionContext, Actor, ApprovalPolicy, Service, always, create_action, create_service
from actionengine.context import ActorType
from tests.console.business import SYSTEM, Business

PERMISSIONS = (
    *("action_log.read", "approvals.read", "budgets.read", "relay.read", "relay.redrive", "relay.skip"),
    *("workflows.read", "workflows.manage", "changes.read", "changes.author", "changes.approve", "changes.merge"),
    *("payments.approve_refund", "invoices.escalate", "random.p0", "random.p1", "random.p2"),
)
TYPES = ("human", "integration", "ai", "workflow")


def random_services(random: Random) -> list[Service]:
    """Return three services, whose actions have random rights, actor types and approvals."""
    return [
        create_service(
            name=f"random{number}", description="", actions=[_random_action(random, f"a{each}") for each in range(4)]
        )
        for number in range(3)
    ]


def _random_action(random: Random, name: str) -> Any:
    people: tuple[ActorType, ...] = ("human", "system")
    machines: tuple[ActorType, ...] = ("ai", "integration", "system")
    asks = ApprovalPolicy(
        when=random.choice([always, lambda data, ctx: True]),
        permission=f"random.p{random.randrange(3)}",
        binds=random.choice(["payload", "effects"]),
    )
    return create_action(
        name=name,
        description="",
        handler=_keep,
        permission=random.choice([None, f"random.p{random.randrange(3)}"]),
        allowed_actors=random.choice([None, people, machines]),
        approval=random.choice([None, asks]),
        resource=random.choice([None, lambda data: f"thing/{data['number']}"]),
    )


def _keep(data: dict[str, Any], ctx: ActionContext) -> Result[Any, Any]:
    return Success(ctx.records("things").insert(data).id)


def random_actor(random: Random) -> Actor:
    """Return an actor, which may act for another one."""
    make = {"human": Actor.human, "integration": Actor.integration, "ai": Actor.ai, "workflow": Actor.workflow}
    principal = random.choice([None, None, Actor.human("carla"), Actor.human("maria")])
    return make[random.choice(TYPES)]("random", on_behalf_of=principal)


def give_random_role(business: Business, random: Random, actor: Actor, resources: Sequence[str]) -> None:
    """Give an actor a role of random rules. Some are about one thing only."""

    def rules(most: int) -> list[dict[str, str]]:
        chosen = random.sample(PERMISSIONS, random.randrange(most))
        limited = {permission: random.choice([None, None, random.choice(resources)]) for permission in chosen}
        return [
            {"permission": permission} | ({"resource": resource} if resource is not None else {})
            for permission, resource in limited.items()
        ]

    name = f"role of {actor.id}"
    business.do("roles.define", {"name": name, "allow": rules(len(PERMISSIONS)), "deny": rules(3)}, SYSTEM)
    business.do("roles.assign", {"actor_type": actor.type, "actor_id": actor.id, "role": name}, SYSTEM)


def ask_at_random(business: Business, services: Sequence[Service], by: Actor) -> None:
    """Execute all actions of services; some of them wait for an approval."""
    for service in services:
        for number, action in enumerate(service.actions):
            business.ask(f"{service.name}.{action.name}", {"number": number}, by)
