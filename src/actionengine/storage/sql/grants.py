"""The rights of the roles of hosts, relays and operators: no more than they need."""

from __future__ import annotations

import re

_GRANTS = """
GRANT USAGE ON SCHEMA public TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON public.ae_documents TO {role};
GRANT SELECT, INSERT, DELETE ON public.ae_document_keys TO {role};
GRANT SELECT, INSERT, UPDATE ON public.ae_idempotency_keys, public.ae_budget_counters TO {role};
GRANT SELECT, INSERT ON public.ae_action_log, public.ae_action_log_subjects, public.ae_action_log_principals,
    public.ae_action_log_words, public.ae_events TO {role};
GRANT SELECT, INSERT (tenant_id, position, lane, queue) ON public.ae_outbox TO {role};
GRANT SELECT, INSERT ON public.ae_projects, public.ae_record_types, public.ae_changes, public.ae_change_targets,
    public.ae_patch_ops, public.ae_snapshots TO {role};
GRANT UPDATE (name, description, schema, version, base_version, bytes_since_base, status, changed_by, updated_at)
    ON public.ae_record_types TO {role};
GRANT UPDATE (status, op_count, updated_at, merged_at) ON public.ae_changes TO {role};
GRANT UPDATE (previous_snapshot, executed_at, applied_version), DELETE ON public.ae_patch_ops TO {role};
GRANT SELECT ON SEQUENCE public.ae_event_position TO {role};
GRANT SELECT ON public.ae_schema TO {role};
GRANT EXECUTE ON FUNCTION public.ae_signed(text, text), public.ae_open(text, text, text, text),
    public.ae_is_deleted(uuid) TO {role};
GRANT EXECUTE ON FUNCTION public.ae_tenant_redrive(uuid[], text), public.ae_tenant_skip(uuid[], text, text),
    public.ae_tenant_return(text) TO {role};
GRANT EXECUTE ON FUNCTION public.ae_find_tenant(text, text), public.ae_find_tenant_by_id(uuid, text),
    public.ae_create_tenant(uuid, text, text, text), public.ae_delete_tenant(text, text),
    public.ae_list_tenants(text, text, integer), public.ae_purge_keys(integer, text, timestamptz) TO {role};
"""

_RELAY_FUNCTIONS = """public.ae_outbox_take(integer, integer, text, bigint[], text),
    public.ae_outbox_settle(uuid[], bigint[], json, json, text, text), public.ae_outbox_next(text, bigint[], text),
    public.ae_relay_heartbeat(json, text), public.ae_relay_status(text, text, bigint[]), public.ae_backlog(integer,
    text), public.ae_dead_letters(uuid, integer, text, text), public.ae_redrive(uuid[], text, text),
    public.ae_skip(uuid[], text, text, text)"""
_RELAY_GRANTS = f"""
GRANT USAGE ON SCHEMA public TO {{role}};
GRANT SELECT ON public.ae_schema TO {{role}};
GRANT EXECUTE ON FUNCTION public.ae_signed(text, text) TO {{role}};
GRANT EXECUTE ON FUNCTION {_RELAY_FUNCTIONS} TO {{role}};
"""
_RELAY_REVOKES = f"REVOKE EXECUTE ON FUNCTION {_RELAY_FUNCTIONS} FROM {{role}};"


def grants(app_role: str | None, relay_role: str | None = None, operator_role: str | None = None) -> list[str]:
    """Return the statements that grant these rights. If relays have a role of their own, the hosts' role loses
    theirs. The operators' role has those of hosts and of relays: row-level security binds it too."""
    script = ""
    if app_role is not None:
        script += (_GRANTS + (_RELAY_REVOKES if relay_role else _RELAY_GRANTS)).format(role=quoted(app_role))
    if relay_role is not None:
        script += _RELAY_GRANTS.format(role=quoted(relay_role))
    if operator_role is not None:
        script += (_GRANTS + _RELAY_GRANTS).format(role=quoted(operator_role))
    return [statement.strip() for statement in script.split(";") if statement.strip()]


def host_rights() -> dict[tuple[str, str], frozenset[str] | None]:
    """Return the rights of a host's role: by table and right, the columns, or None for all of them."""
    rights: dict[tuple[str, str], frozenset[str] | None] = {}
    for statement in _GRANTS.split(";"):
        given, _, tables = statement.partition(" ON ")
        if not tables.startswith("public."):
            continue
        for right, columns in re.findall(r"\b([A-Z]+)\b(?: \(([^)]*)\))?", given.replace("GRANT", "")):
            for table in re.findall(r"public\.(\w+)", tables):
                rights[table, right] = frozenset(re.findall(r"\w+", columns)) or None
    return rights


def quoted(name: str) -> str:
    """Return a name, quoted for SQL."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'
