"""The directory of tenants, and idempotency keys."""

from __future__ import annotations

from itertools import count

from actionengine.concurrency.run_sync import run_sync
from benchmarks.growth.backends import Backend, id_at, time_of
from benchmarks.growth.operation import Operation

_NUMBERS = count()


def fill(backend: Backend) -> None:
    """Many tenants, as many that were deleted, and many keys that have not expired."""
    backend.clone("ae_tenants", {"name": "Old", "created_at": time_of(0)}, _tenant)
    gone = {"name": "Gone", "created_at": time_of(0), "deleted_at": time_of(1)}
    backend.clone(
        "ae_tenants", gone, lambda number: {"tenant_id": id_at(backend.size + number), "slug": f"old-{number:06}"}
    )
    backend.do("notes", "put", idempotency_key="directory")
    key = backend.sample("ae_idempotency_keys", key="directory")
    backend.clone("ae_idempotency_keys", key, lambda number: {"key": f"old-{number}", "expires_at": time_of(10**9)})


def _tenant(number: int) -> dict[str, str]:
    return {"tenant_id": id_at(number), "slug": f"tenant-{number:06}"}


def _create(backend: Backend) -> object:
    slug = f"new-{next(_NUMBERS)}"
    backend.storage.create_tenant(slug=slug, name="New")
    return backend.storage.delete_tenant(slug=slug)


OPERATIONS = [
    Operation(
        "resolve_tenant", lambda backend: backend.engine.resolve_tenant("other").unwrap(), ("storage.find_tenant",)
    ),
    Operation(
        "find_tenant_by_id",
        lambda backend: run_sync(backend.storage.find_tenant_by_id(backend.other_tenant.id, "sync")),
        ("storage.find_tenant_by_id",),
    ),
    Operation("create_tenant, delete_tenant", _create, ("storage.create_tenant", "storage.delete_tenant")),
    Operation(
        "list_tenants, a page",
        lambda backend: backend.storage.list_tenants(after="n", limit=20),
        ("storage.list_tenants",),
    ),
    Operation(
        "purge_expired_keys",
        lambda backend: backend.storage.purge_expired_keys(limit=20),
        ("storage.purge_expired_keys",),
    ),
]
