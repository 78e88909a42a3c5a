"""All services of the business, declared in one place."""

from actionengine import create_services
from actionengine.workflows import workflow_services
from examples.field_service.change_control import change_control
from examples.field_service.services.agent.assess_risk import assess_risk_action
from examples.field_service.services.customers.create import create_customer_action
from examples.field_service.services.customers.get import get_customer_action
from examples.field_service.services.customers.list import list_customers_action
from examples.field_service.services.events.watch import watch_events_action
from examples.field_service.services.invoices.draft import draft_invoice_action
from examples.field_service.services.invoices.escalate import escalate_invoice_action
from examples.field_service.services.invoices.issue import issue_invoice_action
from examples.field_service.services.invoices.list import list_invoices_action
from examples.field_service.services.invoices.mark_overdue import mark_overdue_action
from examples.field_service.services.invoices.pay import pay_invoice_action
from examples.field_service.services.jobs.add_note import add_note_action
from examples.field_service.services.jobs.board import board_action
from examples.field_service.services.jobs.check_day import check_day_action
from examples.field_service.services.jobs.complete import complete_job_action
from examples.field_service.services.jobs.complete_and_capture import complete_and_capture_action
from examples.field_service.services.jobs.create import create_job_action
from examples.field_service.services.jobs.get import get_job_action
from examples.field_service.services.jobs.list import list_jobs_action
from examples.field_service.services.jobs.notes import list_notes_action
from examples.field_service.services.jobs.schedule import schedule_job_action
from examples.field_service.services.jobs.set_details import set_details_action
from examples.field_service.services.payments.capture import capture_action
from examples.field_service.services.payments.list import list_payments_action
from examples.field_service.services.payments.refund import refund_action

own_services = create_services(
    [
        {
            "name": "customers",
            "description": "Who the work is done for",
            "actions": [create_customer_action, get_customer_action, list_customers_action],
        },
        {
            "name": "jobs",
            "description": "The work",
            "actions": [
                create_job_action,
                get_job_action,
                list_jobs_action,
                schedule_job_action,
                check_day_action,
                complete_job_action,
                complete_and_capture_action,
                add_note_action,
                list_notes_action,
                set_details_action,
                board_action,
            ],
        },
        {
            "name": "payments",
            "description": "The money",
            "actions": [capture_action, refund_action, list_payments_action],
        },
        {
            "name": "invoices",
            "description": "What is still to be paid",
            "actions": [
                draft_invoice_action,
                list_invoices_action,
                issue_invoice_action,
                mark_overdue_action,
                escalate_invoice_action,
                pay_invoice_action,
            ],
        },
        {
            "name": "agent",
            "description": "What an AI is asked",
            "actions": [assess_risk_action],
        },
        {
            "name": "events",
            "description": "What happens, as it happens",
            "actions": [watch_events_action],
        },
    ]
)

services = (*own_services, *change_control, *workflow_services())
