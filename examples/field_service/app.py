"""The engine that both hosts serve."""

from actionengine import Engine, InMemoryStorage, Storage, create_engine
from examples.field_service.seed import seed_tenant
from examples.field_service.services.config import services

TENANTS = {"acme": "Acme Plumbing", "globex": "Globex Heating"}


def create_business(storage: Storage | None = None) -> Engine:
    """The business on a storage (in memory by default), with its tenants made where they are missing."""
    storage = InMemoryStorage() if storage is None else storage
    engine = create_engine(services=services, storage=storage)
    existing = {tenant.slug for tenant in storage.list_tenants()}
    for slug, name in TENANTS.items():
        if slug not in existing:
            seed_tenant(engine, storage, slug, name)
    return engine
