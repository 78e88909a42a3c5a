"""The schema: packaged Alembic revisions, what the app role may do, and the keys that sign.

All functions work in the transaction of the connection they get, which the caller commits; its role is the owner.

A host with an Alembic environment of its own can include ours: `VERSIONS` is the folder for its `version_locations`,
`include_name` keeps autogenerate from touching what is not the host's, and importing
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
"""Where Alembic keeps the revision, unless a host's own environment runs the migrations."""

VERSIONS = str(files(__name__).joinpath("versions"))
"""The folder of the revisions."""


def schema_version(connection: Connection) -> int | None:
    """The version of the schema in a database; None where there is none."""
    schema = schema_of(connection.dialect.name)
    if not inspect(connection).has_table("ae_schema", schema=schema):
        return None
    version: int | None = connection.exec_driver_sql(f"SELECT max(version) FROM {schema or 'main'}.ae_schema").scalar()
    return version


def schema_of(dialect: str) -> str | None:
    """The database schema that our tables are in."""
    return "public" if dialect == "postgresql" else None


def upgrade(connection: Connection, app_role: str | None = None, relay_role: str | None = None) -> int:
    """Bring the schema to `HEAD`, whoever has run the migrations so far, and give the roles their grants.

    The version that was found is returned, 0 for none. Where it is `HEAD` already, only the grants are given again.
    """
    found = schema_version(connection)
    if found != HEAD:
        _run(connection=connection, found=revision(found) if found else None)
    for statement in grants(app_role, relay_role):
        connection.exec_driver_sql(statement)
    return found or 0


def upgrade_sql(dialect: str = "postgresql", app_role: str | None = None, relay_role: str | None = None) -> str:
    """The same as a SQL script, for an empty database."""
    output = io.StringIO()
    _run(dialect=dialect, output=output)
    granted = [f"{statement};\n" for statement in grants(app_role, relay_role)]
    return "\n".join((output.getvalue(), *granted))


def sign(connection: Connection, key: str | bytes) -> str:
    """Let the database verify who a transaction works for (PostgreSQL), with this key; the key's id.

    From now on a `PostgresStorage` without a stored key is refused. Several keys can be stored, so that a new one can
    be brought in before the old one goes.
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
    """Forget a key; whether it was stored. Raises `ValueError` for the last one: nothing could be signed any more."""
    id = stored_key(key).id
    others = connection.execute(text("SELECT count(*) FROM public.ae_signing_keys WHERE id <> :id"), {"id": id})
    if others.scalar() == 0:
        raise ValueError("this is the last signing key: store another one first")
    deleted = connection.execute(text("DELETE FROM public.ae_signing_keys WHERE id = :id"), {"id": id})
    return bool(deleted.rowcount)


def include_name(name: str | None, type: str, parent_names: Any = None) -> bool:
    """For `context.configure(include_name=...)` of a host: whether autogenerate should look at it."""
    return not (type == "table" and name is not None and name.startswith("ae_"))


def revision(version: int) -> str:
    """A version of the schema as an Alembic revision."""
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
