"""The engine that both hosts serve, and the storage behind it."""

import os
from typing import TYPE_CHECKING, TypeAlias

from actionengine import Engine, Projection, Service, SQLiteStorage, Storage, create_engine
from examples.field_service.board import create_board
from examples.field_service.db.tables import create_tables
from examples.field_service.seed import seed_record_types, seed_tenant
from examples.field_service.services.config import services

if TYPE_CHECKING:
    from actionengine import PostgresStorage

TENANTS = {"acme": "Acme Plumbing", "globex": "Globex Heating"}

HostStorage: TypeAlias = "SQLiteStorage | PostgresStorage"
"""What the business keeps its state in: its tables need a SQL database."""


def open_storage(url: str | None = None) -> HostStorage:
    """The storage at `url`, else at `DATABASE_URL`, else in `field_service.db` in the working folder.

    A SQLite file gets the business's tables here. A PostgreSQL database has them from its owner.
    """
    url = url or os.environ.get("DATABASE_URL") or "field_service.db"
    if url.startswith(("postgresql:", "postgresql+", "postgres:")):
        from actionengine import PostgresStorage  # here, so that a SQLite file needs no driver for PostgreSQL

        return PostgresStorage(url)
    storage = SQLiteStorage(url)
    storage.check()
    create_tables(url if "://" in url else f"sqlite:///{url}")
    return storage


def create_business(storage: Storage, *more: Service) -> Engine:
    """The business on a storage, with its tenants and their record types made where they are missing."""
    views: dict[str, Projection] = {}  # a view is made with the engine, whose actions read it
    engine = create_engine(services=[*services, *more], storage=storage, resources={"views": views})
    views["board"] = create_board(engine)
    existing = {tenant.slug: tenant for tenant in storage.list_tenants()}
    for slug, name in TENANTS.items():
        seed_record_types(engine, existing.get(slug) or seed_tenant(engine, storage, slug, name))
    return engine
