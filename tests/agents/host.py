"""A host whose actions are tools: refunds, which may need an approval, and notes."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from returns.result import Failure, Result, Success

from actionengine import (
    ActionContext,
    ActionError,
    Actor,
    ApprovalPolicy,
    Engine,
    Role,
    Sensitive,
    StaticAuthorizer,
    Storage,
    create_action,
    create_engine,
    create_service,
)

CLERK = Actor.ai("bot", ["clerk"])
GUEST = Actor.ai("guest-bot", ["guest"])
MANAGER = Actor.human("mia", ["manager"])
ROLES = {
    "clerk": Role(["payments.refund", "payments.note", "payments.search", "payments.fail"]),
    "guest": Role(["payments.search"]),
    "manager": Role(["*"]),
}


class Line(BaseModel):
    """One line of a refund."""

    sku: str
    count: int = Field(1, ge=1, le=99)


class Refund(BaseModel):
    """A refund."""

    payment_id: str = Field(description="The payment")
    amount: Decimal = Field(gt=0, description="In euros")
    reason: str = "asked for"
    lines: list[Line] = []


class Note(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str = Field(min_length=1, max_length=200)
    pin: Annotated[str, Sensitive()] | None = None


class Search(BaseModel):
    kind: Literal["refund", "note"] = "refund"
    limit: int = Field(10, ge=1, le=1_000_000)


class Found(BaseModel):
    items: list[str]
    next: str | None


class Kept(BaseModel):
    id: str
    pin: Annotated[str, Sensitive()] | None


def refund(data: Refund, ctx: ActionContext) -> Result[dict[str, Any], ActionError]:
    record = ctx.records("refunds").insert({"amount": str(data.amount)})
    return Success({"id": record.id, "amount": str(data.amount)})


def note(data: Note, ctx: ActionContext) -> Result[Kept, ActionError]:
    return Success(Kept(id="note-1", pin=data.pin))


def keys(data: Any, ctx: ActionContext) -> Result[Kept, ActionError]:
    """Return a dictionary where a `Kept` is announced: only its names tell what is secret."""
    return Success({"id": "key-1", "pin": "1234"})  # type: ignore[arg-type]


def search(data: Search, ctx: ActionContext) -> Result[Found, ActionError]:
    return Success(Found(items=[f"{data.kind} {number}" for number in range(data.limit)], next="cursor-7"))


def fail(data: Any, ctx: ActionContext) -> Result[None, ActionError]:
    return Failure(ActionError(data["code"], data.get("message", "refused"), data.get("details")))


PAYMENTS = create_service(
    name="payments",
    description="Payments",
    permissions=["payments.approve"],
    actions=[
        create_action(
            name="refund",
            description="Refund a payment",
            handler=refund,
            validation=Refund,
            permission="payments.refund",
            idempotency="required",
            approval=ApprovalPolicy(when=lambda data, ctx: data.amount > 100, permission="payments.approve"),
        ),
        create_action(
            name="note", description="Write a note", handler=note, validation=Note, permission="payments.note"
        ),
        create_action(
            name="search",
            description="Search in payments",
            handler=search,
            validation=Search,
            permission="payments.search",
            read_only=True,
        ),
        create_action(name="keys", description="List keys", handler=keys, permission="payments.note"),
        create_action(name="fail", description="Fail as asked", handler=fail, permission="payments.fail"),
        create_action(
            name="close", description="Close the books", handler=lambda data: Success(None), permission="books.close"
        ),
    ],
)


def make_host(storage: Storage, **options: Any) -> Engine:
    """Return the engine of the host."""
    return create_engine(services=[PAYMENTS], storage=storage, authorizer=StaticAuthorizer(ROLES), **options)
