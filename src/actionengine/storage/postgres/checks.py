"""What a `PostgresStorage` makes sure of before it works with a database."""

from __future__ import annotations

import logging
from collections.abc import Callable

import psycopg

from actionengine.errors import ConfigurationError
from actionengine.storage.postgres.driver import Row
from actionengine.storage.sql.migrations import HEAD

logger = logging.getLogger("actionengine")

ROLE = """
SELECT current_user, role.rolsuper, role.rolbypassrls, pg_has_role(schema.relowner, 'USAGE'),
    has_schema_privilege('public', 'CREATE')
FROM pg_roles role
LEFT JOIN pg_class schema ON schema.oid = to_regclass('public.ae_schema')
WHERE role.rolname = current_user
"""


def check(query: Callable[..., list[Row]], database: str, signature: str | None, allow_strong_role: bool) -> None:
    """Raises `ConfigurationError`, which says what to do: for a role that may do too much, for a schema that is missing
    or of another version, and where the signing keys of the storage and of the database differ."""
    ((role, is_superuser, bypasses, owns, creates),) = query(ROLE)
    upgrade = f"run `actionengine db upgrade --url ... --app-role {role}` as the owner"
    if owns is None:
        raise ConfigurationError(f"the database {database!r} has no actionengine schema: {upgrade}")
    strengths = {"a superuser": is_superuser, "free of row-level security": bypasses, "an owner of the tables": owns}
    for strength, has_it in strengths.items():
        if has_it and not allow_strong_role:
            raise ConfigurationError(
                f"the role {role!r} is {strength}, and so past tenant isolation: connect as a role of its own "
                f"(CREATE ROLE app LOGIN, then `actionengine db upgrade --url ... --app-role app`), or pass "
                f"allow_strong_role=True for local play"
            )
    if creates and not allow_strong_role:
        raise ConfigurationError(
            f"the role {role!r} may create objects in the schema public, where they could stand before the library's: "
            f"run `REVOKE CREATE ON SCHEMA public FROM PUBLIC, {role}` as the owner"
        )
    try:
        ((version,),) = query("SELECT max(version) FROM public.ae_schema")
    except psycopg.errors.InsufficientPrivilege:
        raise ConfigurationError(f"the role {role!r} has no grants on the actionengine tables: {upgrade}") from None
    check_version(version, upgrade)
    ((is_signed,),) = query("SELECT public.ae_signed('operator|check', %s)", signature)
    ((accepts_anything,),) = query("SELECT public.ae_signed('operator|check', '')")
    if signature is None and not accepts_anything:
        raise ConfigurationError("the database verifies signatures: pass the signing_key of `actionengine db sign`")
    if not is_signed:
        raise ConfigurationError("the database does not know this signing_key: store it with `actionengine db sign`")
    if signature is not None and accepts_anything:
        # So that hosts can be given their key before the database verifies it.
        logger.warning("the signing_key is not verified yet: run `actionengine db sign`")


def check_version(version: int | None, upgrade: str) -> None:
    """Raises `ConfigurationError` where the schema is not of this version of the library."""
    if version is None or version < HEAD:
        raise ConfigurationError(
            f"the actionengine schema is at version {version}, this library needs {HEAD}: {upgrade}"
        )
    if version > HEAD:
        raise ConfigurationError(
            f"the actionengine schema is at version {version}, this library knows {HEAD}: upgrade actionengine"
        )
