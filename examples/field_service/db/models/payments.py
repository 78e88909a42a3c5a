"""Payments, and what may be given back of them."""

from returns.result import Failure, Result

from actionengine import ActionContext, ActionError, ErrorCode
from examples.field_service.db.collection import Collection
from examples.field_service.db.schema import Payment

payments = Collection("payments", Payment, "payment")


def refund(ctx: ActionContext, payment: Payment, amount: int) -> Result[Payment, ActionError]:
    """Give back so many cents of a payment, at most what is left of it."""
    left = payment.amount - payment.refunded
    if amount > left:
        message = f"only {left} of the payment {payment.id} are left to refund, not {amount}"
        return Failure(ActionError(ErrorCode.UNPROCESSABLE, message, {"payment_id": payment.id, "left": left}))
    return payments.update(ctx, payment, refunded=payment.refunded + amount)
