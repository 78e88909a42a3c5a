"""What a new tenant starts with: roles, and who has them. The host itself does it, as a system actor."""

from typing import Any

from actionengine import Actor, Engine, RequestContext, Storage, Tenant

ROLES: dict[str, list[str]] = {
    "csr": [
        "customers.*",
        "invoices.read",
        "jobs.create",
        "jobs.note",
        "jobs.read",
        "jobs.schedule",
        "payments.capture",
        "payments.read",
        "payments.refund",
    ],
    "technician": ["jobs.read", "jobs.complete", "jobs.note"],
    "manager": ["customers.*", "jobs.*", "payments.*", "invoices.*", "events.watch", "action_log.read", "roles.*"],
    "billing": ["invoices.draft"],
}

PEOPLE = {
    "carla": ("human", "csr"),
    "tom": ("human", "technician"),
    "maria": ("human", "manager"),
    "helper-bot": ("ai", "csr"),
    "nightly": ("workflow", "manager"),
    "billing": ("workflow", "billing"),
}


def seed_tenant(engine: Engine, storage: Storage, slug: str, name: str) -> Tenant:
    """Make a tenant with the business's roles and people."""
    tenant = storage.create_tenant(slug=slug, name=name)
    context = RequestContext(tenant=tenant, actor=Actor.system("seed"), source="start-up", reason="a new tenant")

    def execute(action: str, payload: dict[str, Any]) -> None:
        engine.execute_action("roles", action, payload, context).unwrap()

    for role, permissions in ROLES.items():
        execute("define", {"name": role, "allow": [{"permission": permission} for permission in permissions]})
    for person, (actor_type, role) in PEOPLE.items():
        execute("assign", {"actor_type": actor_type, "actor_id": person, "role": role})
    return tenant
