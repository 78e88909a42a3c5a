"""The catalogue: each table of the library has row-level security, and no role has more rights than it needs."""

from __future__ import annotations

import re

import pytest
from examples.embedded_postgres import APP_ROLE

from tests.isolation.harness import GUARDED, HOST_TABLE, TENANT_TABLES, SQLHarness

PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")

APP_MAY = {
    "ae_action_log": {"SELECT", "INSERT"},
    "ae_action_log_subjects": {"SELECT", "INSERT"},
    "ae_action_log_principals": {"SELECT", "INSERT"},
    "ae_action_log_words": {"SELECT", "INSERT"},
    "ae_budget_counters": {"SELECT", "INSERT", "UPDATE"},
    "ae_change_targets": {"SELECT", "INSERT"},
    "ae_changes": {"SELECT", "INSERT"},
    "ae_document_keys": {"SELECT", "INSERT", "DELETE"},
    "ae_documents": {"SELECT", "INSERT", "UPDATE", "DELETE"},
    "ae_events": {"SELECT", "INSERT"},
    "ae_idempotency_keys": {"SELECT", "INSERT", "UPDATE"},
    "ae_maintenance": set(),
    "ae_migrations": set(),
    "ae_outbox": {"SELECT"},
    "ae_outbox_returns": set(),
    "ae_patch_ops": {"SELECT", "INSERT", "DELETE"},
    "ae_projects": {"SELECT", "INSERT"},
    "ae_record_types": {"SELECT", "INSERT"},
    "ae_relays": set(),
    "ae_schema": {"SELECT"},
    "ae_signing_keys": set(),
    "ae_snapshots": {"SELECT", "INSERT"},
    "ae_tenants": set(),
}

APP_MAY_TO_COLUMNS = {
    ("ae_changes", "UPDATE"): {"status", "op_count", "updated_at", "merged_at"},
    ("ae_outbox", "INSERT"): {"tenant_id", "position", "lane", "queue"},
    ("ae_patch_ops", "UPDATE"): {"previous_snapshot", "executed_at", "applied_version"},
    ("ae_record_types", "UPDATE"): {
        "name",
        "description",
        "schema",
        "version",
        "base_version",
        "bytes_since_base",
        "status",
        "changed_by",
        "updated_at",
    },
}

OPERATOR_CALLS = {
    "ae_create_tenant(uuid,text,text,text)",
    "ae_delete_tenant(text,text)",
    "ae_find_tenant(text,text)",
    "ae_find_tenant_by_id(uuid,text)",
    "ae_list_tenants(text,text,integer)",
    "ae_purge_keys(integer,text,timestamp with time zone)",
}
RELAY_CALLS = {
    "ae_dead_letters(uuid,integer,text,text)",
    "ae_outbox_next(text,bigint[],text)",
    "ae_outbox_settle(uuid[],bigint[],json,json,text,text)",
    "ae_outbox_take(integer,integer,text,bigint[],text)",
    "ae_redrive(uuid[],text,text)",
    "ae_relay_heartbeat(json,text)",
    "ae_relay_status(text,text,bigint[])",
    "ae_backlog(integer,text)",
    "ae_skip(uuid[],text,text,text)",
}
TENANT_CALLS = {
    "ae_tenant_redrive(uuid[],text)",
    "ae_tenant_return(text)",
    "ae_tenant_skip(uuid[],text,text)",
}
LOOK_UPS = {"ae_is_deleted(uuid)"}
VERIFIERS = {"ae_open(text,text,text,text)", "ae_signed(text,text)", "ae_tenant()"}

TABLES = """
SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity, pg_get_userbyid(c.relowner)
FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname LIKE 'ae\\_%'
ORDER BY c.relname
"""


def test_every_table_has_row_level_security_enabled_and_forced(harness: SQLHarness) -> None:
    tables = harness.query(TABLES)

    assert [name for name, *_ in tables] == sorted(APP_MAY)
    assert [name for name, is_enabled, is_forced, _ in tables if not (is_enabled and is_forced)] == []


def test_no_table_belongs_to_the_app_role(harness: SQLHarness) -> None:
    assert {owner for *_, owner in harness.query(TABLES)} == {"owner"}


def test_the_app_role_may_do_what_the_storage_needs_and_no_more(harness: SQLHarness) -> None:
    may = {
        name: {
            privilege
            for privilege in PRIVILEGES
            if harness.query("SELECT has_table_privilege(%s, %s, %s)", APP_ROLE, f"public.{name}", privilege)
            == [(True,)]
        }
        for name, *_ in harness.query(TABLES)
    }

    assert may == APP_MAY


def test_everybody_else_may_do_nothing(harness: SQLHarness) -> None:
    acl = """
    SELECT c.relname, acl.grantee::regrole::text, acl.privilege_type
    FROM pg_class c, aclexplode(c.relacl) acl
    WHERE c.relnamespace = 'public'::regnamespace AND c.relname LIKE 'ae\\_%'
        AND acl.grantee NOT IN (c.relowner, 'app'::regrole)
    """

    assert harness.query(acl) == []


def test_some_grants_are_for_the_columns_that_are_needed(harness: SQLHarness) -> None:
    columns = """
    SELECT a.attrelid::regclass::text, acl.privilege_type, a.attname
    FROM pg_attribute a, aclexplode(a.attacl) acl
    WHERE a.attrelid::regclass::text LIKE 'ae\\_%%' AND acl.grantee = %s::regrole
    """
    may: dict[tuple[str, str], set[str]] = {}
    for table, privilege, column in harness.query(columns, APP_ROLE):
        may.setdefault((table, privilege), set()).add(column)

    assert may == APP_MAY_TO_COLUMNS
    assert harness.query("SELECT count(*) FROM pg_attribute a, aclexplode(a.attacl) WHERE attrelid >= 16384") == [
        (sum(map(len, APP_MAY_TO_COLUMNS.values())),)
    ]


def test_the_app_role_reads_the_sequence_and_cannot_move_it(harness: SQLHarness) -> None:
    may = [
        privilege
        for privilege in ("SELECT", "USAGE", "UPDATE")
        if harness.query("SELECT has_sequence_privilege(%s, 'public.ae_event_position', %s)", APP_ROLE, privilege)
        == [(True,)]
    ]

    assert may == ["SELECT"]


@pytest.mark.parametrize("table", GUARDED)
def test_policies_bind_reads_to_tenants_and_writes_to_actions(harness: SQLHarness, table: str) -> None:
    policies = harness.query(
        "SELECT cmd, coalesce(qual, with_check) FROM pg_policies WHERE tablename = %s AND roles = '{public}'", table
    )

    assert {command: re.sub(r"[() ]|SELECT|AS.*|public\.", "", rule) for command, rule in policies} == {
        "SELECT": "tenant_id=ae_tenant",
        "INSERT": "tenant_id=ae_writing_tenant",
        "UPDATE": "tenant_id=ae_writing_tenant",
        "DELETE": "tenant_id=ae_writing_tenant",
    }


def test_policies_for_single_roles_are_the_owners(harness: SQLHarness) -> None:
    policies = harness.query(
        "SELECT tablename, policyname, roles, qual FROM pg_policies WHERE roles <> '{public}' ORDER BY tablename"
    )

    assert {"".join(roles) for *_, roles, _ in policies} == {"owner"}
    assert {table for table, name, *_ in policies if name == "ae_owner"} & set(TENANT_TABLES) == {
        "ae_budget_counters",
        "ae_document_keys",
        "ae_events",
        "ae_idempotency_keys",
        "ae_outbox",
    }
    in_maintenance = {
        table: re.sub(r"[() ]|SELECT|AS.*", "", rule) for table, name, _, rule in policies if name == "ae_maintenance"
    }
    assert in_maintenance == dict.fromkeys(TENANT_TABLES, "ae_is_maintenance")


def test_functions_of_the_owner_pin_their_search_path(harness: SQLHarness) -> None:
    functions = harness.query(
        "SELECT p.oid::regprocedure::text, p.proconfig, pg_get_userbyid(p.proowner) FROM pg_proc p"
        " WHERE p.pronamespace = 'public'::regnamespace AND p.prosecdef"
    )

    expected = OPERATOR_CALLS | RELAY_CALLS | LOOK_UPS | TENANT_CALLS | (VERIFIERS if harness.is_signed else set())
    assert {name for name, _, _ in functions} == expected
    assert {settings[0] for _, settings, _ in functions} == {"search_path=pg_catalog, pg_temp"}
    assert {owner for *_, owner in functions} == {"owner"}


def test_operators_calls_are_for_the_app_role_and_nobody_else(harness: SQLHarness) -> None:
    for name in OPERATOR_CALLS | RELAY_CALLS:
        grantees = harness.query(
            "SELECT acl.grantee::regrole::text FROM pg_proc p, aclexplode(p.proacl) acl"
            " WHERE p.oid = %s::regprocedure ORDER BY 1",
            f"public.{name}",
        )
        assert grantees == [("app",), ("owner",)]


def test_no_function_of_ours_is_leakproof(harness: SQLHarness) -> None:
    leakproof = "SELECT proname FROM pg_proc WHERE proname LIKE 'ae\\_%' AND proleakproof"

    assert harness.query(leakproof) == []


@pytest.mark.parametrize(
    "table",
    [
        "ae_action_log",
        "ae_action_log_subjects",
        "ae_action_log_principals",
        "ae_action_log_words",
        "ae_events",
        "ae_change_targets",
        "ae_snapshots",
    ],
)
def test_what_is_append_only_has_a_trigger_that_says_so(harness: SQLHarness, table: str) -> None:
    ((enabled, definition),) = harness.query(
        "SELECT tgenabled, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = %s::regclass"
        " AND tgname = 'ae_append_only'",
        table,
    )

    assert enabled in (b"O", "O")
    assert "BEFORE" in definition
    assert {"DELETE", "UPDATE", "TRUNCATE"} <= set(definition.replace(" OR", "").split())


def test_a_protected_table_of_the_host_has_the_same_rules(harness: SQLHarness) -> None:
    ((is_enabled, is_forced),) = harness.query(
        "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE relname = %s", HOST_TABLE
    )
    triggers = harness.query("SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass", HOST_TABLE)

    assert (is_enabled, is_forced) == (True, True)
    assert triggers == [("ae_require_action",)]


def test_the_app_role_is_nobody_special(harness: SQLHarness) -> None:
    ((*powers,),) = harness.query(
        "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls FROM pg_roles WHERE rolname = %s",
        APP_ROLE,
    )
    ((may_make_schemas, may_make_tables),) = harness.query(
        "SELECT has_database_privilege(%s, current_database(), 'CREATE'), has_schema_privilege(%s, 'public', 'CREATE')",
        APP_ROLE,
        APP_ROLE,
    )

    assert powers == [False] * 5
    assert (may_make_schemas, may_make_tables) == (False, False)
