"""Every statement of the library uses the index that is named here, without statistics: on a fresh SQLite file, and on
PostgreSQL with custom plans and with generic ones. The statements are those of every public operation."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from benchmarks.growth import filled, operations, postgres_backends
from benchmarks.growth.backends import Backend, PostgresBackend, SQLiteBackend, sqlite_backend_of_size
from benchmarks.postgres import Bench

from tests.storage.captured import POSTGRES_NAMES, Captured, capturing, postgres_indexes, sqlite_indexes, sqlite_names

ROWS = 1100
"""Rows of each kind: on a table of a few rows, PostgreSQL uses no index."""

KEYS = "ae_idempotency_keys(tenant_id, action, key)"
DOCUMENT = "ae_documents(tenant_id, collection, id)"
DOCUMENT_KEY = "ae_document_keys(tenant_id, key, id)"
LOG = "ae_action_log(tenant_id, id)"
LOG_WORD = "ae_action_log_words(tenant_id, word, log_id)"
EVENT = "ae_events(tenant_id, position)"
EVENT_TYPE = "ae_events(tenant_id, type, position)"
OPS_OF_CHANGE = "ae_patch_ops(tenant_id, change_id, position)"
OPEN_OPS_OF_FIELD = "ae_patch_ops_g1_field"
EXECUTED_OPS = "ae_patch_ops_executed"
TYPE_OF_PROJECT = "ae_record_types(tenant_id, project_id, key)"
TYPE_BY_KEY = "ae_record_types(tenant_id, key, status, updated_at, id)"
OUTBOX = "ae_outbox_pending"
HELD = "ae_outbox_held"
DEAD = "ae_outbox_dead"

INDEXES: dict[str, set[str]] = {
    "BACKLOG": {"ae_document_keys_open", "ae_document_keys_schedules"},
    "COUNT_EVENTS": {EVENT},
    "COUNT_EVENTS_OF_TYPES": {EVENT_TYPE},
    "DEAD_LETTERS": {DEAD},
    "DELETE_TENANT": {"ae_tenants(slug)"},
    "DOCUMENTS.delete": {DOCUMENT},
    "DOCUMENTS.get": {DOCUMENT},
    "DOCUMENTS.remove_keys": {"ae_document_keys, its key"},
    "DOCUMENTS.update": {DOCUMENT},
    "COUNT_LOG by action": {"ae_action_log(tenant_id, action, id)"},
    "COUNT_LOG by actor_id": {"ae_action_log(tenant_id, actor_id, id)"},
    "COUNT_LOG by actor_type": {"ae_action_log(tenant_id, actor_type, id)"},
    "COUNT_LOG by outcome": {"ae_action_log(tenant_id, outcome, id)"},
    "COUNT_LOG by parent_id": {"ae_action_log_parent"},
    "COUNT_LOG by principal": {"ae_action_log_principals, its key"},
    "COUNT_LOG by request_id": {"ae_action_log_request"},
    "COUNT_LOG by subject": {"ae_action_log_subjects, its key"},
    "COUNT_LOG by word": {"ae_action_log_words, its key"},
    "DOCUMENTS.get_all": {DOCUMENT},
    "FIND_EMITTED by action_id": {"ae_events(tenant_id, action_id, position)", EVENT},
    "FIND_EMITTED by id": {"ae_events(tenant_id, id)"},
    "FIND_LINKED by approval_id": {"ae_action_log_approval", LOG},
    "FIND_LINKED by parent_id": {"ae_action_log_parent", LOG},
    "FIND_LINKED by request_id": {"ae_action_log_request", LOG},
    "FIND_LINKED by subject": {"ae_action_log_subjects, its key"},
    "FIND_LOG by None": {LOG},
    "FIND_LOG by approval_id": {"ae_action_log_approval"},
    "FIND_LOG by idempotency_key": {"ae_action_log_key"},
    "FIND_LOG by parent_id": {"ae_action_log_parent"},
    "FIND_LOG by request_id": {"ae_action_log_request"},
    "FIND_LOG by action": {"ae_action_log(tenant_id, action, id)"},
    "FIND_LOG by actor_id": {"ae_action_log(tenant_id, actor_id, id)"},
    "FIND_LOG by actor_type": {"ae_action_log(tenant_id, actor_type, id)"},
    "FIND_LOG by outcome": {"ae_action_log(tenant_id, outcome, id)"},
    "FIND_LOG_OF_PRINCIPAL": {LOG, "ae_action_log_principals, its key"},
    "FIND_LOG_OF_SUBJECT": {LOG, "ae_action_log_subjects, its key"},
    "FIND_LOG_OF_WORD": {LOG, "ae_action_log_words, its key"},
    "LOG_WITH_SUBJECT": {"ae_action_log_subjects, its key"},
    "LOG_WITH_WORD": {"ae_action_log_words, its key"},
    "FIND_TENANT": {"ae_tenants(slug)"},
    "FIND_TENANT_BY_ID": {"ae_tenants, its key"},
    "DELETE_STALE_RELAYS": {"all of ae_relays"},
    "DELETE_DELIVERED": {"ae_outbox, its key"},
    "OUTBOX_STATUS": {
        OUTBOX,
        "ae_outbox_skipped",
        "ae_outbox_behind",
        "ae_outbox_unskipped",
        "ae_outbox_waiting",
    },
    "HOLD": {OUTBOX, HELD, "ae_outbox, its key"},
    "HAS_LEASE": {"ae_relay_lease(queue)"},
    "IS_BEHIND": {OUTBOX, HELD},
    "IS_DELETED": {"ae_tenants, its key"},
    "LAST_POSITION": {EVENT},
    "LIST_DOCUMENTS": {DOCUMENT},
    "LIST_DOCUMENTS after": {DOCUMENT},
    "LIST_DOCUMENTS descending": {DOCUMENT},
    "LIST_DOCUMENTS descending after": {DOCUMENT},
    "LIST_TENANTS": {"ae_tenants_open"},
    "PURGE_COUNTERS": {"ae_budget_counters(expires_at)", "ae_budget_counters, its key"},
    "PURGE_KEYS": {"ae_idempotency_keys(expires_at)", KEYS},
    "READ_EVENTS": {EVENT},
    "READ_EVENTS_OF_TYPES": {EVENT_TYPE},
    "READ_KEY": {KEYS},
    "READ_LEASE": {"ae_relay_lease(queue)"},
    "NEXT_DUE": {"ae_outbox_waiting"},
    "RECORD_FAILURE": {"ae_outbox, its key"},
    "READ_LOG": {LOG},
    "READ_LOG_UPWARDS": {LOG},
    # The number of relays in one day.
    "READ_RELAYS": {"all of ae_relays"},
    "REDRIVE": {DEAD},
    "READ_OUTBOX": {OUTBOX, HELD},
    "RELEASE": {HELD, "ae_outbox, its key"},
    "RETURN": {DEAD, HELD, "ae_outbox, its key"},
    "SKIP": {DEAD},
    "TENANT_DEAD": {DEAD},
    "TENANT_DEAD_LETTERS": {"ae_outbox_skipped", "ae_outbox_unskipped"},
    "TENANT_OUTBOX": {
        "ae_outbox, its key",
        "ae_outbox_skipped",
        "ae_outbox_tenant_behind",
        "ae_outbox_tenant_waiting",
        "ae_outbox_unskipped",
    },
    "RELEASE_LEASE": {"ae_relay_lease(queue)"},
    "WRITE_KEY": {KEYS},
    "delete ae_patch_ops by id": {"ae_patch_ops(tenant_id, id)"},
    "find ae_change_targets by change_id": {"ae_change_targets(tenant_id, change_id, id)"},
    "find ae_change_targets by change_id, a limit": {"ae_change_targets(tenant_id, change_id, id)"},
    "find ae_change_targets by change_id, a page": {"ae_change_targets(tenant_id, change_id, id)"},
    "find ae_changes by id": {"ae_changes(tenant_id, id)"},
    "find ae_changes by project_id, a limit": {"ae_changes(tenant_id, project_id, id)"},
    **{
        f"find ae_changes by project_id, status {status}, a limit": {f"ae_changes_{name}"}
        for status, name in {
            "Draft": "draft",
            "Implementing": "implementing",
            "WorkspaceRunning": "workspace_running",
            "Validating": "validating",
            "ValidationFailed": "validation_failed",
            "Ready": "ready",
            "Merged": "merged",
        }.items()
    },
    "find ae_changes by status Ready, a limit": {"ae_changes(tenant_id, status, id)"},
    "find ae_changes, a limit": {"ae_changes(tenant_id, id)"},
    "find ae_document_keys by key, collection, id, a page": {DOCUMENT_KEY, DOCUMENT},
    "find ae_documents by collection, id, a page": {DOCUMENT_KEY, DOCUMENT},
    "find ae_patch_ops by change_id, a page": {OPS_OF_CHANGE},
    "find ae_patch_ops by change_id, applied_version": {OPS_OF_CHANGE},
    "find ae_patch_ops by change_id, executed_at": {OPEN_OPS_OF_FIELD},
    "find ae_patch_ops by change_id, record_type_key, field, executed_at": {OPEN_OPS_OF_FIELD},
    "find ae_patch_ops by change_id, record_type_key, gives, executed_at": {"ae_patch_ops_g1_gives"},
    "find ae_patch_ops by id": {"ae_patch_ops(tenant_id, id)"},
    "find ae_patch_ops by project_id, record_type_key, applied_version": {EXECUTED_OPS},
    "find ae_patch_ops by project_id, record_type_key, applied_version of several": {EXECUTED_OPS},
    "find ae_patch_ops by project_id, record_type_key, applied_version, a limit": {EXECUTED_OPS},
    "find ae_projects by id": {"ae_projects(tenant_id, id)"},
    "find ae_projects by name": {"ae_projects(tenant_id, name)"},
    "find ae_projects, a limit": {"ae_projects(tenant_id, id)"},
    "find ae_record_types by key, a limit": {TYPE_BY_KEY},
    "find ae_record_types by name": {"ae_record_types(tenant_id, name)"},
    "find ae_record_types by project_id, a page": {TYPE_OF_PROJECT},
    "find ae_record_types by project_id, status active, a page": {"ae_record_types_active_of_project"},
    "find ae_record_types by project_id, status draft, a page": {"ae_record_types_draft"},
    "find ae_record_types by project_id, status retired, a page": {"ae_record_types_retired"},
    "find ae_record_types by project_id, base_type": {"ae_record_types_base_type"},
    "find ae_record_types by project_id, key": {TYPE_OF_PROJECT},
    "find ae_snapshots by change_id": {"ae_snapshots(tenant_id, change_id, record_type_key)"},
    "find ae_snapshots by change_id, a page": {"ae_snapshots(tenant_id, change_id, record_type_key)"},
    "find ae_snapshots by project_id, record_type_key, version": {
        "ae_snapshots(tenant_id, project_id, record_type_key, version)"
    },
    "find ae_snapshots by project_id, record_type_key, version, a page": {
        "ae_snapshots(tenant_id, project_id, record_type_key, version)"
    },
    "insert ae_idempotency_keys by action, key": {KEYS},
    "insert ae_idempotency_keys by types, action, key": {KEYS},
    "lock ae_changes by id": {"ae_changes(tenant_id, id)"},
    "lock ae_record_types by key, a limit": {TYPE_BY_KEY},
    "lock ae_record_types by project_id, key": {TYPE_OF_PROJECT},
    "update ae_changes by id, a limit": {"ae_changes(tenant_id, id)"},
    "update ae_patch_ops by id, a limit": {"ae_patch_ops(tenant_id, id)"},
    "update ae_record_types by id, a limit": {"ae_record_types(tenant_id, id)"},
}
"""The indexes of each statement that reads the library's tables, as `table(columns)`; by name for an index of only some
rows."""

ON_POSTGRESQL: dict[str, set[str]] = {
    "DOCUMENTS.remove_keys": {"ae_document_keys(tenant_id, collection, id, key)"},
    "FIND_LOG_OF_PRINCIPAL": {LOG, "ae_action_log_principals(tenant_id, principal, log_id)"},
    "FIND_LOG_OF_SUBJECT": {LOG, "ae_action_log_subjects(tenant_id, subject, log_id)"},
    "FIND_LOG_OF_WORD": {LOG, LOG_WORD},
    "FIND_EMITTED by action_id": {"ae_events(tenant_id, action_id, position)"},
    "FIND_LINKED by approval_id": {"ae_action_log_approval"},
    "FIND_LINKED by parent_id": {"ae_action_log_parent"},
    "FIND_LINKED by request_id": {"ae_action_log_request"},
    "FIND_LINKED by subject": {"ae_action_log_subjects(tenant_id, subject, log_id)"},
    "COUNT_LOG by principal": {"ae_action_log_principals(tenant_id, principal, log_id)"},
    "COUNT_LOG by subject": {"ae_action_log_subjects(tenant_id, subject, log_id)"},
    "COUNT_LOG by word": {LOG_WORD},
    "LOG_WITH_SUBJECT": {"ae_action_log_subjects(tenant_id, subject, log_id)"},
    "LOG_WITH_WORD": {LOG_WORD},
    "READ_EVENTS_OF_TYPES": {EVENT, EVENT_TYPE},
}
"""The indexes of statements that differ on PostgreSQL."""

OTHERS = {
    "ae_budget_counters(tenant_id, budget, scope)": "budgets: tests/storage/test_indexes.py",
    "ae_change_targets(tenant_id, id)": "a target is unique by its id",
    "ae_maintenance(id)": "an operator's calls",
    "ae_migrations(version_num)": "Alembic's own",
    "ae_outbox_returns(queue)": "relays",
    "ae_outbox(tenant_id, queue, position)": "relays",
    "ae_outbox_unreleased": "relays",
    "ae_record_types_d3_active": "one type of a key is active",
    "ae_relays(id)": "relays",
    "ae_signing_keys(id)": "an operator's calls",
    "ae_tenants(tenant_id)": "an operator's calls",
}
"""Indexes that no operation of a tenant reads, and their purposes."""

ON_SQLITE_ALONE = {"ae_relay_lease(queue)"}
ON_POSTGRESQL_ALONE = {"ae_maintenance(id)", "ae_outbox_unreleased", "ae_outbox_returns(queue)", "ae_signing_keys(id)"}

LARGER = "UPDATE pg_class SET reltuples = reltuples * 100 WHERE relkind IN ('r', 'i') AND relname LIKE 'ae\\_%'"
"""Settings under which the planner expects the rows of a host in use: with few rows, it reads all of a tenant's."""


def sent(backend: Backend) -> Captured:
    """Return the statements of all operations."""
    with capturing() as found:
        filled(backend)
        for operation in operations():
            operation.call(backend)
    return found


@pytest.fixture(scope="module")
def file() -> Iterator[tuple[SQLiteBackend, Captured]]:
    with sqlite_backend_of_size(ROWS) as backend:
        yield backend, sent(backend)


@pytest.fixture(scope="module")
def database(postgres_server: str) -> Iterator[tuple[PostgresBackend, Captured]]:
    with postgres_backends([ROWS], Bench("", "", postgres_server)) as (backend,):
        statements = sent(backend)
        backend.superuser.execute(LARGER)
        yield backend, statements


def test_each_statement_on_sqlite_uses_the_named_index(file: tuple[SQLiteBackend, Captured]) -> None:
    backend, statements = file
    with closing(sqlite3.connect(backend.path)) as connection:
        connection.create_function("ae_writing_tenant", 0, lambda: None)
        used = {name: sqlite_indexes(connection, *statement) for name, statement in statements.items()}

    assert {name: found for name, found in used.items() if found} == {
        name: INDEXES.get(name) for name, found in used.items() if found
    }


@pytest.mark.parametrize("plans", ["custom", "generic"])
def test_each_statement_on_postgresql_uses_the_named_index(
    database: tuple[PostgresBackend, Captured], plans: str
) -> None:
    backend, statements = database
    names: dict[str, str] = dict(backend.superuser.execute(POSTGRES_NAMES).fetchall())
    used = {}
    with psycopg.connect(backend.app_url, autocommit=True) as connection:
        settings = {"app.tenant_id": str(backend.tenant.id), "app.action_id": "x", "enable_seqscan": "off"}
        for name, value in settings.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        for name, (statement, parameters) in statements.items():
            if plans == "custom":
                plan = connection.execute(f"EXPLAIN {statement}".encode(), parameters)
            else:
                first, *rest = statement.split("%s")
                marked = first + "".join(f"${number}{part}" for number, part in enumerate(rest, 1))
                plan = connection.execute(f"EXPLAIN (GENERIC_PLAN) {marked}".encode())
            used[name] = postgres_indexes("\n".join(line for (line,) in plan), names)

    named = INDEXES | ON_POSTGRESQL
    assert {name: found for name, found in used.items() if found} == {
        name: named.get(name) for name, found in used.items() if found
    }


def test_each_index_has_a_statement_or_a_named_need(
    file: tuple[SQLiteBackend, Captured], database: tuple[PostgresBackend, Captured]
) -> None:
    named = {index for indexes in (*INDEXES.values(), *ON_POSTGRESQL.values()) for index in indexes} | OTHERS.keys()
    named = {name for name in named if not name.endswith(", its key") and not name.startswith("all of ")}
    with closing(sqlite3.connect(file[0].path)) as connection:
        on_sqlite = set(sqlite_names(connection).values())
    on_postgresql = {name for _, name in database[0].superuser.execute(POSTGRES_NAMES).fetchall()}

    assert on_sqlite == named - ON_POSTGRESQL_ALONE
    assert on_postgresql == named - ON_SQLITE_ALONE
