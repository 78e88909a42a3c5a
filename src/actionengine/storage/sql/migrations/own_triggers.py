"""The triggers of SQLite that let an action write rows of its tenant only, one for each table and verb."""

from __future__ import annotations

from collections.abc import Iterator

OF_TENANTS = {
    "ae_documents": ("INSERT", "UPDATE", "DELETE"),
    "ae_document_keys": ("INSERT", "UPDATE", "DELETE"),
    "ae_idempotency_keys": ("INSERT", "UPDATE"),
    "ae_budget_counters": ("INSERT", "UPDATE"),
    "ae_action_log": ("INSERT",),
    "ae_action_log_subjects": ("INSERT",),
    "ae_action_log_principals": ("INSERT",),
    "ae_action_log_words": ("INSERT",),
    "ae_events": ("INSERT",),
    "ae_outbox": ("INSERT",),
    "ae_projects": ("INSERT",),
    "ae_record_types": ("INSERT", "UPDATE"),
    "ae_changes": ("INSERT", "UPDATE"),
    "ae_change_targets": ("INSERT",),
    "ae_patch_ops": ("INSERT", "UPDATE", "DELETE"),
    "ae_snapshots": ("INSERT",),
}
"""The tables whose rows belong to a tenant, and the verbs that its actions may use."""

_APPEND_ONLY = (
    "ae_action_log",
    "ae_action_log_subjects",
    "ae_action_log_principals",
    "ae_action_log_words",
    "ae_events",
    "ae_projects",
    "ae_change_targets",
    "ae_snapshots",
    "ae_maintenance",
)

_OF_OPERATORS = {
    ("DELETE", "ae_idempotency_keys"): "keys expire",
    ("DELETE", "ae_budget_counters"): "windows end",
    ("UPDATE", "ae_outbox"): "events are delivered by the relay",
    ("DELETE", "ae_outbox"): "events are delivered by the relay",
    ("INSERT", "ae_maintenance"): "maintenance is recorded by an operator",
    ("INSERT", "ae_tenants"): "tenants are made by an operator",
    ("UPDATE", "ae_tenants"): "tenants are changed by an operator",
    ("DELETE", "ae_tenants"): "tenants are deleted by an operator",
}
"""The verbs that only operators use, outside any action, and the reason that a refusal gives."""

_OLD = "old.tenant_id IS NOT ae_writing_tenant()"
_NEW = "new.tenant_id IS NOT ae_writing_tenant()"
_CONDITIONS = {"INSERT": _NEW, "UPDATE": f"{_OLD} OR {_NEW}", "DELETE": _OLD}


def own_triggers() -> str:
    """Return the statements that create the triggers."""
    return "\n".join(
        f"CREATE TRIGGER {table}_{verb.lower()} BEFORE {verb} ON {table}\n"
        + (f"WHEN {condition}\n" if condition else "")
        + f"BEGIN\n    SELECT RAISE(ABORT, '{verb} on {table}{refusal}');\nEND;"
        for verb, table, condition, refusal in _triggers()
    )


def _triggers() -> Iterator[tuple[str, str, str | None, str]]:
    for table, verbs in OF_TENANTS.items():
        for verb in verbs:
            yield verb, table, _CONDITIONS[verb], " outside an action of its tenant: go through the engine"
    for table in _APPEND_ONLY:
        for verb in ("UPDATE", "DELETE"):
            yield verb, table, None, ": it is append-only"
    for (verb, table), reason in _OF_OPERATORS.items():
        yield verb, table, "ae_writing_tenant() IS NOT NULL", f" in an action: {reason}"
