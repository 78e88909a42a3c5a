"""The example business with a day's work in it: each kind of thing that the console shows, in each state."""

from __future__ import annotations

from typing import Any, cast
from uuid import uuid4

from returns.result import Failure, Success

from actionengine import (
    Actor,
    CallbackPublisher,
    Engine,
    Event,
    PublishError,
    Relay,
    RequestContext,
    Storage,
    Tenant,
)
from actionengine.concurrency.run_sync import run_sync
from actionengine.durable.client import DurableClient
from actionengine.workflows.runtime.run_executor import RunExecutor
from actionengine.workflows.runtime.scheduler import Scheduler
from tests.harness import expect
from tests.workflows.harness import RecordingClient

CARLA, TOM, MARIA, MAX = (Actor.human(name) for name in ("carla", "tom", "maria", "max"))
BOT = Actor.ai("helper-bot", on_behalf_of=CARLA)
SYSTEM = Actor.system("seed")

OPERATOR = "olga"
"""A person with the role of operators: reads everything, and looks after runs and deliveries."""
OPERATOR_PERMISSIONS = [
    "action_log.read",
    "budgets.read",
    "changes.read",
    "payments.approve_refund",
    "relay.*",
    "workflows.read",
    "workflows.manage",
]

ACTORS = {
    "carla": CARLA,
    "tom": TOM,
    "maria": MARIA,
    "max": MAX,
    "bot": BOT,
    "nightly": Actor.workflow("nightly"),
    "olga": Actor.human(OPERATOR),
    "stranger": Actor.human("stranger"),
    "partner": Actor.integration("partner"),
    "system": Actor.system("console"),
}
"""The callers of the console, one of each role and type."""


class Business:
    """A tenant of the example business. `mark` is in each text that a person of it writes."""

    def __init__(self, engine: Engine, tenant: Tenant, mark: str = "") -> None:
        self.engine = engine
        self.tenant = tenant
        self.mark = mark

    def do(self, name: str, payload: Any, by: Actor = CARLA) -> Any:
        """Execute an action, which must succeed, and return its value."""
        return expect(self.ask(name, payload, by))

    def ask(self, name: str, payload: Any, by: Actor = CARLA) -> Any:
        """Execute an action with a key of its own, and return its value, or its error."""
        service, action = name.split(".")
        context = RequestContext(
            self.tenant,
            by,
            reason=f"the customer has called {self.mark}".strip(),
            idempotency_key=str(uuid4()),
            request_id=f"req-{uuid4().hex[:8]}",
        )
        result = self.engine.execute_action(service, action, payload, context)
        return result.unwrap() if isinstance(result, Success) else cast("Failure[Any]", result).failure()

    def seed(self) -> None:
        """Do a day's work."""
        self._give_role()
        self._fail()
        self._ask()
        self._change_records()
        self._run_workflows()

    def _give_role(self) -> None:
        allow = [{"permission": permission} for permission in OPERATOR_PERMISSIONS]
        self.do("roles.define", {"name": "operator", "allow": allow}, SYSTEM)
        self.do("roles.assign", {"actor_type": "human", "actor_id": OPERATOR, "role": "operator"}, SYSTEM)

    def _sell(self) -> str:
        """Do a job, and capture its payment; return the payment's id."""
        customer = self.do("customers.create", {"name": f"Ada {self.mark}", "email": "ada@example.org"})
        job = self.do("jobs.create", {"customer_id": customer.id, "title": f"Mend the boiler {self.mark}"})
        self.do("jobs.schedule", {"job_id": job.id, "day": "2031-03-03"})
        self.do("jobs.complete", {"job_id": job.id}, TOM)
        capture = {"job_id": job.id, "amount": 2_000_00, "card_number": "4242555566667777"}
        return str(self.do("payments.capture", capture).id)

    def _fail(self) -> None:
        """Be refused for an input that is not valid, and for a right that is missing."""
        self.ask("customers.create", {"name": f"Ada {self.mark}{'!' * 100_000}", "email": self.mark})
        self.ask("payments.refund", {"payment_id": "none", "amount": 100}, TOM)

    def _ask(self) -> None:
        """Ask for refunds that need an approval: three wait, and one is decided in each way."""
        ids = []
        for number, by in enumerate((CARLA, CARLA, CARLA, BOT, MAX, CARLA)):
            error = self.ask("payments.refund", {"payment_id": self._sell(), "amount": 1_100_00 + number}, by)
            ids.append(error.details["approval_id"])
        comment = f"they are right {self.mark}"
        self.do("approvals.approve", {"approval_id": ids[0], "comment": comment}, MARIA)
        self.do("approvals.reject", {"approval_id": ids[1], "comment": comment}, MARIA)
        self.do("approvals.cancel", {"approval_id": ids[2], "comment": comment})

    def _change_records(self) -> None:
        """Draft a change and bring it into each status."""
        project = self.do("projects.list", {}, MARIA)[0].id
        ways: list[list[str]] = [
            [],
            ["Implementing"],
            ["Validating"],
            ["Validating", "Ready"],
            ["Validating", "ValidationFailed"],
            ["Validating", "Ready", "Merged"],
        ]
        for number, way in enumerate(ways):
            about = {"project_id": project, "title": f"Keep the colour {number} {self.mark}"}
            change = self.do("changes.create", {**about, "description": f"people ask {self.mark}"}).id
            target = {"type": "record_type", "selector": {"record_type_key": "job"}}
            self.do("changes.add_target", {"change_id": change, **target})
            add = {"record_type": "job", "field": f"colour_{number}", "definition": {"type": "string"}}
            self.do("changes.add_patch_op", {"change_id": change, "op_type": "add_field", "payload": add})
            if number == 0:
                wrong = {"record_type": "job", "field": "no_such_field"}
                self.do("changes.add_patch_op", {"change_id": change, "op_type": "remove_field", "payload": wrong})
            for status in way:
                self.do("changes.transition", {"change_id": change, "status": status}, MARIA)

    def _run_workflows(self) -> None:
        """Have a run that waits for each thing, one that has ended in each way, and one that has not begun."""
        fails = {"type": "action", "name": "refund", "action": "payments.refund", "input": {"payment_id": "none"}}
        tells = {"type": "notification", "name": "tell", "to": "maria", "message": f"see {self.mark}"}
        asks = {"type": "approval", "name": "ask", "permission": "invoices.escalate", "message": f"go on {self.mark}?"}
        gives = {"type": "assignment", "name": "call", "assignee": "carla", "title": f"call {self.mark}", "wait": True}
        for key, steps in {
            "refund_late": [tells, {**fails, "input": {"payment_id": "none", "amount": 5}}],
            "ask_first": [tells, asks],
            "call_first": [gives],
            "tell_only": [tells],
        }.items():
            self.do("workflows.define", {"key": key, "definition": {"steps": steps}}, SYSTEM)
            self.do("workflows.activate", {"key": key}, SYSTEM)
        for key in ("refund_late", "ask_first", "call_first", "tell_only", "tell_only", "ask_first"):
            self._run(key)
        started = self.do("workflows.start", {"key": "ask_first", "input": {}}, MARIA)
        self.do("workflows.cancel", {"run_id": self._run("call_first"), "reason": f"enough {self.mark}"}, MARIA)
        assert started.status == "running"

    def _run(self, key: str) -> str:
        run = str(self.do("workflows.start", {"key": key, "input": {}}, MARIA).id)
        scheduler = Scheduler(cast("DurableClient", RecordingClient()))
        executor = RunExecutor(self.engine, "sync", scheduler)
        run_sync(executor.execute_run(self.tenant, key, run))
        return run


def deliver_badly(storage: Storage) -> None:
    """Deliver the events of all tenants to a publisher that refuses refunds: they become dead letters."""

    def publish(event: Event) -> None:
        if event.type == "payments.refunded":
            raise PublishError("no such topic")

    Relay(storage, CallbackPublisher(publish), max_attempts=1).drain()
