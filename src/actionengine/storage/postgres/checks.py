"""The checks of a `PostgresStorage` before it works with a database."""

from __future__ import annotations

import logging
from collections.abc import Callable

import psycopg

from actionengine.errors import ConfigurationError
from actionengine.storage.postgres.driver import Row
from actionengine.storage.sql.migrations import HEAD

logger = logging.getLogger("actionengine")

ROLE = """
SELECT current_user, role.rolsuper, role.rolbypassrls,
    EXISTS (
        SELECT FROM pg_catalog.pg_roles other
        WHERE (other.rolsuper OR other.rolbypassrls) AND pg_catalog.pg_has_role(role.oid, other.oid, 'MEMBER')
    ),
    pg_catalog.pg_has_role(schema.relowner, 'MEMBER')
FROM pg_catalog.pg_roles role
LEFT JOIN pg_catalog.pg_class schema
    ON schema.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass('public.ae_schema')::pg_catalog.oid
WHERE role.rolname OPERATOR(pg_catalog.=) current_user
"""

# The places where the role, or one that it is a member of, may create objects that PostgreSQL would find before those
# of the library or the catalogue: by a grant, or as an owner. Functions and operators in temporary schemas are not
# found by their bare names.
PLACES = """
SELECT place.kind, pg_catalog.quote_ident(place.name), pg_catalog.pg_has_role(place.owner, 'MEMBER'),
    pg_catalog.string_agg(
        CASE WHEN granted.grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC'
            ELSE granted.grantee::pg_catalog.regrole::pg_catalog.text END,
        ', '
    )
FROM (
    SELECT 'SCHEMA', nspname, nspowner, coalesce(nspacl, pg_catalog.acldefault('n', nspowner))
    FROM pg_catalog.pg_namespace
    WHERE nspname OPERATOR(pg_catalog.!~) '^pg_(toast_)?temp_'
    UNION ALL
    SELECT 'DATABASE', datname, datdba, coalesce(datacl, pg_catalog.acldefault('d', datdba))
    FROM pg_catalog.pg_database
    WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
) place (kind, name, owner, acl)
LEFT JOIN LATERAL pg_catalog.aclexplode(place.acl) granted
    ON granted.privilege_type OPERATOR(pg_catalog.=) 'CREATE' AND (
        granted.grantee OPERATOR(pg_catalog.=) 0 OR pg_catalog.pg_has_role(granted.grantee, 'MEMBER')
    )
WHERE granted.grantee IS NOT NULL OR pg_catalog.pg_has_role(place.owner, 'MEMBER')
GROUP BY place.kind, place.name, place.owner
ORDER BY place.kind DESC, place.name
"""

# Tables of the library whose rows are open to every tenant. Partitions are read under their parent's policies.
OPEN = """
SELECT c.relname
FROM pg_catalog.pg_class c
WHERE c.relnamespace OPERATOR(pg_catalog.=) pg_catalog.to_regnamespace('public')::pg_catalog.oid
    AND pg_catalog.starts_with(c.relname::pg_catalog.text, 'ae_') AND c.relkind IN ('r', 'p')
    AND NOT c.relispartition AND NOT (c.relrowsecurity AND c.relforcerowsecurity)
ORDER BY c.relname
"""


class StrongRoleError(ConfigurationError):
    """The refusal of a role that row-level security does not bind."""

    def __init__(self, role: str, strength: str) -> None:
        self.role = role
        self.strength = strength
        super().__init__(
            f"the role {role!r} is {strength}, and so past tenant isolation: connect as a role of its own "
            f"(CREATE ROLE app LOGIN, then `actionengine db upgrade --url ... --app-role app`), or pass "
            f"allow_strong_role=True for local play"
        )


def check(query: Callable[..., list[Row]], database: str, signature: str | None, allow_strong_role: bool) -> None:
    """Raise `ConfigurationError`, with the remedy: for a role that may do too much, for a schema that is missing or of
    another version, and if the storage and the database have different signing keys."""
    ((role, is_superuser, bypasses, may_become, owns),) = query(ROLE)
    upgrade = f"run `actionengine db upgrade --url ... --app-role {role}` as the owner"
    if owns is None:
        raise ConfigurationError(f"the database {database!r} has no actionengine schema: {upgrade}")
    if not allow_strong_role:
        strengths = {
            "a superuser": is_superuser,
            "free of row-level security": bypasses,
            "a member of a role that is free of row-level security": may_become,
            "an owner of the tables": owns,
        }
        for strength, has_it in strengths.items():
            if has_it:
                raise StrongRoleError(role, strength)
        _check_places(role, query(PLACES))
    try:
        ((version,),) = query("SELECT pg_catalog.max(version) FROM public.ae_schema")
    except psycopg.errors.InsufficientPrivilege:
        raise ConfigurationError(f"the role {role!r} has no grants on the actionengine tables: {upgrade}") from None
    check_version(version, upgrade)
    if not allow_strong_role and (found := [name for (name,) in query(OPEN)]):
        raise ConfigurationError(
            f"the database {database!r} has no row-level security, or none that is forced, on tables of the library's: "
            f"{', '.join(found)}. As the owner, run `ALTER TABLE public.{found[0]} ENABLE ROW LEVEL SECURITY, FORCE "
            f"ROW LEVEL SECURITY` for each, and `actionengine db check`"
        )
    ((is_signed,),) = query("SELECT public.ae_signed('operator|check', %s)", signature)
    ((accepts_anything,),) = query("SELECT public.ae_signed('operator|check', '')")
    if signature is None and not accepts_anything:
        raise ConfigurationError("the database verifies signatures: pass the signing_key of `actionengine db sign`")
    if not is_signed:
        raise ConfigurationError("the database does not know this signing_key: store it with `actionengine db sign`")
    if signature is not None and accepts_anything:
        # Hosts may get their key before the database verifies it.
        logger.warning("the signing_key is not verified yet: run `actionengine db sign`")


def _check_places(role: str, places: list[Row]) -> None:
    """Raise `ConfigurationError` if the role may create objects that would be found before those of the library."""
    if not places:
        return
    ways = [
        f"`ALTER {kind} {name} OWNER TO` the role that migrates"
        if is_owner
        else f"`REVOKE CREATE ON {kind} {name} FROM {granted}`"
        for kind, name, is_owner, granted in places
    ]
    named = ", ".join(f"the {kind.lower()} {name}" for kind, name, *_ in places)
    raise ConfigurationError(
        f"the role {role!r} may create objects in {named}, which could be used instead of the library's: as the owner, "
        f"run {'; '.join(ways)}; or pass allow_strong_role=True for local play"
    )


def check_version(version: int | None, upgrade: str) -> None:
    """Raise `ConfigurationError` if the schema is not the one of this version of the library."""
    if version is None or version < HEAD:
        raise ConfigurationError(
            f"the actionengine schema is at version {version}, this library needs {HEAD}: {upgrade}"
        )
    if version > HEAD:
        raise ConfigurationError(
            f"the actionengine schema is at version {version}, this library knows {HEAD}: upgrade actionengine"
        )
