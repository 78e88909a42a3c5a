"""Fixtures of the tests of change control: each storage in both modes, and a harness on it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from examples.embedded_postgres import Database
from psycopg.rows import dict_row
from sqlalchemy import make_url

from actionengine import InMemoryStorage, Tenant
from actionengine.storage.memory.versions import Document
from actionengine.testing import Backend
from actionengine.testing.backend import make_tenant
from tests.backends import BACKENDS, MODES, SQLITE_FILE, open_storage, requested_database
from tests.changes.harness import Dump, Harness, ReadTables, rows_of
from tests.changes.mergers import Mergers
from tests.crash.hosts import PostgresBackend, SQLDatabase, SQLiteBackend


class SharedBackend(NamedTuple):
    """A backend, a way to read its tables, and the path or URL of its database (None in memory)."""

    backend: Backend
    read_tables: ReadTables
    address: str | None


@pytest.fixture(scope="module", params=[f"{kind}-{mode}" for kind in BACKENDS for mode in MODES])
def shared_backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedBackend]:
    """Each storage in both modes. The tests of a file share it, each with its own tenants."""
    kind, _, mode = request.param.partition("-")
    address: str | None = None
    database = requested_database(request, kind)
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("changes")
        storage = open_storage(kind, folder, database)
        stack.enter_context(storage)
        if isinstance(storage, InMemoryStorage):
            read_tables = _of_memory(storage)
        elif database is None:
            address = str(folder / SQLITE_FILE)
            read_tables = _of_sqlite(folder / SQLITE_FILE)
        else:
            address = database.app_url
            server = make_url(request.getfixturevalue("postgres_server")).set(database=make_url(address).database)
            url = server.render_as_string(hide_password=False)
            superuser = stack.enter_context(psycopg.connect(url, autocommit=True, row_factory=dict_row))
            read_tables = _of_postgres(superuser)
        backend = MODES[mode](storage)
        yield SharedBackend(backend, read_tables, address)
        backend.close()


@pytest.fixture
def harness(shared_backend: SharedBackend) -> Harness:
    """A harness with two new tenants."""
    backend, read_tables, address = shared_backend
    backend.tenant, backend.other_tenant = make_tenant(), make_tenant()
    return Harness(backend, read_tables, address=address)


@pytest.fixture(params=["sqlite", "postgres"])
def sql_database(request: pytest.FixtureRequest, tmp_path: Path) -> SQLDatabase:
    """A database that outlives the processes that use it."""
    if request.param == "sqlite":
        return SQLiteBackend(tmp_path / "changes.db")
    database: Database = request.getfixturevalue("postgres_database")
    return PostgresBackend(database)


@pytest.fixture(scope="module")
def mergers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mergers]:
    """Processes that merge, and can be killed."""
    mergers = Mergers(tmp_path_factory.mktemp("mergers"))
    yield mergers
    mergers.close()


def _of_memory(storage: InMemoryStorage) -> ReadTables:
    def read(tenants: Sequence[Tenant]) -> Dump:
        dump: Dump = {}
        for tenant in tenants:
            data = storage._data.get(tenant.id)
            if data is None:
                continue
            for name, versions in data.collections.items():
                found = {id: version.document for id, version in versions.items() if version.document is not None}
                dump.setdefault(name, {}).update({id: _columns(document) for id, document in found.items()})
            for name, rows in (("ae_action_log", data.log), ("ae_events", data.events)):
                dump.setdefault(name, {}).update({row.id: row._asdict() for row in rows})
            claims = {" ".join(key): {"claim": claim} for key, claim in data.claims.items()}
            dump.setdefault("ae_idempotency_keys", {}).update(claims)
        return dump

    return read


def _columns(document: Any) -> dict[str, Any]:
    if isinstance(document, dict):
        return dict(document)
    return document._asdict() if isinstance(document, Document) else {"value": document}


def _of_sqlite(path: Path) -> ReadTables:
    def read(tenants: Sequence[Tenant]) -> Dump:
        dump: Dump = {}
        with closing(sqlite3.connect(path)) as connection:
            connection.row_factory = sqlite3.Row
            found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE '%tenant_id%'")
            for (table,) in found.fetchall():
                statement = f"SELECT * FROM {table} WHERE tenant_id IN ({', '.join('?' * len(tenants))})"
                rows = connection.execute(statement, [str(tenant.id) for tenant in tenants])
                dump[table] = dict(rows_of(table, dict(row)) for row in rows)
        return dump

    return read


def _of_postgres(connection: psycopg.Connection[dict[str, Any]]) -> ReadTables:
    found = connection.execute(
        "SELECT table_name FROM information_schema.columns WHERE table_schema = 'public' AND column_name = 'tenant_id'"
    )
    tables = [row["table_name"] for row in found]

    def read(tenants: Sequence[Tenant]) -> Dump:
        dump: Dump = {}
        for table in tables:
            statement = f"SELECT * FROM public.{table} WHERE tenant_id = ANY(%s)".encode()
            rows = connection.execute(statement, [[tenant.id for tenant in tenants]])
            dump[table] = dict(rows_of(table, row) for row in rows)
        return dump

    return read
