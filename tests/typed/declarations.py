"""Typing examples: what a type checker says of declarations. A line ends with the code of the error that it must give."""

from dataclasses import dataclass

from pydantic import BaseModel, TypeAdapter
from returns.result import Failure, Result, Success

from actionengine import (
    ActionContext,
    ActionError,
    ApprovalPolicy,
    ErrorCode,
    RequestContext,
    create_action,
    create_engine,
    create_service,
)
from actionengine.boundary import Capability, ExecutionRequest


class Refund(BaseModel):
    job_id: str
    amount: float


class Other(BaseModel):
    name: str


@dataclass
class Point:
    x: int


def refund(data: Refund) -> Result[float, ActionError]:
    return Success(data.amount)


def takes_refund_and_context(data: Refund, ctx: ActionContext) -> Result[float, str]:
    return Success(data.amount) if ctx.actor else Failure("nobody")


async def takes_refund_async(data: Refund, ctx: ActionContext) -> Result[float, ActionError]:
    return Success(data.amount)


def takes_any_model(data: BaseModel) -> Result[str, ActionError]:
    return Success(data.model_dump_json())


def takes_other(data: Other) -> Result[str, ActionError]:
    return Success(data.name)


async def takes_other_async(data: Other, ctx: ActionContext) -> Result[str, ActionError]:
    return Success(data.name)


def takes_int(data: int) -> Result[int, ActionError]:
    return Success(data)


def takes_numbers(data: list[int]) -> Result[int, ActionError]:
    return Success(sum(data))


def takes_text_or_number(data: int | str) -> Result[str, ActionError]:
    return Success(str(data))


def takes_point(data: Point) -> Result[int, ActionError]:
    return Success(data.x)


def takes_three(data: Refund, ctx: ActionContext, more: int) -> Result[int, ActionError]:
    return Success(more)


def returns_bare(data: Refund) -> float:
    return data.amount


# What fits

create_action(name="a", description="", handler=refund, validation=Refund)
create_action(name="a", description="", handler=takes_refund_and_context, validation=Refund)
create_action(name="a", description="", handler=takes_refund_async, validation=Refund)
create_action(name="a", description="", handler=takes_any_model, validation=Refund)
create_action(name="a", description="", handler=takes_int, validation=int)
create_action(name="a", description="", handler=takes_numbers, validation=list[int])
create_action(name="a", description="", handler=takes_text_or_number, validation=TypeAdapter[int | str](int | str))
create_action(name="a", description="", handler=takes_point, validation=Point)
create_action(name="a", description="", handler=lambda data: Success(data.amount), validation=Refund)
create_action(name="a", description="", handler=takes_other)
create_action(
    name="a",
    description="",
    handler=refund,
    validation=Refund,
    access_control=["csr"],
    allowed_actors=["human", "ai"],
    approval=ApprovalPolicy(when=lambda data, ctx: data.amount > 1000, permission="payments.approve"),
    idempotency="required",
    timeout=2.5,
)
ExecutionRequest(action="run", input={"argv": ("ls", "-l")}, capabilities={"fs:read", Capability.CMD_RUN})
ActionError("conflict", "taken", {"slot": 9})
ActionError(ErrorCode.CONFLICT, "taken")
status: int = ActionError("conflict", "taken").code.http_status

# Typed calls

refunds = create_action(name="a", description="", handler=refund, validation=Refund)
async_refunds = create_action(name="b", description="", handler=takes_refund_async)
engine = create_engine(services=[create_service(name="s", description="", actions=[refunds, async_refunds])])
request = RequestContext(tenant=None)
paid: Result[float, ActionError] = engine.run(refunds, Refund(job_id="j", amount=1.0), request)


async def pay() -> Result[float, ActionError]:
    return await engine.run_async(async_refunds, Refund(job_id="j", amount=1.0), request)


# What does not

create_action(name="a", description="", handler=takes_other, validation=Refund)  # E: arg-type
create_action(name="a", description="", handler=takes_other_async, validation=Refund)  # E: arg-type
create_action(name="a", description="", handler=takes_int, validation=Refund)  # E: arg-type
create_action(name="a", description="", handler=takes_numbers, validation=list[str])  # E: arg-type
create_action(name="a", description="", handler=takes_int, validation=TypeAdapter[str](str))  # E: arg-type
create_action(name="a", description="", handler=takes_three, validation=Refund)  # E: arg-type
create_action(name="a", description="", handler=returns_bare, validation=Refund)  # E: arg-type
create_action(name="a", description="", handler=refund, validation=Refund, allowed_actors=["robot"])  # E: list-item
create_action(name="a", description="", handler=refund, validation=Refund, idempotency="always")  # E: call-overload
create_action(name="a", description="", handler=refund, validation=Refund, permissions="x")  # E: call-overload
create_action(description="", handler=refund, validation=Refund)  # E: call-overload
create_service(name="s", description="", actions=[refund])  # E: list-item
ExecutionRequest(action="run", capabilities=[1])  # E: list-item
ActionError("conflic", "taken")  # E: arg-type
engine.run(refunds, Other(name="x"), request)  # E: misc
engine.run(async_refunds, 1, request)  # E: misc
wrong: Result[str, ActionError] = engine.run(refunds, Refund(job_id="j", amount=1.0), request)  # E: arg-type
