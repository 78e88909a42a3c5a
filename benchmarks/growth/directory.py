"""The directory of tenants, and idempotency keys."""

from __future__ import annotations

from itertools import count

from actionengine.concurrency.run_sync import drive
from benchmarks.growth.operation import Operation
from benchmarks.growth.worlds import World, id_at, time_of

_NUMBERS = count()


def fill(world: World) -> None:
    """Many tenants, as many that were deleted, and many keys that have not expired."""
    world.clone("ae_tenants", {"name": "Old", "created_at": time_of(0)}, _tenant)
    gone = {"name": "Gone", "created_at": time_of(0), "deleted_at": time_of(1)}
    world.clone(
        "ae_tenants", gone, lambda number: {"tenant_id": id_at(world.size + number), "slug": f"old-{number:06}"}
    )
    world.do("notes", "put", idempotency_key="directory")
    key = world.sample("ae_idempotency_keys", key="directory")
    world.clone("ae_idempotency_keys", key, lambda number: {"key": f"old-{number}", "expires_at": time_of(10**9)})


def _tenant(number: int) -> dict[str, str]:
    return {"tenant_id": id_at(number), "slug": f"tenant-{number:06}"}


def _create(world: World) -> object:
    slug = f"new-{next(_NUMBERS)}"
    world.storage.create_tenant(slug=slug, name="New")
    return world.storage.delete_tenant(slug=slug)


OPERATIONS = [
    Operation("resolve_tenant", lambda world: world.engine.resolve_tenant("other").unwrap(), ("storage.find_tenant",)),
    Operation(
        "find_tenant_by_id",
        lambda world: drive(world.storage.find_tenant_by_id(world.other_tenant.id, "sync")),
        ("storage.find_tenant_by_id",),
    ),
    Operation("create_tenant, delete_tenant", _create, ("storage.create_tenant", "storage.delete_tenant")),
    Operation(
        "list_tenants, a page",
        lambda world: world.storage.list_tenants(after="n", limit=20),
        ("storage.list_tenants",),
    ),
    Operation(
        "purge_expired_keys",
        lambda world: world.storage.purge_expired_keys(limit=20),
        ("storage.purge_expired_keys",),
    ),
]
