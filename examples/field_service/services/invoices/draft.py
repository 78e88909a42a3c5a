"""Draft the invoice for a completed job. The event `jobs.completed` starts this action."""

from returns.functions import tap
from returns.result import Result

from actionengine import ActionContext, ActionError, create_action
from examples.field_service.db.models.customers import find_customer
from examples.field_service.db.models.invoices import add_invoice
from examples.field_service.db.models.jobs import find_job
from examples.field_service.db.schema import Invoice
from examples.field_service.db.tables import JobRow
from examples.field_service.events import invoice_drafted
from examples.field_service.services.jobs.reference import JobReference, job_resource


def _handler(data: JobReference, ctx: ActionContext) -> Result[Invoice, ActionError]:
    def draft(job: JobRow) -> Result[Invoice, ActionError]:
        return find_customer(ctx, job.customer_id).bind(lambda customer: add_invoice(ctx, job, customer))

    drafted = find_job(ctx, data.job_id).bind(draft)
    return drafted.map(tap(lambda invoice: ctx.emit(invoice_drafted, invoice, subject=f"invoices/{invoice.id}")))


draft_invoice_action = create_action(
    name="draft",
    title="Draft an invoice",
    description="Draft the invoice for a job",
    handler=_handler,
    validation=JobReference,
    permission="invoices.draft",
    emits=[invoice_drafted],
    resource=job_resource,
    destructive=False,
)
