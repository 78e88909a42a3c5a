"""Refund a payment. A large refund needs a manager's approval, of exactly what it writes."""

from pydantic import BaseModel, Field
from returns.result import Result

from actionengine import ActionContext, ActionError, ApprovalPolicy, create_action
from examples.field_service.db.models.payments import lock_payment, refund
from examples.field_service.db.schema import Payment
from examples.field_service.events import PaymentRefunded, payment_refunded

LARGE = 1_000_00
"""Cents above which a manager has to agree."""


class Refund(BaseModel):
    """The input; `amount` is in cents."""

    payment_id: str = Field(description="The id of the payment.")
    amount: int = Field(gt=0, description="The amount to pay back, in cents.")


def _handler(data: Refund, ctx: ActionContext) -> Result[Payment, ActionError]:
    refunded = lock_payment(ctx, data.payment_id).bind(lambda payment: refund(ctx, payment, data.amount))
    return refunded.map(lambda payment: _announce(payment, data, ctx))


def _announce(payment: Payment, data: Refund, ctx: ActionContext) -> Payment:
    refunded = PaymentRefunded(payment_id=payment.id, amount=data.amount)
    ctx.emit(payment_refunded, refunded, subject=f"payments/{payment.id}")
    return payment


refund_action = create_action(
    name="refund",
    title="Refund a payment",
    description="Refund part of a payment",
    handler=_handler,
    validation=Refund,
    permission="payments.refund",
    idempotency="required",
    emits=[payment_refunded],
    approval=ApprovalPolicy(
        when=lambda data, ctx: data.amount > LARGE, permission="payments.approve_refund", binds="effects"
    ),
    resource=lambda data: f"payments/{data.payment_id}",
    destructive=True,
    examples=[{"payment_id": "01890a5d-ac96-774b-bcce-b302099a8057", "amount": 12_50}],
)
