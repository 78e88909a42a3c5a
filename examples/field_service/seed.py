"""The first data of a tenant: roles and their actors, a record type and a workflow.

The host writes it as a system actor.
"""

from dataclasses import replace
from typing import Any

from returns.result import Failure

from actionengine import Actor, Engine, RequestContext, Storage, Tenant
from examples.field_service.change_control import JOB, PROJECT
from examples.field_service.escalation import ESCALATION, KEY

ROLES: dict[str, list[str]] = {
    "csr": [
        "changes.author",
        "changes.read",
        "customers.*",
        "invoices.issue",
        "invoices.mark_overdue",
        "invoices.pay",
        "invoices.read",
        "jobs.create",
        "jobs.detail",
        "jobs.note",
        "jobs.read",
        "jobs.schedule",
        "payments.capture",
        "payments.read",
        "payments.refund",
        "workflows.complete",
        "workflows.read",
    ],
    "technician": ["jobs.read", "jobs.complete", "jobs.detail", "jobs.note"],
    "manager": [
        "action_log.read",
        "changes.*",
        "customers.*",
        "events.watch",
        "invoices.*",
        "jobs.*",
        "payments.*",
        "relay.*",
        "roles.*",
        "workflows.*",
    ],
    "billing": ["invoices.draft"],
    "escalation": ["agent.assess_risk", "invoices.escalate"],
}

PEOPLE = {
    "carla": ("human", "csr"),
    "tom": ("human", "technician"),
    "maria": ("human", "manager"),
    "max": ("human", "manager"),
    "helper-bot": ("ai", "csr"),
    "nightly": ("workflow", "manager"),
    "billing": ("workflow", "billing"),
    KEY: ("workflow", "escalation"),
}

SEEDED = ("roles.", "projects.", "record_types.", "workflows.define", "workflows.activate", "triggers.")
"""The prefixes of the event types of this story."""


def seed_tenant(engine: Engine, storage: Storage, slug: str, name: str) -> Tenant:
    """Create a tenant with the business's roles and people."""
    tenant = storage.create_tenant(slug=slug, name=name)
    context = _context(tenant)

    def execute(action: str, payload: dict[str, Any]) -> None:
        engine.execute_action("roles", action, payload, context).unwrap()

    for role, permissions in ROLES.items():
        execute("define", {"name": role, "allow": [{"permission": permission} for permission in permissions]})
    for person, (actor_type, role) in PEOPLE.items():
        execute("assign", {"actor_type": actor_type, "actor_id": person, "role": role})
    return tenant


def seed_record_types(engine: Engine, tenant: Tenant) -> None:
    """Give a tenant its project and the record type of its jobs, if they are missing."""
    context = _context(tenant)

    def execute(service: str, action: str, payload: dict[str, Any], key: str | None = None) -> Any:
        return engine.execute_action(service, action, payload, replace(context, idempotency_key=key)).unwrap()

    projects = {project.name: project for project in execute("projects", "list", {})}
    # Hosts that start at the same time send the same key: one creates the project, and all get it.
    project = projects.get(PROJECT["name"]) or execute("projects", "create", PROJECT, key="seed")
    types = {type.key: type for type in execute("record_types", "list", {"project_id": project.id})}
    job = types.get(JOB["key"]) or execute("record_types", "create", {"project_id": project.id, **JOB}, key="seed")
    if job.status == "draft":
        execute("record_types", "activate", {"project_id": project.id, "key": job.key})


def seed_workflows(engine: Engine, tenant: Tenant) -> None:
    """Give a tenant the escalation of overdue invoices, if it is missing. The tenant may change it later."""
    context = _context(tenant)

    def execute(action: str, payload: dict[str, Any]) -> Any:
        return engine.execute_action("workflows", action, payload, replace(context, idempotency_key=f"seed/{action}"))

    if isinstance(execute("get_definition", {"key": KEY}), Failure):
        name = "Escalation of overdue invoices"
        execute("define", {"key": KEY, "name": name, "definition": ESCALATION}).unwrap()
        execute("activate", {"key": KEY, "version": 1}).unwrap()


def _context(tenant: Tenant) -> RequestContext:
    return RequestContext(tenant=tenant, actor=Actor.system("seed"), source="start-up", reason="a new tenant")
