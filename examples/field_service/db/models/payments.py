"""Payments and refunds."""

from returns.result import Failure, Result

from actionengine import ActionContext, ActionError, ErrorCode
from examples.field_service.db.rows import lock, page, save
from examples.field_service.db.schema import Job, Payment
from examples.field_service.db.tables import PaymentRow


def lock_payment(ctx: ActionContext, id: str) -> Result[PaymentRow, ActionError]:
    return lock(ctx, PaymentRow, id, "payment")


def list_payments(ctx: ActionContext, after: str | None, job_id: str | None) -> list[Payment]:
    return page(ctx, PaymentRow, Payment, after, **({"job_id": job_id} if job_id is not None else {}))


def add_payment(ctx: ActionContext, job: Job, amount: int, card_number: str) -> Result[Payment, ActionError]:
    """Add a payment, with only the last digits of the card."""
    ends_in = card_number[-4:]
    row = PaymentRow(tenant_id=ctx.tenant.id, job_id=job.id, amount=amount, card_ends_in=ends_in)
    return save(ctx, row, Payment)


def refund(ctx: ActionContext, payment: PaymentRow, amount: int) -> Result[Payment, ActionError]:
    """Refund cents of a payment, at most the rest of it."""
    left = payment.amount - payment.refunded
    if amount > left:
        message = f"only {left} of the payment {payment.id} are left to refund, not {amount}"
        return Failure(ActionError(ErrorCode.UNPROCESSABLE, message, {"payment_id": payment.id, "left": left}))
    payment.refunded += amount
    return save(ctx, payment, Payment)
