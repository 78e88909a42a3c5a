"""What the app role may do: no more than a `PostgresStorage` needs."""

from __future__ import annotations

_GRANTS = """
GRANT USAGE ON SCHEMA public TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON public.ae_documents TO {role};
GRANT SELECT, INSERT, UPDATE ON public.ae_idempotency_keys TO {role};
GRANT SELECT, INSERT ON public.ae_action_log, public.ae_action_log_subjects, public.ae_events TO {role};
GRANT SELECT, INSERT ON public.ae_outbox TO {role};
GRANT SELECT ON SEQUENCE public.ae_event_position TO {role};
GRANT SELECT ON public.ae_schema TO {role};
GRANT EXECUTE ON FUNCTION public.ae_signed(text, text), public.ae_is_deleted(uuid) TO {role};
GRANT EXECUTE ON FUNCTION public.ae_find_tenant(text, text), public.ae_create_tenant(uuid, text, text, text),
    public.ae_delete_tenant(text, text), public.ae_list_tenants(text), public.ae_purge_keys(integer, text) TO {role};
"""


def grants(role: str) -> list[str]:
    """The statements that grant it to a role."""
    script = _GRANTS.format(role=quoted(role))
    return [statement.strip() for statement in script.split(";") if statement.strip()]


def quoted(name: str) -> str:
    """A name as SQL takes it."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'
