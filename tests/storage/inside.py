"""A look inside `InMemoryStorage`."""

from __future__ import annotations

from actionengine import InMemoryStorage, Tenant
from actionengine.storage.memory.claims import ClaimHolder
from actionengine.storage.memory.transaction import TenantData
from actionengine.storage.memory.unit_of_work import MemoryUnitOfWork


def data_of(storage: InMemoryStorage, tenant: Tenant) -> TenantData:
    return storage._tenant_data(tenant.id)


def nothing_is_held(data: TenantData) -> bool:
    held = [key for key, entry in data.claims.items() if isinstance(entry, ClaimHolder)]
    assert (data.locks, data.snapshots, held) == ({}, {}, [])
    return True


def unit_of(storage: InMemoryStorage, tenant: Tenant) -> MemoryUnitOfWork:
    return storage.unit_of_work(tenant, "action", "sync")
