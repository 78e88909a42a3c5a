"""The action that the pipeline benchmarks run, with the parts of it that its peers share."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel
from returns.result import Result, Success

from actionengine import (
    ActionContext,
    ActionError,
    Actor,
    Engine,
    InMemoryStorage,
    RequestContext,
    Tenant,
    create_action,
    create_engine,
    create_service,
)

PAYLOAD = {"job": "17", "amount": 50.0}


class Refund(BaseModel):
    job: str
    amount: float


def refund(data: Refund, ctx: ActionContext) -> Result[dict[str, object], ActionError]:
    """The handler of the full pipeline: emits one event."""
    ctx.emit("payments.refunded", {"job": data.job, "amount": data.amount}, subject=f"jobs/{data.job}")
    return Success({"job": data.job, "amount": data.amount})


def quote(data: Refund) -> Result[float, ActionError]:
    """The handler of the bare pipeline."""
    return Success(data.amount)


@dataclass(frozen=True, slots=True)
class Application:
    """An engine on a storage of its own, and somebody who may use it."""

    engine: Engine
    tenant: Tenant
    actor: Actor


def start() -> Application:
    """The application, with the actor's permission held through a role in storage."""
    storage = InMemoryStorage()
    tenant = storage.create_tenant(slug="acme", name="Acme")
    payments = create_service(
        name="payments",
        description="Money",
        actions=[
            create_action(
                name="refund",
                description="Give money back",
                handler=refund,
                validation=Refund,
                permission="payments.refund",
                idempotency="required",
            ),
            create_action(
                name="quote",
                description="What a refund would be",
                handler=quote,
                validation=Refund,
                permission="payments.refund",
                read_only=True,
            ),
        ],
    )
    engine = create_engine(services=[payments], storage=storage)
    operator = RequestContext(tenant=tenant, actor=Actor.system())
    role = {"name": "csr", "allow": [{"permission": "payments.refund"}]}
    engine.execute_action("roles", "define", role, operator).unwrap()
    assignment = {"actor_type": "human", "actor_id": "clara", "role": "csr"}
    engine.execute_action("roles", "assign", assignment, operator).unwrap()
    return Application(engine, tenant, Actor.human("clara"))
