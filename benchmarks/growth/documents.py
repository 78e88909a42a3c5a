"""Documents: what else is in a collection, and in others, should not matter."""

from __future__ import annotations

from benchmarks.growth.operation import Operation
from benchmarks.growth.worlds import World


def fill(world: World) -> None:
    """A long collection of a tenant, and one of another tenant."""
    world.do("notes", "put", idempotency_key="documents")
    world.do("roles", "define", {"name": "first", "allow": [{"permission": "notes.*"}]})
    row = {**world.sample("ae_documents", collection="ae_roles"), "data": '{"text": "hello"}'}
    for tenant in (world.tenant, world.other_tenant):
        own = {**row, "tenant_id": str(tenant.id)}
        world.clone("ae_documents", {**own, "collection": "notes"}, lambda number: {"id": f"n{number:06}"})
        world.clone("ae_documents", {**own, "collection": "others"}, lambda number: {"id": f"o{number:06}"})


OPERATIONS = [
    Operation("records.insert, update, delete", lambda world: world.do("notes", "put")),
    Operation("records.get", lambda world: world.do("notes", "get", {"id": "n000100"})),
    Operation("records.list, a page", lambda world: world.do("notes", "list")),
]
