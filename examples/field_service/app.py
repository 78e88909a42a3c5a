"""The engine that all hosts serve, and the storage behind it."""

import os
from typing import TYPE_CHECKING, TypeAlias

from actionengine import Engine, Projection, Service, SQLiteStorage, Storage, create_engine
from examples.field_service.board import create_board
from examples.field_service.budgets import BUDGETS
from examples.field_service.db.tables import create_tables
from examples.field_service.model import Model, local_model
from examples.field_service.seed import seed_record_types, seed_tenant, seed_workflows
from examples.field_service.services.config import services

if TYPE_CHECKING:
    from actionengine import PostgresStorage

TENANTS = {"acme": "Acme Plumbing", "globex": "Globex Heating"}

HostStorage: TypeAlias = "SQLiteStorage | PostgresStorage"
"""The storages of the business: its tables need a SQL database."""


def open_storage(url: str | None = None) -> HostStorage:
    """Open the storage at `url`, else at `DATABASE_URL`, else in `field_service.db` in the working folder.

    A SQLite file gets the business's tables here. In a PostgreSQL database its owner has made them.
    """
    url = url or os.environ.get("DATABASE_URL") or "field_service.db"
    if _is_postgres(url):
        from actionengine import PostgresStorage  # imported here, so that SQLite needs no driver for PostgreSQL

        return PostgresStorage(url)
    storage = SQLiteStorage(url)
    storage.check()
    create_tables(url if "://" in url else f"sqlite:///{url}")
    return storage


def workflows_url() -> str:
    """Return the URL of the durable engine's tables: `WORKFLOWS_URL`, else the same PostgreSQL database, else a SQLite
    file next to the other one."""
    if url := os.environ.get("WORKFLOWS_URL"):
        return url
    url = os.environ.get("DATABASE_URL") or "field_service.db"
    return url if _is_postgres(url) else f"{url.removeprefix('sqlite:///')}.workflows"


def _is_postgres(url: str) -> bool:
    return url.startswith(("postgresql:", "postgresql+", "postgres:"))


def create_business(storage: Storage, *more: Service, model: Model = local_model) -> Engine:
    """Create the business on a storage, and its tenants with their first data where they are missing."""
    views: dict[str, Projection] = {}  # the view needs the engine, whose actions read it
    resources = {"views": views, "model": model}
    engine = create_engine(services=[*services, *more], storage=storage, resources=resources, budgets=BUDGETS)
    views["board"] = create_board(engine)
    existing = {tenant.slug: tenant for tenant in storage.list_tenants()}
    for slug, name in TENANTS.items():
        tenant = existing.get(slug) or seed_tenant(engine, storage, slug, name)
        seed_record_types(engine, tenant)
        seed_workflows(engine, tenant)
    return engine
