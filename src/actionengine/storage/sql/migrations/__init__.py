"""The schema: packaged Alembic revisions, the grants of roles, and the keys that sign.

All functions work in the transaction of the connection that they get, which the caller commits. Its role is the owner.

A host with an Alembic environment of its own can include ours: `VERSIONS` is the folder for its `version_locations`,
`include_name` keeps autogenerate away from our tables, and importing
`actionengine.storage.sql.migrations.operations` gives it `op.protect_table`.
"""

from __future__ import annotations

import io
from importlib.resources import files
from typing import Any

from sqlalchemy import Connection, inspect, text

from actionengine.storage.sql.grants import grants
from actionengine.storage.sql.signing import stored_key

HEAD = 1
"""The version of the schema that this library works with."""

VERSION_TABLE = "ae_migrations"
"""The table in which Alembic keeps the revision, unless a host's own environment runs the migrations."""

VERSIONS = str(files(__name__).joinpath("versions"))
"""The folder of the revisions."""


def schema_version(connection: Connection) -> int | None:
    """Return the version of the schema in a database; None if there is no schema."""
    schema = schema_of(connection.dialect.name)
    if not inspect(connection).has_table("ae_schema", schema=schema):
        return None
    version: int | None = connection.exec_driver_sql(f"SELECT max(version) FROM {schema or 'main'}.ae_schema").scalar()
    return version


def schema_of(dialect: str) -> str | None:
    """Return the database schema that our tables are in."""
    return "public" if dialect == "postgresql" else None


def upgrade(
    connection: Connection,
    app_role: str | None = None,
    relay_role: str | None = None,
    operator_role: str | None = None,
) -> int:
    """Migrate the schema to `HEAD`, also after a host's own environment has run migrations, and grant the roles their
    rights.

    Return the version that was found, 0 for none. If it is `HEAD` already, only the rights are granted again.
    """
    found = schema_version(connection)
    if found != HEAD:
        _run(connection=connection, found=revision(found) if found else None)
    for statement in grants(app_role, relay_role, operator_role):
        connection.exec_driver_sql(statement)
    return found or 0


def upgrade_sql(
    dialect: str = "postgresql",
    app_role: str | None = None,
    relay_role: str | None = None,
    operator_role: str | None = None,
) -> str:
    """Return the same as a SQL script, for an empty database."""
    output = io.StringIO()
    _run(dialect=dialect, output=output)
    granted = [f"{statement};\n" for statement in grants(app_role, relay_role, operator_role)]
    return "\n".join((output.getvalue(), *granted))


def sign(connection: Connection, key: str | bytes) -> str:
    """Store a key with which the database verifies the tenant of each transaction (PostgreSQL). Return the key's id.

    From now on a `PostgresStorage` without a stored key is refused. Several keys can be stored, so that a new key can
    be added before the old one is removed.
    """
    stored = stored_key(key)
    connection.execute(
        text(
            "INSERT INTO public.ae_signing_keys (id, inner_pad, outer_pad) VALUES (:id, :inner_pad, :outer_pad)"
            " ON CONFLICT DO NOTHING"
        ),
        stored._asdict(),
    )
    connection.exec_driver_sql(_script("signed_postgresql.sql"))
    return stored.id


def unsign(connection: Connection, key: str | bytes) -> bool:
    """Remove a key. Return whether it was stored. Raise `ValueError` for the last key: no signature would be valid."""
    id = stored_key(key).id
    others = connection.execute(text("SELECT count(*) FROM public.ae_signing_keys WHERE id <> :id"), {"id": id})
    if others.scalar() == 0:
        raise ValueError("this is the last signing key: store another one first")
    deleted = connection.execute(text("DELETE FROM public.ae_signing_keys WHERE id = :id"), {"id": id})
    return bool(deleted.rowcount)


def include_name(name: str | None, type: str, parent_names: Any = None) -> bool:
    """Return whether a host's autogenerate may touch this name, for `context.configure(include_name=...)`."""
    return not (type == "table" and name is not None and name.startswith("ae_"))


def revision(version: int) -> str:
    """Return a version of the schema as an Alembic revision."""
    return f"ae_{version:04}"


def _script(name: str) -> str:
    return files(__name__).joinpath(name).read_text()


def _run(**attributes: Any) -> None:
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(files(__name__)))
    config.set_main_option("path_separator", "os")
    config.attributes.update(attributes)
    script = ScriptDirectory.from_config(config)

    def steps(current: Any, context: Any) -> Any:
        return script._upgrade_revs("heads", current)

    with EnvironmentContext(config, script, fn=steps, as_sql="output" in attributes):
        script.run_env()
