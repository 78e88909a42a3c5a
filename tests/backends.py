"""The storages of the tests, opened by their kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from examples.embedded_postgres import Database

from actionengine import InMemoryStorage, PostgresStorage, SQLiteStorage
from actionengine.storage.sql.storage import SQLStorage
from actionengine.testing import AsyncBackend, SyncBackend

AnyStorage = InMemoryStorage | SQLStorage

BACKENDS = ("memory", "sqlite", "postgres")
SQLITE_FILE = "storage.db"
"""The name of the SQLite database in the folder of `open_storage`."""

TENANT_TABLES = (
    "ae_documents",
    "ae_document_keys",
    "ae_idempotency_keys",
    "ae_budget_counters",
    "ae_action_log",
    "ae_action_log_subjects",
    "ae_action_log_principals",
    "ae_action_log_words",
    "ae_events",
    "ae_outbox",
)
"""The tables in which each action of a tenant can have rows."""

MODES: dict[str, type[SyncBackend | AsyncBackend]] = {"sync": SyncBackend, "async": AsyncBackend}


def open_storage(kind: str, folder: Path, database: Database | None) -> AnyStorage:
    """Open a storage: in memory, in `folder`, or on `database` as the role that row-level security
    restricts."""
    if kind == "memory":
        return InMemoryStorage()
    if kind == "sqlite":
        return SQLiteStorage(folder / SQLITE_FILE, synchronous="NORMAL", busy_timeout=60.0)
    assert database is not None
    return PostgresStorage(database.app_url)


def requested_database(request: pytest.FixtureRequest, kind: str, name: str = "postgres_database") -> Database | None:
    """Return the database of a fixture if the kind needs one: no server starts for the others."""
    return request.getfixturevalue(name) if kind == "postgres" else None
