"""The escalation of an overdue invoice: a workflow, as data. Amounts are in cents."""

from typing import Any

KEY = "escalation"

LARGE = 1_000_00
"""The amount in cents from which an invoice is escalated at any risk."""

ACCOUNT_MANAGER = "carla"

ESCALATION: dict[str, Any] = {
    "trigger": {
        "type": "event",
        "event_type": "invoices.overdue",
        "input": {
            "invoice_id": "${input.payload.invoice_id}",
            "customer": "${input.payload.customer}",
            "amount_cents": "${input.payload.amount_cents}",
            "days_overdue": "${input.payload.days_overdue}",
        },
        # The nightly job that looks for late invoices is an actor of this type too.
        "from_workflows": True,
    },
    "input": {
        "fields": [
            {"name": "invoice_id", "type": "string", "required": True},
            {"name": "customer", "type": "string", "required": True},
            {"name": "amount_cents", "type": "number", "required": True},
            {"name": "days_overdue", "type": "number", "required": True},
        ]
    },
    "steps": [
        {
            "name": "assess",
            "description": "A model says how likely it is that the money never comes",
            "type": "action",
            "action": "agent.assess_risk",
            "input": {
                "invoice_id": "${input.invoice_id}",
                "customer": "${input.customer}",
                "amount_cents": "${input.amount_cents}",
                "days_overdue": "${input.days_overdue}",
            },
        },
        {
            "name": "weigh",
            "type": "decision",
            "branches": [
                {
                    "when": {
                        "any": [
                            {"field": "input.amount_cents", "op": "ge", "value": LARGE},
                            {"field": "steps.assess.risk", "op": "eq", "value": "high"},
                        ]
                    },
                    "next": "call",
                }
            ],
            "otherwise": "remind",
        },
        {
            "name": "call",
            "description": "The account manager talks to the customer first",
            "type": "assignment",
            "assignee": ACCOUNT_MANAGER,
            "title": "Call ${input.customer}: ${input.amount_cents} cents, ${input.days_overdue} days late",
            "details": {"invoice_id": "${input.invoice_id}", "risk": "${steps.assess.risk}"},
        },
        {
            "name": "approve",
            "type": "approval",
            "permission": "invoices.escalate",
            "message": "Escalate the invoice of ${input.customer}: ${input.amount_cents} cents, risk "
            "${steps.assess.risk} (${steps.assess.reason})?",
            "on_reject": "stand_down",
        },
        {
            "name": "escalate",
            "type": "action",
            "action": "invoices.escalate",
            "input": {"invoice_id": "${input.invoice_id}"},
            # The invoice was paid in the meantime.
            "on_failure": "stand_down",
        },
        {
            "name": "tell",
            "type": "notification",
            "to": [ACCOUNT_MANAGER, "${steps.approve.approved_by}"],
            "message": "${input.customer} is at dunning level ${steps.escalate.dunning_level} now",
            "next": "end",
        },
        {
            "name": "stand_down",
            "type": "notification",
            "to": ACCOUNT_MANAGER,
            "message": "The invoice of ${input.customer} is not escalated",
            "next": "end",
        },
        {
            "name": "remind",
            "type": "notification",
            "to": ACCOUNT_MANAGER,
            "message": "Send ${input.customer} a friendly reminder",
        },
    ],
}
